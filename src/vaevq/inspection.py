"""What a file or folder of this project holds, as named rows, and how much of the codebook its tokens use."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaevq.config import GeneratorConfig, GeneratorRunConfig, RunConfig, read_json
from vaevq.data.token_shards import TOKENIZER_FOLDER, is_token_folder, missing_shards, read_plan, token_files
from vaevq.data.tokens import TokenFile, read_token_file
from vaevq.data.volumes.cache import open_volume
from vaevq.data.volumes.dicom import is_dicom_name
from vaevq.data.volumes.layout import is_volume_name
from vaevq.data.volumes.orientation import Orientation
from vaevq.data.volumes.record import VolumeRecord
from vaevq.errors import UserError
from vaevq.generation.generator import Generator
from vaevq.metrics.codebook import MINIMUM_TOKENS_PER_CODEWORD, CodebookStatistics, TokenHistogram
from vaevq.metrics.counts import deciles, sparkline
from vaevq.metrics.result import read_evaluation
from vaevq.pretrained import packaged
from vaevq.quantization.count import learned_count
from vaevq.tokenizer import Tokenizer
from vaevq.training.checkpoint import checkpoints, load_checkpoint

Rows = list[tuple[str, Any]]


def inspect_path(path: Path) -> Rows:
    """Rows of (what, value) for a run or model folder, a tokenizer in the box, a checkpoint, a volume or tokens.

    Values are JSON.

    Codebook usage is of the tokens of a token file, or of the held-out images of the eval.json that lies in a run or
    model folder and is of these weights; without one it is left out.

    Raises:
        UserError: the path is none of these, or damaged.
    """
    if not path.exists():
        path = packaged(str(path)) or path
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if is_volume(path):
        return _volume_rows(path)
    if path.is_dir() and is_token_folder(path):
        return _shard_rows(path)
    if path.is_dir() and is_generator(path):
        return _generator_rows(path)
    if path.is_dir():
        return _run_rows(path) if (path / "split.json").is_file() else [("kind", "tokenizer"), *_model_rows(path)]
    if path.suffix == ".pt":
        return _checkpoint_rows(path)
    return _token_rows(path)


def is_volume(path: Path) -> bool:
    """Whether a path is a NIfTI file, or a folder of DICOM slices."""
    if path.is_dir():
        return any(is_dicom_name(file.name) for file in path.iterdir())
    return is_volume_name(path.name)


def _volume_rows(path: Path) -> Rows:
    """Of one volume, its voxels looked through."""
    opened = open_volume(str(path))
    stored = opened.read()
    finite = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored
    ends = (
        sorted(float(end) * opened.slope + opened.inter for end in (finite.min(), finite.max())) if finite.size else []
    )
    return [
        ("kind", "volume"),
        ("voxels", "×".join(map(str, opened.shape))),
        ("voxel type", str(opened.dtype)),
        ("slope and intercept", [opened.slope, opened.inter]),
        ("millimetres", list(opened.voxel_sizes)),
        ("axes run to", _directions(opened.orientation)),
        ("intensities", ends),
        ("voxels that are not finite", stored.size - finite.size),
        ("voxels at the least intensity", float((stored == finite.min()).mean()) if finite.size else None),
        ("bytes of header", len(opened.prefix)),
    ]


def _directions(orientation: Orientation) -> str:
    """Where the axes of an array run, as letters."""
    letters = ("LR", "PA", "IS")
    pairs = zip(orientation.axes, orientation.flips, strict=True)
    return "".join(letters[axis][flip > 0] for axis, flip in pairs)


def _run_rows(folder: Path) -> Rows:
    config = read_json(RunConfig, folder / "config.json")
    return [
        ("kind", "run"),
        *_progress_rows(folder, config.train.images),
        ("evaluated", (folder / "eval.json").is_file()),
        *(_model_rows(folder) if (folder / "model").is_dir() else [("model", "none before the first checkpoint")]),
    ]


def _progress_rows(folder: Path, images: int) -> Rows:
    """How far a run has come, of so many images."""
    saved = checkpoints(folder / "checkpoints")
    return [
        ("images seen", int(saved[-1].stem) if saved else 0),
        ("images to see", images),
        ("checkpoints", [file.name for file in saved]),
    ]


def _model_rows(folder: Path) -> Rows:
    tokenizer = Tokenizer.from_pretrained(folder)
    quantizer, autoencoder = tokenizer.config.quantizer, tokenizer.config.autoencoder
    return [
        ("quantizer", quantizer.kind),
        ("codebook_size", quantizer.codebook_size),
        ("codes_per_position", quantizer.codes_per_position),
        ("code_dim", quantizer.code_dim),
        ("downsample_factor", tokenizer.downsample_factor),
        ("image_channels", autoencoder.image_channels),
        *((f"parameters, {name}", learned_count(part)) for name, part in tokenizer.named_children()),
        ("parameters", learned_count(tokenizer)),
        ("digest", tokenizer.digest),
        *([("ancestors", [a.digest for a in tokenizer.lineage.ancestors])] if tokenizer.lineage.ancestors else []),
        *_evaluation_rows(folder, tokenizer),
    ]


def _evaluation_rows(folder: Path, tokenizer: Tokenizer) -> Rows:
    """Codebook usage by the evaluation that lies beside a model."""
    places = [folder, folder.parent] if folder.name == "model" else [folder]
    file = next((place / "eval.json" for place in places if (place / "eval.json").is_file()), None)
    if file is None:
        return []
    evaluation = read_evaluation(file)
    if evaluation.protocol.get("model_digest") != tokenizer.digest:  # training went on, or the file is another's
        return [("codebook usage", f"not shown: {file} is of other weights")]
    histogram = TokenHistogram.of_counts(evaluation.histogram, evaluation.codebooks)
    return [("measured on", f"{evaluation.images} held-out images"), *_usage_rows(histogram, histogram.statistics())]


def _checkpoint_rows(path: Path) -> Rows:
    state = load_checkpoint(path)
    tensors = {name: value for name, value in state.items() if isinstance(value, dict)}
    embedding = tensors.get("average", {}).get("quantizer.codebook.embedding")
    return [
        ("kind", "checkpoint"),
        ("images seen", state.get("images_seen")),
        ("holds", sorted(tensors)),
        *([("codebook_size", len(embedding))] if embedding is not None else []),
        ("bytes", path.stat().st_size),
    ]


def is_generator(folder: Path) -> bool:
    """Whether the config.json of a run or model folder is a generator's."""
    file = folder / "config.json"
    return file.is_file() and '"network"' in file.read_text(encoding="utf-8", errors="replace")


def _generator_rows(folder: Path) -> Rows:
    """Of a generator's run or model folder."""
    is_run, model = (folder / "tokens.json").is_file(), folder
    rows: Rows = [("kind", "generator")]
    if is_run:
        config = read_json(GeneratorRunConfig, folder / "config.json")
        model = folder / "model"
        rows = [("kind", "run of a generator"), *_progress_rows(folder, config.train.images)]
        if not model.is_dir():
            return [*rows, ("model", "none before the first checkpoint")]
    generator = Generator.from_pretrained(model)
    network, tokens = generator.config.network, generator.config.tokens
    return [
        *rows,
        ("generator", network.kind),
        *_shape_rows(generator.config),
        ("parameters", sum(p.numel() for p in generator.parameters())),
        ("codebook_size", tokens.codebook_size),
        ("grid", "×".join(map(str, tokens.grid))),
        ("codes_per_position", tokens.codes_per_position),
        ("classes", tokens.class_count),
        ("tokenizer digest", tokens.tokenizer_digest),
        ("tokenizer beside it", (model / TOKENIZER_FOLDER).is_dir()),
    ]


def _shape_rows(config: GeneratorConfig) -> Rows:
    """A network's shape, by the options that its size sets; of latents also where they come from."""
    shape = config.network.model_dump(mode="json")
    rows: Rows = [(name, shape[name]) for name in shape if name in config.network.shape_options]
    latents = config.latents
    return rows if latents is None else [*rows, ("latents", f"{latents.source}, {latents.channels} channels")]


def _shard_rows(folder: Path) -> Rows:
    plan = read_plan(folder)
    missing = len(missing_shards(folder, plan))
    rows: Rows = [
        ("kind", "token shards"),
        ("source", plan.source),
        ("images", plan.images),
        ("views an image", plan.crops * (1 + plan.flips)),
        ("classes", len(plan.classes)),
        ("latents", plan.latents),
        ("shards", plan.shards),
        ("shards missing", missing),
        ("model digest", plan.model_digest),
    ]
    if missing:
        return rows
    histogram = _counted(map(read_token_file, token_files(folder)))
    statistics = histogram.statistics()
    size, codebooks = statistics.codebook_size, statistics.codebooks
    counted = [("tokens", statistics.tokens), ("codebook_size", size), ("codebooks", codebooks)]
    return [*rows, *counted, *_usage_rows(histogram, statistics)]


def _token_rows(path: Path) -> Rows:
    file = read_token_file(path)
    histogram = _counted([file])
    statistics = histogram.statistics()
    pixels = sum(height * width for height, width in file.sizes)
    return [
        ("kind", "token file"),
        ("images", len(file.names)),
        ("tokens", statistics.tokens),
        ("codebook_size", file.codebook_size),
        ("downsample_factor", file.downsample_factor),
        ("codes_per_position", file.codes_per_position),
        ("codebooks", file.codebooks),
        ("labels", file.labels is not None),
        ("model digest", file.model_digest),
        *_usage_rows(histogram, statistics),
        ("bits a pixel (log2 K)", statistics.fixed_bits_per_pixel(pixels)),
        ("bits a pixel (entropy)", statistics.entropy_bits_per_pixel(pixels)),
        ("bytes", path.stat().st_size),
        *(_record_rows(file.volumes, statistics.tokens) if file.volumes is not None else []),
    ]


def _record_rows(record: VolumeRecord, tokens: int) -> Rows:
    """What comes back of a token file of volumes."""
    voxels = sum(math.prod(opened.shape) for opened in record.opened)
    first, opened = record.volumes[0], record.opened[0]
    planes = sum(record.slicing(volume).planes_in_all for volume in record.volumes)
    return [
        ("volumes", len(record.volumes)),
        ("files", [file.name for file in record.files]),
        ("voxels of the first", "×".join(map(str, opened.shape))),
        ("its voxel type", str(opened.dtype)),
        ("its millimetres", list(opened.voxel_sizes)),
        ("its windows", [[channel.low, channel.high] for channel in first.channels]),
        ("slices", f"{sum(len(volume.kept) for volume in record.volumes)} of {planes}, {first.axis}"),
        ("voxels a token", voxels / tokens),
    ]


def _counted(files: Iterable[TokenFile]) -> TokenHistogram:
    """The tokens of files of one model, of which there is at least one."""
    histogram = None
    for file in files:
        histogram = histogram or TokenHistogram(file.codebook_size, codebooks=file.codebooks)
        for grid in file.tokens:
            histogram.update(torch.from_numpy(np.asarray(grid, dtype=np.int64)))
    assert histogram is not None
    return histogram


def _usage_rows(histogram: TokenHistogram, statistics: CodebookStatistics) -> Rows:
    """How much of the codebook is used, the counts of its codewords in few numbers and as one line of bars."""
    note = f"T/K is below {MINIMUM_TOKENS_PER_CODEWORD}: too few tokens for claims about usage and perplexity"
    few = statistics.tokens_per_codeword < MINIMUM_TOKENS_PER_CODEWORD
    return [
        ("usage", statistics.usage),
        ("T/K", statistics.tokens_per_codeword),
        ("usage ceiling", statistics.usage_ceiling),
        ("dead codewords", statistics.dead_codewords),
        ("perplexity", statistics.perplexity),
        ("counts, deciles", deciles(histogram.counts)),
        ("counts, log scale", sparkline(histogram.counts)),
        *([("note", note)] if few else []),
    ]
