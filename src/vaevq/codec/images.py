"""Image files to a token file and back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vaevq.config import EvalConfig
from vaevq.data.images import save_png
from vaevq.data.index import ImageIndex
from vaevq.data.loader import evaluation_batches
from vaevq.data.tokens import TokenFile
from vaevq.data.volumes.entries import sliced_volumes
from vaevq.data.volumes.record import VolumeRecord
from vaevq.errors import UserError
from vaevq.files import require_absent, written_aside
from vaevq.tokenizer import Tokenizer

Progress = Callable[[int], None]
"""Told how many images, views of them or slices are done, those that could not be read among them."""


@dataclass(frozen=True)
class Encoded:
    """Tokens of image files.

    Attributes:
        file: the token file's content.
        unreadable: `name: reason` of each file that was skipped.
    """

    file: TokenFile
    unreadable: tuple[str, ...]


@torch.inference_mode()
def encode_images(
    tokenizer: Tokenizer,
    index: ImageIndex,
    config: EvalConfig,
    device: torch.device,
    progress: Progress = lambda done: None,
    *,
    latents: bool = False,
) -> Encoded:
    """Encodes images deterministically; slices of volumes with what brings the volumes back.

    Args:
        tokenizer: in evaluation mode, on `device`.
        index: the images.
        config: how they are prepared (`resize`, `crop`; both None keep every image whole) and the batch size.
        latents: also keeps the posteriors' means, as float16.

    Raises:
        UserError: no image could be read, or one slice could not.
    """
    tokens, means, sizes, labels = [], [], [], []
    names: list[str] = []
    whose = {entry.name: entry.subject for entry in index if entry.subject is not None}
    unreadable: list[str] = []
    for batch in evaluation_batches(index, config, tokenizer.config.autoencoder.image_channels):
        unreadable += batch.unreadable
        if not batch.names:
            continue
        posterior = tokenizer.posterior(batch.images.to(device))
        grids = tokenizer.quantizer.encode(posterior).cpu().numpy()
        tokens += list(grids)
        if latents:
            means += list(posterior.mean.half().cpu().numpy())
        sizes += [(batch.images.shape[-2], batch.images.shape[-1])] * len(grids)
        names += batch.names
        labels += batch.labels.tolist() if batch.labels is not None else []
        progress(len(names) + len(unreadable))
    if not names:
        raise UserError(f"none of {len(unreadable)} files could be read: {unreadable[0]}")
    file = TokenFile(
        tokens=tuple(tokens),
        sizes=tuple(sizes),
        names=tuple(names),
        codebook_size=tokenizer.quantizer.codebook_size,
        codebooks=tokenizer.quantizer.codebooks,
        downsample_factor=tokenizer.downsample_factor,
        model_digest=tokenizer.digest,
        labels=tuple(labels) if labels else None,
        latents=tuple(means) if latents else None,
        volumes=_record(index, unreadable),
        subjects=tuple(whose.get(name, name) for name in names) if whose else None,
    )
    return Encoded(file, tuple(unreadable))


def _record(index: ImageIndex, unreadable: list[str]) -> VolumeRecord | None:
    """What brings volumes back whose slices these are; None of images, and of views of slices."""
    volumes = sliced_volumes(index)
    if volumes and unreadable:
        raise UserError(f"{unreadable[0]}; a volume without one of its slices cannot come back")
    return VolumeRecord.of(volumes) if volumes else None


def fitting(tokenizer: Tokenizer, file: TokenFile, *, remap: bool = False) -> TokenFile:
    """A token file as tokens of this model: itself, or with `remap` an ancestor's under their present indices.

    The pictures of remapped tokens are approximations: codewords and decoder have been trained on since.

    Raises:
        UserError: another model made the file, or an ancestor and `remap` is not set.
    """
    digest, quantizer = tokenizer.digest, tokenizer.quantizer
    size = quantizer.codebook_size
    ancestor = tokenizer.lineage.ancestor(file.model_digest) if file.model_digest != digest else None
    shape = quantizer.codes_per_position, getattr(ancestor, "codebook_size", None)
    if ancestor is None or shape != (file.codes_per_position, file.codebook_size):
        file.check_model(digest, size, quantizer.codes_per_position)
        return file
    if not remap:
        raise UserError(
            f"{file.source} was made by model {file.model_digest} (K = {file.codebook_size}), from which this model, "
            f"{digest} (K = {size}), was trained on: decode it with that one, or with --remap by this one, which "
            "approximates it"
        )
    indices = tokenizer.lineage.map_from(ancestor)
    tokens = tuple(indices[grid] for grid in file.tokens)
    return replace(file, tokens=tokens, latents=None, codebook_size=size, model_digest=digest)


@torch.inference_mode()
def decode_tokens(
    tokenizer: Tokenizer,
    file: TokenFile,
    folder: Path,
    device: torch.device,
    *,
    force: bool = False,
    progress: Progress = lambda done: None,
) -> list[Path]:
    """Writes one PNG an image, of its original size, under its name in the token file.

    Raises:
        UserError: the file was made by another model, a picture would be overwritten (unless `force`) or
            cannot be written.
    """
    fitting(tokenizer, file)
    paths = _output_paths(folder, file.names)
    require_absent(paths, force=force)
    for done, (path, grid, size) in enumerate(zip(paths, file.tokens, file.sizes, strict=True), start=1):
        image = tokenizer.decode(torch.from_numpy(grid)[None].to(device), size)[0]
        with written_aside(path) as aside:
            save_png(image, aside)
        progress(done)
    return paths


def _output_paths(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """`folder/name.png` for each name, inside the folder whatever the name, and no two alike."""
    paths, taken = [], set[Path]()
    for name in names:
        parts = [part for part in Path(name.replace("\0", "_")).parts if part not in ("/", "..")]
        stem = folder.joinpath(*parts or ["image"]).with_suffix("")
        path, number = stem.with_name(f"{stem.name}.png"), 2
        while path in taken:
            path, number = stem.with_name(f"{stem.name}-{number}.png"), number + 1
        taken.add(path)
        paths.append(path)
    return paths
