"""The diagnosis of a run: of its own weights, images and checkpoints, and diagnosis.json at its end."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vaevq.config import EvalConfig, RunConfig, TokenizerConfig, read_json
from vaevq.data.held_out import RunImages, run_images
from vaevq.diagnostics.diagnose import Diagnosis, diagnose
from vaevq.errors import UserError
from vaevq.files import write_text
from vaevq.nn.discriminator import PatchDiscriminator
from vaevq.tokenizer import Tokenizer
from vaevq.training.checkpoint import checkpoints, load_checkpoint

FILE = "diagnosis.json"


def diagnose_run(run: Path, *, device: torch.device | str) -> Diagnosis:
    """The diagnosis of a run's averaged weights on its own images.

    Args:
        run: the folder of a run that has written a model. Its last checkpoint has the discriminator, the last
            regular one before it is what stability is measured against; either may be missing.
        device: where the networks run.

    Raises:
        UserError: no run folder, or one without a model; see `diagnose`.
    """
    if not (run / "split.json").is_file():
        raise UserError(f"{run}: diagnostics need the folder of a run, for its held-out and training images")
    config = read_json(RunConfig, run / "config.json")
    images = run_images(config.data, config.seed)
    return _diagnosed(run, config, Tokenizer.from_pretrained(run), images, config.eval, device)


def write_diagnosis(
    run: Path, config: RunConfig, tokenizer: Tokenizer, images: RunImages, *, device: torch.device | str
) -> None:
    """Writes diagnosis.json of a run at its end, of at most `train.evaluate_images` held-out images.

    What stands there of the same weights stays. Nothing of it waits for another process.

    Args:
        run: its folder, with its checkpoints.
        tokenizer: its averaged weights.

    Raises:
        UserError: see `diagnose`; a damaged checkpoint.
    """
    path = run / FILE
    if path.is_file() and _digest(path) == tokenizer.digest:
        return
    limit = min(config.train.evaluate_images, config.eval.images or len(images.held_out))
    few = config.eval.model_copy(update={"images": max(2, limit)})
    found = _diagnosed(run, config, tokenizer, images, few, device)
    write_text(path, json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n")


@contextmanager
def may_fail(say: Callable[[str], None], what: str) -> Iterator[None]:
    """A diagnosis that fails is a line, `what: why`: no run ends for want of one."""
    try:
        yield
    except (UserError, RuntimeError) as error:  # torch's own: too little memory, eigenvalues that do not converge
        say(f"{what}: {(str(error).splitlines() or [type(error).__name__])[0]}")


def _diagnosed(
    run: Path,
    config: RunConfig,
    tokenizer: Tokenizer,
    images: RunImages,
    options: EvalConfig,
    device: torch.device | str,
) -> Diagnosis:
    saved = checkpoints(run / "checkpoints")
    return diagnose(
        tokenizer,
        images.held_out,
        images.train,
        options,
        config.loss,
        device=device,
        earlier=_earlier(config, tokenizer.config, saved),
        discriminator=_discriminator(config, saved[-1]) if saved and config.loss.adversarial_weight else None,
    )


def _earlier(config: RunConfig, model: TokenizerConfig, saved: Sequence[Path]) -> Tokenizer | None:
    """The state at the last regular checkpoint before the end: one that Ctrl-C left may be of any step.

    None where its codebook has another size: an index means something else there.
    """
    every, last = config.train.checkpoint_every, int(saved[-1].stem) if saved else 0
    regular = [path for path in saved if int(path.stem) < last and int(path.stem) % every < config.train.batch_size]
    if not regular:
        return None
    earlier, weights = Tokenizer(model), load_checkpoint(regular[-1])["average"]
    embedding = weights.get("quantizer.codebook.embedding")
    if embedding is not None and len(embedding) != model.quantizer.codebook_size:
        return None
    earlier.load_state_dict(weights)
    return earlier


def _discriminator(config: RunConfig, checkpoint: Path) -> PatchDiscriminator | None:
    """None before it has joined: its term has no part in the loss."""
    loss, state = config.loss, load_checkpoint(checkpoint)
    if not loss.has_discriminator(state["images_seen"] - config.train.batch_size):
        return None
    channels = config.model.autoencoder.image_channels
    discriminator = PatchDiscriminator(channels, loss.discriminator_width, loss.discriminator_layers)
    discriminator.load_state_dict(state["discriminator"])
    return discriminator


def _digest(path: Path) -> Any:
    """Of the weights that a diagnosis is of; None where the file is damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return tree.get("model_digest") if isinstance(tree, dict) else None
