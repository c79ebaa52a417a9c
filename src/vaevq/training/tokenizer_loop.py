"""A tokenizer's training run, from a configuration to a run folder; the same on one process and under torchrun.

Running it again on the same folder continues it. The folder holds config.json, environment.json, split.json, init.json
where it starts from a saved model, metrics.jsonl, log.txt, checkpoints/, model/ (averaged weights) and, at the end,
eval.json and diagnosis.json.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from vaevq.config import EvalConfig, RunConfig, VqganLcConfig
from vaevq.data.held_out import RunImages, run_images
from vaevq.data.loader import ImageBatch, killed_workers_named, training_batches
from vaevq.data.split import subjects_of
from vaevq.data.unreadable import UnreadableLog
from vaevq.data.volumes.entries import check_channels
from vaevq.diagnostics.gradients import gradient_batch
from vaevq.diagnostics.monitor import Monitor
from vaevq.errors import UserError
from vaevq.files import write_json
from vaevq.metrics.codebook import TokenHistogram
from vaevq.metrics.evaluation import Evaluation, evaluate
from vaevq.metrics.networks import load_feature_network, load_lpips, lpips_network
from vaevq.tokenizer import Tokenizer
from vaevq.training import run_diagnosis
from vaevq.training.checkpoint import checkpoints
from vaevq.training.codebook_fit import fit_codebook, vector_source
from vaevq.training.collapse import CollapseWatch
from vaevq.training.engine import Engine, engine
from vaevq.training.initialization import Initialization, check_unchanged
from vaevq.training.loop import Loop, check_batch
from vaevq.training.run_start import claim, open_tracker, resume
from vaevq.training.tokenizer_step import TokenizerTrainer
from vaevq.training.tracking import Tracker

FEW_IMAGES = 500
"""With fewer training images than this, a warning."""


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
        images = what_it_needs(config, place)
        trainer = TokenizerTrainer(config, place)
        with place.together():
            resume(
                trainer,
                config,
                run_dir,
                follow={"model.quantizer.quantize_from"},
                data_file="split.json",
                data=_subjects(images),
            )
        continues, initialization = bool(checkpoints(run_dir / "checkpoints")), None
        with place.together():
            if config.train.init_from is not None and continues:
                check_unchanged(run_dir, config.train.init_from)
            elif config.train.init_from is not None:
                initialization = trainer.initialize(config.train.init_from)
            if not trainer.tokenizer.quantizer.is_fitted:
                vector_source(config.model.quantizer)
        with place.together():
            if place.is_main:
                claim(run_dir, config, place, "split.json", _split(images))
                if initialization is not None:
                    initialization.write(run_dir)
        with ExitStack() as stack:
            with place.together():
                tracker = stack.enter_context(open_tracker(config, run_dir, trainer.images_seen, quiet, place))
            for line in _opening_lines(trainer, images, initialization):
                tracker.message(line)
            with killed_workers_named(config.data.workers):
                _Loop(config, run_dir, place, trainer, images, tracker).run()
            tokenizer = trainer.averaged
            tracker.message(f"evaluating on {len(images.held_out)} held-out images")
            evaluation = _final_evaluation(config, run_dir, place, tokenizer, images)
            if place.is_main:
                with run_diagnosis.may_fail(tracker.message, "no diagnosis.json"):
                    run_diagnosis.write_diagnosis(run_dir, config, tokenizer, images, device=place.device)
        return TrainingResult(run_dir, tokenizer, images, evaluation, place.is_main)


def what_it_needs(config: RunConfig, place: Engine) -> RunImages:
    """The images of a run, once all that it will read, to its end, has been found: none may fail for want of it after
    hours. All processes call it.

    Raises:
        UserError: something is not there; a batch that cannot be shared; images of another number of channels.
    """
    check_batch(config.train, place)
    with place.together():
        images = run_images(config.data, config.seed)
        for side in (images.train, images.held_out):
            check_channels(side[0], config.model.autoencoder.image_channels)
        load_lpips(config.eval, torch.device("cpu"))
        load_feature_network(config.eval, torch.device("cpu"))
        if config.loss.perceptual_weight:
            lpips_network(config.loss.perceptual_network, config.loss.perceptual_weights_path)
    return images


class _Loop(Loop[ImageBatch]):
    """The steps of a tokenizer's run and what happens between them."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        place: Engine,
        trainer: TokenizerTrainer,
        images: RunImages,
        tracker: Tracker,
    ) -> None:
        super().__init__(config.train, run_dir, place, trainer, tracker)
        self.config, self.trainer, self.images = config, trainer, images
        self.unreadable = UnreadableLog()
        self.monitor = self._monitor() if place.is_main else None
        self.watch = CollapseWatch(config)

    def _monitor(self) -> Monitor:
        config, cut = self.config, None
        with run_diagnosis.may_fail(self.tracker.message, "no gradients of single terms in the log"):
            cut = gradient_batch(self.images.train, config.eval, config.model.autoencoder.image_channels)
        return Monitor(self.images.held_out, self._few_images, cut)

    def step(self, batches: Sequence[ImageBatch]) -> Mapping[str, float]:
        """See `Loop.step`: a codebook that is made of images is made before, and a search for its size is told of."""
        if made := fit_codebook(self.trainer, self.images.train):
            self.tracker.message(made)
        before = self.trainer.images_seen
        try:
            return self.trainer.step(batches)
        finally:
            if self.trainer.look is not None:
                self.tracker.message(f"{before:,} images | {self.trainer.look}")

    def batches(self, total: int) -> Iterator[ImageBatch]:
        """See `Loop.batches`."""
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

    def next_step(self, batches: Iterator[ImageBatch]) -> list[ImageBatch]:
        """See `Loop.next_step`: images that cannot be read are passed over, and too many of them are a mistake."""
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

    def log(self) -> None:
        """Means since the last log, and how the codebook was used."""
        values = self.loss_means()
        sampled: TokenHistogram = self.trainer.tokens
        sampled.all_reduce()
        statistics = sampled.statistics()
        values["codebook/usage_training_queries"] = statistics.usage
        values["codebook/perplexity_training_queries"] = statistics.perplexity
        if self.trainer.adaptation is not None:
            values["codebook/size"] = statistics.codebook_size
        values["learning_rate"] = self.learning_rate
        self.tracker.train(self.trainer.images_seen, values)
        self.trainer.reset_tokens()

    def evaluate(self) -> None:
        """PSNR and usage of a few held-out images, and on the main process why they are as they are."""
        options = self._few_images.model_copy(update={"metrics": ("psnr",), "soft": False})
        evaluation = evaluate(self.model, self.images.held_out, options, device=self.place.device)
        wanted = ("psnr", "usage", "usage_ceiling", "perplexity")
        self.tracker.held_out(self.trainer.images_seen, {name: evaluation.figures[name] for name in wanted})
        values: dict[str, float] = {}
        if self.monitor is not None:
            seen = self.trainer.images_seen
            # In the step that ended now.
            joined = self.config.loss.has_discriminator(seen - self.config.train.batch_size)
            with run_diagnosis.may_fail(self.tracker.message, f"no diagnostics at {seen} images"):
                values = self.monitor.measure(
                    self.model, self.trainer.objective, self.trainer.discriminator if joined else None
                )
                self.tracker.diagnostics(seen, values)
        self._watch(evaluation, values)

    def _watch(self, evaluation: Evaluation, diagnostics: Mapping[str, float]) -> None:
        """Warns where the codebook falls out of use; before codewords are decoded nothing is asked of it."""
        if self.trainer.images_seen <= getattr(self.config.model.quantizer, "quantize_from", 0):
            return
        counted = TokenHistogram.of_counts(evaluation.histogram, evaluation.codebooks)
        if warning := self.watch.look(counted.statistics(), diagnostics):
            self.tracker.message(warning)

    @property
    def _few_images(self) -> EvalConfig:
        """What is measured on the way is of few held-out images."""
        limit = min(self.config.train.evaluate_images, len(self.images.held_out))
        return self.config.eval.model_copy(update={"images": limit})

    def has_saved(self) -> None:
        """See `Loop.has_saved`: what is trained on from here has this model as an ancestor."""
        tokenizer = self.model
        tokenizer.lineage = tokenizer.lineage.after_saving(tokenizer.digest, tokenizer.quantizer.codebook_size)

    @property
    def model(self) -> Tokenizer:
        """The tokenizer with averaged weights."""
        return self.trainer.averaged


def _opening_lines(
    trainer: TokenizerTrainer, images: RunImages, initialization: Initialization | None
) -> Iterator[str]:
    """What is said before the first step, a line each."""
    if len(images.train) < FEW_IMAGES:
        yield (
            f"warning: {len(images.train)} training images are few: what is learned is theirs; "
            "a tokenizer for general use wants thousands"
        )
    yield from initialization.lines() if initialization is not None else ()
    quantizer = trainer.config.model.quantizer
    quantize_from = getattr(quantizer, "quantize_from", 0)
    if trainer.images_seen >= quantize_from:
        return
    if isinstance(quantizer, VqganLcConfig) and trainer.tokenizer.quantizer.is_fitted:
        yield "model.quantizer.quantize_from does nothing here: the codebook is there already"
    else:
        yield (
            f"the continuous path goes first: the decoder gets codewords from {quantize_from:,} images on, "
            "and held-out figures before that are of a decoder that has seen none"
        )


def _split(images: RunImages) -> dict[str, Any]:
    return {
        "description": images.description,
        "train": [entry.name for entry in images.train],
        "held_out": [entry.name for entry in images.held_out],
        **_subjects(images),
    }


def _subjects(images: RunImages) -> dict[str, Any]:
    """Of slices, whose they are, on either side: a run goes on with the same subjects or not at all."""
    sides = {"train_subjects": subjects_of(images.train), "held_out_subjects": subjects_of(images.held_out)}
    return sides if sides["train_subjects"] else {}


def _final_evaluation(
    config: RunConfig, run_dir: Path, place: Engine, tokenizer: Tokenizer, images: RunImages
) -> Evaluation:
    evaluation = evaluate(tokenizer, images.held_out, config.eval, device=place.device)
    if place.is_main:
        write_json(run_dir / "eval.json", evaluation.to_json())
        tokenizer.renew_page(run_dir / "model")
    return evaluation
