"""The Inception score (Salimans et al. 2016): exp(E KL(p(class | image) ‖ p(class))), in constant memory."""

import math

import torch
from torch import Tensor

from vaevq.metrics.fid import as_float64


class InceptionScore:
    """Sums of the classifier's probabilities and of their negative entropies.

    It is of all images at once; published scores are means over parts of them, which are a little lower.

    Args:
        weights: of the last layer, classes×features. As in the evaluators in use, it is applied without its bias.
    """

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights.detach()
        self._count = 0
        self._probabilities = torch.zeros(len(weights), dtype=torch.float64)
        self._negative_entropy = 0.0

    def update(self, features: Tensor) -> None:
        """Takes in features B×dim."""
        log = as_float64(features.float() @ self._weights.T.float()).log_softmax(1).cpu()
        self._count += len(features)
        self._probabilities += log.exp().sum(0)
        self._negative_entropy += float((log.exp() * log).sum())

    def result(self) -> float:
        """From 1 to the number of classes."""
        mean = self._probabilities / self._count
        of_mean = float(torch.special.xlogy(mean, mean).sum())
        return math.exp(self._negative_entropy / self._count - of_mean)
