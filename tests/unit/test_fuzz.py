"""2,000 damaged and hostile files: each is taken or refused in one line, and none breaks, hangs or changes anything.

A kind of file is an entry of `KINDS`: how a sound one is made, and what reads it. Damage is seeded; a failure names its
number, and `VAEVQ_FUZZ=20` runs twenty times as many.
"""

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save as save_tensors

from generators import write_generator, write_tokens
from runs import files_below, small_tree
from vaevq.comparison import read_plan
from vaevq.config import load_generator_config, load_run_config
from vaevq.data import tokens as token_files
from vaevq.data.images import load_image
from vaevq.data.index import find_images
from vaevq.data.token_set import read_token_set
from vaevq.data.token_shards import ShardPlan
from vaevq.data.tokens import read_token_file
from vaevq.errors import UserError
from vaevq.generation.generator import Generator
from vaevq.inspection import inspect_path
from vaevq.nn.weights import read_array_pickle, read_state_dict
from vaevq.tokenizer import Tokenizer
from vaevq.training.checkpoint import load_checkpoint, save_checkpoint

ROUNDS = int(os.environ.get("VAEVQ_FUZZ", "1"))
SLOWEST = 5.0
"""Seconds of CPU that a case may take; all of them together take about ten."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: writes a sound one into an empty folder, given a finished run.
        read: reads what lies in the folder.
        cases: how many damaged ones are tried.
    """

    make: Callable[[Path, Path], object]
    read: Callable[[Path], object]
    cases: int


def make_token_shards(folder: Path, run: Path) -> None:
    for number in range(2):
        write_tokens(folder / f"shard-{number:05d}.safetensors", count=4)
    plan = ShardPlan(
        source="photos",
        images=8,
        images_digest="0" * 16,
        classes=("a", "b", "c"),
        model_digest="0123456789abcdef",
        shard_size=4,
        resize=None,
        crop=None,
        crops=1,
        flips=False,
    )
    (folder / "shards.json").write_text(json.dumps(plan.model_dump(mode="json")))
    (folder / "shard-00001.unreadable.json").write_text(json.dumps(["a: b"]))


def make_yaml(tree: dict[str, Any], folder: Path, run: Path) -> None:
    (folder / "given.yaml").write_text(yaml.safe_dump(tree))


def make_model(folder: Path, run: Path) -> None:
    Tokenizer.from_pretrained(run).save_pretrained(folder)
    lineage = {"format": "vaevq-lineage", "format_version": 1, "shrinks": [[0, 1, 0]]}
    ancestors = [{"digest": "0" * 16, "codebook_size": 3, "shrinks": 0}]
    (folder / "lineage.json").write_text(json.dumps({**lineage, "ancestors": ancestors}))


def make_images(folder: Path, run: Path) -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 24 * 20 * 3).reshape(24, 20, 3) + rng.integers(0, 50, (24, 20, 3))
    image = Image.fromarray(ramp.astype(np.uint8))
    for extension in ("png", "jpg", "gif", "tif", "webp", "bmp", "ppm", "tga", "jp2"):
        image.save(folder / f"{extension}.{extension}")
    Image.fromarray((ramp[..., 0] * 200).astype(np.uint16)).save(folder / "deep.png")
    image.save(folder / "packed.tif", compression="tiff_lzw")


def make_shard(folder: Path, run: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number in range(3):
            content = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(content, format="PNG")
            for name, data in ((f"{number}.png", content.getvalue()), (f"{number}.cls", b"%d" % number)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def make_list(folder: Path, run: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "list.txt").write_text("# two\na.png\tcat\na.png\tdog\n")


def make_run(folder: Path, run: Path) -> None:
    for name in ("config.json", "split.json", "eval.json", "metrics.jsonl"):
        shutil.copy(run / name, folder / name)
    shutil.copytree(run / "model", folder / "model")


def make_pickle(folder: Path, run: Path) -> None:
    tree = {"Conv_0": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    (folder / "a.ckpt").write_bytes(pickle.dumps(tree))


def read_images(location: Path, most: int = 4) -> None:
    index = find_images(location)
    for entry in index[:most]:
        with contextlib.suppress(UserError):  # training counts them
            entry.load(3)


def read_every_image(folder: Path) -> None:
    refused = [UserError("none")]
    for path in sorted(folder.iterdir()):
        try:
            load_image(path, 3)
        except UserError as error:
            refused.append(error)
    raise refused[-1]


STATE = {
    "images_seen": 8,
    "tokenizer": {"weight": torch.ones(20)},
    "optimizer": {"state": {0: {"step": torch.ones(())}}},
}
PLAN = {
    "base": "quickstart",
    "reference": "a",
    "rows": {"a": {}, "b": {"train": {"learning_rate": 0.1}}},
    "seeds": [0, 1],
}

KINDS: dict[str, Kind] = {
    "token file": Kind(
        lambda folder, run: write_tokens(folder / "t.safetensors", count=3, codes=2),
        lambda folder: read_token_file(folder / "t.safetensors"),
        250,
    ),
    "token shards": Kind(make_token_shards, read_token_set, 200),
    "recipe": Kind(
        partial(make_yaml, small_tree(Path("photos"))), lambda folder: load_run_config(folder / "given.yaml"), 200
    ),
    "generator recipe": Kind(
        partial(make_yaml, {"seed": 1, "network": {"kind": "mask", "size": "B"}, "train": {"images": 20}}),
        lambda folder: load_generator_config(folder / "given.yaml"),
        100,
    ),
    "comparison": Kind(partial(make_yaml, PLAN), lambda folder: read_plan(folder / "given.yaml"), 100),
    "checkpoint": Kind(
        lambda folder, run: save_checkpoint(folder, 8, STATE, 1),
        lambda folder: load_checkpoint(folder / "000000000008.pt", torch.device("cpu")),
        200,
    ),
    "model": Kind(make_model, Tokenizer.from_pretrained, 200),
    "generator": Kind(lambda folder, run: write_generator(run, folder), Generator.from_pretrained, 100),
    "run": Kind(make_run, inspect_path, 100),
    "images": Kind(make_images, read_every_image, 150),
    "shard": Kind(make_shard, lambda folder: read_images(folder / "a.tar"), 200),
    "list": Kind(make_list, lambda folder: read_images(folder / "list.txt"), 50),
    "pickle": Kind(make_pickle, lambda folder: read_array_pickle(folder / "a.ckpt"), 100),
    "state dict": Kind(
        lambda folder, run: torch.save({"a": torch.ones(3)}, folder / "a.pth"),
        lambda folder: read_state_dict(folder / "a.pth"),
        50,
    ),
}


def test_there_are_two_thousand_cases() -> None:
    assert sum(kind.cases for kind in KINDS.values()) == 2000


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
    else:
        path.write_bytes(damaged(path.read_bytes(), chance))


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


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_taken_or_refused_in_one_line(name: str, finished: Path, tmp_path: Path) -> None:
    kind = KINDS[name]
    (tmp_path / "sound").mkdir()
    kind.make(tmp_path / "sound", finished)
    if name != "images":  # they are told of one by one
        kind.read(tmp_path / "sound")
    sound, taken = contents(tmp_path / "sound"), 0
    work = tmp_path / "work"
    shutil.copytree(tmp_path / "sound", work)
    for number in range(kind.cases * ROUNDS):
        chance = random.Random(f"{name} {number}")
        for _ in range(chance.choice([1, 1, 2])):
            damage(work, chance)
        before = contents(work)
        taken += check(partial(kind.read, work), f"{name} {number}")
        assert contents(work) == before, f"{name} {number}: files have changed"
        for file, content in sound.items():
            if before[file] != content:
                (work / file).write_bytes(content)
    assert taken < kind.cases * ROUNDS, "some were refused"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
TREES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "model",
                    "quantizer",
                    "kind",
                    "autoencoder",
                    "loss",
                    "data",
                    "train",
                    "eval",
                    "variant",
                    "seed",
                    "images",
                    "vaevq",
                ]
            ),
            below,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, text=st.text(max_size=40))
def test_any_yaml_and_any_text_is_a_recipe_or_refused_in_one_line(tmp_path: Path, tree: Any, text: str) -> None:
    path = tmp_path / "given.yaml"
    for content in (yaml.safe_dump(tree), text):
        path.write_text(content, encoding="utf-8", errors="surrogatepass")
        for read in (load_run_config, load_generator_config, read_plan):
            check(partial(read, path), repr(content))
