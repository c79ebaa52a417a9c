"""What may be asked of sampling; from logits to a token: guidance, temperature, top-k, top-p, one random number each.

What an image becomes depends on (seed, its number) alone, not on the batch it is sampled in.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaevq.errors import UserError
from vaevq.seeding import generator

SAMPLERS = ("ddim", "dpm++")
"""Of diffusion."""


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens or latents are drawn.

    Attributes:
        guidance: s of classifier-free guidance, uncond + s (cond − uncond); 1: none.
        temperature: of tokens, divides the logits; 0 takes the most likely token.
        top_k: of tokens, only so many of the most likely ones; 0: all.
        top_p: of tokens, only the most likely ones that make up this probability; 1: all.
        steps: in how many an image is filled in (masked; None: 12) or freed of noise (diffusion; None: 50 of ddim, 20
            of dpm++).
        sampler: of diffusion, ddim (None too) or dpm++: DPM-Solver++(2M). Both are deterministic but for where they
            start.
        choice_temperature: of masked generation, of the noise on the confidence by which tokens are kept; 0: none.

    Raises:
        UserError: a value outside its range, or one that does nothing beside temperature 0.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    steps: int | None = None
    sampler: str | None = None
    choice_temperature: float = 4.5

    def __post_init__(self) -> None:
        ranges = {
            "guidance": (0 <= self.guidance < math.inf, "at least 0 and finite"),
            # Below, logits divided by it would not be finite.
            "temperature": (self.temperature == 0 or self.temperature >= 1e-6, "0 or at least 1e-06"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "steps": (self.steps is None or self.steps >= 1, "at least 1"),
            "choice_temperature": (self.choice_temperature >= 0, "at least 0"),
        }
        for name, (holds, what) in ranges.items():
            if not holds:
                raise UserError(f"{name} must be {what}, not {getattr(self, name):g}")
        if self.sampler not in (None, *SAMPLERS):
            raise UserError(f"there is no sampler '{self.sampler}': {', '.join(SAMPLERS)}")
        for name, idle in (("top_k", 0), ("top_p", 1.0)):
            if self.temperature == 0 and getattr(self, name) != idle:
                raise UserError(f"{name} has no effect at temperature 0: the most likely token is taken")


def guided(logits: Tensor, guidance: float) -> Tensor:
    """The outputs of B images, of 2B×…: those of the labels and then of no label; as they are without guidance."""
    if guidance == 1:
        return logits
    with_label, without = logits.chunk(2)
    return without + guidance * (with_label - without)


def filtered(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Log-probabilities up to a constant, …×K float32, after temperature (above 0), top-k and top-p."""
    scaled = logits.float() / options.temperature
    if 0 < options.top_k < scaled.shape[-1]:
        least = scaled.topk(options.top_k, dim=-1).values[..., -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    if options.top_p < 1:
        ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        # A token stays if those before it do not make up top_p yet: the most likely one always does.
        drop = probabilities.cumsum(-1) - probabilities >= options.top_p
        scaled = scaled.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
    return scaled


def chosen(logits: Tensor, uniform: Tensor, options: SamplingOptions) -> Tensor:
    """Tokens, int64 of the shape of `uniform`, drawn by inverting the distribution function.

    Args:
        logits: …×K, after guidance.
        uniform: numbers in [0, 1), one a token; not looked at where the most likely token is taken.
    """
    if options.temperature == 0:
        return logits.argmax(-1)
    cumulative = filtered(logits, options).softmax(-1).cumsum(-1)
    # Rounding may keep the total from 1. Below it, a draw never falls on a token of probability 0.
    total = cumulative[..., -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniform.to(total.dtype)[..., None] * total, below)
    return (cumulative <= threshold).sum(-1)


def uniforms(seed: int, numbers: range, shape: tuple[int, ...], purpose: str = "tokens") -> Tensor:
    """Uniform numbers in [0, 1), B×shape on the CPU, whose row i depends on (seed, numbers[i]) alone."""
    return torch.stack([torch.rand(shape, generator=generator("sample", purpose, seed, number)) for number in numbers])
