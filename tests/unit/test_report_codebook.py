"""The report's plots of a codebook: the plane of its codewords, and what a uniform use would show."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from runs import small_run
from vaevq.data.held_out import run_images
from vaevq.errors import UserError
from vaevq.report.codebook_plots import histogram_chart, projection_chart, uniform_ranks
from vaevq.report.projection import Projection, project, projection_of, read_projection, write_projection
from vaevq.tokenizer import Tokenizer


def some(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Points that vary less and less along axes that are not those of the space."""
    random = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)))[0]
    return (torch.randn(count, dim, generator=random) * 0.5 ** torch.arange(dim)) @ turn + 3


def dots(chart: str) -> int:
    return chart.count("h0")


def test_the_plane_is_that_of_the_singular_value_decomposition() -> None:
    codewords, latents = some(200, 5), some(50, 5, seed=1)
    found = project(codewords, latents)
    _, values, axes = np.linalg.svd((codewords - codewords.mean(0)).double().numpy(), full_matrices=False)
    assert found.shares == pytest.approx((values**2 / (values**2).sum())[:2])
    for points, places in ((codewords, found.codewords), (latents, found.latents)):
        expected = (points - codewords.mean(0)).double().numpy() @ axes[:2].T
        assert np.abs(places) == pytest.approx(np.abs(expected), abs=1e-5)
    spread = latents.double() - latents.double().mean(0)
    inside = np.square(spread.numpy() @ axes[:2].T).sum() / spread.square().sum()
    assert found.latent_share == pytest.approx(float(inside))


def test_equal_codebooks_in_another_order_give_the_same_picture() -> None:
    codewords, latents = some(64, 4), some(20, 4, seed=1)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    one, other = project(codewords, latents), project(codewords[order], latents)
    assert one.codewords[order.numpy()] == pytest.approx(other.codewords, abs=1e-5)


def test_two_dimensions_are_shown_as_they_are() -> None:
    codewords, latents = some(30, 2), some(10, 2, seed=1)
    found = project(codewords, latents)
    assert found.codewords == pytest.approx(codewords.numpy())
    assert found.latents == pytest.approx(latents.numpy())
    assert (sum(found.shares), found.latent_share) == pytest.approx((1.0, 1.0))


def test_a_collapsed_codebook_is_a_point_without_shares() -> None:
    found = project(torch.ones(8, 3), torch.ones(4, 3))
    assert (found.shares, found.latent_share) == ((0.0, 0.0), 0.0)
    assert dots(projection_chart(found, [4] + [0] * 7, "words")) == 2  # the used ones in one place, the dead in another


def test_a_projection_is_read_as_it_was_written_and_a_damaged_one_is_one_line(tmp_path: Path) -> None:
    made = project(some(30, 4), some(10, 4))
    write_projection(tmp_path, made)
    found = read_projection(tmp_path)
    assert found is not None
    assert (found.codewords == made.codewords).all()
    assert (found.latents == made.latents).all()
    assert (found.code_dim, found.shares, found.latent_share) == (4, made.shares, made.latent_share)
    (tmp_path / "projection.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"projection\.safetensors: damaged"):
        read_projection(tmp_path)
    write_projection(tmp_path, None)
    assert read_projection(tmp_path) is None


def test_latents_are_the_held_out_means_that_are_quantized(photos: Path) -> None:
    config = small_run(photos)
    held_out, options = run_images(config.data, config.seed).held_out, config.eval
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.model).eval()
    found = projection_of(tokenizer, held_out, options)
    assert found is not None
    assert len(found.codewords) == 16
    assert len(found.latents) == len(held_out) * 16 * 16  # 32×32 pixels, f = 2
    tokens = torch.arange(16).view(1, 4, 4)
    codewords = tokenizer.lookup(tokens).flatten(2)[0].T
    assert found.codewords == pytest.approx(project(codewords, codewords).codewords, abs=1e-5)


def test_several_codes_a_position_or_a_single_dimension_have_no_plane(photos: Path) -> None:
    several = {"quantizer": {"kind": "residual", "codes_per_position": 2}}
    config = small_run(photos, model=several, loss={"continuous_path": 0})
    tokenizer = Tokenizer(config.model).eval()
    assert projection_of(tokenizer, run_images(config.data, config.seed).held_out, config.eval) is None
    of_one = Tokenizer(small_run(photos, model={"quantizer": {"code_dim": 1}}).model).eval()
    assert projection_of(of_one, run_images(config.data, config.seed).held_out, config.eval) is None


def test_every_codeword_is_drawn_once_and_told_by_its_use() -> None:
    grid = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0))
    counts = [0] * 5 + [1] * 7 + [30] * 20 + [300] * 4  # T/K = 50.3
    chart = projection_chart(project(grid, grid), counts, "words")
    assert dots(chart) == 36
    for words in ("dead: 5", "below half of T/K: 7", "half to twice T/K: 20", "above twice T/K: 4"):
        assert words in chart
    assert "50.0% of variance" in chart


def test_dead_codewords_are_not_hidden_by_those_in_their_place() -> None:
    places = torch.zeros(9, 2)
    places[0] = 1.0
    chart = projection_chart(project(places, places), [0, *[0] * 4, *[9] * 4], "words")
    layers = re.findall(
        r'd="((?:M[^"h]*h0)+)"[^>]*style="[^"]*stroke: var\((--\w+)\)[^"]*stroke-width: ([\d.]+)', chart
    )
    assert [(dots(path), colour) for path, colour, _ in layers] == [(1, "--fourth"), (2, "--second")]
    assert float(layers[0][2]) > float(layers[1][2])


@pytest.mark.parametrize(("size", "most"), [(16_384, 160_000), (262_144, 400_000)])
def test_a_large_codebook_draws_small(size: int, most: int) -> None:
    codewords = torch.randn(size, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.randint(0, 60, (size,), generator=torch.Generator().manual_seed(1)).tolist()
    chart = projection_chart(project(codewords, codewords[:4096]), counts, "words")
    assert len(chart) < most
    assert dots(chart) > 5_000
    assert f"dead: {counts.count(0):,}" in chart


def test_latents_that_all_lie_in_one_place_are_no_area() -> None:
    flat = Projection(some(16, 2).numpy(), np.ones((5, 2), np.float32), 2, (0.6, 0.4), 0.0)
    chart = projection_chart(flat, [1] * 16, "words")
    assert dots(chart) == 16


@pytest.mark.parametrize("mean", [0.05, 0.9, 12.5, 625.0, 40_000.0])
def test_uniform_use_is_that_of_poissons_distribution(mean: float) -> None:
    size = 4096
    ranks, counts = uniform_ranks(size, mean)
    assert len(ranks) <= 201
    assert (np.diff(ranks) > 0).all()
    assert (np.diff(counts) <= 0).all()
    assert ranks[1:] == pytest.approx(size * scipy.stats.poisson.sf(counts[1:] - 1, mean), rel=1e-6)
    if mean < 20:
        assert ranks[-1] == pytest.approx(size * (1 - np.exp(-mean)), rel=1e-6)  # the ceiling of usage


def test_the_histogram_of_a_uniform_use_follows_its_reference() -> None:
    counts = np.sort(np.random.default_rng(0).poisson(3.0, 8192))[::-1]
    ranks, expected = uniform_ranks(8192, 3.0)
    for rank, count in zip(ranks[1:], expected[1:], strict=True):
        assert (counts >= count).sum() == pytest.approx(rank, abs=5 * rank**0.5 + 1)
    assert "uniform use: T/K = 3.0" in histogram_chart(counts.tolist(), "words")
