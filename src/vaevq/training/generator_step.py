"""One step of a generator's training, and everything that a checkpoint of it holds."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vaevq.config import GeneratorConfig, GeneratorRunConfig, GeneratorTrainConfig, TrainConfig
from vaevq.data.token_set import TokenBatch
from vaevq.generation.generator import Generator
from vaevq.generation.network import GeneratorNetwork
from vaevq.seeding import stream_seed
from vaevq.training.ema import WeightAverage
from vaevq.training.engine import Engine
from vaevq.training.nonfinite import check_finite
from vaevq.training.sharded import shard, spread, synchronize, whole, whole_optimizer, whole_weights
from vaevq.training.tokenizer_step import schedule


class GeneratorTrainer:
    """A generator, its optimizer and the average of its weights.

    Args:
        config: the run.
        model: what is saved: network and tokens.
        engine: device, number format, processes.

    Attributes:
        network: bare.
        average: the generator with averaged weights, for evaluation and saving.
        images_seen: progress, over all processes.
    """

    def __init__(self, config: GeneratorRunConfig, model: GeneratorConfig, engine: Engine) -> None:
        self.config, self.engine = config, engine
        torch.manual_seed(stream_seed("networks", config.seed))
        generator = Generator(model).to(engine.device, engine.dtype)
        self.network: GeneratorNetwork = generator.network
        if config.train.gradient_checkpointing:
            self.network.checkpoint_gradients()
        self.average = WeightAverage(generator, config.train.ema_decay)
        self._generator = generator
        self.sharded = config.train.parallel == "fsdp"
        if self.sharded:
            for network in (self.network, self.averaged.network):
                shard(network, network.blocks, ["held_out"], engine)
        self.optimizer = _adamw(self.network, config.train)
        self._wrapped = self.network if self.sharded else engine.wrap(self.network)
        self.images_seen = 0

    @property
    def averaged(self) -> Generator:
        """The generator with averaged weights, in evaluation mode; of sharded training this process's part of it."""
        return cast(Generator, self.average.module)

    def gathered(self) -> Generator:
        """The generator with averaged weights, whole; if sharded, on the main process alone. All processes call it."""
        if not self.sharded:
            return self.averaged
        weights = whole_weights(self.averaged.network)
        if not self.engine.is_main:
            return self.averaged
        generator = Generator(self.averaged.config).to(self.engine.dtype).eval()
        generator.network.load_state_dict(weights)
        generator.share_tokenizer(self.averaged)
        return generator

    def step(self, batches: Sequence[TokenBatch]) -> Mapping[str, float]:
        """One optimizer step on this process's share of a batch, given as micro-batches.

        Returns:
            The loss under the name of what it is of (`tokens`: nats a token; `latents`: a squared error), mean over the
            micro-batches; of this process.

        Raises:
            NotFiniteError: the loss or the gradient is not finite; nothing was changed by it.
        """
        train = self.config.train
        # Dropout is a function of (seed, step, process): a resumed run draws what it would have drawn.
        torch.manual_seed(stream_seed("dropout", self.config.seed, self.images_seen, self.engine.rank))
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        for i, batch in enumerate(batches):
            with self._synchronized(last=i == len(batches) - 1), self.engine.autocast():
                loss: Tensor = self._wrapped(
                    *self.prepared(batch), seed=self.config.seed, smoothing=train.label_smoothing
                )
                torch.autograd.backward(loss / len(batches))
            losses.append(loss.detach())
        self._apply(torch.stack(losses))
        self.average.update(self._generator)
        self.images_seen += train.batch_size
        return {self.network.content: float(torch.stack(losses).mean())}

    def prepared(self, batch: TokenBatch) -> tuple[Tensor, Tensor | None, Tensor]:
        """What the network learns from (`Generator.content`) and labels on the device, and positions."""
        device = self.engine.device
        tokens, latents, labels = (
            None if part is None else part.to(device, non_blocking=True)
            for part in (batch.tokens, batch.latents, batch.labels)
        )
        assert tokens is not None
        return self.averaged.content(tokens, latents), labels, batch.positions

    def _apply(self, losses: Tensor) -> None:
        """Clips and steps, unless the loss or the gradient is not finite."""
        train = self.config.train
        norm = whole(nn.utils.clip_grad_norm_(self.network.parameters(), train.clip_norm or math.inf))
        where = f"in step {self.images_seen // train.batch_size + 1} (after {self.images_seen} images)"
        check_finite(self.engine, {self.network.content: losses}, norm, where)
        # It reads the four fields that both kinds of run have.
        share = schedule(self.images_seen, cast(TrainConfig, train))
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * share
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, whole; if sharded, on the main process alone. All processes call it."""
        average = self.averaged.network
        return {
            "images_seen": self.images_seen,
            "network": whole_weights(self.network) if self.sharded else self.network.state_dict(),
            "optimizer": whole_optimizer(self.network, self.optimizer) if self.sharded else self.optimizer.state_dict(),
            "average": whole_weights(average) if self.sharded else average.state_dict(),
            "average_steps": self.average.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        self.images_seen = state["images_seen"]
        self.average.steps = state["average_steps"]
        if self.sharded:
            spread(self.network, state["network"], self.optimizer, state["optimizer"])
            spread(self.averaged.network, state["average"])
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged.network.load_state_dict(state["average"])

    def _synchronized(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients are averaged over processes after the last micro-batch alone."""
        if self.sharded:
            synchronize(self.network, last=last)
        if last or not isinstance(self._wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        no_sync: contextlib.AbstractContextManager[None] = self._wrapped.no_sync()
        return no_sync


def _adamw(network: nn.Module, train: GeneratorTrainConfig) -> torch.optim.AdamW:
    """Matrices decay; vectors do not."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.betas)
