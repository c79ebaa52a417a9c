"""Randomness as a function of (seed, purpose, index): it survives a resume and does not know how many processes run."""

import hashlib
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, the same on every machine and Python version."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `stream_seed(*parts)`."""
    return torch.Generator().manual_seed(stream_seed(*parts))


def shuffled(count: int, seed: int) -> Callable[[int], int]:
    """Which of `count` items stands at a position of an endless stream, in which each epoch has an order of its own."""

    @lru_cache(maxsize=2)  # a batch may reach from one epoch into the next
    def permutation(epoch: int) -> Tensor:
        return torch.randperm(count, generator=generator("order", seed, epoch))

    return lambda position: int(permutation(position // count)[position % count])


def indexed_noise(shape: tuple[int, ...], positions: Tensor, seed: int) -> Tensor:
    """Standard normal noise, B×shape float32 on the CPU, whose row i depends on (seed, positions[i]) alone."""
    rows = [torch.randn(shape, generator=generator("noise", seed, int(p))) for p in positions]
    return torch.stack(rows)
