"""A codebook that is averaged, not descended (van den Oord et al. 2017, app. A.1).

N ← γN + (1 − γ)n, m ← γm + (1 − γ)Σz, e = m / N: the mean of the latents that a codeword wins.
"""

import torch
from torch import Tensor, nn

from vaevq import distributed
from vaevq.nn.grid import as_rows
from vaevq.quantization.codebook import initial_codewords
from vaevq.quantization.resizing import Resizing
from vaevq.seeding import generator

SMOOTHING = 1e-5
"""ε of the Laplace smoothing of N, which keeps the division finite for codewords that nothing chooses."""

MOST_PENDING = 64
"""Micro-batches of one step; with more, nobody finishes steps."""


class AveragedCodebook(nn.Module):
    """K codewords of d dimensions, each the moving average of the latents that it wins; no gradient moves them.

    Args:
        codebook_size: K.
        code_dim: d.
        average_decay: γ.
        revive_below: codewords that win less than this share of the mean are replaced by latents of the batch
            (Dhariwal et al. 2020), and the whole codebook starts from latents of the first batch; 0: neither.

    Attributes:
        revived: bool K, which the last step replaced; None where nothing is revived.
    """

    embedding: Tensor
    counts: Tensor
    sums: Tensor
    updates: Tensor

    def __init__(self, codebook_size: int, code_dim: int, *, average_decay: float, revive_below: float = 0.0) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.code_dim = code_dim
        self.average_decay = average_decay
        self.revive_below = revive_below
        # Buffers, which the average of the weights copies: a mean of a codeword's old place and its new is neither.
        self.register_buffer("embedding", initial_codewords(codebook_size, code_dim))
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", self.embedding.clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.revived: Tensor | None = None
        self._pending: list[tuple[Tensor, Tensor]] = []  # of the micro-batches of a step

    def forward(self) -> Tensor:
        """e_k, K×d."""
        return self.embedding

    def observe(self, latents: Tensor, tokens: Tensor) -> None:
        """Notes what a micro-batch won; `finish_step` moves the codewords.

        Args:
            latents: B×d×h×w, with the same B, h and w in every micro-batch and on every process.
            tokens: int64 B×h×w, what each of them chose.

        Raises:
            RuntimeError: `finish_step` is never called.
        """
        rows = as_rows(latents.detach()).to(self.sums.dtype)
        self._pending.append((rows, tokens.flatten()))
        if len(self._pending) > MOST_PENDING:
            raise RuntimeError("an averaged codebook moves in finish_step(): call it after each optimizer step")

    @torch.no_grad()
    def finish_step(self) -> None:
        """Takes all that was noted since the last step into the averages, over all processes, as one batch."""
        if not self._pending:
            return
        won, totals = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        for rows, tokens in self._pending:
            won += torch.bincount(tokens, minlength=self.codebook_size).to(won.dtype)
            totals.index_add_(0, tokens, rows)
        won = distributed.all_reduce_sum(won)
        if self.revive_below and self.updates == 0:
            # As if each had won the mean number of a batch, or in a large codebook none would be given up for long.
            self.counts *= won.sum() / self.codebook_size
            self.sums *= won.sum() / self.codebook_size
        self.counts.lerp_(won, 1 - self.average_decay)
        self.sums.lerp_(distributed.all_reduce_sum(totals), 1 - self.average_decay)
        if self.revive_below:
            self._revive(torch.stack([rows for rows, _ in self._pending]))
        self.embedding.copy_(self._means())
        self.updates += 1
        self._pending.clear()

    def abandon_step(self) -> None:
        """Forgets what was noted since the last step."""
        self._pending.clear()

    @torch.no_grad()
    def resize(self, resizing: Resizing) -> None:
        """Takes another number of codewords, between two steps; what all of them have won stays as it is."""
        assert not self._pending, "a codebook is resized after finish_step()"
        self.counts, self.sums = resizing.pooled(self.counts), resizing.pooled(self.sums)
        self.sums += self.counts[:, None] * resizing.offset
        self.codebook_size, self.revived = resizing.codebook_size, None
        self.embedding = self._means()

    def _means(self) -> Tensor:
        total = self.counts.sum()
        smoothed = (self.counts + SMOOTHING) / (total + self.codebook_size * SMOOTHING) * total
        return self.sums / smoothed[:, None]

    def _revive(self, rows: Tensor) -> None:
        """Gives codewords that win too little the place of latents of the batch, as if they won the mean number."""
        mean = self.counts.mean()
        # Before the first update the codebook has nothing to do with the latents: all of it starts from them.
        dead = (self.counts < self.revive_below * mean) | (self.updates == 0)
        self.sums[dead] = self._chosen(rows)[dead] * mean
        self.counts[dead] = mean
        self.revived = dead

    def _chosen(self, rows: Tensor) -> Tensor:
        """K latents of the whole batch as a function of the number of updates, however it is shared out.

        Args:
            rows: this process's, micro-batches × positions × d.
        """
        parts, share = rows.shape[:2]
        count, places = distributed.world_size(), parts * share * distributed.world_size()
        random = generator("revive", int(self.updates))
        place = torch.randint(places, (self.codebook_size,), generator=random).to(rows.device)
        part, within = place // (share * count), place % (share * count)
        mine = (within // share == distributed.rank()).to(rows.dtype)
        return distributed.all_reduce_sum(rows[part, within % share] * mine[:, None])
