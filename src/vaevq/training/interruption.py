"""Ctrl-C and a scheduler's SIGTERM end a run after the current step, saved."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interruption:
    """A context in which SIGINT and SIGTERM only set `requested`; a Ctrl-C after that interrupts at once.

    A second SIGTERM does not: what a scheduler sends to all processes of a job is passed on by torchrun once more.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
