"""What the page measures, draws and refuses, without the page."""

import io
import math
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from generators import write_generator
from runs import vaevq
from vaevq.data.images import Pixels, load_image
from vaevq.data.tokens import TokenFile, write_token_file
from vaevq.demo.codewords import Position, example, painted, patch, position_at, sentence, uses
from vaevq.demo.jpeg import equal_jpeg
from vaevq.demo.limits import Limits, Rate
from vaevq.demo.models import load_models
from vaevq.demo.photo import Photo, decoded, size_rows, tokenized
from vaevq.demo.uploads import load_upload
from vaevq.errors import UserError
from vaevq.tokenizer import Tokenizer

CAT: Pixels = np.ascontiguousarray(data.chelsea()[60:188, 100:228])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(finished: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(finished)


@pytest.fixture(scope="module")
def photo(tokenizer: Tokenizer) -> Photo:
    return tokenized(tokenizer, CAT)


def jpeg_psnr(image: Pixels, quality: int) -> tuple[float, int]:
    """By another implementation of PSNR."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True)
    return float(peak_signal_noise_ratio(image, np.asarray(Image.open(file)))), len(file.getvalue())


@pytest.mark.parametrize("asked", [24.0, 30.0, 36.5])
def test_the_jpeg_of_equal_quality_is_the_coarsest_that_is_as_good(asked: float) -> None:
    found = equal_jpeg(CAT, asked)
    all_of_them = {quality: jpeg_psnr(CAT, quality) for quality in range(1, 101)}
    best = min(quality for quality, (psnr, _) in all_of_them.items() if psnr >= asked)
    assert found.quality == best
    assert (found.psnr, found.size) == (pytest.approx(all_of_them[best][0]), all_of_them[best][1])


def test_a_jpeg_that_cannot_be_equal_says_so() -> None:
    too_good, too_bad = equal_jpeg(CAT, 58.0), equal_jpeg(CAT, 5.0)
    assert too_good.quality == 100
    assert "below the tokenizer" in too_good.words(58.0)
    assert too_bad.quality == 1
    assert "above the tokenizer" in too_bad.words(5.0)
    assert equal_jpeg(CAT, 30.0).words(30.0).endswith("dB")


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_are_a_grey_jpeg_each(channels: int) -> None:
    image = np.concatenate([CAT, CAT], axis=2)[:, :, :channels]
    found = equal_jpeg(image, 30.0)
    sizes = [jpeg_psnr(np.ascontiguousarray(image[:, :, c]), found.quality)[1] for c in range(channels)]
    assert found.size == sum(sizes)


def test_a_photo_is_what_the_tokenizer_makes_of_it(tokenizer: Tokenizer, photo: Photo) -> None:
    image = torch.from_numpy(CAT).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = tokenizer(image).reconstruction[0].clamp(-1, 1)
    shown = torch.from_numpy(photo.reconstruction).permute(2, 0, 1) / 127.5 - 1
    assert float((shown - expected).abs().max()) <= 1 / 255 + 1e-5
    assert photo.psnr == pytest.approx(peak_signal_noise_ratio(CAT, photo.reconstruction))
    assert sum(photo.counts) == photo.tokens.size == photo.statistics.tokens


def test_sizes_are_those_of_the_formulas_and_of_the_file(photo: Photo, tmp_path: Path) -> None:
    entropy, fixed, stored, jpeg, bare = size_rows(photo, equal_jpeg(CAT, photo.psnr))
    shares = np.bincount(photo.tokens.ravel()) / photo.tokens.size
    bits = -sum(share * math.log2(share) for share in shares if share) * photo.tokens.size
    assert entropy[1:] == (f"{math.ceil(bits / 8):,}", f"{bits / CAT[..., 0].size:.3f}")
    assert fixed[1:] == (f"{photo.tokens.size * 4 // 8:,}", f"{4 / 4:.3f}")  # K = 16, f = 2
    assert bare[1:] == (f"{CAT.size:,}", "24.000")
    assert "JPEG of quality" in jpeg[0]
    sizes = []
    for count in (1, 2):  # what a further image adds is its tokens, its sizes and its name
        file = TokenFile((photo.tokens,) * count, (CAT.shape[:2],) * count, ("a",) * count, 16, 2, "d" * 16)
        write_token_file(tmp_path / f"{count}", file)
        sizes.append((tmp_path / f"{count}").stat().st_size)
    assert 0 <= sizes[1] - sizes[0] - int(stored[1].replace(",", "")) < 64


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 8]), st.data())
@settings(deadline=None, max_examples=50)
def test_a_pixel_lies_in_the_position_that_covers_it(height: int, width: int, factor: int, draw: st.DataObject) -> None:
    grid = np.arange(-(-height // factor) * -(-width // factor)).reshape(-(-height // factor), -1)
    y, x = draw.draw(st.integers(0, height - 1)), draw.draw(st.integers(0, width - 1))
    enlarged = grid.repeat(factor, axis=0).repeat(factor, axis=1)
    at = position_at(x, y, grid, factor, width)
    assert grid[at.row, at.column] == enlarged[y, x]
    assert position_at(x + width, y, grid, factor, width) == at  # the second channel, beside the first
    assert position_at(x, 10_000, grid, factor, width).row == grid.shape[0] - 1


def test_uses_are_bright_where_the_codeword_is_and_dark_elsewhere() -> None:
    grid = np.array([[3, 1, 3], [1, 1, 2]])
    image = np.full((4, 5, 3), 200, dtype=np.uint8)  # no multiple of f = 2
    expected = np.full((4, 5), 50)
    expected[:2, :2] = expected[:2, 4:] = 200
    assert np.array_equal(np.asarray(uses(image, grid, 3, 2))[..., 0], expected)
    assert sentence(grid, Position(0, 0)).startswith(
        "Codeword **3**, at row 0, column 0. In this photo it is used 2 times"
    )
    assert "number 2 of 3 in use" in sentence(grid, Position(0, 0))
    assert "used once" in sentence(grid, Position(1, 2))


def test_paint_is_a_square_around_the_position_cut_at_the_edge() -> None:
    tokens = np.zeros((5, 6), dtype=np.int64)
    for brush, rows, columns in ((1, [2], [3]), (2, [2, 3], [3, 4]), (3, [1, 2, 3], [2, 3, 4])):
        changed = np.argwhere(painted(tokens, Position(2, 3), 7, brush, 8) == 7)
        assert sorted(set(changed[:, 0])) == rows
        assert sorted(set(changed[:, 1])) == columns
        assert len(changed) == len(rows) * len(columns)
    assert (painted(tokens, Position(0, 5), 7, 3, 8) == 7).sum() == 4
    assert not tokens.any()
    for codeword in (-1, 8):
        with pytest.raises(UserError, match=rf"codeword {codeword} is outside the codebook: 0 to 7"):
            painted(tokens, Position(0, 0), codeword, 1, 8)


def test_of_several_codes_the_first_is_painted_and_looked_for() -> None:
    tokens = np.array([[[1, 5], [2, 6]], [[3, 7], [2, 4]]])
    changed = painted(tokens, Position(1, 1), 0, 1, 8)
    assert changed[1, 1].tolist() == [0, 4]
    assert (changed != tokens).sum() == 1
    assert example(tokens, 2).tolist() == [2, 6]
    assert example(tokens, 7).tolist() == [7, 5]
    assert example(tokens[..., 0], 7).tolist() == 7


def test_a_patch_is_the_middle_of_a_field_of_its_codeword(tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        field = tokenizer.decode(torch.full((1, 5, 5), 3))[0, :, 4:6, 4:6].clamp(-1, 1)
    picture = np.asarray(patch(tokenizer, np.array(3)).resize((2, 2), Image.Resampling.NEAREST))
    assert np.abs((field.permute(1, 2, 0).numpy() + 1) * 127.5 - picture).max() <= 0.51


def test_painted_tokens_decode_to_another_picture_where_they_are_painted(tokenizer: Tokenizer, photo: Photo) -> None:
    other = (int(photo.grid[5, 5]) + 1) % 16
    changed = decoded(tokenizer, painted(photo.tokens, Position(5, 5), other, 4, 16), (128, 128))
    change = np.abs(changed.astype(float) - photo.reconstruction).mean(axis=2)
    inside = change[8:16, 8:16].mean()  # positions 4 to 7; GroupNorm carries a little of it everywhere
    assert inside > 4 * change[32:].mean()
    assert inside > 1


def test_requests_are_counted_by_address_over_a_minute() -> None:
    now = [0.0]
    rate = Rate(2, lambda: now[0])
    for moment in (0, 10):
        now[0] = moment
        rate.count("one")
    now[0] = 20
    with pytest.raises(UserError, match=r"more than 2 requests a minute: try again in 40 s"):
        rate.count("one")
    rate.count("another")
    now[0] = 61  # the first is out of the minute, the refused one was never in
    rate.count("one")
    with pytest.raises(UserError, match="try again in 9 s"):
        rate.count("one")
    now[0] = 1000
    rate.count("third")
    assert list(rate._times) == ["third"]


@pytest.mark.parametrize("wrong", [{"side": 15}, {"side": 5000}, {"max_mb": 0}, {"per_minute": 0}, {"queue": 0}])
def test_limits_have_ranges(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong)).replace('_', '-')} must be"):
        Limits(**wrong)


def test_a_large_upload_is_made_smaller_and_a_small_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Image.fromarray(CAT[:64]).save(path)
    assert np.array_equal(load_upload(path, 3, 128), load_image(path, 3))
    assert load_upload(path, 1, 32).shape == (16, 32, 1)


def test_a_model_may_be_a_tokenizer_or_a_generator_with_its_own(finished: Path, tmp_path: Path) -> None:
    write_generator(finished, tmp_path)
    alone, both = load_models(str(finished), None, CPU), load_models(str(finished), str(tmp_path), CPU)
    one = load_models(str(tmp_path), None, CPU)
    assert alone.generator is None
    assert both.generator is not None
    assert one.generator is not None
    assert alone.tokenizer.digest == both.tokenizer.digest == one.tokenizer.digest
    assert both.generator.tokenizer is both.tokenizer
    with pytest.raises(UserError, match="--generator has no effect"):
        load_models(str(tmp_path), str(tmp_path), CPU)


def test_the_command_says_what_is_wrong_in_a_line(tmp_path: Path, finished: Path) -> None:
    assert "--port must be from 1 to 65535, not 0" in vaevq("demo", finished, "--port", 0).err
    assert "--side must be from 16 to 4096 pixels, not 1" in vaevq("demo", finished, "--side", 1).err
    with mock.patch.dict(sys.modules, {"gradio": None, "vaevq.demo.page": None}):
        sys.modules.pop("vaevq.demo.page")
        outcome = vaevq("demo", tmp_path)
    assert outcome.code == 2
    assert outcome.err == "vaevq: error: vaevq demo needs gradio: pip install 'vaevq[demo]'\n"
