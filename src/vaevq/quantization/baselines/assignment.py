"""Which codeword has the largest product with a latent, and how sure the softmax over all of them is.

What IBQ, SoftVQ and Gaussian quantization share; the nearest codeword is in `vaevq.quantization.codebook`.
"""

import torch
from torch import Tensor

from vaevq.nn.grid import as_rows
from vaevq.nn.precision import at_least_float32
from vaevq.quantization.search import CODEWORD_TILE, LATENT_TILE, works_in_tiles


def float_rows(grid: Tensor) -> Tensor:
    """B×d×h×w to N×d with N = B·h·w, in at least float32."""
    return at_least_float32(as_rows(grid))


def largest_product(queries: Tensor, keys: Tensor) -> Tensor:
    """argmax_k of query · key, exact; works in tiles, so that memory does not grow as N × K.

    Args:
        queries: N×m.
        keys: K×m.

    Returns:
        int64 N.
    """
    rows = max(1, LATENT_TILE * CODEWORD_TILE // len(keys))
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        keys = keys.to(queries.dtype)
        if not works_in_tiles():
            return (queries @ keys.T).argmax(dim=1)
        return torch.cat([(part @ keys.T).argmax(dim=1) for part in torch.split(queries, rows)])


def entropy(p: Tensor) -> Tensor:
    """H(p) in nats of a distribution over all elements, a scalar."""
    # A probability that underflows to 0 has no logarithm; the floor leaves 0 · log finite and the others as they are.
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum()


def entropy_penalty(logits: Tensor, temperature: float) -> Tensor:
    """E H(p) − H(E p) in nats, −ln K to 0: sure of each latent, undecided over the batch (Yu et al. 2024, MAGVIT-v2).

    Args:
        logits: N×K; p is the softmax of each row over `temperature`, E the mean over this process's rows.
        temperature: positive.
    """
    log_p = torch.log_softmax(logits / temperature, dim=1)
    p = log_p.exp()
    return -entropy(p.mean(dim=0)) - (p * log_p).sum(dim=1).mean()
