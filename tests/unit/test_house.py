"""The house: what is imported when, what is declared, and that the documents point to what exists."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/*.md")])

# In the extra `dev` and never imported: what .ci/run and pytest call.
TOOLS = {"import-linter", "mypy", "pytest-timeout", "pytest-xdist", "ruff", "types-pyyaml"}
# Imported by torch.utils.tensorboard, for us.
THROUGH_OTHERS = {"tensorboard"}


@pytest.mark.parametrize("module", ["vaevq", "vaevq.config", "vaevq.errors", "vaevq.files", "vaevq.cli"])
def test_what_answers_at_once_imports_no_torch(module: str) -> None:
    heavy = {"torch", "numpy", "matplotlib", "PIL", "huggingface_hub", "tensorboard"}
    script = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_imports_no_torch() -> None:
    script = (
        "import sys, vaevq.cli; sys.argv = ['vaevq', 'train', '--help']\n"
        "try: vaevq.cli.main()\n"
        "except SystemExit: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "usage: vaevq train" in done.stdout
    assert done.stderr.strip() == "False"


def test_the_readmes_test_command_is_one_line_that_installs_and_tests() -> None:
    done = subprocess.run(["bash", ROOT / ".ci/run", "--test-command"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    install = r'python3 -m venv \.venv && \.venv/bin/pip install -e "\.\[dev\]"'
    assert re.fullmatch(install + r" && \.venv/bin/pytest -n auto --dist loadfile", line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in _links(document.read_text()):
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in _anchors(file.read_text())):
            broken.append(target)
    assert broken == []


def test_every_import_of_the_package_is_declared() -> None:
    extras = {name for group, names in _extras().items() if group != "dev" for name in names}
    used = _distributions(ROOT / "src")
    assert used - _dependencies() - extras - {"vaevq"} == set()
    assert _dependencies() - used == THROUGH_OTHERS


def test_every_import_of_the_tests_is_declared_and_every_package_of_dev_is_in_use() -> None:
    extras = _extras()
    dev = extras.pop("dev") - {"vaevq"}  # which is named with extras of its own
    folders = ("tests", "benchmarks", "docs")
    used = set[str]().union(*(_distributions(ROOT / folder) for folder in folders)) - {"vaevq", "benchmarks"}
    assert used - _dependencies() - dev - set[str]().union(*extras.values()) == set()
    assert dev - used - TOOLS == set()


def test_extras_that_are_named_exist() -> None:
    sources = [*DOCUMENTS, *(ROOT / "src").rglob("*.py"), ROOT / ".ci/run"]
    named = {
        extra
        for source in sources
        for group in re.findall(r"(?:vaevq|\.)\[([a-z][a-z,-]*)\]", source.read_text())
        for extra in group.split(",")
    }
    assert "dev" in named
    assert named - _extras().keys() == set()


def test_the_changelog_and_the_citation_are_of_this_version() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version: "{PROJECT["version"]}"' in (ROOT / "CITATION.cff").read_text()


def _links(text: str) -> Iterator[str]:
    """Targets of Markdown links and pictures that are neither addresses nor within code."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            yield target


def _anchors(text: str) -> set[str]:
    """What GitHub makes of a document's headings."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _name(requirement: str) -> str:
    """The distribution of a requirement, in its normal form."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _dependencies() -> set[str]:
    return {_name(requirement) for requirement in PROJECT["dependencies"]}


def _extras() -> dict[str, set[str]]:
    return {extra: set(map(_name, needs)) for extra, needs in PROJECT["optional-dependencies"].items()}


@cache
def _distributions(folder: Path) -> set[str]:
    """The distributions of all that the Python files below `folder` import, the standard library apart."""
    modules: set[str] = set()
    local = {path.stem for path in folder.rglob("*.py")}
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.partition(".")[0])
    known = packages_distributions()
    wanted = {module for module in modules - sys.stdlib_module_names if module not in local or module in known}
    return {_name(distribution) for module in wanted for distribution in known.get(module, [module])}
