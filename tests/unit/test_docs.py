"""What the documents say is so: Python blocks run, commands parse, options and tests that are named exist."""

import ast
import functools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml

from documents import DOCUMENTS, ROOT, Block, blocks, commands
from generators import write_generator
from runs import vaevq
from vaevq.cli import GENERATE_VERBS, VERBS, main
from vaevq.comparison import read_plan
from vaevq.config import (
    GENERATORS,
    QUANTIZERS,
    VARIANTS,
    EvalConfig,
    GenerationEvalConfig,
    GeneratorRunConfig,
    RunConfig,
    Section,
    load_generator_config,
    load_run_config,
    load_section,
    recipe_names,
    validate,
)
from vaevq.seeding import generator

FIDELITY = ROOT / "docs" / "fidelity.md"


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
HELP = [
    Block(f"help of {verb}", "sh", function.__doc__ or "")
    for verbs in (VERBS, GENERATE_VERBS)
    for verb, function in verbs.items()
]


@dataclass(frozen=True)
class Call:
    """A verb of the command (or `generate VERB`), and what it was given."""

    verb: str
    given: dict[str, Any]


def parse(words: list[str]) -> Call:
    """What the command would call; nothing of it is run. SystemExit where an option does not exist."""
    calls: list[Call] = []

    def stand_in(verb: str, function: Any) -> Any:
        @functools.wraps(function)
        def note(*positional: Any, **given: Any) -> None:
            calls.append(Call(verb, {"words": positional[0] if positional else (), **given}))

        return note

    plain = {verb: stand_in(verb, function) for verb, function in VERBS.items()}
    generate = {verb: stand_in(f"generate {verb}", function) for verb, function in GENERATE_VERBS.items()}
    with (
        mock.patch.dict(VERBS, plain),
        mock.patch.dict(GENERATE_VERBS, generate),
        mock.patch("sys.argv", ["vaevq", *words]),
    ):
        main()
    (call,) = calls
    return call


def lines_of(*languages: str, of: list[Block]) -> list[Any]:
    return [
        pytest.param(words, id=f"{block.where}: {' '.join(words)}")
        for block in of
        if block.language in languages
        for words in commands(block.text)
    ]


@pytest.mark.parametrize("words", lines_of("sh", "console", of=BLOCKS + HELP))
def test_a_command_line_parses_and_its_options_exist(words: list[str]) -> None:
    call = parse(words)
    given = call.given["words"] if isinstance(call.given["words"], tuple) else ()
    recipes, overrides = ([word for word in given if ("=" in word) == is_one] for is_one in (False, True))
    if call.verb == "generate train":
        assert len(recipes) <= 1
        assert not recipes or recipes[0] in recipe_names("generators")
        load_generator_config(recipes[0] if recipes else "cifar10", overrides)
    elif call.verb == "generate eval":
        assert len(recipes) == 1
        load_section(GenerationEvalConfig, overrides, GenerationEvalConfig())
    elif call.verb == "train":
        assert len(recipes) <= 1
        # A recipe of the reader's own is one that changes nothing.
        recipe = recipes[0] if recipes and recipes[0] in recipe_names() else "quickstart"
        assert not recipes or recipe == recipes[0] or recipes[0].endswith(".yaml")
        load_run_config(recipe, overrides)
    elif call.verb == "eval":
        load_section(EvalConfig, overrides, EvalConfig())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda block: block.where)
def test_a_recipe_or_a_comparison_is_valid(block: Block, tmp_path: Path) -> None:
    tree = yaml.safe_load(block.text)
    if "rows" in tree:
        path = tmp_path / "plan.yaml"
        path.write_text(block.text)
        read_plan(path)
    else:
        validate(RunConfig, tree, block.where)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if "```python" in d.read_text()], ids=lambda path: path.name)
def test_python_blocks_run_one_after_another(
    document: Path, finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with a run, a photo and its tokens; `images` are there where a block starts from them."""
    monkeypatch.chdir(tmp_path)
    code = [block.text for block in blocks(document) if block.language == "python"]
    for name in {"runs/quickstart", *re.findall(r"\bruns/[a-z_]+", "".join(code))}:
        if name == "runs/generator":
            write_generator(finished, tmp_path / name)
        else:
            shutil.copytree(finished, tmp_path / name)
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(photos / "cat-0.png", tmp_path / "photo.png")
    made = vaevq("encode", "photo.png", "--model", "runs/quickstart", "-o", "tokens.safetensors")
    assert made.code == 0, made.err
    names: dict[str, Any] = {"images": torch.rand(2, 3, 32, 48, generator=generator("documents")) * 2 - 1}
    for text in code:
        exec(compile(text, str(document), "exec"), names)


def dotted_names(section: type[Section], prefix: str = "") -> Iterator[str]:
    """The names of a configuration's fields, those of every quantizer included."""
    for name, field in section.model_fields.items():
        unions: dict[str, tuple[Any, ...]] = {"quantizer": (*QUANTIZERS.values(),), "network": (*GENERATORS.values(),)}
        kinds = unions.get(name, (field.annotation,))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from dotted_names(kind, f"{prefix}{name}.")
        yield f"{prefix}{name}"


OPTIONS = {*dotted_names(RunConfig), *dotted_names(GeneratorRunConfig)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_that_are_named_exist(document: Path) -> None:
    text = re.sub(r"^```python\n.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    named = set(
        re.findall(
            r"(?<![\w.])((?:model\.(?:autoencoder|quantizer)|network|loss|data|train|adapt|eval)\.[a-z_][a-z_0-9]*)",
            text,
        )
    )
    files = {"eval.json", "model.safetensors"}
    assert {name for name in named - OPTIONS if not name.startswith(tuple(files))} == set()
    # Within tables the section stands above: `rcs_weight` alone is a field of some section.
    fields = {name.rpartition(".")[2] for name in OPTIONS}
    bare = set(re.findall(r"`((?:rcs|dcr|kl|adversarial|perceptual|discriminator|lecam|pixel)_[a-z_]+)`", text))
    assert bare - fields - {"discriminator_optimizer"} == set()  # a part of a checkpoint


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_tests_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    for path, test in re.findall(r"\b((?:tests|src|docs|experiments)/[\w/.-]*\.\w+)(?:::(\w+))?", text):
        assert (ROOT / path).exists(), path
        assert not test or test in functions(ROOT / path), f"{path}::{test}"


@functools.cache
def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def quoted_messages() -> list[str]:
    """What docs/troubleshooting.md quotes of the command, in its examples and in its table of messages."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    examples = re.findall(r"^    (?:vaevq: error: |warning: |skipped )(.*)$", text, re.MULTILINE)
    table = text.partition("## What messages mean")[2].partition("\n## ")[0]
    return [*examples, *re.findall(r"^\| `([^`]+)`(?!, from zsh)", table, re.MULTILINE)]


@functools.cache
def texts_of_the_code() -> set[str]:
    """All texts of twelve letters and more; one that has values put into it is several."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "src").rglob("*.py")]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {text.strip() for text in constants if isinstance(text, str) and len(text.strip()) >= 12}


@pytest.mark.parametrize("message", quoted_messages())
def test_messages_that_are_explained_are_those_of_the_code(message: str) -> None:
    """But for what is put into them."""
    assert any(text in message or message in text for text in texts_of_the_code())


@dataclass(frozen=True)
class Choice:
    """A row of the table of options in docs/fidelity.md."""

    option: str
    paper: str
    released: str
    default: str


def choices() -> list[Choice]:
    rows = re.findall(r"^\| `([a-z_.]+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", FIDELITY.read_text(), re.MULTILINE)
    return [Choice(*(cell.strip().strip("`") for cell in row)) for row in rows]


def setting(config: RunConfig, dotted: str) -> str:
    """A field's value as YAML writes it."""
    value = functools.reduce(getattr, dotted.split("."), config)
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


@pytest.mark.parametrize("choice", choices(), ids=lambda choice: choice.option)
def test_the_table_of_fidelity_states_the_values_in_the_code(choice: Choice) -> None:
    stated = {None: choice.default, "paper": choice.paper, "released": choice.released}
    for variant, value in stated.items():
        config = RunConfig.model_validate({"variant": variant} if variant else {})
        assert value == setting(config, choice.option), variant or "default"


def test_the_table_of_fidelity_has_every_point_that_the_variants_set() -> None:
    points = {
        f"{prefix}.{name}"
        for variant in VARIANTS.values()
        for prefix, fields in (
            ("model.quantizer", variant["model"]["quantizer"]),
            ("loss", variant["loss"]),
            ("train", variant["train"]),
        )
        for name in fields
    }
    assert points - {choice.option for choice in choices()} == set()


def test_a_command_with_an_option_that_does_not_exist_is_noticed() -> None:
    with mock.patch("sys.stderr"), pytest.raises(SystemExit):
        parse(["train", "--dat", "photos"])
    assert list(commands("FOO=1 torchrun -m vaevq train 'a=[b]' && cd x; vaevq eval # and so on")) == [
        ["train", "a=[b]"],
        ["eval"],
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_waits_to_be_filled_in(path: Path) -> None:
    waiting = re.findall(
        r"^(?:[A-Z]{4,}\d?|.*\b(?:TODO|FIXME|TBD)\b.*)$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert waiting == []
