"""VQGAN-LC (Zhu et al. 2024, arXiv 2406.11837): K cluster centres of features of the training images, frozen, through
a trained linear layer; the nearest in the latent's space. Loss and gradient are plain VQ's.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vaevq import distributed
from vaevq.config import VqganLcConfig
from vaevq.quantization.baselines.vq import PointQuantizer
from vaevq.quantization.codebook import Codebook
from vaevq.quantization.kmeans import kmeans
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized

FLOOR = 1e-12
"""Of the deviation that features are divided by."""


class FeatureCodebook(Codebook):
    """A frozen embedding, K×D, through a linear layer with bias from D to d; random until it is filled."""

    embedding: Tensor  # type: ignore[assignment]

    def __init__(self, codebook_size: int, code_dim: int, feature_dim: int) -> None:
        super().__init__(codebook_size, feature_dim)
        self.code_dim = code_dim
        # A buffer, which the average of the weights copies: it changes once, and then altogether.
        del self.embedding
        self.register_buffer("embedding", torch.randn(codebook_size, feature_dim))
        self.projection = nn.Linear(feature_dim, code_dim)
        nn.init.zeros_(self.projection.bias)


class VqganLc(PointQuantizer):
    """Vector quantization over a frozen codebook that `fit` makes of vectors of the training images.

    Until then the codebook is random; in training the decoder gets the latent itself, and every token is 0. Clusters of
    the tokenizer's own latents (`features: warm_up`) start as codewords in their place, the layer being the identity.
    Other centres are moved to the mean 0 and scaled to the deviation d^-½, and the layer starts at random, so that
    codewords start at the size of SimVQ's; the layer could undo it. At a deviation of 1 they stood so far about the
    first latents that few were ever chosen.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.VqganLcConfig`, by name.
    """

    fitted: Tensor
    codebook: FeatureCodebook

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        self.config = VqganLcConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        codebook = FeatureCodebook(codebook_size, code_dim, self.config.vector_dim)
        super().__init__(
            codebook, codebook_weight=self.config.codebook_weight, commitment_weight=self.config.commitment_weight
        )
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        if self.config.features == "warm_up":
            assert codebook.projection is not None
            nn.init.eye_(codebook.projection.weight)

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has been."""
        return bool(self.fitted)

    @torch.no_grad()
    def fit(self, vectors: Tensor, seed: int) -> None:
        """Fills the codebook with the vectors' cluster centres; K vectors are taken as they are.

        Args:
            vectors: N×D with N ≥ K. Every process calls this; the first one's count, others may give 0×D.
            seed: of where clusters start.
        """
        embedding = self.codebook.embedding
        centres = torch.zeros_like(embedding)
        if distributed.rank() == 0:
            size = self.codebook_size
            found = vectors
            if len(vectors) > size:
                found = kmeans(vectors, size, steps=self.config.clustering_steps, seed=seed)
            centres = found.to(embedding)
            if self.config.features != "warm_up":
                centres = centres - centres.mean(dim=0)
                centres *= self.code_dim**-0.5 / centres.std(correction=0).clamp_min(FLOOR)
        embedding.copy_(distributed.all_reduce_sum(centres))
        self.fitted.fill_(True)

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes the mean, or passes it on before `fit`; `noise` has no meaning here."""
        if self.is_fitted or not self.training:
            return super().forward(posterior)
        mean = posterior.mean
        # The layer takes part in every step, or optimizers would count its steps otherwise on several processes.
        untouched = 0.0 * torch.stack([parameter.sum() for parameter in self.codebook.parameters()]).sum()
        return Quantized(mean + untouched, mean.new_zeros(mean[:, 0].shape, dtype=torch.int64))
