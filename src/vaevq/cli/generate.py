"""The verbs of `vaevq generate`: train, sample, eval. What is heavy is imported inside them."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from vaevq.arguments import given, recipe_words
from vaevq.cli.options import Json, Location, Number, Output, PlaceOrDefault, Recipe, RunFolder, Text, deliver
from vaevq.config import GenerationEvalConfig, load_generator_config, load_section
from vaevq.console import counted, progress, say, say_evaluation, say_rows
from vaevq.errors import UserError

Measured = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGES [KEY=VALUE ...]")]
Real = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]


def train(
    recipe: Recipe = (),
    /,
    *,
    kind: Text = None,
    tokens: Location = None,
    held_out: Location = None,
    run_dir: RunFolder = None,
    seed: Number = None,
    device: Text = None,
    quiet: bool = False,
) -> None:
    """Train a generator on tokens, or on the latents that they stand for.

    Running the same command again continues where it stopped.

    For example:

      vaevq generate train --tokens tokens/cifar10
      vaevq generate train --kind mask --tokens tokens/cifar10 --run-dir runs/masked
      vaevq generate train cifar10-ldm --tokens tokens/cifar10
      vaevq generate train cifar10 train.images=400000 network.size=B --tokens tokens/cifar10

    Args:
        recipe: the name of a generator's recipe or a YAML file, and any number of dotted.key=value.
        kind: ar (one token after another), mask (all at once, in a few steps) or diffusion (latents out of noise); the
            recipe's where left out.
        tokens: a folder of shards that the verb encode has written, or a token file.
        held_out: tokens to measure on, where they lie apart; otherwise a share of the images is held out.
        run_dir: where the run is kept; runs/RECIPE-KIND where left out.
        seed: seed of everything random.
        device: auto, cpu, cuda, cuda:1, mps.
        quiet: no progress display.
    """
    words, overrides = recipe_words(recipe, "generators", "cifar10-ldm" if kind == "diffusion" else "cifar10")
    sections: dict[str, Any] = {
        "network": given(kind=kind),
        "data": given(tokens=tokens, held_out=held_out),
        "train": given(device=device),
    }
    config = load_generator_config(words, overrides, {**sections, **given(seed=seed)})
    from vaevq.metrics.result import figure_row
    from vaevq.training.generator_loop import train_generator

    folder = run_dir or Path("runs") / f"{Path(words).stem}-{config.network.kind}"
    result = train_generator(config, folder, quiet=quiet)
    if not result.is_main:
        return
    say_evaluation([figure_row(name, value) for name, value in result.figures.items()], [])
    say(f"\ngenerator     {folder / 'model'}, measured on {result.images} held-out images")
    say(f"next          vaevq generate sample {folder} --count 64 -o samples")


def sample(
    run: tyro.conf.Positional[str],
    /,
    *,
    output: Output,
    label: Text = None,
    count: int = 16,
    seed: int = 0,
    guidance: Real = None,
    temperature: Real = None,
    top_k: Number = None,
    top_p: Real = None,
    steps: Number = None,
    sampler: Text = None,
    choice_temperature: Real = None,
    complete: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None,
    rows: Number = None,
    tokenizer: Location = None,
    batch_size: int = 16,
    compile_step: Annotated[bool, tyro.conf.arg(name="compile")] = False,
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Sample images: a PNG each, a grid, and samples.npz for the evaluators in use.

    For example:

      vaevq generate sample runs/cifar10-ar --count 64 --guidance 2 -o samples
      vaevq generate sample runs/cifar10-ar --label cat,dog --count 16 --seed 1 --top-k 100 -o samples
      vaevq generate sample runs/cifar10-ar --complete photo.png --rows 4 -o completed

    Args:
        run: a run folder, a model folder or a hub name.
        output: the folder to write to.
        label: classes that the images take in turn, by number or name, with commas; all classes where left out.
        count: how many images.
        seed: image i depends on the seed, i and its label alone.
        guidance: classifier-free guidance, 1 is none.
        temperature: of the tokens' distribution; 0 takes the most likely one; not of kind diffusion, as the next two.
        top_k: only so many of the most likely tokens.
        top_p: only the most likely tokens that make up this probability.
        steps: of kinds mask and diffusion: in how many steps an image is made; 12, 50 (ddim) or 20 (dpm++).
        sampler: of kind diffusion: ddim or dpm++; ddim where left out.
        choice_temperature: of kind mask: of the noise on which tokens are kept.
        complete: of kinds ar and mask: an image whose upper part all samples begin with.
        rows: rows of its tokens that are kept; half of them where left out.
        tokenizer: the one to decode with, where the generator was saved without it.
        batch_size: images at a time.
        compile_step: compile a step with torch first; of kind ar.
        device: auto, cpu, cuda, cuda:1, mps.
        force: overwrite samples that are there.
        quiet: no progress display.
    """
    from vaevq.data.images import load_image
    from vaevq.generation.completion import upper_rows
    from vaevq.generation.generator import Generator
    from vaevq.generation.sampling import SamplingOptions
    from vaevq.generation.writing import write_samples
    from vaevq.training.engine import choose_device

    if rows is not None and complete is None:
        raise UserError("--rows has no effect without --complete")
    asked = given(
        guidance=guidance,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        steps=steps,
        sampler=sampler,
        choice_temperature=choice_temperature,
    )
    options, place = SamplingOptions(**asked), choose_device(device)
    generator = Generator.from_pretrained(run, tokenizer=tokenizer).to(place)
    digest = generator.tokenizer.digest  # it is needed, and missed now rather than after the first batch
    if compile_step:
        generator.compile_step()
    labels = None if label is None else label.split(",")
    start = None
    if complete is not None:
        image = load_image(complete, generator.tokenizer.config.autoencoder.image_channels)
        start = upper_rows(generator, image, rows, str(complete))
    samples = generator.samples(count, labels=labels, seed=seed, options=options, given=start, batch_size=batch_size)
    about = {
        "generator": run,
        "tokenizer_digest": digest,
        "count": count,
        "labels": labels,
        "seed": seed,
        "options": asdict(options),
        "complete": None if complete is None else str(complete),
    }
    with progress("sampling", count, quiet=quiet) as reached:
        write_samples(generator, samples, count, output, about, force=force, progress=reached)
    say(f"{counted(count, 'image')}: {output / 'images'}")
    say(f"next          vaevq generate eval {output / 'images'} --reference REAL_IMAGES")


def evaluate(
    images: Measured,
    /,
    *,
    reference: str,
    output: PlaceOrDefault = None,
    device: str = "auto",
    as_json: Json = False,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Measure generated images against real ones: Fréchet distance, KID, precision and recall.

    For example:

      vaevq generate eval samples/images --reference cifar10/train
      vaevq generate eval samples/images metrics=[frechet,kid] resize=256 crop=256 --reference imagenet/val --json

    Args:
        images: the generated images, a folder, and key=value of the options.
        reference: real images: a folder, a list file or shards.
        output: also write the result to this JSON file.
        device: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON instead of tables.
        force: overwrite the output file.
        quiet: no progress display.
    """
    from vaevq.data.index import find_images
    from vaevq.files import require_place
    from vaevq.metrics.generation import evaluate_generated
    from vaevq.training.engine import choose_device

    if output:
        require_place(output, force=force)
    locations = [word for word in images if "=" not in word or Path(word).exists()]
    options = [word for word in images if word not in locations]
    config = load_section(GenerationEvalConfig, options, GenerationEvalConfig())
    if len(locations) != 1:
        raise UserError(f"name one folder of generated images, not {', '.join(locations) or 'none'}")
    place = choose_device(device)
    generated, real = find_images(locations[0]), find_images(reference)
    with progress("measuring", len(generated) + len(real), quiet=quiet or as_json) as reached:
        result = evaluate_generated(generated, real, config, device=place, progress=reached)
    if deliver(result.to_json(), output, as_json=as_json):
        return
    say_evaluation(result.rows(), result.notes)
    counts = [("generated images", result.images), ("real images", result.reference_images)]
    say_rows("protocol", [*counts, *result.protocol.items()])


GENERATE_VERBS: dict[str, Callable[..., Any]] = {"train": train, "sample": sample, "eval": evaluate}
