"""One step of tokenizer training: the tokenizer's turn, then the discriminator's, each with its own optimizer."""

import contextlib
import gc
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vaevq.config import RunConfig, TrainConfig
from vaevq.data.loader import ImageBatch
from vaevq.errors import UserError
from vaevq.lineage import Lineage
from vaevq.losses.objective import DiscriminatorObjective, TokenizerObjective
from vaevq.metrics.codebook import TokenHistogram
from vaevq.metrics.networks import lpips_network
from vaevq.nn.discriminator import PatchDiscriminator
from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.codebook import Codebook
from vaevq.quantization.resizing import Resizing, room_for
from vaevq.seeding import indexed_noise, stream_seed
from vaevq.tokenizer import Tokenizer, TokenizerOutput
from vaevq.training.adaptation import Adaptation, Look
from vaevq.training.ema import WeightAverage
from vaevq.training.engine import Engine
from vaevq.training.initialization import Initialization, initialize
from vaevq.training.nonfinite import NotFiniteError, check_finite
from vaevq.training.reach import reaching


class TokenizerTrainer:
    """Networks, optimizers and the average of the weights; everything that a checkpoint holds.

    Args:
        config: the run.
        engine: device, number format, processes.

    Attributes:
        tokenizer: bare, for saving.
        average: its averaged weights, for evaluation and saving.
        images_seen: progress, over all processes.
        tokens: counts of the tokens of training's queries since `reset_tokens`.
        look: at the codebook's size, where the last step began with one.
    """

    def __init__(self, config: RunConfig, engine: Engine) -> None:
        self.config, self.engine = config, engine
        loss, train = config.loss, config.train
        torch.manual_seed(stream_seed("networks", config.seed))
        self.tokenizer = Tokenizer(config.model).to(engine.device, engine.dtype)
        _lay_out(self.tokenizer, train)
        self.tokenizer.encoder.gradient_checkpointing = train.gradient_checkpointing
        self.tokenizer.decoder.gradient_checkpointing = train.gradient_checkpointing
        self.average = WeightAverage(self.tokenizer, train.ema_decay)
        if train.compile:
            check_compiler(engine.device)
            self.tokenizer.encoder.compile()
            self.tokenizer.decoder.compile()
        perceptual = None
        if loss.perceptual_weight:
            perceptual = lpips_network(loss.perceptual_network, loss.perceptual_weights_path)
            _lay_out(perceptual.to(engine.device, engine.dtype), train)
        self.objective = TokenizerObjective(loss, self.tokenizer.quantizer.term_weights, perceptual)
        self.optimizer = _adam(self.tokenizer, train.learning_rate, train)
        self._wrapped = engine.wrap(self.tokenizer)

        self.discriminator: PatchDiscriminator | None = None
        if loss.adversarial_weight:
            channels = config.model.autoencoder.image_channels
            torch.manual_seed(stream_seed("discriminator", config.seed))
            self.discriminator = PatchDiscriminator(channels, loss.discriminator_width, loss.discriminator_layers)
            _lay_out(self.discriminator.to(engine.device, engine.dtype), train)
            if train.compile:
                self.discriminator.compile()
            self.discriminator_objective = DiscriminatorObjective(loss)
            if self.discriminator_objective.lecam is not None:
                self.discriminator_objective.lecam.to(engine.device, engine.dtype)
            self.discriminator_optimizer = _adam(
                self.discriminator, train.discriminator_learning_rate or train.learning_rate, train
            )
            self._wrapped_discriminator = engine.wrap(self.discriminator)
        self.adaptation = Adaptation(config, self._codebook) if config.adapt.by != "none" else None
        self.look: Look | None = None
        self.images_seen = 0
        self.reset_tokens()

    def reset_tokens(self) -> None:
        """Starts a new count of the tokens that training's queries get (sampled latents: no measure of usage)."""
        quantizer = self.tokenizer.quantizer
        self.tokens = TokenHistogram(quantizer.codebook_size, self.engine.device, codebooks=quantizer.codebooks)

    @property
    def _codebook(self) -> Codebook | AveragedCodebook:
        """Of a quantizer that is resizable."""
        codebook = self.tokenizer.quantizer.codebook
        assert isinstance(codebook, Codebook | AveragedCodebook)
        return codebook

    def step(self, batches: Sequence[ImageBatch]) -> Mapping[str, float]:
        """One optimizer step on this process's share of a batch, given as micro-batches.

        Returns:
            The mean of each loss term over the micro-batches, before its weight, and `total`; of this process.

        Raises:
            NotFiniteError: a term or a gradient is not finite. In the tokenizer's turn nothing was changed by it, in
                the discriminator's nothing of the discriminator; the next step may follow.
        """
        self._adapt()
        adversarial = self.discriminator is not None and self.config.loss.has_discriminator(self.images_seen)
        outputs, terms = [], defaultdict[str, list[Tensor]](list)
        for i, batch in enumerate(batches):
            images, noise = self._prepare(batch)
            with _synchronized(self._wrapped, last=i == len(batches) - 1), self.engine.autocast():
                output: TokenizerOutput = self._wrapped(images, noise, continuous=self.config.loss.continuous_path > 0)
                loss = self.objective(
                    images,
                    output,
                    self.discriminator if adversarial else None,
                    self.tokenizer.decoder.last_layer,
                    len(batches),
                )
                if not loss.total.requires_grad:
                    raise UserError(
                        "no loss term trains anything: loss.pixel_weight, loss.perceptual_weight and "
                        "loss.adversarial_weight are 0, and this quantizer has no term of its own"
                    )
                total = loss.total / len(batches)
                if self.engine.world_size > 1:
                    total = reaching(total, self.tokenizer)
                torch.autograd.backward(total)
            outputs.append((images, output))
            self.tokens.update(output.quantized.tokens)
            if self.adaptation is not None:
                self.adaptation.observe(self.images_seen, output.posterior)
            for name, value in {"total": loss.total.detach(), **loss.terms}.items():
                terms[name].append(value)
        try:
            self._apply(self.tokenizer, self.optimizer, self.config.train.learning_rate, terms)
        except NotFiniteError:
            self.tokenizer.quantizer.abandon_step()
            if self.adaptation is not None:
                self.adaptation.abandon_step()
            raise
        self.tokenizer.quantizer.finish_step()
        if self.adaptation is not None:
            self.adaptation.finish_step(self.images_seen)
        self.average.update(self.tokenizer)

        if adversarial:
            assert self.discriminator is not None
            for i, (images, output) in enumerate(outputs):
                last = i == len(outputs) - 1
                with _synchronized(self._wrapped_discriminator, last=last), self.engine.autocast():
                    loss = self.discriminator_objective(images, output, self._wrapped_discriminator)
                    torch.autograd.backward(loss.total / len(outputs))
                for name, value in loss.terms.items():
                    terms[name].append(value)
            rate = self.config.train.discriminator_learning_rate or self.config.train.learning_rate
            self._apply(self.discriminator, self.discriminator_optimizer, rate, terms)

        self.images_seen += self.config.train.batch_size
        means = torch.stack([torch.stack(values).mean() for values in terms.values()])  # a GPU is waited for once
        return dict(zip(terms, means.tolist(), strict=True))

    def _adapt(self) -> None:
        """Looks at the codebook's size where it is time, before a step: what was logged and saved is of one size."""
        self.look = self.adaptation.look(self.images_seen) if self.adaptation is not None else None
        if self.adaptation is not None and self.look is not None:
            if self.look.resizing is not None:
                self.resize(self.look.resizing)
            self.adaptation.begin(self.images_seen)

    def resize(self, resizing: Resizing) -> None:
        """Gives the codebook another number of codewords; the average of the weights and the optimizer follow."""
        old = self._codebook.embedding
        for tokenizer in (self.tokenizer, self.averaged):
            tokenizer.resize(resizing)
        new = self._codebook.embedding
        if isinstance(new, nn.Parameter):
            _exchange(self.optimizer, old, new, resizing)
            del self._wrapped  # its hooks go before the next one sets its own
            gc.collect()
            self._wrapped = self.engine.wrap(self.tokenizer)
        self.reset_tokens()

    def _prepare(self, batch: ImageBatch) -> tuple[Tensor, Tensor | None]:
        images = batch.images.to(self.engine.device, self.engine.dtype, non_blocking=True)
        if self.config.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if self.config.model.quantizer.initial_logvar is None:  # the encoder gives a point
            return images, None
        shape = self.tokenizer.latent_shape(images.shape[-2], images.shape[-1])
        return images, indexed_noise(shape, batch.positions, self.config.seed).to(images)

    def _apply(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, rate: float, terms: Mapping[str, list[Tensor]]
    ) -> None:
        """Clips and steps, unless a term or the gradient is not finite; frees the gradients for the other's turn."""
        train = self.config.train
        norm = nn.utils.clip_grad_norm_(module.parameters(), train.clip_norm or math.inf)
        where = f"in step {self.images_seen // train.batch_size + 1} (after {self.images_seen} images)"
        try:
            check_finite(self.engine, {name: torch.stack(values) for name, values in terms.items()}, norm, where)
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(self.images_seen, train)
            optimizer.step()
        finally:
            optimizer.zero_grad(set_to_none=True)

    def initialize(self, model: str) -> Initialization:
        """Starts from a saved model's weights, before the first step; the optimizers start anew.

        Raises:
            UserError: see `vaevq.training.initialization.initialize`.
        """
        initialization = initialize(self.tokenizer, model, self.config.seed)
        self.averaged.load_state_dict(self.tokenizer.state_dict())
        self.averaged.lineage = self.tokenizer.lineage
        return initialization

    def _make_room(self, state: Mapping[str, Any]) -> None:
        """Takes the codebook's size of a state, where the size may have changed since the run began."""
        saved = state["tokenizer"].get("quantizer.codebook.embedding")
        if self.adaptation is not None and saved is not None and len(saved) != self._codebook.codebook_size:
            self.resize(room_for(len(saved), self._codebook().detach()))

    @property
    def averaged(self) -> Tokenizer:
        """The tokenizer with the averaged weights: what is evaluated and saved."""
        assert isinstance(self.average.module, Tokenizer)
        return self.average.module

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        state = {
            "images_seen": self.images_seen,
            "tokenizer": self.tokenizer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.module.state_dict(),
            "average_steps": self.average.steps,
            "lineage": self.averaged.lineage.to_json(),
        }
        if self.adaptation is not None:
            state["adaptation"] = self.adaptation.state_dict()
        if self.discriminator is not None:
            state["discriminator"] = self.discriminator.state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
            if self.discriminator_objective.lecam is not None:
                state["lecam"] = self.discriminator_objective.lecam.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        self.images_seen = state["images_seen"]
        self._make_room(state)
        self.tokenizer.load_state_dict(state["tokenizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.module.load_state_dict(state["average"])
        self.average.steps = state["average_steps"]
        if "lineage" in state:  # earlier checkpoints have none
            size = self.tokenizer.quantizer.codebook_size
            self.averaged.lineage = Lineage.from_json(state["lineage"], size, "the checkpoint")
        if self.adaptation is not None:
            self.adaptation.load_state_dict(state["adaptation"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
            if self.discriminator_objective.lecam is not None:
                self.discriminator_objective.lecam.load_state_dict(state["lecam"])


def schedule(images_seen: int, train: TrainConfig) -> float:
    """The learning rate as a share of its peak: linear warm-up, then constant or half a cosine to 0."""
    if images_seen < train.warmup_images:
        return (images_seen + train.batch_size) / (train.warmup_images + train.batch_size)
    if train.schedule == "constant":
        return 1.0
    progress = (images_seen - train.warmup_images) / max(1, train.images - train.warmup_images)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _lay_out(module: nn.Module, train: TrainConfig) -> None:
    """Puts the weights of convolutions into the memory format of the run."""
    if train.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_compiler(device: torch.device) -> None:
    """Passes if torch.compile finds what it needs for a device.

    Raises:
        UserError: on a CPU there is no C++ compiler.
    """
    compilers = [os.environ.get("CXX") or "g++", "clang++"]
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise UserError(
            "train.compile needs a C++ compiler on a CPU: install g++, or name one in the environment's CXX"
        )


def _adam(module: nn.Module, rate: float, train: TrainConfig) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=rate, betas=train.betas, fused=train.fused_optimizer or None)


def _exchange(optimizer: torch.optim.Optimizer, old: Tensor, new: Tensor, resizing: Resizing) -> None:
    """Puts a resized embedding into an optimizer: halves take the moments of what they were split from."""
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    moments = optimizer.state.pop(old, {})
    if moments:
        optimizer.state[new] = {
            name: value[resizing.source].clone() if value.shape == old.shape else value
            for name, value in moments.items()
        }


def _synchronized(module: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[None]:
    """Gradients are averaged over processes after the last micro-batch alone."""
    if last or not isinstance(module, DistributedDataParallel):
        return contextlib.nullcontext()
    no_sync: contextlib.AbstractContextManager[None] = module.no_sync()
    return no_sync
