"""What is not finite changes no weight: the step is named and skipped, or the run goes back or stops, by option."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from generators import small_generator_tree, write_tokens
from runs import (
    ADVERSARIAL,
    largest_difference,
    metrics,
    small_recipe,
    small_run,
    step,
    step_batches,
    tensors,
    trainer,
    vaevq,
    weights,
)
from vaevq.config import QUANTIZERS
from vaevq.data.held_out import run_images
from vaevq.generation.autoregressive import Autoregressive
from vaevq.generation.masked import Masked
from vaevq.losses import objective
from vaevq.metrics.codebook import TokenHistogram
from vaevq.quantization import vlq
from vaevq.quantization.posterior import Posterior
from vaevq.training.checkpoint import checkpoints, load_checkpoint
from vaevq.training.codebook_fit import fit_codebook
from vaevq.training.engine import Engine
from vaevq.training.nonfinite import NotFiniteError, check_finite
from vaevq.training.tokenizer_step import TokenizerTrainer


class NanGradient(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.nan


def poisoned(
    original: Callable[..., Tensor], call: int, poison: Callable[[Tensor], Tensor], until: float = math.inf
) -> Callable[..., Tensor]:
    """`original`, whose result is poisoned from one call to another."""
    calls = 0

    def replaced(*given: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        value = original(*given, **options)
        return poison(value) if call <= calls <= until else value

    return replaced


def nan(value: Tensor) -> Tensor:
    return value * torch.nan


def inf(value: Tensor) -> Tensor:
    return value / 0


def state(made: TokenizerTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors(made.state_dict()).items()}


# (what is poisoned: module and function, its call in step 3, the poison, what the message says)
CASES = {
    "rcs": (vlq, "representation_coherence", 3, nan, "loss term 'rcs' is not finite"),
    "rcs infinite": (vlq, "representation_coherence", 3, inf, "loss term 'rcs' is not finite"),
    "pixel": (objective, "reduce", 3, nan, "loss term 'pixel' is not finite"),
    "adversarial": (objective, "tokenizer_adversarial", 1, nan, "loss term 'adversarial' is not finite"),
    "adaptive weight": (objective, "adaptive_weight", 1, nan, "loss term 'total' is not finite"),
    "gradient": (vlq, "representation_coherence", 3, NanGradient.apply, "the gradient is not finite"),
    "discriminator": (objective, "discriminator_hinge", 1, nan, "loss term 'discriminator' is not finite"),
    "its gradient": (objective, "discriminator_hinge", 1, NanGradient.apply, "the gradient is not finite"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_names_what_is_not_finite_and_keeps_the_weights(
    photos: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    module, name, call, poison, message = CASES[case]
    monkeypatch.setattr(module, name, poisoned(getattr(module, name), call, poison))
    made = trainer(small_run(photos, loss=ADVERSARIAL))
    *good, third = step_batches(made.config, 3)
    for batches in good:
        made.step(batches)
    before = state(made)
    with pytest.raises(NotFiniteError) as caught:
        made.step(third)
    assert str(caught.value).startswith(f"{message} in step 3 (after 8 images)")
    after = state(made)
    # The tokenizer's turn comes first; what goes wrong in the discriminator's leaves the discriminator as it was.
    part = "discriminator" if "discriminator" in name else ""
    kept = {key for key in before if key.startswith(part) and not key.startswith("lecam")}
    assert len(kept) >= 8
    assert largest_difference({k: before[k] for k in kept}, {k: after[k] for k in kept}) == 0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in after.values())
    assert made.images_seen == 8


def test_the_run_stops_and_its_last_checkpoint_stays(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run_dir = small_recipe(tmp_path, photos, train={"on_nonfinite": "stop"}), tmp_path / "run"
    with monkeypatch.context() as patch:
        # The fourth step's is the fifth call: the diagnostics at 8 images make one.
        patch.setattr(vlq, "representation_coherence", poisoned(vlq.representation_coherence, 5, nan))
        outcome = vaevq("train", recipe, "--run-dir", run_dir, "--quiet")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "vaevq: error: loss term 'rcs' is not finite in step 4 (after 12 images); try a lower train.learning_rate; "
        "the last checkpoint is kept\n"
    )
    (path,) = checkpoints(run_dir / "checkpoints")
    assert path.name == "000000000008.pt"
    assert all(bool(t.isfinite().all()) for t in tensors(load_checkpoint(path)).values())
    assert not (run_dir / "eval.json").exists()
    # What went wrong is mended: the run goes on from there as if nothing had been.
    assert vaevq("train", recipe, "--run-dir", run_dir, "--quiet").code == 0
    assert vaevq("train", recipe, "--run-dir", tmp_path / "whole", "--quiet").code == 0
    ends = [
        tensors(load_checkpoint(folder / "checkpoints" / "000000000020.pt")) for folder in (run_dir, tmp_path / "whole")
    ]
    assert largest_difference(*ends) == 0


def test_far_too_high_a_learning_rate_is_told_as_such(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, photos, train={"learning_rate": 1e30, "checkpoint_every": 4, "nonfinite_limit": 3})
    outcome = vaevq("train", recipe, "--run-dir", tmp_path / "run", "--quiet")
    assert outcome.code == 2
    assert "is not finite in step 4 (after 12 images), which makes 3 steps in a row; try a lower" in outcome.err
    assert outcome.err.count("\n") == 1
    (path,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert load_checkpoint(path)["images_seen"] == 4


EVERY: dict[str, dict[str, Any]] = {
    **{kind: {"model": {"quantizer": {"kind": kind}}} for kind in QUANTIZERS if kind != "movq"},
    "vaevq": {"model": {"quantizer": {"revive_below": 0.5}}, "loss": {**ADVERSARIAL, "adversarial_start": 0}},
    "paper": {
        "model": {"quantizer": {"codebook": "projected", "dcr_weight": 0.1, "dcr_target": "aggregate_posterior"}},
        "loss": {**ADVERSARIAL, "adversarial_start": 0},
    },
    "adaptive": {"adapt": {"by": "usage", "every": 4, "start": 0, "until": 1}, "train": {"images": 40}},
}


@pytest.mark.parametrize("name", EVERY)
def test_after_images_that_are_not_finite_a_run_is_as_if_they_had_not_been_there(photos: Path, name: str) -> None:
    """Nothing of them is left in weights, optimizers, averages, codebooks, running moments or measurements."""
    made, twin = (trainer(small_run(photos, **EVERY[name])) for _ in range(2))
    *before, bad, after = step_batches(made.config, 4)
    for batches in before:
        step(made, batches), step(twin, batches)
    with pytest.raises(NotFiniteError, match=r"loss term '[a-z]+' is not finite in step 3"):
        step(made, [replace(batch, images=batch.images * torch.nan) for batch in bad])
    # What a step begins with, where the codebook is made of images, or its size searched for.
    fit_codebook(twin, run_images(twin.config.data, twin.config.seed).train)
    twin._adapt()
    assert largest_difference(state(made), state(twin)) == 0
    for trained in (made, twin):
        trained.images_seen += 4
        step(trained, after)
    assert largest_difference(state(made), state(twin)) == 0


def poison_step(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Of a run whose RCS would be computed in the steps alone (`monitor` computes it as well, elsewhere)."""
    original = TokenizerTrainer.step

    def replaced(made: TokenizerTrainer, batches: Any) -> Any:
        if made.images_seen // 4 + 1 in steps:
            batches = [replace(batch, images=batch.images * torch.nan) for batch in batches]
        return original(made, batches)

    monkeypatch.setattr(TokenizerTrainer, "step", replaced)


def test_by_default_the_step_is_skipped_said_and_counted(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run_dir = small_recipe(tmp_path, photos), tmp_path / "run"
    with monkeypatch.context() as patch:
        poison_step(patch, 3)
        outcome = vaevq("train", recipe, "--run-dir", run_dir, "--quiet")
    assert outcome.code == 0, outcome.err
    said = "warning: loss term 'pixel' is not finite in step 3 (after 8 images): the step is skipped"
    assert (run_dir / "log.txt").read_text().count(said) == 1
    train = {row["images_seen"]: row for row in metrics(run_dir) if row["split"] == "train"}
    assert [row.get("steps_passed_over") for row in train.values()] == [None, None, 1.0, None, None]
    assert "loss/total" not in train[12], "a line of a step that was not made has no losses"
    assert all(bool(value.isfinite().all()) for value in weights(run_dir).values())


def test_so_many_in_a_row_stop_the_run_and_push_out_no_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {"checkpoint_every": 4, "keep_checkpoints": 1, "nonfinite_limit": 3}
    recipe, run_dir = small_recipe(tmp_path, photos, train=often), tmp_path / "run"
    with monkeypatch.context() as patch:
        poison_step(patch, 1, 3, 4, 5)
        outcome = vaevq("train", recipe, "--run-dir", run_dir, "--quiet")
    assert outcome.code == 2
    assert outcome.err == (
        "vaevq: error: loss term 'pixel' is not finite in step 5 (after 16 images), which makes 3 steps in a row; "
        "try a lower train.learning_rate; the last checkpoint is kept\n"
    )
    assert [path.name for path in checkpoints(run_dir / "checkpoints")] == ["000000000008.pt"]
    # The options may differ in a continuation: they change no result of steps that can be made.
    assert vaevq("train", recipe, "train.on_nonfinite=rollback", "--run-dir", run_dir, "--quiet").code == 0


def test_rolled_back_a_run_goes_on_from_the_last_checkpoint_with_the_next_images(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run_dir = small_recipe(tmp_path, photos, train={"on_nonfinite": "rollback"}), tmp_path / "run"
    with monkeypatch.context() as patch:
        poison_step(patch, 1, 4)
        outcome = vaevq("train", recipe, "--run-dir", run_dir, "--quiet")
    assert outcome.code == 0, outcome.err
    log = (run_dir / "log.txt").read_text()
    assert "in step 1 (after 0 images): the step is skipped" in log, "there is nothing to go back to yet"
    assert "in step 4 (after 12 images): back to the weights of 000000000008.pt, on with the next images" in log
    # By hand: the second step, saved, and the fifth step's images from there; the third is lost, the fourth was bad.
    made = trainer(small_run(photos, train={"on_nonfinite": "rollback"}))
    batches = step_batches(made.config, 5)
    for number in (2, 5):
        made.images_seen = 4 * (number - 1)
        step(made, batches[number - 1])
    ended = tensors(load_checkpoint(run_dir / "checkpoints" / "000000000020.pt"))
    assert largest_difference(ended, state(made)) == 0


@pytest.mark.parametrize("kind", ["ar", "mask"])
def test_a_generator_skips_and_stops_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    tokens = write_tokens(tmp_path / "t.safetensors")
    tree = small_generator_tree(tokens, kind, train={"nonfinite_limit": 2})
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
    network = {"ar": Autoregressive, "mask": Masked}[kind]
    original = network.forward
    for poison, last, code in ((nan, 3, 0), (NanGradient.apply, 3, 0), (nan, math.inf, 2)):
        run_dir = tmp_path / f"run-{poison.__name__}-{last}"
        with monkeypatch.context() as patch:
            patch.setattr(network, "forward", poisoned(original, 3, poison, last))
            outcome = vaevq("generate", "train", tmp_path / "small.yaml", "--run-dir", run_dir, "--quiet")
        assert outcome.code == code, outcome.err
        assert "is not finite in step 3 (after 8 images)" in (run_dir / "log.txt").read_text()
        assert all(bool(value.isfinite().all()) for value in weights(run_dir).values())
    assert outcome.err.startswith("vaevq: error: loss term 'tokens' is not finite in step 4 (after 12 images), which")


class Reads(TorchDispatchMode):
    """Counts the numbers that are read, for each of which a GPU would be waited for."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), options: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*given, **(options or {}))


def test_a_finite_step_is_found_so_by_one_number() -> None:
    place = Engine(torch.device("cpu"), torch.float32, None, 0, 1)
    terms = {name: torch.ones(3) for name in "abcdef"}
    with Reads() as reads:
        check_finite(place, terms, torch.ones(()), "in step 1")
    assert reads.count == 1
    mixed = {**terms, "g": torch.tensor([1.0, torch.nan], dtype=torch.bfloat16)}
    with pytest.raises(NotFiniteError, match=r"^loss term 'g' is not finite in step 1$"):
        check_finite(place, mixed, torch.ones(()), "in step 1")


def test_a_forward_pass_reads_one_number_the_images_seen() -> None:
    layer = vlq.VariationalLatentQuantizer(4, 8, quantize_from=6).train()
    posterior, tokens = Posterior(torch.zeros(4, 4, 2, 2), torch.zeros(4, 4, 2, 2)), TokenHistogram(8)

    def continuous() -> bool:
        found = layer(posterior)
        tokens.update(found.tokens)
        return found.continuous is None

    for expected in (True, False):
        with Reads() as reads:
            assert continuous() == expected
            assert continuous() == expected
        assert reads.count == 2
        layer.finish_step()
    layer.load_state_dict({**layer.state_dict(), "images_seen": torch.tensor(5)})
    assert continuous()
