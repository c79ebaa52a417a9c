"""Weight files of other projects' networks: read without running what is in them, loaded strictly, known by hash."""

import hashlib
import math
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vaevq.errors import refuse
from vaevq.files import check_stored, written_aside

# Under NumPy 1 this function lives in numpy.core, under NumPy 2 in numpy._core; pickles name either.
_RECONSTRUCT = np.ndarray(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


_SMALL = 1_000_000
"""So many numbers too many are left to a message that says which weights differ."""


class _ForbiddenError(pickle.UnpicklingError):
    """The pickle asks for something that is no array."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _ForbiddenError(f"it asks for {module}.{name}, which no plain array needs")
        return _ALLOWED[module, name]


def checksum(file: Path) -> str:
    """SHA-256 of a file, 64 hex characters; UserError where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        refuse(file, error.strerror or str(error))


def read_array_pickle(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a pickled tree of dicts, named by their path: `{"AlexNet_0/Conv_0/bias": ...}`.

    Raises:
        UserError: the file is absent, damaged, or holds anything but dicts of float arrays; nothing of it is run.
    """
    try:
        with file.open("rb") as stream:
            tree = _ArrayUnpickler(stream).load()
    except OSError as error:
        refuse(file, error.strerror or str(error))
    except _ForbiddenError as error:
        refuse(file, f"not a pickle of plain arrays: {error}")
    except Exception:  # a damaged pickle can fail in any way at all
        refuse(file, "no pickle of plain arrays, damaged or cut short")
    arrays: dict[str, np.ndarray] = {}
    _flatten(file, tree, "", arrays)
    return arrays


def _flatten(file: Path, node: object, name: str, arrays: dict[str, np.ndarray]) -> None:
    if isinstance(node, dict):
        for key, below in node.items():
            _flatten(file, below, f"{name}/{key}" if name else str(key), arrays)
    elif isinstance(node, np.ndarray) and node.dtype.kind == "f":
        arrays[name] = node
    else:
        refuse(file, f"not a pickle of plain arrays: '{name}' is a {type(node).__name__}")


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote of a state dict.

    Raises:
        UserError: the file is absent, damaged, or holds anything but named tensors; nothing of it is run.
    """
    try:
        check_stored(file)
        with warnings.catch_warnings(action="ignore"):  # torch warns of strange pickles before it refuses them
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        refuse(file, error.strerror or str(error))
    except Exception:  # a damaged file can fail in any way at all
        refuse(file, "no state dict of tensors, damaged or cut short")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        refuse(file, "no state dict of tensors")
    return state


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes tensors as a safetensors file, whole or not at all.

    Raises:
        UserError: it cannot be written, on a full disk for example.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with written_aside(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode
        try:
            save_file(tensors, aside, metadata={"format": "pt"})
            aside.chmod(mode)  # safetensors' writer lets nobody but the owner read
        except SafetensorError as error:  # how its writer reports a full disk
            raise OSError(str(error)) from None


def check_extent(path: Path, build: Callable[[], nn.Module], parts: int, widest: int) -> None:
    """Makes sure that a configuration describes no more than its weights hold, before time and memory go into it.

    Args:
        path: the weights, a safetensors file.
        build: makes the network; it is called without memory for weights.
        parts: how many layers it is asked for: each has a tensor.
        widest: numbers that one of its tensors has at least.

    Raises:
        UserError: it describes more, or the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            counts = [math.prod(opened.get_slice(name).get_shape()) for name in opened.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        refuse(path, f"damaged, or no safetensors file ({str(error).splitlines()[0]})")
    fits = parts <= len(counts) and widest <= max(counts, default=0)
    if fits:
        try:
            with torch.device("meta"):
                described = sum(value.numel() for value in build().state_dict().values())
            fits = described <= 2 * sum(counts) + _SMALL
        except (RuntimeError, TypeError, OverflowError, MemoryError):  # numbers that no tensor can have as its size
            fits = False
    if not fits:
        refuse(path, "weights do not belong to the configuration beside it, which describes far more")


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], file: Path, what: str) -> None:
    """Loads `state`, read from `file`, into `network`, called `what`; every name and shape must agree.

    BatchNorm's counters of training batches are left as they are: old files lack them, evaluation never reads them.

    Raises:
        UserError: a name is missing or superfluous, or a shape differs; the first such is named.
    """
    own = network.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    wanted = own.keys() - counters.keys()
    given = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    for name in sorted(wanted ^ given.keys()):
        refuse(file, f"not the weights of {what}: '{name}' {'is missing' if name in wanted else 'is too much'}")
    for name in sorted(wanted):
        if given[name].shape != own[name].shape:
            shapes = f"{tuple(given[name].shape)}, not {tuple(own[name].shape)}"
            refuse(file, f"not the weights of {what}: '{name}' has shape {shapes}")
    network.load_state_dict({**given, **counters})
