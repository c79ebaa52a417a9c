"""A tokenizer's training run, from a configuration to a run folder; the same on one process and under torchrun.

Running it again on the same folder continues it. The folder holds config.json, environment.json, split.json, init.json
where it starts from a saved model, metrics.jsonl, log.txt, checkpoints/, model/ (averaged weights) and, at the end,
eval.json and diagnosis.json.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch

from vaevq.config import EvalConfig, RunConfig, leaves, read_json
from vaevq.data.held_out import RunImages, run_images
from vaevq.data.loader import ImageBatch, training_batches
from vaevq.data.unreadable import UnreadableLog
from vaevq.diagnostics.gradients import gradient_batch
from vaevq.diagnostics.monitor import Monitor
from vaevq.distributed import all_reduce_mean, any_process
from vaevq.errors import UserError
from vaevq.files import remove_leftovers, write_text
from vaevq.metrics.codebook import TokenHistogram
from vaevq.metrics.evaluation import Evaluation, evaluate
from vaevq.metrics.networks import load_feature_network, load_lpips, lpips_network
from vaevq.tokenizer import Tokenizer
from vaevq.training import run_diagnosis
from vaevq.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from vaevq.training.codebook_fit import fit_codebook, vector_source
from vaevq.training.engine import Engine, engine
from vaevq.training.environment import environment
from vaevq.training.initialization import check_unchanged
from vaevq.training.interruption import Interruption
from vaevq.training.tokenizer_step import TokenizerTrainer
from vaevq.training.tracking import Tracker

FEW_IMAGES = 500
"""With fewer training images than this, a warning."""

CHANGES_NO_RESULT = {
    "data": {"workers", "cache_mib", "max_unreadable_share"},
    "train": {
        "device",
        "log_every",
        "evaluate_every",
        "checkpoint_every",
        "keep_checkpoints",
        "tensorboard",
        "wandb",
    },
}
"""What may differ between a run and its continuation, by section."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run gives.

    Attributes:
        run_dir: its folder.
        tokenizer: with the averaged weights, in evaluation mode.
        images: the two sides of its data.
        evaluation: of the held-out images, as eval.json.
        is_main: whether this is the process that writes files.
    """

    run_dir: Path
    tokenizer: Tokenizer
    images: RunImages
    evaluation: Evaluation
    is_main: bool


def train_tokenizer(config: RunConfig, run_dir: Path, *, quiet: bool = False) -> TrainingResult:
    """Trains, or continues, and evaluates on the held-out images.

    Raises:
        UserError: bad data or options; a folder that holds a run of another configuration; a loss that is not finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the checkpoint is saved.
    """
    with engine(config.train.device, config.train.precision) as place:
        _check_batch(config, place)
        with place.together():
            images = run_images(config.data, config.seed)
            # What the evaluation at the end needs is looked for now: a run must not fail for want of it after hours.
            load_lpips(config.eval, torch.device("cpu"))
            load_feature_network(config.eval, torch.device("cpu"))
            vector_source(config.model.quantizer)
            if config.loss.perceptual_weight:
                lpips_network(config.loss.perceptual_network, config.loss.perceptual_weights_path)
        trainer = TokenizerTrainer(config, place)
        with place.together():
            _resume(trainer, run_dir)
        begins, initialization = not checkpoints(run_dir / "checkpoints"), None
        with place.together():
            if config.train.init_from is not None and begins:
                initialization = trainer.initialize(config.train.init_from)
        with place.together():
            if place.is_main:
                _claim(run_dir, config, place, images)
                if initialization is not None:
                    initialization.write(run_dir)
        with ExitStack() as stack:
            with place.together():
                tracker = stack.enter_context(_tracker(config, run_dir, trainer.images_seen, quiet, place))
            if len(images.train) < FEW_IMAGES:
                tracker.message(
                    f"warning: {len(images.train)} training images are few: what is learned is theirs; "
                    "a tokenizer for general use wants thousands"
                )
            for line in initialization.lines() if initialization is not None else ():
                tracker.message(line)
            quantize_from = getattr(config.model.quantizer, "quantize_from", 0)
            if trainer.images_seen < quantize_from:
                tracker.message(
                    f"the continuous path goes first: the decoder gets codewords from {quantize_from:,} images on, "
                    "and held-out figures before that are of a decoder that has seen none"
                )
            _Loop(config, run_dir, place, trainer, images, tracker).run()
            tokenizer = trainer.averaged
            tracker.message(f"evaluating on {len(images.held_out)} held-out images")
            evaluation = _final_evaluation(config, run_dir, place, tokenizer, images)
            if place.is_main:
                with run_diagnosis.may_fail(tracker.message, "no diagnosis.json"):
                    run_diagnosis.write_diagnosis(run_dir, config, tokenizer, images, device=place.device)
        return TrainingResult(run_dir, tokenizer, images, evaluation, place.is_main)


class _Loop:
    """The steps of a run and what happens between them."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        place: Engine,
        trainer: TokenizerTrainer,
        images: RunImages,
        tracker: Tracker,
    ) -> None:
        self.config, self.run_dir, self.place = config, run_dir, place
        self.trainer, self.images, self.tracker = trainer, images, tracker
        self.terms: list[Mapping[str, float]] = []
        self.unreadable = UnreadableLog()
        self.monitor = self._monitor() if place.is_main else None

    def _monitor(self) -> Monitor:
        config, cut = self.config, None
        with run_diagnosis.may_fail(self.tracker.message, "no gradients of single terms in the log"):
            cut = gradient_batch(self.images.train, config.eval, config.model.autoencoder.image_channels)
        return Monitor(self.images.held_out, self._few_images, cut)

    def run(self) -> None:
        """Steps until the images of the configuration are seen."""
        train = self.config.train
        steps = -(-train.images // train.batch_size)
        total = steps * train.batch_size
        batches = self._batches(total)
        with Interruption() as interruption:
            while self.trainer.images_seen < total:
                before = self.trainer.images_seen
                if made := fit_codebook(self.trainer, self.images.train):
                    self.tracker.message(made)
                self.terms.append(self.trainer.step(self._next_step(batches)))
                now = self.trainer.images_seen
                if self.trainer.look is not None:
                    self.tracker.message(f"{before:,} images | {self.trainer.look}")
                self.tracker.progress(now)
                stop = any_process(interruption.requested, self.place.device)
                save = _passes(before, now, train.checkpoint_every) or stop or now == total
                if _passes(before, now, train.log_every) or save:
                    self._log()
                if _passes(before, now, train.evaluate_every):
                    self._quick_evaluation()
                if save:
                    self._save()
                if stop:
                    self._stop()
            # One that came while the last step was logged, measured or saved.
            if any_process(interruption.requested, self.place.device):
                self._stop()

    def _stop(self) -> NoReturn:
        seen = self.trainer.images_seen
        self.tracker.message(f"stopped at {seen} images; run the same command again to go on")
        raise KeyboardInterrupt

    def _batches(self, total: int) -> Iterator[ImageBatch]:
        config = self.config
        return training_batches(
            self.images.train,
            config.data,
            config.model.autoencoder.image_channels,
            seed=config.seed,
            start=self.trainer.images_seen,
            stop=total,
            batch_size=config.train.batch_size // config.train.accumulation,
            rank=self.place.rank,
            world_size=self.place.world_size,
        )

    def _next_step(self, batches: Iterator[ImageBatch]) -> list[ImageBatch]:
        """The micro-batches of a step; what is wrong with one process's images stops all."""
        step, mistake = list[ImageBatch](), None
        try:
            for batch in islice(batches, self.config.train.accumulation):
                for line in self.unreadable.add(batch.unreadable):
                    self.tracker.message(f"skipped {line}")
                self.unreadable.check(len(self.images.train), self.config.data.max_unreadable_share)
                step.append(batch)
        except UserError as error:
            mistake = error
        self.place.raise_together(mistake)
        return step

    def _log(self) -> None:
        """Means since the last log, over steps and processes."""
        names = list(self.terms[-1])
        rows = [[terms[name] for name in names] for terms in self.terms if terms.keys() == self.terms[-1].keys()]
        means = all_reduce_mean(torch.tensor(rows, dtype=torch.float32, device=self.place.device).mean(dim=0))
        values = {f"loss/{name}": value for name, value in zip(names, means.tolist(), strict=True)}
        sampled: TokenHistogram = self.trainer.tokens
        sampled.all_reduce()
        statistics = sampled.statistics()
        values["codebook/usage_training_queries"] = statistics.usage
        values["codebook/perplexity_training_queries"] = statistics.perplexity
        if self.trainer.adaptation is not None:
            values["codebook/size"] = statistics.codebook_size
        values["learning_rate"] = self.trainer.optimizer.param_groups[0]["lr"]
        self.tracker.train(self.trainer.images_seen, values)
        self.trainer.reset_tokens()
        self.terms.clear()

    def _quick_evaluation(self) -> None:
        options = self._few_images.model_copy(update={"metrics": ("psnr",), "soft": False})
        evaluation = evaluate(self._tokenizer, self.images.held_out, options, device=self.place.device)
        wanted = ("psnr", "usage", "usage_ceiling", "perplexity")
        self.tracker.held_out(self.trainer.images_seen, {name: evaluation.figures[name] for name in wanted})
        if self.monitor is not None:
            seen = self.trainer.images_seen
            # In the step that ended now.
            joined = self.config.loss.has_discriminator(seen - self.config.train.batch_size)
            with run_diagnosis.may_fail(self.tracker.message, f"no diagnostics at {seen} images"):
                values = self.monitor.measure(
                    self._tokenizer, self.trainer.objective, self.trainer.discriminator if joined else None
                )
                self.tracker.diagnostics(seen, values)

    @property
    def _few_images(self) -> EvalConfig:
        """What is measured on the way is of few held-out images."""
        limit = min(self.config.train.evaluate_images, len(self.images.held_out))
        return self.config.eval.model_copy(update={"images": limit})

    def _save(self) -> None:
        with self.place.together():
            if self.place.is_main:
                # The checkpoint last: a finished run that was killed between the two would keep an old model for ever.
                tokenizer = self._tokenizer
                tokenizer.save_pretrained(self.run_dir / "model")
                tokenizer.lineage = tokenizer.lineage.after_saving(tokenizer.digest, tokenizer.quantizer.codebook_size)
                folder, keep = self.run_dir / "checkpoints", self.config.train.keep_checkpoints
                save_checkpoint(folder, self.trainer.images_seen, self.trainer.state_dict(), keep)

    @property
    def _tokenizer(self) -> Tokenizer:
        return self.trainer.averaged


def _passes(before: int, now: int, every: int) -> bool:
    return before // every != now // every


def _check_batch(config: RunConfig, place: Engine) -> None:
    share = config.train.accumulation * place.world_size
    if config.train.batch_size % share:
        raise UserError(
            f"train.batch_size {config.train.batch_size} is no multiple of "
            f"train.accumulation × processes = {config.train.accumulation} × {place.world_size}"
        )


def _resume(trainer: TokenizerTrainer, run_dir: Path) -> None:
    """Continues from the newest checkpoint of the folder, if it has one and it is this run's."""
    saved = checkpoints(run_dir / "checkpoints")
    if not saved:  # then nothing is lost where another configuration takes the folder
        return
    config_file = run_dir / "config.json"
    if config_file.exists():
        stands, given = results_depend_on(read_json(RunConfig, config_file)), results_depend_on(trainer.config)
        changed = sorted(key for key in stands | given if stands.get(key) != given.get(key))
        if changed:
            # What follows from another option that has changed is not what to tell of.
            changed = [key for key in changed if key != "model.quantizer.quantize_from"] or changed
            key = changed[0]
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UserError(
                f"{run_dir} holds a run with another configuration ({key}: {stands.get(key)!r} there, "
                f"{given.get(key)!r} here{more}); name another folder with --run-dir"
            )
    if trainer.config.train.init_from is not None:
        check_unchanged(run_dir, trainer.config.train.init_from)
    state = load_checkpoint(saved[-1], trainer.engine.device)
    try:
        trainer.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise UserError(f"{saved[-1]}: not a checkpoint of this run ({str(error).splitlines()[0]})") from None


def results_depend_on(config: RunConfig) -> dict[str, Any]:
    """A configuration as dotted keys, without what may change in a continuation."""
    return dict(leaves(config.model_dump(mode="json", exclude=CHANGES_NO_RESULT)))


def _claim(run_dir: Path, config: RunConfig, place: Engine, images: RunImages) -> None:
    """Writes what the run is before its first step."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run_dir}: cannot be made a run folder ({error.strerror or error})") from None
    remove_leftovers(run_dir)
    split = {
        "description": images.description,
        "train": [entry.name for entry in images.train],
        "held_out": [entry.name for entry in images.held_out],
    }
    write_text(run_dir / "config.json", json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
    write_text(run_dir / "environment.json", json.dumps(environment(place), indent=2) + "\n")
    write_text(run_dir / "split.json", json.dumps(split, indent=2) + "\n")


def _tracker(config: RunConfig, run_dir: Path, images_seen: int, quiet: bool, place: Engine) -> Tracker:
    return Tracker(
        run_dir,
        total_images=config.train.images,
        start_images=images_seen,
        tensorboard=config.train.tensorboard,
        wandb=config.train.wandb,
        run_config=config.model_dump(mode="json"),
        quiet=quiet,
        enabled=place.is_main,
    )


def _final_evaluation(
    config: RunConfig, run_dir: Path, place: Engine, tokenizer: Tokenizer, images: RunImages
) -> Evaluation:
    evaluation = evaluate(tokenizer, images.held_out, config.eval, device=place.device)
    if place.is_main:
        write_text(run_dir / "eval.json", json.dumps(evaluation.to_json(), indent=2) + "\n")
    return evaluation
