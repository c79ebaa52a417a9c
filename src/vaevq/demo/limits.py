"""How much a visitor may ask for: sizes, and requests a minute."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from vaevq.errors import UserError

WINDOW = 60.0
"""Seconds over which requests are counted."""


@dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
        side: the longer side in pixels, from 16 to 4096, to which larger photos are brought before they are encoded.
        max_mb: megabytes a file, at least 1.
        per_minute: requests a minute from one address, at least 1.
        queue: requests that may wait, at least 1; further ones are refused.

    Raises:
        UserError: a value outside its range.
    """

    side: int = 512
    max_mb: int = 20
    per_minute: int = 120
    queue: int = 64

    def __post_init__(self) -> None:
        if not 16 <= self.side <= 4096:
            raise UserError(f"--side must be from 16 to 4096 pixels, not {self.side}")
        for option in ("max_mb", "per_minute", "queue"):
            if getattr(self, option) < 1:
                raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {getattr(self, option)}")


class Rate:
    """Counts requests by address over the last minute.

    Args:
        per_minute: as many are let through.
        clock: seconds, ever rising.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def count(self, address: str) -> None:
        """Counts a request. UserError where the address has had its number; such a request is not counted."""
        now = self._clock()
        with self._lock:
            for other in [known for known, times in self._times.items() if times[-1] <= now - WINDOW]:
                del self._times[other]
            times = self._times[address]
            while times and times[0] <= now - WINDOW:
                times.popleft()
            if len(times) >= self.per_minute:
                wait = max(1, round(times[0] + WINDOW - now))
                raise UserError(f"more than {self.per_minute} requests a minute: try again in {wait} s")
            times.append(now)
