"""One bit a dimension: what LFQ and BSQ share, and the entropies of all 2^d codewords without an N×K tensor."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import mse_loss

from vaevq.config import BsqConfig, LfqConfig
from vaevq.distributed import all_reduce_mean
from vaevq.quantization.baselines.assignment import entropy, float_rows
from vaevq.quantization.baselines.scalar import ScalarQuantizer


class BinaryQuantizer(ScalarQuantizer):
    """The sign of each dimension, times `scale`; the first dimension is the highest bit of the token.

    With codewords ±scale in every dimension, p = softmax_k(−‖z − e_k‖² / τ) is a product over dimensions of
    p_i(+) = sigmoid(4 · scale · z_i / τ): the entropy of p is the sum of d entropies of one bit.

    Args:
        config: the options.
        scale: of a codeword's dimension.
        group: of how many dimensions the entropy of the mean of p is taken at once; it is summed over groups.
    """

    def __init__(self, config: LfqConfig | BsqConfig, *, scale: float, group: int) -> None:
        super().__init__([2] * config.code_dim, [0.5 / scale] * config.code_dim, first_is_lowest=False)
        self.config, self.scale, self.group = config, scale, group

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weights of the encoder's commitment and of the entropies."""
        return {"commitment": self.config.commitment_weight, "entropy": self.config.entropy_weight}

    def terms(self, relaxed: Tensor, codeword: Tensor) -> Mapping[str, Tensor]:
        """Commitment, a mean over all elements, and E H(p) − Σ_g H(E p_g) in nats."""
        found = dict[str, Tensor]()
        if self.config.commitment_weight:
            found["commitment"] = mse_loss(relaxed, codeword)
        if self.config.entropy_weight:
            logits = float_rows(relaxed) * (4 * self.scale / self.config.entropy_temperature)
            of_mean = [entropy_of_mean(part) for part in torch.split(logits, self.group, dim=1)]
            found["entropy"] = bit_entropy(logits).sum(dim=1).mean() - torch.stack(of_mean).sum()
        return found


def bit_entropy(logits: Tensor) -> Tensor:
    """The entropy in nats of one bit that is 1 with probability sigmoid(logit), of any shape."""
    less = -logits.abs()  # H is even, and this side keeps its digits
    return F.softplus(less) - less * torch.sigmoid(less)


def entropy_of_mean(logits: Tensor) -> Tensor:
    """H(E p) in nats over all 2^d combinations of the bits, exact, a scalar; E over rows and processes.

    p is a product of its halves over the first and the last dimensions, so E p is one matrix product of two N×√K
    tensors: K + 2 N √K numbers are held, not N×K.

    Args:
        logits: N×d of bits that are 1 with probability sigmoid(logit).
    """
    half = logits.shape[1] // 2
    with torch.autocast(logits.device.type, enabled=False):
        mean = _combinations(logits[:, :half]).T @ _combinations(logits[:, half:]) / len(logits)
    return entropy(_over_processes(mean))


def _combinations(logits: Tensor) -> Tensor:
    """The probabilities of all combinations of bits: N×m to N×2^m."""
    joint = logits.new_ones(len(logits), 1)
    for logit in logits.unbind(dim=1):
        joint = torch.cat([joint * torch.sigmoid(-logit)[:, None], joint * torch.sigmoid(logit)[:, None]], dim=1)
    return joint


def _over_processes(mean: Tensor) -> Tensor:
    """The mean over processes in value, with the gradient of this one's: averaged, they are the whole's."""
    return mean + (all_reduce_mean(mean) - mean).detach()
