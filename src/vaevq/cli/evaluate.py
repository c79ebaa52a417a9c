"""`vaevq eval`."""

from pathlib import Path

from vaevq.cli.options import (
    Json,
    Location,
    Model,
    Overrides,
    PlaceOrDefault,
    Volumes,
    deliver,
    load,
    run_config,
    volume_options,
)
from vaevq.config import EvalConfig, load_section
from vaevq.console import progress, say_evaluation, say_rows
from vaevq.errors import UserError
from vaevq.pretrained import DEFAULT, packaged


def evaluate(
    overrides: Overrides = (),
    /,
    *,
    model: Model = DEFAULT,
    data: Location = None,
    reference: Location = None,
    volumes: Volumes = (),
    output: PlaceOrDefault = None,
    device: str = "auto",
    as_json: Json = False,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Measure a tokenizer on held-out images: PSNR, SSIM, LPIPS, Fréchet distance, KID, usage, perplexity.

    For example:

      vaevq eval --model runs/quickstart
      vaevq eval --model runs/quickstart --data ~/photos metrics=[psnr,frechet,kid] resize=256 crop=256

    Args:
        overrides: key=value of the section `eval` of the configuration.
        model: a run folder, a model folder, a hub name, or a tokenizer in the box.
        data: images to measure on; the run's held-out images where left out.
        reference: images that the Fréchet distance and KID compare with; the originals where left out.
        volumes: of volumes in --data: key=value of the section `data.volumes`, any number of times; else the run's.
        output: also write the result to this JSON file.
        device: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON instead of tables.
        force: overwrite the output file.
        quiet: no progress display.
    """
    from vaevq.data.held_out import check_split_of_run, run_images
    from vaevq.data.index import find_images
    from vaevq.data.volumes.entries import check_channels
    from vaevq.files import require_place
    from vaevq.metrics.evaluation import evaluate as measure
    from vaevq.training.engine import engine

    if output:
        require_place(output, force=force)
    run = run_config(model)
    config = load_section(EvalConfig, overrides, run.eval if run else EvalConfig())
    if volumes and data is None:
        raise UserError("--volumes has no effect without --data: the run's held-out slices are taken as they were")
    if data is None and run is None:
        here = Path(model).exists() or packaged(model)
        what = "no run folder" if here else "no such folder here, and a hub name has no images"
        raise UserError(f"{model}: {what}, so --data must name those to measure on")
    with engine(device, "float32") as place:
        tokenizer = load(model).to(place.device)
        options = volume_options(run, volumes)
        images = find_images(data, options) if data else run_images(run.data, run.seed).held_out if run else None
        assert images is not None
        check_channels(images[0], tokenizer.config.autoencoder.image_channels, model)
        if run is not None:
            check_split_of_run(Path(model) / "split.json", images)
        against = find_images(reference, options) if reference else None
        with progress("measuring", len(images), quiet=quiet or as_json or not place.is_main) as reached:
            result = measure(tokenizer, images, config, device=place.device, reference=against, progress=reached)
        if not place.is_main:
            return
    if deliver(result.to_json(), output, as_json=as_json):
        return
    say_evaluation([*result.rows(), *result.continuous_rows()], result.notes)
    say_rows("protocol", list(result.protocol.items()))
