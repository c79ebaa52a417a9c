"""The adversarial part of L_net (eq. 12): hinge loss for the discriminator, non-saturating or hinge for the tokenizer.

Hinges are taken of each fake and then averaged: the hinge of averaged logits would let one fake hide the other.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaevq.distributed import all_reduce_mean


def discriminator_hinge(real: Tensor, fakes: Sequence[Tensor]) -> Tensor:
    """½ E max(0, 1 − D(x)) + ½ E max(0, 1 + D(x̂)), averaged over the fakes; logits of any shape, a scalar."""
    fake_loss = torch.stack([F.relu(1 + fake).mean() for fake in fakes]).mean()
    return 0.5 * (F.relu(1 - real).mean() + fake_loss)


def tokenizer_adversarial(fake: Tensor, form: Literal["non_saturating", "hinge"]) -> Tensor:
    """What the tokenizer minimises: E softplus(−D(x̂)) or −E D(x̂); logits of any shape, a scalar."""
    return F.softplus(-fake).mean() if form == "non_saturating" else -fake.mean()


def adaptive_weight(base: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """‖∇ base‖ / ‖∇ adversarial‖ at the decoder's last layer, at most 10⁴ (VQGAN, eq. 7), the same on every process."""
    (base_gradient,) = torch.autograd.grad(base, last_layer, retain_graph=True)
    (gradient,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio: Tensor = all_reduce_mean(base_gradient).norm() / (all_reduce_mean(gradient).norm() + 1e-4)
    return ratio.clamp(0.0, 1e4)


class LeCam(nn.Module):
    """LeCam regularization (Tseng et al. 2021, eq. 7): E max(0, D(x) − ᾱ_F)² + E max(0, ᾱ_R − D(x̂))².

    ᾱ_R and ᾱ_F are running means of the logits of real and fake images, merged over processes.
    """

    real: Tensor
    fake: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real: Tensor, fakes: Sequence[Tensor]) -> Tensor:
        """Takes the logits into the running means, if these are finite, and gives the regularizer, a scalar."""
        fake = torch.cat(list(fakes))
        for mean, logits in ((self.real, real), (self.fake, fake)):
            moved = mean.lerp(all_reduce_mean(logits.mean()).to(mean), 1 - self.decay)
            mean.copy_(torch.where(moved.isfinite(), moved, mean))
        return F.relu(real - self.fake).square().mean() + F.relu(self.real - fake).square().mean()
