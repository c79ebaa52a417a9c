"""The tab `Volume`: a volume's slices before and after, along each axis, and the reconstructed file."""

from pathlib import Path
from typing import Any

import gradio as gr

from vaevq.config import Axis
from vaevq.demo.photo_tab import PICTURE
from vaevq.demo.serving import PRIVATE, Page, whole
from vaevq.demo.shelf import Shelf
from vaevq.demo.volume import ShownVolume, shown_volume
from vaevq.errors import UserError
from vaevq.report.pictures import ERROR_WHITE

HELD = 8
"""So many visitors' volumes are held in memory, at most 32 MiB each."""

_AXES: tuple[Axis, ...] = ("axial", "coronal", "sagittal")


def build(page: Page) -> None:
    """Lays it out; of contrasts that are files of their own, with a line that says why there is nothing."""
    config = page.models.volumes
    assert config is not None
    if config.stack == "channels":
        gr.Markdown(
            "This tokenizer takes slices of several contrasts, which are files of their own: `vaevq encode` and "
            "`vaevq decode` take them.",
            elem_id="volume-why",
        )
        return
    shelf: Shelf[ShownVolume] = Shelf(HELD, "a volume")
    number = gr.State(None)
    upload = gr.File(label="drop a volume (.nii, .nii.gz)", height=120, elem_id="volume-upload")
    summary = gr.Markdown(elem_id="volume-summary")
    with gr.Row():
        axis = gr.Radio(list(_AXES), value=config.axis, label="axis", elem_id="volume-axis")
        place = gr.Slider(0, 1, 0, step=1, label="slice", elem_id="volume-slice")
        frame = gr.Slider(0, 1, 0, step=1, label="on the fourth axis", visible=False, elem_id="volume-frame")
    with gr.Row():
        original = gr.Image(label="original", **PICTURE, elem_id="volume-original")
        reconstruction = gr.Image(label="reconstruction", **PICTURE, elem_id="volume-reconstruction")
        error = gr.Image(label=f"error, white from {ERROR_WHITE} of 255 on", **PICTURE, elem_id="volume-error")
    download = gr.File(label="the reconstructed volume", height=80, interactive=False, elem_id="volume-download")
    pictures = [original, reconstruction, error]

    def drop(file: str | None, axis: Axis) -> tuple[Any, ...]:
        if file is None:
            raise UserError("drop a volume first")
        volume = shown_volume(page.models.tokenizer, Path(file), config)
        frames = volume.original.shape[3]
        return (
            shelf.put(volume),
            _summary(volume),
            _slices(volume, axis),
            gr.Slider(value=0, maximum=max(1, frames - 1), visible=frames > 1),
            str(volume.file),
            *volume.pictures(axis, volume.planes(axis) // 2, 0),
        )

    def show(number: int | None, axis: Axis, place: float | None, frame: float | None) -> tuple[Any, ...]:
        return shelf.get(number).pictures(axis, whole(place, "slice"), whole(frame, "place on the fourth axis"))

    def turn(number: int | None, axis: Axis, frame: float | None) -> tuple[Any, ...]:
        volume = shelf.get(number)
        return (
            _slices(volume, axis),
            *volume.pictures(axis, volume.planes(axis) // 2, whole(frame, "place on the fourth axis")),
        )

    dropped = [number, summary, place, frame, download, *pictures]
    upload.upload(page.answer(drop), [upload, axis], dropped, api_name="volume")
    # What is drawn costs next to nothing, and a slider asks for it all the way.
    drawn = page.answer(show, counted=False)
    for slider in (place, frame):
        slider.input(drawn, [number, axis, place, frame], pictures, trigger_mode="always_last", **PRIVATE)
    axis.input(page.answer(turn, counted=False), [number, axis, frame], [place, *pictures], **PRIVATE)


def _slices(volume: ShownVolume, axis: Axis) -> Any:
    """The slider over the slices of an axis, in the middle."""
    last = volume.planes(axis) - 1
    return gr.Slider(value=volume.planes(axis) // 2, maximum=max(1, last), label=f"{axis} slice, 0 to {last}")


def _summary(volume: ShownVolume) -> str:
    x, y, z, frames = volume.original.shape
    s, voxels = volume.statistics, volume.original.size
    several = f", {frames} on the fourth axis" if frames > 1 else ""
    quality = "equal" if volume.psnr is None else f"PSNR {volume.psnr:.2f} dB over the window"
    return (
        f"{x}×{y}×{z} voxels{several} of {' by '.join(f'{size:.3g}' for size in volume.voxel_sizes)} mm, "
        f"{volume.slices:,} slices, {s.tokens:,} tokens, {quality}, "
        f"{s.fixed_bits_per_pixel(voxels):.4f} bits a voxel at log₂K, "
        f"{s.entropy_bits_per_pixel(voxels):.4f} at their entropy"
    )
