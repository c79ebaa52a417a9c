"""A page that is served from this process, and a browser; tests without what they need are skipped, saying so."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from visitors import Served, serve_models

from generators import write_generator
from vaevq.demo.models import load_models


@pytest.fixture(scope="session")
def served(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of a small tokenizer and a generator of its tokens."""
    run = tmp_path_factory.mktemp("generator")
    write_generator(finished, run)
    yield from serve_models(load_models(str(finished), str(run), torch.device("cpu")))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium is installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
