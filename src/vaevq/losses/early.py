"""A term of an image whose gradient is taken at once, so that what it was computed with need not be kept.

Without it the graphs of all image terms and of both paths stay in memory until the backward pass comes to them, on top
of the tokenizer's own. What stays of a term is one gradient of the image's size.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from vaevq.nn.precision import at_least_float32


def with_early_gradient(term: Callable[[Tensor], Tensor], image: Tensor, seed: Tensor) -> Tensor:
    """`term(image)`, a scalar. Its gradient reaches `image` alone, and only once differentiable.

    Args:
        term: nothing else that wants a gradient may come into it.
        seed: the gradient that the backward pass will bring, a scalar, not 0. With this one, rounded to the term's
            number format, the image's gradient is that of `term(image)` bit by bit; with another one it is scaled.
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
            brought = seed.to(value)
            (gradient,) = torch.autograd.grad(value, leaf, brought)
        ctx.save_for_backward(gradient, brought)
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, arriving: Tensor) -> tuple[Tensor, None, None]:
        gradient, brought = ctx.saved_tensors  # type: ignore[attr-defined]
        # In float32 at least: a ratio in 16 bits would be off by as much as it is to mend.
        ratio = at_least_float32(arriving) / brought
        return (gradient * ratio).to(gradient.dtype), None, None
