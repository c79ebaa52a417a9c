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

from damage import check, contents, damage
from generators import write_generator, write_tokens
from runs import small_tree
from vaevq.comparison import read_plan
from vaevq.config import VolumesConfig, load_generator_config, load_run_config
from vaevq.data.images import load_image
from vaevq.data.index import VolumeOptions, find_images
from vaevq.data.token_set import read_token_set
from vaevq.data.token_shards import ShardPlan
from vaevq.data.tokens import read_token_file
from vaevq.errors import UserError
from vaevq.generation.generator import Generator
from vaevq.inspection import inspect_path
from vaevq.nn.weights import read_array_pickle, read_state_dict
from vaevq.tokenizer import Tokenizer
from vaevq.training.checkpoint import load_checkpoint, save_checkpoint
from volumes import ball, write_series, write_volume

ROUNDS = int(os.environ.get("VAEVQ_FUZZ", "1"))


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


def make_volumes(folder: Path, run: Path) -> None:
    for name in ("plain.nii", "packed.nii.gz"):
        write_volume(folder / name, ball((9, 8, 7)))


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
    index = find_images(location, VolumeOptions(VolumesConfig(), cached=False))
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
        200,
    ),
    "token shards": Kind(make_token_shards, read_token_set, 200),
    "recipe": Kind(
        partial(make_yaml, small_tree(Path("photos"))), lambda folder: load_run_config(folder / "given.yaml"), 150
    ),
    "generator recipe": Kind(
        partial(make_yaml, {"seed": 1, "network": {"kind": "mask", "size": "B"}, "train": {"images": 20}}),
        lambda folder: load_generator_config(folder / "given.yaml"),
        100,
    ),
    "comparison": Kind(partial(make_yaml, PLAN), lambda folder: read_plan(folder / "given.yaml"), 100),
    "checkpoint": Kind(
        lambda folder, run: save_checkpoint(folder, 8, STATE, 1),
        lambda folder: load_checkpoint(folder / "000000000008.pt"),
        200,
    ),
    "model": Kind(make_model, Tokenizer.from_pretrained, 200),
    "generator": Kind(lambda folder, run: write_generator(run, folder), Generator.from_pretrained, 100),
    "run": Kind(make_run, inspect_path, 100),
    "images": Kind(make_images, read_every_image, 150),
    "shard": Kind(make_shard, lambda folder: read_images(folder / "a.tar"), 150),
    "volume": Kind(make_volumes, read_images, 100),
    "DICOM": Kind(lambda folder, run: write_series(folder / "s", ball((9, 8, 7))), read_images, 50),
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
