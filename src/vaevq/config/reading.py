"""YAML, JSON and `key=value` to a validated configuration; every mistake at once, with its dotted path."""

import contextlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from os.path import isfile, lexists
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from vaevq.config.generation import GENERATORS, GeneratorRunConfig
from vaevq.config.layers import in_vain, laid, without_effect
from vaevq.config.quantizers import QUANTIZERS
from vaevq.config.run import RunConfig
from vaevq.config.section import Section, dig, leaves, merged
from vaevq.config.variants import spelled_out
from vaevq.effect import GENERATION_EVAL_NO_EFFECT, GENERATOR_NO_EFFECT, NO_EFFECT
from vaevq.errors import UserError, nearest_name

T = TypeVar("T", bound=BaseModel)
S = TypeVar("S", bound="Section")

MOST_VALUES = 100_000
"""A configuration has a few hundred."""

MOST_SHOWN = 200
"""Characters of a wrong name or value that a message repeats."""


RecipeKind = Literal["tokenizers", "generators"]


def recipe_names(kind: RecipeKind = "tokenizers") -> list[str]:
    """The names of the recipes of a kind that come with the package."""
    found = _recipe_folder(kind).iterdir()
    return sorted(p.name.removesuffix(".yaml") for p in found if p.name.endswith(".yaml"))


def recipe_tree(
    recipe: str | Path, kind: RecipeKind = "tokenizers", *, beside: Path | None = None, above: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a recipe says, laid on the recipe that it names as its `base`, as plain data that is not validated yet.

    Args:
        recipe: the name of a packaged recipe of that kind or the path of a YAML file.
        beside: a folder that such a path may start from.
        above: the recipes that this one is a base of.

    Raises:
        UserError: a file that is absent, no YAML, or no mapping; a recipe that is its own base.
    """
    known, path = recipe_names(kind), Path(recipe)
    if beside is not None and str(recipe) not in known and isfile(beside / path):  # noqa: PTH113
        path = beside / path
    if path.suffix in (".yaml", ".yml"):
        tree, beside = read_yaml(path, "recipe"), path.parent
    elif str(recipe) in known:
        text = _recipe_folder(kind).joinpath(f"{recipe}.yaml").read_text()
        tree, beside = dict(_parse_yaml(text, str(recipe))), None
    else:
        hint = nearest_name(str(recipe), known)
        raise UserError(f"no recipe named '{recipe}'{hint}: give a .yaml file or one of {', '.join(known)}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base: name a recipe or a YAML file, not {base!r}")
    here = str(path.resolve()) if path.suffix else str(recipe)
    if here in above:
        raise UserError(f"{path}: base: this recipe is its own base")
    ground = recipe_tree(base, kind, beside=beside, above=(*above, here))
    return laid(_resized(ground, tree), tree)


def _resized(ground: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A generator's recipe without the shape that a size laid on it takes the place of."""
    network = ground.get("network")
    if dig(given, "network.size") is None or not isinstance(network, Mapping):
        return ground
    shape = frozenset[str]().union(*(kind.shape_options for kind in GENERATORS.values()))
    return {**ground, "network": {name: value for name, value in network.items() if name not in shape}}


def _recipe_folder(kind: RecipeKind) -> Traversable:
    return files("vaevq.recipes") if kind == "tokenizers" else files("vaevq.recipes").joinpath(kind)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds a mapping of sections; `what` is what messages call it.

    Raises:
        UserError: it is absent, no YAML, or no mapping.
    """
    if not isfile(path):  # noqa: PTH113 - pathlib's fails where a name is too long
        raise UserError(f"{path}: no such {what} file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8, so no {what}") from None
    tree = _parse_yaml(text, str(path)) or {}
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: a {what} is a mapping of sections, not {type(tree).__name__}")
    return dict(tree)


def load_run_config(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    networks: Callable[[str], Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Reads a recipe and lays overrides on it.

    Args:
        recipe: the name of a packaged recipe or the path of a YAML file.
        overrides: `dotted.key=value` strings; values are read as YAML.
        flags: a tree that is laid on top of everything (what flags of the command set).
        networks: gives the section `model` of a saved model, which all of that is laid on where `train.init_from`
            names one; that of a packaged recipe gives way to it.

    An override of another kind of quantizer than the recipe's takes no more of the recipe's quantizer than its
    codebook's shape (`laid`).

    Raises:
        UserError: a file that is absent or no YAML, an unknown field (with the nearest right name), a wrong type, an
            option that the recipe by itself or what is laid on it gives in vain: every mistake in one message.
    """
    tree = recipe_tree(recipe)
    given = merged(_overrides_tree(overrides), flags or {})
    ground, over, model = tree, given, dig(merged(tree, given), "train.init_from")
    if networks is not None and isinstance(model, str):
        own = {name: section for name, section in tree.items() if name != "model" or str(recipe) not in recipe_names()}
        # A variant would lie below what the model's file spells out.
        saved = _without_followers({"model": networks(model)}, merged(own, given))
        ground, over = laid(saved, spelled_out(own)), spelled_out(given)
    config = validate(RunConfig, laid(ground, over), str(recipe))
    mistakes = without_effect(given, config)
    with contextlib.suppress(ValidationError):  # of a recipe that what is laid on it mends
        # A term that is switched off on top of a recipe with its details leaves those in peace.
        if dict(leaves(tree)).keys() < dict(leaves(config.model_dump())).keys():  # else a saved run's, which lists all
            mistakes += without_effect(tree, RunConfig.model_validate(tree), config)
    if mistakes:
        raise UserError(f"{recipe}: {'; '.join(dict.fromkeys(mistakes))}")
    return config


_FOLLOWS = {"levels": ("code_dim", "codebook_size"), "feature_dim": ("features",), "feature_weights": ("features",)}
"""Options of a quantizer that a saved model spells out, and what each of them followed from or goes with."""


def _without_followers(saved: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A saved model's section without what followed from options that are given otherwise now."""
    theirs, ours = dig(saved, "model.quantizer"), dig(given, "model.quantizer")
    if not isinstance(ours, Mapping):
        return saved
    changed = {name for name, value in ours.items() if value != theirs.get(name)}
    kept = {name: value for name, value in theirs.items() if changed.isdisjoint(_FOLLOWS.get(name, ()))}
    return {"model": {**saved["model"], "quantizer": kept}}


def load_generator_config(
    recipe: str | Path, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> GeneratorRunConfig:
    """Reads a generator's recipe and lays overrides on it, as `load_run_config` does.

    A size among the overrides takes the place of the shape that the recipe gives (layers, heads and width, or
    those of a U-Net).

    Raises:
        UserError: as `load_run_config`.
    """
    given = merged(_overrides_tree(overrides), flags or {})
    tree = _resized(recipe_tree(recipe, "generators"), given)
    config = validate(GeneratorRunConfig, merged(tree, given), str(recipe))
    vain = in_vain(config, rules=GENERATOR_NO_EFFECT)
    # As with tokenizers, a recipe's details of what is switched off on top of it are left in peace.
    of_recipe = in_vain(validate(GeneratorRunConfig, tree, str(recipe)), rules=GENERATOR_NO_EFFECT)
    named = {name for name, _ in leaves(given)} | of_recipe.keys()
    mistakes = [says for name, says in vain.items() if name in named]
    if mistakes:
        raise UserError(f"{recipe}: {'; '.join(mistakes)}")
    return config


def load_section(model: type[S], overrides: Sequence[str], base: S) -> S:
    """A section of the configuration: `base` with `key=value` overrides laid on it, validated whole.

    Raises:
        UserError: an unknown key, a wrong type, an override that has no effect.
    """
    given = _overrides_tree(overrides)
    section = validate(model, merged(base.model_dump(mode="json"), given), "options")
    named = (f"{name}." for name, field in RunConfig.model_fields.items() if field.annotation is model)
    prefix = next(named, "")
    vain = in_vain(section, prefix, NO_EFFECT if prefix else GENERATION_EVAL_NO_EFFECT)
    mistakes = [vain[f"{prefix}{name}"] for name, _ in leaves(given) if f"{prefix}{name}" in vain]
    if mistakes:  # here the section's options go by their own names
        raise UserError(f"options: {'; '.join(mistakes)}".replace(prefix, "") if prefix else "; ".join(mistakes))
    return section


def _parse_yaml(text: str, where: str) -> Any:
    try:
        tree = yaml.safe_load(text)
    except RecursionError:
        raise UserError(f"{where}: not valid: its values are nested too deeply") from None
    except (ValueError, OverflowError) as error:  # of a date or a number that is none
        raise UserError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None
    _check_extent(tree, where)
    return tree


def _check_extent(tree: Any, where: str) -> None:
    """Makes sure that a tree has an end and is no bomb: with aliases, a few lines of YAML can stand for billions."""
    waiting, seen = [tree], 0
    while waiting:
        seen += 1
        if seen > MOST_VALUES:
            raise UserError(f"{where}: more than {MOST_VALUES} values, or values that hold themselves")
        node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _overrides_tree(overrides: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            if lexists(override):
                raise UserError(f"'{override}' is a file or folder: name images with --data {override}")
            raise UserError(f"'{override}': an override is written dotted.key=value, like train.images=20000")
        tree: Any = _parse_yaml(text, key)
        for part in reversed(key.split(".")):
            tree = {part: tree}
        given = merged(given, tree)
    return given


def validate(model: type[T], tree: Any, where: str) -> T:
    """`tree` as a `model`; every mistake in one UserError, each with its dotted path and the nearest right name."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, tree, dict(e)) for e in error.errors()]
        raise UserError(f"{where}: " + "; ".join(lines)) from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: a value is no valid text") from None


def read_json(model: type[T], path: Path) -> T:
    """A configuration that `vaevq.files.write_json` wrote.

    Raises:
        UserError: the file is absent, damaged, or not of this model.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not valid JSON") from None
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    return validate(model, tree, str(path))


def _explain(model: type[BaseModel], tree: Any, error: dict[str, Any]) -> str:
    """One pydantic error as `dotted.path: what is wrong`."""
    # A discriminated union puts its tag into the location; it is no field, so it is left out of the path.
    parts = tuple(map(str, error["loc"]))
    tagged: dict[str, Collection[str]] = {"quantizer": QUANTIZERS, "network": GENERATORS}
    location = [part for before, part in zip(("", *parts), parts, strict=False) if part not in tagged.get(before, ())]
    path = _shown(".".join(location))
    if error["type"] == "extra_forbidden":
        known = _fields_beside(model, tree, location)
        name = location[-1]
        # A field named without its section is meant more often than one that is spelled alike.
        whole = [option for option in _option_names(model) if option.endswith(f".{name}")] if len(location) == 1 else []
        hint = f" (did you mean {' or '.join(whole)}?)" if whole else nearest_name(name, known)
        return f"{path}: unknown option{hint}"
    if error["type"] == "union_tag_invalid":
        kind, known = error["ctx"]["tag"], error["ctx"]["expected_tags"].replace("'", "")
        return f"{path}.kind: there is no '{kind}'{nearest_name(kind, known.split(', '))}: {known}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"].startswith("value_error") or not location:
        return f"{path}: {message}" if path else message
    return f"{path}: {message[0].lower()}{message[1:]}, not {_shown(repr(error['input']))}"


def _shown(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _option_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all options below a model."""
    names = []
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        names += [option for section in sections for option in _option_names(section, f"{prefix}{name}.")]
        names += [] if sections else [f"{prefix}{name}"]
    return list(dict.fromkeys(names))


def _fields_beside(model: type[BaseModel], tree: Any, location: Sequence[str]) -> list[str]:
    """The names that would have been right where the last of `location` stands."""
    current: Any = model
    for depth, part in enumerate(location[:-1]):
        annotation = current.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            current = annotation
        else:
            kind = dig(tree, ".".join([*location[: depth + 1], "kind"]))
            current = GENERATORS[kind or "ar"] if part == "network" else QUANTIZERS[kind or "vaevq"]
    return list(current.model_fields)
