"""One step of training: accumulation, clipping, schedule, averaging, the discriminator's turn, number formats."""

import copy
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from runs import ADVERSARIAL, largest_difference, small_run, step_batches, tensors, trained, trainer
from vaevq.config import RunConfig, TrainConfig
from vaevq.errors import UserError
from vaevq.tokenizer import Tokenizer
from vaevq.training.ema import WeightAverage
from vaevq.training.reach import reaching
from vaevq.training.tokenizer_step import TokenizerTrainer, schedule


def test_one_batch_of_eight_is_two_accumulated_batches_of_four(photos: Path) -> None:
    whole, losses = trained(small_run(photos, train={"batch_size": 8, "precision": "float64"}), 4)
    shared, same = trained(small_run(photos, train={"batch_size": 8, "accumulation": 2, "precision": "float64"}), 4)
    assert largest_difference(tensors(whole.state_dict()), tensors(shared.state_dict())) < 1e-11
    assert whole.images_seen == shared.images_seen == 32
    for one, other in zip(losses, same, strict=True):
        assert one == pytest.approx(other, rel=1e-11)


@pytest.mark.parametrize(
    ("options", "codebook"), [({}, "codebook"), ({"kind": "residual"}, "stages.0")], ids=["vaevq", "residual"]
)
def test_an_averaged_codebook_goes_on_from_a_checkpoint_as_if_nothing_had_happened(
    photos: Path, options: dict[str, Any], codebook: str
) -> None:
    quantizer = {"average_decay": 0.5, "revive_below": 0.9, **options}
    config = small_run(photos, model={"quantizer": quantizer}, loss={"continuous_path": 0} if "kind" in options else {})
    batches = step_batches(config, 5)
    whole, stopped, resumed = (trainer(config) for _ in range(3))
    for step in batches:
        whole.step(step)
    for step in batches[:2]:
        stopped.step(step)
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    for step in batches[2:]:
        resumed.step(step)
    assert largest_difference(tensors(whole.state_dict()), tensors(resumed.state_dict())) == 0
    assert float(whole.average.module.state_dict()[f"quantizer.{codebook}.updates"]) == 5


def test_gradient_checkpointing_computes_layers_again_and_changes_no_weight(photos: Path) -> None:
    calls = {True: 0, False: 0}
    ends = {}
    for again in calls:
        made = trainer(small_run(photos, train={"gradient_checkpointing": again, "precision": "float64"}))
        for network in (made.tokenizer.encoder, made.tokenizer.decoder):

            def count(*_: Any, again: bool = again) -> None:
                calls[again] += 1

            network.body[0].register_forward_pre_hook(count)
        for batches in step_batches(made.config, 3):
            made.step(batches)
        ends[again] = tensors(made.state_dict())
    assert calls == {False: 6, True: 12}
    assert largest_difference(ends[True], ends[False]) < 1e-12


def trained_and_resumed(config: RunConfig) -> TokenizerTrainer:
    """A trainer after three steps, the last of which another one made from the state of the first."""
    made = trainer(config)
    for number, batches in enumerate(step_batches(config, 3)):
        if number == 2:
            resumed = trainer(config)
            resumed.load_state_dict(made.state_dict())
            made = resumed
        made.step(batches)
    return made


def test_fused_optimizers_make_the_same_steps_but_for_rounding_and_go_on_from_a_state(photos: Path) -> None:
    def run(fused: bool) -> RunConfig:
        loss = {**ADVERSARIAL, "adversarial_start": 0}
        return small_run(photos, loss=loss, train={"fused_optimizer": fused, "precision": "float64"})

    plain, _ = trained(run(False), 3)
    made = trained_and_resumed(run(True))
    for optimizer in (made.optimizer, made.discriminator_optimizer):
        assert all(group["fused"] for group in optimizer.param_groups)
    assert largest_difference(tensors(made.state_dict()), tensors(plain.state_dict())) < 1e-10


def test_channels_last_makes_the_same_steps_but_for_rounding_and_goes_on_from_a_state(photos: Path) -> None:
    def run(channels_last: bool) -> RunConfig:
        loss = {**ADVERSARIAL, "adversarial_start": 0}
        return small_run(photos, loss=loss, train={"channels_last": channels_last, "precision": "float64"})

    plain, _ = trained(run(False), 3)
    made = trained_and_resumed(run(True))
    assert made.discriminator is not None
    for network in (made.tokenizer, made.averaged, made.discriminator):
        wide = [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1]
        assert wide
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
    assert largest_difference(tensors(made.state_dict()), tensors(plain.state_dict())) < 1e-10
    assert made.averaged.digest == tokenizer_of(made.averaged.state_dict(), run(False)).digest, "whatever the format"


def tokenizer_of(state: Mapping[str, Any], config: RunConfig) -> Tokenizer:
    tokenizer = Tokenizer(config.model).double()
    tokenizer.load_state_dict(state)
    return tokenizer


@pytest.mark.slow
def test_compiled_networks_make_the_same_steps_but_for_rounding(photos: Path) -> None:
    def run(compiled: bool) -> RunConfig:
        return small_run(photos, loss={**ADVERSARIAL, "adversarial_start": 0}, train={"compile": compiled})

    plain, _ = trained(run(False), 2)
    made, _ = trained(run(True), 2)
    assert tensors(made.state_dict()).keys() == tensors(plain.state_dict()).keys()
    assert largest_difference(tensors(made.state_dict()), tensors(plain.state_dict())) < 2e-3


def test_compiling_without_a_compiler_is_one_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"^train\.compile needs a C\+\+ compiler on a CPU: install g\+\+, or name"):
        trainer(small_run(photos, train={"compile": True}))


@pytest.mark.parametrize("clip_norm", [0.01, None])
def test_the_gradient_is_clipped_to_the_norm_or_left_alone(photos: Path, clip_norm: float | None) -> None:
    def norm(clip: float | None) -> float:
        config, norms = small_run(photos, train={"clip_norm": clip, "precision": "float64"}), list[float]()
        made = trainer(config)
        made.optimizer.register_step_pre_hook(lambda *_: norms.append(gradient(made.tokenizer).norm().item()))
        made.step(step_batches(config, 1)[0])
        return norms[0]

    free = norm(1e9)
    assert free > 0.02, "there is something to clip"
    assert norm(clip_norm) == pytest.approx(clip_norm or free, rel=1e-4)


def gradient(network: nn.Module) -> Tensor:
    """All that there is of it, as one vector."""
    return torch.cat([Tensor(), *(p.grad.flatten() for p in network.parameters() if p.grad is not None)])


def test_the_gradients_of_one_network_take_no_memory_in_the_others_turn(photos: Path) -> None:
    config = small_run(photos, loss={**ADVERSARIAL, "adversarial_start": 0})
    made, sizes = trainer(config), list[tuple[int, int]]()
    assert made.discriminator is not None
    networks = made.tokenizer, made.discriminator
    for optimizer in (made.optimizer, made.discriminator_optimizer):
        optimizer.register_step_pre_hook(lambda *_: sizes.append(tuple(map(len, map(gradient, networks)))))
    for batches in step_batches(config, 2):
        made.step(batches)
    assert [(own > 0, others > 0) for own, others in sizes] == [(True, False), (False, True)] * 2


def test_the_average_of_the_weights_follows_its_equation(photos: Path) -> None:
    decay = 0.3  # reached in the fourth step: (1 + 3) / (10 + 3) > 0.3
    made = trainer(small_run(photos, train={"ema_decay": decay, "precision": "float64"}))
    slow = {name: p.detach().clone() for name, p in made.tokenizer.named_parameters()}
    for t, batches in enumerate(step_batches(made.config, 6)):
        made.step(batches)
        share = min(decay, (1 + t) / (10 + t))
        for name, p in made.tokenizer.named_parameters():
            slow[name] = share * slow[name] + (1 - share) * p.detach()
    average = dict(made.average.module.named_parameters())
    assert largest_difference(average, slow) < 1e-14
    assert largest_difference(average, dict(made.tokenizer.named_parameters())) > 1e-5, "it lags behind"


def test_without_decay_the_average_is_the_weights_and_buffers_are_copied(photos: Path) -> None:
    quantizer = {"codebook": "projected", "dcr_weight": 0.1, "dcr_target": "aggregate_posterior"}
    made, _ = trained(small_run(photos, model={"quantizer": quantizer}, train={"ema_decay": 0.0}), 3)
    assert largest_difference(made.average.module.state_dict(), made.tokenizer.state_dict()) == 0
    assert int(made.average.module.state_dict()["quantizer.moments.updates"]) == 3


def test_the_average_is_of_the_state_before_it_was_made() -> None:
    linear = torch.nn.Linear(2, 2)
    average = WeightAverage(linear, 0.9)
    with torch.no_grad():
        linear.weight.add_(1)
    assert not torch.equal(average.module.weight, linear.weight)
    assert not any(p.requires_grad for p in average.module.parameters())
    assert not average.module.training


@pytest.mark.parametrize(
    ("images_seen", "share"),
    [
        (0, 10 / 50),  # the first step of a warm-up is not lost on a rate of 0
        (10, 20 / 50),
        (30, 40 / 50),
        (40, 1.0),
        (140, 0.5 * (1 + math.cos(math.pi / 4))),
        (240, 0.5),
        (440, 0.0),
        (450, 0.0),  # the last batch may go beyond what was asked
    ],
)
def test_the_cosine_schedule(images_seen: int, share: float) -> None:
    train = TrainConfig(images=440, batch_size=10, warmup_images=40, schedule="cosine")
    assert schedule(images_seen, train) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("images_seen", "share"), [(0, 10 / 50), (30, 40 / 50), (40, 1.0), (435, 1.0)])
def test_the_constant_schedule(images_seen: int, share: float) -> None:
    train = TrainConfig(images=440, batch_size=10, warmup_images=40, schedule="constant")
    assert schedule(images_seen, train) == pytest.approx(share, abs=1e-12)


def test_a_warm_up_as_long_as_the_run_divides_by_nothing() -> None:
    train = TrainConfig(images=40, batch_size=10, warmup_images=40)
    assert [schedule(i, train) for i in (30, 40)] == [pytest.approx(40 / 50), 1.0]


def test_the_schedule_is_the_rate_of_both_optimizers(photos: Path) -> None:
    rates = {"learning_rate": 1e-3, "discriminator_learning_rate": 1e-4, "images": 40}
    made, _ = trained(small_run(photos, loss={**ADVERSARIAL, "adversarial_start": 0}, train=rates), 3)
    share = schedule(8, made.config.train)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * share)
    assert made.discriminator_optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * share)


def test_the_discriminator_joins_at_its_start(photos: Path) -> None:
    made = trainer(small_run(photos, loss=ADVERSARIAL))
    assert made.discriminator is not None
    first: dict[str, Tensor] = {name: p.detach().clone() for name, p in made.discriminator.named_parameters()}
    batches = step_batches(made.config, 4)
    adversarial = {"adversarial", "discriminator", "lecam"}
    assert [adversarial & made.step(batch).keys() for batch in batches[:2]] == [set(), set()]
    assert largest_difference(first, dict(made.discriminator.named_parameters())) == 0
    assert [adversarial & made.step(batch).keys() for batch in batches[2:]] == [adversarial, adversarial]
    assert largest_difference(first, dict(made.discriminator.named_parameters())) > 1e-5


def test_everything_of_a_run_in_double_precision_is_in_double_precision(photos: Path) -> None:
    quantizer = {"codebook": "projected", "dcr_weight": 0.1, "dcr_target": "aggregate_posterior"}
    config = small_run(
        photos, model={"quantizer": quantizer}, loss=ADVERSARIAL, train={"precision": "float64", "images": 12}
    )
    made, _ = trained(config, 3)
    floats = {name: t.dtype for name, t in tensors(made.state_dict()).items() if t.is_floating_point()}
    # Adam counts its steps in float32.
    assert {name for name, dtype in floats.items() if dtype != torch.float64 and not name.endswith(".step")} == set()


def test_bfloat16_computes_in_bfloat16_keeps_float32_weights_and_learns_what_float32_learns(photos: Path) -> None:
    made = trainer(small_run(photos, train={"precision": "bfloat16"}))
    seen: set[torch.dtype] = set()
    made.tokenizer.decoder.conv_out.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    losses = [made.step(batches)["pixel"] for batches in step_batches(made.config, 10)]
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in made.tokenizer.parameters()} == {torch.float32}
    _, exact = trained(small_run(photos), 10)
    assert losses == pytest.approx([terms["pixel"] for terms in exact], rel=0.05)
    assert losses != pytest.approx([terms["pixel"] for terms in exact], rel=1e-6)


def test_every_term_is_finite_in_bfloat16(photos: Path) -> None:
    quantizer = {"codebook": "projected", "dcr_weight": 0.1, "dcr_target": "aggregate_posterior"}
    loss, train = {**ADVERSARIAL, "adversarial_start": 0}, {"precision": "bfloat16", "accumulation": 2}
    _, losses = trained(small_run(photos, model={"quantizer": quantizer}, loss=loss, train=train), 5)
    terms = {"total", "pixel", "adversarial", "rcs", "dcr", "kl", "discriminator", "lecam"}
    assert [loss.keys() for loss in losses] == [terms] * 5
    assert all(math.isfinite(value) for loss in losses for value in loss.values())


@pytest.mark.parametrize("kind", ["fsq", "vqgan_lc"])
def test_a_loss_without_a_term_is_refused(photos: Path, kind: str) -> None:
    config = small_run(photos, model={"quantizer": {"kind": kind, "codebook_size": 16}}, loss={"pixel_weight": 0})
    with pytest.raises(UserError, match=r"no loss term trains anything: loss\.pixel_weight, .* are 0"):
        trainer(config).step(step_batches(config, 1)[0])


def test_a_loss_reaches_every_parameter_without_work_for_each() -> None:
    """That DDP takes it for a gradient of zeros, two processes show."""

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), options: Any = None) -> Any:
            self.calls += 1
            return function(*given, **(options or {}))

    counts = []
    for layers in (2, 40):
        module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers)))
        first, *others = module.parameters()
        accumulators = [p.expand_as(p).grad_fn.next_functions[0][0] for p in others]  # type: ignore[union-attr]
        turns = []

        def note(*_: Any, number: int, turns: list[int] = turns) -> None:
            turns.append(number)

        for number, accumulator in enumerate(accumulators):
            accumulator.register_hook(partial(note, number=number))
        with Count() as counting:
            loss = reaching(first.square().sum(), module)
            torch.autograd.backward(loss)
        assert sorted(turns) == list(range(len(others))), "the turn comes to each"
        assert torch.equal(first.grad, 2 * first)  # type: ignore[arg-type]
        assert all(other.grad is None for other in others)
        counts.append(counting.calls)
    assert counts[0] == counts[1]
