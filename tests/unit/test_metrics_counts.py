"""Many counts in few numbers and one line: nearest ranks, a scale on which a dead tail and a uniform use show."""

import numpy as np
import pytest
import torch

from vaevq.metrics.counts import BARS, deciles, sparkline


@pytest.mark.parametrize("size", [2, 3, 10, 16, 1000, 4096])
def test_deciles_are_numpys_nearest_ranks(size: int) -> None:
    counts = np.random.default_rng(size).geometric(0.01, size) - 1
    expected = np.quantile(counts, np.arange(11) / 10, method="inverted_cdf")
    assert deciles(torch.from_numpy(counts)) == expected.tolist()


def test_a_uniform_use_is_a_full_line_and_a_collapse_one_bar() -> None:
    assert sparkline(torch.full((4096,), 7)) == BARS[-1] * 40
    collapsed = torch.zeros(20, dtype=torch.int64)
    collapsed[13] = 5
    assert sparkline(collapsed) == BARS[-1] + "·" * 19


def test_bars_fall_and_as_many_columns_as_codewords_are_dead() -> None:
    counts = torch.tensor([2**i for i in range(30)] + [0] * 10)[torch.randperm(40)].repeat_interleave(100)
    line = sparkline(counts)
    assert line[30:] == "·" * 10
    assert list(line[:30]) == sorted(line[:30], reverse=True)
    assert set(line[:30]) == set(BARS), "on the logarithmic scale powers of two reach every height"


def test_a_codeword_that_occurs_once_is_never_drawn_as_dead() -> None:
    assert sparkline(torch.tensor([1, 10**12])) == BARS[-1] + BARS[0]
