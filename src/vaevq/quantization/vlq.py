"""Section "VLQ", eq. 1-4: z_c = μ + σ ⊙ ε, z_q the codeword nearest to it; with RCS (eq. 7), DCR (eq. 11) and KL.

Sampling spreads the queries, so that more codewords win and are moved; at inference the mean is quantized. By option
the continuous path goes first: until `quantize_from` images the decoder gets z_c, and the codebook follows.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaevq import distributed
from vaevq.config import VariationalConfig
from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.codebook import Codebook, lookup, nearest_tokens
from vaevq.quantization.dcr import distribution_consistency
from vaevq.quantization.gradient import passed_on
from vaevq.quantization.moments import RunningMoments
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized, Quantizer
from vaevq.quantization.rcs import representation_coherence
from vaevq.quantization.resizing import Resizing


class VariationalLatentQuantizer(Quantizer):
    """VAEVQ's quantizer: `VariationalLatentQuantizer(code_dim, codebook_size)(posterior)`.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.VariationalConfig`, by name.

    Attributes:
        images_seen: in training, over all processes, up to `quantize_from`; then it stands.

    Raises:
        pydantic.ValidationError: an unknown option or one out of its range.
    """

    images_seen: Tensor

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        super().__init__()
        self.config = VariationalConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        self.code_dim = code_dim
        self.codebook_size = codebook_size
        self.codebook: Codebook | AveragedCodebook
        if self.config.codebook == "averaged":
            averages = {"average_decay": self.config.average_decay, "revive_below": self.config.revive_below}
            self.codebook = AveragedCodebook(codebook_size, code_dim, **averages)
        else:
            self.codebook = Codebook(codebook_size, code_dim, projection=self.config.codebook == "projected")
        needs_moments = self.config.dcr_weight > 0 and self.config.dcr_target == "aggregate_posterior"
        self.moments = RunningMoments(code_dim) if needs_moments else None
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        self._images_of_step = 0

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weights λ of RCS, DCR and KL."""
        return {"rcs": self.config.rcs_weight, "dcr": self.config.dcr_weight, "kl": self.config.kl_weight}

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes the sample (or the mean, by option) in training and the mean in evaluation mode."""
        codewords = self.codebook()
        if not self.training:
            tokens = nearest_tokens(posterior.mean, codewords)
            return Quantized(lookup(tokens, codewords), tokens)
        sample = posterior.sample(noise)
        source = sample if self.config.quantize == "sample" else posterior.mean
        tokens = nearest_tokens(source, codewords)
        codeword = lookup(tokens, codewords)
        self.codebook.observe(posterior.mean, tokens)
        if self._is_continuous:
            self._images_of_step += len(tokens)
            # Nothing of the codebook reaches the encoder; the codebook goes to the latents.
            return Quantized(sample, tokens, None, self._terms(codewords, codeword, source, posterior, share=0.0))
        terms = self._terms(codewords, codeword, source, posterior, share=self.config.rcs_encoder_share)
        return Quantized(self._with_encoder_gradient(source, codeword, posterior), tokens, sample, terms)

    def finish_step(self) -> None:
        """Moves an averaged codebook, and counts the images of the step."""
        self.codebook.finish_step()
        if self._is_continuous:
            self.images_seen += distributed.all_reduce_sum(self.images_seen.new_tensor(self._images_of_step))
            self._images_of_step = 0

    def abandon_step(self) -> None:
        """Forgets what was noted, and the images of the step."""
        super().abandon_step()
        self._images_of_step = 0

    def resize(self, resizing: Resizing) -> None:
        """Resizes the codebook."""
        self.codebook.resize(resizing)
        self.codebook_size = resizing.codebook_size
        self.config = self.config.model_copy(update={"codebook_size": self.codebook_size})

    def encode(self, posterior: Posterior) -> Tensor:
        """The tokens of the posterior's mean, int64 B×h×w."""
        return nearest_tokens(posterior.mean, self.codebook())

    def lookup(self, tokens: Tensor) -> Tensor:
        """Codewords (after the projection) of tokens: int64 B×h×w to B×d×h×w."""
        return lookup(tokens, self.codebook())

    @property
    def _is_continuous(self) -> bool:
        """Whether the decoder still gets z_c."""
        return bool(self.config.quantize_from) and int(self.images_seen) < (self.config.quantize_from or 0)

    def _with_encoder_gradient(self, source: Tensor, codeword: Tensor, posterior: Posterior) -> Tensor:
        """z_q in value; the decoder's gradient goes to the encoder and, by option, to the codebook."""
        value = codeword.detach()
        if self.config.gradient != "reparameterized":
            latent = passed_on(source, value, self.config.gradient)
        else:
            # The codeword as a draw of the posterior, so that σ and μ both receive the decoder's gradient.
            draw = ((value - posterior.mean) / posterior.std).detach()
            latent = posterior.mean + posterior.std * draw
        return latent + (codeword - value) if self.config.codebook_gradient else latent

    def _terms(
        self, codewords: Tensor, codeword: Tensor, source: Tensor, posterior: Posterior, *, share: float
    ) -> Mapping[str, Tensor]:
        """The loss terms; `share` is RCS's pull on the encoder."""
        config, terms = self.config, dict[str, Tensor]()
        if config.rcs_weight:
            terms["rcs"] = representation_coherence(
                codeword,
                posterior,
                log_term=config.rcs_form == "nll",
                detach_sigma=config.rcs_detach_sigma,
                min_std=config.rcs_min_std,
                encoder_share=share,
                reduction=config.rcs_reduction,
            )
        if config.dcr_weight:
            target = self.moments.update(source) if self.moments is not None else None
            terms["dcr"] = distribution_consistency(codewords, target, square_root_term=config.dcr_square_root_term)
        if config.kl_weight:
            terms["kl"] = posterior.kl(config.kl_reduction)
        return terms
