"""Residual quantization (RVQ, Zeghidour et al. 2021, alg. 1; RQ-VAE, Lee et al. 2022).

r_0 = z; k_i = argmin_k ‖r_{i−1} − e_k‖², r_i = r_{i−1} − e_{k_i}; z_q = Σ e_{k_i}: a position has q codes, each of what
those before it leave. RVQ has a codebook for each code, RQ-VAE one for all. Commitment is RQ-VAE's,
Σ ‖r_{i−1} − sg(e_{k_i})‖², so that every partial sum is near to z.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vaevq.config import ResidualConfig
from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.codebook import Codebook, lookup, nearest_tokens
from vaevq.quantization.codes import apart, together
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized, Quantizer


@dataclass(frozen=True)
class _Step:
    """A depth: what it quantizes, B×d×h×w with gradient to the encoder, and what it chooses of its codebook."""

    residual: Tensor
    grid: Tensor
    codeword: Tensor


class ResidualQuantizer(Quantizer):
    """q codebooks one after another, or one for all depths; averaged (as VQ-EMA's) or descended.

    Where averaged codebooks start from latents (`revive_below`), each waits for a step of the one before it, which
    until then leaves all of the latent.

    Args:
        code_dim: d.
        codebook_size: K, of each codebook.
        options: the further fields of `vaevq.config.ResidualConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        super().__init__()
        self.config = ResidualConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        self.code_dim = code_dim
        self.codebook_size = codebook_size
        self.codes_per_position = self.config.codes_per_position
        self.codebooks = 1 if self.config.shared_codebook else self.codes_per_position
        self.stages = nn.ModuleList(self._new_codebook() for _ in range(self.codebooks))

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weight of the codebook's side, where it is descended, and β of the encoder's."""
        descended = self.config.codebook == "embedding"
        return {
            "codebook": self.config.codebook_weight if descended else 0.0,
            "commitment": self.config.commitment_weight,
        }

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes the mean; `noise` has no meaning here."""
        latent = posterior.mean
        steps = self._steps(latent)
        tokens, codeword = self._tokens(steps), _summed([step.codeword for step in steps])
        if not self.training:
            return Quantized(codeword, tokens)
        self._observe(steps)
        terms = dict[str, Tensor]()
        if self.term_weights["codebook"]:
            terms["codebook"] = _summed([mse_loss(step.codeword, step.residual.detach()) for step in steps])
        if self.term_weights["commitment"]:
            terms["commitment"] = _summed([mse_loss(step.residual, step.codeword.detach()) for step in steps])
        return Quantized(latent + (codeword - latent).detach(), tokens, terms=terms)

    def finish_step(self) -> None:
        """Moves averaged codebooks."""
        for depth in range(self.codebooks):
            self._stage(depth).finish_step()

    def encode(self, posterior: Posterior) -> Tensor:
        """The tokens of the posterior's mean, int64 B×h×w×q, from the coarsest to the finest."""
        return self._tokens(self._steps(posterior.mean))

    def lookup(self, tokens: Tensor) -> Tensor:
        """Sums of codewords of tokens: int64 B×h×w×q to B×d×h×w."""
        grids = apart(tokens, self.codes_per_position)
        of_depths = grids.view(-1, self.codes_per_position, *grids.shape[1:]).unbind(dim=1)
        return _summed([lookup(grid, self._stage(depth)()) for depth, grid in enumerate(of_depths)])

    def _new_codebook(self) -> Codebook | AveragedCodebook:
        config = self.config
        if config.codebook == "embedding":
            return Codebook(config.codebook_size, config.code_dim)
        averages = {"average_decay": config.average_decay, "revive_below": config.revive_below}
        return AveragedCodebook(config.codebook_size, config.code_dim, **averages)

    def _stage(self, depth: int) -> Codebook | AveragedCodebook:
        """The codebook of a depth."""
        stage = self.stages[0 if self.config.shared_codebook else depth]
        assert isinstance(stage, Codebook | AveragedCodebook)
        return stage

    def _steps(self, latent: Tensor) -> list[_Step]:
        steps, residual = list[_Step](), latent
        for depth in range(self.codes_per_position):
            codewords = self._stage(depth)()
            grid = nearest_tokens(residual, codewords)
            steps.append(_Step(residual, grid, lookup(grid, codewords)))
            residual = residual - steps[-1].codeword.detach()
        return steps

    def _tokens(self, steps: Sequence[_Step]) -> Tensor:
        return together(_by_image([step.grid for step in steps]), self.codes_per_position)

    def _observe(self, steps: Sequence[_Step]) -> None:
        """Notes what averaged codebooks won; one for all depths as of one batch, image by image on every process."""
        if self.config.shared_codebook:
            residuals, grids = ([getattr(step, name) for step in steps] for name in ("residual", "grid"))
            self._stage(0).observe(_by_image(residuals), _by_image(grids))
            return
        for depth, step in enumerate(steps):
            if self._has_start(depth):
                self._stage(depth).observe(step.residual, step.grid)

    def _has_start(self, depth: int) -> bool:
        """Whether the codebook of a depth has something to start from."""
        before = self._stage(depth - 1) if depth and self.config.revive_below else None
        return not isinstance(before, AveragedCodebook) or int(before.updates) > 0


def _by_image(of_depths: Sequence[Tensor]) -> Tensor:
    """Tensors B×… of each depth as one, (B·q)×…, those of an image one after another."""
    return torch.stack(list(of_depths), dim=1).flatten(0, 1)


def _summed(parts: Sequence[Tensor]) -> Tensor:
    """In their order, so that sums of the same codewords are equal to the last bit."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
