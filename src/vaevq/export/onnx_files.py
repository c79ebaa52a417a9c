"""ONNX files of the two graphs, and the same graphs run by onnxruntime."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from vaevq.errors import UserError
from vaevq.export.graphs import DECODER, IMAGES, TOKENS
from vaevq.files import written_aside


def require_onnx() -> None:
    """UserError where what writes or runs ONNX is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx needs the package {error.name}: pip install 'vaevq[export]'") from None


def write_onnx(path: Path, part: str, program: ExportedProgram, metadata: Mapping[str, str]) -> None:
    """Writes one of the two graphs with its metadata, whole or not at all.

    Args:
        path: of the file.
        part: encoder or decoder.
        program: of that part.
        metadata: kept in the file's metadata_props.
    """
    names = (TOKENS, IMAGES) if part == DECODER else (IMAGES, TOKENS)
    with _quietly(), torch.no_grad():
        made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names[:1], output_names=names[1:])
        assert made is not None
        graph = made.model.graph
        _name_sizes(graph.inputs[0])
        _name_sizes(graph.outputs[0])
        for node in graph.all_nodes():
            node.metadata_props.clear()  # half of the file: which line of the source it comes from
        made.model.metadata_props.update(metadata)
        with written_aside(path) as aside:
            made.save(aside)


class OnnxRunner:
    """An ONNX file of one input and one output, run by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # it warns of every constant that it folds
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, given: Tensor) -> Tensor:
        (name,) = (node.name for node in self.session.get_inputs())
        (result,) = self.session.run(None, {name: given.numpy()})
        return torch.from_numpy(np.asarray(result))


def _name_sizes(value: Any) -> None:
    """Calls the sizes of the graph's input or output what they are, where the exporter numbers its symbols."""
    names = ("batch", None, "height", "width") if value.name == IMAGES else ("batch", "rows", "columns", None)
    value.shape = type(value.shape)([name or size for name, size in zip(names, value.shape, strict=False)])


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says of packages that are not there and of its own calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
