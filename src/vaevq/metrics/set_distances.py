"""Fréchet distance and KID of the reconstructions against the originals or against a reference set, streamed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vaevq.config import EvalConfig
from vaevq.data.images import as_tensor
from vaevq.data.loader import ImageBatch
from vaevq.metrics.fid import FeatureMoments, frechet_distance
from vaevq.metrics.kid import BlockwiseKernelDistance, Side
from vaevq.nn.features import FeatureNetwork


class SetDistances:
    """Features of both sides, reduced at once to moments and to blocks of KID.

    Args:
        network: the feature network, on `device`.
        config: which of the two distances are wanted, and images a block of KID.
        evaluated: images evaluated over all processes.
        reference: this process's share of another set to compare with, in blocks as the evaluated images are; None
            compares with the originals.
        reference_size: images of that set over all processes.
        device: where images are.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        config: EvalConfig,
        evaluated: int,
        reference: Iterator[ImageBatch] | None,
        reference_size: int,
        device: torch.device,
    ) -> None:
        self._network = network
        self._device = device
        self._reference = reference
        sides: tuple[Side, Side] = ("evaluated", "reference")
        wanted = "frechet" in config.metrics
        self._moments = {side: FeatureMoments(network.dim, device) for side in sides} if wanted else None
        self._kernel = (
            BlockwiseKernelDistance(config.kid_block, evaluated, reference_size, device)
            if "kid" in config.metrics
            else None
        )
        self._block = config.kid_block

    def update(self, positions: Tensor, originals: Tensor, reconstructions: Tensor) -> None:
        """Takes in images, uint8 B×C×H×W or slices, at `positions` (int64 B).

        With a reference, originals are not looked at.
        """
        self._take("evaluated", positions, reconstructions)
        if self._reference is None:
            self._take("reference", positions, originals)
        elif self._kernel is not None:
            # Side by side, so that no more than the open blocks are in memory.
            while self._kernel.latest("reference") <= self._kernel.latest("evaluated") and self._advance():
                pass

    def finish(self) -> None:
        """Reads what is left of the reference; before `figures`.

        Raises:
            UserError: an image of it is not as the options want it; of this process.
        """
        while self._reference is not None and self._advance():
            pass

    def figures(self) -> dict[str, float]:
        """Merges all processes. Names carry the network's; only the standard Inception features give `rfid`, `rkid`.

        Raises:
            UserError: there are too few images.
        """
        standard = self._network.is_standard_inception
        figures = {}
        if self._moments is not None:
            for moments in self._moments.values():
                moments.all_reduce()
            name = "rfid" if standard else f"fd_{self._network.name}"
            figures[name] = frechet_distance(self._moments["evaluated"], self._moments["reference"])
        if self._kernel is not None:
            figures |= self._kernel.result().figures("rkid" if standard else f"kid_{self._network.name}")
        return figures

    def notes(self) -> list[str]:
        """What a reader of the figures has to know; to be called after `figures`."""
        notes = []
        if self._moments is not None and not all(moments.full_rank for moments in self._moments.values()):
            least = min(moments.count for moments in self._moments.values())
            notes.append(
                f"{least} images are too few for the {self._network.dim} features of {self._network.name}: the "
                "Fréchet distance is biased upwards, compare it only at equal numbers of the same images"
            )
        if self._kernel is not None and self._kernel.left_out:
            whole = f"{self._kernel.blocks} whole block{'s' * (self._kernel.blocks > 1)} of {self._block} images"
            notes.append(f"KID is of {whole} and leaves out the other {self._kernel.left_out}")
        if self._kernel is not None and self._kernel.blocks == 1:
            notes.append(
                "KID is of a single block, so its standard error is not known; a lower eval.kid_block gives one"
            )
        return notes

    def _advance(self) -> bool:
        """Takes in the next batch of the reference set; whether there was one."""
        assert self._reference is not None, "only called with a reference set"
        batch = next(self._reference, None)
        if batch is None:
            return False
        # What comes from the loader is of 8 bits already, as the reconstructions are; or both are slices.
        self._take_features("reference", batch.positions, self._network(batch.images.to(self._device)))
        return True

    def _take(self, side: Side, positions: Tensor, images: Tensor) -> None:
        self._take_features(side, positions, self._network(as_tensor(images)))

    def _take_features(self, side: Side, positions: Tensor, features: Tensor) -> None:
        if self._moments is not None:
            self._moments[side].update(features)
        if self._kernel is not None:
            self._kernel.update(side, positions, features)
