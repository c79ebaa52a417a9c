"""`vaevq train`."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from vaevq.arguments import given, recipe_and_overrides, run_name
from vaevq.cli.options import Location, Number, Recipe, RunFolder, Text, networks
from vaevq.config import load_run_config
from vaevq.console import say, say_evaluation, say_rows


def train(
    recipe: Recipe = (),
    /,
    *,
    data: Location = None,
    held_out: Location = None,
    init_from: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None,
    run_dir: RunFolder = None,
    seed: Number = None,
    device: Text = None,
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
        init_from: a run folder, model folder, hub name or tokenizer in the box whose weights and networks the run
            starts from.
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
    config = load_run_config(words, overrides, {**sections, **given(seed=seed)}, networks)
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
