"""What a training run shows in the terminal: a live progress display, or plain lines where there is no terminal."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

WINDOW_SECONDS = 30.0
"""Images a second are those of this last while of training."""

HELD_OUT_LABEL = "held-out, deterministic"


class Pace:
    """How far a run is, how fast it goes, and how long it will take."""

    def __init__(self, total_images: int, start_images: int) -> None:
        self.total_images = total_images
        self.images_seen = start_images
        self.paused = 0.0
        self.start()

    def start(self) -> None:
        """Starts the clock."""
        self._started = self._last = time.monotonic()
        self._points: deque[tuple[float, int]] = deque([(0.0, self.images_seen)])  # seconds of training, images seen

    def reach(self, images_seen: int) -> None:
        """Notes progress."""
        self._last = time.monotonic()
        self.images_seen = images_seen
        self.total_images = max(self.total_images, images_seen)  # the last batch may go beyond what was asked
        training = self._last - self._started - self.paused
        if images_seen > self._points[-1][1]:
            self._points.append((training, images_seen))
        while len(self._points) > 2 and self._points[1][0] <= training - WINDOW_SECONDS:
            self._points.popleft()

    def skip_pause(self) -> None:
        """Takes the time since the last progress out of the pace."""
        now = time.monotonic()
        self.paused += now - self._last
        self._last = now

    @property
    def elapsed(self) -> float:
        """Seconds since the start, pauses and all."""
        return time.monotonic() - self._started

    @property
    def images_per_second(self) -> float:
        """Over the last `WINDOW_SECONDS` of training; 0 before there is any progress."""
        (first, before), (last, after) = self._points[0], self._points[-1]
        return (after - before) / (last - first) if last > first else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the present pace, with as large a share of pauses as so far; None before there is any progress."""
        rate, training = self.images_per_second, self._points[-1][0]
        if not rate or not training:
            return None
        return (self.total_images - self.images_seen) / rate * (1 + self.paused / training)


class Display:
    """Prints nothing: the base of the two that do."""

    def __init__(self, pace: Pace, queries_label: str) -> None:
        self.pace, self.queries_label = pace, queries_label

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def train(self, values: Mapping[str, float]) -> None: ...

    def held_out(self, images_seen: int, values: Mapping[str, float]) -> None: ...

    def message(self, text: str) -> None: ...


class PlainDisplay(Display):
    """One line a log interval, without control characters: for files, continuous integration and notebooks."""

    def __init__(self, pace: Pace, queries_label: str, stream: TextIO) -> None:
        super().__init__(pace, queries_label)
        self.stream = stream

    def train(self, values: Mapping[str, float]) -> None:
        pace = self.pace
        parts = [f"{pace.images_seen:,}/{pace.total_images:,} images", _speed(pace)]
        parts.append(f"{_clock(pace.seconds_left)} left")
        for label, group in _rows(values, self.queries_label):
            parts.append(f"{label}: {', '.join(group)}")
        self.message(" | ".join(parts))

    def held_out(self, images_seen: int, values: Mapping[str, float]) -> None:
        self.message(f"{images_seen:,} images | {HELD_OUT_LABEL}: {', '.join(_pairs(values))}")

    def message(self, text: str) -> None:
        encoding = self.stream.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=self.stream, flush=True)


class LiveDisplay(Display):
    """A progress bar and a small table, redrawn in place."""

    def __init__(self, pace: Pace, queries_label: str, console: Console) -> None:
        super().__init__(pace, queries_label)
        self.train_rows: list[tuple[str, list[str]]] = []
        self.held_out_rows: list[tuple[str, list[str]]] = []
        self.live = Live(console=console, get_renderable=self.render, refresh_per_second=4)

    def start(self) -> None:
        self.live.start()

    def stop(self) -> None:
        self.live.stop()

    def train(self, values: Mapping[str, float]) -> None:
        self.train_rows = _rows(values, self.queries_label)

    def held_out(self, images_seen: int, values: Mapping[str, float]) -> None:
        self.held_out_rows = [(f"{HELD_OUT_LABEL}, at {images_seen:,}", _pairs(values))]

    def message(self, text: str) -> None:
        self.live.console.print(Text(text))

    def render(self) -> Group:
        """The display as it is now."""
        pace = self.pace
        bar = Table.grid(padding=(0, 2))
        bar.add_column(ratio=1, min_width=10)
        bar.add_column(justify="right", no_wrap=True)
        bar.expand = True
        bar.add_row(
            ProgressBar(total=max(1, pace.total_images), completed=pace.images_seen),
            Text(f"{pace.images_seen:,} / {pace.total_images:,} images", style="bold"),
        )
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        speed = [_speed(pace), f"{_clock(pace.elapsed)} elapsed"]
        rows = [("pace", [*speed, f"{_clock(pace.seconds_left)} left"]), *self.train_rows, *self.held_out_rows]
        for label, pairs in rows:
            # Non-breaking within a pair, so that a narrow terminal breaks lines between pairs alone.
            table.add_row(Text(label), Text("   ".join(pair.replace(" ", "\u00a0") for pair in pairs)))
        return Group(bar, table)


def choose_display(pace: Pace, queries_label: str, quiet: bool) -> Display:
    """On standard error, so that what a program reads on standard output stays clean."""
    if quiet:
        return Display(pace, queries_label)
    console = Console(stderr=True)
    if can_redraw(console):
        return LiveDisplay(pace, queries_label, console)
    return PlainDisplay(pace, queries_label, sys.stderr)


def can_redraw(console: Console) -> bool:
    """Whether a console on standard error is a terminal on which lines can be drawn anew."""
    # isatty is asked beside rich: FORCE_COLOR makes rich take a file for a terminal.
    return console.is_terminal and sys.stderr.isatty() and not (console.is_dumb_terminal or console.is_jupyter)


def queries_label(run_config: Mapping[str, Any]) -> str:
    """What training's own usage is of: with sampled latents it says nothing of the codebook's use (noise lights it)."""
    quantizer = run_config.get("model", {}).get("quantizer", {})
    return "training queries, sampled" if quantizer.get("quantize") == "sample" else "training queries"


def _rows(values: Mapping[str, float], queries_label: str) -> list[tuple[str, list[str]]]:
    """Training values by the part of their name before the slash, as label and `name value` pairs."""
    groups: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        prefix, _, rest = name.rpartition("/")
        groups.setdefault(prefix, {})[rest] = value
    labels = {"loss": "loss", "codebook": queries_label, "": "other"}
    return [(labels.get(prefix, prefix), _pairs(group)) for prefix, group in groups.items()]


def _pairs(values: Mapping[str, float]) -> list[str]:
    return [f"{_plain_name(name)} {_number(name, value)}" for name, value in values.items()]


def _plain_name(name: str) -> str:
    return {"psnr": "PSNR", "ssim": "SSIM", "size": "K"}.get(
        name, name.removesuffix("_training_queries").replace("_", " ")
    )


def _number(name: str, value: float) -> str:
    if name.startswith("usage"):
        return f"{100 * value:.1f} %"
    if name.startswith("perplexity") or name == "size":
        return f"{value:,.0f}"
    return f"{value:.2f} dB" if name == "psnr" else f"{value:.4g}"


def _speed(pace: Pace) -> str:
    rate = pace.images_per_second
    return f"{rate:,.0f} images/s" if rate >= 100 else f"{rate:.1f} images/s"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def printable(text: str) -> str:
    """`text` without characters that steer a terminal: a file's name may hold them."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
