"""What the tests of the documents share: their fenced blocks, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, or the examples in a verb's help.

    Attributes:
        where: the document, and its place among the document's blocks.
        language: as the fence says.
        text: without the fences.
        marker: of an HTML comment right above it: `test-command`, or `not run: REASON`; else empty.
    """

    where: str
    language: str
    text: str
    marker: str = ""

    @property
    def runs(self) -> bool:
        """Whether nothing says that it does not."""
        return not self.marker.startswith("not run: ")


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    fenced = r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$"
    found = re.finditer(fenced, document.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(f"{document.name}-{i}", match[2], match[3], match[1] or "") for i, match in enumerate(found, start=1)]


def commands(text: str) -> Iterator[list[str]]:
    """The words after `vaevq` of every command line in which it is called."""
    for line in text.replace("\\\n", " ").splitlines():
        yield from _of_line(line)


def not_commands(text: str) -> Iterator[str]:
    """The lines of a shell block that neither call `vaevq` nor only prepare for it."""
    for line in text.replace("\\\n", " ").splitlines():
        prepares = re.match(r"\s*$|#|export \w+=|\w+=\$|pip install '?vaevq\[", line)
        if not prepares and not any(_of_line(line)):
            yield line


def shown(text: str) -> Iterator[tuple[str, list[str]]]:
    """Of a console block each command line, without its prompt, and the lines of output below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, *output = part.splitlines()
        yield line, output


def _of_line(line: str) -> Iterator[list[str]]:
    if not re.search(r"\bvaevq ", line):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(lexer)
    files = {i + 1 for i, word in enumerate(words) if set(word) <= set("<>")}  # what output goes to
    words = [word for i, word in enumerate(words) if i not in files]
    while "vaevq" in (names := [Path(word).name for word in words]):
        words = words[names.index("vaevq") + 1 :]
        end = next((i for i, word in enumerate(words) if set(word) <= set("|&;<>")), len(words))
        yield words[:end]
        words = words[end:]
