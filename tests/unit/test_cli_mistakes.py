"""What a user does wrong on the command line is one line that names it, exit code 2, and nothing half written."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from generators import write_generator
from runs import files_below, small_recipe, vaevq
from vaevq.tokenizer import Tokenizer
from volumes import ball, write_volume


@dataclass(frozen=True)
class Place:
    """What the mistakes of this file are made with; `new` is an empty folder for what they might leave."""

    run: Path
    photos: Path
    tokens: Path
    folder: Path
    new: Path

    def recipe(self, **sections: Any) -> Path:
        return small_recipe(self.folder, self.photos, **sections)

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def model(self, weights: bytes) -> Path:
        """A model folder with these bytes for weights."""
        shutil.copytree(self.run / "model", self.folder / "model")
        return self.file("model/model.safetensors", weights).parent

    @property
    def weights(self) -> bytes:
        return (self.run / "model" / "model.safetensors").read_bytes()


@pytest.fixture
def place(finished: Path, photos: Path, tokens: Path, tmp_path: Path) -> Place:
    for name in ("folder", "new"):
        (tmp_path / name).mkdir()
    return Place(finished, photos, tokens, tmp_path / "folder", tmp_path / "new")


def small_pictures(place: Place) -> Path:
    folder = place.folder / "small"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (10, 12)).save(folder / name)
    return folder


def no_image(place: Place) -> Path:
    return place.file("photo.png", "no image")


def absent(place: Place) -> Path:
    return place.folder / "nowhere"


def empty(place: Place) -> Path:
    (place.folder / "empty").mkdir()
    return place.folder / "empty"


def begun(place: Place) -> Path:
    for name in ("config.json", "split.json"):
        place.file(f"begun/{name}", (place.run / name).read_bytes())
    return place.folder / "begun"


def train(place: Place, *words: object, **sections: Any) -> tuple[object, ...]:
    return ("train", place.recipe(**sections), *words, "--run-dir", place.new / "run", "--quiet")


def encode(place: Place, *words: object, model: Path | None = None) -> tuple[object, ...]:
    return ("encode", *words, "--model", model or place.run, "-o", place.new / "t.safetensors")


def decode(place: Place, tokens: Path, model: Path | None = None) -> tuple[object, ...]:
    return ("decode", tokens, "--model", model or place.run, "-o", place.new / "decoded")


def evaluate(place: Place, *words: object, model: Path | None = None) -> tuple[object, ...]:
    return ("eval", *words, "--model", model or place.run, "-o", place.new / "eval.json")


def pickled() -> bytes:
    return pickle.dumps({"weights": 1})


MISTAKES: dict[str, tuple[Callable[[Place], tuple[object, ...]], list[str]]] = {
    # Data
    "train: a data folder that is not there": (
        lambda p: train(p, "--data", absent(p)),
        ["nowhere: no such file or folder"],
    ),
    "train: an empty data folder": (lambda p: train(p, "--data", empty(p)), ["empty: no image found", ".png"]),
    "train: data that is one file and no image": (
        lambda p: train(p, "--data", p.file("notes.md", "x")),
        ["notes.md: neither a folder, an image, a list of images (.txt) nor a shard (.tar)"],
    ),
    "train: images below the crop": (
        lambda p: train(p, "--data", small_pictures(p)),
        ["a.png: 10×12 pixels, smaller than the 16×16 crop", "data.resize"],
    ),
    "train: data where the recipe belongs": (
        lambda p: ("train", p.photos, "--run-dir", p.new / "run"),
        ["not a recipe; where these are your images, name them with --data"],
    ),
    "eval: data that is no image": (
        lambda p: evaluate(p, "--data", no_image(p)),
        ["photo.png: none of 1 images can be read", "not an image"],
    ),
    "encode: a file that is no image": (lambda p: encode(p, no_image(p)), ["photo.png", "not an image"]),
    "encode: images below the crop": (
        lambda p: encode(p, small_pictures(p), "--crop", 32),
        ["a.png: 10×12 pixels, smaller than the 32×32 crop; set resize to 32 or more"],
    ),
    "encode: nothing named": (encode, ["name at least one image, folder, list file, shard or volume"]),
    # Options
    "train: an unknown option of a recipe": (
        lambda p: train(p, model={"quantizer": {"codebok_size": 16}}),
        ["small.yaml: model.quantizer.codebok_size: unknown option (did you mean 'codebook_size'?)"],
    ),
    "train: an unknown key=value": (
        lambda p: train(p, "train.batchsize=8"),
        ["train.batchsize: unknown option (did you mean 'batch_size'?)"],
    ),
    "train: a value of the wrong type": (
        lambda p: train(p, "train.images=many"),
        ["train.images: input should be a valid integer", "'many'"],
    ),
    "train: several mistakes at once": (
        lambda p: train(p, "data.flipp=1", train={"images": 0}, loss={"pixel": "l3"}),
        ["data.flipp: unknown option", "train.images: ", "loss.pixel: input should be 'l1' or 'l2'"],
    ),
    "train: a recipe's name mistyped": (
        lambda p: ("train", "quickstrat", "--run-dir", p.new / "run"),
        ["no recipe named 'quickstrat' (did you mean 'quickstart'?)"],
    ),
    "train: two recipes": (
        lambda p: ("train", "quickstart", "paper", "--run-dir", p.new / "run"),
        ["one recipe at a time, not quickstart, paper"],
    ),
    "train: a recipe that is no YAML": (
        lambda p: ("train", p.file("r.yaml", "train: ["), "--run-dir", p.new / "run"),
        ["r.yaml, line ", "not valid YAML"],
    ),
    "train: a device that is none": (
        lambda p: train(p, "--device", "gpu"),
        ["device 'gpu' is not available here: no device is called that; auto takes what there is"],
    ),
    "eval: an unknown key=value": (
        lambda p: evaluate(p, "metric=[psnr]"),
        ["metric: unknown option (did you mean 'metrics'?)"],
    ),
    "eval: an unknown figure": (lambda p: evaluate(p, "metrics=[psnrr]"), ["metrics.0: ", "'psnr'", "'psnrr'"]),
    "eval: a device that is none": (lambda p: evaluate(p, "--device", "gpu"), ["device 'gpu' is not available here"]),
    "encode: a batch of no image": (
        lambda p: encode(p, p.photos, "--batch-size", 0),
        ["batch_size: input should be greater than or equal to 1, not 0"],
    ),
    "a verb mistyped": (
        lambda p: ("encoed", p.photos, "--model", p.run, "-o", p.new / "t.safetensors"),
        ["no verb 'encoed' (did you mean 'encode'?): one of train, eval, encode, decode, inspect, report, compare"],
    ),
    # Models
    "eval: a model folder without data": (
        lambda p: evaluate(p, model=p.run / "model"),
        ["model: no run folder, so --data must name those to measure on"],
    ),
    "encode: a model that is not there": (
        lambda p: encode(p, p.photos, model=absent(p)),
        ["nowhere: no such folder, and no hub name (owner/name)"],
    ),
    "encode: a model that is a file": (
        lambda p: encode(p, p.photos, model=p.tokens),
        ["tokens.safetensors: a file; name the folder of the run or of the saved tokenizer"],
    ),
    "encode: a model that is a folder of something else": (
        lambda p: encode(p, p.photos, model=p.photos),
        ["neither a saved tokenizer nor a run that has come to its first checkpoint (model.safetensors is not in it)"],
    ),
    "eval: a run before its first checkpoint": (
        lambda p: evaluate(p, model=begun(p)),
        ["begun: neither a saved tokenizer nor a run that has come to its first checkpoint"],
    ),
    "eval: a run that is not there": (
        lambda p: evaluate(p, model=absent(p)),
        ["nowhere: no such folder here, and a hub name has no images, so --data must name those to measure on"],
    ),
    "encode: truncated weights": (
        lambda p: encode(p, p.photos, model=p.model(p.weights[: len(p.weights) // 2])),
        ["model/model.safetensors: damaged, or no safetensors file"],
    ),
    "encode: a pickle in place of weights": (
        lambda p: encode(p, p.photos, model=p.model(pickled())),
        ["model/model.safetensors: damaged, or no safetensors file"],
    ),
    "inspect: a truncated checkpoint": (
        lambda p: ("inspect", p.file("cut.pt", (p.run / "checkpoints" / "000000000020.pt").read_bytes()[:5000])),
        ["cut.pt: truncated, damaged, or no checkpoint"],
    ),
    # Token files
    "decode: another model's tokens": (
        lambda p: decode(p, p.tokens, other_model(p)),
        ["tokens.safetensors was made by model ", "this model is ", "decode it with the model that made it"],
    ),
    "decode: a truncated token file": (
        lambda p: decode(p, p.file("cut.safetensors", p.tokens.read_bytes()[:-10])),
        ["cut.safetensors: not a safetensors file, or cut short"],
    ),
    "decode: a pickle": (
        lambda p: decode(p, p.file("t.safetensors", pickled())),
        ["t.safetensors: not a safetensors file, or cut short"],
    ),
    "decode: a picture": (
        lambda p: decode(p, p.photos / "cat-0.png"),
        ["cat-0.png: not a safetensors file, or cut short"],
    ),
    "decode: weights": (
        lambda p: decode(p, p.run / "model" / "model.safetensors"),
        ["model.safetensors: a safetensors file, but not a vaevq token file"],
    ),
    "decode: a folder": (lambda p: decode(p, p.photos), ["a folder, not a token file"]),
    "decode: nothing there": (lambda p: decode(p, absent(p)), ["nowhere: no such file"]),
    "inspect: a truncated token file": (
        lambda p: ("inspect", p.file("cut.safetensors", p.tokens.read_bytes()[:99])),
        ["cut.safetensors: not a safetensors file, or cut short"],
    ),
    # Runs
    "report: a folder that is no run": (lambda p: ("report", p.photos), ["no run folder of vaevq train"]),
    "report: beside a folder that is no run": (
        lambda p: ("report", p.run, "--against", p.photos),
        ["no config.json, so this is no run folder of vaevq train"],
    ),
}


def other_model(place: Place) -> Path:
    """The model of the run before its last step."""
    weights = torch.load(place.run / "checkpoints" / "000000000016.pt", weights_only=True)["average"]
    tokenizer = Tokenizer.from_pretrained(place.run)
    tokenizer.load_state_dict(weights)
    tokenizer.save_pretrained(place.folder / "other")
    return place.folder / "other"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_names_it_and_leaves_nothing(place: Place, name: str) -> None:
    words, parts = MISTAKES[name]
    called = words(place)
    run = files_below(place.run)
    outcome = vaevq(*called)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("vaevq: error: ")
    assert [part for part in parts if part not in line] == [], line
    assert files_below(place.run) == run
    left = files_below(place.new)
    # A run that meets its mistake in an image has said what it is before: another may take the folder.
    written = {f"run/{name}" for name in ("config.json", "environment.json", "split.json", "metrics.jsonl", "log.txt")}
    assert left <= (written if name == "train: images below the crop" else set())


def test_a_truncated_checkpoint_stops_training_with_the_way_out(place: Place) -> None:
    run = Path(shutil.copytree(place.run, place.new / "run"))
    (run / "checkpoints" / "000000000020.pt").write_bytes(b"PK")
    outcome = vaevq("train", place.recipe(), "--run-dir", run, "--quiet")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        f"vaevq: error: {run}/checkpoints/000000000020.pt: truncated, damaged, or no checkpoint; "
        "delete it to resume from 000000000016.pt\n"
    )


@pytest.mark.parametrize("verb", ["eval", "encode", "decode", "export", "inspect", "sample"])
def test_what_is_there_is_overwritten_by_force_alone(place: Place, verb: str) -> None:
    write_volume(place.folder / "v.nii", ball((20, 24, 16)))
    write_generator(place.run, place.folder / "g")
    words = {
        "eval": evaluate(place, "images=1", "--data", place.photos),
        "encode": encode(place, place.photos / "cat-0.png"),
        "decode": decode(place, place.tokens),
        "export": ("export", place.run, "-o", place.new / "out", "--format", "safetensors"),
        "inspect": ("inspect", place.folder / "v.nii", "--picture", place.new / "v.png"),
        "sample": ("generate", "sample", place.folder / "g", "--count", 1, "-o", place.new / "out"),
    }[verb]
    target = {
        "encode": "t.safetensors",
        "decode": "decoded/cat-0.png",
        "export": "out/model.safetensors",
        "inspect": "v.png",
        "sample": "out/images/000000.png",
    }.get(verb, "eval.json")
    mine = place.new / target
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    outcome = vaevq(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"vaevq: error: {mine} already there; --force overwrites\n"
    assert mine.read_text() == "mine"
    assert files_below(place.new) == {target}
    outcome = vaevq(*words, "--force")
    assert outcome.code == 0, outcome.err
    assert mine.read_bytes() != b"mine"


@pytest.mark.parametrize("verb", ["eval", "encode"])
@pytest.mark.parametrize(
    ("output", "message"), [("", ": a folder; name a file to write"), ("file/x", ": file is no folder")]
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    place: Place, verb: str, output: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"eval": "evaluate", "encode": "codec"}[verb]
    monkeypatch.setattr(f"vaevq.cli.{module}.load", lambda model: pytest.fail("worked first"))
    (place.new / "file").write_text("mine")
    words = ["--data"] if verb == "eval" else []
    outcome = vaevq(verb, *words, place.photos, "--model", place.run, "-o", place.new / output, "--force")
    assert outcome.code == 2
    assert outcome.err.startswith(f"vaevq: error: {place.new / output}{message}")
    assert files_below(place.new) == {"file"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "Missing subcommand"),
        (["train", "--quite"], "--quiet"),
        (["export", "m"], "--output"),
        (["generate", "sample", "g"], "--output"),
        (["encode", "x.png", "--model", "m", "-o", "t", "--crop", "big"], "--crop"),
        (["inspect"], "token file"),
    ],
)
def test_options_that_the_parser_refuses_are_named_without_a_traceback(words: list[str], named: str) -> None:
    outcome = vaevq(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert named in outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) <= 20
