"""The claims' measurements on a tokenizer that averages 2×2 pixels and repeats them, where each can be computed."""

import math

import pytest
import torch
from torch import Tensor, nn

from mirror import in_batches, mirror, repeated, some_latents
from vaevq.data.images import to_uint8
from vaevq.diagnostics.claims import RANDOM_STEP, alignment, overfitting, smoothness, stability
from vaevq.errors import UserError
from vaevq.metrics.image import PSNR_CAP, psnr
from vaevq.quantization.search import nearest

AXIS = torch.linspace(-0.5, 0.5, 9)
LATTICE = torch.cartesian_prod(AXIS, AXIS, AXIS)


def nearest_of(latents: Tensor, codewords: Tensor) -> Tensor:
    rows = latents.permute(0, 2, 3, 1)
    return codewords[nearest(rows.reshape(-1, 3), codewords)].view(rows.shape).permute(0, 3, 1, 2)


def test_a_linear_decoder_is_even_and_its_gain_is_the_square_of_its_slope() -> None:
    latents = some_latents(5, 3, 4, 4)
    figures = smoothness(mirror(LATTICE, gain=3.0), in_batches(repeated(latents)), rms=0.2)
    assert figures.interpolation_gain == pytest.approx(9 * 0.2**2, rel=1e-4)
    assert figures.random_gain == pytest.approx(9 * 0.2**2, rel=1e-4)
    assert figures.interpolation_unevenness == pytest.approx(1, rel=1e-4)


class _Step(nn.Module):
    """Black below a threshold, white above it."""

    def forward(self, latent: Tensor) -> Tensor:
        return repeated((latent > 0.123).float())


def test_a_decoder_that_jumps_changes_in_one_step_of_nine() -> None:
    # Pairs share no image: the way from the second to the third is not taken.
    tokenizer = mirror(LATTICE)
    tokenizer.decoder = _Step()
    images = torch.stack([torch.full((3, 8, 8), value) for value in (-0.4, 0.4, -0.2, 0.4)])
    figures = smoothness(tokenizer, in_batches(images, size=1), rms=0.2)
    assert figures.interpolation_unevenness == pytest.approx(9)
    assert figures.interpolation_gain == pytest.approx(2 / (9 * (0.8 / 9) ** 2 + 9 * (0.6 / 9) ** 2) * 0.2**2, rel=1e-4)
    assert figures.random_gain == 0, f"{RANDOM_STEP * 0.2} is no step over the threshold"


def test_pairs_do_not_depend_on_batches_and_grids_of_two_sizes_share_their_common_part() -> None:
    tokenizer = mirror(LATTICE)
    images = repeated(some_latents(4, 3, 4, 6))
    results = [smoothness(tokenizer, in_batches(images, size), rms=0.3) for size in (1, 3, 4)]
    assert results[0].interpolation_unevenness == pytest.approx(results[1].interpolation_unevenness)
    assert results[0].interpolation_gain == pytest.approx(results[2].interpolation_gain)
    mixed = [*in_batches(images[:1]), *in_batches(repeated(some_latents(1, 3, 5, 2)))]
    assert smoothness(tokenizer, mixed, rms=0.3).interpolation_gain == pytest.approx(0.3**2, rel=1e-4)


def test_equal_images_have_no_way_between_them() -> None:
    figures = smoothness(mirror(LATTICE), in_batches(torch.zeros(2, 3, 4, 4)), rms=0.0)
    assert (figures.interpolation_gain, figures.interpolation_unevenness, figures.random_gain) == (None, None, None)


def test_stability_counts_changed_tokens_and_measures_the_codewords_way() -> None:
    latents = some_latents(4, 3, 4, 4)
    codewords = some_latents(16, 3, seed=1)
    before = codewords.clone()
    before[:8] += 0.3
    rows = latents.permute(0, 2, 3, 1).reshape(-1, 3)
    changed = (nearest(rows, codewords) != nearest(rows, before)).float().mean()
    spread = (codewords - codewords.mean(0)).square().sum(1).mean().sqrt()
    figures = stability(mirror(codewords), mirror(before), in_batches(repeated(latents)))
    assert 0 < float(changed) < 1
    assert figures.changed_tokens == pytest.approx(float(changed))
    assert figures.codeword_drift == pytest.approx(float((0.5 * 3 * 0.3**2) ** 0.5 / spread), rel=1e-5)
    same = stability(mirror(codewords), mirror(codewords), in_batches(repeated(latents)))
    assert (same.changed_tokens, same.codeword_drift) == (0, 0)


def test_stability_refuses_another_codebook() -> None:
    with pytest.raises(UserError, match="codebook of 8×3 and f = 2, this one 16×3"):
        stability(mirror(some_latents(16, 3)), mirror(some_latents(8, 3)), in_batches(torch.zeros(1, 3, 4, 4)))


def test_alignment_of_the_mean_and_of_samples() -> None:
    latents, codewords, sigma = some_latents(8, 3, 16, 16), some_latents(32, 3, seed=1), 0.2
    images, quantized = repeated(latents), nearest_of(latents, codewords)
    figures = alignment(mirror(codewords, sigma), in_batches(images, size=3))
    error = float((latents - quantized).square().mean())
    assert figures.mean_mse == pytest.approx(error, rel=1e-4)
    assert figures.mean_cosine == pytest.approx(float(torch.cosine_similarity(latents, quantized).mean()), rel=1e-4)
    # 6,144 independent draws: the noise adds its variance to the error.
    assert figures.sample_mse == pytest.approx(error + sigma**2, rel=0.05)
    assert figures.sample_cosine is not None
    assert figures.sample_cosine < figures.mean_cosine
    expected = float(psnr(to_uint8(images), to_uint8(repeated(quantized))).mean())
    assert figures.psnr_quantized == pytest.approx(expected)
    assert figures.psnr_mean == pytest.approx(PSNR_CAP), "nothing is lost without quantization"
    assert figures.psnr_sample == pytest.approx(10 * math.log10(4 / sigma**2), abs=0.15)
    assert figures.path_gap == pytest.approx(PSNR_CAP - expected)


def test_samples_are_drawn_by_position_and_not_by_batch() -> None:
    tokenizer, images = mirror(LATTICE), repeated(some_latents(5, 3, 4, 4))
    one, other = (alignment(tokenizer, in_batches(images, size)) for size in (1, 4))
    assert one.sample_mse == pytest.approx(other.sample_mse)
    assert one.psnr_sample == pytest.approx(other.psnr_sample)


def test_a_point_quantizer_has_no_sample() -> None:
    figures = alignment(mirror(LATTICE, sigma=None), in_batches(repeated(some_latents(2, 3, 4, 4))))
    assert (figures.sample_mse, figures.sample_cosine, figures.psnr_sample) == (None, None, None)


def test_the_gap_is_the_difference_of_the_two_sides_with_its_standard_error() -> None:
    """Codewords are the training images' own latents: those come back whole, others do not."""
    known, new = some_latents(3, 3, 4, 4), some_latents(6, 3, 4, 4, seed=1)
    codewords = known.permute(0, 2, 3, 1).reshape(-1, 3)
    figures = overfitting(mirror(codewords), in_batches(repeated(new)), in_batches(repeated(known)))
    values = psnr(to_uint8(repeated(new)), to_uint8(repeated(nearest_of(new, codewords))))
    assert figures.psnr_train == pytest.approx(PSNR_CAP)
    assert figures.psnr_held_out == pytest.approx(float(values.mean()))
    assert figures.generalization_gap == pytest.approx(PSNR_CAP - float(values.mean()))
    assert figures.generalization_gap_error == pytest.approx(float(values.std() / 6**0.5), rel=1e-6)


def test_noise_is_measured_against_the_clean_image_and_averaging_removes_three_quarters_of_it() -> None:
    axis = torch.linspace(-0.75, 0.75, 25)
    fine = torch.cartesian_prod(axis, axis, axis)
    held_out = in_batches(repeated(some_latents(3, 3, 24, 24)))
    figures = overfitting(mirror(fine), held_out, held_out)
    rounding = (1.5 / 24) ** 2 / 12
    for sigma, reconstruction, given in (
        (0.05, figures.psnr_noise_005, figures.input_noise_005),
        (0.1, figures.psnr_noise_010, figures.input_noise_010),
    ):
        assert given == pytest.approx(10 * math.log10(4 / sigma**2), abs=0.1)
        assert reconstruction == pytest.approx(10 * math.log10(4 / (sigma**2 / 4 + rounding)), abs=0.2)
