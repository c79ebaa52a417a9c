"""Of which mean and size the latents are that a generator learns from: measured once, before its network is built."""

import numpy as np
import torch

from vaevq.config import LatentsConfig
from vaevq.data.token_set import Integers, TokenSet
from vaevq.errors import UserError
from vaevq.tokenizer import Tokenizer

MEASURED_IMAGES = 10_000
"""Of so many images at most, evenly spaced among those that are learned from."""

_AT_A_TIME = 256


@torch.no_grad()
def measured_latents(tokens: TokenSet, items: Integers, tokenizer: Tokenizer | None) -> LatentsConfig:
    """Mean and standard deviation over all elements of the latents of a set's items, to six digits.

    Args:
        tokens: with continuous latents, these are measured; otherwise what the tokens look up.
        items: those that are learned from.
        tokenizer: whose tokens these are.

    Raises:
        UserError: there is no tokenizer, it is another one, or all latents are alike.
    """
    if tokenizer is None:
        raise UserError(
            f"{tokens.source}: no tokenizer lies beside these tokens, and kind diffusion makes latents of it; "
            "vaevq encode --shard-size writes both"
        )
    if tokenizer.digest != tokens.model_digest:
        raise UserError(
            f"{tokens.source}: tokens of tokenizer {tokens.model_digest}, beside them lies {tokenizer.digest}"
        )
    count = min(MEASURED_IMAGES, len(items))
    chosen = items[np.arange(count) * len(items) // count]
    total = squares = number = 0.0
    for first in range(0, count, _AT_A_TIME):
        batch = tokens.batch(chosen[first : first + _AT_A_TIME], np.zeros(0, dtype=np.int64))
        latents = (tokenizer.lookup(batch.tokens) if batch.latents is None else batch.latents).double()
        total, squares = total + float(latents.sum()), squares + float(latents.square().sum())
        number += latents.numel()
    mean = total / number
    variance = squares / number - mean**2
    if variance <= 1e-12 * squares / number:
        raise UserError(f"{tokens.source}: all latents are alike, so there is nothing to learn")
    return LatentsConfig(
        source="codewords" if tokens.latents is None else "continuous",
        channels=tokenizer.quantizer.code_dim,
        mean=float(f"{mean:.6g}"),
        std=float(f"{variance**0.5:.6g}"),
    )
