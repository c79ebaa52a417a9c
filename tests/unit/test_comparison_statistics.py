"""Intervals and paired differences against scipy."""

import random

import pytest
from scipy import stats

from vaevq.comparison.statistics import estimate, higher_is_better, paired_difference, t_quantile


@pytest.mark.parametrize("degrees", [*range(1, 41), 60, 120, 1000])
def test_the_quantiles_of_t_are_those_of_scipy(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=2e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_the_interval_is_that_of_scipy(count: int) -> None:
    values = [random.Random(i).gauss(24, 3) for i in range(count)]
    found = estimate(values)
    low, high = stats.t.interval(0.95, count - 1, loc=sum(values) / count, scale=stats.sem(values))
    assert found.half_width is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=1e-5)


def test_one_value_has_no_interval_and_decides_nothing() -> None:
    assert estimate([3.0]).half_width is None
    difference = paired_difference("psnr", {0: 30.0}, {0: 20.0})
    assert difference is not None
    assert difference.verdict == "open"


@pytest.mark.parametrize("name", ["psnr", "lpips_alexnet"])
@pytest.mark.parametrize("shift", [0.0, 0.4, -0.4, 2.0, -2.0])
def test_a_difference_is_decided_where_the_paired_test_decides(name: str, shift: float) -> None:
    noise = random.Random(3)
    theirs = {seed: 20 + 3 * noise.random() for seed in range(5)}
    ours = {seed: value + shift + 0.5 * noise.gauss(0, 1) for seed, value in theirs.items()}
    found = paired_difference(name, ours, theirs)
    assert found is not None
    test = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    assert (found.verdict != "open") == (test.pvalue < 0.05)
    low, high = test.confidence_interval(0.95)
    assert found.estimate.mean == pytest.approx((low + high) / 2)
    assert found.estimate.half_width == pytest.approx((high - low) / 2, rel=1e-5)
    if found.verdict != "open":
        assert (found.verdict == "better") == ((found.estimate.mean > 0) == (name == "psnr"))


def test_pairs_are_of_common_seeds() -> None:
    found = paired_difference("usage", {0: 0.5, 1: 0.7, 4: 0.9}, {1: 0.6, 4: 0.85, 2: 0.1})
    assert found is not None
    assert found.seeds == (1, 4)
    assert found.estimate.mean == pytest.approx(0.075)
    assert paired_difference("usage", {0: 0.5}, {1: 0.5}) is None


def test_what_has_no_better_side_is_not_judged() -> None:
    for name in ("usage_ceiling", "tokens_per_codeword", "psnr_deviation", "usage_training_queries", "bits_per_pixel"):
        assert higher_is_better(name) is None
        found = paired_difference(name, {0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5})
        assert found is not None
        assert found.verdict == "open"
    assert all(higher_is_better(name) for name in ("psnr", "ssim", "usage", "perplexity"))
    assert not any(higher_is_better(name) for name in ("lpips_vgg16", "rfid", "fd_inception", "kid_vgg16"))
