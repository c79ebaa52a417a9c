"""Where the latents lie: posterior variances, KL, and the Gaussians of means, samples, decoded latents and codebook.

A quantizer chooses well where its codebook lies as what it quantizes. At inference that is the mean, whose aggregate
covariance is not the prior's even where the aggregate of the samples is.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import torch
from torch import Tensor

from vaevq.diagnostics.deviations import Deviations
from vaevq.diagnostics.figures import Shown
from vaevq.metrics.fid import FeatureMoments
from vaevq.nn.grid import as_rows
from vaevq.quantization.dcr import nuclear_norm, symmetric_root
from vaevq.quantization.moments import Gaussian
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantizer


@dataclass(frozen=True)
class LatentFigures:
    """Where the latents of held-out images and the codebook lie; eigenvalues are of covariances, the largest first.

    What needs a posterior is None for a point quantizer; what needs a codebook of positions, K×d, is None where a
    position has several codes.
    """

    posterior_variance: Annotated[tuple[float, ...] | None, Shown("{:.3g}", "E[σ²] of each dimension")]
    posterior_variance_sum: Annotated[float | None, Shown("{:.4g}", "their sum, E‖z_c − μ‖² a position")]
    sigma_mean: Annotated[float | None, Shown("{:.3g}", "mean of σ over positions and dimensions")]
    sigma_q05: Annotated[float | None, Shown("{:.3g}", "σ that 5 % of them are below")]
    sigma_median: Annotated[float | None, Shown("{:.3g}", "σ that half of them are below")]
    sigma_q95: Annotated[float | None, Shown("{:.3g}", "σ that 95 % of them are below")]
    posterior_kl: Annotated[
        tuple[float, ...] | None, Shown("{:.3g}", "KL to N(0, I) of each dimension, nats a position")
    ]
    posterior_kl_sum: Annotated[
        float | None, Shown("{:.3f} nats", "their sum, a position; a codeword carries at most ln K")
    ]
    mean_eigenvalues: Annotated[tuple[float, ...], Shown("{:.3g}", "of Cov(μ), what is quantized at inference")]
    sample_eigenvalues: Annotated[tuple[float, ...] | None, Shown("{:.3g}", "of Cov(μ) + diag E[σ²], the samples'")]
    decoded_eigenvalues: Annotated[tuple[float, ...], Shown("{:.3g}", "of Cov(z_q), what is decoded")]
    codebook_eigenvalues: Annotated[tuple[float, ...] | None, Shown("{:.3g}", "of the K codewords' covariance")]
    mean_dimension: Annotated[float, Shown("{:.2f}", "effective dimension (Σλ)²/Σλ² of the means, from 1 to d")]
    sample_dimension: Annotated[float | None, Shown("{:.2f}", "effective dimension of the samples")]
    decoded_dimension: Annotated[float, Shown("{:.2f}", "effective dimension of what is decoded")]
    codebook_dimension: Annotated[float | None, Shown("{:.2f}", "effective dimension of the codebook")]
    w2_means_prior: Annotated[float, Shown("{:.4g}", "W₂² between the Gaussian of the means and N(0, I)")]
    w2_samples_prior: Annotated[float | None, Shown("{:.4g}", "W₂² between the Gaussian of the samples and N(0, I)")]
    w2_codebook_prior: Annotated[float | None, Shown("{:.4g}", "W₂² between the Gaussian of the codebook and N(0, I)")]
    w2_codebook_means: Annotated[
        float | None, Shown("{:.4g}", "W₂² between the Gaussians of the codebook and of the means")
    ]


class LatentMoments:
    """Moments of latents seen one batch at a time, in float64; memory does not grow with the number of images.

    Attributes:
        means: moments of μ.
        decoded: moments of z_q.
        squared_error: the sum of ‖μ − z_q‖² over positions.
        deviations: how σ is spread.
    """

    def __init__(self, code_dim: int, device: torch.device | str = "cpu") -> None:
        self.means = FeatureMoments(code_dim, device)
        self.decoded = FeatureMoments(code_dim, device)
        self.squared_error = 0.0
        self.deviations = Deviations(self.means.mean.device)
        self._variance = torch.zeros_like(self.means.mean)
        self._kl = torch.zeros_like(self.means.mean)
        self._variational = False

    def update(self, posterior: Posterior, latent: Tensor) -> None:
        """Takes in a batch's posterior and its z_q, both B×d×h×w."""
        mean, decoded = self._rows(posterior.mean), self._rows(latent)
        self.means.update(mean)
        self.decoded.update(decoded)
        self.squared_error += float((mean - decoded).square().sum())
        if posterior.logvar is not None:
            logvar = self._rows(posterior.logvar)
            self._variance += logvar.exp().sum(dim=0)
            self.deviations.update(logvar)
            self._kl += kl_per_dimension(mean, logvar) * len(mean)
            self._variational = True

    @property
    def variance(self) -> Tensor | None:
        """E[σ²], float64 d; None without a posterior."""
        return self._variance / self.means.count if self._variational else None

    @property
    def kl(self) -> Tensor | None:
        """KL to N(0, I) of each dimension, nats a position, float64 d; None without a posterior."""
        return self._kl / self.means.count if self._variational else None

    def _rows(self, grid: Tensor) -> Tensor:
        place = self.means.mean.device
        return as_rows(grid.detach().to(place).double())


def kl_per_dimension(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) of each dimension, averaged over positions: N×d each to nats, d."""
    columns = zip(mean.unbind(dim=1), logvar.unbind(dim=1), strict=True)
    return torch.stack([Posterior(m.view(-1, 1, 1, 1), v.view(-1, 1, 1, 1)).kl("position") for m, v in columns])


def all_codewords(quantizer: Quantizer) -> Tensor | None:
    """The codewords as they are looked up, K×d; None where a position has several codes, and so no codeword."""
    if quantizer.codes_per_position > 1:
        return None
    device = next(chain(quantizer.parameters(), quantizer.buffers())).device  # some have buffers alone
    tokens = torch.arange(quantizer.codebook_size, device=device).view(1, 1, -1)
    return quantizer.lookup(tokens).detach()[0, :, 0].T.contiguous()


def gaussian(moments: FeatureMoments, added_variance: Tensor | None = None) -> Gaussian:
    """The Gaussian with these moments in float64; `added_variance`, d, is added to the covariance's diagonal.

    Samples of posteriors with means of covariance C have the covariance C + diag E[σ²] (law of total covariance), so
    none has to be drawn.
    """
    covariance = moments.covariance()
    return Gaussian(moments.mean, covariance if added_variance is None else covariance + added_variance.diag())


def prior(dim: int, like: Tensor) -> Gaussian:
    """N(0, I) in `dim` dimensions, on the device and in the format of `like`."""
    return Gaussian(like.new_zeros(dim), torch.eye(dim, dtype=like.dtype, device=like.device))


def wasserstein(a: Gaussian, b: Gaussian) -> float:
    """W₂² = ‖μ₁ − μ₂‖² + Tr Σ₁ + Tr Σ₂ − 2 ‖Σ₁^{1/2} Σ₂^{1/2}‖_* in units of a squared latent (see `dcr`)."""
    cross = nuclear_norm(symmetric_root(a.covariance) @ symmetric_root(b.covariance))
    shift = (a.mean - b.mean).square().sum()
    # Rounding leaves equal Gaussians a hair below 0.
    return max(float(shift + a.covariance.trace() + b.covariance.trace() - 2 * cross), 0.0)


def eigenvalues(covariance: Tensor) -> Tensor:
    """Of a covariance d×d, the largest first; those that rounding made negative are 0."""
    ascending: Tensor = torch.linalg.eigvalsh(covariance)
    return ascending.flip(0).clamp_min(0)


def effective_dimension(spectrum: Tensor) -> float:
    """The participation ratio (Σλ)²/Σλ²: d for equal eigenvalues, 1 for a single one, 0 where all are 0."""
    squares = float(spectrum.square().sum())
    return float(spectrum.sum()) ** 2 / squares if squares > 0 else 0.0


def latent_figures(moments: LatentMoments, codewords: Tensor | None) -> LatentFigures:
    """The figures of held-out latents and of the codewords, K×d, where there are any. Needs two positions."""
    variance, kl, sigma = moments.variance, moments.kl, moments.deviations.figures()
    means, decoded = gaussian(moments.means), gaussian(moments.decoded)
    codebook = _of_codewords(codewords, moments.means.mean.device) if codewords is not None else None
    samples = gaussian(moments.means, variance) if variance is not None else None
    target = prior(len(means.mean), means.mean)
    spectra = {
        name: eigenvalues(one.covariance) if one is not None else None
        for name, one in (("mean", means), ("sample", samples), ("decoded", decoded), ("codebook", codebook))
    }
    assert spectra["mean"] is not None
    assert spectra["decoded"] is not None
    return LatentFigures(
        posterior_variance=_vector(variance),
        posterior_variance_sum=float(variance.sum()) if variance is not None else None,
        sigma_mean=sigma.mean if sigma is not None else None,
        sigma_q05=sigma.q05 if sigma is not None else None,
        sigma_median=sigma.median if sigma is not None else None,
        sigma_q95=sigma.q95 if sigma is not None else None,
        posterior_kl=_vector(kl),
        posterior_kl_sum=float(kl.sum()) if kl is not None else None,
        mean_eigenvalues=tuple(spectra["mean"].tolist()),
        sample_eigenvalues=_vector(spectra["sample"]),
        decoded_eigenvalues=tuple(spectra["decoded"].tolist()),
        codebook_eigenvalues=_vector(spectra["codebook"]),
        mean_dimension=effective_dimension(spectra["mean"]),
        sample_dimension=_dimension(spectra["sample"]),
        decoded_dimension=effective_dimension(spectra["decoded"]),
        codebook_dimension=_dimension(spectra["codebook"]),
        w2_means_prior=wasserstein(means, target),
        w2_samples_prior=_distance(samples, target),
        w2_codebook_prior=_distance(codebook, target),
        w2_codebook_means=_distance(codebook, means),
    )


def _of_codewords(codewords: Tensor, device: torch.device) -> Gaussian:
    moments = FeatureMoments(codewords.shape[1], device)
    moments.update(codewords)
    return gaussian(moments)


def _dimension(spectrum: Tensor | None) -> float | None:
    return effective_dimension(spectrum) if spectrum is not None else None


def _distance(one: Gaussian | None, other: Gaussian) -> float | None:
    return wasserstein(one, other) if one is not None else None


def _vector(values: Tensor | None) -> tuple[float, ...] | None:
    return tuple(values.tolist()) if values is not None else None
