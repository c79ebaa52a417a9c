"""Two processes train the generator that one trains: losses, weights, and a run that goes on with another number."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from generators import small_generator_run, small_generator_tree, trained_generator, write_latent_shards, write_tokens
from runs import (
    assert_logs_are_equal,
    largest_difference,
    last_checkpoint,
    on_two_processes,
    tensors,
    torchrun,
    vaevq,
    weights,
)
from vaevq.config import GeneratorRunConfig
from vaevq.distributed import rank
from vaevq.training.generator_step import GeneratorTrainer

EXACT: dict[str, Any] = {"train": {"precision": "float64", "batch_size": 8, "images": 64}, "network": {"dropout": 0.0}}
VARIANTS: dict[str, dict[str, Any]] = {
    "ar": {"network": {"kind": "ar", "dropout": 0.0}},
    "mask": {"network": {"kind": "mask", "dropout": 0.0}},
    "micro-batches": {"network": {"kind": "mask", "dropout": 0.0}, "train": {"accumulation": 2}},
    "diffusion": {
        "network": {"kind": "diffusion", "dropout": 0.0, "widths": [16], "attention": [True], "head_width": 16}
    },
    "unconditional": {"network": {"kind": "ar", "dropout": 0.0, "conditional": False}},
}
SHARDED = ("ar", "mask", "micro-batches", "diffusion")


def config(tokens: Path, name: str, parallel: str = "ddp") -> GeneratorRunConfig:
    sections = {key: {**EXACT.get(key, {}), **VARIANTS[name].get(key, {})} for key in ("network", "train")}
    sections["train"]["parallel"] = parallel
    if sections["network"]["kind"] == "diffusion":
        tokens = tokens.parent / "shards"
    return small_generator_run(tokens, sections["network"]["kind"], **sections)


def after_steps(given: GeneratorRunConfig, steps: int = 6) -> tuple[GeneratorTrainer, list[float]]:
    trainer, made = trained_generator(given, steps)
    return trainer, [loss for step in made for loss in step.values()]


def work(tokens: Path, folder: Path) -> None:
    """What each of two processes does."""
    for name in VARIANTS:
        trainer, losses = after_steps(config(tokens, name))
        torch.save((tensors(trainer.state_dict()), losses), folder / f"{name}-{rank()}.pt")
    for name in SHARDED:
        trainer, losses = after_steps(config(tokens, name, "fsdp"))
        mine = sum(p.to_local().numel() for p in trainer.network.parameters())  # type: ignore[operator]
        torch.save((trainer.state_dict(), losses, mine), folder / f"{name}-fsdp-{rank()}.pt")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tokens(tmp_path_factory.mktemp("tokens") / "t.safetensors")
    write_latent_shards(path.parent / "shards")
    return path


@pytest.fixture(scope="module")
def pair(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    on_two_processes(work, tokens, folder)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_learn_what_one_learns(pair: Path, tokens: Path, name: str) -> None:
    alone, losses = after_steps(config(tokens, name))
    (first, its), (second, others) = (torch.load(pair / f"{name}-{number}.pt") for number in range(2))
    assert largest_difference(first, second) == 0
    assert largest_difference(first, tensors(alone.state_dict())) < 1e-10
    assert its[1] != pytest.approx(others[1], rel=1e-6), "each has seen its own images"
    assert [(a + b) / 2 for a, b in zip(its, others, strict=True)] == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("name", SHARDED)
def test_two_processes_with_half_the_weights_each_learn_what_one_learns(pair: Path, tokens: Path, name: str) -> None:
    alone, losses = after_steps(config(tokens, name))
    (state, its, half), (_, others, rest) = (
        torch.load(pair / f"{name}-fsdp-{number}.pt", weights_only=True) for number in range(2)
    )
    assert half + rest == sum(p.numel() for p in alone.network.parameters())
    assert half < 0.6 * (half + rest)
    for part, network in (("network", alone.network), ("average", alone.averaged.network)):
        assert largest_difference(state[part], network.state_dict()) < 1e-10
    assert [(a + b) / 2 for a, b in zip(its, others, strict=True)] == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("kind", ["ar", "mask"])
def test_a_sharded_run_stopped_and_continued_is_that_of_one_process(tokens: Path, tmp_path: Path, kind: str) -> None:
    often = {"checkpoint_every": 24, "keep_checkpoints": 9, "evaluate_every": 16, "accumulation": 2}
    tree = small_generator_tree(tokens, kind, **{**EXACT, "train": {**EXACT["train"], **often}})
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    alone, sharded = tmp_path / "alone", tmp_path / "sharded"
    assert vaevq("generate", "train", recipe, "--run-dir", alone, "--quiet").code == 0
    words = ("-m", "vaevq", "generate", "train", recipe, "train.parallel=fsdp", "--quiet", "--run-dir", sharded)
    for _ in range(2):
        outcome = torchrun(*words, cwd=tmp_path)
        assert outcome.code == 0, outcome.err
        assert largest_difference(weights(sharded), weights(alone)) < 1e-10
        for path in (sharded / "checkpoints").glob("*.pt"):
            if int(path.stem) > 24:
                path.unlink()
        shutil.rmtree(sharded / "model")
    assert_logs_are_equal(sharded, alone, 1e-6)


@pytest.mark.parametrize("kind", ["ar", "mask"])
def test_a_run_goes_on_with_another_number_of_processes(tokens: Path, tmp_path: Path, kind: str) -> None:
    sections = {
        **EXACT,
        "train": {**EXACT["train"], "checkpoint_every": 24, "keep_checkpoints": 9, "evaluate_every": 16},
    }
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(small_generator_tree(tokens, kind, **sections)))
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    assert vaevq("generate", "train", recipe, "--run-dir", alone, "--quiet").code == 0
    shutil.copytree(alone, mixed)
    for path in (mixed / "checkpoints").glob("*.pt"):
        if int(path.stem) > 24:
            path.unlink()
    (mixed / "eval.json").unlink()
    outcome = torchrun("-m", "vaevq", "generate", "train", recipe, "--run-dir", mixed, "--quiet", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("\ngenerator ") == 1
    assert 0 < largest_difference(last_checkpoint(mixed), last_checkpoint(alone)) < 1e-10
    assert_logs_are_equal(mixed, alone, 1e-6)


def test_a_mistake_is_told_once(tokens: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(small_generator_tree(tokens)))
    outcome = torchrun("-m", "vaevq", "generate", "train", recipe, "train.batch_size=5", cwd=tmp_path)
    assert outcome.code != 0
    told = [line for line in outcome.err.splitlines() if "vaevq: error:" in line]
    assert told == ["vaevq: error: train.batch_size 5 is no multiple of train.accumulation × processes = 1 × 2"], (
        outcome.err
    )
