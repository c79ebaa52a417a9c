"""LPIPS as a training term: its weights from a path or fetched once."""

from pathlib import Path

from vaevq.config import LossConfig
from vaevq.data.sources import fetch
from vaevq.nn.lpips import Lpips


def load_perceptual(config: LossConfig) -> Lpips | None:
    """The perceptual network of a run; None where its weight is 0.

    Raises:
        UserError: the weights cannot be fetched, or the file is not theirs.
    """
    if not config.perceptual_weight:
        return None
    if config.perceptual_weights_path is not None:
        return Lpips(config.perceptual_network, Path(config.perceptual_weights_path))
    return Lpips(config.perceptual_network, fetch("lpips-weights") / f"{config.perceptual_network}.ckpt")
