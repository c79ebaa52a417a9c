"""A generator's training run, from a configuration to a run folder; the same on one process and under torchrun.

Running it again on the same folder continues it. The folder holds config.json, environment.json, tokens.json,
metrics.jsonl, log.txt, checkpoints/, model/ (averaged weights, and the tokenizer where it lies beside the tokens) and,
at the end, eval.json.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaevq.card import weights_checksum
from vaevq.config import GeneratorConfig, GeneratorRunConfig, LatentsConfig, TokensConfig
from vaevq.data.token_set import Integers, TokenBatch, TokenSet, read_token_set, token_batches
from vaevq.distributed import all_reduce_sum
from vaevq.errors import UserError
from vaevq.files import write_json
from vaevq.generation.generator import Generator
from vaevq.tokenizer import Tokenizer
from vaevq.training.engine import Engine, engine
from vaevq.training.generator_step import GeneratorTrainer
from vaevq.training.latents import measured_latents
from vaevq.training.loop import Loop, check_batch
from vaevq.training.run_start import claim, open_tracker, resume
from vaevq.training.tracking import Tracker

TOKENS_FILE = "tokens.json"


@dataclass(frozen=True)
class RunTokens:
    """The two sides of a run's tokens.

    Attributes:
        train, held_out: where they are.
        train_items, held_out_items: which of these sets' items.
    """

    train: TokenSet
    train_items: Integers
    held_out: TokenSet
    held_out_items: Integers


@dataclass(frozen=True)
class GeneratorResult:
    """What a finished run gives.

    Attributes:
        run_dir: its folder.
        generator: with the averaged weights, in evaluation mode.
        figures: of the held-out images, as eval.json.
        images: how many these are.
        is_main: whether this is the process that writes files.
    """

    run_dir: Path
    generator: Generator
    figures: dict[str, float]
    images: int
    is_main: bool


def run_tokens(config: GeneratorRunConfig) -> RunTokens:
    """Reads a run's tokens and tells the two sides apart.

    Raises:
        UserError: none are named, they cannot be read, or the two sets are of different kinds, or not apart.
    """
    if config.data.tokens is None:
        raise UserError("data.tokens: name the tokens to learn from with --tokens: what vaevq encode has written")
    wanted = config.data.latents if config.network.of_latents else "codewords"
    tokens = read_token_set(config.data.tokens, latents=wanted)
    if config.network.conditional and tokens.labels is None:
        raise UserError(f"{tokens.source}: tokens without labels; network.conditional=false makes do without them")
    if config.data.held_out is None:
        train, held_out = tokens.split(config.data.held_out_share, config.seed)
        return RunTokens(tokens, train, tokens, held_out)
    others = read_token_set(config.data.held_out, latents="codewords" if tokens.latents is None else "continuous")
    tokens.check_like(others)
    tokens.check_apart_from(others)
    if others.class_count > tokens.class_count or (others.labels is None) != (tokens.labels is None):
        raise UserError(f"{others.source}: its labels are not those of {tokens.source}")
    measured = np.flatnonzero(others.unchanged)
    return RunTokens(tokens, np.arange(len(tokens)), others, measured if len(measured) else np.arange(len(others)))


def model_config(config: GeneratorRunConfig, tokens: TokenSet, latents: LatentsConfig | None = None) -> GeneratorConfig:
    """What a generator of these tokens is built from; of kind diffusion, of these latents."""
    return GeneratorConfig(
        network=config.network,
        latents=latents,
        tokens=TokensConfig(
            codebook_size=tokens.codebook_size,
            grid=tokens.grid,
            codes_per_position=tokens.codes_per_position,
            image_size=tokens.size,
            tokenizer_digest=tokens.model_digest,
            class_count=tokens.class_count if config.network.conditional else 0,
            classes=tokens.classes if config.network.conditional else (),
        ),
    )


def train_generator(config: GeneratorRunConfig, run_dir: Path, *, quiet: bool = False) -> GeneratorResult:
    """Trains, or continues, and measures the held-out images.

    Raises:
        UserError: bad tokens or options; a folder with a run of other options or tokens; a loss that is not finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the checkpoint is saved.
    """
    with engine(config.train.device, config.train.precision) as place:
        check_batch(config.train, place)
        if config.train.parallel == "fsdp" and place.world_size == 1:
            raise UserError("train.parallel: fsdp has no effect on one process: start several with torchrun")
        with place.together():
            tokens = run_tokens(config)
            beside = tokens.train.tokenizer
            tokenizer = None if beside is None else Tokenizer.from_pretrained(beside)
            latents = (
                measured_latents(tokens.train, tokens.train_items, tokenizer) if config.network.of_latents else None
            )
        model = model_config(config, tokens.train, latents)
        trainer = GeneratorTrainer(config, model, place)
        with place.together():
            if tokenizer is not None:
                trainer.averaged.take_tokenizer(tokenizer)
            resume(trainer, config, run_dir, data_file=TOKENS_FILE, data=_about(tokens, model))
        with place.together():
            if place.is_main:
                claim(run_dir, config, place, TOKENS_FILE, _about(tokens, model))
        with ExitStack() as stack:
            with place.together():
                tracker = stack.enter_context(open_tracker(config, run_dir, trainer.images_seen, quiet, place))
            if tokenizer is None:
                tracker.message("there is no tokenizer beside the tokens: sampling images will need --tokenizer")
            loop = _Loop(config, run_dir, place, trainer, tokens, tracker)
            loop.run()
            figures, generator = loop.measure(len(tokens.held_out_items)), loop.model
            if place.is_main:
                measured = {"figures": figures, "weights": weights_checksum(run_dir / "model")}
                write_json(run_dir / "eval.json", measured)
                generator.renew_page(run_dir / "model")
        return GeneratorResult(run_dir, generator, figures, len(tokens.held_out_items), place.is_main)


class _Loop(Loop[TokenBatch]):
    """The steps of a generator's run and what happens between them."""

    def __init__(
        self,
        config: GeneratorRunConfig,
        run_dir: Path,
        place: Engine,
        trainer: GeneratorTrainer,
        tokens: RunTokens,
        tracker: Tracker,
    ) -> None:
        super().__init__(config.train, run_dir, place, trainer, tracker)
        self.config, self.trainer, self.tokens = config, trainer, tokens
        if trainer.sharded:  # no weight is on two processes
            self.digest_every = 0

    def batches(self, total: int) -> Iterator[TokenBatch]:
        """See `Loop.batches`."""
        return token_batches(
            self.tokens.train,
            self.tokens.train_items,
            seed=self.config.seed,
            start=self.trainer.images_seen,
            stop=total,
            batch_size=self.train.batch_size // self.train.accumulation,
            rank=self.place.rank,
            world_size=self.place.world_size,
        )

    def next_step(self, batches: Iterator[TokenBatch]) -> list[TokenBatch]:
        """See `Loop.next_step`; tokens were checked when they were read."""
        return list(islice(batches, self.train.accumulation))

    def log(self) -> None:
        """The mean loss since the last log."""
        self.tracker.train(self.trainer.images_seen, {**self.loss_means(), "learning_rate": self.learning_rate})

    def evaluate(self) -> None:
        """The figures of a few held-out images."""
        self.tracker.held_out(self.trainer.images_seen, self.measure(self.config.train.evaluate_images))

    @torch.no_grad()
    def measure(self, most: int) -> dict[str, float]:
        """The figures of at most `most` held-out images, evenly spaced, by the averaged weights."""
        items = self.tokens.held_out_items
        count = min(most, len(items))
        chosen = items[np.arange(count) * len(items) // count]
        network, share = self.trainer.averaged.network, self.train.batch_size // self.train.accumulation
        sums = torch.zeros((), dtype=torch.float64)
        starts = range(0, count, share)
        rounds = -(-len(starts) // self.place.world_size)
        # Each process has as many batches as the others, the last ones for nothing: sharded ones wait for each other.
        for number in range(self.place.rank, rounds * self.place.world_size, self.place.world_size):
            first = starts[number] if number < len(starts) else 0
            places = np.arange(first, min(count, first + share))
            batch = self.tokens.held_out.batch(chosen[places], places)
            with self.place.autocast():
                of_batch = network.held_out(*self.trainer.prepared(batch))
            sums = sums + of_batch * (number < len(starts))
        total = all_reduce_sum(sums.to(self.place.device)) if self.place.world_size > 1 else sums
        return dict(network.figures(total))

    @property
    def model(self) -> Generator:
        """The generator with averaged weights."""
        return self.trainer.gathered()


def _about(tokens: RunTokens, model: GeneratorConfig) -> dict[str, Any]:
    train, held_out = tokens.train, tokens.held_out
    return {
        "tokens": train.source,
        "held_out": held_out.source,
        "model_digest": train.model_digest,
        "train_items": len(tokens.train_items),
        "held_out_items": len(tokens.held_out_items),
        "held_out_names": [held_out.names[i] for i in held_out.images[tokens.held_out_items].tolist()],
        **({} if model.latents is None else {"latents": model.latents.model_dump()}),
    }
