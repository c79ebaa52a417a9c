"""The codebook in a plane: the principal axes of the codewords, with a sample of held-out latents in the same plane."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vaevq.config import EvalConfig
from vaevq.data.index import ImageIndex
from vaevq.data.loader import evaluation_batches
from vaevq.diagnostics.claims import together
from vaevq.diagnostics.hubs import LatentSample
from vaevq.diagnostics.latents import all_codewords
from vaevq.errors import UserError
from vaevq.files import written_aside
from vaevq.tokenizer import Tokenizer

FILE = "projection.safetensors"

IMAGES = 64
"""So many held-out images, evenly spaced, give the latents."""

LATENTS = 4096
"""At most so many of their latents are kept."""

Plane = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """Codewords and latents in the plane in which the codewords vary most.

    Attributes:
        codewords: K×2, in the order of the tokens.
        latents: N×2, means of held-out posteriors, which is what is quantized.
        code_dim: d, of the space; with 2 the plane is the space as it is.
        shares: of the codewords' variance, along either axis.
        latent_share: of the latents' variance, in the plane.
    """

    codewords: Plane
    latents: Plane
    code_dim: int
    shares: tuple[float, float]
    latent_share: float


def project(codewords: Tensor, latents: Tensor) -> Projection:
    """The projection of codewords K×d and latents N×d, d ≥ 2, by principal component analysis where d > 2.

    An axis points to where its largest coefficient is positive, so that equal codebooks give equal pictures.
    """
    wide, others = codewords.cpu().double(), latents.cpu().double()
    assert wide.shape[1] >= 2
    centred = wide - wide.mean(dim=0)
    covariance = centred.T @ centred / max(1, len(wide) - 1)
    axes, centre = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    if wide.shape[1] > 2:
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :2]
        largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
        axes = axes * largest.sign()
        centre = wide.mean(dim=0)
    along = (axes.T @ covariance @ axes).diag()
    spread = others - others.mean(dim=0)
    return Projection(
        codewords=((wide - centre) @ axes).float().numpy(),
        latents=((others - centre) @ axes).float().numpy(),
        code_dim=wide.shape[1],
        shares=(_share(along[0], covariance.trace()), _share(along[1], covariance.trace())),
        latent_share=_share((spread @ axes).square().sum(), spread.square().sum()),
    )


@torch.inference_mode()
def projection_of(tokenizer: Tokenizer, held_out: ImageIndex, config: EvalConfig) -> Projection | None:
    """That of a tokenizer in evaluation mode; None where positions have several codes, or the space one dimension.

    Args:
        held_out: images, prepared as `config` says.
    """
    codewords = all_codewords(tokenizer.quantizer)
    if codewords is None or codewords.shape[1] < 2:
        return None
    sample = LatentSample(codewords.shape[1], LATENTS)
    few = config.model_copy(update={"images": min(IMAGES, len(held_out))})
    batches = evaluation_batches(held_out, few, tokenizer.config.autoencoder.image_channels)
    for batch in together(batches, tokenizer):
        sample.update(batch.positions, tokenizer.posterior(batch.images).mean)
    return project(codewords, sample.latents)


def write_projection(run_dir: Path, projection: Projection | None) -> None:
    """Writes run_dir/projection.safetensors, or removes an earlier one where there is none."""
    path = run_dir / FILE
    if projection is None:
        path.unlink(missing_ok=True)
        return
    facts = {
        "code_dim": projection.code_dim,
        "shares": projection.shares,
        "latent_share": projection.latent_share,
    }
    tensors = {"codewords": torch.from_numpy(projection.codewords), "latents": torch.from_numpy(projection.latents)}
    with written_aside(path) as aside:
        # Not save_file: what goes wrong on a full disk would not be an OSError.
        aside.write_bytes(save(tensors, {"projection": json.dumps(facts)}))


def read_projection(run_dir: Path) -> Projection | None:
    """What `write_projection` wrote; None where there is none. UserError where it is damaged."""
    path = run_dir / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as opened:
            facts: dict[str, Any] = json.loads(opened.metadata()["projection"])
            codewords, latents = opened.get_tensor("codewords"), opened.get_tensor("latents")
        first, second = facts["shares"]
        return Projection(codewords, latents, facts["code_dim"], (first, second), facts["latent_share"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        raise UserError(f"{path}: damaged; delete it, and vaevq report writes it anew") from None


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0
