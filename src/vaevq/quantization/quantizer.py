"""What every quantizer is: a posterior in, tokens and the latent to decode out, with its own named loss terms."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.codebook import nearest_tokens
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.resizing import Resizing


@dataclass(frozen=True)
class Quantized:
    """The result of quantizing a batch.

    Attributes:
        latent: what the decoder takes, B×d×h×w: z_q, carrying gradient to the encoder in training; z_c where VAEVQ
            trains its continuous path first (`quantize_from`).
        tokens: int64 B×h×w in [0, K); B×h×w×q where a position has q > 1 codes.
        continuous: z_c, B×d×h×w, for the continuous path; None where the quantizer has none or in evaluation mode.
        terms: the quantizer's own loss terms, scalars before their weights; empty in evaluation mode.
    """

    latent: Tensor
    tokens: Tensor
    continuous: Tensor | None = None
    terms: Mapping[str, Tensor] = field(default_factory=dict)


class Quantizer(nn.Module):
    """A layer from a posterior to codewords. In evaluation mode it quantizes the posterior's mean, deterministically.

    Attributes:
        code_dim: d.
        codebook_size: K.
        codes_per_position: q; where it is above 1, tokens have a last axis of q codes.
        codebooks: how many the codes of a position are of: 1, or q, a codebook for each.
    """

    code_dim: int
    codebook_size: int
    codes_per_position: int = 1
    codebooks: int = 1

    @property
    @abstractmethod
    def term_weights(self) -> Mapping[str, float]:
        """The weight of each of its loss terms; a term of weight 0 is not computed."""

    @abstractmethod
    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes. `noise` is the posterior's ε, B×d×h×w; None draws it."""

    def finish_step(self) -> None:
        """To be called after each optimizer step: moves what no gradient moves. Every process calls it."""

    def abandon_step(self) -> None:
        """In the place of `finish_step` where no optimizer step was made: forgets what has been noted for it.

        Running moments of latents, which a forward pass moves, stay where it has moved them.
        """
        for part in self.modules():
            if isinstance(part, AveragedCodebook):
                part.abandon_step()

    @property
    def is_fitted(self) -> bool:
        """Whether its codebook is there. Nearly always; where it is not, training makes it of images (`fit`)."""
        return True

    def fit(self, vectors: Tensor, seed: int) -> None:
        """Makes the codebook of vectors of training images, N×D; for the quantizers that are not there without."""
        raise NotImplementedError

    def soft_latent(self, posterior: Posterior) -> Tensor | None:
        """What it would decode if there were no need of tokens, B×d×h×w in evaluation mode; None where it has no such.

        `vaevq.metrics.evaluation` measures it beside the tokens' latent, by option.
        """
        return None

    def resize(self, resizing: Resizing) -> None:
        """Takes another number of codewords, between two steps. Where `QuantizerConfig.resizable`, alone."""
        raise NotImplementedError(f"{type(self).__name__} keeps the codebook that it was made with")

    @abstractmethod
    def encode(self, posterior: Posterior) -> Tensor:
        """The tokens of the posterior's mean, int64 B×h×w or B×h×w×q."""

    @abstractmethod
    def lookup(self, tokens: Tensor) -> Tensor:
        """The latent of tokens, B×d×h×w: what `forward` gives in evaluation mode where `encode` gives these."""

    def nearest(self, latent: Tensor) -> Tensor:
        """Tokens of latents as `lookup` gives them, B×d×h×w, where these need not be any token's: the nearest ones.

        Where a position has several codes they are those of its own search, which for residual codes is greedy.
        """
        if self.codes_per_position > 1:
            return self.encode(Posterior(latent))
        all_tokens = torch.arange(self.codebook_size, device=latent.device).view(1, -1, 1)
        return nearest_tokens(latent, self.lookup(all_tokens)[0, :, :, 0].T.to(latent.dtype))
