"""Codebooks of another size: what is conserved, what every index becomes, and which codewords are split or merged."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaevq.config import QUANTIZERS, VariationalConfig
from vaevq.quantization import build_quantizer
from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.codebook import Codebook, lookup
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.resizing import Halves, Resizing, growth, nearest_other, perturbed_halves, room_for, shrinkage
from vaevq.quantization.search import nearest

SIZES = st.integers(2, 24)


def averaged(size: int, dim: int = 3, seed: int = 0) -> AveragedCodebook:
    """A codebook that has won unequally much, a quarter of it nothing."""
    random = torch.Generator().manual_seed(seed)
    made = AveragedCodebook(size, dim, average_decay=0.9).double()
    made.counts = torch.rand(size, generator=random, dtype=torch.float64) * 10
    made.counts[torch.rand(size, generator=random) < 0.25] = 0
    made.sums = torch.randn(size, dim, generator=random, dtype=torch.float64) * made.counts[:, None]
    made.embedding = torch.randn(size, dim, generator=random, dtype=torch.float64)
    return made


def shrunk(codebook: AveragedCodebook, size: int) -> Resizing:
    return shrinkage(codebook(), codebook.counts, size)


@settings(deadline=None)
@given(size=SIZES, fewer=st.integers(1, 20), seed=st.integers(0, 50))
def test_a_shrink_maps_survivors_one_to_one_and_the_dropped_to_the_nearest_of_them(
    size: int, fewer: int, seed: int
) -> None:
    codebook = averaged(size, seed=seed)
    wanted = max(1, size - fewer)
    if wanted == size:
        return
    found = shrunk(codebook, wanted)
    assert found.codebook_size == wanted
    assert found.source.tolist() == sorted(set(found.source.tolist()))
    assert found.target[found.source].tolist() == list(range(wanted)), "a bijection that keeps their order"
    survivors, all_of_them = codebook()[found.source], codebook()
    for old, new in enumerate(found.target.tolist()):
        distances = (survivors - all_of_them[old]).square().sum(dim=1)
        assert float(distances[new]) == pytest.approx(float(distances.min()))


@settings(deadline=None)
@given(size=SIZES, seed=st.integers(0, 50), data=st.data())
def test_what_all_codewords_have_won_stays_through_any_resizing(size: int, seed: int, data: st.DataObject) -> None:
    codebook = averaged(size, seed=seed)
    counts, sums = codebook.counts.sum(), codebook.sums.sum(dim=0)
    for _ in range(3):
        wanted = data.draw(st.integers(1, 2 * codebook.codebook_size))
        if wanted < codebook.codebook_size:
            codebook.resize(shrunk(codebook, wanted))
        elif wanted > codebook.codebook_size:
            codebook.resize(growth(perturbed_halves(codebook(), codebook.counts, seed), wanted))
        assert codebook.counts.shape == (codebook.codebook_size,)
        assert codebook.embedding.shape == codebook.sums.shape == (codebook.codebook_size, 3)
        torch.testing.assert_close(codebook.counts.sum(), counts)
        torch.testing.assert_close(codebook.sums.sum(dim=0), sums)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5), seed=st.integers(0, 20))
def test_maps_of_shrinks_one_after_another_lead_every_index_to_a_survivor(sizes: list[int], seed: int) -> None:
    sizes = sorted({*sizes, 31}, reverse=True)
    codebook = averaged(sizes[0], seed=seed)
    composed, survivors = torch.arange(sizes[0]), torch.arange(sizes[0])
    for before, after in pairwise(sizes):
        assert codebook.codebook_size == before
        step = shrunk(codebook, after)
        composed, survivors = step.target[composed], survivors[step.source]
        codebook.resize(step)
    assert composed[survivors].tolist() == list(range(sizes[-1]))
    assert set(composed.tolist()) == set(range(sizes[-1]))


def test_growth_appends_and_no_index_changes_its_meaning() -> None:
    codebook = averaged(6)
    halves = Halves(torch.full((6,), 0.25), torch.ones(6, 3), torch.tensor([0.0, 3.0, 0.0, 9.0, 1.0, 5.0]))
    found = growth(halves, 9)
    assert found.keeps_indices
    assert found.source.tolist() == [0, 1, 2, 3, 4, 5, 1, 3, 5], "the largest gains, in the order of their indices"
    assert growth(halves, 12).source.tolist() == [0, 1, 2, 3, 4, 5, 1, 3, 4, 5], "no gain, no cut"
    codebook.counts += 1
    before, counts = codebook.sums / codebook.counts[:, None], codebook.counts.clone()
    codebook.resize(found)
    ratio = codebook.counts[[1, 6]] / counts[1]
    torch.testing.assert_close(ratio, torch.tensor([0.25, 0.75], dtype=torch.float64))
    after = codebook.sums / codebook.counts[:, None]
    torch.testing.assert_close(after[[0, 2, 4]], before[[0, 2, 4]])
    torch.testing.assert_close(after[1], before[1] + 1)
    torch.testing.assert_close(after[6], before[1] - 1 / 3)


def test_unused_codewords_and_near_duplicates_go_first() -> None:
    codewords = torch.tensor([[0.0], [5.0], [5.01], [9.0], [20.0], [30.0]])
    won = torch.tensor([4.0, 6.0, 3.0, 0.0, 1.0, 8.0])
    assert shrinkage(codewords, won, 5).source.tolist() == [0, 1, 2, 4, 5], "nothing wins it"
    found = shrinkage(codewords, won, 4)
    assert found.source.tolist() == [0, 1, 4, 5], "of two that lie on one another the one that wins less"
    assert found.target.tolist() == [0, 1, 1, 1, 2, 3]


def greedy(codewords: Tensor, won: Tensor, size: int) -> list[int]:
    """One merger at a time, each looked for among all pairs of nearest neighbours."""
    left, weight = list(range(len(codewords))), won.tolist()
    while len(left) > size:
        best = None
        for i in left:
            others = [j for j in left if j != i]
            j = min(others, key=lambda j: float((codewords[i] - codewords[j]).square().sum()))
            distance = float((codewords[i] - codewords[j]).square().sum())
            both = weight[i] + weight[j]
            cost = weight[i] * weight[j] / both * distance if both else 0.0
            if best is None or (cost, weight[i]) < best[:2]:
                best = (cost, weight[i], i, j)
        assert best is not None
        weight[best[3]] += weight[best[2]]
        left.remove(best[2])
    return left


def test_one_codeword_less_is_what_a_slow_search_drops() -> None:
    for seed in range(30):
        codebook = averaged(12, seed=seed)
        assert shrunk(codebook, 11).source.tolist() == greedy(codebook(), codebook.counts, 11)


def test_merging_raises_the_error_by_little_more_than_the_slow_search_does() -> None:
    random = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 2, generator=random, dtype=torch.float64)
    codewords = points[:200]
    won = torch.bincount(nearest(points, codewords), minlength=200).double()

    def error(kept: list[int]) -> float:
        left = codewords[kept]
        return float((points - left[nearest(points, left)]).square().sum())

    mine, slow = shrinkage(codewords, won, 100).source.tolist(), greedy(codewords, won, 100)
    chance = torch.randperm(200, generator=random)[:100].sort().values.tolist()
    assert error(mine) < 1.05 * error(slow)
    assert error(mine) < 0.9 * error(chance)


def test_the_nearest_other_codeword_is_never_itself() -> None:
    codewords = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    index, distance = nearest_other(codewords)
    assert index.tolist() == [1, 0, 3, 2]
    assert distance.tolist() == [0, 0, 1, 1]


def test_an_embedding_is_another_parameter_afterwards_and_layers_over_all_codewords_are_refused() -> None:
    codebook = Codebook(5, 3)
    before = codebook.embedding
    found = growth(perturbed_halves(codebook().detach(), codebook.counts, 1), 7)
    codebook.resize(found)
    assert codebook.embedding is not before
    assert codebook.codebook_size == len(codebook()) == 7
    parents = found.source[5:]
    middle = (codebook.embedding[parents] + codebook.embedding[5:]) / 2
    torch.testing.assert_close(middle, before[parents])
    with pytest.raises(AssertionError):
        Codebook(5, 3, projection=True).resize(room_for(7, torch.zeros(5, 3)))


RESIZABLE = [kind for kind, config in QUANTIZERS.items() if config().resizable]


def test_what_can_be_resized() -> None:
    assert set(RESIZABLE) == {"vaevq", "vq", "vq_ema", "wasserstein"}
    assert not VariationalConfig(codebook="projected").resizable


@pytest.mark.parametrize("kind", RESIZABLE)
def test_a_quantizer_of_another_size_quantizes_and_learns(kind: str) -> None:
    layer = build_quantizer(QUANTIZERS[kind](code_dim=4, codebook_size=16))
    codebook = layer.codebook
    assert isinstance(codebook, Codebook | AveragedCodebook)
    mean = torch.randn(2, 4, 5, 5)
    layer.resize(growth(perturbed_halves(codebook().detach(), codebook.counts, 0), 24))
    assert layer.codebook_size == 24
    tokens = layer.encode(Posterior(mean))
    torch.testing.assert_close(layer.lookup(tokens), lookup(tokens, codebook()))
    layer.train()(Posterior(mean, torch.zeros_like(mean)))
    layer.finish_step()
    layer.resize(shrinkage(codebook().detach(), codebook.counts, 9))
    assert int(layer.encode(Posterior(mean)).max()) < layer.codebook_size == 9
