"""Generators' networks: published shapes, what a place sees, losses against plain twins, learning by heart."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from generators import K, generator_config, random_network, random_tokens, tokens_config
from vaevq.config.generation import AutoregressiveConfig, MaskedConfig
from vaevq.generation.autoregressive import Autoregressive
from vaevq.generation.build import build_network
from vaevq.generation.masked import MEAN_MASKED, Masked, masks
from vaevq.generation.sampling import SamplingOptions
from vaevq.generation.transformer import rotary_angles, rotated

CODES = [1, 2]


@pytest.mark.parametrize(("size", "millions"), [("B", 111), ("L", 343), ("XL", 775)])
def test_sizes_have_as_many_parameters_as_llamagens(size: str, millions: int) -> None:
    tokens = tokens_config(codebook_size=16_384, grid=(16, 16), image_size=(256, 256), class_count=1000)
    with torch.device("meta"):
        network = build_network(AutoregressiveConfig.model_validate({"size": size}), tokens)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_rotary_products_depend_on_the_distance_of_rows_and_of_columns_alone() -> None:
    angles = rotary_angles(tokens_config(grid=(4, 5)), 16)
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    turned = rotated(query.expand(1, 1, 21, 16), angles)[0, 0, 1:].view(4, 5, 16)
    other = rotated(key.expand(1, 1, 21, 16), angles)[0, 0, 1:].view(4, 5, 16)
    product = lambda a, b: float(turned[a] @ other[b])  # noqa: E731
    assert product((0, 0), (1, 2)) == pytest.approx(product((2, 2), (3, 4)), abs=1e-5)
    assert product((0, 0), (1, 2)) != pytest.approx(product((0, 0), (2, 1)), abs=1e-2)
    assert product((0, 0), (0, 1)) != pytest.approx(product((0, 0), (1, 0)), abs=1e-2)
    assert torch.equal(angles[0], torch.stack([torch.ones(8), torch.zeros(8)])), "the class token is not turned"


def test_the_codes_of_one_position_are_turned_alike_and_stand_one_after_another() -> None:
    one, two = (rotary_angles(tokens_config(codes_per_position=q), 16) for q in (1, 2))
    assert torch.equal(one[1:].repeat_interleave(2, 0), two[1:])


@pytest.mark.parametrize("codes", CODES)
def test_an_autoregressive_network_sees_what_comes_before_and_a_masked_one_everything_but_what_is_hidden(
    codes: int,
) -> None:
    network = random_network("ar", codes_per_position=codes)
    assert isinstance(network, Autoregressive)
    tokens, labels = random_tokens(network, 1), torch.tensor([2])
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % K
    with torch.no_grad():
        differs = (network.logits(tokens, labels) - network.logits(changed, labels)).abs().amax(-1)[0] > 1e-9
    assert differs.tolist() == [False] * 6 + [True] * (network.transformer.length - 6)

    network = random_network("mask", codes_per_position=codes)
    assert isinstance(network, Masked)
    hidden = torch.zeros_like(tokens, dtype=torch.bool)
    hidden[0, 7] = True
    with torch.no_grad():
        before = network.logits(tokens, hidden, labels)
        assert bool(((before - network.logits(changed, hidden, labels)).abs().amax(-1) > 1e-9).all())
        changed = tokens.clone()
        changed[0, 7] = (changed[0, 7] + 1) % K
        assert torch.equal(before, network.logits(changed, hidden, labels)), "what is hidden is not seen"


@pytest.mark.parametrize("kind", ["ar", "mask"])
def test_levels_of_codes_have_embeddings_and_logits_of_their_own(kind: str) -> None:
    network = random_network(kind, codes_per_position=2)
    transformer = network.transformer
    assert transformer.length == 24
    same = torch.zeros(1, 4, dtype=torch.int64)
    embedded = transformer.embed(same)[0]
    assert torch.equal(embedded[0], embedded[2])
    assert not torch.equal(embedded[0], embedded[1])
    outputs = torch.randn(1, 4, 32, dtype=torch.float64)
    twin = [F.linear(outputs[0, i], transformer.head[i % 2]) for i in range(4)]
    assert torch.allclose(transformer.logits(outputs)[0], torch.stack(twin))
    assert torch.allclose(transformer.logits(outputs[:, 1:], 1)[0], torch.stack(twin[1:]))
    assert torch.allclose(transformer.logits(outputs[:, 3:], 3)[0], torch.stack(twin[3:]))


def test_logits_of_several_levels_hold_no_weight_of_each_place() -> None:
    """The largest thing that the backward pass keeps is far from places×K×width."""
    network = random_network("ar", codes_per_position=2, codebook_size=500)
    outputs = torch.randn(1, 24, 32, dtype=torch.float64, requires_grad=True)
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.transformer.logits(outputs).sum().backward()
    assert 0 < max(kept) <= 500 * 32


def test_the_autoregressive_loss_is_the_mean_cross_entropy_and_its_code_length_the_sum() -> None:
    network = random_network("ar", {"class_dropout": 0.0})
    assert isinstance(network, Autoregressive)
    tokens, labels = random_tokens(network, 3), torch.tensor([0, 1, 4])
    with torch.no_grad():
        log = network.logits(tokens, labels).log_softmax(-1)
        nats = [-float(log[b, i, tokens[b, i]]) for b in range(3) for i in range(12)]
        loss = network(tokens, labels, torch.arange(3), seed=0, smoothing=0.0)
        assert float(loss) == pytest.approx(sum(nats) / 36, rel=1e-6)
        length = network.code_length(tokens, labels, torch.arange(3))
        assert (float(length.nats), length.tokens) == (pytest.approx(sum(nats), rel=1e-6), 36)
        smooth = float(network(tokens, labels, torch.arange(3), seed=0, smoothing=0.2))
        assert smooth == pytest.approx(0.8 * sum(nats) / 36 - 0.2 * float(log.mean()), rel=1e-6)


def test_the_masked_loss_is_of_hidden_tokens_and_that_of_a_batch_the_mean_of_its_parts() -> None:
    network = random_network("mask", {"class_dropout": 0.0})
    assert isinstance(network, Masked)
    tokens, labels, positions = random_tokens(network, 4), torch.tensor([0, 1, 4, 2]), torch.tensor([3, 9, 1, 30])
    hidden = masks(12, positions, "mask", 7)
    with torch.no_grad():
        log = network.logits(tokens, hidden, labels).log_softmax(-1)
        nats = -sum(float(log[b, i, tokens[b, i]]) for b in range(4) for i in range(12) if hidden[b, i])
        loss = float(network(tokens, labels, positions, seed=7, smoothing=0.0))
        assert loss == pytest.approx(nats / (48 * MEAN_MASKED), rel=1e-6)
        parts = [
            float(network(tokens[at], labels[at], positions[at], seed=7, smoothing=0.0))
            for at in (slice(0, 2), slice(2, 4))
        ]
        assert loss == pytest.approx(sum(parts) / 2, rel=1e-6)
        assert float(network(tokens, labels, positions, seed=8, smoothing=0.0)) != pytest.approx(loss, rel=1e-3)
        length = network.code_length(tokens, labels, positions)
        assert length.tokens == int(masks(12, positions, "held-out mask").sum())


@pytest.mark.parametrize("kind", ["ar", "mask"])
def test_a_network_that_knows_nothing_costs_log_k(kind: str) -> None:
    config = generator_config(kind)
    network = build_network(config.network, config.tokens)
    tokens = random_tokens(network, 2)
    with torch.no_grad():
        length = network.code_length(tokens, torch.tensor([0, 1]), torch.arange(2))
    assert float(length.nats) / length.tokens == pytest.approx(math.log(K), rel=1e-5)


def test_as_many_classes_are_dropped_as_asked_and_which_the_position_decides() -> None:
    network = random_network("ar", {"class_dropout": 0.25})
    labels, positions = torch.arange(4000) % 5, torch.arange(4000)
    dropped = network.with_dropped(labels, positions, seed=1)
    gone = dropped == network.no_label
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(dropped[~gone], labels[~gone])
    assert torch.equal(network.with_dropped(labels[70:90], positions[70:90], seed=1), dropped[70:90])
    assert not torch.equal(network.with_dropped(labels, positions, seed=2), dropped)


@pytest.mark.parametrize("kind", ["ar", "mask"])
def test_an_unconditional_network_does_not_look_at_labels(kind: str) -> None:
    network = random_network(kind, {"conditional": False}, class_count=0)
    assert network.transformer.classes.weight.shape[0] == 1
    tokens, positions = random_tokens(network, 2), torch.arange(2)
    losses = [network(tokens, labels, positions, seed=0, smoothing=0.0) for labels in (None, torch.tensor([3, 1]))]
    assert torch.equal(*losses)


@pytest.mark.parametrize("kind", ["ar", "mask"])
def test_checkpointed_gradients_are_the_same(kind: str) -> None:
    network = random_network(kind).train()
    twin = copy.deepcopy(network)
    twin.transformer.gradient_checkpointing = True
    tokens, labels, positions = random_tokens(network, 2), torch.tensor([0, 1]), torch.arange(2)
    for one in (network, twin):
        one(tokens, labels, positions, seed=0, smoothing=0.0).backward()
    for (name, p), q in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None, name
        assert q.grad is not None
        assert torch.allclose(p.grad, q.grad, atol=1e-12), name


@pytest.mark.parametrize("codes", CODES)
def test_an_autoregressive_network_that_has_learned_sixteen_images_by_heart_says_them(codes: int) -> None:
    """By greedy sampling, of each class its image."""
    tokens_of = tokens_config(class_count=16, codes_per_position=codes)
    torch.manual_seed(0)
    network = build_network(
        AutoregressiveConfig.model_validate({"size": "tiny", "width": 64, "dropout": 0, "class_dropout": 0}), tokens_of
    )
    assert isinstance(network, Autoregressive)
    images, labels = random_tokens(network, 16), torch.arange(16)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = network(images, labels, torch.arange(16), seed=0, smoothing=0.0)
        loss.backward()
        optimizer.step()
    network.eval()
    greedy = SamplingOptions(temperature=0)
    assert torch.equal(network.sample(labels, range(16), greedy, seed=0), images)
    upper = images[:, : 4 * codes]
    wrong = labels.roll(1)
    assert torch.equal(network.sample(labels, range(16), greedy, seed=0, given=upper), images)
    assert not torch.equal(network.sample(wrong, range(16), greedy, seed=0), images)


def test_a_masked_network_that_has_learned_images_by_heart_makes_them() -> None:
    tokens_of = tokens_config(class_count=4)
    torch.manual_seed(0)
    network = build_network(
        MaskedConfig.model_validate({"size": "tiny", "width": 64, "dropout": 0, "class_dropout": 0}), tokens_of
    )
    images, labels = random_tokens(network, 4), torch.arange(4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(250):
        optimizer.zero_grad()
        network(images, labels, torch.arange(4) + 4 * step, seed=0, smoothing=0.0).backward()
        optimizer.step()
    made = network.eval().sample(labels, range(4), SamplingOptions(temperature=0, steps=6), seed=0)
    assert torch.equal(made, images)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"width": 36, "heads": 2}, r"width 36 is no multiple of 4 × heads"), ({"size": "huge"}, "'tiny', 'small', 'B'")],
)
def test_shapes_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoregressiveConfig.model_validate(given)


def test_a_size_is_a_shape_over_which_what_is_given_wins() -> None:
    config = AutoregressiveConfig.model_validate({"size": "L", "layers": 3})
    assert (config.layers, config.heads, config.width) == (3, 16, 1024)
    assert AutoregressiveConfig.model_validate(config.model_dump()) == config
