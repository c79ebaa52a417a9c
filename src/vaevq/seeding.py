"""Randomness as a function of (seed, purpose, index): it survives a resume and does not know how many processes run."""

import hashlib

import torch
from torch import Tensor


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, the same on every machine and Python version."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `stream_seed(*parts)`."""
    return torch.Generator().manual_seed(stream_seed(*parts))


def indexed_noise(shape: tuple[int, ...], positions: Tensor, seed: int) -> Tensor:
    """Standard normal noise, B×shape float32 on the CPU, whose row i depends on (seed, positions[i]) alone."""
    rows = [torch.randn(shape, generator=generator("noise", seed, int(p))) for p in positions]
    return torch.stack(rows)
