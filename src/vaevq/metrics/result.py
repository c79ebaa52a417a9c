"""The result of an evaluation: figures with the protocol they were measured under, for people and for programs."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from vaevq.errors import UserError


class FigureRow(NamedTuple):
    """A line of a table: the figure's name, its value as text with the unit, and what it is."""

    name: str
    value: str
    meaning: str


def headline(figures: Mapping[str, float]) -> str:
    """The figures that a run is judged by at a glance, as words: PSNR where it was measured, usage, perplexity."""
    reached = [f"PSNR {figures['psnr']:.2f} dB"] if "psnr" in figures else []
    return ", ".join([*reached, f"usage {figures['usage']:.1%}", f"perplexity {figures['perplexity']:.0f}"])


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and how.

    Attributes:
        figures: name to value. Shares are between 0 and 1; names of feature distances carry the network's.
        protocol: everything that has to be equal for two results to be comparable, and what was measured.
        histogram: how often each of the K codewords occurs; of several codebooks, one after another.
        images: N, how many images were measured.
        notes: what a reader has to know before quoting a figure.
        best: `{"name": …, figure: value, …}` of at most eight images, the best first, by the first image figure.
        worst: the same from the other end.
        unreadable: names of at most the first twenty images that could not be read.
        continuous: figures of the soft latent, of which there are no tokens, where `eval.soft` asked for them.
    """

    figures: dict[str, float]
    protocol: dict[str, Any]
    histogram: list[int]
    images: int
    notes: list[str] = field(default_factory=list)
    best: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    continuous: dict[str, float] = field(default_factory=dict)

    @property
    def codebooks(self) -> int:
        """How many codebooks the histogram is of."""
        count = self.protocol.get("codebooks", 1)
        return count if isinstance(count, int) else 1

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, tree: Any, source: str = "eval.json") -> Self:
        """The inverse of `to_json`. Fields that this version does not know are passed over.

        Args:
            tree: what `json.load` gives.
            source: what errors call the file.

        Raises:
            UserError: it is no evaluation.
        """
        kinds = {"figures": dict, "protocol": dict, "histogram": list, "images": int}
        optional = {"notes": list, "best": list, "worst": list, "unreadable": list, "continuous": dict}
        if not isinstance(tree, Mapping):
            raise UserError(f"{source}: not the result of vaevq eval")
        for name, kind in (kinds | optional).items():
            if not isinstance(tree.get(name, None if name in kinds else kind()), kind):
                raise UserError(f"{source}: not the result of vaevq eval: '{name}' is missing or of another type")
        if not tree["histogram"] or not all(isinstance(n, int) and 0 <= n < 2**53 for n in tree["histogram"]):
            raise UserError(f"{source}: not the result of vaevq eval: 'histogram' holds no counts")
        return cls(**{name: tree[name] for name in kinds | optional if name in tree})

    def rows(self) -> list[FigureRow]:
        """The figures for a table, in the order in which they were measured."""
        return [figure_row(name, value) for name, value in self.figures.items()]

    def continuous_rows(self) -> list[FigureRow]:
        """Those of the soft latent, each named so."""
        rows = [figure_row(name, value) for name, value in self.continuous.items()]
        return [row._replace(name=f"{row.name} (continuous)") for row in rows]


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation in a JSON file.

    Raises:
        UserError: the file is absent, no JSON, or no evaluation.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise UserError(f"{path}: not valid JSON; write it anew with vaevq eval") from None
    return Evaluation.from_json(tree, str(path))


_MEANINGS = {
    "psnr": ("{:.2f} dB", "peak signal-to-noise ratio, mean over images"),
    "psnr_deviation": ("{:.2f} dB", "its standard deviation over images"),
    "ssim": ("{:.4f}", "structural similarity, mean over images; 1 is equal"),
    "ssim_deviation": ("{:.4f}", "its standard deviation over images"),
    "psnr_foreground": ("{:.2f} dB", "PSNR inside the foreground, mean over slices"),
    "psnr_foreground_deviation": ("{:.2f} dB", "its standard deviation over slices"),
    "ssim_foreground": ("{:.4f}", "SSIM inside the foreground, mean over slices"),
    "ssim_foreground_deviation": ("{:.4f}", "its standard deviation over slices"),
    "psnr_3d": ("{:.2f} dB", "PSNR of whole volumes, put together again, mean over volumes"),
    "psnr_3d_deviation": ("{:.2f} dB", "its standard deviation over volumes"),
    "psnr_3d_foreground": ("{:.2f} dB", "PSNR of volumes inside the foreground of their slices, mean over volumes"),
    "lpips_alexnet": ("{:.4f}", "perceptual distance in AlexNet's features, mean over images; 0 is equal"),
    "lpips_alexnet_deviation": ("{:.4f}", "its standard deviation over images"),
    "lpips_vgg16": ("{:.4f}", "perceptual distance in VGG16's features, mean over images; 0 is equal"),
    "lpips_vgg16_deviation": ("{:.4f}", "its standard deviation over images"),
    "rfid": ("{:.3f}", "Fréchet distance in the standard Inception features"),
    "rkid": ("{:.6f}", "kernel distance in the standard Inception features, mean over blocks"),
    "rkid_standard_error": ("{:.6f}", "its standard error over blocks"),
    "gfid": ("{:.3f}", "Fréchet distance to the real images in the standard Inception features"),
    "gkid": ("{:.6f}", "kernel distance to the real images in the standard Inception features, mean over blocks"),
    "gkid_standard_error": ("{:.6f}", "its standard error over blocks"),
    "inception_score": ("{:.2f}", "exp of the mean KL of an image's classes from those of all"),
    "loss": ("{:.4f} nats", "what a token costs, held-out images"),
    "bits_per_token": ("{:.4f} bits", "what a token costs given those before it, held-out images"),
    "noise_error": ("{:.4f}", "mean squared error of the noise predicted in latents of unit variance, held-out images"),
    "bits_per_masked_token": ("{:.4f} bits", "what a masked token costs given the others, held-out images"),
    "usage": ("{:.2%}", "share of the codewords that occur"),
    "usage_ceiling": ("{:.2%}", "usage that a perfectly uniform tokenizer shows on so many tokens, 1 − e^(−T/K)"),
    "usage_of_ceiling": ("{:.2%}", "usage as a share of that ceiling"),
    "perplexity": ("{:,.1f} codewords", "2^entropy of the tokens; K would be uniform"),
    "perplexity_share": ("{:.2%}", "perplexity / K"),
    "dead_codewords": ("{:,.0f}", "codewords that never occur"),
    "tokens": ("{:,}", "T, the tokens that were counted, all codes of a position"),
    "tokens_per_codeword": ("{:.2f}", "T/K; claims about usage need at least 30"),
    "entropy_bits": ("{:.3f} bits", "entropy a token"),
    "tokens_per_image": ("{:,.1f}", "T over the images"),
    "bits_per_image": ("{:,.0f} bits", "tokens an image times log₂K"),
    "bits_per_pixel": ("{:.5f} bits", "a pixel, each token written with log₂K bits"),
    "bits_per_pixel_entropy": ("{:.5f} bits", "a pixel, tokens coded at their entropy"),
}


def figure_row(name: str, value: float) -> FigureRow:
    """A figure for a table."""
    if name in _MEANINGS:
        form, meaning = _MEANINGS[name]
    elif name.startswith("fd_"):
        network = name.removeprefix("fd_")
        form, meaning = "{:.3f}", f"Fréchet distance in {network} features; not comparable with published rFID"
    elif name.startswith("kid_") and name.endswith("_standard_error"):
        form, meaning = _MEANINGS["rkid_standard_error"]
    elif name.startswith("kid_"):
        network = name.removeprefix("kid_")
        form, meaning = (
            "{:.6f}",
            f"kernel distance in {network} features, mean over blocks; not comparable with published KID",
        )
    elif name.startswith("precision_"):
        network = name.removeprefix("precision_")
        form, meaning = "{:.2%}", f"generated images inside the real ones' manifold, in {network} features"
    elif name.startswith("recall_"):
        network = name.removeprefix("recall_")
        form, meaning = "{:.2%}", f"real images inside the generated ones' manifold, in {network} features"
    else:
        form, meaning = "{:g}", ""
    return FigureRow(name, form.format(value), meaning)
