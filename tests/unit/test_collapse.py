"""A codebook that falls out of use is warned of once, with the cause that the figures point to."""

from pathlib import Path
from typing import Any

import pytest

from runs import small_run
from vaevq.config import RunConfig
from vaevq.metrics.codebook import CodebookStatistics, TokenHistogram
from vaevq.training.collapse import CollapseWatch


def used(*counts: int) -> CodebookStatistics:
    return TokenHistogram.of_counts(counts).statistics()


GOOD, ONE = used(*[50] * 16), used(800, *[0] * 15)


def run(**sections: Any) -> RunConfig:
    return small_run(Path("photos"), **sections)


def test_it_is_told_once_and_again_after_a_recovery() -> None:
    watch = CollapseWatch(run())
    assert [watch.look(now, {}) is not None for now in (GOOD, ONE, ONE, GOOD, ONE)] == [False, True, False, False, True]


def test_usage_is_measured_against_what_so_many_tokens_can_reach() -> None:
    told = CollapseWatch(run()).look(ONE, {})
    assert told is not None
    assert told.startswith(
        "warning: the codebook falls out of use: held-out usage is 6.2% where 100.0% can be reached, below "
        "train.usage_floor 0.2 of it. "
    )
    few = used(*[1] * 4, *[0] * 12)  # four tokens cannot use sixteen codewords
    assert CollapseWatch(run()).look(few, {}) is None


def test_perplexity_sees_what_usage_hides() -> None:
    tail = used(100_000, *[1] * 15)
    assert tail.usage == 1
    told = CollapseWatch(run(train={"perplexity_floor": 0.1})).look(tail, {})
    assert told is not None
    assert "held-out perplexity is 1.0 where 16 can be reached, below train.perplexity_floor 0.1" in told
    assert CollapseWatch(run(train={"perplexity_floor": 0.05})).look(tail, {}) is None


def test_a_floor_of_0_asks_for_no_warning() -> None:
    assert CollapseWatch(run(train={"usage_floor": 0, "perplexity_floor": 0})).look(ONE, {}) is None


PLAIN: dict[str, Any] = {"loss": {"continuous_path": 0}}


@pytest.mark.parametrize(
    ("quantizer", "diagnostics", "remedy"),
    [
        ({}, {"posterior_kl_sum": 0.1}, "lower model.quantizer.kl_weight"),
        ({"code_dim": 32}, {"mean_dimension": 1.2}, "Latents vary in 1.2 of 32 dimensions"),
        ({"codebook": "embedding"}, {"posterior_kl_sum": 3.0}, "model.quantizer.codebook=averaged revives them"),
        ({"revive_below": 0}, {}, "set model.quantizer.revive_below"),
        ({"kind": "vq"}, {}, "model.quantizer.kind=vq_ema with model.quantizer.revive_below=0.3"),
        (
            {"kind": "simvq", "code_dim": 64},
            {},
            "64 dimensions are many for 16 codewords: try model.quantizer.code_dim=8",
        ),
        (
            {},
            {"posterior_kl_sum": 3.0, "mean_dimension": 3.0},
            "lower model.quantizer.codebook_size or let it be searched",
        ),
        ({"kind": "simvq"}, {}, "lower model.quantizer.codebook_size"),
    ],
)
def test_the_cause_is_the_first_that_figures_and_options_do_not_speak_against(
    quantizer: dict[str, Any], diagnostics: dict[str, float], remedy: str
) -> None:
    sections = PLAIN if "kind" in quantizer else {}
    told = CollapseWatch(run(model={"quantizer": quantizer}, **sections)).look(ONE, diagnostics)
    assert told is not None
    assert remedy in told
