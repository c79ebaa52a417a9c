"""A loss that reaches every parameter: under DDP the processes wait for a gradient of each, even where no term has one.

Which parameters a loss reaches depends on its weights and, where the continuous path goes first, on the images seen.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


def reaching(loss: Tensor, module: nn.Module) -> Tensor:
    """`loss`, a scalar, in whose backward pass the turn comes to every parameter of a module; no gradient changes."""
    reached: Tensor = _Reaching.apply(loss, *module.parameters())  # type: ignore[no-untyped-call]
    return reached


class _Reaching(torch.autograd.Function):
    """The identity of the first of its inputs. To the others it brings no gradient, of which DDP makes zeros: so there
    is no work a parameter."""

    @staticmethod
    def forward(ctx: FunctionCtx, loss: Tensor, *others: Tensor) -> Tensor:
        ctx.others = len(others)  # type: ignore[attr-defined]
        return loss.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Any, ...]:
        return gradient, *(None,) * ctx.others  # type: ignore[attr-defined]
