"""`vaevq export`."""

import json
from typing import Annotated, Literal

import tyro

from vaevq.cli.options import Json, Output, load
from vaevq.console import say, say_rows


def export(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")],
    /,
    *,
    output: Output,
    form: Annotated[Literal["onnx", "torch", "safetensors"], tyro.conf.arg(name="format")] = "onnx",
    as_json: Json = False,
    force: bool = False,
) -> None:
    """Write a tokenizer as ONNX, as torch.export or as safetensors, and check it against PyTorch.

    Of ONNX and torch two files are made, encoder (images to tokens) and decoder (tokens to images), for any number of
    images of any size. They are run beside PyTorch before they take their place: tokens have to be the same but for
    ties, and pixels to 1e-4. examples/onnx_without_torch.py uses the first kind.

    For example:

      vaevq export runs/quickstart -o exported
      vaevq export runs/quickstart -o exported --format torch

    Args:
        model: a run folder, a model folder, a hub name, or a tokenizer in the box.
        output: the folder to write to.
        form: onnx (needs the extra `export`), torch (.pt2 files) or safetensors (a model folder).
        as_json: print JSON instead of a table.
        force: overwrite files that are there.
    """
    from vaevq.export import export_model

    made = export_model(load(model), output, form, force=force)
    parity = made.parity
    if as_json:
        files = [str(file) for file in made.files]
        found = {"files": files, "metadata": made.metadata, "parity": parity.to_json() if parity else None}
        say(json.dumps(found, indent=2))
        return
    if parity:
        say_rows("beside PyTorch", parity.rows())
    for file in made.files:
        say(f"{file}  {file.stat().st_size:,} bytes")
