"""What the site needs beyond its Markdown (mkdocs.yml): files of the repository as pages, and equations as MathML."""

import posixpath
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = "repository/"
"""Where in the site the files lie that are not in docs/. The navigation names them so."""

_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_EQUATION = re.compile(
    r'<span class="arithmatex">\\\((.*?)\\\)</span>|<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that the navigation names or pages link to, and those that these link to."""
    pages = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    waiting = [*_named(config.nav), *(target for source, text in pages for target in _targets(text, source))]
    while waiting:
        path = waiting.pop()
        uri = _uri(path)
        if path.startswith("docs/") or files.get_file_from_path(uri):
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            waiting += _targets(text, path)
            text = f"---\nsearch: {{boost: 0.3}}\n---\n{text}"
        else:
            text = _listing(path, text)
        files.append(File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Points links to where their targets lie in the site."""
    uri = page.file.src_uri
    source = uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else f"docs/{uri}"
    if not (ROOT / source).is_file():  # a listing
        return markdown

    def moved(link: re.Match[str]) -> str:
        target = _target(link[1], source)
        if target is None:
            return link[0]
        return f"]({posixpath.relpath(_uri(target), posixpath.dirname(uri) or '.')}{link[2] or ''})"

    return _LINK.sub(moved, markdown)


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Turns equations into MathML, which browsers draw without a script."""

    def drawn(equation: re.Match[str]) -> str:
        inline, block = equation[1], equation[2]
        latex = unescape(inline or block).strip()
        mathml = convert(latex, display="inline" if inline else "block")
        if unknown := re.search(r">\\\w+<", mathml):
            raise PluginError(f"{page.file.src_uri}: {unknown[0][1:-1]} in '{latex}' is not drawn")
        return mathml

    return _EQUATION.sub(drawn, html)


def _named(nav: Any) -> Iterator[str]:
    """The files outside docs/ in a navigation, which is a text or lists and dictionaries of such."""
    if isinstance(nav, str) and nav.startswith(OUTSIDE):
        yield nav.removeprefix(OUTSIDE)
    elif isinstance(nav, list | dict):
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(part)


def _targets(markdown: str, source: str) -> Iterator[str]:
    for link in _LINK.finditer(markdown):
        if target := _target(link[1], source):
            yield target


def _target(link: str, source: str) -> str | None:
    """The file of the repository that a link of `source` means; None where it means no file."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def _uri(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{OUTSIDE}{path}" if path.endswith(".md") else f"{OUTSIDE}{path}.md"


def _listing(path: str, text: str) -> str:
    """A page that shows a file which is no Markdown, and that the search leaves out."""
    language = {".py": "python", ".yaml": "yaml", ".toml": "toml"}.get(PurePosixPath(path).suffix, "text")
    fence = "`" * 6
    return f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n# {path}\n\n{fence}{language}\n{text}\n{fence}\n"
