"""What the tests of training and of the command share: a small run, its steps, and the command called in many ways."""

import contextlib
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file
from torch import Tensor

from vaevq.cli import main
from vaevq.config import GeneratorTrainConfig, RunConfig, TrainConfig, merged
from vaevq.data.held_out import run_images
from vaevq.data.loader import ImageBatch, training_batches
from vaevq.distributed import rank, world_size
from vaevq.training.codebook_fit import fit_codebook
from vaevq.training.engine import Engine
from vaevq.training.tokenizer_step import TokenizerTrainer
from vaevq.training.tracking import read_metrics

ADVERSARIAL: Mapping[str, Any] = {
    "adversarial_weight": 0.5,
    "adversarial_adaptive": True,
    "adversarial_start": 8,
    "discriminator_width": 8,
    "discriminator_layers": 1,
    "lecam_weight": 0.1,
}
"""The section `loss` of a run with a small discriminator that joins in the third step of four images."""


ADAPTIVE: Mapping[str, Any] = {
    "train": {"images": 40},
    "adapt": {"by": "usage", "every": 4, "start": 0, "until": 1, "min_size": 4, "max_size": 64},
}
"""Sections of a run whose codebook has another size from the fifth step on, and again from the ninth."""


def small_tree(photos: Path, **sections: Any) -> dict[str, Any]:
    """A run that takes a second: 8-wide networks, 16 codewords, 16-pixel crops, five steps of four images."""
    tree = {
        "seed": 3,
        "model": {
            "autoencoder": {"base_width": 8, "multipliers": [1, 2], "blocks": 1},
            "quantizer": {"code_dim": 4, "codebook_size": 16},
        },
        "data": {"train": str(photos), "image_size": 16, "split_by": "file"},
        "train": {
            "images": 20,
            "batch_size": 4,
            "device": "cpu",
            "tensorboard": False,
            "log_every": 4,
            "evaluate_every": 8,
            "checkpoint_every": 8,
        },
        "eval": {"metrics": ["psnr", "ssim"], "resize": 32, "crop": 32},
    }
    return merged(tree, sections)


def small_run(photos: Path, **sections: Any) -> RunConfig:
    """`small_tree` as a configuration."""
    return RunConfig.model_validate(small_tree(photos, **sections))


def small_recipe(folder: Path, photos: Path, **sections: Any) -> Path:
    """`small_tree` as a recipe file in `folder`."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(small_tree(photos, **sections)))
    return path


def place(train: TrainConfig | GeneratorTrainConfig) -> Engine:
    """The CPU in a run's precision, among the processes of the group if there is one."""
    dtype = torch.float64 if train.precision == "float64" else torch.float32
    autocast = torch.bfloat16 if train.precision == "bfloat16" else None
    return Engine(torch.device("cpu"), dtype, autocast, rank(), world_size())


def trainer(config: RunConfig) -> TokenizerTrainer:
    """The networks of a run, on `place`."""
    return TokenizerTrainer(config, place(config.train))


def step_batches(config: RunConfig, steps: int) -> list[list[ImageBatch]]:
    """This process's micro-batches of the first steps of a run."""
    train = config.train
    batches = training_batches(
        run_images(config.data, config.seed).train,
        config.data,
        config.model.autoencoder.image_channels,
        seed=config.seed,
        start=0,
        stop=steps * train.batch_size,
        batch_size=train.batch_size // train.accumulation,
        rank=rank(),
        world_size=world_size(),
    )
    return [[next(batches) for _ in range(train.accumulation)] for _ in range(steps)]


def trained(config: RunConfig, steps: int) -> tuple[TokenizerTrainer, list[dict[str, float]]]:
    """A trainer after some steps, and this process's loss terms of each."""
    made = trainer(config)
    return made, [step(made, batches) for batches in step_batches(config, steps)]


def step(made: TokenizerTrainer, batches: list[ImageBatch]) -> dict[str, float]:
    """One step as a run makes it, and this process's loss terms."""
    fit_codebook(made, run_images(made.config.data, made.config.seed).train)
    return dict(made.step(batches))


def tensors(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a nested state by dotted name."""
    found = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            found.update(tensors(value, f"{prefix}{key}."))
    return found


def largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Over all tensors of two states, which must have the same names and shapes."""
    assert one.keys() == other.keys()
    pairs = [(one[name].detach().double(), other[name].detach().double()) for name in one if one[name].numel()]
    return max(float((a - b).abs().max()) for a, b in pairs)


def weights(run_dir: Path) -> dict[str, Tensor]:
    """The averaged weights that a run has written."""
    return load_file(run_dir / "model" / "model.safetensors")


def last_checkpoint(run_dir: Path) -> dict[str, Tensor]:
    """The tensors of the newest checkpoint of a run."""
    path = max((run_dir / "checkpoints").glob("*.pt"))
    return tensors(torch.load(path, weights_only=True))


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The log of a run without its times, and without what is measured since an evaluation of the same sitting."""
    left_out = {"seconds", "images_per_second", "changed_tokens", "codeword_drift"}
    return [{k: v for k, v in row.items() if k not in left_out} for row in read_metrics(run_dir / "metrics.jsonl")]


def assert_logs_are_equal(run_dir: Path, other: Path, tolerance: float) -> None:
    """Line by line; all values but the name of the split are numbers."""
    for row, same in zip(metrics(run_dir), metrics(other), strict=True):
        assert row.pop("split") == same.pop("split")
        assert row == pytest.approx(same, rel=tolerance)


def figures(run_dir: Path) -> dict[str, float]:
    """The figures of a run's eval.json."""
    read: dict[str, float] = json.loads((run_dir / "eval.json").read_text())["figures"]
    return read


def files_below(folder: Path) -> set[str]:
    """The names of all files below a folder, hidden ones as well."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Outcome:
    """What a call of the command gave."""

    code: int
    out: str
    err: str


def vaevq(*words: object) -> Outcome:
    """The command, called in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with mock.patch.object(sys, "argv", ["vaevq", *map(str, words)]):
                main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


def vaevq_process(*words: object, cwd: Path) -> Outcome:
    """The command in a process of its own."""
    done = subprocess.run(command_line(*words), cwd=cwd, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def command_line(*words: object) -> list[str]:
    """What starts the command in another process."""
    return [sys.executable, "-m", "vaevq", *map(str, words)]


def torchrun(*program: object, cwd: Path) -> Outcome:
    """A program on two processes, as users start it.

    It takes eight seconds of CPU, so minutes on a machine that is busy enough. Where it takes longer, all of it is
    ended with what every process was at, which fails the test that waits for it.
    """
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command, environment = [*start, *map(str, program)], {**os.environ, "PYTHONFAULTHANDLER": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **pipes) as launcher:
        try:
            out, err = launcher.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            for process in _below(launcher.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGABRT)  # which prints the stack of each thread
            out, err = launcher.communicate(timeout=30)
            raise AssertionError(f"{command} did not end in 240 s:\n{out}\n{err}") from None
    return Outcome(launcher.returncode, out, err)


def _below(process: int) -> list[int]:
    """A process and those that it and they have started, the youngest first."""
    lists = [task.read_text() for task in Path(f"/proc/{process}/task").glob("*/children")]
    children = [int(child) for text in lists for child in text.split()]
    return [*(below for child in children for below in _below(child)), process]


def on_two_processes(work: Callable[..., None], *given: Any) -> None:
    """Calls `work` in two processes of one group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_member, args=(port, work, given), nprocs=2)


def _member(number: int, port: int, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=number, world_size=2)
    try:
        work(*given)
    finally:
        dist.destroy_process_group()


_FORKS = multiprocessing.get_context("forkserver")
# torch's optimizers load torch._dynamo when they are first made: seconds, spared here.
_FORKS.set_forkserver_preload(["vaevq.training.tokenizer_loop", "vaevq.report", "torch._dynamo"])


def start_vaevq(*words: object, log: Path) -> multiprocessing.context.ForkServerProcess:
    """The command in a process that is forked off one with torch loaded: it is there at once, and can be killed."""
    process = _FORKS.Process(target=_run_command, args=([str(word) for word in words], str(log)))
    process.start()
    return process


def _run_command(words: list[str], log: str) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    torch.set_num_threads(1)
    # A shell starts its background jobs with SIGINT ignored, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["vaevq", *words]
    main()
