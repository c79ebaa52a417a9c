"""The page: a place to drop a photo, and the tabs. A further tab is a file with `build`, and a line in `_tabs`."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from vaevq.demo import generate_tab, paint_tab, photo_tab, tokens_tab, volume_tab
from vaevq.demo.limits import Limits, Rate
from vaevq.demo.models import Models
from vaevq.demo.photo import Photo, tokenized
from vaevq.demo.serving import KEPT_SECONDS, PRIVATE, Page
from vaevq.demo.uploads import load_upload
from vaevq.errors import UserError

SESSIONS = 200
"""So many visitors' photos are held; the one that was longest away is let go first."""

# The report's charts and tables, in this page's colours.
_CSS = """
.gradio-container { --ink: var(--body-text-color); --muted: var(--body-text-color-subdued);
  --rule: var(--border-color-primary); --first: #1f6feb; --second: #b4540a; --faded: #9aa1a9; }
.gradio-container table.plain, .gradio-container table.plain :is(thead, tbody, tr) { border: 0 !important; }
.gradio-container table.plain { width: 100%; border-collapse: collapse; font-size: var(--text-sm); }
.gradio-container table.plain :is(th, td) { padding: 2px 6px;
  border-width: 0 0 1px !important; border-color: var(--rule) !important;
  text-align: left; font-weight: normal; }
.gradio-container table.plain .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
#click-tokens img, #where img, #canvas img, #paint-tokens img { cursor: crosshair; }
:is(#tokens, #click-tokens, #paint-tokens, #paint-patch, #patch, #sampled) img { image-rendering: pixelated; }
:is(#volume-original, #volume-reconstruction, #volume-error) img { image-rendering: pixelated; object-fit: contain;
  height: 20rem; }
"""


def _tabs(models: Models) -> dict[str, Callable[[Page], None]]:
    """The tabs from left to right."""
    tabs: dict[str, Callable[[Page], None]]
    tabs = {"Photo": photo_tab.build, "Tokens": tokens_tab.build, "Paint": paint_tab.build}
    if models.generator is not None:
        tabs["Generate"] = generate_tab.build
    if models.volumes is not None:
        tabs["Volume"] = volume_tab.build
    return tabs


def build_page(models: Models, limits: Limits) -> gr.Blocks:
    """The page, not yet served."""
    tokenizer, quantizer = models.tokenizer, models.tokenizer.quantizer
    with gr.Blocks(title="vaevq", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as blocks:
        gr.HTML(
            f"<h2>vaevq</h2><p>{html.escape(models.name)}: {tokenizer.config.quantizer.kind}, "
            f"K = {quantizer.codebook_size:,}, {_codes(quantizer.codes_per_position)} for each "
            f"{tokenizer.downsample_factor}×{tokenizer.downsample_factor} pixels</p>"
        )
        upload = gr.File(label="drop a photo", height=120, elem_id="upload")
        summary = gr.Markdown(elem_id="summary")
        page = Page(models, limits, Rate(limits.per_minute), gr.State(None, time_to_live=KEPT_SECONDS))
        for name, build in _tabs(models).items():
            with gr.Tab(name):
                build(page)

        def open_photo(file: str | None) -> tuple[Photo, str]:
            if file is None:
                raise UserError("drop a photo first")
            path = Path(file)
            photo = tokenized(tokenizer, load_upload(path, tokenizer.config.autoencoder.image_channels, limits.side))
            height, width = photo.original.shape[:2]
            return photo, (
                f"{width}×{height} pixels, {photo.tokens.size:,} tokens, PSNR {photo.psnr:.2f} dB, "
                f"{photo.statistics.entropy_bits_per_pixel(photo.pixels):.3f} bits a pixel at their entropy, "
                f"{photo.statistics.fixed_bits_per_pixel(photo.pixels):.3f} at log₂K"
            )

        def show(photo: Photo) -> list[Any]:
            shown: list[Any] = []
            for function, outputs in page.arrivals:
                values = function(photo)
                assert len(values) == len(outputs)
                shown += values
            return shown

        opened = upload.upload(page.answer(open_photo), [upload], [page.photo, summary], api_name="photo")
        everywhere = [output for _, outputs in page.arrivals for output in outputs]
        opened.success(show, [page.photo], everywhere, **PRIVATE)
    blocks.queue(max_size=limits.queue, default_concurrency_limit=1)
    return blocks


def serve(blocks: gr.Blocks, limits: Limits, host: str, port: int) -> str:
    """Serves the page from a thread of this process; returns its address.

    Raises:
        UserError: the port is taken, or there is no such host here.
    """
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, local, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=limits.max_mb * 2**20,
            state_session_capacity=SESSIONS,
            ssr_mode=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=["api"],
            theme=plain,  # which asks no other server for its fonts
            css=_CSS,
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{host}:{port} cannot be served from ({reason}); --port and --host name another") from None
    return str(local)


def _codes(count: int) -> str:
    return "a token" if count == 1 else f"{count} tokens"
