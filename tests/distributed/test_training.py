"""Two processes learn what one learns: losses, weights, run folders, runs continued; and a mistake is told once."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import (
    ADVERSARIAL,
    assert_logs_are_equal,
    figures,
    files_below,
    largest_difference,
    last_checkpoint,
    on_two_processes,
    small_recipe,
    small_run,
    tensors,
    torchrun,
    trained,
    trainer,
    vaevq,
    weights,
)
from vaevq.config import RunConfig, merged
from vaevq.distributed import rank

STEPS = 10
EVERY_TERM: dict[str, Any] = {
    "model": {"quantizer": {"codebook": "projected", "dcr_weight": 0.1, "dcr_target": "aggregate_posterior"}},
    "loss": {**ADVERSARIAL, "adversarial_start": 32},  # joins in the fifth step
    "train": {"batch_size": 8, "images": 8 * STEPS, "precision": "float64"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "whole batches": {},
    "two micro-batches": {"train": {"accumulation": 2}},
    "float32": {"train": {"precision": "float32"}},
    "no term of the codebook": {"model": {"quantizer": {"rcs_weight": 0.0, "dcr_weight": 0.0}}},
}


SHORT: dict[str, Any] = {"batch_size": 8, "images": 8 * STEPS, "precision": "float64"}
QUICK: dict[str, Any] = {"revive_below": 0.5, "average_decay": 0.8}  # so that codewords are replaced in a few steps
RESIZED = {"by": "usage", "perplexity_share": 0.4, "every": 8, "start": 0, "until": 1, "min_size": 4}
AVERAGED: dict[str, dict[str, Any]] = {
    "adaptive": {"model": {"quantizer": QUICK}, "train": SHORT, "adapt": RESIZED},
    "adaptive, descended": {
        "model": {"quantizer": {"codebook": "embedding"}},
        "train": SHORT,
        "adapt": {**RESIZED, "perplexity_share": 0.9},
    },
    "vaevq": {"model": {"quantizer": QUICK}, "train": SHORT},
    "vaevq in two micro-batches": {"model": {"quantizer": QUICK}, "train": {**SHORT, "accumulation": 2}},
    "vq_ema": {
        "model": {"quantizer": {"kind": "vq_ema", **QUICK}},
        "loss": {"continuous_path": 0},
        "train": SHORT,
    },
    **{
        kind: {"model": {"quantizer": {"kind": kind}}, "loss": {"continuous_path": 0}, "train": SHORT}
        for kind in ("wasserstein", "gaussian", "fsq", "lfq", "bsq", "vqgan_lc")
    },
    "residual": {"model": {"quantizer": {"kind": "residual", **QUICK}}, "loss": {"continuous_path": 0}, "train": SHORT},
    "residual, one codebook, in two micro-batches": {
        "model": {"quantizer": {"kind": "residual", "shared_codebook": True, **QUICK}},
        "loss": {"continuous_path": 0},
        "train": {**SHORT, "accumulation": 2},
    },
    "movq": {
        "model": {"autoencoder": {"modulated": True}, "quantizer": {"kind": "movq", "codes_per_position": 2}},
        "loss": {"continuous_path": 0},
        "train": SHORT,
    },
}


def variant(photos: Path, name: str) -> RunConfig:
    return small_run(photos, **(AVERAGED[name] if name in AVERAGED else merged(EVERY_TERM, VARIANTS[name])))


def work(photos: Path, folder: Path) -> None:
    """What each of two processes does."""
    for name in (*VARIANTS, *AVERAGED):
        made, losses = trained(variant(photos, name), STEPS)
        torch.save((tensors(made.state_dict()), losses), folder / f"{name}-{rank()}.pt")


@pytest.fixture(scope="module")
def pair(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every variant."""
    folder = tmp_path_factory.mktemp("pair")
    on_two_processes(work, photos, folder)
    return folder


def means(one: list[dict[str, float]], other: list[dict[str, float]]) -> list[dict[str, float]]:
    """Of the losses of two processes, step by step."""
    return [{name: (a[name] + b[name]) / 2 for name in a} for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("name", ["whole batches", "two micro-batches"])
def test_two_processes_learn_what_one_learns(pair: Path, photos: Path, name: str) -> None:
    alone, losses = trained(variant(photos, name), STEPS)
    (first, its), (second, others) = (torch.load(pair / f"{name}-{number}.pt") for number in range(2))
    assert largest_difference(first, second) == 0, "processes hold the same, to the last bit"
    assert largest_difference(first, tensors(alone.state_dict())) < 1e-8
    assert {key.partition(".")[0] for key in first} > {"tokenizer", "average", "discriminator", "lecam"}
    assert "tokenizer.quantizer.moments.second" in first
    assert its[0]["pixel"] != pytest.approx(others[0]["pixel"], rel=1e-3), "each has seen its own images"
    early = {"total", "pixel", "rcs", "dcr", "kl"}
    assert [row.keys() for row in losses] == [early] * 4 + [early | {"adversarial", "discriminator", "lecam"}] * 6
    for step, both in zip(losses, means(its, others), strict=True):
        assert both == pytest.approx(step, rel=1e-8)


def test_in_single_precision_the_first_losses_are_equal_to_four_decimals(pair: Path, photos: Path) -> None:
    _, losses = trained(variant(photos, "float32"), 5)
    (_, its), (_, others) = (torch.load(pair / f"float32-{number}.pt") for number in range(2))
    for step, both in zip(losses, means(its[:5], others[:5]), strict=True):
        assert both == pytest.approx(step, rel=0, abs=5e-5)


def test_two_processes_do_not_wait_for_what_no_term_reaches(pair: Path, photos: Path) -> None:
    name = "no term of the codebook"
    alone, _ = trained(variant(photos, name), STEPS)
    state, _ = torch.load(pair / f"{name}-0.pt")
    ends = {key: value for key, value in tensors(alone.state_dict()).items() if key.startswith("tokenizer.")}
    assert largest_difference({key: state[key] for key in ends}, ends) < 1e-8
    start, end = trainer(alone.config).tokenizer.quantizer, alone.tokenizer.quantizer
    assert largest_difference(start.codebook.state_dict(), end.codebook.state_dict()) == 0


@pytest.mark.parametrize("name", AVERAGED)
def test_two_processes_average_and_revive_one_codebook(pair: Path, photos: Path, name: str) -> None:
    alone, _ = trained(variant(photos, name), STEPS)
    (first, _), (second, _) = (torch.load(pair / f"{name}-{number}.pt") for number in range(2))
    assert largest_difference(first, second) == 0
    assert largest_difference(first, tensors(alone.state_dict())) < 1e-8
    assert ("adapt" in AVERAGED[name]) == (alone.tokenizer.quantizer.codebook_size != 16)


def test_under_torchrun_the_command_writes_the_run_folder_of_one_process_and_speaks_once(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    recipe, run_dir = small_recipe(tmp_path, photos), tmp_path / "run"
    outcome = torchrun("-m", "vaevq", "train", recipe, "--run-dir", run_dir, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("\nreached ") == 1
    told = [line.partition(" | ")[0] for line in outcome.err.splitlines()]
    assert told == [
        "warning: 10 training images are few: what is learned is theirs; a tokenizer for general use wants thousands",
        "the continuous path goes first: the decoder gets codewords from 6 images on, and held-out figures before that "
        "are of a decoder that has seen none",
        *("4/20 images", "8/20 images", "8 images", "12/20 images", "16/20 images", "16 images", "20/20 images"),
        "evaluating on 2 held-out images",
    ]
    assert files_below(run_dir) == files_below(finished)
    assert_logs_are_equal(run_dir, finished, 1e-4)
    assert figures(run_dir) == pytest.approx(figures(finished), rel=5e-4)
    assert largest_difference(weights(run_dir), weights(finished)) < 1e-5


def test_a_run_goes_on_with_another_number_of_processes_as_if_it_had_not_been_stopped(
    photos: Path, tmp_path: Path
) -> None:
    sections = merged(EVERY_TERM, {"train": {"checkpoint_every": 24, "keep_checkpoints": 4}})
    recipe, alone, mixed = small_recipe(tmp_path, photos, **sections), tmp_path / "alone", tmp_path / "mixed"
    assert vaevq("train", recipe, "--run-dir", alone, "--quiet").code == 0
    shutil.copytree(alone, mixed)

    def stopped_at(images: int) -> None:
        """As a kill leaves it: without what came later."""
        for path in (mixed / "checkpoints").glob("*.pt"):
            if int(path.stem) > images:
                path.unlink()
        (mixed / "eval.json").unlink()

    stopped_at(24)  # before the discriminator joins
    outcome = torchrun("-m", "vaevq", "train", recipe, "--run-dir", mixed, "--quiet", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    stopped_at(48)  # a checkpoint that two processes wrote
    outcome = vaevq("train", recipe, "--run-dir", mixed, "--quiet")
    assert outcome.code == 0, outcome.err
    ends = last_checkpoint(mixed), last_checkpoint(alone)
    assert 0 < largest_difference(*ends) < 1e-8, "two processes had a part in it, and it does not show"
    assert largest_difference(weights(mixed), weights(alone)) < 1e-8
    assert_logs_are_equal(mixed, alone, 1e-6)  # means are logged in float32
    assert figures(mixed) == pytest.approx(figures(alone), rel=1e-8)


def test_two_processes_start_from_a_model_as_one_does(finished: Path, photos: Path, tmp_path: Path) -> None:
    sections = {"model": {"quantizer": {"codebook_size": 24}}, "train": {"images": 8, "init_from": str(finished)}}
    recipe = small_recipe(tmp_path, photos, **sections)
    assert vaevq("train", recipe, "--run-dir", tmp_path / "alone", "--quiet").code == 0
    outcome = torchrun("-m", "vaevq", "train", recipe, "--run-dir", tmp_path / "pair", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("carried over, 16 → 24 codewords") == 1
    assert largest_difference(weights(tmp_path / "pair"), weights(tmp_path / "alone")) < 1e-5
    assert (tmp_path / "pair" / "init.json").read_text() == (tmp_path / "alone" / "init.json").read_text()


@pytest.mark.parametrize(
    ("before", "options", "message"),
    [
        pytest.param(
            "true",
            ["train.batch_size=5"],
            "train.batch_size 5 is no multiple of train.accumulation × processes = 1 × 2",
            id="of both",
        ),
        pytest.param(
            "true",
            ["--run-dir", "small.yaml/run"],
            "small.yaml/run: cannot be made a run folder (Not a directory)",
            id="of the first alone",
        ),
        pytest.param(
            "cd process-$RANK",  # as two machines, of which one has no data
            ["--data", "photos"],
            "photos: no such file or folder",
            id="of the second alone",
        ),
        pytest.param(
            "if [ $RANK = 0 ]; then sleep 0.5; fi",
            ["train.batch_sise=4"],
            "train.batch_sise: unknown option (did you mean 'batch_size'?)",
            id="found by the second first",
        ),
        pytest.param(
            'if [ $RANK = 1 ]; then set -- "$@" --device nowhere; fi',  # as a machine with fewer GPUs than processes
            [],
            "process 1: device 'nowhere' is not available here: no device is called that; auto takes what there is",
            id="of the second alone, before they meet",
        ),
    ],
)
def test_a_mistake_is_told_once_whichever_process_finds_it(
    photos: Path, tmp_path: Path, before: str, options: list[str], message: str
) -> None:
    recipe = small_recipe(tmp_path, photos)
    for number in range(2):
        (tmp_path / f"process-{number}").mkdir()
    (tmp_path / "process-0" / "photos").symlink_to(photos)
    command = [sys.executable, "-m", "vaevq", "train", recipe, *options]
    outcome = torchrun("--no-python", "sh", "-c", f'{before}; exec "$@"', "sh", *command, cwd=tmp_path)
    assert outcome.code != 0
    told = [line for line in outcome.err.splitlines() if "vaevq: error:" in line]
    assert len(told) == 1, outcome.err
    assert told[0].endswith(message)
    assert "vaevq/cli/" not in outcome.err, "torchrun shows a traceback of its own, and none of the command's"
    assert not list(tmp_path.rglob("checkpoints"))
