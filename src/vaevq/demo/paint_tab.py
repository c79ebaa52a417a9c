"""The tab `Paint`: choose a codeword, click where it shall stand, and see what the decoder makes of it."""

from typing import Any

import gradio as gr

from vaevq.demo.codewords import check_codeword, example, painted, patch, position_at
from vaevq.demo.photo import Photo, decoded, first_codes
from vaevq.demo.photo_tab import PICTURE
from vaevq.demo.serving import KEPT_SECONDS, PRIVATE, Page, there, whole
from vaevq.report.pictures import Tokens, shown, token_map

LARGEST_BRUSH = 16


def build(page: Page) -> None:
    """Lays it out."""
    tokenizer = page.models.tokenizer
    K = tokenizer.quantizer.codebook_size
    canvas = gr.State(None, time_to_live=KEPT_SECONDS)
    with gr.Row():
        mode = gr.Radio(["paint", "pick"], value="paint", label="a click", elem_id="mode")
        codeword = gr.Number(None, label=f"codeword, 0 to {K - 1}", precision=0, elem_id="paint-codeword")
        brush = gr.Slider(1, LARGEST_BRUSH, 1, step=1, label="brush, in tokens", elem_id="brush")
        reset = gr.Button("Reset", elem_id="reset")
    with gr.Row():
        picture = gr.Image(label="decoded: click it", **PICTURE, elem_id="canvas")
        tokens = gr.Image(label="tokens: or these", **PICTURE, elem_id="paint-tokens")
        alone = gr.Image(label="the codeword alone, decoded", **PICTURE, elem_id="paint-patch")

    def show(photo: Photo | None) -> tuple[Any, ...]:
        photo = there(photo)
        height, width = photo.original.shape[:2]
        return photo.tokens, shown(photo.reconstruction), token_map(photo.grid, height, width)

    def begin(photo: Photo) -> tuple[Any, ...]:
        return *show(photo), int(photo.grid[0, 0])

    def click(
        photo: Photo | None,
        drawn: Tokens | None,
        mode: str,
        codeword: float | None,
        brush: float,
        event: gr.SelectData,
    ) -> tuple[Any, ...]:
        photo = there(photo)
        current = photo.tokens if drawn is None else drawn
        height, width = photo.original.shape[:2]
        at = position_at(event.index[0], event.index[1], photo.grid, tokenizer.downsample_factor, width)
        if mode == "pick":
            return gr.skip(), int(first_codes(current)[at.row, at.column]), gr.skip(), gr.skip()
        side = min(max(int(brush), 1), LARGEST_BRUSH)
        changed = painted(current, at, whole(codeword, "codeword"), side, K)
        image = decoded(tokenizer, changed, (height, width))
        return changed, gr.skip(), shown(image), token_map(first_codes(changed), height, width)

    def preview(photo: Photo | None, codeword: float | None) -> Any:
        chosen = whole(codeword, "codeword")
        check_codeword(chosen, K)
        return patch(tokenizer, example(there(photo).tokens, chosen))

    pictures = [canvas, picture, tokens]
    page.on_photo(begin, [*pictures, codeword])
    reset.click(page.answer(show), [page.photo], pictures, **PRIVATE)
    for clicked in (picture, tokens):
        clicked.select(
            page.answer(click),
            [page.photo, canvas, mode, codeword, brush],
            [canvas, codeword, picture, tokens],
            **PRIVATE,
        )
    codeword.change(page.answer(preview), [page.photo, codeword], [alone], **PRIVATE)
