"""What a file or folder of this project holds, as named rows."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaevq.config import RunConfig, read_json
from vaevq.data.tokens import read_token_file
from vaevq.errors import UserError
from vaevq.metrics.codebook import TokenHistogram
from vaevq.tokenizer import Tokenizer
from vaevq.training.checkpoint import checkpoints, load_checkpoint

Rows = list[tuple[str, Any]]


def inspect_path(path: Path) -> Rows:
    """Rows of (what, value) for a run folder, a model folder, a checkpoint or a token file; values are JSON data.

    Raises:
        UserError: the path is none of these, or damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return _run_rows(path) if (path / "split.json").is_file() else [("kind", "tokenizer"), *_model_rows(path)]
    if path.suffix == ".pt":
        return _checkpoint_rows(path)
    return _token_rows(path)


def _run_rows(folder: Path) -> Rows:
    config = read_json(RunConfig, folder / "config.json")
    saved = checkpoints(folder / "checkpoints")
    return [
        ("kind", "run"),
        ("images seen", int(saved[-1].stem) if saved else 0),
        ("images to see", config.train.images),
        ("checkpoints", [file.name for file in saved]),
        ("evaluated", (folder / "eval.json").is_file()),
        *(_model_rows(folder) if (folder / "model").is_dir() else [("model", "none before the first checkpoint")]),
    ]


def _model_rows(folder: Path) -> Rows:
    tokenizer = Tokenizer.from_pretrained(folder)
    quantizer, autoencoder = tokenizer.config.quantizer, tokenizer.config.autoencoder
    return [
        ("quantizer", quantizer.kind),
        ("codebook_size", quantizer.codebook_size),
        ("code_dim", quantizer.code_dim),
        ("downsample_factor", tokenizer.downsample_factor),
        ("image_channels", autoencoder.image_channels),
        *((f"parameters, {name}", _count(part)) for name, part in tokenizer.named_children()),
        ("parameters", _count(tokenizer)),
        ("digest", tokenizer.digest),
    ]


def _checkpoint_rows(path: Path) -> Rows:
    state = load_checkpoint(path, torch.device("cpu"))
    tensors = {name: value for name, value in state.items() if isinstance(value, dict)}
    return [
        ("kind", "checkpoint"),
        ("images seen", state.get("images_seen")),
        ("holds", sorted(tensors)),
        ("bytes", path.stat().st_size),
    ]


def _token_rows(path: Path) -> Rows:
    file = read_token_file(path)
    histogram = TokenHistogram(file.codebook_size)
    for grid in file.tokens:
        histogram.update(torch.from_numpy(np.asarray(grid, dtype=np.int64)))
    statistics = histogram.statistics()
    pixels = sum(height * width for height, width in file.sizes)
    return [
        ("kind", "token file"),
        ("images", len(file.names)),
        ("tokens", statistics.tokens),
        ("codebook_size", file.codebook_size),
        ("downsample_factor", file.downsample_factor),
        ("codes_per_position", file.codes_per_position),
        ("labels", file.labels is not None),
        ("model digest", file.model_digest),
        ("usage", statistics.usage),
        ("T/K", statistics.tokens_per_codeword),
        ("usage ceiling", statistics.usage_ceiling),
        ("dead codewords", statistics.dead_codewords),
        ("perplexity", statistics.perplexity),
        ("bits a pixel (log2 K)", statistics.fixed_bits_per_pixel(pixels)),
        ("bits a pixel (entropy)", statistics.entropy_bits_per_pixel(pixels)),
        ("bytes", path.stat().st_size),
    ]


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
