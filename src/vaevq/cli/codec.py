"""`vaevq encode` and `vaevq decode`."""

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vaevq.cli.options import Images, Model, Number, Output, load
from vaevq.config import EvalConfig, load_section
from vaevq.console import progress, say, warn

if TYPE_CHECKING:
    from vaevq.data.views import Views


def encode(
    paths: Images,
    /,
    *,
    model: Model,
    output: Output,
    resize: Number = None,
    crop: Number = None,
    crops: int = 1,
    flips: bool = False,
    shard_size: Number = None,
    latents: bool = False,
    batch_size: int = 8,
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Turn images into a token file, or a whole data set into shards of tokens.

    With --shard-size, running the same command again makes the shards that are missing.

    For example:

      vaevq encode photo.jpg ~/more-photos --model runs/quickstart -o tokens.safetensors
      vaevq encode cifar10/train --model runs/cifar10 -o tokens/cifar10 --shard-size 10000 --crop 32 --flips

    Args:
        paths: images, folders, list files or shards.
        model: a run folder, a model folder or a hub name.
        output: the token file; with --shard-size a folder.
        resize: bring the shorter side to so many pixels first.
        crop: then cut the middle square of so many pixels.
        crops: so many squares of each image instead of the middle one alone: it, the corners, then others.
        flips: every view mirrored as well.
        shard_size: write a folder of token files of so many images each (and their views), resumable.
        latents: also write the continuous latents that tokens are made of, which a diffusion generator can learn from.
        batch_size: images at a time, where they are of one size.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite the token file; make all shards anew.
        quiet: no progress display.
    """
    from vaevq.codec import encode_images
    from vaevq.data.index import find_all
    from vaevq.data.tokens import write_token_file
    from vaevq.data.views import Views, index_of_views
    from vaevq.files import require_place
    from vaevq.training.engine import choose_device

    options = {"resize": resize, "crop": crop, "batch_size": batch_size}
    config = load_section(EvalConfig, (), EvalConfig().model_copy(update=options))
    views = Views(resize, crop, crops, flips)
    if shard_size is not None:
        _encode_shards(paths, model, output, views, shard_size, latents, config, device, force, quiet)
        return
    require_place(output, force=force)
    place = choose_device(device)
    images = find_all(paths)
    if views.count > 1:
        images = index_of_views(images, views)
        config = config.model_copy(update={"resize": None, "crop": None})
    with progress("encoding", len(images), quiet=quiet) as reached:
        encoded = encode_images(load(model).to(place), images, config, place, reached, latents=latents)
    write_token_file(output, encoded.file, force=force)
    for line in encoded.unreadable:
        warn(f"skipped {line}")
    count = sum(grid.size for grid in encoded.file.tokens)
    say(f"{len(encoded.file.names)} images, {count} tokens, {output.stat().st_size} bytes: {output}")


def _encode_shards(
    paths: tuple[str, ...],
    model: str,
    output: Path,
    views: "Views",
    shard_size: int,
    latents: bool,
    config: EvalConfig,
    device: str,
    force: bool,
    quiet: bool,
) -> None:
    """A data set to a folder of shards, on one process or several."""
    from vaevq.codec import encode_shards
    from vaevq.data.index import find_all
    from vaevq.data.token_shards import TOKENIZER_FOLDER, ShardPlan, claim_folder, missing_shards
    from vaevq.training.engine import engine

    with engine(device, "float32") as place:
        with place.together():
            images, tokenizer = find_all(paths), load(model).to(place.device)
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
    model: Model,
    output: Output,
    remap: bool = False,
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Turn a token file back into images, one PNG each, of their original size.

    For example:

      vaevq decode tokens.safetensors --model runs/quickstart -o decoded

    Args:
        tokens: the token file.
        model: the model that made it: a run folder, a model folder or a hub name.
        output: the folder to write to.
        remap: also take tokens of a model that this one was trained on from, under their present indices.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite pictures that are there.
        quiet: no progress display.
    """
    from vaevq.codec import decode_tokens, fitting
    from vaevq.data.tokens import read_token_file
    from vaevq.training.engine import choose_device

    file = read_token_file(tokens)
    tokenizer = load(model)
    fits = fitting(tokenizer, file, remap=remap)
    if fits is not file:
        warn(
            f"remapped from model {file.model_digest} (K = {file.codebook_size}) to {fits.model_digest} "
            f"(K = {fits.codebook_size}): weights have changed since, so the pictures are approximations"
        )
    place = choose_device(device)
    with progress("decoding", len(file.names), quiet=quiet) as reached:
        paths = decode_tokens(tokenizer.to(place), fits, output, place, force=force, progress=reached)
    say(f"{len(paths)} images: {output}")
