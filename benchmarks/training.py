"""A training step against a plain statement of the released one, at the paper's network and at the small one.

Both start from the same weights, see the same images and noise, and must have the same losses step by step. And what
the options that save memory or time do to a step.
"""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measuring import Row, Settings, medians, peak_mib
from benchmarks.plain_released import PlainStep
from vaevq.config import RunConfig, merged, recipe_tree
from vaevq.data.loader import ImageBatch
from vaevq.errors import UserError
from vaevq.metrics.networks import lpips_network
from vaevq.nn.backbones import BackboneName
from vaevq.nn.lpips import Lpips
from vaevq.training.engine import Engine
from vaevq.training.tokenizer_step import TokenizerTrainer

TOLERANCES = (1e-4, 2e-2)
"""Of the losses of the first step and of the second, relative: Adam's first step goes by the signs of gradients, so
that what sums in another order differ by grows."""

SMALL: Mapping[str, Any] = {
    "model": {
        "autoencoder": {"patch_size": 4, "base_width": 32, "multipliers": [1, 2], "blocks": 1, "normalization": "none"},
        "quantizer": {"kind": "vaevq", "code_dim": 8, "codebook_size": 1024},
    },
    "loss": {"perceptual_weight": 1.0, "perceptual_network": "alexnet", "adversarial_weight": 0.1},
    "data": {"image_size": 64, "resize": None},
    "train": {"batch_size": 16, "clip_norm": None, "learning_rate": 1e-4, "betas": [0.5, 0.9]},
}


OPTIONS = ("fused_optimizer", "channels_last", "compile")
"""Of `train`: they save time on some machines and change last bits, so they are off by default."""


def configuration(network: str, side: int, batch: int, *options: str) -> RunConfig:
    """The released variant of a step: `network` is `paper` or `small`, with images of `side` pixels.

    `options` are those of `train` that are on.
    """
    tree = recipe_tree("released") if network == "paper" else {"variant": "released", **SMALL}
    changes = {
        "data": {"image_size": side, "resize": None, "workers": 0},
        "train": {"batch_size": batch, "device": "cpu", "precision": "float32", **dict.fromkeys(options, True)},
    }
    return RunConfig.model_validate(merged(tree, changes))


def trainer_of(config: RunConfig) -> TokenizerTrainer:
    """A trainer on the CPU; LPIPS has random weights where the published ones cannot be had, which cost as much."""
    with mock.patch("vaevq.training.tokenizer_step.lpips_network", lpips):
        return TokenizerTrainer(config, Engine(torch.device("cpu"), torch.float32, None, 0, 1))


def lpips(name: BackboneName, weights: str | None = None) -> Lpips:
    """LPIPS with the published weights, or with random ones."""
    try:
        return lpips_network(name, weights)
    except UserError:
        return random_lpips(name)


def random_lpips(name: BackboneName, weights: str | None = None) -> Lpips:
    """LPIPS of the same shape whose weights mean nothing; `weights` is not read."""
    with (
        NamedTemporaryFile() as file,
        mock.patch("vaevq.nn.lpips.read_array_pickle", return_value={}),
        mock.patch("vaevq.nn.lpips.load_strictly", _randomly),
    ):
        return Lpips(name, Path(file.name))


def _randomly(module: nn.Module, *_: object) -> None:
    for name, parameter in module.named_parameters():
        if name.startswith("heads"):
            nn.init.constant_(parameter, 1 / parameter.numel())


def batch_of(config: RunConfig) -> ImageBatch:
    """Smooth random images."""
    random = np.random.default_rng(0)
    side = config.data.image_size
    coarse = torch.from_numpy(random.uniform(-1, 1, (config.train.batch_size, 3, side // 8, side // 8))).float()
    images = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)
    return ImageBatch(images, torch.arange(len(images)), None, ("",) * len(images), ())


def our_step(network: str, side: int, batch: int, *options: str) -> Callable[[], dict[str, float]]:
    """A step of this project, with some options of `train` on."""
    config = configuration(network, side, batch, *options)
    trainer, images = trainer_of(config), batch_of(config)
    return lambda: dict(trainer.step([images]))


def plain_step(network: str, side: int, batch: int) -> Callable[[], dict[str, float]]:
    """A step of the plain statement from the same weights."""
    config = configuration(network, side, batch)
    trainer = trainer_of(config)
    plain = PlainStep(trainer)
    prepared: tuple[Tensor, Tensor | None] = trainer._prepare(batch_of(config))
    images, noise = prepared
    assert noise is not None
    return lambda: plain.step(images, noise)


def compare_losses(ours: Mapping[str, float], plain: Mapping[str, float], tolerance: float) -> None:
    """RuntimeError where two steps do not have the same losses."""
    for name, value in plain.items():
        if abs(ours[name] - value) > tolerance * max(abs(value), 1e-3):
            raise RuntimeError(f"the two steps are not the same: {name} is {ours[name]:.6g} and {value:.6g}")


def in_turns(works: Mapping[str, Callable[[], dict[str, float]]], turns: int, settings: Settings) -> dict[str, float]:
    """Seconds of a step of each, after two steps of each whose losses must be those of the first one."""
    for tolerance in TOLERANCES:
        first, *others = [work() for work in works.values()]
        for losses in others:
            compare_losses(losses, first, tolerance)
    return medians(works, settings.turns(turns), settings.clock)


def shapes(settings: Settings) -> Mapping[str, tuple[int, int, int]]:
    """Pixels a side, images a step and how often it is timed, of each network."""
    return {"small": (64, 16, 9), "paper": (64, 1, 1) if settings.quick else (128, 1, 3)}


def measure(settings: Settings) -> list[Row]:
    """Images a second and memory at both networks, and what checkpointing costs at the paper's."""
    rows = []
    for network, (side, batch, turns) in shapes(settings).items():
        works = {"plain": plain_step(network, side, batch), "ours": our_step(network, side, batch)}
        if network == "paper":
            works["checkpointing"] = our_step(network, side, batch, "gradient_checkpointing")
        taken = in_turns(works, turns, settings)
        work = f"training step, {network} network, {batch} × {side}×{side}"
        rows.append(Row(f"{work}: images/s", "plain released step", taken["plain"] / taken["ours"], "≥ 1.3", taken))
        if network == "paper":
            slower = taken["checkpointing"] / taken["ours"]
            rows.append(Row(f"{work}: time with checkpointing", "without", slower, "≤ 1.35", taken))
        del works
        if settings.quick:
            continue
        # The paper's network at the paper's size: at a smaller one weights and their moments are most of the memory.
        # Of little memory the allocator's moods are a tenth, so the median of three processes is taken.
        shape, processes = ((network, 256, 1), 1) if network == "paper" else ((network, side, batch), 3)
        mib = {"plain": peak(processes, twice_plain, *shape), "ours": peak(processes, twice_ours, *shape)}
        of = f"training step, {network} network, {shape[2]} × {shape[1]}×{shape[1]}: peak memory"
        rows.append(Row(of, "plain released step", mib["ours"] / mib["plain"], "≤ 1", mib))
        if network == "paper":
            mib["checkpointing"] = peak(processes, twice_ours, *shape, "gradient_checkpointing")
            rows.append(Row(f"{of} with checkpointing", "without", mib["checkpointing"] / mib["ours"], "≤ 0.7", mib))
    return rows


def options(settings: Settings) -> list[Row]:
    """The time of a step with each option that is off by default, beside one with none."""
    rows = []
    for network, (side, batch, turns) in shapes(settings).items():
        tried = [(option,) for option in OPTIONS] + [OPTIONS]
        works = {" + ".join(on): our_step(network, side, batch, *on) for on in [(), *tried]}
        taken = in_turns(works, turns, settings)
        work = f"training step, {network} network, {batch} × {side}×{side}"
        for name in list(works)[1:]:
            rows.append(Row(f"{work}, {name}: time", "without", taken[name] / taken[""], figures=taken))
    return rows


def peak(processes: int, prepare: Callable[..., Callable[[], object]], *shape: object) -> float:
    """The median of so many processes' peaks, MiB."""
    return statistics.median(peak_mib(prepare, *shape, whole=True) for _ in range(processes))


def twice_ours(network: str, side: int, batch: int, *options: str) -> Callable[[], object]:
    """For `peak_mib`: two steps, so that the optimizers have their moments."""
    step = our_step(network, side, batch, *options)
    return lambda: [step() for _ in range(2)]


def twice_plain(network: str, side: int, batch: int) -> Callable[[], object]:
    """For `peak_mib`: two steps of the plain statement."""
    step = plain_step(network, side, batch)
    return lambda: [step() for _ in range(2)]
