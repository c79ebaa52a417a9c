"""The paper's rooms: posterior, codebook, VLQ, RCS, DCR, and the quantizers it is compared with."""

from vaevq.quantization.build import build_quantizer as build_quantizer
from vaevq.quantization.posterior import Posterior as Posterior
from vaevq.quantization.quantizer import Quantized as Quantized
from vaevq.quantization.quantizer import Quantizer as Quantizer
from vaevq.quantization.vlq import VariationalLatentQuantizer as VariationalLatentQuantizer
from vaevq.quantization.vq import VectorQuantizer as VectorQuantizer
