"""Eq. 12, the total loss in one place: L = L_rec + λ_rcs L_rcs + λ_dcr L_dcr + λ_net L_net.

Each image term (pixel, perceptual, adversarial) is taken on both paths, weighted `quantized_path` and
`continuous_path`; the quantizer's own terms (RCS, DCR, KL; or commitment) come from the quantizer with its weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vaevq.config import LossConfig
from vaevq.losses.adversarial import LeCam, adaptive_weight, discriminator_hinge, tokenizer_adversarial
from vaevq.losses.early import with_early_gradient
from vaevq.nn.lpips import Lpips
from vaevq.nn.reduction import reduce
from vaevq.tokenizer import TokenizerOutput


@dataclass(frozen=True)
class Loss:
    """A loss to minimise.

    Attributes:
        total: a scalar with gradient.
        terms: each term before its weight, detached scalars by name.
        weighted: the tokenizer's terms times their weights, with gradient; `total` is their sum.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    weighted: Mapping[str, Tensor] = field(default_factory=dict)


class TokenizerObjective:
    """What the tokenizer minimises.

    Args:
        config: weights and forms of the image terms.
        term_weights: the weights of the quantizer's own terms.
        perceptual: LPIPS; needed where its weight is not 0.
    """

    def __init__(self, config: LossConfig, term_weights: Mapping[str, float], perceptual: Lpips | None) -> None:
        assert (perceptual is not None) == (config.perceptual_weight > 0)
        self.config = config
        self.term_weights = term_weights
        self.perceptual = perceptual

    def __call__(
        self,
        images: Tensor,
        output: TokenizerOutput,
        discriminator: nn.Module | None = None,
        last_layer: Tensor | None = None,
        micro_batches: int = 1,
    ) -> Loss:
        """The loss of one micro-batch.

        The gradients of the image terms are taken at once, each by itself (`vaevq.losses.early`).

        Args:
            images: B×C×H×W in [-1, 1].
            output: the tokenizer's, in training mode.
            discriminator: bare, not wrapped for several processes; None before it joins. It is used frozen.
            last_layer: the decoder's last weight, for the adaptive weight.
            micro_batches: by how many the total will be divided before its backward pass; it changes no value.
        """
        config = self.config
        terms, weighted = dict[str, Tensor](), dict[str, Tensor]()
        total, seed = images.new_zeros(()), images.new_ones(()) / micro_batches
        if config.pixel_weight:
            terms["pixel"] = self._over_paths(output, lambda x: self._pixel(images, x), seed * config.pixel_weight)
            weighted["pixel"] = config.pixel_weight * terms["pixel"]
            total = total + weighted["pixel"]
        if self.perceptual is not None:
            lpips, features = self.perceptual, self.perceptual.features(self._perceived(images))
            terms["perceptual"] = self._over_paths(
                output,
                lambda x: lpips.distance(features, lpips.features(self._perceived(x))).mean(),
                seed * config.perceptual_weight,
            )
            weighted["perceptual"] = config.perceptual_weight * terms["perceptual"]
            total = total + weighted["perceptual"]
        if discriminator is not None:
            bare, frozen = discriminator, {name: p.detach() for name, p in discriminator.named_parameters()}
            terms["adversarial"] = self._over_paths(
                output,
                lambda x: tokenizer_adversarial(functional_call(bare, frozen, x), config.adversarial_form),
                None if config.adversarial_adaptive else seed * config.adversarial_weight,
            )
            weight: Tensor | float = config.adversarial_weight
            if config.adversarial_adaptive:
                assert last_layer is not None
                weight = weight * adaptive_weight(total, terms["adversarial"], last_layer)
            weighted["adversarial"] = weight * terms["adversarial"]
            total = total + weighted["adversarial"]
        for name, term in output.quantized.terms.items():
            terms[name], weighted[name] = term, self.term_weights[name] * term
            total = total + weighted[name]
        return Loss(total, {name: term.detach() for name, term in terms.items()}, weighted)

    def _over_paths(self, output: TokenizerOutput, term: Callable[[Tensor], Tensor], seed: Tensor | None) -> Tensor:
        """An image term on both paths, by the weights of the paths. `seed` is the gradient that will arrive at it; of
        one for which that is not known yet, None, the graph stays."""

        def on_path(image: Tensor, weight: float) -> Tensor:
            value = term(image) if seed is None or not weight else with_early_gradient(term, image, seed * weight)
            return weight * value

        total = on_path(output.reconstruction, self.config.quantized_path)
        if output.continuous_reconstruction is not None:
            total = total + on_path(output.continuous_reconstruction, self.config.continuous_path)
        return total

    def _perceived(self, images: Tensor) -> Tensor:
        """What LPIPS looks at: the images, or each of their channels by itself."""
        return images.flatten(0, 1)[:, None] if self.config.perceptual_channels == "each" else images

    def _pixel(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        difference = reconstruction - images
        values = difference.abs() if self.config.pixel == "l1" else difference.square()
        return reduce(values, self.config.pixel_reduction)


class DiscriminatorObjective:
    """What the discriminator minimises: the hinge loss and, by option, LeCam."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.lecam = LeCam() if config.lecam_weight else None

    def __call__(self, images: Tensor, output: TokenizerOutput, discriminator: nn.Module) -> Loss:
        """The loss of one micro-batch; no gradient reaches the tokenizer. `discriminator` may be wrapped."""
        reconstructions = [output.reconstruction, output.continuous_reconstruction]
        fakes = [fake.detach() for fake in reconstructions if fake is not None]
        # One call: several calls of a wrapped module before its backward pass are not all reduced alike.
        real, *fake_logits = discriminator(torch.cat([images, *fakes])).chunk(1 + len(fakes))
        hinge = discriminator_hinge(real, fake_logits)
        terms, total = {"discriminator": hinge}, hinge
        if self.lecam is not None:
            terms["lecam"] = self.lecam(real, fake_logits)
            total = total + self.config.lecam_weight * terms["lecam"]
        return Loss(total, {name: term.detach() for name, term in terms.items()})
