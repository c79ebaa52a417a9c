"""Evaluation with all metrics against the bare forward passes of the tokenizer and of the metrics' networks.

After each batch of the evaluation the same batch goes through the bare networks, so that both see the same machine. The
Fréchet distance's matrix root, which is taken once whatever N is, counts on neither side.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks.measuring import CLOCKS, Row, Settings
from benchmarks.pictures import write_photos
from benchmarks.training import configuration, lpips
from vaevq.config import EvalConfig
from vaevq.data.images import from_uint8, to_uint8
from vaevq.data.index import find_images
from vaevq.data.loader import ImageBatch, evaluation_batches
from vaevq.metrics.evaluation import evaluate
from vaevq.metrics.fid import FeatureMoments, frechet_distance
from vaevq.metrics.networks import load_feature_network
from vaevq.nn.features import FeatureNetwork
from vaevq.nn.lpips import Lpips
from vaevq.tokenizer import Tokenizer

SIDE = 64
OPTIONS = EvalConfig(
    metrics=("psnr", "ssim", "lpips", "frechet", "kid"), resize=None, crop=None, batch_size=32, kid_block=50
)


class Bare:
    """The forward passes alone, a batch a call, and the time that is not the evaluation's.

    Attributes:
        lpips: its sum over the images so far.
        seconds: in the forward passes.
        root_seconds: in the Fréchet distance.
    """

    def __init__(
        self, tokenizer: Tokenizer, distance: Lpips, network: FeatureNetwork, clock: Callable[[], float]
    ) -> None:
        self.tokenizer, self.distance, self.network, self.clock = tokenizer, distance, network, clock
        self.lpips = self.seconds = self.root_seconds = 0.0

    def passes(self, images: Tensor) -> None:
        """All networks on one batch."""
        started = self.clock()
        made = from_uint8(to_uint8(self.tokenizer(images).reconstruction))
        self.lpips += float(self.distance(images, made).sum())
        for side in (images, made):
            self.network(side)
        self.seconds += self.clock() - started

    def root(self, a: FeatureMoments, b: FeatureMoments) -> float:
        """The Fréchet distance, timed."""
        started = self.clock()
        value = frechet_distance(a, b)
        self.root_seconds += self.clock() - started
        return value


@torch.inference_mode()
def measure(settings: Settings) -> list[Row]:
    """One row; the bare passes must give the evaluation's LPIPS."""
    count = 64 if settings.quick else 1000
    torch.manual_seed(0)
    tokenizer = Tokenizer(configuration("small", SIDE, 1).model).eval()
    distance, network = lpips("alexnet"), load_feature_network(OPTIONS, torch.device("cpu"))
    assert network is not None, "frechet is asked for"
    with tempfile.TemporaryDirectory() as scratch:
        write_photos(Path(scratch), count, (SIDE, SIDE))
        index = find_images(scratch)
        batches: Iterator[ImageBatch] = iter(list(evaluation_batches(index, OPTIONS, 3)))
        bare = Bare(tokenizer, distance, network, CLOCKS[settings.clock])
        bare.passes(torch.zeros(OPTIONS.batch_size, 3, SIDE, SIDE))  # not counted
        bare.lpips = bare.seconds = 0.0
        with (
            mock.patch("vaevq.metrics.evaluation.load_lpips", return_value=distance),
            mock.patch("vaevq.metrics.evaluation.load_feature_network", return_value=network),
            mock.patch("vaevq.metrics.set_distances.frechet_distance", bare.root),
        ):
            started = bare.clock()
            result = evaluate(
                tokenizer, index, OPTIONS, device="cpu", progress=lambda *_: bare.passes(next(batches).images)
            )
            ours = bare.clock() - started - bare.seconds - bare.root_seconds
    if abs(result.figures["lpips_alexnet"] - bare.lpips / count) > 1e-5:
        raise RuntimeError("the evaluation's LPIPS is not that of the bare passes")
    work = f"evaluation, all metrics, {count} images of {SIDE}×{SIDE}, small network: time"
    taken = {"evaluation": ours, "forward passes": bare.seconds, "matrix root": bare.root_seconds}
    return [Row(work, "the networks' forward passes", ours / bare.seconds, "≤ 1.2", taken)]
