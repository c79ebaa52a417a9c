"""The tab of generators of each kind: it offers what the kind can do, and shows what the library samples."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from visitors import Served, call, file, serve_models, upload

from generators import write_generator
from vaevq.data.images import load_image
from vaevq.demo.models import load_models
from vaevq.generation.completion import upper_rows
from vaevq.generation.generator import Generator
from vaevq.generation.sampling import SamplingOptions

UNET: dict[str, Any] = {"widths": [16], "attention": [True], "head_width": 16}

# The kind, its network, and the controls that it has besides seed and number of images.
KINDS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "mask": ("mask", {}, {"class", "guidance", "temperature", "steps", "start", "rows"}),
    "diffusion": ("diffusion", UNET, {"class", "guidance", "steps"}),
    "unconditional diffusion": ("diffusion", {**UNET, "conditional": False}, {"steps"}),
}
CONTROLS = set().union(*(controls for _, _, controls in KINDS.values()))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def of_kind(kind: str, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    name, network, _ = KINDS[kind]
    if name == "diffusion":
        pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'vaevq[diffusion]'")
    run = tmp_path_factory.mktemp("generator")
    write_generator(finished, run, name, network)
    yield from serve_models(load_models(str(finished), str(run), torch.device("cpu")))


@pytest.fixture(scope="module")
def generator(of_kind: Served) -> Generator:
    assert of_kind.models.generator is not None
    return of_kind.models.generator


@pytest.fixture(scope="module")
def page(of_kind: Served, browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1280, "height": 1200})
    opened.goto(of_kind.address)
    opened.get_by_role("tab", name="Generate").click()
    opened.locator("#sample").wait_for()
    yield opened
    opened.close()


def write(page: Any, place: str, value: int | float) -> None:
    page.locator(f"{place} input[type=number]").fill(str(value))
    page.keyboard.press("Tab")


def wait_for(page: Any, expected: Any) -> None:
    """Waits until the first sampled image is this one; at the end says where it differs."""
    wanted, first = np.asarray(expected), page.locator("#sampled img").first
    for _ in range(150):
        if page.locator("#sampled img").count() and np.array_equal(shown(page, first), wanted):
            return
        page.wait_for_timeout(100)
    np.testing.assert_array_equal(shown(page, first), wanted)


def shown(page: Any, image: Any) -> Any:
    return np.array(Image.open(io.BytesIO(page.request.get(image.get_attribute("src")).body())))


def test_the_controls_are_those_that_the_kind_can_use(page: Any, kind: str) -> None:
    assert {name for name in CONTROLS if page.locator(f"#{name}").is_visible()} == KINDS[kind][2]


def test_the_button_shows_what_the_library_samples(page: Any, kind: str, generator: Generator) -> None:
    from vaevq.demo.generate_tab import sampled

    _, _, controls = KINDS[kind]
    write(page, "#seed", 5)
    write(page, "#count", 2)
    write(page, "#steps", 3)
    asked: dict[str, Any] = {"steps": 3, "sampler": "dpm++" if "diffusion" in kind else None}
    if "guidance" in controls:
        write(page, "#guidance", 2)
        asked["guidance"] = 2.0
    if "class" in controls:
        page.locator("#class input").click()
        page.get_by_role("option", name="cat").click()
    labels = ["cat"] if "class" in controls else None
    page.locator("#sample").click()
    with torch.no_grad():
        expected = sampled(generator, 2, labels=labels, seed=5, options=SamplingOptions(**asked))
    wait_for(page, expected[0])
    write(page, "#seed", 6)
    page.locator("#sample").click()
    with torch.no_grad():
        other = sampled(generator, 2, labels=labels, seed=6, options=SamplingOptions(**asked))
    assert not np.array_equal(np.asarray(other[0]), np.asarray(expected[0]))
    wait_for(page, other[0])


def test_half_a_photo_is_completed_where_the_kind_can(page: Any, kind: str, generator: Generator, photos: Path) -> None:
    from vaevq.demo.generate_tab import sampled

    if "start" not in KINDS[kind][2]:
        assert page.locator("#start").count() == 0
        return
    photo = photos / "astronaut-2.png"
    page.locator("#start input[type=file]").set_input_files(photo)
    page.locator("#start").get_by_text("astronaut-2").wait_for()
    write(page, "#rows", 4)
    page.locator("#sample").click()
    beginning = upper_rows(generator, load_image(photo, 3), 4, "photo")
    options = SamplingOptions(steps=3, guidance=2.0)
    with torch.no_grad():
        expected = sampled(generator, 2, labels=["cat"], seed=6, options=options, given=beginning)
    wait_for(page, expected[0])


def test_what_the_kind_cannot_do_is_one_message_over_http(of_kind: Served, kind: str, photos: Path) -> None:
    photo = photos / "astronaut-2.png"
    start = file(upload(of_kind.address, photo.name, photo.read_bytes()))
    label = "cat" if "class" in KINDS[kind][2] else None
    answer = call(of_kind.address, "sample", label, 0, 1, 1, 1, 3, start, 4)
    if "start" in KINDS[kind][2]:
        assert answer.error is None
        return
    assert answer.error is not None
    assert answer.error.startswith("a generator of kind diffusion completes nothing")
    assert "\n" not in answer.error
