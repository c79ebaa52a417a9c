"""The search for a codebook's size while a tokenizer trains: what is measured, when, and what follows.

From one look to the next the first half lets the codebook settle, the second is measured. A look waits until there are
`TOKENS_PER_CODEWORD` tokens a codeword. Two looks at one size decide, unless the figure is still on its way to what is
wanted. The size moves by whole bits first; each turn of direction halves the step.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vaevq.config import AdaptConfig, RunConfig
from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.cells import Cells
from vaevq.quantization.codebook import Codebook
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.resizing import Resizing, growth, shrinkage

TOKENS_PER_CODEWORD = 4
"""With fewer measured, no size is judged."""

TOLERANCE = 0.02
"""In nats: within so much of the target the size stays, and a figure that comes nearer by more is on its way."""

LEAST = 1e-3
"""A figure counts as at least this share of its target: it may come out as 0 or, less chance, below."""

SMALLEST_STEP = 1 / 8
"""In bits; the search ends where its step falls below."""


@dataclass(frozen=True)
class Search:
    """Where the search for log₂K is.

    Attributes:
        bits: by how many the size moves next; 0: it is found.
        direction: of the last move: 1, −1, or 0 before the first.
        last: the logarithm of figure over target at the last look, where the size is still the same.
    """

    bits: float = 1.0
    direction: int = 0
    last: float | None = None

    def after(self, measured: float, target: float) -> "Search":
        """With a figure measured that falls with K, and the one that is wanted."""
        apart = math.log(max(measured / target, LEAST))
        if self.last is None or abs(self.last) - abs(apart) > TOLERANCE or abs(apart) <= TOLERANCE:
            return replace(self, last=apart)
        direction = 1 if apart > 0 else -1
        bits = self.bits / 2 if direction == -self.direction else self.bits
        return Search(bits if bits >= SMALLEST_STEP else 0.0, direction)

    def size(self, codebook_size: int, config: AdaptConfig) -> int:
        """The size that follows on a look."""
        moves = self.last is None
        moved = round(codebook_size * 2 ** (self.direction * self.bits)) if moves else codebook_size
        return min(max(moved, config.min_size), config.max_size)


@dataclass(frozen=True)
class Look:
    """What a look at the codebook gave, and what is to be done.

    Attributes:
        figure: what was measured, in words.
        before, after: K, equal where it stays.
        resizing: from one to the other; None where it stays.
    """

    figure: str
    before: int
    after: int
    resizing: Resizing | None

    def __str__(self) -> str:
        size = f"{self.before:,}" if self.resizing is None else f"{self.before:,} → {self.after:,}"
        return f"codebook: {size} codewords ({self.figure})"


class Adaptation:
    """Measures what codewords win and says when the codebook should have another size. One a run.

    Args:
        config: of a run with `adapt.by` other than none.
        codebook: the run's; it is read, never changed here.
    """

    def __init__(self, config: RunConfig, codebook: Codebook | AveragedCodebook) -> None:
        self.config, self._seed, self._images = config.adapt, config.seed, config.train.images
        self._codebook = codebook
        self.search = Search()
        self.begin(round(self.config.start * self._images))

    def begin(self, images_seen: int) -> None:
        """Starts the next measurement: after a look, once the codebook has taken its size."""
        self._since = images_seen
        self._cells = Cells(self._codebook().detach(), self._seed, images_seen)
        self._revived = torch.zeros_like(self._cells.won, dtype=torch.bool)

    def _is_measuring(self, images_seen: int) -> bool:
        return self._is_open(images_seen) and images_seen >= self._since + self.config.every / 2

    def _is_open(self, images_seen: int) -> bool:
        return self.search.bits > 0 and images_seen <= self.config.until * self._images

    def observe(self, images_seen: int, posterior: Posterior) -> None:
        """Takes in a micro-batch of a step that began at so many images seen, before the codebook moves."""
        if self._is_measuring(images_seen):
            self._cells.observe(posterior.mean, self._codebook().detach())

    def finish_step(self, images_seen: int) -> None:
        """After the codebook has moved, at the end of a step that began at so many images seen."""
        if self._is_measuring(images_seen):
            self._cells.finish_step()
            revived = getattr(self._codebook, "revived", None)
            if revived is not None:
                self._revived |= revived

    def abandon_step(self) -> None:
        """In the place of `finish_step` where no step was made."""
        self._cells.abandon_step()

    def look(self, images_seen: int) -> Look | None:
        """What is to be done before the step that begins at so many images seen; None between two looks.

        The same on every process. `begin` follows on it.
        """
        size = self._codebook.codebook_size
        due = images_seen >= self._since + self.config.every and self._is_open(images_seen)
        if not due or float(self._cells.moments[-1]) < TOKENS_PER_CODEWORD * size:
            return None
        if self.config.by == "usage":
            measured, target = self._cells.perplexity_share(~self._revived), self.config.perplexity_share
            figure = f"perplexity is {measured:.1%} of K, wanted {target:.1%}"
        else:
            measured, target = self._cells.gain_of_a_bit(), self.config.gain
            figure = f"one bit more would lower the error by {measured:.3%} of the variance, wanted {target:.3%}"
        self.search = self.search.after(measured, target)
        resizing = self._resizing(self.search.size(size, self.config))
        return Look(figure, size, resizing.codebook_size if resizing else size, resizing)

    def _resizing(self, size: int) -> Resizing | None:
        won, now = self._cells.won * ~self._revived, self._codebook.codebook_size
        if size < now:
            return shrinkage(self._codebook().detach(), won, size)
        resizing = growth(self._cells.halves, size) if size > now else None
        return resizing if resizing is not None and resizing.codebook_size > now else None

    def state_dict(self) -> dict[str, Any]:
        """All that the next look depends on."""
        measured: dict[str, Tensor] = {
            "table": self._cells.table,
            "moments": self._cells.moments,
            "revived": self._revived,
        }
        return {"search": asdict(self.search), "since": self._since, **measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave, with a codebook of its size."""
        self.search = Search(**state["search"])
        self.begin(state["since"])
        self._cells.table.copy_(state["table"])
        self._cells.moments.copy_(state["moments"])
        self._revived.copy_(state["revived"])
