"""Why a quantizer does well or badly: latents, distortion, hubs, the paper's claims as measurements, gradients."""

from vaevq.diagnostics.diagnose import Diagnosis as Diagnosis
from vaevq.diagnostics.diagnose import diagnose as diagnose
