"""Killed or interrupted at any moment and started again, a run ends as the one that nothing happened to."""

import errno
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runs import (
    ADVERSARIAL,
    command_line,
    figures,
    files_below,
    last_checkpoint,
    metrics,
    small_recipe,
    start_vaevq,
    weights,
)

STEPS = 40
RUN: dict[str, Any] = {
    "model": {"quantizer": {"codebook": "projected", "dcr_weight": 0.1, "dcr_target": "aggregate_posterior"}},
    "loss": ADVERSARIAL,
    "train": {"images": 4 * STEPS, "log_every": 4, "evaluate_every": 40, "checkpoint_every": 12, "warmup_images": 16},
}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """To the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def finish(folder: Path, recipe: Path, kills: int = 0, pause: float = 0.15) -> Path:
    """A run in `folder`, killed so many times, each at a random moment in `pause` seconds after a new checkpoint."""
    run_dir, log = folder / "run", folder / "log.txt"
    chance = random.Random(os.urandom(8))
    while True:
        process = start_vaevq("train", recipe, "--run-dir", run_dir, "--quiet", log=log)
        before = newest(run_dir)
        while kills and process.is_alive() and newest(run_dir) <= before:
            time.sleep(0.002)
        if not kills:
            process.join(120)
            assert process.exitcode == 0, log.read_text()
            return run_dir
        time.sleep(chance.uniform(0, pause))
        assert process.is_alive(), f"too late to kill it; {log.read_text()}"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills -= 1


def newest(run_dir: Path) -> str:
    return max((path.name for path in (run_dir / "checkpoints").glob("*.pt")), default="")


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return finish(folder, small_recipe(folder, photos, **RUN))


@pytest.mark.parametrize(
    ("kills", "workers"),
    [(2, 0), (1, 2), pytest.param(20, 0, marks=pytest.mark.slow)],
)
def test_killed_and_started_again_is_uninterrupted(
    uninterrupted: Path, photos: Path, tmp_path: Path, kills: int, workers: int
) -> None:
    # Many kills want checkpoints as many: whenever a run saves changes nothing of it.
    often = {**RUN["train"], "checkpoint_every": 12 if kills < 10 else 4}
    recipe = small_recipe(tmp_path, photos, **{**RUN, "data": {"workers": workers}, "train": often})
    killed = finish(tmp_path, recipe, kills, pause=0.15 if kills < 10 else 0.05)
    state = last_checkpoint(uninterrupted)
    assert {name.partition(".")[0] for name in state} > {"discriminator", "lecam", "average", "discriminator_optimizer"}
    assert equal(last_checkpoint(killed), state)
    assert equal(weights(killed), weights(uninterrupted))
    assert metrics(killed) == metrics(uninterrupted)
    logged = [row["images_seen"] for row in metrics(killed) if row["split"] == "train"]
    assert logged == list(range(4, 4 * STEPS + 1, 4))
    assert figures(killed) == figures(uninterrupted)
    same = {name for name in files_below(uninterrupted) if not name.startswith("checkpoints/")}
    assert {name for name in files_below(killed) if not name.startswith("checkpoints/")} == same, (
        "nothing is left of what was being written"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_first_and_goes_on_where_it_was(
    uninterrupted: Path, photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    recipe, run_dir, log = small_recipe(tmp_path, photos, **RUN), tmp_path / "run", tmp_path / "log.txt"
    process = start_vaevq("train", recipe, "--run-dir", run_dir, log=log)
    while process.is_alive() and len(metrics(run_dir)) < 5:
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    told = log.read_text()
    assert process.exitcode == 130, told
    assert "Traceback" not in told
    stopped = int(newest(run_dir).removesuffix(".pt"))
    assert 16 <= stopped < 4 * STEPS
    assert f"stopped at {stopped} images; run the same command again to go on" in told
    assert metrics(run_dir)[-1]["images_seen"] == stopped, "what was learned last is logged"
    finish(tmp_path, recipe)
    assert equal(last_checkpoint(run_dir), last_checkpoint(uninterrupted))
    assert equal(weights(run_dir), weights(uninterrupted))
    assert figures(run_dir) == figures(uninterrupted)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no groups of processes on Windows")
def test_a_scheduler_that_ends_all_processes_of_a_run_twice_gets_it_saved(
    uninterrupted: Path, photos: Path, tmp_path: Path
) -> None:
    recipe, run_dir = small_recipe(tmp_path, photos, **{**RUN, "data": {"workers": 2}}), tmp_path / "run"
    words = command_line("train", recipe, "--run-dir", run_dir)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and len(metrics(run_dir)) < 5:
            time.sleep(0.002)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.005)  # signals that come at once are one
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    stopped = int(newest(run_dir).removesuffix(".pt"))
    assert f"stopped at {stopped} images; run the same command again to go on" in told
    finish(tmp_path, recipe)
    assert equal(last_checkpoint(run_dir), last_checkpoint(uninterrupted))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="a limit of another process can be set on Linux alone")
def test_a_disk_that_fills_while_a_run_saves_is_one_line_and_costs_no_checkpoint(
    uninterrupted: Path, photos: Path, tmp_path: Path
) -> None:
    recipe, run_dir, log = small_recipe(tmp_path, photos, **RUN), tmp_path / "run", tmp_path / "log.txt"
    process = start_vaevq("train", recipe, "--run-dir", run_dir, "--quiet", log=log)
    while process.is_alive() and not newest(run_dir):
        time.sleep(0.002)
    assert process.pid is not None
    # No file may become larger than half a checkpoint any more, as on a disk that is full.
    size = (run_dir / "checkpoints" / newest(run_dir)).stat().st_size // 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    process.join(120)
    told = log.read_text()
    assert process.exitcode == 2, told
    assert told.count("\n") == 1
    assert f"could not be written ({os.strerror(errno.EFBIG)})" in told, "torch's own words say nothing of the disk"
    assert told.endswith("nothing was changed\n")
    assert not [name for name in files_below(run_dir) if ".part" in name], "no half of a file is left"
    before = newest(run_dir)
    finish(tmp_path, recipe)
    assert before
    assert equal(last_checkpoint(run_dir), last_checkpoint(uninterrupted))
    assert equal(weights(run_dir), weights(uninterrupted))
