"""Files are damaged, and what reads them is held to: taken, or refused in one line, in time."""

import contextlib
import gzip
import json
import math
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save as save_tensors

from runs import files_below
from vaevq.data import tokens as token_files
from vaevq.errors import UserError

SLOWEST = 5.0
"""Seconds of CPU that a case may take."""

NASTY: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        10**30,
        1e308,
        float("nan"),
        "",
        "x" * 300,
        "../../etc/passwd",
        "a\0b",
        "\udc80",
    ),
    *([], {}, [[]], {"a": {"b": [None]}}, [1, "2", None], "!!python/object/apply:os.system", 0.5),
)


def twisted(tree: Any, chance: random.Random) -> Any:
    """JSON data with one value exchanged, dropped or added somewhere."""
    if isinstance(tree, dict) and tree and chance.random() < 0.8:
        key = chance.choice(list(tree))
        return {**tree, key: twisted(tree[key], chance)}
    if isinstance(tree, list) and tree and chance.random() < 0.8:
        at = chance.randrange(len(tree))
        return [*tree[:at], twisted(tree[at], chance), *tree[at + 1 :]]
    if isinstance(tree, dict) and chance.random() < 0.5:
        return {**tree, chance.choice(["new", "kind", "0", ""]): chance.choice(NASTY)}
    return chance.choice(NASTY)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Bytes with a few bits turned, or a part exchanged, lost, repeated or cut off."""
    data = bytearray(content)
    first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    match chance.randrange(7):
        case 0 | 1:
            for _ in range(chance.choice([1, 1, 4, 16])):
                if data:
                    # Headers, where most can go wrong, are at the beginning.
                    data[chance.randrange(chance.choice([len(data), min(64, len(data))]))] ^= 1 << chance.randrange(8)
        case 2:
            del data[first:]
        case 3:
            del data[first : first + chance.randrange(1, 9)]
        case 4:
            data[first:first] = data[first : min(last, first + 64)]
        case 5:
            part = min(last - first, 16)
            data[first : first + part] = chance.choice([b"\0", b"\xff", chance.randbytes(1)]) * part
        case _:
            data[first:first] = chance.choice(
                [b"{" * 500, b"[" * 5000, b"&a *a ", b"-", b"9" * 30, b"\x80\x04c", b"PK\x03\x04"]
            )
    return bytes(data)


def damage(folder: Path, chance: random.Random) -> None:
    """One of the files of a folder, by bytes or, where it is JSON or YAML, by values."""
    path = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if path.suffix in (".json", ".yaml") and chance.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError, yaml.YAMLError):  # it is damaged already
            tree = twisted(yaml.safe_load(path.read_text()), chance)
            path.write_text(json.dumps(tree) if path.suffix == ".json" else yaml.safe_dump(tree))
    elif path.suffix == ".safetensors" and chance.random() < 0.3:
        path.write_bytes(crafted_tokens(chance))
    elif path.name.endswith((".nii", ".nii.gz")) and chance.random() < 0.5:
        with contextlib.suppress(OSError, EOFError, zlib.error):  # it is damaged already
            path.write_bytes(crafted_volume(path.read_bytes(), chance))
    else:
        path.write_bytes(damaged(path.read_bytes(), chance))


def crafted_volume(content: bytes, chance: random.Random) -> bytes:
    """A NIfTI-1 file, packed where it was, whose header asks for other sizes than it has."""
    packed = content[:2] == b"\x1f\x8b"
    data = bytearray(gzip.decompress(content) if packed else content)
    sides = struct.pack("<4h", 3, *(chance.choice([-1, 0, 1, 9, 500, 32767, 32767]) for _ in range(3)))
    offset = struct.pack("<f", chance.choice([-1.0, 0.0, 100.0, 352.0, 2.0**24, 2.0**31, 3e38, math.nan, math.inf]))
    extension = struct.pack("<4s2i", b"\1", chance.choice([-16, 0, 8, 2**20, 2**31 - 16]), chance.randrange(9))
    for place, field in ((40, sides), (108, offset), (348, extension)):
        if chance.random() < 0.6:
            data[place : place + len(field)] = field
    return gzip.compress(data) if packed else bytes(data)


def crafted_tokens(chance: random.Random) -> bytes:
    """A token file whose checksum is right and whose content may be nonsense."""
    low, high = chance.choice([(0, 4), (-3, 2), (0, 2**31 - 1)])
    rng = np.random.default_rng(chance.randrange(2**32))
    tensors: dict[str, Any] = {
        "tokens": rng.integers(0, 12, 12).astype(chance.choice([np.uint8, np.uint16, np.int32])),
        "grids": rng.integers(low, high, (2, chance.choice([2, 3]))).astype(np.int32),
        "sizes": rng.integers(low, high, (2, 2)).astype(np.int32),
    }
    if chance.random() < 0.5:
        tensors["labels"] = rng.integers(-5, 5, chance.choice([2, 3]))
    whole = {"codebook_size": "11", "downsample_factor": "2", "codes_per_position": "1", "names": '["a", "b"]'}
    text = {
        key: value if chance.random() < 0.7 else chance.choice(["-1", "", "1e9", "[1]", "99999999999", "²"])
        for key, value in whole.items()
    }
    metadata = {"format": "vaevq-tokens", "format_version": "1", "model_digest": "0" * 16, **text}
    metadata["checksum"] = token_files._checksum(metadata, tensors)
    return save_tensors(tensors, metadata)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def check(read: Callable[[], object], case: str) -> bool:
    """Whether a file was taken; where it was refused, in one line, in time, and by nothing but a UserError."""
    start, message = time.process_time(), None
    try:
        read()
    except UserError as refusal:
        message = str(refusal)
    except Exception as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    seconds = time.process_time() - start
    assert seconds < SLOWEST, f"{case}: {seconds:.1f} s"
    if message is not None:
        assert "\n" not in message, f"{case}: {message!r}"
        assert 0 < len(message) < 3000, f"{case}: {len(message)} characters"
    return message is None
