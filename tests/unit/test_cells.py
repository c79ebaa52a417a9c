"""What codewords win, against a slow twin and against arithmetic."""

import math

import pytest
import torch

from vaevq.quantization.cells import Cells
from vaevq.quantization.resizing import growth
from vaevq.quantization.search import nearest


def grid(rows: torch.Tensor) -> torch.Tensor:
    """N×d to 1×d×N×1."""
    return rows.T[None, :, :, None]


def measured(rows: torch.Tensor, codewords: torch.Tensor, parts: int = 1) -> Cells:
    cells = Cells(codewords, 7)
    for part in rows.chunk(parts):
        cells.observe(grid(part), codewords)
        cells.finish_step()
    return cells


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(900, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_halves_are_the_means_of_the_two_sides_and_the_gain_is_what_they_save(rows: torch.Tensor) -> None:
    codewords = rows[:20]
    cells = measured(rows, codewords, parts=4)
    tokens, halves = nearest(rows, codewords), cells.halves
    for k in range(20):
        mine = rows[tokens == k]
        near = ((mine - codewords[k]) @ cells._normals[k]) > 0
        assert cells.won[k] == len(mine)
        if near.all() or not near.any():
            assert halves.gain[k] == 0
            continue
        share, middle = float(near.double().mean()), mine.mean(dim=0)
        assert float(halves.share[k]) == pytest.approx(share)
        torch.testing.assert_close(middle + halves.offset[k], mine[near].mean(dim=0))
        torch.testing.assert_close(middle - halves.offset[k] * share / (1 - share), mine[~near].mean(dim=0))
        left = sum((side - side.mean(dim=0)).square().sum() for side in (mine[near], mine[~near]))
        assert float(halves.gain[k]) == pytest.approx(float((mine - middle).square().sum() - left))


def test_splitting_every_cell_lowers_the_error_by_what_was_measured(rows: torch.Tensor) -> None:
    many = torch.randn(60_000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    codewords = rows[:30]
    for _ in range(5):  # to the means of what they win
        tokens = nearest(many, codewords)
        codewords = torch.stack([many[tokens == k].mean(dim=0) for k in range(30)])
    cells = measured(many, codewords)
    found = growth(cells.halves, 60)
    split = codewords[found.source] + found.offset

    def error(book: torch.Tensor) -> float:
        return float(
            (many - book[nearest(many, book)]).square().sum() / many.var(dim=0, correction=0).sum() / len(many)
        )

    fallen = error(codewords) - error(split)
    assert fallen > 0.98 * cells.gain_of_a_bit(), "or more: queries may go to a half of another codeword"
    assert fallen < 1.6 * cells.gain_of_a_bit()


def test_a_cut_through_chance_gains_nothing_on_average() -> None:
    # Each codeword has won few means that are its own cell's noise in many dimensions: nothing to be found by a cut
    # but what chance gives, which in 64 dimensions is most of what is seen.
    random = torch.Generator().manual_seed(3)
    codewords = 100 * torch.randn(400, 64, generator=random, dtype=torch.float64)
    rows = codewords.repeat_interleave(6, dim=0) + torch.randn(2400, 64, generator=random, dtype=torch.float64)
    cells = measured(rows, codewords)
    dim, error = 64, float(cells.table[:, 2].sum())
    seen = float(cells.halves.gain.sum()) / error
    variance = cells.moments[-2] - cells.moments[:dim].square().sum() / cells.moments[-1]
    fair = cells.gain_of_a_bit() * float(variance) / error
    assert seen > 0.15
    assert abs(fair) < 0.03, "2/π of one dimension in 64"


def test_perplexity_is_that_of_the_standing_codewords_with_millers_correction() -> None:
    codewords = torch.arange(4.0)[:, None]
    cells = measured(codewords[torch.tensor([0] * 10 + [1] * 30 + [2] * 60)], codewords)
    shares = [0.1, 0.3, 0.6]
    entropy = -sum(p * math.log(p) for p in shares) + 2 / 200
    assert cells.perplexity_share(torch.ones(4, dtype=torch.bool)) == pytest.approx(math.exp(entropy) / 4)
    standing = torch.tensor([True, False, True, True])
    shares = [1 / 7, 6 / 7]
    entropy = -sum(p * math.log(p) for p in shares) + 1 / 140
    assert cells.perplexity_share(standing) == pytest.approx(math.exp(entropy) / 4)
    assert cells.perplexity_share(torch.zeros(4, dtype=torch.bool)) == 0
