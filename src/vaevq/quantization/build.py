"""From a quantizer's configuration to the quantizer."""

from vaevq.config import QuantizerConfig
from vaevq.quantization.baselines.ema import EmaQuantizer
from vaevq.quantization.baselines.simvq import SimVQ
from vaevq.quantization.baselines.vq import VectorQuantizer
from vaevq.quantization.quantizer import Quantizer
from vaevq.quantization.vlq import VariationalLatentQuantizer

_LAYERS: dict[str, type[VariationalLatentQuantizer | VectorQuantizer | EmaQuantizer | SimVQ]] = {
    "vaevq": VariationalLatentQuantizer,
    "vq": VectorQuantizer,
    "vq_ema": EmaQuantizer,
    "simvq": SimVQ,
}


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The layer that `config.kind` names."""
    return _LAYERS[config.kind](**config.model_dump(exclude={"kind"}))
