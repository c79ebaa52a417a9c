"""The command: one verb a task. Verbs read options, call one room, and say what was reached; nothing else.

torch and all that needs it is imported inside the verbs, so that `vaevq --help` answers at once.
"""

import inspect as inspect_module
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vaevq import __version__
from vaevq.arguments import chosen_verbs, given, recipe_and_overrides, run_name, words_first
from vaevq.cli_generate import GENERATE_VERBS
from vaevq.config import EvalConfig, RunConfig, load_run_config, load_section
from vaevq.console import escape_what_cannot_be_written, progress, say, say_evaluation, say_rows, say_table, warn
from vaevq.errors import UserError

if TYPE_CHECKING:
    from vaevq.data.views import Views
    from vaevq.tokenizer import Tokenizer

Recipe = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[RECIPE] [KEY=VALUE ...]")]
Overrides = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[KEY=VALUE ...]")]
Images = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGES ...")]
Location = Annotated[str | None, tyro.conf.arg(metavar="LOCATION")]
Number = Annotated[int | None, tyro.conf.arg(metavar="INT")]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Model = Annotated[str, tyro.conf.arg(aliases=["-m"])]
Json = Annotated[bool, tyro.conf.arg(name="json")]


def train(
    recipe: Recipe = (),
    /,
    *,
    data: Location = None,
    held_out: Location = None,
    init_from: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None,
    run_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    seed: Number = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="STR")] = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Train a tokenizer; with no argument, the quick start on photos that are fetched once.

    Running the same command again continues where it stopped.

    For example:

      vaevq train
      vaevq train --data ~/photos
      vaevq train paper --data ~/imagenet/train --held-out ~/imagenet/val
      vaevq train my.yaml train.images=200000 model.quantizer.codebook_size=4096
      vaevq train --data ~/scans --init-from runs/photos --run-dir runs/scans model.autoencoder.image_channels=1

    Args:
        recipe: the name of a recipe or a YAML file, and any number of dotted.key=value.
        data: your images: a folder, a list file (.txt), or webdataset shards (.tar, train-{000..099}.tar).
        held_out: images to measure on, where they lie apart; otherwise a share of the data is held out.
        init_from: a run folder, model folder or hub name whose weights and networks the run starts from.
        run_dir: where the run is kept; runs/NAME where left out.
        seed: seed of everything random.
        device: auto, cpu, cuda, cuda:1, mps.
        dry_run: only say what would be trained: networks, data, memory and time.
        quiet: no progress display.
    """
    words, overrides = recipe_and_overrides(recipe)
    sections: dict[str, Any] = {
        "data": given(train=data, held_out=held_out),
        "train": given(device=device, init_from=init_from),
    }
    config = load_run_config(words, overrides, {**sections, **given(seed=seed)}, _networks)
    folder = run_dir or Path("runs") / run_name(words, config)
    if dry_run:
        from vaevq.training.estimate import estimate

        say_rows(f"{words}: what a run would be", estimate(config).rows())
        return
    from vaevq.metrics.result import headline
    from vaevq.report import report_run
    from vaevq.training.tokenizer_loop import train_tokenizer

    result = train_tokenizer(config, folder, quiet=quiet)
    if not result.is_main:
        return
    report = report_run(result.run_dir, result.tokenizer, result.images.held_out, config.eval)
    say_evaluation([*result.evaluation.rows(), *result.evaluation.continuous_rows()], result.evaluation.notes)
    say(f"\nreached       {headline(result.evaluation.figures)} on {result.evaluation.images} held-out images")
    say(f"report        {report}")
    say(f"tokenizer     {folder / 'model'}")
    say(f"next          vaevq encode PHOTO.jpg --model {folder} -o tokens.safetensors")
    say(f"              vaevq decode tokens.safetensors --model {folder} -o decoded")


def evaluate(
    overrides: Overrides = (),
    /,
    *,
    model: Model,
    data: Location = None,
    reference: Location = None,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = None,
    device: str = "auto",
    as_json: Json = False,
    force: bool = False,
) -> None:
    """Measure a tokenizer on held-out images: PSNR, SSIM, LPIPS, Fréchet distance, KID, usage, perplexity.

    For example:

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
    from vaevq.files import make_folder, require_place, write_text
    from vaevq.metrics.evaluation import evaluate as measure
    from vaevq.training.engine import engine

    if output:
        require_place(output, force=force)
    run = _run_config(model)
    config = load_section(EvalConfig, overrides, run.eval if run else EvalConfig())
    if data is None and run is None:
        what = "no run folder" if Path(model).exists() else "no such folder here, and a hub name has no images"
        raise UserError(f"{model}: {what}, so --data must name those to measure on")
    with engine(device, "float32") as place:
        tokenizer = _load(model).to(place.device)
        images = find_images(data) if data else run_images(run.data, run.seed).held_out if run else None
        assert images is not None
        against = find_images(reference) if reference else None
        with progress("measuring", len(images), quiet=as_json or not place.is_main) as reached:
            result = measure(tokenizer, images, config, device=place.device, reference=against, progress=reached)
        if not place.is_main:
            return
    text = json.dumps(result.to_json(), indent=2)
    if output:
        make_folder(output.parent)
        write_text(output, text + "\n")
    if as_json:
        say(text)
        return
    say_evaluation([*result.rows(), *result.continuous_rows()], result.notes)
    say_rows("protocol", list(result.protocol.items()))


def encode(
    paths: Images,
    /,
    *,
    model: Model,
    output: Output,
    resize: Number = None,
    crop: Number = None,
    crops: int = 1,
    flips: bool = False,
    shard_size: Number = None,
    batch_size: int = 8,
    device: str = "auto",
    force: bool = False,
) -> None:
    """Turn images into a token file, or a whole data set into shards of tokens.

    With --shard-size, running the same command again makes the shards that are missing.

    For example:

      vaevq encode photo.jpg ~/more-photos --model runs/quickstart -o tokens.safetensors
      vaevq encode cifar10/train --model runs/cifar10 -o tokens/cifar10 --shard-size 10000 --crop 32 --flips

    Args:
        paths: images, folders, list files or shards.
        model: a run folder, a model folder or a hub name.
        output: the token file; with --shard-size a folder.
        resize: bring the shorter side to so many pixels first.
        crop: then cut the middle square of so many pixels.
        crops: so many squares of each image instead of the middle one alone: it, the corners, then others.
        flips: every view mirrored as well.
        shard_size: write a folder of token files of so many images each (and their views), resumable.
        batch_size: images at a time, where they are of one size.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite the token file; make all shards anew.
    """
    from vaevq.codec import encode_images
    from vaevq.data.index import find_all
    from vaevq.data.tokens import write_token_file
    from vaevq.data.views import Views, index_of_views
    from vaevq.files import require_place
    from vaevq.training.engine import choose_device

    options = {"resize": resize, "crop": crop, "batch_size": batch_size}
    config = load_section(EvalConfig, (), EvalConfig().model_copy(update=options))
    views = Views(resize, crop, crops, flips)
    if shard_size is not None:
        _encode_shards(paths, model, output, views, shard_size, config, device, force)
        return
    require_place(output, force=force)
    place = choose_device(device)
    images = find_all(paths)
    if views.count > 1:
        images = index_of_views(images, views)
        config = config.model_copy(update={"resize": None, "crop": None})
    with progress("encoding", len(images)) as reached:
        encoded = encode_images(_load(model).to(place), images, config, place, reached)
    write_token_file(output, encoded.file, force=force)
    for line in encoded.unreadable:
        warn(f"skipped {line}")
    count = sum(grid.size for grid in encoded.file.tokens)
    say(f"{len(encoded.file.names)} images, {count} tokens, {output.stat().st_size} bytes: {output}")


def _encode_shards(
    paths: tuple[str, ...],
    model: str,
    output: Path,
    views: "Views",
    shard_size: int,
    config: EvalConfig,
    device: str,
    force: bool,
) -> None:
    """A data set to a folder of shards, on one process or several."""
    from vaevq.codec import encode_shards
    from vaevq.data.index import find_all
    from vaevq.data.token_shards import TOKENIZER_FOLDER, ShardPlan, claim_folder, missing_shards
    from vaevq.training.engine import engine

    with engine(device, "float32") as place:
        with place.together():
            images, tokenizer = find_all(paths), _load(model).to(place.device)
            plan = ShardPlan.of(images, tokenizer.digest, shard_size, views)
        with place.together():
            if place.is_main:
                claim_folder(output, plan, force=force)
                tokenizer.save_pretrained(output / TOKENIZER_FOLDER)
        with place.together():
            missing = sum(len(plan.part(number)) for number in missing_shards(output, plan)) * views.count
        with progress("encoding", missing, quiet=not place.is_main) as reached:
            done = encode_shards(
                tokenizer, images, output, plan, place.device, batch_size=config.batch_size, progress=reached
            )
        for line in done.unreadable:
            warn(f"skipped {line}")
        if place.is_main:
            each = f"{plan.images} images × {views.count} views" if views.count > 1 else f"{plan.images} images"
            say(f"{each}, {plan.shards} shards, {done.shards} of them made now: {output}")


def decode(
    tokens: tyro.conf.Positional[Path],
    /,
    *,
    model: Model,
    output: Output,
    remap: bool = False,
    device: str = "auto",
    force: bool = False,
) -> None:
    """Turn a token file back into images, one PNG each, of their original size.

    For example:

      vaevq decode tokens.safetensors --model runs/quickstart -o decoded

    Args:
        tokens: the token file.
        model: the model that made it: a run folder, a model folder or a hub name.
        output: the folder to write to.
        remap: also take tokens of a model that this one was trained on from, under their present indices.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite pictures that are there.
    """
    from vaevq.codec import decode_tokens, fitting
    from vaevq.data.tokens import read_token_file
    from vaevq.training.engine import choose_device

    file = read_token_file(tokens)
    tokenizer = _load(model)
    fits = fitting(tokenizer, file, remap=remap)
    if fits is not file:
        warn(
            f"remapped from model {file.model_digest} (K = {file.codebook_size}) to {fits.model_digest} "
            f"(K = {fits.codebook_size}): weights have changed since, so the pictures are approximations"
        )
    place = choose_device(device)
    with progress("decoding", len(file.names)) as reached:
        paths = decode_tokens(tokenizer.to(place), fits, output, place, force=force, progress=reached)
    say(f"{len(paths)} images: {output}")


def inspect(
    path: tyro.conf.Positional[Path],
    /,
    *,
    diagnose: bool = False,
    device: str = "auto",
    as_json: Json = False,
) -> None:
    """Say what a run or model folder, a checkpoint, a token file or a folder of shards holds.

    For example:

      vaevq inspect runs/quickstart
      vaevq inspect runs/quickstart --diagnose
      vaevq inspect tokens.safetensors

    Args:
        path: a run or model folder (tokenizer or generator), a checkpoint (.pt), a token file or a folder of shards.
        diagnose: measure instead why a run's quantizer does well or badly, on its own images; takes minutes.
        device: of --diagnose: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON instead of a table.
    """
    if diagnose:
        from vaevq.training.engine import choose_device
        from vaevq.training.run_diagnosis import diagnose_run

        diagnosis = diagnose_run(path, device=choose_device(device))
        if as_json:
            say(json.dumps(diagnosis.to_json(), indent=2))
        else:
            say_evaluation(diagnosis.rows(), [])
        return
    from vaevq.inspection import inspect_path

    rows = inspect_path(path)
    if as_json:
        say(json.dumps(dict(rows), indent=2))
    else:
        say_rows(str(path), rows)


def report(
    run: tyro.conf.Positional[Path],
    /,
    *,
    against: tuple[Path, ...] = (),
) -> None:
    """Write a run's report anew, by option with other runs beside it.

    For example:

      vaevq report runs/quickstart --against runs/plain

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
    say(str(report_run(run, _load(str(run)), held_out, config.eval)))


def compare(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.yaml")],
    /,
    *,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    data: Location = None,
    held_out: Location = None,
    processes: int = 1,
    rows: Annotated[str | None, tyro.conf.arg(metavar="A,B")] = None,
    table_only: bool = False,
    keep_runs: bool = False,
    any_code: bool = False,
    as_json: Json = False,
) -> None:
    """Train several quantizers under one budget and say what can be said: a table, plots, pictures.

    Cells that stand are left as they are, so that running the same command again goes on where it stopped.

    For example:

      vaevq compare experiments/example.yaml
      vaevq compare experiments/example.yaml --processes 2 --rows vaevq,simvq
      vaevq compare experiments/example.yaml --table-only --json

    Args:
        file: what is compared: a base recipe, rows and seeds.
        out: where cells and tables are kept; experiments/NAME, or runs/NAME where there is no such folder.
        data: images to train on, instead of what the file names.
        held_out: images to measure on, where they lie apart.
        processes: how many cells are trained at once.
        rows: train these alone; the table has all that stand.
        table_only: train nothing.
        keep_runs: delete nothing of the runs; otherwise the models of one seed are kept.
        any_code: take cells that another version of the numeric code has made; the table says so.
        as_json: print JSON instead of tables.
    """
    from vaevq.comparison import Sweep, default_folder, read_plan
    from vaevq.comparison.text import difference_header, difference_rows, group_title, notes, table_header, table_rows

    plan = read_plan(file, data=data, held_out=held_out)
    chosen = plan.chosen(rows)
    sweep = Sweep(plan, out or default_folder(file), any_code=any_code, need_data=not table_only)
    if not table_only:
        sweep.run(chosen, warn, processes=processes, keep_runs=keep_runs, quiet=as_json)
    table = sweep.write(shlex.join(["vaevq", *sys.argv[1:]]))
    if as_json:
        say(json.dumps(table.to_json(), indent=2))
        return
    for group in table.groups:
        say_table(group_title(group), table_header(table), table_rows(table, group, "* {}"))
    if differences := difference_rows(table):
        say_table(f"less {plan.reference}, seed by seed", difference_header(table), differences)
    for note in notes(table):
        say(f"note: {note}")
    if not any_code and (others := sweep.of_other_code()):
        say(f"note: {len(others)} more cells were made by other numeric code; --any-code takes them")
    say(f"\nreport        {sweep.out / 'report.html'}")
    say(f"table         {sweep.out / 'table.md'}")


def generate() -> None:
    """Train a generator on tokens, sample images from it, measure them.

    For example:

      vaevq generate train --tokens tokens/cifar10
      vaevq generate sample runs/cifar10-ar --count 64 -o samples
      vaevq generate eval samples/images --reference cifar10/train
    """
    raise AssertionError("its own verbs are called instead")


VERBS: dict[str, Callable[..., Any]] = {
    "train": train,
    "eval": evaluate,
    "encode": encode,
    "decode": decode,
    "inspect": inspect,
    "report": report,
    "compare": compare,
    "generate": generate,
}


def main() -> None:
    """Runs a verb; a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    escape_what_cannot_be_written()
    arguments = sys.argv[1:]
    try:
        if arguments == ["--version"]:
            say(f"vaevq {__version__}")
            return
        if arguments[:1] == ["generate"]:
            _call(GENERATE_VERBS, arguments[1:], "vaevq generate", inspect_module.getdoc(generate) or "")
        else:
            about = "discrete visual tokenizers. `vaevq VERB --help` shows a verb's options and examples."
            _call(VERBS, arguments, "vaevq", f"vaevq {__version__}: {about}")
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            warn(f"vaevq: error: {error}")
        else:
            time.sleep(2)  # torchrun ends all processes as soon as one has failed: the first has to say it before that
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _call(verbs: dict[str, Callable[..., Any]], arguments: list[str], name: str, description: str) -> None:
    tyro.extras.subcommand_cli_from_dict(
        chosen_verbs(verbs, arguments),
        prog=name,
        description=description,
        args=words_first(arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _run_config(model: str) -> RunConfig | None:
    """The configuration of a run, where `model` is a run folder."""
    from vaevq.config import read_json

    folder = Path(model)
    return read_json(RunConfig, folder / "config.json") if (folder / "split.json").is_file() else None


def _networks(model: str) -> dict[str, Any]:
    """The section `model` of a saved model, without what was said in images of the run that made it."""
    from vaevq.tokenizer import saved_config

    tree = saved_config(model).model_dump(mode="json")
    tree["quantizer"].pop("quantize_from", None)
    return tree


def _load(model: str) -> "Tokenizer":
    from vaevq.tokenizer import Tokenizer

    return Tokenizer.from_pretrained(model)
