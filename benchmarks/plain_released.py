"""The released training step stated plainly in PyTorch: what `benchmarks.training` compares with.

It is written from the method's description, on the networks of a run: two decoder calls, two searches by the full
matrix of distances, five calls of the discriminator, LPIPS of both sides for each reconstruction, each network's
weights with gradients in both turns.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from vaevq.training.tokenizer_step import TokenizerTrainer


class PlainStep:
    """Starts from copies of a trainer's networks and averages, with optimizers of its own."""

    def __init__(self, trainer: TokenizerTrainer) -> None:
        self.tokenizer = copy.deepcopy(trainer.tokenizer)
        self.average = copy.deepcopy(trainer.averaged)
        self.discriminator = copy.deepcopy(trainer.discriminator)
        assert self.discriminator is not None
        assert trainer.objective.perceptual is not None
        self.lpips = trainer.objective.perceptual
        self.loss, self.decay = trainer.config.loss, trainer.config.train.ema_decay
        train = trainer.config.train
        rate, discriminator_rate = train.learning_rate, train.discriminator_learning_rate or train.learning_rate
        self.optimizer = torch.optim.Adam(self.tokenizer.parameters(), rate, train.betas)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), discriminator_rate, train.betas
        )
        self.steps = 0

    def step(self, images: Tensor, noise: Tensor) -> dict[str, float]:
        """One step of both: images B×C×H×W, the posterior's noise B×d×h×w. The losses by name."""
        tokenizer, discriminator, weights = self.tokenizer, self.discriminator, self.loss
        posterior = tokenizer.head(tokenizer.encoder(images))
        mean, std = posterior.mean, torch.exp(0.5 * posterior.logvar)
        sample = mean + std * noise
        codewords = tokenizer.quantizer.codebook()
        tokens = _closest(mean, codewords)
        codeword = F.embedding(tokens, codewords).permute(0, 3, 1, 2)
        draw = ((codeword - mean) / std).detach()
        quantized = mean + std * draw + (codeword - codeword.detach())
        _closest(mean, codewords)  # the second search, of the statistics
        fakes = tokenizer.decoder(quantized.contiguous()), tokenizer.decoder(sample)

        pixel = sum((fake - images).abs().mean() for fake in fakes) / 2
        perceptual = sum(self.lpips(images, fake).mean() for fake in fakes) / 2
        adversarial = sum(F.softplus(-discriminator(fake)).mean() for fake in fakes) / 2
        coherence = (0.5 * ((codeword - mean) / std).square()).mean()
        total = (
            weights.pixel_weight * pixel
            + weights.perceptual_weight * perceptual
            + weights.adversarial_weight * adversarial
            + coherence
        )
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()

        real = F.relu(1 - discriminator(images)).mean()
        hinge = 0.5 * (real + sum(F.relu(1 + discriminator(fake.detach())).mean() for fake in fakes) / 2)
        self.discriminator_optimizer.zero_grad()
        hinge.backward()
        self.discriminator_optimizer.step()
        self._average()
        losses = {"total": total, "pixel": pixel, "perceptual": perceptual, "adversarial": adversarial}
        return {
            name: float(loss.detach()) for name, loss in {**losses, "rcs": coherence, "discriminator": hinge}.items()
        }

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for average, weight in zip(self.average.parameters(), self.tokenizer.parameters(), strict=True):
            average.mul_(decay).add_(weight, alpha=1 - decay)
        self.steps += 1


@torch.no_grad()
def _closest(latents: Tensor, codewords: Tensor) -> Tensor:
    """Tokens B×h×w of latents B×d×h×w."""
    rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    distances = rows.square().sum(1, keepdim=True) + codewords.square().sum(1) - 2 * rows @ codewords.T
    return distances.argmin(1).view(latents.shape[0], *latents.shape[2:])
