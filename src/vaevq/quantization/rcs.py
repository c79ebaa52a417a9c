"""Section "RCS", eq. 5-7: L_rcs = ½ Σ ((z_q − μ) / sg(σ))², the codeword's negative log-likelihood under the posterior.

It aligns confident dimensions (small σ) tightly and uncertain ones loosely, pulling codebook and encoder together.
"""

from torch import Tensor

from vaevq.config import Reduction
from vaevq.nn.reduction import reduce
from vaevq.quantization.posterior import Posterior


def representation_coherence(
    codewords: Tensor,
    posterior: Posterior,
    *,
    log_term: bool = False,
    detach_sigma: bool = True,
    min_std: float = 0.0,
    encoder_share: float = 1.0,
    reduction: Reduction = "position",
) -> Tensor:
    """L_rcs, a scalar.

    Args:
        codewords: z_q, B×d×h×w, carrying the codebook's gradient.
        posterior: of the same shape.
        log_term: adds log σ, which makes it the full negative log-likelihood (up to a constant).
        detach_sigma: sg(σ) as in the paper; the released code does not detach.
        min_std: floor of σ. Without one, nothing keeps 1/σ² from growing where KL is weak.
        encoder_share: gradient on μ as a share of the codebook's; the value does not depend on it.
        reduction: see `vaevq.nn.reduction`.
    """
    sigma = posterior.std.clamp_min(min_std)
    if detach_sigma:
        sigma = sigma.detach()
    mean = scale_gradient(posterior.mean, encoder_share)
    values = 0.5 * ((codewords - mean) / sigma).square()
    if log_term:
        values = values + sigma.log()
    return reduce(values, reduction)


def scale_gradient(tensor: Tensor, share: float) -> Tensor:
    """`tensor` in value, with its gradient multiplied by `share`."""
    if share == 1.0:
        return tensor
    return share * tensor + (1.0 - share) * tensor.detach()
