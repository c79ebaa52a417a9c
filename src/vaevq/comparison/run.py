"""Trains the cells that are missing, one after another or on several processes; a killed one continues."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from vaevq.comparison.cells import Cell, Task, configuration, digest, falling, thinned
from vaevq.comparison.diagnostics import compact
from vaevq.config import RunConfig, read_json
from vaevq.errors import UserError
from vaevq.files import make_folder
from vaevq.metrics.result import headline, read_evaluation
from vaevq.report.run_folder import RunFolder
from vaevq.training.interruption import Interruption
from vaevq.training.run_start import results_depend_on
from vaevq.training.tokenizer_loop import train_tokenizer

Say = Callable[[str], None]

_KEPT = {"model", "config.json", "split.json", "eval.json"}
"""What a run folder keeps of a model whose reconstructions are shown; it still is one for the other verbs."""


@dataclass(frozen=True)
class Keeping:
    """Which run folders stay once the cell is written: all of all, or the model of one seed."""

    everything: bool
    picture_seed: int


def run_cells(
    missing: Sequence[Task], out: Path, keeping: Keeping, say: Say, *, processes: int = 1, quiet: bool = False
) -> None:
    """Trains each cell in out/runs and writes it to out/cells; one that fails is written down and the others go on.

    Args:
        missing: the cells, in the order in which they are begun.
        out: the folder of the comparison.
        keeping: what is not deleted afterwards.
        say: is told a line a cell.
        processes: how many cells are trained at once; the cores are shared out among them.
        quiet: shows no progress within a cell; several processes never do.

    Raises:
        UserError: the call cannot work: under torchrun, or a folder that cannot be written.
        KeyboardInterrupt: after Ctrl-C or SIGTERM. What is begun is saved, and continues when it is called again.
    """
    if "RANK" in os.environ:
        raise UserError("vaevq compare starts its own processes: call it without torchrun, with --processes N")
    if processes < 1:
        raise UserError(f"--processes {processes}: at least 1")
    make_folder(out / "runs")
    progress = _Progress(len(missing), say)
    try:
        if processes == 1 or len(missing) < 2:
            for task in missing:
                say(f"{progress.place} {task.row}, seed {task.seed}: {task.config.train.images:,} images")
                progress.done(run_cell(task, out, keeping, quiet=quiet))
        else:
            _run_on_processes(missing, out, keeping, min(processes, len(missing)), progress)
    except KeyboardInterrupt:
        say(f"stopped with {progress.count} of {len(missing)} cells done; run the same command again to go on")
        raise


def run_cell(task: Task, out: Path, keeping: Keeping, *, quiet: bool = True) -> Cell:
    """Trains one cell, or goes on with it, writes it, and deletes what is not kept of its run folder."""
    folder = out / "runs" / task.name
    _drop_another_run(folder, task.config)
    try:
        train_tokenizer(task.config, folder, quiet=quiet)
    except UserError as error:
        # The run folder stays: another try goes on from its last checkpoint.
        cell = _cell(task, failure=" ".join(str(error).split()))
    else:
        cell = _finished(task, folder)
    cell.write(out / "cells" / f"{task.name}.json")
    if not cell.failure and not keeping.everything:
        _prune(folder, keep_model=task.seed == keeping.picture_seed)
    return cell


def _finished(task: Task, folder: Path) -> Cell:
    run, evaluation = RunFolder.read(folder), read_evaluation(folder / "eval.json")
    return _cell(
        task,
        figures=evaluation.figures,
        continuous=evaluation.continuous,
        protocol=evaluation.protocol,
        histogram=falling(evaluation.histogram),
        curves=thinned(run.metrics),
        # The command names folders of this machine; which files the images are, `data` says.
        environment={name: value for name, value in run.environment.items() if name != "command"},
        seconds=run.seconds,
        diagnostics=compact(run.diagnosis),
    )


def _cell(task: Task, **result: Any) -> Cell:
    assert task.data is not None
    made_of = digest(task.config, task.data, task.code)
    return Cell(task.row, task.seed, made_of, task.code, task.data, configuration(task.config), **result)


def _drop_another_run(folder: Path, config: RunConfig) -> None:
    """Removes a run folder of this cell's name that cannot be continued: a default has changed since."""
    file = folder / "config.json"
    if not file.is_file():
        return
    with suppress(UserError):
        if results_depend_on(read_json(RunConfig, file)) == results_depend_on(config):
            return
    shutil.rmtree(folder)


def _prune(folder: Path, *, keep_model: bool) -> None:
    if not keep_model:
        shutil.rmtree(folder)
        return
    for path in folder.iterdir():
        if path.name not in _KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class _Progress:
    """Counts cells and says what each gave."""

    def __init__(self, total: int, say: Say) -> None:
        self.count, self.total, self._say = 0, total, say
        self._started = time.monotonic()

    @property
    def place(self) -> str:
        return f"[{self.count + 1}/{self.total}]"

    def done(self, cell: Cell) -> None:
        minutes = (time.monotonic() - self._started) / 60
        what = f"failed: {cell.failure}" if cell.failure else headline(cell.figures)
        self._say(f"{self.place} {cell.row}, seed {cell.seed}: {what} (after {minutes:.1f} minutes)")
        self.count += 1


def _run_on_processes(
    missing: Sequence[Task], out: Path, keeping: Keeping, processes: int, progress: _Progress
) -> None:
    threads = max(1, (os.cpu_count() or 1) // processes)
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    with (
        Interruption() as interruption,
        ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin, initargs=(threads, stop)) as pool,
    ):
        left, running = list(reversed(missing)), set[Future[Cell]]()
        try:
            while left or running:
                # No more than there are processes: what the pool has queued begins in spite of a stop.
                while left and len(running) < processes:
                    running.add(pool.submit(_run_in_pool, left.pop(), out, keeping))
                done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    progress.done(future.result())
                if interruption.requested:
                    raise KeyboardInterrupt
        except BaseException:
            stop.set()
            raise


_working = threading.Event()
"""Set in a process of the pool while it has a cell."""


def _begin(threads: int, stop: Event) -> None:
    """The first thing in a process of the pool."""
    torch.set_num_threads(threads)
    if hasattr(os, "setpgrp"):
        # Ctrl-C in a terminal goes to a whole group. It is for the first process, which tells the others: a second
        # signal would end a step before it is saved.
        os.setpgrp()
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Event) -> None:
    """Ends the cell of this process, saved, where all shall stop; and the process where the first one was killed."""
    parent = multiprocessing.parent_process()
    while not stop.wait(0.5):
        if parent is not None and not parent.is_alive():
            os._exit(1)
    if _working.is_set():
        signal.raise_signal(signal.SIGINT)


def _run_in_pool(task: Task, out: Path, keeping: Keeping) -> Cell:
    _working.set()
    try:
        return run_cell(task, out, keeping)
    finally:
        _working.clear()
