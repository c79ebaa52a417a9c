"""The words of the command line before the parser sees them, and what a verb takes from its own."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from vaevq.config import RecipeKind, RunConfig, recipe_names
from vaevq.errors import UserError, nearest_name

FLAGS = frozenset(
    {
        "--quiet",
        "--dry-run",
        "--json",
        "--force",
        "--remap",
        "--table-only",
        "--keep-runs",
        "--any-code",
        "--diagnose",
        "--flips",
        "--latents",
        "--compile",
        "--help",
        "-h",
    }
)
"""The options that take no value."""


def words_first(arguments: list[str]) -> list[str]:
    """The arguments with all words of a verb before its options, where users may put them anywhere.

    The parser itself takes words before the first option alone. `report` stays as it is: how many values its
    `--against` takes is not said, so a word after it is one of them.
    """
    if arguments[:1] == ["report"]:
        return arguments
    words, others, value_follows = list[str](), list[str](), False
    for argument in arguments[1:]:
        is_option = argument.startswith("-") and not value_follows
        (others if is_option or value_follows else words).append(argument)
        value_follows = is_option and "=" not in argument and argument not in FLAGS
    return [*arguments[:1], *words, *others]


def chosen_verbs(verbs: Mapping[str, Callable[..., Any]], arguments: list[str]) -> dict[str, Callable[..., Any]]:
    """The verbs as the parser gets them: with a line of help each until one of them is called.

    Raises:
        UserError: the first argument is a word, but no verb.
    """
    first = arguments[0] if arguments else "--help"
    if first in verbs:
        return dict(verbs)
    if not first.startswith("-"):
        hint = nearest_name(first, verbs)
        raise UserError(f"no verb '{first}'{hint}: one of {', '.join(verbs)}; vaevq --help says what they do")
    return {name: _in_one_line(verb) for name, verb in verbs.items()}


def recipe_and_overrides(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """The recipe among the words of `train`, the quick start where there is none, and the `key=value` words.

    Raises:
        UserError: several recipes, or a word that names images.
    """
    return recipe_words(words, "tokenizers", "quickstart")


def recipe_words(words: tuple[str, ...], kind: RecipeKind, default: str) -> tuple[str, list[str]]:
    """The recipe of a kind among the words, `default` where there is none, and the `key=value` words.

    Raises:
        UserError: several recipes, or a word that names what to learn from.
    """
    what, option = ("images", "--data") if kind == "tokenizers" else ("tokens", "--tokens")
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise UserError(f"one recipe at a time, not {', '.join(names)}; {what} are named with {option}")
    name = names[0] if names else default
    is_recipe = name in recipe_names(kind) or Path(name).suffix in (".yaml", ".yml")
    if not is_recipe and Path(name).expanduser().exists():
        raise UserError(f"{name}: not a recipe; where these are your {what}, name them with {option} {name}")
    return name, [word for word in words if "=" in word]


def run_name(recipe: str, config: RunConfig) -> str:
    """What a run is called where no name is given: after its recipe, after its data, or both."""
    stem = Path(recipe).stem
    if config.data.train is None:
        return stem
    source = Path(config.data.train).expanduser().resolve().stem
    return source if stem == "quickstart" else f"{stem}-{source}"


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _in_one_line(verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    def shortened(*positional: Any, **options: Any) -> Any:
        return verb(*positional, **options)

    shortened.__doc__ = (verb.__doc__ or "").partition("\n")[0]
    return shortened
