"""A network whose weights, gradients and optimizer state are spread over the processes (FSDP2), and whole in files."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from vaevq.training.engine import Engine

_WHOLE = StateDictOptions(full_state_dict=True)
_ON_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(network: nn.Module, parts: Iterable[nn.Module], methods: Iterable[str], engine: Engine) -> None:
    """Spreads a network over the processes of the group, in place; optimizers are to be made afterwards.

    Args:
        network: to be called by `forward` or one of `methods`, by all processes equally often.
        parts: of it, in the order in which they run: each is brought together when its turn comes.
        methods: names of other methods that use weights.
    """
    mesh = init_device_mesh(engine.device.type, (engine.world_size,))
    for part in parts:
        fully_shard(part, mesh=mesh)
    # The outermost one would stay whole after a forward pass that no backward pass follows, and could not be averaged.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    for method in methods:
        register_fsdp_forward_method(network, method)


def synchronize(network: nn.Module, *, last: bool) -> None:
    """Says whether the next backward pass is the last of its step: gradients are averaged over processes then alone."""
    cast(FSDPModule, network).set_requires_gradient_sync(last)


def whole(value: Tensor) -> Tensor:
    """A number that may be spread over processes; all of them call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_weights(network: nn.Module) -> dict[str, Any]:
    """The state of a spread network, on the CPU of the main process; empty on the others. All of them call this."""
    return get_model_state_dict(network, options=_ON_MAIN)


def whole_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of its optimizer, likewise."""
    return cast(dict[str, Any], get_optimizer_state_dict(network, optimizer, options=_ON_MAIN))


def spread(
    network: nn.Module, weights: Mapping[str, Any], optimizer: torch.optim.Optimizer | None = None, state: Any = None
) -> None:
    """Takes in whole states that every process holds."""
    set_model_state_dict(network, dict(weights), options=_WHOLE)
    if optimizer is not None:
        set_optimizer_state_dict(network, optimizer, state, options=_WHOLE)
