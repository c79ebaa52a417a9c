"""The tab `Generate`: sampled images, by class, or as completions of the upper part of a photo."""

from pathlib import Path
from typing import Any

import gradio as gr

from vaevq.config.diffusion import DiffusionConfig
from vaevq.data.images import to_pixels
from vaevq.demo.serving import Page, whole
from vaevq.demo.uploads import load_upload
from vaevq.generation.completion import upper_rows
from vaevq.generation.generator import Generator
from vaevq.generation.sampling import SamplingOptions
from vaevq.report.pictures import shown

MOST_IMAGES = 16
MOST_STEPS = 64

_EVERY_CLASS = "every class in turn"


def build(page: Page) -> None:
    """Lays it out, with the controls that have an effect on this generator."""
    assert page.models.generator is not None
    generator = page.models.generator
    network, grid_height = generator.config.network, generator.config.tokens.grid[0]
    count_classes = generator.network.no_label
    classes = list(generator.config.tokens.classes) or [str(number) for number in range(count_classes)]
    guidable = bool(count_classes and network.class_dropout)
    with gr.Row():
        label = gr.Dropdown(
            [_EVERY_CLASS, *classes], value=_EVERY_CLASS, label="class", visible=bool(count_classes), elem_id="class"
        )
        seed = gr.Number(0, label="seed", precision=0, elem_id="seed")
        count = gr.Slider(1, MOST_IMAGES, 8, step=1, label="images", elem_id="count")
    with gr.Row():
        guidance = gr.Slider(0, 10, 1, step=0.1, label="guidance, 1 is none", visible=guidable, elem_id="guidance")
        has_temperature = "temperature" in generator.network.sampling_options
        temperature = gr.Slider(0, 2, 1, step=0.05, label="temperature", visible=has_temperature, elem_id="temperature")
        has_steps, most = "steps" in generator.network.sampling_options, MOST_STEPS
        few, what = 12, "steps"
        if isinstance(network, DiffusionConfig):  # of its samplers the one that takes any number of steps
            few, most, what = min(20, network.noise_steps), min(most, network.noise_steps), "steps of DPM-Solver++"
        steps = gr.Slider(1, most, few, step=1, label=what, visible=has_steps, elem_id="steps")
    with gr.Row():
        completes = generator.network.completes
        start = gr.File(label="a photo to complete, if you like", height=120, visible=completes, elem_id="start")
        rows = gr.Slider(
            *(1, grid_height, max(1, grid_height // 2)),
            step=1,
            label="rows of its tokens that are kept",
            visible=completes,
            elem_id="rows",
        )
    sample = gr.Button("Sample", variant="primary", elem_id="sample")
    images = gr.Gallery(label="sampled", format="png", columns=4, object_fit="contain", elem_id="sampled")

    def draw(
        label: str | None,
        seed: float | None,
        count: float,
        guidance: float,
        temperature: float,
        steps: float,
        start: str | None,
        rows: float,
    ) -> list[Any]:
        options: dict[str, Any] = {"temperature": temperature}
        if guidable:
            options["guidance"] = guidance
        if has_steps:
            options["steps"] = min(int(steps), most)
        if isinstance(network, DiffusionConfig):
            options["sampler"] = "dpm++"
        beginning = None
        if start is not None:
            path, channels = Path(start), generator.tokenizer.config.autoencoder.image_channels
            image = load_upload(path, channels, max(page.limits.side, *generator.config.tokens.image_size))
            beginning = upper_rows(generator, image, int(rows), path.name)
        return sampled(
            generator,
            min(int(count), MOST_IMAGES),
            labels=[label] if count_classes and label not in (None, _EVERY_CLASS) else None,
            seed=whole(seed, "seed"),
            options=SamplingOptions(**options),
            given=beginning,
        )

    controls = [label, seed, count, guidance, temperature, steps, start, rows]
    sample.click(page.answer(draw), controls, [images], api_name="sample")


def sampled(generator: Generator, count: int, **options: Any) -> list[Any]:
    """Images as pictures; the options are those of `Generator.sample`."""
    return [shown(to_pixels(image)) for image in generator.sample(count, **options)]
