"""A term of an image whose gradient is taken at once, so that what it was computed with need not be kept.

Without it the graphs of all image terms and of both paths stay in memory until the backward pass comes to them, on top
of the tokenizer's own. What stays of a term is one gradient of the image's size.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def with_early_gradient(term: Callable[[Tensor], Tensor], image: Tensor, seed: Tensor) -> Tensor:
    """`term(image)`, a scalar. Its gradient reaches `image` alone, and only once differentiable.

    Args:
        term: nothing else that wants a gradient may come into it.
        seed: the gradient that the backward pass will bring, a scalar, not 0. With this one the image's gradient is
            that of `term(image)` bit by bit; with another one it is scaled.
    """
    if not (image.requires_grad and torch.is_grad_enabled()):
        return term(image)
    value: Tensor = _Early.apply(image, term, seed)  # type: ignore[no-untyped-call]
    return value


class _Early(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, term: Callable[[Tensor], Tensor], seed: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = image.detach().requires_grad_()
            value = term(leaf)
            (gradient,) = torch.autograd.grad(value, leaf, seed.to(value))
        ctx.save_for_backward(gradient, seed)
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, arriving: Tensor) -> tuple[Tensor, None, None]:
        gradient, seed = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * (arriving / seed), None, None
