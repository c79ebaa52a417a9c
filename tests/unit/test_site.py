"""The site of the documentation: it builds strictly, needs no network, draws equations and shows files of the code."""

import logging
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from documents import ROOT
from pages import Page


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    yield
    logging.getLogger("mkdocs").handlers.clear()  # strict builds add a counter each


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def pages(site: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(site.rglob("*.html")):
        yield path.relative_to(site).as_posix(), path.read_text()


def test_every_document_is_a_page(site: Path) -> None:
    names = {name for name, _ in pages(site)}
    documents = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert documents <= names
    assert {"repository/experiments/LOG.html", "repository/src/vaevq/quantization/rcs.py.html"} <= names


def test_nothing_that_a_page_loads_lies_elsewhere(site: Path) -> None:
    for name, text in pages(site):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="([^"]+)"|<link[^>]*\brel="stylesheet"[^>]*', text)
        loaded += re.findall(r'<link[^>]*\bhref="([^"]+)"', text)
        assert [address for address in loaded if re.match(r"(https?:)?//", address)] == [], name


def test_equations_are_drawn_without_a_script(site: Path) -> None:
    text, source = (site / "method.html").read_text(), (ROOT / "docs/method.md").read_text()
    assert text.count('display="block"') == len(re.findall(r"^\$\$$", source, re.MULTILINE)) / 2
    assert "arithmatex" not in text
    assert "$$" not in text


def test_the_reference_has_what_its_pages_name(site: Path) -> None:
    for document in ROOT.glob("docs/api/*.md"):
        text = unescape((site / "api" / f"{document.stem}.html").read_text())
        for name in re.findall(r"^::: (\S+)$", document.read_text(), re.MULTILINE):
            assert f'id="{name}"' in text, name
    assert "int64 B×⌈H/f⌉×⌈W/f⌉ in [0, K)" in (site / "api/tokenizer.html").read_text()


def test_the_search_finds_words_of_the_documents_and_no_listings(site: Path) -> None:
    index = (site / "search/search_index.json").read_text()
    assert "Checkerboard" in index
    assert "representation_coherence(" not in index


@pytest.mark.parametrize(
    "changes",
    [
        {"index.md": "[gone](gone.md)"},
        {"index.md": "[gone](../docs/gone.md)"},
        {"index.md": "[no such heading](#gone)"},
        {"other.md": "# A page that no navigation names"},
        {"index.md": r"$$\nosuchcommand x$$"},
    ],
    ids=["dead link", "dead link outside", "dead anchor", "page without a place", "equation that is not drawn"],
)
def test_a_mistake_fails_the_build(changes: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(Abort):
        build(small_site({"index.md": "# Title", **changes}, tmp_path))


def test_files_of_the_repository_become_pages_where_a_page_links_to_them(tmp_path: Path) -> None:
    build(small_site({"index.md": "[seeds](../src/vaevq/seeding.py), [log](../experiments/LOG.md)"}, tmp_path))
    page = Page((tmp_path / "site/index.html").read_text().replace("<!doctype html>", ""))
    links = [link["href"] for link in page.all("a") if "repository" in (link.get("href") or "")]
    assert links == ["repository/src/vaevq/seeding.py.html", "repository/experiments/LOG.html"]
    listing = (tmp_path / "site/repository/src/vaevq/seeding.py.html").read_text()
    assert "stream_seed" in listing


def small_site(documents: dict[str, str], folder: Path) -> Any:
    """The configuration of a site of these documents alone, without the reference."""
    for name, text in documents.items():
        (folder / "docs" / name).parent.mkdir(exist_ok=True)
        (folder / "docs" / name).write_text(text)
    where = {"docs_dir": str(folder / "docs"), "site_dir": str(folder / "site")}
    return load_config(
        str(ROOT / "mkdocs.yml"), **where, nav=["index.md"], plugins=[], extra_css=[], theme={"name": "mkdocs"}
    )
