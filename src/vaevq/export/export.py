"""`export_model`: a tokenizer to files in one of the formats, checked before they take their place."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from vaevq.errors import UserError
from vaevq.export.graphs import DECODER, ENCODER, trace
from vaevq.export.onnx_files import OnnxRunner, require_onnx, write_onnx
from vaevq.export.parity import Parity, Runner, compare
from vaevq.files import make_folder, require_absent
from vaevq.saved import MODEL_FILES
from vaevq.tokenizer import Tokenizer

Format = Literal["onnx", "torch", "safetensors"]
_SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
METADATA = "vaevq.json"
"""The name of the metadata within a .pt2 file."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: the paths.
        metadata: what the files say of the tokenizer.
        parity: with PyTorch; None of safetensors, which hold the weights alone.
    """

    files: tuple[Path, ...]
    metadata: dict[str, str]
    parity: Parity | None


def metadata_of(tokenizer: Tokenizer) -> dict[str, str]:
    """What one has to know to use a graph without this package; all strings, as ONNX wants them."""
    quantizer, autoencoder = tokenizer.quantizer, tokenizer.config.autoencoder
    return {
        "format": "vaevq-export",
        "format_version": "1",
        "model_digest": tokenizer.digest,
        "quantizer": tokenizer.config.quantizer.kind,
        "codebook_size": str(quantizer.codebook_size),
        "code_dim": str(quantizer.code_dim),
        "codes_per_position": str(quantizer.codes_per_position),
        "codebooks": str(quantizer.codebooks),
        "downsample_factor": str(tokenizer.downsample_factor),
        "image_channels": str(autoencoder.image_channels),
        "value_range": "[-1, 1]",
        "sizes": "any H and W: tokens are ⌈H/f⌉×⌈W/f⌉ an image, decoded images fh×fw, to be cropped to H×W",
    }


def export_model(tokenizer: Tokenizer, folder: Path, form: Format, *, force: bool = False) -> Exported:
    """Writes a tokenizer in another format; of ONNX and torch only what agrees with PyTorch is kept.

    Args:
        tokenizer: in evaluation mode, on the CPU, in float32.
        folder: to write to; made where it is not there.
        form: onnx (encoder.onnx, decoder.onnx), torch (the same, .pt2 of torch.export) or safetensors (a model folder).
        force: overwrite files that are there.

    Raises:
        UserError: a file is there already, a package is missing, the tokenizer's codebook is not made yet, or the
            result is not what PyTorch gives.
    """
    if form == "onnx":
        require_onnx()
    if not tokenizer.quantizer.is_fitted:
        raise UserError("this tokenizer's codebook is not made yet: train it past model.quantizer.quantize_from")
    names = MODEL_FILES if form == "safetensors" else [f"{part}{_SUFFIX[form]}" for part in (ENCODER, DECODER)]
    files = tuple(folder / name for name in names)
    require_absent(files, force=force)
    make_folder(folder)
    metadata = metadata_of(tokenizer)
    if form == "safetensors":
        tokenizer.save_pretrained(folder)
        return Exported(files, metadata, None)
    with TemporaryDirectory(dir=folder, prefix=".export-") as aside:
        runners = _write(tokenizer, Path(aside), form, metadata)
        parity = compare(tokenizer, *runners)
        parity.check()
        for file in files:
            (Path(aside) / file.name).replace(file)
    return Exported(files, metadata, parity)


def _write(tokenizer: Tokenizer, folder: Path, form: Format, metadata: dict[str, str]) -> tuple[Runner, Runner]:
    """Writes both graphs; what runs the files."""
    runners = list[Runner]()
    for part, program in trace(tokenizer).items():
        path = folder / f"{part}{_SUFFIX[form]}"
        if form == "onnx":
            write_onnx(path, part, program, {**metadata, "part": part})
            runners.append(OnnxRunner(path))
        else:
            torch.export.save(program, path, extra_files={METADATA: json.dumps({**metadata, "part": part})})
            runners.append(torch.export.load(path).module())
    encoder, decoder = runners
    return encoder, decoder
