"""A loss or a gradient that is not finite stops the run in one line; what was saved before stays as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runs import ADVERSARIAL, largest_difference, small_recipe, small_run, step_batches, tensors, trainer, vaevq
from vaevq.errors import UserError
from vaevq.losses import objective
from vaevq.quantization import vlq
from vaevq.training.checkpoint import checkpoints, load_checkpoint
from vaevq.training.tokenizer_step import TokenizerTrainer


class NanGradient(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.nan


def poisoned(original: Callable[..., Tensor], call: int, poison: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """`original`, whose result is poisoned from a call on."""
    calls = 0

    def replaced(*given: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        value = original(*given, **options)
        return poison(value) if calls >= call else value

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
    with pytest.raises(UserError) as caught:
        made.step(third)
    assert str(caught.value).startswith(f"{message} in step 3 (after 8 images)")
    assert "train.learning_rate" in str(caught.value)
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
    recipe, run_dir = small_recipe(tmp_path, photos), tmp_path / "run"
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
    assert all(bool(t.isfinite().all()) for t in tensors(load_checkpoint(path, torch.device("cpu"))).values())
    assert not (run_dir / "eval.json").exists()
    # What went wrong is mended: the run goes on from there as if nothing had been.
    assert vaevq("train", recipe, "--run-dir", run_dir, "--quiet").code == 0
    assert vaevq("train", recipe, "--run-dir", tmp_path / "whole", "--quiet").code == 0
    ends = [
        tensors(load_checkpoint(folder / "checkpoints" / "000000000020.pt", torch.device("cpu")))
        for folder in (run_dir, tmp_path / "whole")
    ]
    assert largest_difference(*ends) == 0


def test_far_too_high_a_learning_rate_is_told_as_such(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, photos, train={"learning_rate": 1e30, "checkpoint_every": 4})
    outcome = vaevq("train", recipe, "--run-dir", tmp_path / "run", "--quiet")
    assert outcome.code == 2
    assert "is not finite in step 2 (after 4 images); try a lower train.learning_rate" in outcome.err
    assert outcome.err.count("\n") == 1
    (path,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert load_checkpoint(path, torch.device("cpu"))["images_seen"] == 4
