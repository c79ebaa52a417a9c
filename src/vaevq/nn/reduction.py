"""How an elementwise loss becomes a number. The paper gives weights without reductions, so it is an option."""

from torch import Tensor

from vaevq.config import Reduction


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """A scalar from elementwise `values`, B×C×H×W.

    Args:
        reduction: `element`: the mean over all elements; `position`: the sum over C, mean over B, H, W; `image`: the
            sum over C, H, W, mean over B.
    """
    if reduction == "element":
        return values.mean()
    if reduction == "position":
        return values.sum(dim=1).mean()
    return values.sum(dim=(1, 2, 3)).mean()
