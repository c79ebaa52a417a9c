"""Large things of visitors, by number: so many are held, and the one that was longest unused goes first."""

import itertools
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

from vaevq.errors import UserError

T = TypeVar("T")


class Shelf(Generic[T]):
    """Holds the last things.

    Args:
        most: how many, at least 1.
        what: what they are called when one is not there any more.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._things: OrderedDict[int, T] = OrderedDict()

    def put(self, thing: T) -> int:
        """Takes a thing, and gives the number by which it is got again."""
        with self._lock:
            number = next(self._numbers)
            self._things[number] = thing
            while len(self._things) > self._most:
                self._things.popitem(last=False)
            return number

    def get(self, number: int | None) -> T:
        """The thing of a number. UserError where there is none, or it has been let go."""
        with self._lock:
            if number is None or number not in self._things:
                raise UserError(f"drop {self._what} first")
            self._things.move_to_end(number)
            return self._things[number]
