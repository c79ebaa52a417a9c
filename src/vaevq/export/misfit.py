"""How badly tokens fit: what a quantizer minimizes when it chooses them, so that a tie can be told from a mistake."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vaevq.quantization.baselines.gaussian import GaussianQuantizer
from vaevq.quantization.baselines.ibq import IndexBackpropagationQuantizer
from vaevq.quantization.baselines.movq import MultichannelQuantizer
from vaevq.quantization.baselines.residual import ResidualQuantizer
from vaevq.quantization.baselines.scalar import ScalarQuantizer
from vaevq.quantization.baselines.softvq import SoftVectorQuantizer
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantizer

TIE = 1e-5
"""Two choices whose misfits differ by less than this, relative to the larger, are equally good in float32."""


def ties(quantizer: Quantizer, posterior: Posterior, tokens: Tensor, others: Tensor) -> Tensor:
    """Where other tokens differ, but fit as well: bool B×h×w or B×h×w×q.

    Of residual codes the first that differs decides: those after it quantize something else.
    """
    differ = tokens != others
    one, other = (misfit(quantizer, posterior, chosen) for chosen in (tokens, others))
    close = (one - other).abs() <= TIE * torch.maximum(one.abs(), other.abs())
    if isinstance(quantizer, ResidualQuantizer) and differ.ndim == 4:
        first = differ & (differ.cumsum(dim=-1) == 1)
        return differ & (~first | close).all(dim=-1, keepdim=True)
    return differ & close


def misfit(quantizer: Quantizer, posterior: Posterior, tokens: Tensor) -> Tensor:
    """What `quantizer.encode` makes smallest, of any tokens, in float64: B×h×w or B×h×w×q, as the tokens."""
    codewords = quantizer.lookup(tokens).double()
    mean = posterior.mean.double()
    match quantizer:
        case ScalarQuantizer():
            return _distance(quantizer.relaxed(mean.float()).double(), codewords)
        case SoftVectorQuantizer():
            return _distance(normalize(mean, dim=1), codewords)
        case IndexBackpropagationQuantizer():
            return -(mean * codewords).sum(dim=1)
        case GaussianQuantizer():
            squares = ((codewords - mean) / posterior.std.double()).square()
            return 0.5 * (squares - quantizer.config.prior_weight * codewords.square()).sum(dim=1)
        case MultichannelQuantizer():
            chunks = (mean - codewords).square().chunk(quantizer.codes_per_position, dim=1)
            squares = torch.stack([chunk.sum(dim=1) for chunk in chunks], dim=-1)
            return squares.view(tokens.shape)
        case ResidualQuantizer() if tokens.ndim == 4:
            return torch.stack([_distance(mean, partial) for partial in _partial_sums(quantizer, tokens)], dim=-1)
        case _:
            return _distance(mean, codewords)


def _distance(latent: Tensor, codewords: Tensor) -> Tensor:
    """The squared distance at each position: B×d×h×w to B×h×w."""
    return (latent - codewords).square().sum(dim=1)


def _partial_sums(quantizer: ResidualQuantizer, tokens: Tensor) -> list[Tensor]:
    """The sum of the codewords up to each code, B×d×h×w."""
    codebooks = [stage().double() for stage in quantizer.stages]
    parts = [codebooks[i % len(codebooks)][grid].movedim(-1, 1) for i, grid in enumerate(tokens.unbind(dim=-1))]
    return list(torch.stack(parts).cumsum(dim=0))
