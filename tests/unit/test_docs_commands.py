"""Every fenced block of the documents is run, or says beside it why it is not; commands are run scaled down.

`test_docs.py` runs the Python, validates the YAML and parses every command as it stands, with its options, recipe and
configuration. Here the commands run one after another as in the document, with tiny networks and a few images.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import DOCUMENTS, Block, blocks, commands, not_commands, shown
from feature_networks import Means
from sandbox import Sandbox
from vaevq.metrics import generation
from vaevq.report import examples

NOT_RUN = {
    "CONTRIBUTING.md": 1,
    "benchmarks.md": 1,
    "demo.md": 2,
    "export.md": 1,
    "index.md": 2,
    "volumes.md": 1,
}
"""How many blocks of each document say that they are not run."""
LANGUAGES = {"python", "sh", "console", "yaml"}
SHELL = {"sh", "console"}
SLOW = {"export.md"}
"""Ten seconds of CPU, and tests/unit/test_export.py calls the same command."""


@pytest.fixture
def sandbox(finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(generation, "load_feature_network", lambda config, device: Means())
    # Charts are four fifths of a small run's time, and the run in `finished` has drawn them.
    monkeypatch.setattr(examples, "write_report", lambda run_dir: run_dir / "report.html")
    return Sandbox(tmp_path, photos, finished)


def command_blocks(document: Path) -> Iterator[Block]:
    for block in blocks(document):
        if block.language in SHELL and block.runs and block.marker != "test-command":
            yield block


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(document, id=document.name, marks=[pytest.mark.slow] if document.name in SLOW else [])
        for document in DOCUMENTS
        if any(command_blocks(document))
    ],
)
def test_commands_run_one_after_another(document: Path, sandbox: Sandbox) -> None:
    for block in command_blocks(document):
        steps = shown(block.text) if block.language == "console" else [(block.text, [])]
        for text, expected in steps:
            printed = set[str]()
            for words in commands(text):
                outcome = sandbox.run(words)
                assert outcome.code == 0, f"{block.where}: vaevq {' '.join(words)}: {outcome.err}"
                printed |= {without_numbers(line) for line in outcome.out.splitlines()}
            assert {without_numbers(line) for line in expected} <= printed, block.where


def without_numbers(line: str) -> str:
    """A line of output as it would be of any run."""
    return " ".join(re.sub(r"[\d.,]*\d", "#", line).split())


def test_a_block_that_is_not_run_says_why_and_they_are_few() -> None:
    for document in DOCUMENTS:
        found = blocks(document)
        assert len(re.findall(r"^\s*```", document.read_text(), re.MULTILINE)) == 2 * len(found), document.name
        assert {block.language for block in found} <= LANGUAGES, document.name
        not_run = [block for block in found if not block.runs]
        assert len(not_run) == NOT_RUN.get(document.name, 0), document.name
        for block in found:
            if block.language in SHELL and block.runs and block.marker != "test-command":
                text = "\n".join(line for line, _ in shown(block.text)) if block.language == "console" else block.text
                assert list(not_commands(text)) == [], block.where
