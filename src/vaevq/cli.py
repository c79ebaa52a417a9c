"""The command: one verb a task. Verbs read options, call one room, and say what was reached; nothing else.

torch and all that needs it is imported inside the verbs, so that `vaevq --help` answers at once.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from vaevq import __version__
from vaevq.config import EvalConfig, RunConfig, load_run_config, load_section
from vaevq.errors import UserError

if TYPE_CHECKING:
    from vaevq.tokenizer import Tokenizer

Words = tyro.conf.Positional[tuple[str, ...]]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Model = Annotated[str, tyro.conf.arg(aliases=["-m"])]

# Names of files and options are shown as they are: nothing in them is markup.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def train(
    recipe: Words = (),
    /,
    *,
    data: str | None = None,
    held_out: str | None = None,
    run_dir: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Train a tokenizer; with no argument, the quick start on photos that are fetched once.

    Running the same command again continues where it stopped.

      vaevq train
      vaevq train --data ~/photos
      vaevq train paper --data ~/imagenet/train --held-out ~/imagenet/val
      vaevq train my.yaml train.images=200000 model.quantizer.codebook_size=4096

    Args:
        recipe: the name of a recipe or a YAML file, and any number of dotted.key=value.
        data: your images: a folder, a list file (.txt), or webdataset shards (.tar, train-{000..099}.tar).
        held_out: images to measure on, where they lie apart; otherwise a share of the data is held out.
        run_dir: where the run is kept; runs/NAME where left out.
        seed: seed of everything random.
        device: auto, cpu, cuda, cuda:1, mps.
        dry_run: only say what would be trained: networks, data, memory and time.
        quiet: no progress display.
    """
    words, overrides = _recipe_and_overrides(recipe)
    sections: dict[str, Any] = {"data": _given(train=data, held_out=held_out), "train": _given(device=device)}
    config = load_run_config(words, overrides, {**sections, **_given(seed=seed)})
    folder = run_dir or Path("runs") / _run_name(words, config)
    if dry_run:
        from vaevq.training.estimate import estimate

        _print_rows(f"{words}: what a run would be", estimate(config).rows())
        return
    from vaevq.report import report_run
    from vaevq.training.tokenizer_loop import train_tokenizer

    result = train_tokenizer(config, folder, quiet=quiet)
    if not result.is_main:
        return
    report = report_run(result.run_dir, result.tokenizer, result.images.held_out, config.eval)
    _print_evaluation(result.evaluation.rows(), result.evaluation.notes)
    figures = result.evaluation.figures
    reached = [f"PSNR {figures['psnr']:.2f} dB"] if "psnr" in figures else []
    reached += [f"usage {figures['usage']:.1%}", f"perplexity {figures['perplexity']:.0f}"]
    _say(f"\nreached       {', '.join(reached)} on {result.evaluation.images} held-out images")
    _say(f"report        {report}")
    _say(f"tokenizer     {folder / 'model'}")
    _say(f"next          vaevq encode PHOTO.jpg --model {folder} -o tokens.safetensors")
    _say(f"              vaevq decode tokens.safetensors --model {folder} -o decoded")


def evaluate(
    overrides: Words = (),
    /,
    *,
    model: Model,
    data: str | None = None,
    reference: str | None = None,
    output: Output | None = None,
    device: str = "auto",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    force: bool = False,
) -> None:
    """Measure a tokenizer on held-out images: PSNR, SSIM, LPIPS, Fréchet distance, KID, usage, perplexity.

      vaevq eval --model runs/quickstart
      vaevq eval --model runs/quickstart --data ~/photos metrics=[psnr,frechet,kid] resize=256 crop=256

    Args:
        overrides: key=value of the section `eval` of the configuration.
        model: a run folder, a model folder or a hub name.
        data: images to measure on; the run's held-out images where left out.
        reference: images that the Fréchet distance and KID compare with; the originals where left out.
        output: also write the result to this JSON file.
        device: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON instead of tables.
        force: overwrite the output file.
    """
    from vaevq.data.held_out import run_images
    from vaevq.data.index import find_images
    from vaevq.files import require_absent, write_text
    from vaevq.metrics.evaluation import evaluate as measure
    from vaevq.training.engine import engine

    require_absent([output] if output else [], force=force)
    run = _run_config(model)
    config = load_section(EvalConfig, overrides, run.eval if run else EvalConfig())
    if data is None and run is None:
        raise UserError(f"{model} is no run folder, so --data must name the images to measure on")
    with engine(device, "float32") as place:
        tokenizer = _load(model).to(place.device)
        images = find_images(data) if data else run_images(run.data, run.seed).held_out if run else None
        assert images is not None
        against = find_images(reference) if reference else None
        result = measure(tokenizer, images, config, device=place.device, reference=against)
        if not place.is_main:
            return
    text = json.dumps(result.to_json(), indent=2)
    if output:
        write_text(output, text + "\n")
    if as_json:
        _say(text)
        return
    _print_evaluation(result.rows(), result.notes)
    _print_rows("protocol", list(result.protocol.items()))


def encode(
    paths: Words,
    /,
    *,
    model: Model,
    output: Output,
    resize: int | None = None,
    crop: int | None = None,
    batch_size: int = 8,
    device: str = "auto",
    force: bool = False,
) -> None:
    """Turn images into a token file.

      vaevq encode photo.jpg ~/more-photos --model runs/quickstart -o tokens.safetensors

    Args:
        paths: images, folders, list files or shards.
        model: a run folder, a model folder or a hub name.
        output: the token file.
        resize: bring the shorter side to so many pixels first.
        crop: then cut the middle square of so many pixels.
        batch_size: images at a time, where they are of one size.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite the token file.
    """
    from vaevq.codec import encode_images
    from vaevq.data.index import find_all
    from vaevq.data.tokens import write_token_file
    from vaevq.files import require_absent
    from vaevq.training.display import printable
    from vaevq.training.engine import choose_device

    require_absent([output], force=force)
    options = {"resize": resize, "crop": crop, "batch_size": batch_size}
    config = load_section(EvalConfig, (), EvalConfig().model_copy(update=options))
    place = choose_device(device)
    encoded = encode_images(_load(model).to(place), find_all(paths), config, place)
    write_token_file(output, encoded.file, force=force)
    for line in encoded.unreadable:
        err.print(f"skipped {printable(line)}", soft_wrap=True)
    count = sum(grid.size for grid in encoded.file.tokens)
    _say(f"{len(encoded.file.names)} images, {count} tokens, {output.stat().st_size} bytes: {output}")


def decode(
    tokens: tyro.conf.Positional[Path],
    /,
    *,
    model: Model,
    output: Output,
    device: str = "auto",
    force: bool = False,
) -> None:
    """Turn a token file back into images, one PNG each, of their original size.

      vaevq decode tokens.safetensors --model runs/quickstart -o decoded

    Args:
        tokens: the token file.
        model: the model that made it: a run folder, a model folder or a hub name.
        output: the folder to write to.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite pictures that are there.
    """
    from vaevq.codec import decode_tokens
    from vaevq.data.tokens import read_token_file
    from vaevq.training.engine import choose_device

    file = read_token_file(tokens)
    place = choose_device(device)
    paths = decode_tokens(_load(model).to(place), file, output, place, force=force)
    _say(f"{len(paths)} images: {output}")


def inspect(
    path: tyro.conf.Positional[Path],
    /,
    *,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Say what a run folder, a model folder, a checkpoint or a token file holds.

      vaevq inspect runs/quickstart
      vaevq inspect tokens.safetensors

    Args:
        path: a run folder, a model folder, a checkpoint (.pt) or a token file.
        as_json: print JSON instead of a table.
    """
    from vaevq.inspection import inspect_path

    rows = inspect_path(path)
    if as_json:
        _say(json.dumps(dict(rows), indent=2))
    else:
        _print_rows(str(path), rows)


def report(
    run: tyro.conf.Positional[Path],
    /,
    *,
    against: tuple[Path, ...] = (),
) -> None:
    """Write a run's report anew, by option with other runs beside it.

      vaevq report runs/quickstart --against runs/quickstart_vq

    Args:
        run: the run folder.
        against: folders of runs that saw as many images and were measured on the same ones.
    """
    from vaevq.data.held_out import run_images
    from vaevq.report import report_run, write_comparison

    config = _run_config(str(run))
    if config is None:
        raise UserError(f"{run}: no run folder of vaevq train")
    if against:
        write_comparison(run, against)
    held_out = run_images(config.data, config.seed).held_out
    _say(str(report_run(run, _load(str(run)), held_out, config.eval)))


VERBS: dict[str, Callable[..., Any]] = {
    "train": train,
    "eval": evaluate,
    "encode": encode,
    "decode": decode,
    "inspect": inspect,
    "report": report,
}


def main() -> None:
    """Runs a verb; a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            VERBS,
            prog="vaevq",
            description=f"vaevq {__version__}: discrete visual tokenizers.",
            args=_overrides_first(sys.argv[1:]),
        )
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            err.print(f"vaevq: error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _say(text: str) -> None:
    """A line that is not broken at the terminal's width, so that it can be copied."""
    out.print(text, soft_wrap=True)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _overrides_first(arguments: list[str]) -> list[str]:
    """`key=value` words may stand behind options; the parser wants all words together."""
    if arguments[:1] not in (["train"], ["eval"]):
        return arguments
    flags = ("--quiet", "--dry-run", "--json", "--force")
    words, others, previous = list[str](), list[str](), ""
    for argument in arguments[1:]:
        is_value = previous.startswith("-") and "=" not in previous and previous not in flags
        is_override = not is_value and re.fullmatch(r"[a-z][a-z0-9_.]*=.*", argument, re.DOTALL)
        (words if is_override else others).append(argument)
        previous = argument
    return [arguments[0], *words, *others]


def _recipe_and_overrides(words: tuple[str, ...]) -> tuple[str, list[str]]:
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise UserError(f"one recipe at a time, not {', '.join(names)}")
    return names[0] if names else "quickstart", [word for word in words if "=" in word]


def _run_name(recipe: str, config: RunConfig) -> str:
    stem = Path(recipe).stem
    if config.data.train is None:
        return stem
    source = Path(config.data.train).expanduser().resolve().stem
    return source if stem == "quickstart" else f"{stem}-{source}"


def _run_config(model: str) -> RunConfig | None:
    """The configuration of a run, where `model` is a run folder."""
    from vaevq.config import read_json

    folder = Path(model)
    return read_json(RunConfig, folder / "config.json") if (folder / "split.json").is_file() else None


def _load(model: str) -> "Tokenizer":
    from vaevq.tokenizer import Tokenizer

    return Tokenizer.from_pretrained(model)


def _print_evaluation(rows: Any, notes: Any) -> None:
    table = Table("figure", "value", "what it is", title="held-out images", title_justify="left")
    for name, value, meaning in rows:
        table.add_row(name, value, meaning)
    out.print(table)
    for note in notes:
        out.print(f"note: {note}")


def _print_rows(title: str, rows: Any) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(str(name), str(value))
    out.print(table)
