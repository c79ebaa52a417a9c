"""Every kind of file becomes the picture that a person sees, or one clear line."""

import io
import subprocess
import sys
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import PIL
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaevq.data import images
from vaevq.data.images import (
    UnreadableImage,
    centre_crop,
    from_uint8,
    load_image,
    resize,
    resize_shorter,
    save_png,
    to_tensor,
    to_uint8,
)
from vaevq.errors import UserError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def quarters() -> Image.Image:
    """6×4 pixels: red, green over blue, white, so that every rotation and mirroring looks different."""
    array = np.zeros((4, 6, 3), np.uint8)
    array[:2, :3], array[:2, 3:], array[2:, :3], array[2:, 3:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    return Image.fromarray(array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_image_is_shown_upright_whatever_exif_says_the_camera_did(orientation: int, kind: str) -> None:
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = quarters() if inverse is None else quarters().transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    loaded = load_image(encoded(stored, kind, exif=exif, **options), 3)
    np.testing.assert_array_equal(loaded, np.asarray(quarters()))


def test_damaged_exif_does_not_cost_the_picture() -> None:
    file = encoded(quarters(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    np.testing.assert_array_equal(load_image(file, 3), np.asarray(quarters()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_not_clipped(kind: str) -> None:
    wide = np.array([[0, 257, 32768, 65535]], np.uint16)
    loaded = load_image(encoded(Image.fromarray(wide), kind), 1)
    np.testing.assert_array_equal(loaded[0, :, 0], [0, 1, 128, 255])


def test_big_endian_grey_of_16_bits_is_scaled() -> None:
    image = Image.frombytes("I;16B", (2, 1), b"\xff\xff\x01\x01")
    np.testing.assert_array_equal(load_image(encoded(image, "TIFF"), 1)[0, :, 0], [255, 1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 65535], [0, 255]), ([0, 200], [0, 200])],
    ids=["sixteen bits in thirty-two", "eight bits in thirty-two"],
)
def test_32_bit_integers_are_scaled_by_the_range_they_use(values: list[int], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    np.testing.assert_array_equal(load_image(encoded(image, "TIFF"), 1)[0, :, 0], expected)


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 1.0], [0, 255]), ([0, 255.0], [0, 255]), ([0.5, 65535], [0, 255])]
)
def test_floating_point_grey_is_scaled_by_the_range_it_uses(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    np.testing.assert_array_equal(load_image(encoded(image, "TIFF"), 1)[0, :, 0], expected)


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 1e6], [0.0, np.nan]])
def test_floating_point_values_without_a_meaning_as_grey_are_refused(values: list[float]) -> None:
    file = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    with pytest.raises(UnreadableImage, match=r"^scan\.tif: values from"):
        load_image(file, 1, "scan.tif")


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_becomes_the_colours_it_prints(kind: str) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert abs(load_image(encoded(red, kind), 3)[8, 8].astype(int) - (255, 0, 0)).max() <= 2


def test_one_bit_images_become_black_and_white() -> None:
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(load_image(encoded(image), 3)[0], [(0, 0, 0), (255, 255, 255)])


def palette() -> Image.Image:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    return image


def test_palette_images_show_their_colours_and_their_transparency() -> None:
    np.testing.assert_array_equal(load_image(encoded(palette()), 3)[0], [(10, 20, 30), (40, 50, 60)])
    clear = encoded(palette(), transparency=0)
    np.testing.assert_array_equal(load_image(clear, 3)[0], [(255, 255, 255), (40, 50, 60)])
    clear.seek(0)
    np.testing.assert_array_equal(load_image(clear, 4)[0, :, 3], [0, 255])


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_lie_over_white_where_no_alpha_is_asked_for(mode: str, channels: int) -> None:
    grey = (100,) if mode == "LA" else (100, 100, 100)
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((255, 128, 0)):
        image.putpixel((x, 0), (*grey, alpha))
    loaded = load_image(encoded(image), channels)
    assert loaded.shape == (1, 3, channels)
    np.testing.assert_array_equal(loaded[0, :, 0], [100, 177, 255])


def test_a_colour_that_png_declares_transparent_lies_over_white() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    loaded = load_image(encoded(image, transparency=(1, 2, 3)), 3)
    np.testing.assert_array_equal(loaded[0], [(255, 255, 255), (9, 9, 9)])


def test_alpha_is_kept_for_two_and_four_channels_and_full_where_the_file_has_none() -> None:
    half = Image.new("RGBA", (1, 1), (10, 10, 10, 128))
    assert load_image(encoded(half), 4)[0, 0].tolist() == [10, 10, 10, 128]
    assert load_image(encoded(half), 2)[0, 0].tolist() == [10, 128]
    opaque = Image.new("RGB", (1, 1), (10, 10, 10))
    assert load_image(encoded(opaque), 4)[0, 0].tolist() == [10, 10, 10, 255]
    assert load_image(encoded(opaque), 2)[0, 0].tolist() == [10, 255]


def test_one_channel_is_luminance() -> None:
    assert load_image(encoded(quarters()), 1)[[0, 0, -1], [0, -1, 0], 0].tolist() == [76, 150, 29]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_mode_gives_every_number_of_channels(mode: str, channels: int) -> None:
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the TIFF of this mode that it writes itself")
    array = load_image(encoded(Image.new(mode, (5, 3)), "TIFF"), channels)
    assert array.shape == (3, 5, channels)
    assert array.dtype == np.uint8


def noise(**options: object) -> bytes:
    return encoded(Image.effect_noise((64, 64), 50), "JPEG", **options).getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (noise()[:900], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50)).getvalue()[:900], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "program"),
    ],
    ids=["empty", "text", "half a JPEG", "half a PNG", "EPS"],
)
def test_what_cannot_be_decoded_is_named_with_the_reason_in_one_line(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "bad.jpg"
    file.write_bytes(content)
    with pytest.raises(UnreadableImage) as caught:
        load_image(file, 3)
    assert str(caught.value).startswith(f"{file}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_an_absent_file_is_named() -> None:
    with pytest.raises(UnreadableImage, match=r"^nowhere\.png: no such file or directory$"):
        load_image(Path("nowhere.png"), 3)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(UnreadableImage, match="bomb: more than 99 pixels"):
        load_image(encoded(Image.new("L", (10, 10))), 3, "bomb")
    assert load_image(encoded(Image.new("L", (9, 11))), 3).shape == (11, 9, 3)


def test_the_largest_image_is_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setenv("VAEVQ_MAX_PIXELS", "99")
    assert load_image(encoded(Image.new("L", (9, 11))), 3).shape == (11, 9, 3), "more than Pillow's own limit"
    with pytest.raises(UnreadableImage, match=r"bomb: more than 99 pixels; make it smaller, .* VAEVQ_MAX_PIXELS$"):
        load_image(encoded(Image.new("L", (10, 10))), 3, "bomb")
    for text in ("0", "-5", "1e6", "many"):
        monkeypatch.setenv("VAEVQ_MAX_PIXELS", text)
        with pytest.raises(UserError, match=f"^VAEVQ_MAX_PIXELS is '{text}' in the environment: a whole number"):
            load_image(encoded(Image.new("L", (2, 2))), 3)


def test_pillows_own_bomb_error_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnreadableImage, match=r"bomb: more than 160,000,000 pixels"):
        load_image(encoded(Image.new("L", (10, 10))), 3, "bomb")


def test_no_warning_of_pillow_reaches_the_user() -> None:
    program = """
import io
from PIL import Image
from vaevq.data.images import load_image
file = io.BytesIO()
Image.new("L", (10, 10)).save(file, "PNG")
Image.MAX_IMAGE_PIXELS = 90
load_image(file, 3)
"""
    result = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == ""


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))))
def test_bytes_survive_the_way_to_a_tensor_and_back(array: np.ndarray) -> None:
    tensor = to_tensor(array)
    assert tensor.shape == (array.shape[2], *array.shape[:2])
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    np.testing.assert_array_equal(to_uint8(tensor).permute(1, 2, 0).numpy(), array)


def test_to_uint8_rounds_and_clamps() -> None:
    values = torch.tensor([-2.0, -1.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1.0, 3.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 0, 255, 255]
    assert to_uint8(torch.tensor([1.0], dtype=torch.bfloat16)).tolist() == [255]
    assert to_uint8(torch.zeros(2, 3, 4, 5)).shape == (2, 3, 4, 5)


def test_white_and_black_become_one_and_minus_one() -> None:
    assert from_uint8(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_saved_png_loads_as_what_was_saved(channels: int, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    save_png(to_tensor(array), tmp_path / "new" / "image.png")
    np.testing.assert_array_equal(load_image(tmp_path / "new" / "image.png", channels), array)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 4))
def test_the_shorter_side_gets_its_size_and_proportions_are_kept(h: int, w: int, size: int, channels: int) -> None:
    resized = resize_shorter(np.full((h, w, channels), 200, np.uint8), size)
    assert min(resized.shape[:2]) == size
    assert (h <= w) == (resized.shape[0] <= resized.shape[1]) or resized.shape[0] == resized.shape[1]
    assert abs(max(resized.shape[:2]) - max(h, w) * size / min(h, w)) <= 0.5
    assert resized.shape[2] == channels
    assert (resized == 200).all()


def test_shrinking_averages_what_it_leaves_out() -> None:
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    assert abs(resize(stripes, 8, 8)[:, 1:-1].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_channels_do_not_mix_when_an_image_is_resized(channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (9, 11, channels), dtype=np.uint8)
    alone = [resize(array[:, :, [channel]], 5, 7) for channel in range(channels)]
    np.testing.assert_array_equal(resize(array, 5, 7), np.concatenate(alone, axis=2))


def test_an_image_of_the_right_size_is_not_touched() -> None:
    array = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert resize_shorter(array, 8) is array


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "shorter"), [((31, 20), 12), ((20, 31), 33), ((16, 9), 9)])
def test_an_image_resized_as_it_is_loaded_is_the_one_resized_afterwards(
    channels: int, size: tuple[int, int], shorter: int
) -> None:
    random = np.random.default_rng(0)
    encodings = {
        "PNG": Image.fromarray(random.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)),
        "JPEG": Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)),
    }
    for kind, image in encodings.items():
        afterwards = resize_shorter(load_image(encoded(image, kind), channels), shorter)
        loaded = load_image(encoded(image, kind), channels, shorter=shorter)
        np.testing.assert_array_equal(loaded, afterwards)
        assert min(loaded.shape[:2]) == shorter


def test_a_centre_crop_takes_the_middle() -> None:
    array = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8, 1)
    np.testing.assert_array_equal(centre_crop(array, 4), array[1:5, 2:6])


def test_a_crop_larger_than_the_image_names_the_image_its_size_and_the_remedy() -> None:
    array = np.zeros((6, 8, 3), np.uint8)
    with pytest.raises(UserError, match=r"^a\.png: 8×6 pixels, smaller than the 7×7 crop; set x$"):
        centre_crop(array, 7, "a.png", "set x")
