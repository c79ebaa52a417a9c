"""Exponential moving average of a network's weights: what is evaluated and saved."""

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """θ̄ ← δ θ̄ + (1 − δ) θ after each step, with δ = min(decay, (1 + t) / (10 + t)), so that early weights fade fast.

    Attributes:
        module: a copy of the network with the averaged weights, in evaluation mode, without gradient.
        steps: t.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights after a step; buffers are copied."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(averages, [p.detach() for p in module.parameters()], 1 - decay)
        for buffer, source in zip(self.module.buffers(), module.buffers(), strict=True):
            buffer.copy_(source)
        self.steps += 1
