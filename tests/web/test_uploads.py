"""Hostile files, many at once, and what the page takes for an image: one clear message each, and no crash."""

import io
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from skimage import data
from visitors import Served, call, drop, file, free_port, upload

from runs import vaevq
from vaevq.demo.limits import Rate
from vaevq.errors import UserError

PHOTO = Image.fromarray(data.astronaut()[:96, :128])


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def bomb(side: int = 20_000) -> bytes:
    """A grey PNG of side × side pixels in a few hundred kilobytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packed, many = zlib.compressobj(9, zlib.DEFLATED, -15), 100
    rows = packed.compress(bytes((side + 1) * many)) + packed.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(side // many):
        checksum = zlib.adler32(bytes((side + 1) * many), checksum)
    stream = b"\x78\xda" + rows * (side // many) + b"\x03\x00" + struct.pack(">I", checksum)
    parts = [(b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n"
    for kind, body in parts:
        file += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return file


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'

# What the page refuses: name, content, and what its message must say.
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "no image": ("notes.txt", lambda: b"not a picture" * 100, "notes.txt: not an image"),
    "bomb": ("bomb.png", bomb, "bomb.png: more than the 50,000,000 pixels"),
    "smaller bomb": ("large.png", lambda: bomb(8_000), "large.png: 8000×8000 pixels, more than the 50,000,000"),
    "truncated": ("cut.jpg", lambda: saved(PHOTO, "JPEG")[:1500], "cut.jpg: "),
    "svg": ("drawing.svg", lambda: SVG, "drawing.svg: not an image"),
    "svg called png": ("drawing.png", lambda: SVG, "drawing.png: not an image"),
    "empty": ("nothing.png", lambda: b"", "nothing.png: the file is empty"),
    "name of a path": ("../../../etc/passwd", lambda: b"root:x:0", "passwd: not an image"),
    "name of markup": ("<img src=x onerror=alert(1)>.png", lambda: b"no", ".png: not an image"),
}

# What it takes: the size that it is shown in.
TAKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "animated GIF": (
        lambda: saved(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90), PHOTO.rotate(180)]),
        "128×96",
    ),
    "CMYK": (lambda: saved(PHOTO.convert("CMYK"), "JPEG"), "128×96"),
    "16 bits": (lambda: saved(Image.fromarray(np.arange(96 * 128, dtype=np.uint16).reshape(96, 128)), "PNG"), "128×96"),
    "transparent": (lambda: saved(PHOTO.convert("RGBA").rotate(45), "PNG"), "128×96"),
    "turned by EXIF": (lambda: saved(PHOTO, "JPEG", exif=turned()), "96×128"),
    "large": (lambda: saved(PHOTO.resize((1024, 768)), "JPEG"), "256×192"),
    "one pixel": (lambda: saved(PHOTO.crop((0, 0, 1, 1)), "PNG"), "1×1"),
}


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_the_bomb_is_a_sound_image() -> None:
    with Image.open(io.BytesIO(bomb(300))) as image:
        image.load()
        assert image.size == (300, 300)


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_file_gets_one_clear_message(case: str, served: Served) -> None:
    name, content, says = REFUSED[case]
    answer = drop(served.address, name, content())
    assert answer.outputs is None
    assert answer.error is not None
    assert says in answer.error
    assert "\n" not in answer.error
    assert "<" not in answer.error
    assert "/tmp" not in answer.error


@pytest.mark.parametrize("case", TAKEN)
def test_an_unusual_image_is_taken(case: str, served: Served) -> None:
    content, size = TAKEN[case]
    answer = drop(served.address, "picture.xyz", content())
    assert answer.error is None
    assert answer.outputs is not None
    assert answer.outputs[-1].startswith(f"{size} pixels")


def test_a_file_over_the_limit_is_not_taken(served: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        upload(served.address, "large.png", bytes(5 * 2**20))
    assert refusal.value.code == 413


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", str(Path(__file__).resolve())])
def test_a_file_of_the_server_is_not_read(path: str, served: Served) -> None:
    answer = call(served.address, "photo", file(path))
    assert answer.outputs is None


def test_requests_are_counted_by_address(served: Served) -> None:
    with mock.patch.object(Rate, "count", side_effect=UserError("more than 1 requests a minute")) as count:
        answer = drop(served.address, "photo.png", saved(PHOTO, "PNG"))
    count.assert_called_once_with("127.0.0.1")
    assert answer.error == "more than 1 requests a minute"


def test_a_full_queue_refuses(served: Served) -> None:
    with mock.patch.object(served.blocks._queue, "max_size", 0), pytest.raises(urllib.error.HTTPError) as refusal:
        drop(served.address, "photo.png", saved(PHOTO, "PNG"))
    assert refusal.value.code == 503


def test_the_command_serves_and_a_taken_port_is_one_line(finished: Path, served: Served) -> None:
    port = free_port()
    seen: list[int] = []

    def visit(_: Any) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as response:
            seen.append(response.status)

    with mock.patch("gradio.Blocks.block_thread", visit):
        outcome = vaevq("demo", finished, "--port", port, "--device", "cpu")
    assert (outcome.code, seen) == (0, [200]), outcome.err
    assert f"http://127.0.0.1:{port}/ (Ctrl-C ends it)" in outcome.out
    assert "password" not in outcome.err
    again = vaevq("demo", finished, "--port", port, "--device", "cpu")
    assert again.code == 2
    assert again.err.startswith(f"vaevq: error: 127.0.0.1:{port} cannot be served from (")


def test_several_at_once_are_all_answered(served: Served) -> None:
    answered_all(served, 8)


@pytest.mark.slow
def test_fifty_at_once_are_all_answered(served: Served) -> None:
    answered_all(served, 50)


def answered_all(served: Served, count: int) -> None:
    """Sound and hostile files from as many visitors at once: each gets its own answer, and the page stays up."""
    sizes = [(64 + 2 * i, 64) for i in range(count)]
    images = [saved(PHOTO.resize(size), "JPEG") for size in sizes]

    def visit(i: int) -> bool:
        if i % 4 == 3:
            name, content, says = REFUSED[("no image", "empty", "truncated")[i // 4 % 3]]
            return says in (drop(served.address, name, content()).error or "")
        outputs = drop(served.address, f"{i}.jpg", images[i]).outputs
        return outputs is not None and outputs[-1].startswith(f"{sizes[i][0]}×64 pixels")

    with ThreadPoolExecutor(count) as visitors:
        assert list(visitors.map(visit, range(count))) == [True] * count
    assert drop(served.address, "after.png", saved(PHOTO, "PNG")).error is None
