"""What a run was made with: recorded beside its results, so that a figure can be traced to its command."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import vaevq
from vaevq.training.engine import Engine


def environment(engine: Engine) -> dict[str, Any]:
    """Versions, device, processes, command and, from a checkout, the commit; plain JSON data."""
    device = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else platform.processor()
    return {
        "vaevq": vaevq.__version__,
        "commit": _commit(),
        "command": " ".join(["vaevq", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in ("torch", "numpy", "pillow", "safetensors", "pydantic")},
        "platform": platform.platform(),
        "device": f"{engine.device.type} {device}".strip(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": engine.world_size,
        "autocast": str(engine.autocast_dtype) if engine.autocast_dtype else None,
    }


def package_version(package: str) -> str | None:
    """Of an installed package; None where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with `+changes` where files differ from it; None for an installed package."""
    here = Path(vaevq.__file__).parent
    git = ["git", "-C", str(here)]
    try:
        inside = subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=False)
        if inside.returncode:
            return None
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
        changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
