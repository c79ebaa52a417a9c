"""A loss term or a gradient that is not finite: found on all processes alike, before a weight is changed by it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vaevq.distributed import all_reduce_sum
from vaevq.errors import UserError
from vaevq.training.engine import Engine

WAY_OUT = "try a lower train.learning_rate; the last checkpoint is kept"


class NotFiniteError(UserError):
    """A step was not made: a loss term or a gradient of it is not finite. Says which, and in which step."""


def check_finite(place: Engine, terms: Mapping[str, Tensor], norm: Tensor, where: str) -> None:
    """Passes if a step may be made. All processes call it, and raise alike.

    Args:
        place: the processes.
        terms: of this process by name, of any shape.
        norm: of the gradient, averaged over processes.
        where: which step, in words.

    Raises:
        NotFiniteError: a term is not finite on one of the processes, or the gradient is not.
    """
    # One look at all of it, on all processes at once: a GPU is waited for once a step, not once a term.
    everything = torch.cat([norm.reshape(1), *(values.reshape(-1) for values in terms.values())])
    if not int(all_reduce_sum((~everything.isfinite()).sum())):
        return
    finite = {name: bool(torch.isfinite(values).all()) for name, values in terms.items()}
    # The total is the last to be blamed: it is not finite where any of its terms is not.
    culprit = min((name for name in finite if not finite[name]), key=lambda name: name == "total", default=None)
    place.raise_together(NotFiniteError(f"loss term '{culprit}' is not finite {where}") if culprit else None)
    raise NotFiniteError(f"the gradient is not finite {where}, though all loss terms are")
