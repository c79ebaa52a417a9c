"""The search that screens in 8 bits against the search that scores everything, index for index."""

from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaevq.quantization import search
from vaevq.quantization.screening import GROUP, Screen
from vaevq.quantization.search import nearest


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole_numbers(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Most distances occur several times."""
    return drawn(n, d, seed=0).round(), drawn(k, d, seed=1).round()


def near_pairs(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Of each pair of codewords 8 bits cannot tell which is nearer."""
    codewords = drawn(-(-k // 2), d, seed=1).repeat_interleave(2, dim=0)[:k]
    return drawn(n, d, seed=0), codewords + 1e-3 * drawn(k, d, seed=2)


def clusters(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Distances to the nearest are small beside the norms."""
    centres = 3 * drawn(7, d, seed=2)
    return centres[torch.arange(n) % 7] + 0.02 * drawn(n, d, seed=0), centres[torch.arange(k) % 7] + 0.02 * drawn(
        k, d, seed=1
    )


def at_the_start(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Codewords as training begins: tiny beside the latents."""
    return drawn(n, d, seed=0), drawn(k, d, seed=1) / k


def some_far(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """A few latents and codewords are a thousand times as large."""
    latents, codewords = drawn(n, d, seed=0), drawn(k, d, seed=1)
    latents[::50] *= 1000
    codewords[::77] *= 1000
    return latents, codewords


DATA: list[Callable[[int, int, int], tuple[Tensor, Tensor]]] = [
    lambda n, k, d: (drawn(n, d, seed=0), drawn(k, d, seed=1)),
    whole_numbers,
    near_pairs,
    clusters,
    at_the_start,
    some_far,
]


@pytest.fixture(autouse=True)
def screened() -> Iterator[None]:
    """Screening at any size, on any processor, however little it helps."""
    changes = {"LEAST_CODEWORDS": 1, "LEAST_NUMBERS": 1, "MOST_GROUPS": 1, "has_fast_bytes": lambda: True}
    with mock.patch.multiple(search, **changes):
        yield


def by_tiles(latents: Tensor, codewords: Tensor) -> Tensor:
    with mock.patch.object(search, "has_fast_bytes", return_value=False):
        return nearest(latents, codewords)


@settings(max_examples=40, deadline=None)
@given(
    made=st.sampled_from(DATA),
    n=st.integers(4, 1300),
    k=st.integers(1, 1500),
    d=st.integers(search.LEAST_DIM, 70),
    span=st.sampled_from([GROUP, 3 * GROUP, search.SPAN]),
    together=st.sampled_from([8, 300, search.SCREENED]),
)
def test_screening_changes_no_token(
    made: Callable[[int, int, int], tuple[Tensor, Tensor]], n: int, k: int, d: int, span: int, together: int
) -> None:
    latents, codewords = made(n, k, d)
    with mock.patch.multiple(search, SPAN=span, SCREENED=together):
        assert torch.equal(nearest(latents, codewords), by_tiles(latents, codewords))


def test_of_equal_codewords_in_several_spans_the_first_is_taken() -> None:
    codewords = drawn(50, 16, seed=1).repeat(20, 1)
    with mock.patch.object(search, "SPAN", 2 * GROUP):
        tokens = nearest(drawn(200, 16, seed=0), codewords)
    assert int(tokens.max()) < 50
    assert len(tokens.unique()) > 10


def test_screening_leaves_a_small_part_of_the_codewords_and_always_the_nearest() -> None:
    latents, codewords = drawn(512, 64, seed=0), drawn(8192, 64, seed=1)
    groups = Screen(codewords, 0.5 * codewords.square().sum(dim=1)).groups(latents)
    assert groups is not None
    assert float(groups.float().mean()) < 0.2
    assert groups[torch.arange(512), by_tiles(latents, codewords) // GROUP].all()


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan"), 1e30])
def test_values_that_cannot_be_screened_are_searched_all_the_same(value: float) -> None:
    latents, codewords = drawn(300, 8, seed=0), drawn(400, 8, seed=1)
    for changed in (latents, codewords):
        before = changed.clone()
        changed[5:7] = value
        if value == 0.0:
            changed.zero_()
        assert torch.equal(nearest(latents, codewords), by_tiles(latents, codewords))
        changed.copy_(before)


def test_where_screening_leaves_too_much_everything_is_scored() -> None:
    latents, codewords = clusters(3 * search.LATENT_TILE, 4 * GROUP, 8)
    with mock.patch.object(search, "MOST_GROUPS", 4), mock.patch.object(Screen, "groups", autospec=True) as groups:
        groups.side_effect = lambda self, rows: torch.ones(len(rows), 4, dtype=torch.bool)
        tokens = nearest(latents, codewords)
    assert groups.call_count == 1
    assert torch.equal(tokens, by_tiles(latents, codewords))


@pytest.mark.parametrize(("n", "k"), [(2047, 4096), (2048, 4095)])
def test_a_small_search_is_not_screened(n: int, k: int) -> None:
    sizes = {"LEAST_CODEWORDS": 1 << 12, "LEAST_NUMBERS": 1 << 17}
    with mock.patch.multiple(search, **sizes), mock.patch.object(search, "Screen", side_effect=AssertionError):
        nearest(drawn(n, 64, seed=0), drawn(k, 64, seed=1))
        with pytest.raises(AssertionError):
            nearest(drawn(2048, 64, seed=0), drawn(4096, 64, seed=1))
        nearest(drawn(2048, 64, seed=0).double(), drawn(4096, 64, seed=1).double())


@pytest.mark.parametrize("n", [*range(1, 6), *range(512, 518)])
def test_a_last_tile_of_few_latents_gets_the_tokens_that_tiles_give(n: int) -> None:
    # Pairs so near that what float32 rounds decides: products of few rows are summed in another order.
    codewords = drawn(600, 16, seed=1).repeat_interleave(2, dim=0)
    codewords = codewords + 1e-7 * drawn(1200, 16, seed=2)
    for seed in range(3, 8):
        latents = drawn(n, 16, seed=seed)
        assert torch.equal(nearest(latents, codewords), by_tiles(latents, codewords))
