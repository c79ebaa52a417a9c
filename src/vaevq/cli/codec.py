"""`vaevq encode` and `vaevq decode`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vaevq.cli.options import Images, Model, Number, Output, PlaceOrDefault, Volumes, load, run_config, volume_options
from vaevq.config import EvalConfig, load_section
from vaevq.console import counted, progress, say, say_rows, warn
from vaevq.errors import UserError
from vaevq.pretrained import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaevq.data.index import VolumeOptions
    from vaevq.data.views import Views
    from vaevq.data.volumes.entries import SlicedVolume


def encode(
    paths: Images,
    /,
    *,
    model: Model = DEFAULT,
    output: PlaceOrDefault = None,
    resize: Number = None,
    crop: Number = None,
    crops: int = 1,
    flips: bool = False,
    shard_size: Number = None,
    latents: bool = False,
    volumes: Volumes = (),
    batch_size: int = 8,
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Turn images or volumes into a token file, or a whole data set into shards of tokens.

    With --shard-size, running the same command again makes the shards that are missing.

    For example:

      vaevq encode photo.jpg
      vaevq encode photo.jpg ~/more-photos --model runs/quickstart -o tokens.safetensors
      vaevq encode cifar10/train --model runs/cifar10 -o tokens/cifar10 --shard-size 10000 --crop 32 --flips
      vaevq encode volume.nii.gz --model runs/brats -o volume.safetensors

    Args:
        paths: images, volumes, folders, list files or shards.
        model: a run folder, a model folder, a hub name, or a tokenizer in the box.
        output: the token file, or with --shard-size the folder; where left out, a single photo.jpg goes to
            photo.safetensors in the present folder, several images to tokens.safetensors.
        resize: bring the shorter side to so many pixels first.
        crop: then cut the middle square of so many pixels.
        crops: so many squares of each image instead of the middle one alone: it, the corners, then others.
        flips: every view mirrored as well.
        shard_size: write a folder of token files of so many images each (and their views), resumable.
        latents: also write the continuous latents that tokens are made of, which a diffusion generator can learn from.
        volumes: key=value of the section `data.volumes`, any number of times; else those of the run
            whose folder `model` names, or the defaults.
        batch_size: images at a time, where they are of one size.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite the token file; make all shards anew.
        quiet: no progress display.
    """
    from vaevq.codec import encode_images
    from vaevq.data.index import find_all
    from vaevq.data.tokens import write_token_file
    from vaevq.data.views import Views, index_of_views
    from vaevq.data.volumes.entries import check_channels, coverage_rows, sliced_volumes
    from vaevq.files import require_place
    from vaevq.training.engine import choose_device

    options = {"resize": resize, "crop": crop, "batch_size": batch_size}
    config = load_section(EvalConfig, (), EvalConfig().model_copy(update=options))
    views, slices = Views(resize, crop, crops, flips), volume_options(run_config(model), volumes)
    if shard_size is not None:
        if output is None:
            raise UserError("--shard-size needs --output: the folder of the shards")
        _encode_shards(paths, model, output, views, shard_size, latents, config, slices, volumes, device, force, quiet)
        return
    if output is None:
        output = _token_file_of(paths)
    require_place(output, force=force)
    place = choose_device(device)
    images, tokenizer = find_all(paths, slices), load(model).to(place)
    check_channels(images[0], tokenizer.config.autoencoder.image_channels, model)
    of_volumes = sliced_volumes(images)
    _say_defaults(of_volumes, model, volumes)
    if of_volumes and views != Views():
        raise UserError("of a volume the whole is encoded: its slices are brought to their size by --volumes size=…")
    if views.count > 1:
        images = index_of_views(images, views)
        config = config.model_copy(update={"resize": None, "crop": None})
    with progress("encoding", len(images), quiet=quiet) as reached:
        encoded = encode_images(tokenizer, images, config, place, reached, latents=latents)
    write_token_file(output, encoded.file, force=force)
    for line in encoded.unreadable:
        warn(f"skipped {line}")
    count = sum(grid.size for grid in encoded.file.tokens)
    if of_volumes:
        say_rows(counted(len(of_volumes), "volume"), coverage_rows(of_volumes))
    made = counted(len(encoded.file.names), "slice" if of_volumes else "image")
    say(f"{made}, {count} tokens, {output.stat().st_size} bytes: {output}")


def _token_file_of(paths: tuple[str, ...]) -> Path:
    """The token file in the present folder that is called after the only image, volume or folder; tokens.safetensors of
    several."""
    if len(paths) != 1:
        return Path("tokens.safetensors")
    path = Path(paths[0]).resolve()
    name = path.name if path.is_dir() else Path(path.name.removesuffix(".gz")).stem  # .nii.gz is one ending
    return Path(f"{name.lstrip('.') or 'tokens'}.safetensors")


def _say_defaults(of_volumes: "Sequence[SlicedVolume]", model: str, given: tuple[str, ...]) -> None:
    """A line where volumes are taken as by default because nothing says how the model's were."""
    if of_volumes and not given and run_config(model) is None:
        warn(f"{model} does not say how its volumes were taken: the defaults of data.volumes apply; see --volumes")


def _encode_shards(
    paths: tuple[str, ...],
    model: str,
    output: Path,
    views: "Views",
    shard_size: int,
    latents: bool,
    config: EvalConfig,
    slices: "VolumeOptions",
    given: tuple[str, ...],
    device: str,
    force: bool,
    quiet: bool,
) -> None:
    """A data set to a folder of shards, on one process or several."""
    from vaevq.codec import encode_shards
    from vaevq.data.index import find_all
    from vaevq.data.token_shards import TOKENIZER_FOLDER, ShardPlan, claim_folder, missing_shards
    from vaevq.data.volumes.entries import check_channels, sliced_volumes
    from vaevq.training.engine import engine

    with engine(device, "float32") as place:
        with place.together():
            images, tokenizer = find_all(paths, slices), load(model).to(place.device)
            check_channels(images[0], tokenizer.config.autoencoder.image_channels, model)
            if place.is_main:
                _say_defaults(sliced_volumes(images), model, given)
            plan = ShardPlan.of(images, tokenizer.digest, shard_size, views, latents=latents)
        with place.together():
            if place.is_main:
                claim_folder(output, plan, force=force)
                tokenizer.save_pretrained(output / TOKENIZER_FOLDER)
        with place.together():
            missing = sum(len(plan.part(number)) for number in missing_shards(output, plan)) * views.count
        with progress("encoding", missing, quiet=quiet or not place.is_main) as reached:
            done = encode_shards(
                tokenizer, images, output, plan, place.device, batch_size=config.batch_size, progress=reached
            )
        for line in done.unreadable:
            warn(f"skipped {line}")
        if place.is_main:
            each = f"{plan.images} images × {views.count} views" if views.count > 1 else f"{plan.images} images"
            say(f"{each}, {plan.shards} shards, {done.shards} of them made now: {output}")


def decode(
    tokens: tyro.conf.Positional[Path],
    /,
    *,
    model: Model = DEFAULT,
    output: Output = Path("decoded"),
    remap: bool = False,
    against: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Turn a token file back into images, one PNG each, of their original size, or into its volumes.

    For example:

      vaevq decode photo.safetensors
      vaevq decode tokens.safetensors --model runs/quickstart -o decoded
      vaevq decode volume.safetensors --model runs/brats -o volume.nii.gz --against original.nii.gz

    Args:
        tokens: the token file.
        model: the model that made it: a run folder, a model folder, a hub name, or a tokenizer in the box.
        output: the folder to write to; of one volume also a file (.nii, .nii.gz).
        remap: also take tokens of a model that this one was trained on from, under their present indices.
        against: of one volume: also say how far it is from this one.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite what is there.
        quiet: no progress display.
    """
    from vaevq.codec import compare_volumes, decode_tokens, decode_volumes, fitting
    from vaevq.data.tokens import read_token_file
    from vaevq.data.volumes.cache import open_volume
    from vaevq.data.volumes.layout import is_volume_name
    from vaevq.training.engine import choose_device

    file = read_token_file(tokens)
    if against is not None and (file.volumes is None or len(file.volumes.files) > 1):
        raise UserError(f"--against is of a single volume, and {tokens} holds another number, or images")
    if against is not None:
        open_volume(str(against))
    if file.volumes is not None and not is_volume_name(output.name) and output.suffix and not output.is_dir():
        raise UserError(f"{output}: a volume goes into a .nii or .nii.gz file, or into a folder without an ending")
    tokenizer = load(model)
    fits = fitting(tokenizer, file, remap=remap)
    if fits is not file:
        warn(
            f"remapped from model {file.model_digest} (K = {file.codebook_size}) to {fits.model_digest} "
            f"(K = {fits.codebook_size}): weights have changed since, so the pictures are approximations"
        )
    place = choose_device(device)
    with progress("decoding", len(file.names), quiet=quiet) as reached:
        write = decode_tokens if file.volumes is None else decode_volumes
        paths = write(tokenizer.to(place), fits, output, place, force=force, progress=reached)
    if against is not None:
        say_rows(f"{paths[0]} beside {against}", compare_volumes(against, paths[0]).rows())
    place_of = f"{output}{os.sep}" if output.is_dir() else output
    say(f"{counted(len(paths), 'image' if file.volumes is None else 'volume')}: {place_of}")
