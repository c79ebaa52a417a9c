"""The steps of a run, and between them logs, evaluations, checkpoints and an interruption. It knows no model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import torch

from vaevq.config import TrainConfig
from vaevq.config.generation import GeneratorTrainConfig
from vaevq.distributed import all_reduce_mean, any_process
from vaevq.errors import UserError
from vaevq.saved import SavedModel
from vaevq.training.agreement import check_agreement
from vaevq.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from vaevq.training.engine import Engine
from vaevq.training.interruption import Interruption
from vaevq.training.nonfinite import WAY_OUT, NotFiniteError
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
        """One optimizer step on micro-batches; gives the mean of each loss term.

        Raises:
            NotFiniteError: it was not made, and another may follow.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on; all processes call it, and the main one needs it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""


class Loop(ABC, Generic[Batch]):
    """A run of a trainer, until the images of its configuration are seen.

    Attributes:
        terms: of the steps since the last log.
        passed_over: how many steps since the last log were not made, because something was not finite.
        digest_every: see `train.digest_every`.
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
        self.passed_over = self._in_a_row = 0
        self.digest_every = train.digest_every

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
    def model(self) -> SavedModel:
        """What is saved beside the checkpoint: the model with averaged weights. All processes ask for it."""

    def run(self) -> None:
        """Steps until the images of the configuration are seen.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, when the checkpoint is saved.
            UserError: what `train.on_nonfinite` stops for; processes that hold different weights.
        """
        steps = -(-self.train.images // self.train.batch_size)
        total = steps * self.train.batch_size
        batches, save_due, evaluate_due = self.batches(total), False, False
        if self.digest_every:
            self._check_agreement()
        with Interruption() as interruption:
            while self._trainer.images_seen < total:
                before = self._trainer.images_seen
                self._advance(self.next_step(batches))
                now = self._trainer.images_seen
                self.tracker.progress(now)
                if self.digest_every and _passes(before, now, self.digest_every):
                    self._check_agreement()
                stop = any_process(interruption.requested, self.place.device)
                save_due |= _passes(before, now, self.train.checkpoint_every)
                evaluate_due |= _passes(before, now, self.train.evaluate_every)
                # Weights that cannot make a step may be past help: they wait, and push out no checkpoint that is not.
                sound = not self._in_a_row
                save = (save_due and sound) or stop or now == total
                if _passes(before, now, self.train.log_every) or save:
                    self.log()
                if evaluate_due and sound:
                    evaluate_due = False
                    self.evaluate()
                if save:
                    save_due = False
                    self.save()
                if stop:
                    self._stop()
            # One that came while the last step was logged, measured or saved.
            if any_process(interruption.requested, self.place.device):
                self._stop()

    def _advance(self, batches: Sequence[Batch]) -> None:
        """A step, or what comes in its place where something in it is not finite; all processes do the same."""
        try:
            with self.place.training_step():
                self.terms.append(self.step(batches))
            self._in_a_row = 0
        except NotFiniteError as error:
            self._in_a_row += 1
            self._pass_over(error)

    def _pass_over(self, error: NotFiniteError) -> None:
        if self.train.on_nonfinite == "stop":
            raise UserError(f"{error}; {WAY_OUT}") from None
        if self._in_a_row >= self.train.nonfinite_limit:
            raise UserError(f"{error}, which makes {self._in_a_row} steps in a row; {WAY_OUT}") from None
        saved = checkpoints(self.run_dir / "checkpoints") if self.train.on_nonfinite == "rollback" else []
        seen, what = self._trainer.images_seen, "the step is skipped"
        if saved:
            what = f"back to the weights of {saved[-1].name}, on with the next images"
            with self.place.together():
                state = load_checkpoint(saved[-1])
            self._trainer.load_state_dict(state)
        self._trainer.images_seen = seen + self.train.batch_size
        self.passed_over += 1
        self.tracker.message(f"warning: {error}: {what}")

    def _check_agreement(self) -> None:
        state = self._trainer.state_dict()
        check_agreement(state, self.place.device, f"at {self._trainer.images_seen:,} images")

    def loss_means(self) -> dict[str, float]:
        """Means of the terms since the last log, over steps and processes, as `loss/NAME`; begins anew.

        Where steps were passed over, `steps_passed_over` says how many.
        """
        passed_over, self.passed_over = self.passed_over, 0
        missing = {"steps_passed_over": float(passed_over)} if passed_over else {}
        if not self.terms:
            return missing
        names = list(self.terms[-1])
        rows = [[terms[name] for name in names] for terms in self.terms if terms.keys() == self.terms[-1].keys()]
        means = all_reduce_mean(torch.tensor(rows, dtype=torch.float32, device=self.place.device).mean(dim=0))
        self.terms.clear()
        return {f"loss/{name}": value for name, value in zip(names, means.tolist(), strict=True)} | missing

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
                model.renew_page(self.run_dir / "model")
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
