"""What each codeword wins, measured on deterministic means, and what a cut through its cell would bring."""

import math

import torch
from torch import Tensor

from vaevq import distributed
from vaevq.nn.grid import as_rows
from vaevq.quantization.resizing import Halves
from vaevq.quantization.search import nearest
from vaevq.seeding import generator


class Cells:
    """Sums over the means that each of K codewords wins, over batches and processes.

    Each cell is cut by a hyperplane through its codeword with a seeded normal. Along dimensions in which its means
    vary much the cut falls more often: the means of its two sides lie apart along the covariance times the normal.

    Args:
        codewords: K×d; they may move between batches.
        seed: of the hyperplanes.

    Attributes:
        table: K×(3 + 2d): how many means, how many on the near side, the squared distances to the codeword, the sum
            of the distances as vectors, and that of the near side.
        moments: d + 2: the means' sum, the sum of their squared norms, and their number.
    """

    def __init__(self, codewords: Tensor, *seed: int | str) -> None:
        size, dim = codewords.shape
        self._normals = torch.randn(size, dim, generator=generator("cells", *seed)).to(codewords)
        self.table = codewords.new_zeros(size, 3 + 2 * dim)
        self.moments = codewords.new_zeros(dim + 2)
        self._pending = torch.zeros_like(self.table), torch.zeros_like(self.moments)

    @torch.no_grad()
    def observe(self, means: Tensor, codewords: Tensor) -> None:
        """Counts a micro-batch of this process: B×d×h×w and K×d. `finish_step` adds it up over processes."""
        rows = as_rows(means.detach()).to(self.table.dtype)
        tokens = nearest(rows, codewords)
        apart = rows - codewords[tokens]
        near = ((apart * self._normals[tokens]).sum(dim=1) > 0).to(rows.dtype)[:, None]
        squares = apart.square().sum(dim=1, keepdim=True)
        table, moments = self._pending
        table.index_add_(0, tokens, torch.cat([torch.ones_like(near), near, squares, apart, near * apart], dim=1))
        moments += torch.cat([rows.sum(dim=0), rows.square().sum()[None], rows.new_tensor([len(rows)])])

    @torch.no_grad()
    def finish_step(self) -> None:
        """Takes in what was observed since the last step; every process calls it."""
        for total, part in zip((self.table, self.moments), self._pending, strict=True):
            total += distributed.all_reduce_sum(part)
            part.zero_()

    def abandon_step(self) -> None:
        """Forgets what was observed since the last step."""
        for part in self._pending:
            part.zero_()

    @property
    def won(self) -> Tensor:
        """How many means each codeword has won, K."""
        return self.table[:, 0]

    @property
    def halves(self) -> Halves:
        """The measured cut: both halves at the mean of their side, the gain in squared distance."""
        dim = (self.table.shape[1] - 3) // 2
        won, near = self.table[:, 0], self.table[:, 1]
        cut = (near > 0) & (near < won)
        share = torch.where(cut, near / won.clamp_min(1), 0.5)
        apart, near_apart = self.table[:, 3 : 3 + dim], self.table[:, 3 + dim :]
        offset = near_apart / near.clamp_min(1)[:, None] - apart / won.clamp_min(1)[:, None]
        gain = near / (1 - share) * offset.square().sum(dim=1)
        return Halves(share, offset * cut[:, None], gain * cut)

    def perplexity_share(self, standing: Tensor) -> float:
        """Perplexity of the tokens over K.

        Args:
            standing: bool K; the others count as unused.

        The entropy of few tokens is low by about (used − 1) / 2T nats (Miller 1955), which is added.
        """
        won = self.won[standing & (self.won > 0)].cpu().double()
        if not len(won):
            return 0.0
        share = won / won.sum()
        entropy = float(-(share * share.log()).sum()) + (len(won) - 1) / (2 * float(won.sum()))
        return math.exp(entropy) / len(self.won)

    def gain_of_a_bit(self) -> float:
        """By how much the quantization error would fall, were every cell cut, as a share of the means' variance.

        A cut through finitely many means lowers their error by chance as well, on average by the variance within its
        halves; that much is taken off, so that a codeword which few means support has nothing to gain.
        """
        dim = len(self.moments) - 2
        won, error = self.table[:, 0], self.table[:, 2]
        about_mean = error - self.table[:, 3 : 3 + dim].square().sum(dim=1) / won.clamp_min(1)
        gain = self.halves.gain
        by_chance = (about_mean - gain).clamp_min(0) / (won - 2).clamp_min(1)
        fair = (gain - by_chance)[won > 2].cpu().double().sum()
        moments = self.moments.cpu().double()
        variance = moments[-2] - moments[:dim].square().sum() / moments[-1]
        return float(fair / variance) if variance > 0 else 0.0
