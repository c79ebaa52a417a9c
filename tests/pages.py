"""What the tests of HTML pages share."""

import re
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """An HTML page taken apart; a tag that is closed in the wrong place is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def assert_self_contained(self) -> None:
        """Nothing of the page lies elsewhere, and its links lead to places in it."""
        names = [attributes["id"] for _, attributes in self.tags if attributes.get("id")]
        assert len(names) == len(set(names))
        places = {f"#{name}" for name in names}
        for tag, attributes in self.tags:
            assert tag not in {"script", "link", "iframe", "object", "base"}
            for name in ("src", "srcset", "href", "xlink:href", "data", "poster"):
                address = attributes.get(name)
                assert address is None or address in places or address.startswith("data:image/png;base64,"), address
        assert not re.search(r"url\((?!#)|@import", self.source)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
