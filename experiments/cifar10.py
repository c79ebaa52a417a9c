"""Which tokenizer do generators learn best from? CIFAR-10 at f = 4: tokenizers, generators on their tokens, figures.

    python experiments/cifar10.py --data CIFAR10 --work /tmp/cifar10
    python experiments/cifar10.py --table

CIFAR10 is a folder with `train` and `test`, a folder of images a class in each. Every step is a `vaevq` command, which
is printed; a step that is done is not done again, so a killed experiment goes on. A finished cell is a file in
experiments/cifar10/cells. Images are measured against the test images, which nothing was trained on or chosen by; class
consistency is the share of generated images that a small classifier, trained here on the training images, takes for
the class that was asked for.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaevq.data.images import load_image, to_tensor

HERE = Path(__file__).parent
CELLS = HERE / "cifar10" / "cells"

QUANTIZERS = {
    "vaevq": ["model.quantizer.kind=vaevq"],
    "vq": ["model.quantizer.kind=vq", "model.quantizer.commitment_weight=1.0"],
    "simvq": ["model.quantizer.kind=simvq", "model.quantizer.commitment_weight=1.0"],
}
"""Each with the commitment weight that photos chose for it (code-dim.yaml)."""

RECIPES = {"ar": "cifar10", "mask": "cifar10", "diffusion": "cifar10-ldm"}
"""The generators' recipes by kind."""

_GUIDED = ("--guidance", "1.5", "--batch-size", "100")
SAMPLING = {"ar": _GUIDED, "mask": _GUIDED, "diffusion": ("--guidance", "1.5", "--sampler", "dpm++", *_GUIDED[2:])}


SIZES = {
    "short": ("train.images=38400", "train.evaluate_every=38400", "train.checkpoint_every=12800"),
    "long": ("train.images=192000", "train.evaluate_every=64000", "train.checkpoint_every=32000"),
}
"""Further options of the generator's recipe: at most 8 minutes on one core, and about 35."""

_PLACES = ("generated", "reference")  # of this machine: none of the protocol

SAMPLED = 2500
"""Images sampled, and real ones that they are measured against."""


@dataclass(frozen=True)
class CellName:
    """One cell of the experiment."""

    size: str
    quantizer: str
    generator: str
    seed: int

    def __str__(self) -> str:
        return f"{self.size}-{self.quantizer}-{self.generator}-s{self.seed}"


def cells(size: str) -> list[CellName]:
    """What is measured: autoregressive on three tokenizers with two seeds, the others on two tokenizers once."""
    if size == "long":
        return [CellName(size, "vaevq", "ar", 0)]
    several = [CellName(size, name, "ar", seed) for seed in (0, 1) for name in QUANTIZERS]
    return several + [CellName(size, name, kind, 0) for kind in ("mask", "diffusion") for name in ("vaevq", "vq")]


def main() -> None:
    """Makes the cells that are missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10's train and test, a folder a class")
    parser.add_argument("--work", type=Path, help="folder for runs, tokens and samples")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--generator", nargs="+", choices=RECIPES, default=list(RECIPES), help="only these kinds")
    parser.add_argument("--seed", type=int, nargs="+", help="only these seeds")
    parser.add_argument("--quantizer", nargs="+", choices=QUANTIZERS, default=list(QUANTIZERS), help="only these")
    parser.add_argument("--table", action="store_true", help="only print the table of the cells that there are")
    options = parser.parse_args()
    if not options.table:
        if options.data is None or options.work is None:
            parser.error("name --data and --work, or --table")
        for name in cells(options.size):
            chosen = name.generator in options.generator and name.quantizer in options.quantizer
            if chosen and (options.seed is None or name.seed in options.seed):
                run_cell(name, options.data, options.work)
    print(table(options.size))


def run_cell(name: CellName, data: Path, work: Path) -> None:
    """Trains, samples, measures, and writes the cell."""
    path = CELLS / f"{name}.json"
    if path.exists():
        return
    tokenizer = work / f"{name.quantizer}-s{name.seed}"
    tokens, generator, samples = tokenizer / "tokens", work / str(name), work / str(name) / "samples"
    train, test = str(data / "train"), str(data / "test")
    _vaevq(
        tokenizer / "run" / "eval.json",
        *("train", HERE / "cifar10.yaml", *QUANTIZERS[name.quantizer], "--data", train),
        *("--held-out", test, "--seed", name.seed, "--run-dir", tokenizer / "run", "--quiet"),
    )
    for part, location in (("train", train), ("test", test)):
        shards = ("--model", tokenizer / "run", "-o", tokens / part, "--shard-size", 10_000, "--latents")
        marker = tokenizer / f"{part}-encoded"
        _vaevq(marker, "encode", location, *shards)
        marker.touch()
    _vaevq(
        generator / "eval.json",
        *("generate", "train", RECIPES[name.generator], "--kind", name.generator, *SIZES[name.size]),
        *("train.precision=bfloat16", "train.tensorboard=false", "--tokens", tokens / "train", "--held-out"),
        *(tokens / "test", "--seed", name.seed, "--run-dir", generator, "--quiet"),
    )
    _vaevq(
        samples / "samples.json",
        *("generate", "sample", generator, "--count", SAMPLED, *SAMPLING[name.generator], "--force", "-o", samples),
    )
    _vaevq(
        generator / "generation.json",
        *("generate", "eval", samples / "images", f"images={SAMPLED}", "batch_size=20", "--reference", test),
        *("-o", generator / "generation.json"),
    )
    classifier, accuracy = trained_classifier(data, work)
    measured = json.loads((generator / "generation.json").read_text(encoding="utf-8"))
    of_tokenizer = json.loads((tokenizer / "run" / "eval.json").read_text(encoding="utf-8"))["figures"]
    cell = {
        "size": name.size,
        "quantizer": name.quantizer,
        "generator": name.generator,
        "seed": name.seed,
        "tokenizer": {key: of_tokenizer[key] for key in ("psnr", "lpips_alexnet", "usage", "perplexity")},
        "held_out": json.loads((generator / "eval.json").read_text(encoding="utf-8"))["figures"],
        "figures": measured["figures"] | {"class_consistency": class_consistency(classifier, samples)},
        "classifier_accuracy": accuracy,
        "protocol": {
            key: value for key, value in measured["protocol"].items() if key not in ("generated", "reference")
        },
        "options": {"sampling": SAMPLING[name.generator], "generator": SIZES[name.size]},
        "minutes": {
            "tokenizer": _minutes(tokenizer / "run" / "metrics.jsonl"),
            "generator": _minutes(generator / "metrics.jsonl"),
        },
    }
    CELLS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")


def _vaevq(made: Path, *words: object) -> None:
    """Runs a command, unless what it makes is there."""
    if made.exists():
        return
    line = [str(word) for word in words]
    print("vaevq", *line, flush=True)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "vaevq", *line], check=True, stdout=subprocess.DEVNULL)
    print(f"  {time.monotonic() - started:.0f} s", flush=True)


def _minutes(log: Path) -> float:
    """Of the last line of a run's log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return round(max(float(line.get("seconds", 0.0)) for line in lines) / 60, 1)


class Classifier(nn.Sequential):
    """A small convolutional network, B×3×32×32 in [-1, 1] to B×10."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, width in ((3, 48), (48, 96), (96, 192)):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(192 * 16, 10))


def trained_classifier(data: Path, work: Path, epochs: int = 4) -> tuple[Classifier, float]:
    """The classifier and its accuracy on the test images; trained once, kept in `work`."""
    path = work / "classifier.pt"
    torch.manual_seed(0)
    network = Classifier()
    if path.exists():
        kept = torch.load(path, weights_only=True)
        network.load_state_dict(kept["weights"])
        return network.eval(), kept["accuracy"]
    images, labels = _images(data / "train")
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    steps = epochs * (len(images) // 128)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step, chosen in enumerate(_shuffled(len(images), epochs)):
        batch = images[chosen]
        batch = torch.where((torch.rand(len(batch)) < 0.5)[:, None, None, None], batch.flip(3), batch)
        optimizer.zero_grad()
        F.cross_entropy(network(batch), labels[chosen], label_smoothing=0.05).backward()
        optimizer.step()
        rate.step()
        if step % 200 == 0:
            print(f"classifier: step {step} of {steps}", flush=True)
    network.eval()
    images, labels = _images(data / "test")
    accuracy = (_predicted(network, images) == labels).double().mean().item()
    work.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": network.state_dict(), "accuracy": accuracy}, path)
    print(f"classifier: {accuracy:.1%} of the test images", flush=True)
    return network, accuracy


def _shuffled(count: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        order = torch.randperm(count)
        yield from order[: count - count % 128].split(128)


def _images(folder: Path) -> tuple[Tensor, Tensor]:
    """All images of class folders, and the classes in the order of their names, as `vaevq encode` numbers them."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    paths = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
    images = torch.stack([to_tensor(load_image(path, 3)) for path, _ in paths])
    return images, torch.tensor([label for _, label in paths])


@torch.no_grad()
def _predicted(network: Classifier, images: Tensor) -> Tensor:
    return torch.cat([network(part).argmax(1) for part in images.split(500)])


def class_consistency(network: Classifier, samples: Path) -> float:
    """The share of samples that are taken for what they were asked to be; classes were taken in turn."""
    images = torch.stack([to_tensor(load_image(path, 3)) for path in sorted((samples / "images").glob("*.png"))])
    asked = torch.arange(len(images)) % 10
    return (_predicted(network, images) == asked).double().mean().item()


def table(size: str) -> str:
    """The cells of a size as a Markdown table, a mean and its seeds' values a row."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in cells(size):
        path = CELLS / f"{name}.json"
        if path.exists():
            cell = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault((name.generator, name.quantizer), []).append(cell)
    columns: dict[str, tuple[str, str, int]] = {
        "PSNR, dB": ("tokenizer", "psnr", 2),
        "perplexity": ("tokenizer", "perplexity", 0),
        "Fréchet": ("figures", "fd_efficientnet_lite0", 1),
        "KID × 1000": ("figures", "kid_efficientnet_lite0", 2),
        "precision": ("figures", "precision_efficientnet_lite0", 3),
        "recall": ("figures", "recall_efficientnet_lite0", 3),
        "class consistency": ("figures", "class_consistency", 3),
    }
    lines = [
        "| generator | tokens of | " + " | ".join(columns) + " | seeds |",
        "|---|---|" + "---|" * (len(columns) + 1),
    ]
    for (generator, quantizer), of_row in found.items():
        texts = []
        for title, (section, key, digits) in columns.items():
            scale = 1000 if "1000" in title else 1
            texts.append(_with_values([scale * cell[section][key] for cell in of_row], digits))
        lines.append(f"| {generator} | {quantizer} | " + " | ".join(texts) + f" | {len(of_row)} |")
    accuracies = {cell["classifier_accuracy"] for of_row in found.values() for cell in of_row}
    note = ", ".join(f"{accuracy:.1%}" for accuracy in sorted(accuracies))
    return "\n".join([*lines, "", f"The classifier is right on {note} of the real test images; chance is 10 %."])


def _with_values(values: Sequence[float], digits: int) -> str:
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({', '.join(f'{value:.{digits}f}' for value in values)})"


if __name__ == "__main__":
    main()
