"""The steps of a run, and between them logs, evaluations, checkpoints and an interruption. It knows no model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin

from vaevq.config import TrainConfig
from vaevq.config.generation import GeneratorTrainConfig
from vaevq.distributed import all_reduce_mean, any_process
from vaevq.errors import UserError
from vaevq.training.checkpoint import save_checkpoint
from vaevq.training.engine import Engine
from vaevq.training.interruption import Interruption
from vaevq.training.tracking import Tracker

Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)


class Trainer(Protocol[BatchIn]):
    """Networks and their optimizer, as a loop sees them."""

    images_seen: int

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its first group has the learning rate."""

    def step(self, batches: Sequence[BatchIn]) -> Mapping[str, float]:
        """One optimizer step on micro-batches; gives the mean of each loss term."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on; all processes call it, and the main one needs it."""


class Loop(ABC, Generic[Batch]):
    """A run of a trainer, until the images of its configuration are seen.

    Attributes:
        terms: of the steps since the last log.
    """

    def __init__(
        self,
        train: TrainConfig | GeneratorTrainConfig,
        run_dir: Path,
        place: Engine,
        trainer: Trainer[Batch],
        tracker: Tracker,
    ) -> None:
        self.train, self.run_dir, self.place, self.tracker = train, run_dir, place, tracker
        self._trainer = trainer
        self.terms: list[Mapping[str, float]] = []

    @abstractmethod
    def batches(self, total: int) -> Iterator[Batch]:
        """This process's micro-batches, from where the run stands until `total` images are seen."""

    @abstractmethod
    def next_step(self, batches: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of a step; what is wrong with one process's stops all."""

    def step(self, batches: Sequence[Batch]) -> Mapping[str, float]:
        """One step, with what has to be done before or told after it; gives the means of the loss terms."""
        return self._trainer.step(batches)

    @abstractmethod
    def log(self) -> None:
        """Logs what happened since the last time."""

    @abstractmethod
    def evaluate(self) -> None:
        """Measures on held-out images."""

    @property
    @abstractmethod
    def model(self) -> PyTorchModelHubMixin:
        """What is saved beside the checkpoint: the model with averaged weights. All processes ask for it."""

    def run(self) -> None:
        """Steps until the images of the configuration are seen.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, when the checkpoint is saved.
        """
        steps = -(-self.train.images // self.train.batch_size)
        total = steps * self.train.batch_size
        batches = self.batches(total)
        with Interruption() as interruption:
            while self._trainer.images_seen < total:
                before = self._trainer.images_seen
                self.terms.append(self.step(self.next_step(batches)))
                now = self._trainer.images_seen
                self.tracker.progress(now)
                stop = any_process(interruption.requested, self.place.device)
                save = _passes(before, now, self.train.checkpoint_every) or stop or now == total
                if _passes(before, now, self.train.log_every) or save:
                    self.log()
                if _passes(before, now, self.train.evaluate_every):
                    self.evaluate()
                if save:
                    self.save()
                if stop:
                    self._stop()
            # One that came while the last step was logged, measured or saved.
            if any_process(interruption.requested, self.place.device):
                self._stop()

    def loss_means(self) -> dict[str, float]:
        """Means of the terms since the last log, over steps and processes, as `loss/NAME`; begins anew."""
        names = list(self.terms[-1])
        rows = [[terms[name] for name in names] for terms in self.terms if terms.keys() == self.terms[-1].keys()]
        means = all_reduce_mean(torch.tensor(rows, dtype=torch.float32, device=self.place.device).mean(dim=0))
        self.terms.clear()
        return {f"loss/{name}": value for name, value in zip(names, means.tolist(), strict=True)}

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        rate: float = self._trainer.optimizer.param_groups[0]["lr"]
        return rate

    def has_saved(self) -> None:
        """What follows on the model's having been saved, before the checkpoint is; on all processes."""

    def save(self) -> None:
        """Writes the model and the checkpoint."""
        model = self.model  # on all processes, as the state below: parts may have to be gathered
        with self.place.together():
            if self.place.is_main:
                model.save_pretrained(self.run_dir / "model")
        self.has_saved()
        state = self._trainer.state_dict()
        with self.place.together():
            if self.place.is_main:
                # The checkpoint last: a finished run that was killed between the two would keep an old model for ever.
                folder, keep = self.run_dir / "checkpoints", self.train.keep_checkpoints
                save_checkpoint(folder, self._trainer.images_seen, state, keep)

    def _stop(self) -> NoReturn:
        seen = self._trainer.images_seen
        self.tracker.message(f"stopped at {seen} images; run the same command again to go on")
        raise KeyboardInterrupt


def check_batch(train: TrainConfig | GeneratorTrainConfig, place: Engine) -> None:
    """Makes sure that a batch can be shared by micro-batches and processes.

    Raises:
        UserError: it cannot.
    """
    share = train.accumulation * place.world_size
    if train.batch_size % share:
        raise UserError(
            f"train.batch_size {train.batch_size} is no multiple of "
            f"train.accumulation × processes = {train.accumulation} × {place.world_size}"
        )


def _passes(before: int, now: int, every: int) -> bool:
    return before // every != now // every
