"""A folder in which the commands of a document run as a reader would run them, scaled down to a second each."""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml
from PIL import Image

from runs import Outcome, small_tree, vaevq
from volumes import ball, write_brats, write_volume

TRAIN = {
    "model.autoencoder.patch_size": "4",
    "model.autoencoder.base_width": "8",
    "model.autoencoder.multipliers": "[1,2]",
    "model.autoencoder.blocks": "1",
    "model.quantizer.codebook_size": "32",
    "data.image_size": "32",
    "data.workers": "0",
    "train.images": "8",
    "train.batch_size": "4",
    "train.log_every": "4",
    "train.evaluate_every": "8",
    "train.checkpoint_every": "8",
    "train.tensorboard": "false",
    "loss.perceptual_weight": "0",
    "eval.metrics": "[psnr,ssim]",
}
"""What is laid over the options of `vaevq train`, and takes the place of the same in the document."""
OF_PHOTOS = {"data.resize": "48", "eval.resize": "32", "eval.crop": "32"}
ADVERSARIAL = {"loss.discriminator_width": "8", "loss.discriminator_layers": "1", "loss.adversarial_start": "0"}
ADAPTIVE = {
    "adapt.every": "4",
    "adapt.start": "0",
    "adapt.until": "1",
    "adapt.min_size": "4",
    "adapt.max_size": "64",
    "train.images": "40",
}
GENERATE = {
    "network.size": "tiny",
    "train.images": "8",
    "train.batch_size": "4",
    "train.log_every": "4",
    "train.evaluate_every": "8",
    "train.checkpoint_every": "8",
    "train.tensorboard": "false",
    "train.parallel": "ddp",
}
OPTIONS = {"--count": "5", "--processes": "1", "--shard-size": "8"}
"""Options of any verb whose values are replaced."""
PHOTO = (".png", ".jpg")


@dataclass(frozen=True)
class Sandbox:
    """A folder to run in; what a command needs and nothing before it has made is put there, small.

    Attributes:
        folder: the working folder, and the home folder.
        photos: a folder of small photos.
        finished: the folder of a small run.
    """

    folder: Path
    photos: Path
    finished: Path

    def run(self, words: Sequence[str]) -> Outcome:
        """A command as a document has it, scaled down, once what it takes is there."""
        words = [self._local(word) for word in scaled(words)]
        self._provide(words)
        outcome = vaevq(*words)
        other = re.match(r"vaevq: error: (\S+) holds a run with another configuration", outcome.err)
        if other:  # the document shows several ways to train, of which a reader takes one
            shutil.rmtree(other[1])
            outcome = vaevq(*words)
        return outcome

    def _local(self, word: str) -> str:
        """Paths from the home folder and from the root, as paths in this folder."""
        return re.sub(r"^(~|(?=/))", str(self.folder), word)

    def _provide(self, words: Sequence[str]) -> None:
        """Puts there what is missing, and takes away what the command would not overwrite."""
        for option in ("-o", "--output"):
            if option in words:
                self._clear(self._path(words[words.index(option) + 1]))
        for name, make in self._needs(words):
            if not self._path(name).exists():
                self._path(name).parent.mkdir(parents=True, exist_ok=True)
                make(self._path(name))

    def _needs(self, words: Sequence[str]) -> Iterator[tuple[str, Callable[[Path], None]]]:
        """What a command reads, by name, and what makes it."""
        made_by: dict[str, Callable[[Path], None]] = {
            "--data": self._volumes if "brats" in " ".join(words).lower() else self._images,
            "--held-out": self._tokens if words[0] == "generate" else self._images,
            "--reference": self._images,
            "--model": self._run,
            "--init-from": self._run,
            "--against": self._patient if words[0] == "decode" else lambda other: self._twin(words[1], other),
            "--tokens": self._tokens,
            "--complete": self._photo,
        }
        for option, value in pairwise(words):
            if option in made_by:
                yield value, made_by[option]
        for word in words[1:]:
            path = Path(word)
            if word.startswith("-") or "=" in word:
                continue
            if path.suffix in PHOTO and words[0] == "encode":
                yield word, self._photo
            elif path.suffixes == [".nii", ".gz"] and words[0] in ("encode", "inspect"):
                yield word, self._patient
            elif path.suffix == ".yaml":
                yield word, self._plan if words[0] == "compare" else self._recipe
            elif path.suffix == ".safetensors" and words[0] in ("decode", "inspect"):
                yield word, self._token_file
        match words:
            case ["inspect" | "report" | "export", run, *_] if not Path(run).suffix:
                yield run, self._run
            case ["encode", images, *_] | ["generate", "eval", images, *_] if not Path(images).suffix:
                yield images, self._images

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _clear(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _images(self, folder: Path) -> None:
        """Twelve photos in three class folders; where a data set of small images is meant, 32×32."""
        for photo in sorted(self.photos.iterdir()):
            kind = {"astronaut": "bird", "coffee": "dog"}.get(photo.stem.partition("-")[0], "cat")
            place = folder / kind / f"{folder.name}-{photo.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(photo) as image:
                small = "cifar" in str(folder) or "samples" in str(folder)
                (image.resize((32, 32)) if small else image).save(place)

    def _photo(self, path: Path) -> None:
        with Image.open(self.photos / "cat-0.png") as image:
            image.save(path)

    def _run(self, folder: Path) -> None:
        shutil.copytree(self.finished, folder)

    def _twin(self, run: str, other: Path) -> None:
        shutil.copytree(self._path(run), other)

    def _recipe(self, path: Path) -> None:
        path.write_text("seed: 1\n")

    def _plan(self, path: Path) -> None:
        """A comparison of two rows and one seed."""
        (path.parent / "small.yaml").write_text(yaml.safe_dump(small_tree(self.photos, train={"images": 8})))
        rows = {kind: {"model": {"quantizer": {"kind": kind}}} for kind in ("vaevq", "simvq")}
        plan = {"base": "small.yaml", "reference": "simvq", "seeds": [0], "rows": rows}
        path.write_text(yaml.safe_dump(plan))

    def _volumes(self, folder: Path) -> None:
        write_brats(folder)

    def _patient(self, path: Path) -> None:
        write_volume(path, ball((20, 24, 16), top=700.0))

    def _token_file(self, path: Path) -> None:
        self._done("encode", self.photos / "cat-0.png", "--model", self._model(), "-o", path)

    def _tokens(self, folder: Path) -> None:
        """Shards of small images, whose names are the folder's."""
        images = self.folder / f"cifar-{folder.name}"
        self._images(images)
        self._done("encode", images, "--model", self._model(), "-o", folder, "--shard-size", 8)

    def _model(self) -> Path:
        """The run whose tokens the document is about."""
        made = sorted(path for path in self.folder.glob("runs/*") if (path / "model").is_dir() and "-" not in path.name)
        return made[0] if made else self.finished

    def _done(self, *words: object) -> None:
        outcome = vaevq(*words)
        assert outcome.code == 0, outcome.err


def scaled(words: Sequence[str]) -> list[str]:
    """The words of a command that takes a second and leads to the same files."""
    words = list(words)
    for name, value in OPTIONS.items():
        if name in words:
            words[words.index(name) + 1] = value
    match words:
        case ["train", *_]:
            return _scaled_training(words)
        case ["generate", "train", *_]:
            share = {} if "--held-out" in words else {"data.held_out_share": "0.3"}
            return [*_laid_over(words, GENERATE | share), "--device", "cpu"]
        case ["eval", *_]:
            kept = [word for word in words if not word.startswith("feature_")]
            return [*_laid_over(kept, {"metrics": "[psnr,ssim]", **_cropped(words)}), "--device", "cpu"]
        case ["generate", "eval", *_]:
            return _laid_over(words, _cropped(words))
    return words


def _scaled_training(words: list[str]) -> list[str]:
    if "--data" not in words:  # the quick start's photos, which would be fetched
        words = [*words, "--data", "photos", "--run-dir", "runs/quickstart"]
    changes, text = {**TRAIN}, " ".join(words)
    if "brats" not in text:
        changes |= OF_PHOTOS
    if "paper" in words or "loss.adversarial" in text:
        changes |= ADVERSARIAL
    if "adapt." in text:
        changes |= ADAPTIVE
    if "--init-from" in words:  # whose networks they are
        changes = {name: value for name, value in changes.items() if ".autoencoder." not in name}
    return [*_laid_over(words, changes), "--device", "cpu"]


def _cropped(words: Sequence[str]) -> dict[str, str]:
    return {"resize": "32", "crop": "32"} if any(word.startswith("crop=") for word in words) else {}


def _laid_over(words: Sequence[str], changes: dict[str, str]) -> list[str]:
    kept = [word for word in words if word.partition("=")[0] not in changes]
    return [*kept, *(f"{name}={value}" for name, value in changes.items())]
