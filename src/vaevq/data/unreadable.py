"""Counts the images that could not be decoded, and says when there are too many."""

from collections.abc import Iterable, Iterator

from vaevq.errors import UserError


class UnreadableLog:
    """The distinct images that could not be read, as `name: reason`, in the order in which they were met."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def add(self, images: Iterable[str]) -> tuple[str, ...]:
        """Notes `ImageBatch.unreadable`; returns those that are new, for a line in the log each."""
        new = tuple(dict.fromkeys(image for image in images if image not in self._seen))
        self._seen.update(dict.fromkeys(new))
        return new

    def check(self, total: int, max_share: float) -> None:
        """Makes sure that at most `max_share` of the `total` images are unreadable.

        Raises:
            UserError: there are more; the message names the first three.
        """
        if len(self) > max_share * total:
            first = "; ".join(list(self)[:3])
            raise UserError(
                f"{len(self)} of {total} images cannot be read, more than data.max_unreadable_share "
                f"{max_share:g} allows: {first}{'; …' if len(self) > 3 else ''}"
            )
