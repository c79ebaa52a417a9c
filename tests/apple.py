"""Tensors that say they lie on Apple's GPU, and refuse float64 as it does: for machines that have none."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class AppleTensor(Tensor):
    """What is made of one lies on the GPU too, unless it is brought to the CPU; beside the CPU's it is refused."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func == Tensor.device.__get__:
            return torch.device("mps")
        moved = func == Tensor.cpu or (func == Tensor.to and torch.device("cpu") in args[1:])
        if moved and torch.float64 in args[1:]:
            raise _refusal()  # the other type is made before it is moved
        if any(isinstance(other, Tensor) and not isinstance(other, cls) and other.ndim for other in args):
            raise RuntimeError("Expected all tensors to be on the same device")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*_plain(args), **(kwargs or {}))
        return found if moved else on_apple_gpu(found)


def on_apple_gpu(values: Any) -> Any:
    """A tensor, or the tensors of a tuple or list, as if they lay on Apple's GPU."""
    if isinstance(values, tuple | list):
        return list(map(on_apple_gpu, values))
    if isinstance(values, Tensor) and values.dtype == torch.float64:
        raise _refusal()
    return values.as_subclass(AppleTensor) if isinstance(values, Tensor) else values


def _plain(given: Any) -> Any:
    if isinstance(given, tuple | list):
        return tuple(map(_plain, given))
    return given.as_subclass(Tensor) if isinstance(given, AppleTensor) else given


def _refusal() -> TypeError:
    return TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
