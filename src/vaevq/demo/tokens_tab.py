"""The tab `Tokens`: a click on a token shows its codeword, and where else in the photo that is used."""

from typing import Any

import gradio as gr

from vaevq.demo.codewords import patch, position_at, sentence, uses
from vaevq.demo.photo import Photo
from vaevq.demo.photo_tab import PICTURE
from vaevq.demo.serving import PRIVATE, Page, there
from vaevq.report.pictures import shown, token_map


def build(page: Page) -> None:
    """Lays it out."""
    tokenizer = page.models.tokenizer
    said = gr.Markdown(_INVITATION, elem_id="codeword")
    with gr.Row():
        tokens = gr.Image(label="tokens: click one", **PICTURE, elem_id="click-tokens")
        where = gr.Image(label="reconstruction: click it, too", **PICTURE, elem_id="where")
        decoded = gr.Image(label="the codeword alone, decoded", **PICTURE, elem_id="patch")

    def show(photo: Photo) -> tuple[Any, ...]:
        height, width = photo.original.shape[:2]
        return _INVITATION, token_map(photo.grid, height, width), shown(photo.reconstruction), None

    def click(photo: Photo | None, event: gr.SelectData) -> tuple[Any, ...]:
        photo = there(photo)
        factor = tokenizer.downsample_factor
        at = position_at(event.index[0], event.index[1], photo.grid, factor, photo.original.shape[1])
        codeword = int(photo.grid[at.row, at.column])
        return (
            sentence(photo.grid, at),
            uses(photo.reconstruction, photo.grid, codeword, factor),
            patch(tokenizer, photo.tokens[at.row, at.column]),
        )

    page.on_photo(show, [said, tokens, where, decoded])
    for picture in (tokens, where):
        picture.select(page.answer(click), [page.photo], [said, where, decoded], **PRIVATE)


_INVITATION = "Click a token."
