"""Latents out of noise, step by step: latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

x_t = α_t x + σ_t ε with ε ~ N(0, I), α_t² = ∏ (1 − β), σ_t² = 1 − α_t² (Ho et al. 2020, eq. 4). The network predicts ε,
or v = α_t ε − σ_t x (Salimans and Ho 2022, app. D); the loss is the squared error, a mean over all elements.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vaevq.config.diffusion import DiffusionConfig
from vaevq.config.generation import LatentsConfig, TokensConfig
from vaevq.errors import UserError
from vaevq.generation.network import GeneratorNetwork
from vaevq.generation.sampling import SamplingOptions, guided
from vaevq.generation.unet import UNet
from vaevq.nn.precision import at_least_float32
from vaevq.seeding import generator

STEPS = {"ddim": 50, "dpm++": 20}
"""Steps of sampling where none are asked for, by sampler; fewer where there are fewer steps of noise."""

HELD_OUT_STEPS = 4
"""At so many noise steps each held-out image is measured."""

_GOLDEN = (5**0.5 - 1) / 2
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}


class Diffusion(GeneratorNetwork):
    """A U-Net that takes noise from latents B×d×h×w of about unit variance.

    Attributes:
        unet: the network itself.
        shape: (d, h, w).
    """

    kind = "diffusion"
    content = "latents"
    how = "it frees whole latents from noise"
    sampling_options = frozenset({"guidance", "steps", "sampler"})
    completes = False

    alpha: Tensor  # α_t, T
    sigma: Tensor  # σ_t, T

    def __init__(self, config: DiffusionConfig, tokens: TokensConfig, latents: LatentsConfig) -> None:
        super().__init__(tokens.class_count if config.conditional else 0, config.class_dropout)
        self.config = config
        self.shape = (latents.channels, *tokens.grid)
        self.unet = UNet(config, latents.channels, tokens.grid, self.no_label)
        kept = self.scheduler("ddim").alphas_cumprod
        self.register_buffer("alpha", kept.sqrt(), persistent=False)
        self.register_buffer("sigma", (1 - kept).sqrt(), persistent=False)

    def forward(
        self, content: Tensor, labels: Tensor | None, positions: Tensor, *, seed: int, smoothing: float = 0.0
    ) -> Tensor:
        """The mean squared error at a noise step and with noise that (seed, position) decides."""
        assert not smoothing, "the configuration refuses it"
        draws = [generator("diffusion", seed, position) for position in positions.tolist()]
        steps = torch.cat([torch.randint(self.config.noise_steps, (1,), generator=draw) for draw in draws])
        noise = torch.stack([torch.randn(self.shape, generator=draw) for draw in draws])
        shown = self.with_dropped(self.shown(labels, len(content)), positions, seed)
        return self.errors(content, shown, steps, noise).mean()

    def held_out(self, content: Tensor, labels: Tensor | None, positions: Tensor) -> Tensor:
        """Errors of the prediction and of the noise that follows from it, summed, and how many images these are of.

        Each image is measured at evenly spaced noise steps, which its position shifts, with noise that it decides.
        """
        shown, sums = self.shown(labels, len(content)), torch.zeros(3, dtype=torch.float64)
        sums[2] = len(content)
        for part in range(HELD_OUT_STEPS):
            noise = torch.stack(
                [torch.randn(self.shape, generator=generator("held-out noise", part, p)) for p in positions.tolist()]
            )
            share = (part + positions.double() * _GOLDEN % 1) / HELD_OUT_STEPS
            steps = (share * self.config.noise_steps).long()
            errors = self.errors(content, shown, steps, noise).cpu().double()  # Apple's GPU has no float64
            # ε = α v + σ x_t: an error of v is one of α times as much of ε.
            of_noise = errors * self.alpha.cpu()[steps].square() if self.config.prediction == "v" else errors
            sums[0] += float(errors.sum()) / HELD_OUT_STEPS
            sums[1] += float(of_noise.sum()) / HELD_OUT_STEPS
        return sums

    def figures(self, sums: Tensor) -> Mapping[str, float]:
        """The mean squared errors, which are no length of a code."""
        return {"loss": float(sums[0] / sums[2]), "noise_error": float(sums[1] / sums[2])}

    def errors(self, latents: Tensor, labels: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """The squared error of each image's prediction, B: latents and noise B×d×h×w, steps int64 B."""
        noise, steps = noise.to(latents), steps.to(latents.device)
        alpha, sigma = (of[steps].to(latents.dtype)[:, None, None, None] for of in (self.alpha, self.sigma))
        target = noise if self.config.prediction == "epsilon" else alpha * noise - sigma * latents
        predicted = at_least_float32(self.unet(alpha * latents + sigma * noise, steps, labels))
        return (predicted - target).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def sample(
        self, labels: Tensor, numbers: range, options: SamplingOptions, *, seed: int, given: Tensor | None = None
    ) -> Tensor:
        """See `GeneratorNetwork.sample`; latents B×d×h×w of about unit variance."""
        assert given is None, "it does not complete"
        sampler = options.sampler or "ddim"
        scheduler = self.scheduler(sampler)
        scheduler.set_timesteps(options.steps or self.default_steps(sampler), device=labels.device)
        noise = [torch.randn(self.shape, generator=generator("sample", "latents", seed, number)) for number in numbers]
        x, rows = torch.stack(noise).to(labels.device, next(self.parameters()).dtype), self.both(labels, options)
        copies = len(rows) // len(labels)
        for step in scheduler.timesteps:
            predicted = at_least_float32(self.unet(x.repeat(copies, 1, 1, 1), step.expand(len(rows)), rows))
            x = scheduler.step(guided(predicted, options.guidance), step, x, return_dict=False)[0]
        return x

    def check_options(self, options: SamplingOptions) -> None:
        """Also refuses steps that the steps of noise cannot be shared out to."""
        super().check_options(options)
        steps, learned = options.steps or 1, self.config.noise_steps
        if steps > learned:
            raise UserError(
                f"steps must be at most {learned}, the noise steps that this generator has learned, not {steps}"
            )
        # diffusers goes back by ⌊T / n⌋ from places T / n apart: where these differ, noise stays in the latents.
        if (options.sampler or "ddim") == "ddim" and learned % steps:
            near = sorted(_divisors(learned), key=lambda n: abs(n - steps))[:2]
            raise UserError(
                f"steps of sampler ddim must divide the {learned} noise steps that this generator has learned, like "
                f"{' or '.join(map(str, sorted(near)))}, not {steps}; dpm++ takes any number"
            )

    def default_steps(self, sampler: str) -> int:
        """How many are taken where none are asked for."""
        most = min(STEPS[sampler], self.config.noise_steps)
        return max(n for n in _divisors(self.config.noise_steps) if n <= most) if sampler == "ddim" else most

    def scheduler(self, sampler: str) -> Any:
        """diffusers' scheduler of a sampler, for this noise; steps are counted from the noisiest one down."""
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

        config = self.config
        noise = {
            "num_train_timesteps": config.noise_steps,
            "beta_schedule": _SCHEDULES[config.noise_schedule],
            "beta_start": config.beta_start,
            "beta_end": config.beta_end,
            "prediction_type": _PREDICTIONS[config.prediction],
            "rescale_betas_zero_snr": config.zero_terminal_snr,
            "timestep_spacing": "trailing",
        }
        if sampler == "dpm++":
            return DPMSolverMultistepScheduler(**noise, algorithm_type="dpmsolver++")
        return DDIMScheduler(**noise, clip_sample=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """The U-Net's."""
        return self.unet.blocks

    def checkpoint_gradients(self) -> None:
        """See `GeneratorNetwork.checkpoint_gradients`."""
        self.unet.checkpoint_gradients()


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
