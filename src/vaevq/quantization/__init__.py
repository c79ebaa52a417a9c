"""The paper's rooms: posterior, codebook, VLQ, RCS, DCR, and the quantizers it is compared with."""

from vaevq.quantization.baselines.bsq import BinarySphericalQuantizer as BinarySphericalQuantizer
from vaevq.quantization.baselines.ema import EmaQuantizer as EmaQuantizer
from vaevq.quantization.baselines.fsq import FiniteScalarQuantizer as FiniteScalarQuantizer
from vaevq.quantization.baselines.gaussian import GaussianQuantizer as GaussianQuantizer
from vaevq.quantization.baselines.ibq import IndexBackpropagationQuantizer as IndexBackpropagationQuantizer
from vaevq.quantization.baselines.lfq import LookupFreeQuantizer as LookupFreeQuantizer
from vaevq.quantization.baselines.movq import MultichannelQuantizer as MultichannelQuantizer
from vaevq.quantization.baselines.residual import ResidualQuantizer as ResidualQuantizer
from vaevq.quantization.baselines.simvq import SimVQ as SimVQ
from vaevq.quantization.baselines.softvq import SoftVectorQuantizer as SoftVectorQuantizer
from vaevq.quantization.baselines.vq import VectorQuantizer as VectorQuantizer
from vaevq.quantization.baselines.vqbridge import VQBridge as VQBridge
from vaevq.quantization.baselines.vqgan_lc import VqganLc as VqganLc
from vaevq.quantization.baselines.wasserstein import WassersteinQuantizer as WassersteinQuantizer
from vaevq.quantization.build import build_quantizer as build_quantizer
from vaevq.quantization.posterior import Posterior as Posterior
from vaevq.quantization.quantizer import Quantized as Quantized
from vaevq.quantization.quantizer import Quantizer as Quantizer
from vaevq.quantization.vlq import VariationalLatentQuantizer as VariationalLatentQuantizer
