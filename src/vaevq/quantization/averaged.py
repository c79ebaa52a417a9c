"""A codebook that is averaged, not descended (van den Oord et al. 2017, app. A.1).

N ← γN + (1 − γ)n, m ← γm + (1 − γ)Σz, e = m / N: the mean of the latents that a codeword wins.
"""

import torch
from torch import Tensor, nn

from vaevq import distributed
from vaevq.quantization.codebook import initial_codewords
from vaevq.seeding import generator

SMOOTHING = 1e-5
"""ε of the Laplace smoothing of N, which keeps the division finite for codewords that nothing chooses."""


class AveragedCodebook(nn.Module):
    """K codewords of d dimensions, each the moving average of the latents that it wins; no gradient moves them.

    Args:
        codebook_size: K.
        code_dim: d.
        decay: γ.
        revive_below: codewords that win less than this share of the mean are replaced by latents of the batch
            (Dhariwal et al. 2020), and the whole codebook starts from latents of the first batch; 0: neither.
    """

    embedding: Tensor
    counts: Tensor
    sums: Tensor
    updates: Tensor

    def __init__(self, codebook_size: int, code_dim: int, *, decay: float, revive_below: float = 0.0) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.code_dim = code_dim
        self.decay = decay
        self.revive_below = revive_below
        # Buffers, which the average of the weights copies: a mean of a codeword's old place and its new is neither.
        self.register_buffer("embedding", initial_codewords(codebook_size, code_dim))
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", self.embedding.clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        """e_k, K×d."""
        return self.embedding.clone()  # an update must not change what a backward pass still needs

    @torch.no_grad()
    def update(self, latents: Tensor, tokens: Tensor) -> None:
        """Takes a batch into the averages, over all processes.

        Args:
            latents: B×d×h×w, with the same B, h and w on every process.
            tokens: int64 B×h×w, what each of them chose.
        """
        rows = latents.detach().permute(0, 2, 3, 1).reshape(-1, self.code_dim).to(self.sums.dtype)
        flat = tokens.flatten()
        won = torch.bincount(flat, minlength=self.codebook_size).to(self.counts.dtype)
        totals = torch.zeros_like(self.sums).index_add_(0, flat, rows)
        self.counts.lerp_(distributed.all_reduce_sum(won), 1 - self.decay)
        self.sums.lerp_(distributed.all_reduce_sum(totals), 1 - self.decay)
        if self.revive_below:
            self._revive(rows)
        total = self.counts.sum()
        smoothed = (self.counts + SMOOTHING) / (total + self.codebook_size * SMOOTHING) * total
        self.embedding.copy_(self.sums / smoothed[:, None])
        self.updates += 1

    def _revive(self, rows: Tensor) -> None:
        """Gives codewords that win too little the place of latents of the batch, as if they won the mean number."""
        mean = self.counts.mean()
        # Before the first update the codebook has nothing to do with the latents: all of it starts from them.
        dead = (self.counts < self.revive_below * mean) | (self.updates == 0)
        self.sums[dead] = self._chosen(rows)[dead] * mean
        self.counts[dead] = mean

    def _chosen(self, rows: Tensor) -> Tensor:
        """K latents of the whole batch, the same on every process, as a function of the number of updates."""
        share, rank = len(rows), distributed.rank()
        places = torch.randint(
            share * distributed.world_size(), (self.codebook_size,), generator=generator("revive", int(self.updates))
        ).to(rows.device)
        mine = (places // share == rank).to(rows.dtype)
        return distributed.all_reduce_sum(rows[places % share] * mine[:, None])
