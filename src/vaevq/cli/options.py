"""What verbs share: types of options that say how help calls them, and models by the words of a user."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vaevq.config import DataConfig, RunConfig, VolumesConfig, load_section, read_json
from vaevq.console import say
from vaevq.files import make_folder, write_text

if TYPE_CHECKING:
    from vaevq.data.index import VolumeOptions
    from vaevq.tokenizer import Tokenizer


Recipe = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[RECIPE] [KEY=VALUE ...]")]
Overrides = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[KEY=VALUE ...]")]
Images = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGES ...")]
Location = Annotated[str | None, tyro.conf.arg(metavar="LOCATION")]
Text = Annotated[str | None, tyro.conf.arg(metavar="STR")]
Number = Annotated[int | None, tyro.conf.arg(metavar="INT")]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
PlaceOrDefault = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
RunFolder = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
Model = Annotated[str, tyro.conf.arg(aliases=["-m"])]
Json = Annotated[bool, tyro.conf.arg(name="json")]
Volumes = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]


def volume_options(run: RunConfig | None, given: tuple[str, ...]) -> "VolumeOptions":
    """How volumes are read: as the run has it, with `key=value` words of the section `data.volumes` laid on it."""
    from vaevq.data.index import VolumeOptions

    data = run.data if run is not None else DataConfig()
    asked = frozenset(word.partition("=")[0] for word in given)
    return VolumeOptions(load_section(VolumesConfig, given, data.volumes), data.volume_cache, asked)


def run_config(model: str) -> RunConfig | None:
    """The configuration of a run, where `model` is a run folder."""
    folder = Path(model)
    return read_json(RunConfig, folder / "config.json") if (folder / "split.json").is_file() else None


def networks(model: str) -> dict[str, Any]:
    """The section `model` of a saved model, without what was said in images of the run that made it."""
    from vaevq.tokenizer import saved_config

    tree = saved_config(model).model_dump(mode="json")
    tree["quantizer"].pop("quantize_from", None)
    return tree


def deliver(result: dict[str, Any], output: Path | None, *, as_json: bool) -> bool:
    """Writes a result to a file where one is named, and prints it where JSON is asked for: whether it was printed."""
    text = json.dumps(result, indent=2)
    if output:
        make_folder(output.parent)
        write_text(output, text + "\n")
    if as_json:
        say(text)
    return as_json


def load(model: str) -> "Tokenizer":
    """See `Tokenizer.from_pretrained`."""
    from vaevq.tokenizer import Tokenizer

    return Tokenizer.from_pretrained(model)
