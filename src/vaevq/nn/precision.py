"""What is computed in at least float32, whatever the autocast: squares, norms and softmaxes are coarse in 16 bits."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself in float32 or float64; one of 16 bits as float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
