"""The verbs of `vaevq generate`, one after another, and what a user does wrong with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from generators import small_generator_tree, write_tokens
from runs import files_below, vaevq
from vaevq.data.token_set import read_token_set
from vaevq.data.token_shards import shard_path
from vaevq.data.tokens import read_token_file


@pytest.fixture(scope="module")
def shards(finished: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two classes, with views, that the command has made."""
    folder = tmp_path_factory.mktemp("shards")
    for i, path in enumerate(sorted(photos.iterdir())):
        place = folder / "images" / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    words = ("--shard-size", 5, "--resize", 32, "--crop", 32, "--flips", "--device", "cpu")
    outcome = vaevq("encode", folder / "images", "-m", finished, "-o", folder / "tokens", *words)
    assert outcome.code == 0, outcome.err
    return folder / "tokens"


@pytest.fixture(scope="module", params=["ar", "mask"])
def run(request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a generator that the command has trained."""
    folder = tmp_path_factory.mktemp("generator")
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(small_generator_tree(shards)))
    outcome = vaevq("generate", "train", recipe, "--kind", request.param, "--run-dir", folder / "run", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"next          vaevq generate sample {folder / 'run'} " in outcome.out
    assert "bits_per_" in outcome.out
    return folder / "run"


def test_every_verb_after_the_one_before(run: Path, shards: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    words = ("--count", 9, "--label", "dog,0", "--guidance", 1.5, "--seed", 3, "--device", "cpu")
    sampled = vaevq("generate", "sample", run, "-o", out, *words)
    assert (sampled.code, sampled.err) == (0, "")
    assert sampled.out.startswith(f"9 images: {out / 'images'}\n")
    archive = np.load(out / "samples.npz")
    assert archive["arr_0"].shape == (9, 32, 32, 3)
    assert archive["arr_1"].tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert len(list((out / "images").iterdir())) == 9
    about = json.loads((out / "samples.json").read_text())
    assert (about["seed"], about["options"]["guidance"], about["labels"]) == (3, 1.5, ["dog", "0"])
    again = vaevq("generate", "sample", run, "-o", tmp_path / "again", *words, "--batch-size", 4)
    assert again.code == 0
    assert np.abs(np.load(tmp_path / "again" / "samples.npz")["arr_0"].astype(int) - archive["arr_0"]).max() <= 1
    assert "already there; --force overwrites" in vaevq("generate", "sample", run, "-o", out, *words).err
    assert vaevq("generate", "sample", run, "-o", out, *words, "--force").code == 0


def test_an_image_is_completed_from_its_own_upper_rows(run: Path, shards: Path, photos: Path, tmp_path: Path) -> None:
    for rows in (8, 16):
        words = ("--complete", photos / "cat-0.png", "--rows", rows, "--count", 2, "--device", "cpu")
        outcome = vaevq("generate", "sample", run, "-o", tmp_path / str(rows), *words)
        assert (outcome.code, outcome.err) == (0, "")
    vaevq(
        *("encode", photos / "cat-0.png", "-m", shards / "tokenizer", "-o", tmp_path / "t"),
        *("--resize", 32, "--crop", 32, "--device", "cpu"),
    )
    vaevq("decode", tmp_path / "t", "-m", shards / "tokenizer", "-o", tmp_path / "d", "--device", "cpu")
    assert read_token_file(tmp_path / "t").tokens[0].shape == (16, 16)
    whole = np.asarray(Image.open(tmp_path / "d" / "cat-0.png")).astype(int)
    made = {rows: np.load(tmp_path / str(rows) / "samples.npz")["arr_0"].astype(int) for rows in (8, 16)}
    assert np.abs(made[16] - whole).max() <= 1, "all rows given, it is the reconstruction"
    upper, lower = (np.abs(made[8] - whole)[:, part].mean() for part in (slice(0, 12), slice(20, 32)))
    assert upper < lower / 2
    assert np.abs(made[8][0] - made[8][1])[20:].max() > 1, "below, each is another image"


def test_generated_images_are_measured(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_metrics_generation import Means

    from vaevq.metrics import generation

    monkeypatch.setattr(generation, "load_feature_network", lambda config, device: Means())
    place = tmp_path / "guidance=1"
    assert vaevq("generate", "sample", run, "-o", place, "--count", 12, "--device", "cpu").code == 0
    words = ("--reference", photos, "resize=32", "crop=32", "kid_block=6", "--device", "cpu")
    images = place / "images"
    outcome = vaevq("generate", "eval", *words, images, "--json", "-o", tmp_path / "new" / "result.json")
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    assert result == json.loads((tmp_path / "new" / "result.json").read_text())
    assert result["figures"].keys() >= {"fd_means", "kid_means", "precision_means", "recall_means"}
    table = vaevq("generate", "eval", images, *words)
    assert table.code == 0
    assert "nearest neighbours" in table.out


def test_inspect_says_what_shards_and_generators_are(run: Path, shards: Path) -> None:
    rows = json.loads(vaevq("inspect", shards, "--json").out)
    assert (rows["kind"], rows["shards"], rows["images"], rows["views an image"]) == ("token shards", 3, 12, 2)
    assert (rows["tokens"], rows["classes"]) == (24 * 256, 2)
    assert rows["shards missing"] == 0
    for path in (run, run / "model"):
        rows = json.loads(vaevq("inspect", path, "--json").out)
        assert rows["generator"] in ("ar", "mask")
        assert (rows["grid"], rows["classes"], rows["tokenizer beside it"]) == ("16×16", 2, True)
        assert rows["tokenizer digest"] == read_token_set(shards).model_digest
    assert rows["parameters"] > 1000


def sample(place: Path, run: Path, *words: object) -> tuple[object, ...]:
    return ("generate", "sample", run, "-o", place / "new", "--device", "cpu", *words)


def train(place: Path, *words: object) -> tuple[object, ...]:
    return ("generate", "train", *words, "--run-dir", place / "new", "--quiet")


MISTAKES: dict[str, tuple[Callable[[Path, Path, Path], tuple[object, ...]], str]] = {
    "label out of range": (lambda p, run, s: sample(p, run, "--label", 7), "label 7 is out of range: this generator"),
    "label unknown": (lambda p, run, s: sample(p, run, "--label", "dgo"), "no class 'dgo' (did you mean 'dog'?)"),
    "rows without an image": (lambda p, run, s: sample(p, run, "--rows", 2), "--rows has no effect without --complete"),
    "too many rows": (
        lambda p, run, s: sample(p, run, "--rows", 17, "--complete", next(s.parent.rglob("*.png"))),
        "--rows must be from 1 to 16, not 17",
    ),
    "another tokenizer": (
        lambda p, run, s: sample(p, run, "--tokenizer", run.parent / "other"),
        "this generator makes tokens of tokenizer ",
    ),
    "a tokenizer in the generator's place": (
        lambda p, run, s: sample(p, s / "tokenizer"),
        "tokenizer: a tokenizer, not a generator; vaevq generate train makes one",
    ),
    "temperature below 0": (
        lambda p, run, s: sample(p, run, "--temperature", -1),
        "temperature must be 0 or at least 1e-06",
    ),
    "no such verb": (lambda p, run, s: ("generate", "smaple"), "no verb 'smaple' (did you mean 'sample'?)"),
    "a kind that is not there": (
        lambda p, run, s: train(p, "--kind", "gan", "--tokens", s),
        "network.kind: there is no 'gan': ar, mask",
    ),
    "no tokens": (lambda p, run, s: train(p), "data.tokens: name the tokens to learn from with --tokens"),
    "tokens in the recipe's place": (
        lambda p, run, s: train(p, s),
        "not a recipe; where these are your tokens, name them with --tokens",
    ),
    "images in the tokens' place": (
        lambda p, run, s: train(p, "--tokens", s.parent / "images"),
        "no folder of tokens (shards.json is not in it); vaevq encode --shard-size makes one",
    ),
    "shards that are not finished": (
        lambda p, run, s: train(p, "--tokens", unfinished(p, s)),
        "1 of 3 shards are not there, the first is shard-00001.safetensors",
    ),
    "mixed grids": (
        lambda p, run, s: train(p, "--tokens", mixed(p, s)),
        "a generator takes one size; encode with --resize and --crop",
    ),
    "no folder of samples": (
        lambda p, run, s: ("generate", "eval", "kid_block=3", "--reference", s),
        "name one folder of generated images, not none",
    ),
    "several crops of the whole": (
        lambda p, run, s: ("encode", s.parent / "images", "-m", s / "tokenizer", "-o", p / "new", "--crops", 2),
        "several crops need their side: name it with --crop",
    ),
    "shards of no images": (
        lambda p, run, s: (
            *("encode", s.parent / "images", "-m", s / "tokenizer", "-o", p / "new"),
            *("--shard-size", 0, "--device", "cpu"),
        ),
        "a shard holds at least 1 image, not 0",
    ),
}


def unfinished(place: Path, shards: Path) -> Path:
    shutil.copytree(shards, place / "unfinished")
    shard_path(place / "unfinished", 1).unlink()
    return place / "unfinished"


def mixed(place: Path, shards: Path) -> Path:
    outcome = vaevq("encode", shards.parent / "images", "-m", shards / "tokenizer", "-o", place / "mixed.safetensors")
    assert outcome.code == 0
    return place / "mixed.safetensors"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run: Path, shards: Path, tmp_path: Path, mistake: str) -> None:
    make, expected = MISTAKES[mistake]
    if mistake == "another tokenizer" and not (run.parent / "other").exists():
        from test_generator import tokenizer

        tokenizer(seed=3).save_pretrained(run.parent / "other")
    outcome = vaevq(*make(tmp_path, run, shards))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("vaevq: error: ")
    assert expected in line
    assert not files_below(tmp_path / "new")


@pytest.mark.parametrize("verb", ["train", "sample", "eval"])
def test_help_of_a_verb_has_examples(verb: str) -> None:
    outcome = vaevq("generate", verb, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"For example:\n\n  vaevq generate {verb}" in outcome.out.replace("\n\n\n", "\n\n")
    assert "{None}" not in outcome.out


def test_without_a_tokenizer_sampling_says_what_it_needs(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        yaml.safe_dump(small_generator_tree(write_tokens(tmp_path / "t"), network={"conditional": False}))
    )
    assert vaevq("generate", "train", recipe, "--run-dir", tmp_path / "run", "--quiet").code == 0
    outcome = vaevq("generate", "sample", tmp_path / "run", "-o", tmp_path / "new")
    assert "saved without its tokenizer 0123456789abcdef, which decoding needs: name it (--tokenizer" in outcome.err
    outcome = vaevq("generate", "sample", tmp_path / "run", "-o", tmp_path / "new", "--guidance", 2)
    assert outcome.code == 2
