"""Measures generated images against real ones: Fréchet distance, KID, precision and recall, the Inception score.

Moments, blocks of KID and the score are streamed; of precision and recall the features of both sides are kept, four
bytes each, and compared in tiles.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vaevq.config import EvalConfig, GenerationEvalConfig
from vaevq.data.index import ImageIndex
from vaevq.data.loader import ImageBatch, evaluation_batches
from vaevq.errors import UserError
from vaevq.metrics.fid import FeatureMoments, frechet_distance
from vaevq.metrics.inception_score import InceptionScore
from vaevq.metrics.kid import BlockwiseKernelDistance, Side, in_random_order
from vaevq.metrics.networks import load_feature_network
from vaevq.metrics.precision_recall import precision_recall
from vaevq.metrics.protocol import kid_words, network_protocol, software_protocol
from vaevq.metrics.result import FigureRow, figure_row
from vaevq.nn.features import FeatureNetwork

SIDES: tuple[Side, Side] = ("evaluated", "reference")


@dataclass(frozen=True)
class GenerationEvaluation:
    """What was measured, and how.

    Attributes:
        figures: name to value; names carry the feature network's, but for those of the standard Inception.
        protocol: everything that has to be equal for two results to be comparable.
        images: generated images measured.
        reference_images: real ones.
        notes: what a reader has to know before quoting a figure.
    """

    figures: dict[str, float]
    protocol: dict[str, Any]
    images: int
    reference_images: int
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)

    def rows(self) -> list[FigureRow]:
        """The figures for a table."""
        return [figure_row(name, value) for name, value in self.figures.items()]


@torch.inference_mode()
def evaluate_generated(
    images: ImageIndex,
    reference: ImageIndex,
    config: GenerationEvalConfig,
    *,
    device: torch.device | str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GenerationEvaluation:
    """Compares generated images, as they are, with real ones, prepared as the options say.

    Args:
        images: the generated ones.
        reference: the real ones.
        config: which figures, in which network's features.
        device: where the network runs.
        progress: told how many images of both sides are done, and of how many.

    Raises:
        UserError: no metric, weights that are not there, images of different sizes, too few images.
    """
    if not config.metrics:
        raise UserError("metrics: name at least one figure to measure")
    device = torch.device(device)
    loaded = load_feature_network(_loading(config, None, None), device)
    assert loaded is not None
    tally = _Tally(loaded, config, images, reference, device)
    done, counts, sizes = 0, dict.fromkeys(SIDES, 0), dict[Side, tuple[int, ...]]()
    expected = sum(min(len(index), config.images or len(index)) for index in (images, reference))
    walks = {
        "evaluated": evaluation_batches(in_random_order(images), _loading(config, None, None), 3),
        "reference": evaluation_batches(in_random_order(reference), _loading(config, config.resize, config.crop), 3),
    }
    for side in SIDES:
        for batch in walks[side]:
            _check_size(sizes.setdefault(side, tuple(batch.images.shape[-2:])), batch, side)
            tally.update(side, batch.positions, loaded(batch.images.to(device)))
            counts[side] += len(batch.names)
            done += len(batch.names)
            progress(done, expected)
    if sizes["evaluated"] != sizes["reference"]:
        here, there = ("×".join(map(str, sizes[side])) for side in SIDES)
        raise UserError(
            f"generated images of {here} pixels, real ones of {there}: bring the real ones to the same size with "
            "resize= and crop="
        )
    figures = tally.figures()
    return GenerationEvaluation(
        figures=figures,
        protocol=_protocol(loaded, config, images, reference, sizes["evaluated"]),
        images=counts["evaluated"],
        reference_images=counts["reference"],
        notes=tally.notes(),
    )


class _Tally:
    """Everything that is made of the features."""

    def __init__(
        self,
        network: FeatureNetwork,
        config: GenerationEvalConfig,
        images: ImageIndex,
        reference: ImageIndex,
        device: torch.device,
    ) -> None:
        self._network, self._config = network, config
        sizes = [min(len(index), config.images or len(index)) for index in (images, reference)]
        self._moments = {side: FeatureMoments(network.dim, device) for side in SIDES}
        self._kernel = BlockwiseKernelDistance(config.kid_block, sizes[0], sizes[1], device)
        self._left_out = max(0, sizes[1] - self._kernel.blocks * config.kid_block)  # real images in no block
        self._features: dict[Side, list[Tensor]] = {side: [] for side in SIDES}
        self._score: InceptionScore | None = None
        if "inception_score" in config.metrics:
            if not network.is_standard_inception:
                raise UserError(
                    "inception_score is of the standard Inception alone: set feature_network=inception and "
                    "feature_weights to its file"
                )
            last = network.network.get_submodule("fc")
            assert isinstance(last, nn.Linear)
            self._score = InceptionScore(last.weight)

    def update(self, side: Side, positions: Tensor, features: Tensor) -> None:
        """Takes in the features, B×dim, of the images at `positions`."""
        if "frechet" in self._config.metrics:
            self._moments[side].update(features)
        if "kid" in self._config.metrics:
            self._kernel.update(side, positions, features)
        if "precision_recall" in self._config.metrics:
            self._features[side].append(features.float())
        if self._score is not None and side == "evaluated":
            self._score.update(features)

    def figures(self) -> dict[str, float]:
        """The figures, in one fixed order."""
        network, metrics = self._network, self._config.metrics
        standard = network.is_standard_inception
        figures = {}
        if "frechet" in metrics:
            name = "gfid" if standard else f"fd_{network.name}"
            figures[name] = frechet_distance(self._moments["evaluated"], self._moments["reference"])
        if "kid" in metrics:
            figures |= self._kernel.result().figures("gkid" if standard else f"kid_{network.name}")
        if "precision_recall" in metrics:
            generated, real = (torch.cat(self._features[side]) for side in SIDES)
            both = precision_recall(generated, real, self._config.neighbours)
            figures |= {f"precision_{network.name}": both.precision, f"recall_{network.name}": both.recall}
        if self._score is not None:
            figures["inception_score"] = self._score.result()
        return figures

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        notes = []
        if "frechet" in self._config.metrics and not all(moments.full_rank for moments in self._moments.values()):
            least = min(moments.count for moments in self._moments.values())
            notes.append(
                f"{least} images are too few for the {self._network.dim} features of {self._network.name}: the Fréchet "
                "distance is biased upwards, compare it only at equal numbers against the same images"
            )
        if "kid" in self._config.metrics and (self._kernel.left_out or self._left_out):
            blocks = f"{self._kernel.blocks} block{'s' * (self._kernel.blocks > 1)} of {self._config.kid_block} images"
            notes.append(
                f"KID is of {blocks} and leaves out {self._kernel.left_out} generated and {self._left_out} real ones"
            )
        if "kid" in self._config.metrics and self._kernel.blocks == 1:
            notes.append("KID is of a single block, so its standard error is not known; a lower kid_block gives one")
        return notes


def _check_size(size: tuple[int, ...], batch: ImageBatch, side: Side) -> None:
    """Passes if the images of a batch are of the same size as those before them."""
    here = tuple(batch.images.shape[-2:])
    if here != size:
        way_out = {"evaluated": "name a folder of generated images alone", "reference": "bring them to one with crop="}
        raise UserError(
            f"'{batch.names[0]}' is of {here[0]}×{here[1]} pixels, images before it of {size[0]}×{size[1]}: "
            f"{way_out[side]}"
        )


def _loading(config: GenerationEvalConfig, resize: int | None, crop: int | None) -> EvalConfig:
    """The options of the loader and of the feature network."""
    return EvalConfig(
        metrics=("frechet",),
        resize=resize,
        crop=crop,
        batch_size=config.batch_size,
        images=config.images,
        feature_network=config.feature_network,
        feature_weights=config.feature_weights,
        kid_block=config.kid_block,
    )


def _protocol(
    network: FeatureNetwork,
    config: GenerationEvalConfig,
    images: ImageIndex,
    reference: ImageIndex,
    size: tuple[int, ...],
) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "generated": images.location,
        "size": f"{size[0]}×{size[1]} pixels",
        "reference": reference.location,
        "reference_digest": reference.digest,
        "resize": "none" if config.resize is None else f"shorter side to {config.resize} pixels",
        "crop": "none" if config.crop is None else f"centre, {config.crop}×{config.crop} pixels",
        **network_protocol(network),
    }
    if "kid" in config.metrics:
        protocol["kid"] = kid_words(network.dim, config.kid_block)
    if "precision_recall" in config.metrics:
        protocol["precision_recall"] = f"manifolds of {config.neighbours} nearest neighbours (Kynkäänniemi et al. 2019)"
    return {**protocol, **software_protocol()}
