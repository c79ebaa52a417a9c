"""What the benchmarks share: turns of several works in one process, peak memory, rows of ratios, what ran them."""

import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from vaevq.training.environment import package_version

MIB = 1 << 20
_PACKAGES = ("torch", "numpy", "pillow", "faiss-cpu", "vector-quantize-pytorch")

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` counts this process alone, all of its threads added up: for one thread on a machine that others use too."""


@dataclass(frozen=True)
class Settings:
    """How everything is measured.

    Attributes:
        quick: smaller shapes and fewer turns, to see that all runs; its ratios are no figures.
        clock: see `CLOCKS`.
        photos: a folder of JPEG files; None: the loading benchmark makes its own.
    """

    quick: bool = False
    clock: Literal["wall", "cpu"] = "wall"
    photos: Path | None = None

    def turns(self, of: int) -> int:
        """How often each work is timed."""
        return 1 if self.quick else of


@dataclass(frozen=True)
class Row:
    """A ratio beside its goal.

    Attributes:
        work, against: what was measured, and beside what.
        value: the ratio, or MiB.
        goal: what it has to reach, as text: `≤ 1.25`, `≥ 5`, `≤ 64 MiB`; empty for what is shown for its own sake.
        figures: what the ratio is made of, seconds or MiB.
    """

    work: str
    against: str
    value: float
    goal: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()[:2]
        return self.value <= float(bound) if sign == "≤" else self.value >= float(bound)


def medians(
    works: Mapping[str, Callable[[], object]], turns: int, clock: Literal["wall", "cpu"] = "wall"
) -> dict[str, float]:
    """The median seconds of each of some calls, made in turns, after one of each that is not counted."""
    now, times = CLOCKS[clock], {name: list[float]() for name in works}
    for turn in range(1 + turns):
        for name, work in works.items():
            started = now()
            work()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if turn:
                times[name].append(now() - started)
    return {name: statistics.median(measured) for name, measured in times.items()}


def peak_mib(prepare: Callable[..., Callable[[], object]], *arguments: Any, whole: bool = False) -> float:
    """The most memory that `prepare(*arguments)()` takes beyond what `prepare` had made, MiB, in a process of its own.

    With `whole`, what `prepare` had made counts too. So does the result. `prepare` is a function of a module.

    Raises:
        OSError: no Linux: peaks are read and reset in /proc.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (prepare, arguments, torch.get_num_threads(), whole))


def _peak(prepare: Callable[..., Callable[[], object]], arguments: tuple[Any, ...], threads: int, whole: bool) -> float:
    torch.set_num_threads(threads)
    torch.ones(64, 64) @ torch.ones(64, 64)  # the libraries' own pages
    empty = _resident("VmRSS")
    work = prepare(*arguments)
    before = empty if whole else _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    work()
    return (_resident("VmHWM") - before) / MIB


def _resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def surroundings() -> dict[str, Any]:
    """What a figure depends on: versions, threads, the machine and its load, the commit."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": git.stdout.strip() or None,
        "python": platform.python_version(),
        **{name: package_version(name) for name in _PACKAGES},
        "threads": torch.get_num_threads(),
        "machine": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def as_table(rows: list[Row]) -> str:
    """Rows as a table in Markdown."""
    lines = ["| work | against | measured | goal | reached |", "|---|---|---|---|---|"]
    words = {True: "yes", False: "no", None: ""}
    for row in rows:
        unit = " MiB" if "MiB" in row.goal else ""
        lines.append(f"| {row.work} | {row.against} | {row.value:.3g}{unit} | {row.goal} | {words[row.reached]} |")
    return "\n".join(lines)


def as_json(rows: list[Row], settings: Settings) -> dict[str, Any]:
    """Rows with what they depend on."""
    return {
        **surroundings(),
        "clock": settings.clock,
        "quick": settings.quick,
        "rows": [{**asdict(row), "reached": row.reached} for row in rows],
    }
