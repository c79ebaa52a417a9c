"""From a quantizer's configuration to the quantizer."""

from collections.abc import Callable

from vaevq.config import QuantizerConfig
from vaevq.quantization.baselines.bsq import BinarySphericalQuantizer
from vaevq.quantization.baselines.ema import EmaQuantizer
from vaevq.quantization.baselines.fsq import FiniteScalarQuantizer
from vaevq.quantization.baselines.gaussian import GaussianQuantizer
from vaevq.quantization.baselines.ibq import IndexBackpropagationQuantizer
from vaevq.quantization.baselines.lfq import LookupFreeQuantizer
from vaevq.quantization.baselines.movq import MultichannelQuantizer
from vaevq.quantization.baselines.residual import ResidualQuantizer
from vaevq.quantization.baselines.simvq import SimVQ
from vaevq.quantization.baselines.softvq import SoftVectorQuantizer
from vaevq.quantization.baselines.vq import VectorQuantizer
from vaevq.quantization.baselines.vqbridge import VQBridge
from vaevq.quantization.baselines.vqgan_lc import VqganLc
from vaevq.quantization.baselines.wasserstein import WassersteinQuantizer
from vaevq.quantization.quantizer import Quantizer
from vaevq.quantization.vlq import VariationalLatentQuantizer

LAYERS: dict[str, type[Quantizer]] = {
    "vaevq": VariationalLatentQuantizer,
    "vq": VectorQuantizer,
    "vq_ema": EmaQuantizer,
    "simvq": SimVQ,
    "ibq": IndexBackpropagationQuantizer,
    "softvq": SoftVectorQuantizer,
    "wasserstein": WassersteinQuantizer,
    "vqbridge": VQBridge,
    "gaussian": GaussianQuantizer,
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "bsq": BinarySphericalQuantizer,
    "residual": ResidualQuantizer,
    "movq": MultichannelQuantizer,
    "vqgan_lc": VqganLc,
}
"""The layer of each kind."""


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The layer that `config.kind` names."""
    layer: Callable[..., Quantizer] = LAYERS[config.kind]
    return layer(**config.model_dump(exclude={"kind"}))
