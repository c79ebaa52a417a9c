"""A visitor who needs no browser: files are uploaded and events called over HTTP."""

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from vaevq.demo.limits import Limits
from vaevq.demo.models import Models


@dataclass(frozen=True)
class Served:
    """A page that is being served, and what it shows."""

    address: str
    models: Models
    blocks: Any


@dataclass(frozen=True)
class Answer:
    """What an event gave: its outputs, or the one message of an error."""

    outputs: list[Any] | None
    error: str | None


def free_port() -> int:
    """A port that nobody serves from."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
    return port


def upload(address: str, name: str, content: bytes) -> str:
    """Uploads a file under any name; returns its path on the server. HTTPError where it is refused."""
    boundary = "a-line-that-is-in-no-file"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{address}gradio_api/upload", body, kind)
    with urllib.request.urlopen(request, timeout=120) as response:
        (path,) = json.load(response)
    return str(path)


def call(address: str, event: str, *inputs: Any) -> Answer:
    """Calls an event and waits for what it gives."""
    body = json.dumps({"data": inputs}).encode()
    kind = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}gradio_api/call/{event}", body, kind), timeout=120
    ) as response:
        number = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{address}gradio_api/call/{event}/{number}", timeout=240) as response:
        lines = response.read().decode().splitlines()
    said = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")][-1]
    if "event: complete" in lines:
        return Answer(json.loads(said), None)
    error = json.loads(said)
    return Answer(None, error.get("error") if isinstance(error, dict) else str(error))


def file(path: str) -> dict[str, Any]:
    """A file of the server as an input."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def drop(address: str, name: str, content: bytes) -> Answer:
    """Drops a file on the page. HTTPError where it is not even taken."""
    return call(address, "photo", file(upload(address, name, content)))


def serve_models(models: Models) -> Iterator[Served]:
    """A page of these models until it is let go; skipped where gradio is missing."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vaevq[demo]'")
    from vaevq.demo.page import build_page, serve

    limits = Limits(side=256, max_mb=4, per_minute=10_000, queue=100)
    blocks = build_page(models, limits)
    yield Served(serve(blocks, limits, "127.0.0.1", free_port()), models, blocks)
    blocks.close(verbose=False)
