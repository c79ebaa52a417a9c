"""The page in a browser without a window: each control moves what it should, and nothing else is asked for anything."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from visitors import Served

from vaevq.data.images import Pixels, load_image
from vaevq.demo.codewords import Position, painted, patch, sentence, uses
from vaevq.demo.photo import Photo, decoded, tokenized
from vaevq.generation.completion import upper_rows
from vaevq.generation.sampling import SamplingOptions
from vaevq.report.pictures import error_map, token_map


@pytest.fixture(scope="module")
def file(photos: Path) -> Path:
    return photos / "astronaut-2.png"  # 128×128


@pytest.fixture(scope="module")
def photo(served: Served, file: Path) -> Photo:
    return tokenized(served.models.tokenizer, load_image(file, 3))


@pytest.fixture(scope="module")
def page(served: Served, browser: Any, file: Path) -> Iterator[Any]:
    """The page after a photo has been dropped; its tests go through the tabs from left to right."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1200})
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(served.address)
    opened.locator("#upload input[type=file]").set_input_files(file)
    opened.locator("#tokens img").wait_for(timeout=60_000)
    yield opened
    # Neither the page nor its libraries report to anyone.
    assert [url for url in asked if not url.startswith((served.address, "data:", "blob:"))] == []
    opened.close()


def picture(page: Any, place: str) -> Pixels:
    """The picture that is shown, without loss."""
    source = page.locator(f"{place} img").first.get_attribute("src")
    return np.array(Image.open(io.BytesIO(page.request.get(source).body())))


def wait_for(page: Any, place: str, expected: Image.Image | Pixels) -> None:
    """Waits until the picture is shown there; at the end says where the one that is shown differs."""
    wanted = np.asarray(expected)
    for _ in range(100):
        if page.locator(f"{place} img").count() and np.array_equal(picture(page, place), wanted):
            return
        page.wait_for_timeout(100)
    np.testing.assert_array_equal(picture(page, place), wanted)


def click(page: Any, place: str, x: int, y: int) -> None:
    """Clicks a pixel of a picture that the browser shows in whatever size."""
    image = page.locator(f"{place} img")
    box, width, height = image.bounding_box(), *image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    scale = min(box["width"] / width, box["height"] / height)
    left, top = (box["width"] - scale * width) / 2, (box["height"] - scale * height) / 2
    image.click(position={"x": left + scale * (x + 0.5), "y": top + scale * (y + 0.5)})


def write(page: Any, place: str, value: int | float) -> None:
    """Types a number into a field or beside a slider."""
    page.locator(f"{place} input[type=number]").fill(str(value))
    page.keyboard.press("Tab")


def test_a_photo_is_shown_with_its_reconstruction_error_tokens_use_and_size(page: Any, photo: Photo) -> None:
    assert f"128×128 pixels, 4,096 tokens, PSNR {photo.psnr:.2f} dB" in page.locator("#summary").inner_text()
    both = [
        np.array(Image.open(io.BytesIO(page.request.get(image.get_attribute("src")).body())))
        for image in page.locator("#slider img").all()
    ]
    assert {image.tobytes() for image in both} == {photo.original.tobytes(), photo.reconstruction.tobytes()}
    wait_for(page, "#error", error_map(photo.original, photo.reconstruction))
    wait_for(page, "#tokens", token_map(photo.grid, 128, 128))
    assert "JPEG of quality" in page.locator("#sizes").inner_text()
    assert f"{photo.statistics.entropy_bits:.2f} bits a token" in page.locator("#usage").inner_text()


def test_the_slider_moves_between_original_and_reconstruction(page: Any) -> None:
    box = page.locator("#slider img").first.bounding_box()
    y = box["y"] + box["height"] / 2

    def shown() -> bytes:
        taken: bytes = page.locator("#slider").screenshot()
        return taken

    before = shown()
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 10, y, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert shown() != before


@pytest.mark.parametrize(("place", "x", "y"), [("#click-tokens", 31, 77), ("#where", 100, 3)])
def test_a_click_shows_the_codeword_and_its_uses(
    place: str, x: int, y: int, page: Any, photo: Photo, served: Served
) -> None:
    page.get_by_role("tab", name="Tokens").click()
    click(page, place, x, y)
    codeword = int(photo.grid[y // 2, x // 2])
    wait_for(page, "#where", uses(photo.reconstruction, photo.grid, codeword, 2))
    wait_for(page, "#patch", patch(served.models.tokenizer, np.array(codeword)))
    expected = sentence(photo.grid, Position(y // 2, x // 2)).replace("**", "")
    assert page.locator("#codeword").inner_text().strip() == expected


def test_painting_decodes_picking_picks_and_reset_resets(page: Any, photo: Photo, served: Served) -> None:
    page.get_by_role("tab", name="Paint").click()
    tokenizer = served.models.tokenizer
    write(page, "#paint-codeword", 3)
    wait_for(page, "#paint-patch", patch(tokenizer, np.array(3)))
    write(page, "#brush", 5)
    click(page, "#canvas", 40, 60)
    once = painted(photo.tokens, Position(30, 20), 3, 5, 16)
    wait_for(page, "#canvas", decoded(tokenizer, once, (128, 128)))
    wait_for(page, "#paint-tokens", token_map(once, 128, 128))
    click(page, "#paint-tokens", 90, 10)
    twice = painted(once, Position(5, 45), 3, 5, 16)
    wait_for(page, "#paint-tokens", token_map(twice, 128, 128))
    page.locator("#mode").get_by_label("pick").check()
    other = np.argwhere(photo.grid != 3)[-1]
    click(page, "#paint-tokens", 2 * int(other[1]), 2 * int(other[0]))
    picked = int(photo.grid[tuple(other)])
    wait_for(page, "#paint-patch", patch(tokenizer, np.array(picked)))
    assert page.locator("#paint-codeword input").input_value() == str(picked)
    page.locator("#reset").click()
    wait_for(page, "#canvas", photo.reconstruction)


def test_a_codeword_that_does_not_exist_is_one_message(page: Any) -> None:
    write(page, "#paint-codeword", 16)
    page.get_by_text("codeword 16 is outside the codebook: 0 to 15").wait_for(timeout=10_000)


def test_images_are_sampled_by_class_seed_guidance_and_beginning(page: Any, served: Served, file: Path) -> None:
    from vaevq.demo.generate_tab import sampled

    page.get_by_role("tab", name="Generate").click()
    generator = served.models.generator
    assert generator is not None
    write(page, "#seed", 5)
    write(page, "#count", 2)
    write(page, "#guidance", 2)
    page.locator("#class input").click()
    page.get_by_role("option", name="cat").click()
    page.locator("#sample").click()
    options = SamplingOptions(guidance=2.0)
    with torch.no_grad():
        expected = sampled(generator, 2, labels=["cat"], seed=5, options=options)
        beginning = upper_rows(generator, load_image(file, 3), 6, "photo")
        completed = sampled(generator, 2, labels=["cat"], seed=5, options=options, given=beginning)
    wait_for(page, "#sampled", expected[0])
    page.locator("#start input[type=file]").set_input_files(file)
    page.locator("#start").get_by_text("astronaut-2").wait_for()
    write(page, "#rows", 6)
    page.locator("#sample").click()
    wait_for(page, "#sampled", completed[0])


def test_another_photo_replaces_all(page: Any, photos: Path, served: Served) -> None:
    other = photos / "cat-0.png"
    page.locator("#upload").get_by_label("Clear").first.click()
    page.locator("#upload input[type=file]").set_input_files(other)
    made = tokenized(served.models.tokenizer, load_image(other, 3))
    page.get_by_role("tab", name="Tokens").click()
    wait_for(page, "#where", made.reconstruction)
    assert page.locator("#codeword").inner_text().strip() == "Click a token."
