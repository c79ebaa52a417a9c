"""What a run would take, from a few of its steps on this machine: `vaevq train --dry-run`."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vaevq.config import RunConfig, VariationalConfig, VqganLcConfig
from vaevq.data.loader import training_batches
from vaevq.quantization.count import learned_count
from vaevq.training.codebook_fit import vector_source
from vaevq.training.engine import engine
from vaevq.training.tokenizer_loop import what_it_needs
from vaevq.training.tokenizer_step import TokenizerTrainer

WARM_UP, TIMED = 1, 3


@dataclass(frozen=True)
class Estimate:
    """What a run would be.

    Attributes:
        parameters: of the tokenizer's parts, codewords with them, and of the discriminator where there is one.
        train_images, held_out_images: the two sides of the data.
        steps: optimizer steps.
        seconds_per_step: measured, loading of images included; the discriminator is counted from its start on.
        peak_bytes: of memory: the device's on CUDA, the process's elsewhere.
        device: where it was measured.
    """

    parameters: dict[str, int]
    train_images: int
    held_out_images: int
    steps: int
    seconds_per_step: float
    peak_bytes: int
    device: str

    def rows(self) -> Sequence[tuple[str, str]]:
        """Rows of (what, value) for a table."""
        minutes = self.steps * self.seconds_per_step / 60
        return [
            *((f"parameters, {name}", f"{count:,}") for name, count in self.parameters.items()),
            ("training images", f"{self.train_images:,}"),
            ("held-out images", f"{self.held_out_images:,}"),
            ("steps", f"{self.steps:,}"),
            ("time a step", f"{self.seconds_per_step:.3f} s on {self.device}, mean of {TIMED}"),
            ("training time", f"{minutes:.1f} min, evaluations apart"),
            ("peak memory", f"{self.peak_bytes / 2**30:.2f} GiB"),
        ]


def estimate(config: RunConfig) -> Estimate:
    """Runs a few steps of a run, keeps nothing, and says what the whole would take.

    Raises:
        UserError: what the run would need is not there: data, weights, vectors of its codebook.
    """
    with engine(config.train.device, config.train.precision) as place:
        images = what_it_needs(config, place)
        # From the start, so that the whole objective is measured.
        loss, quantizer = config.loss.model_copy(update={"adversarial_start": 0}), config.model.quantizer
        if isinstance(quantizer, VariationalConfig | VqganLcConfig):
            quantizer = quantizer.model_copy(update={"quantize_from": 0})
        model = config.model.model_copy(update={"quantizer": quantizer})
        trainer = TokenizerTrainer(config.model_copy(update={"loss": loss, "model": model}), place)
        train, made = config.train, trainer.tokenizer.quantizer
        with place.together():
            if train.init_from is not None:
                trainer.initialize(train.init_from)
            if not made.is_fitted:
                vector_source(quantizer)  # a run would not begin without it
        if not made.is_fitted:  # any codebook takes as long
            made.fit(made.state_dict()["codebook.embedding"], config.seed)
        batches = training_batches(
            images.train,
            config.data,
            config.model.autoencoder.image_channels,
            seed=config.seed,
            start=0,
            stop=(WARM_UP + TIMED) * train.batch_size,
            batch_size=train.batch_size // train.accumulation,
            rank=place.rank,
            world_size=place.world_size,
        )
        for step in range(WARM_UP + TIMED):
            if step == WARM_UP:
                start = time.perf_counter()
            with place.training_step():
                trainer.step([next(batches) for _ in range(train.accumulation)])  # its losses are read, so it is done
        seconds = (time.perf_counter() - start) / TIMED
        parts: dict[str, nn.Module] = dict(trainer.tokenizer.named_children())
        if trainer.discriminator is not None:
            parts["discriminator"] = trainer.discriminator
        return Estimate(
            parameters={name: learned_count(part) for name, part in parts.items()},
            train_images=len(images.train),
            held_out_images=len(images.held_out),
            steps=-(-train.images // train.batch_size),
            seconds_per_step=seconds,
            peak_bytes=_peak_bytes(place.device),
            device=place.device.type,
        )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
