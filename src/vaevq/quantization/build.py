"""From a quantizer's configuration to the quantizer."""

from vaevq.config import QuantizerConfig
from vaevq.quantization.quantizer import Quantizer
from vaevq.quantization.vlq import VariationalLatentQuantizer
from vaevq.quantization.vq import VectorQuantizer

_LAYERS: dict[str, type[VariationalLatentQuantizer | VectorQuantizer]] = {
    "vaevq": VariationalLatentQuantizer,
    "vq": VectorQuantizer,
}


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The layer that `config.kind` names."""
    return _LAYERS[config.kind](**config.model_dump(exclude={"kind"}))
