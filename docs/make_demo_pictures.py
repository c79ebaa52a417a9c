"""Makes docs/images/demo_*.png: the tabs of `vaevq demo` with a photo that comes with scikit-image.

    .venv/bin/python docs/make_demo_pictures.py photos-f8
    .venv/bin/python docs/make_demo_pictures.py runs/brats24_small-synthetic-brats VOLUME.nii.gz

Needs the extra `demo`, playwright and Chromium. The photo is the astronaut (NASA, public domain), not trained on. The
volume, for a tokenizer of volumes, is one of `benchmarks.synthetic_brats` that was held out: no patient's.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from skimage import data

from vaevq.demo.limits import Limits
from vaevq.demo.models import load_models
from vaevq.demo.page import build_page, serve

SIZE = {"width": 1120, "height": 720}
IMAGES = Path(__file__).parent / "images"


def main(model: str, volume: str | None = None, port: int = 7869) -> None:
    """Serves the page, visits it, and writes the pictures: of the photo's tabs, or of the volume's."""
    limits = Limits()
    blocks = build_page(load_models(model, None, torch.device("cpu")), limits)
    address = serve(blocks, limits, "127.0.0.1", port)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        photo = Path(folder) / "astronaut.png"
        Image.fromarray(data.astronaut()).save(photo)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        if volume is not None:
            visit_volume(page, Path(volume))
            browser.close()
            blocks.close(verbose=False)
            return
        page.locator("#upload input[type=file]").set_input_files(photo)
        page.locator("#tokens img").wait_for(timeout=60_000)
        shot(page, "photo")
        page.get_by_role("tab", name="Tokens").click()
        page.locator("#click-tokens img").click(position={"x": 60, "y": 60})
        page.locator("#patch img").wait_for()
        shot(page, "tokens")
        page.get_by_role("tab", name="Paint").click()
        page.locator("#brush input[type=number]").fill("6")
        page.keyboard.press("Tab")
        for x, y in ((60, 60), (150, 60)):
            page.locator("#canvas img").click(position={"x": x, "y": y})
            page.wait_for_timeout(2000)
        shot(page, "paint")
        browser.close()
    blocks.close(verbose=False)


def visit_volume(page: Page, volume: Path) -> None:
    """The tab `Volume`, at a slice that is not the first shown."""
    page.get_by_role("tab", name="Volume").click()
    page.locator("#volume-upload input[type=file]").set_input_files(volume)
    page.locator("#volume-original img").wait_for(timeout=120_000)
    first = page.locator("#volume-original img").get_attribute("src") or ""
    page.locator("#volume-slice input[type=number]").fill("45")
    page.keyboard.press("Tab")
    expect(page.locator("#volume-original img")).not_to_have_attribute("src", first)
    shot(page, "volume")


def shot(page: Page, name: str) -> None:
    """The whole page as a picture of few colours, once it has come to rest."""
    page.wait_for_timeout(2000)
    path = IMAGES / f"demo_{name}.png"
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as taken:
        small = taken.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:3])
