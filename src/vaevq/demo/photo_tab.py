"""The tab `Photo`: original against reconstruction, where it errs, its tokens, their use, and their size."""

from typing import Any

import gradio as gr

from vaevq.demo.jpeg import equal_jpeg
from vaevq.demo.photo import Photo, size_rows
from vaevq.demo.serving import Page
from vaevq.report.codebook_plots import histogram_chart
from vaevq.report.markup import table
from vaevq.report.pictures import ERROR_WHITE, error_map, shown, token_map


def build(page: Page) -> None:
    """Lays it out."""
    with gr.Row():
        slider = gr.ImageSlider(
            label="original (left), reconstruction (right)", format="png", interactive=False, elem_id="slider"
        )
        error = gr.Image(label=f"error, white from {ERROR_WHITE} of 255 on", **PICTURE, elem_id="error")
    with gr.Row():
        tokens = gr.Image(label="tokens, a colour each", **PICTURE, elem_id="tokens")
        with gr.Column():
            sizes = gr.HTML(label="size", elem_id="sizes")
            usage = gr.HTML(label="codebook", elem_id="usage")

    def show(photo: Photo) -> tuple[Any, ...]:
        height, width = photo.original.shape[:2]
        return (
            (shown(photo.original), shown(photo.reconstruction)),
            error_map(photo.original, photo.reconstruction),
            token_map(photo.grid, height, width),
            table(size_rows(photo, equal_jpeg(photo.original, photo.psnr)), ("", "bytes", "bits a pixel"), (1, 2)),
            _usage(photo),
        )

    page.on_photo(show, [slider, error, tokens, sizes, usage])


PICTURE: dict[str, Any] = {"type": "pil", "format": "png", "interactive": False, "buttons": ["fullscreen"]}
"""Of a picture that is shown: lossless, since colours are tokens."""


def _usage(photo: Photo) -> str:
    """The chart of how often codewords occur and what it comes to."""
    s = photo.statistics
    rows = [
        ("codewords used", f"{len(photo.counts) - s.dead_codewords:,} of {len(photo.counts):,}, {100 * s.usage:.1f} %"),
        (f"at most, of {s.tokens:,} tokens", f"{100 * s.usage_ceiling:.1f} %"),
        ("perplexity", f"{s.perplexity:,.1f}"),
        ("entropy", f"{s.entropy_bits:.2f} bits a token"),
    ]
    return histogram_chart(photo.counts, "How often each codeword occurs in this photo") + table(rows)
