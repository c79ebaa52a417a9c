"""`vaevq demo`."""

from typing import Annotated

import tyro

from vaevq.cli.options import Location
from vaevq.console import say, warn
from vaevq.errors import UserError
from vaevq.pretrained import DEFAULT

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def demo(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[MODEL]")] = DEFAULT,
    /,
    *,
    generator: Location = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    side: int = 512,
    max_mb: int = 20,
    per_minute: int = 120,
    queue: int = 64,
    device: str = "auto",
) -> None:
    """Serve a page: drop a photo or a volume, see what comes back, click and paint tokens, sample images.

    For example:

      vaevq demo
      vaevq demo runs/flowers --port 8000
      vaevq demo runs/cifar10 --generator runs/cifar10-ar
      vaevq demo runs/cifar10-ar

    Args:
        model: a run folder, a model folder or a hub name, of a tokenizer or of a generator with its own, or a
            tokenizer in the box.
        generator: a generator of the tokenizer's tokens, which gets a tab.
        host: the address to serve from; 0.0.0.0 is reachable from other machines, without a password.
        port: from 1 to 65535.
        side: photos with a longer side than so many pixels are made smaller; from 16 to 4096.
        max_mb: megabytes a file; larger ones are refused.
        per_minute: requests a minute from one address; further ones are refused.
        queue: requests that may wait, one is worked on at a time; further ones are refused.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port must be from 1 to 65535, not {port}")
    from vaevq.demo.limits import Limits
    from vaevq.demo.models import load_models
    from vaevq.training.engine import choose_device

    limits = Limits(side, max_mb, per_minute, queue)
    try:
        from vaevq.demo.page import build_page, serve
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("gradio"):
            raise
        raise UserError("vaevq demo needs gradio: pip install 'vaevq[demo]'") from None
    blocks = build_page(load_models(model, generator, choose_device(device)), limits)
    address = serve(blocks, limits, host, port)
    if host not in LOOPBACK:
        warn("the page has no password: whoever reaches this machine can use it")
    say(f"page          {address} (Ctrl-C ends it)")
    blocks.block_thread()
