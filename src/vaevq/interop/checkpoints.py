"""Checkpoints of other projects: the named tensors in them, read without running anything."""

import argparse
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vaevq.errors import refuse
from vaevq.files import check_stored

_WITHIN = ("state_dict", "ema", "model")
"""Where training code keeps a model's tensors in its checkpoint; the first that is there counts."""

_LIGHTNING = ("pytorch_lightning", "lightning.pytorch")
_CALLBACKS = (
    "model_checkpoint.ModelCheckpoint",
    "early_stopping.EarlyStopping",
    "lr_monitor.LearningRateMonitor",
)
_SCALAR = np.float64(0).__reduce__()[0]
_DAMAGED = "damaged, or nothing torch.save wrote"


class _Nothing:
    """What a training framework's callback becomes: a name without a content."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that torch.save wrote (.ckpt, .pt, .pth, .bin).

    Of the latter also those of a whole training state, under `state_dict`, `ema` or `model`. Beside tensors and plain
    values only argparse's namespaces, numpy's numbers and the names of Lightning's callbacks are let through.

    Raises:
        UserError: the file is absent, damaged, asks for anything else, or holds no named tensors.
    """
    if not file.is_file():
        refuse(file, "no such file")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            refuse(file, f"damaged, or no safetensors file ({error})")
    state = _unpickled(file)
    if isinstance(state, dict):
        state = next((state[key] for key in _WITHIN if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        refuse(file, f"no named tensors, neither in itself nor under {', '.join(_WITHIN)}")
    return state


def _unpickled(file: Path) -> Any:
    callbacks = [f"{package}.callbacks.{name}" for package in _LIGHTNING for name in _CALLBACKS]
    allowed: list[Any] = [argparse.Namespace, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8"))]
    allowed += [(_Nothing, name) for name in callbacks]
    allowed += [(_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        check_stored(file)
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        refuse(file, error.strerror or str(error))
    except pickle.UnpicklingError as error:
        asked = str(error).partition("GLOBAL ")[2].partition(" ")[0]
        refuse(file, f"it asks for {asked}, which no weights need" if asked else _DAMAGED)
    except Exception:  # a damaged file can fail in any way at all
        refuse(file, _DAMAGED)
