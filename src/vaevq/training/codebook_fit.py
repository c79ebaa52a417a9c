"""The codebook of a quantizer that waits for one: vectors of the training images, gathered before a step."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vaevq.config import FEATURE_DIMS, QuantizerConfig, VqganLcConfig
from vaevq.data.index import ImageIndex
from vaevq.data.loader import ImageBatch, training_batches
from vaevq.errors import UserError
from vaevq.metrics.networks import patch_network
from vaevq.nn.grid import as_rows
from vaevq.nn.patches import PatchFeatures, PatchNetworkName
from vaevq.training.tokenizer_step import TokenizerTrainer


def fit_codebook(trainer: TokenizerTrainer, images: ImageIndex) -> str | None:
    """Before a step: makes the codebook where it is time for one, equal on all processes, and says of what.

    What it is made of depends on the weights, the seed and the images alone.

    Raises:
        UserError: as `vector_source`; images that cannot be read or that the network does not take.
    """
    options, quantizer = trainer.config.model.quantizer, trainer.tokenizer.quantizer
    if quantizer.is_fitted or not isinstance(options, VqganLcConfig):
        return None
    if trainer.images_seen < (options.quantize_from or 0):
        return None
    place, vectors = trainer.engine, torch.zeros(0, options.vector_dim)
    with place.together():
        if place.is_main:
            vectors = _vectors(trainer, options, images)
    quantizer.fit(vectors.to(place.device), trainer.config.seed)
    return f"the codebook is made of {len(vectors):,} vectors, features: {options.features}"


def vector_source(options: QuantizerConfig) -> Tensor | PatchFeatures | None:
    """Where vectors come from: those of a file, N×D; a frozen network; None where nothing has to be read for them.

    Raises:
        UserError: weights or the file are not there or damaged; a file with other than one tensor of N×D, N ≥ K.
    """
    if not isinstance(options, VqganLcConfig) or options.features == "warm_up":
        return None
    if options.features in FEATURE_DIMS:
        return patch_network(cast("PatchNetworkName", options.features), options.feature_weights)
    return _file_vectors(Path(options.features), options.codebook_size, options.vector_dim)


def _file_vectors(path: Path, codebook_size: int, dim: int) -> Tensor:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (model.quantizer.features)") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged, or no safetensors file ({error})") from None
    if len(tensors) != 1:
        raise UserError(f"{path}: model.quantizer.features takes a file of one tensor, not of {len(tensors)}")
    (vectors,) = tensors.values()
    shape = "×".join(map(str, vectors.shape))
    if vectors.ndim != 2 or vectors.shape[1] != dim or not vectors.is_floating_point():
        raise UserError(f"{path}: holds {vectors.dtype} {shape}, not floats N×{dim}: D is model.quantizer.feature_dim")
    if len(vectors) < codebook_size:
        raise UserError(f"{path}: {len(vectors)} vectors are too few for model.quantizer.codebook_size {codebook_size}")
    if not bool(vectors.isfinite().all()):
        raise UserError(f"{path}: holds numbers that are not finite")
    return vectors.float()


@torch.no_grad()
def _vectors(trainer: TokenizerTrainer, options: VqganLcConfig, images: ImageIndex) -> Tensor:
    source, device = vector_source(options), trainer.engine.device
    if isinstance(source, Tensor):
        return source
    count = options.codebook_size * options.vectors_per_codeword
    if source is None:
        tokenizer, dtype = trainer.tokenizer, trainer.engine.dtype
        return _gathered(lambda x: as_rows(tokenizer.posterior(x.to(device, dtype)).mean), trainer, images, count)
    network = source.to(device)
    return _gathered(lambda x: network(x.to(device)), trainer, images, count)


def _gathered(make: Callable[[Tensor], Tensor], trainer: TokenizerTrainer, images: ImageIndex, count: int) -> Tensor:
    """The first `count` vectors of the training stream, which is read from its start once more."""
    config = trainer.config
    batches: Iterator[ImageBatch] = training_batches(
        images,
        config.data.model_copy(update={"workers": 0}),
        config.model.autoencoder.image_channels,
        seed=config.seed,
        start=0,
        stop=count,  # an image gives at least one
        batch_size=config.train.batch_size,
    )
    found, gathered = list[Tensor](), 0
    for batch in batches:
        found.append(make(batch.images))
        gathered += len(found[-1])
        if gathered >= count:
            break
    return torch.cat(found)[:count]
