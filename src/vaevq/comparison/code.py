"""A digest of the code that figures come from, so that a changed number is noticed and a changed comment is not."""

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import vaevq
from vaevq.config import RunConfig
from vaevq.quantization.build import LAYERS

# A step, the images of both sides, and what is measured. The loop between them decides when, not what.
_ROOTS = ("training.tokenizer_step", "data.held_out", "metrics.evaluation")

# What a kind has besides: where its codebook comes from.
_OF_KIND = {"vqgan_lc": ("training.codebook_fit",)}

# What changes no number: options (a cell is compared with them by value), messages, files, and where it runs.
_LEFT_OUT = (
    *("config", "errors", "files", "distributed", "quantization.build", "quantization.baselines", "training.engine"),
    *("data.sources", "data.unreadable", "data.volumes.room", "metrics.protocol", "metrics.result"),
    *("card", "lineage", "saved"),
)


def code_digest(kind: str, package: Path | None = None) -> str:
    """16 hexadecimal digits of the numeric code of training and evaluation with one quantizer.

    It depends on what the modules say, not on their comments, docstrings and layout, and not on the other quantizers.

    Args:
        kind: of the quantizer.
        package: the folder of the package; this one's where left out.
    """
    folder = package or Path(vaevq.__file__).parent
    quantizer = LAYERS[kind].__module__
    found: dict[str, ast.Module] = {}
    waiting = [quantizer.removeprefix("vaevq."), *_ROOTS, *_OF_KIND.get(kind, ())]
    while waiting:
        name = waiting.pop()
        path = _file(folder, name)
        if name in found or path is None:
            continue
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
        # A baseline may build on another one, which then counts as well.
        inside = name.startswith("quantization.baselines.")
        for imported in _imports(found[name], folder):
            left_out = any(f"{imported}.".startswith(f"{name}.") for name in _LEFT_OUT)
            if not left_out or (inside and imported.startswith("quantization.baselines.")):
                waiting.append(imported)
    digest = hashlib.sha256()
    for name, tree in sorted(found.items()):
        digest.update(f"{name}\n{_said(tree)}\n".encode())
    return digest.hexdigest()[:16]


def same_numbers(one: str, other: str, config: RunConfig) -> bool:
    """Whether code of these two digests is known to give a run the same figures: same_numbers.json beside this file."""
    return one == other or any(
        {one, other} <= group.digests and (group.always or _starts_at_one_token_a_codeword(config))
        for group in _groups()
    )


@dataclass(frozen=True)
class _Group:
    """Digests of code that gives the same numbers, always or where a revived codebook starts at a token a codeword."""

    digests: frozenset[str]
    always: bool


@cache
def _groups() -> tuple[_Group, ...]:
    text = files("vaevq.comparison").joinpath("same_numbers.json").read_text(encoding="utf-8")
    return tuple(_Group(frozenset(group["digests"]), group["always"]) for group in json.loads(text))


def _starts_at_one_token_a_codeword(config: RunConfig) -> bool:
    """Since 2026-11-25 counts start at a batch's mean number and not at 1; of other codebooks nothing has changed."""
    quantizer, f = config.model.quantizer, config.model.autoencoder.downsample_factor
    if getattr(quantizer, "codebook", "averaged") != "averaged" or not getattr(quantizer, "revive_below", 0):
        return True
    tokens = config.train.batch_size * (config.data.image_size // f) ** 2
    return tokens == quantizer.codebook_size


def _imports(tree: ast.Module, folder: Path) -> Iterator[str]:
    """The modules of the package that a module imports, anywhere in it, without the package's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("vaevq."):
                    yield alias.name.removeprefix("vaevq.")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vaevq":
            module = (node.module or "").removeprefix("vaevq").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield inner if _file(folder, inner) is not None else module


def _file(folder: Path, name: str) -> Path | None:
    """A module's file; None for a package, which holds names of its modules alone."""
    path = folder.joinpath(*name.split(".")).with_suffix(".py") if name else folder / "__init__.py"
    return path if name and path.is_file() else None


def _said(node: object) -> str:
    """A syntax tree as text, without docstrings and other strings that stand alone.

    `ast.dump` says the same, but not in equal words in every version of Python.
    """
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({','.join(f'{name}={_said(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(_said(item) for item in node if not _is_lone_string(item))}]"
    return repr(node)


def _is_lone_string(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
