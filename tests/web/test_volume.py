"""The tab of volumes in a browser: each control shows the slice that it names, and a hostile file is one message."""

import io
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from visitors import Served, call, file, serve_models, upload

from vaevq.config import TokenizerConfig, VolumesConfig
from vaevq.demo.models import Models
from vaevq.demo.volume import ShownVolume, shown_volume
from vaevq.tokenizer import Tokenizer
from volumes import EXAMPLE_4D, ball, write_volume

SLICES = VolumesConfig(size=32)
PARTS = ("original", "reconstruction", "error")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAEVQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def of_volumes() -> Iterator[Served]:
    """The page of an untrained tokenizer of slices."""
    torch.manual_seed(0)
    autoencoder = {"patch_size": 4, "base_width": 8, "multipliers": [1], "blocks": 1, "image_channels": 1}
    tree = {"autoencoder": autoencoder, "quantizer": {"code_dim": 4, "codebook_size": 16}}
    tokenizer = Tokenizer(TokenizerConfig.model_validate(tree)).eval()
    yield from serve_models(Models("slices", tokenizer, None, SLICES))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    voxels = ball((20, 24, 16)).astype(np.float32)
    return write_volume(tmp_path_factory.mktemp("volume") / "head.nii.gz", voxels, np.diag([1.0, -1.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def expected(of_volumes: Served, path: Path) -> ShownVolume:
    return shown_volume(of_volumes.models.tokenizer, path, SLICES)


@pytest.fixture(scope="module")
def page(of_volumes: Served, browser: Any, path: Path) -> Iterator[Any]:
    """The tab after a volume has been dropped."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1200})
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(of_volumes.address)
    opened.get_by_role("tab", name="Volume").click()
    drop(opened, path)
    opened.locator("#volume-original img").wait_for(timeout=60_000)
    yield opened
    assert [url for url in asked if not url.startswith((of_volumes.address, "data:", "blob:"))] == []
    opened.close()


def drop(page: Any, path: Path) -> None:
    page.locator("#volume-upload input[type=file]").set_input_files(path)


def pictures(page: Any) -> list[Any]:
    """The three pictures that are shown, without loss."""
    sources = [page.locator(f"#volume-{part} img").get_attribute("src") for part in PARTS]
    return [np.array(Image.open(io.BytesIO(page.request.get(source).body()))) for source in sources]


def wait_for(page: Any, wanted: tuple[Image.Image, ...]) -> None:
    """Waits until all three are shown; at the end says where those that are shown differ."""
    arrays = [np.asarray(picture) for picture in wanted]
    for _ in range(100):
        if all(map(np.array_equal, pictures(page), arrays)):
            return
        page.wait_for_timeout(100)
    for shown, array in zip(pictures(page), arrays, strict=True):
        np.testing.assert_array_equal(shown, array)


def test_a_volume_is_shown_by_its_middle_slice_with_its_figures(page: Any, expected: ShownVolume) -> None:
    wait_for(page, expected.pictures("axial", 8, 0))
    said = page.locator("#volume-summary").inner_text()
    assert "20×24×16 voxels of 1 by 1 by 2 mm" in said
    assert f"PSNR {expected.psnr:.2f} dB over the window" in said
    tokens, voxels = expected.statistics.tokens, 20 * 24 * 16
    assert f"{tokens:,} tokens" in said
    assert f"{4 * tokens / voxels:.4f} bits a voxel at log₂K" in said
    assert not page.locator("#volume-frame").is_visible()


def test_the_slider_shows_the_slice_that_it_names(page: Any, expected: ShownVolume) -> None:
    before = pictures(page)
    slider = page.locator("#volume-slice input[type=range]")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    wait_for(page, expected.pictures("axial", 11, 0))
    assert not any(map(np.array_equal, before, pictures(page)))
    page.locator("#volume-slice input[type=number]").fill("4")
    page.keyboard.press("Tab")
    wait_for(page, expected.pictures("axial", 4, 0))


@pytest.mark.parametrize(("axis", "planes"), [("coronal", 24), ("sagittal", 20)])
def test_an_axis_turns_the_volume_and_has_as_many_slices(
    axis: Any, planes: int, page: Any, expected: ShownVolume
) -> None:
    page.locator("#volume-axis").get_by_label(axis).check()
    wait_for(page, expected.pictures(axis, planes // 2, 0))
    assert page.locator("#volume-slice input[type=range]").get_attribute("max") == str(planes - 1)
    page.locator("#volume-slice input[type=number]").fill(str(planes - 2))
    page.keyboard.press("Tab")
    wait_for(page, expected.pictures(axis, planes - 2, 0))


def test_the_reconstructed_volume_is_downloaded(page: Any, expected: ShownVolume) -> None:
    with page.expect_download() as download:
        page.locator("#volume-download a[download]").first.click()
    assert download.value.suggested_filename == "reconstructed-head.nii.gz"
    assert Path(download.value.path()).read_bytes() == expected.file.read_bytes()


def test_a_hostile_file_is_one_message_and_leaves_what_is_shown(page: Any, path: Path) -> None:
    before = pictures(page)
    damaged = path.with_name("damaged.nii.gz")
    damaged.write_bytes(path.read_bytes()[:300])
    page.locator("#volume-upload").get_by_label("Clear").first.click()
    drop(page, damaged)
    message = page.get_by_text("damaged.nii.gz: Compressed file ended before")
    message.wait_for(timeout=20_000)
    assert message.count() == 1
    assert all(map(np.array_equal, before, pictures(page)))


def test_a_fourth_axis_has_a_slider_of_its_own(page: Any, path: Path, of_volumes: Served) -> None:
    import nibabel as nib

    small = np.asarray(nib.load(EXAMPLE_4D).dataobj)[::4, ::4, ::3]
    two = write_volume(path.with_name("two.nii"), small)
    made = shown_volume(of_volumes.models.tokenizer, two, SLICES)
    page.locator("#volume-upload").get_by_label("Clear").first.click()
    drop(page, two)
    page.locator("#volume-frame input[type=range]").wait_for(timeout=60_000)
    wait_for(page, made.pictures("sagittal", 16, 0))
    page.locator("#volume-frame input[type=number]").fill("1")
    page.keyboard.press("Tab")
    wait_for(page, made.pictures("sagittal", 16, 1))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.nii", b"not a volume" * 99, "notes.nii: "),
        ("empty.nii.gz", b"", "empty.nii.gz: the file is empty"),
        ("photo.png", b"no", "photo.png: not a NIfTI file"),
        ("<img src=x onerror=alert(1)>.nii", b"no" * 999, ".nii: "),
    ],
)
def test_what_is_no_volume_is_one_clear_message(of_volumes: Served, name: str, content: bytes, says: str) -> None:
    answer = call(of_volumes.address, "volume", file(upload(of_volumes.address, name, content)), "axial")
    assert answer.outputs is None
    assert answer.error is not None
    assert says in answer.error
    assert not any(part in answer.error for part in ("\n", "<", "/tmp"))


def test_photos_tokenizers_have_no_such_tab_and_stacked_contrasts_say_why(served: Served) -> None:
    def page_of(served: Served) -> str:
        with urllib.request.urlopen(served.address + "config", timeout=60) as response:
            return str(response.read().decode())

    assert "volume-upload" not in page_of(served)
    stacked = Models("four", served.models.tokenizer, None, VolumesConfig(stack="channels"))
    for made in serve_models(stacked):
        text = page_of(made)
        assert "several contrasts, which are files of their own" in text
        assert "volume-upload" not in text
