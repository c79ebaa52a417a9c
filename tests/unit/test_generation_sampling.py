"""Sampling: what the options keep of a distribution, cached against uncached, seeds, batches, given rows."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given as when
from hypothesis import settings
from hypothesis import strategies as st

from generators import K, random_network, random_tokens
from vaevq.errors import UserError
from vaevq.generation.autoregressive import Autoregressive
from vaevq.generation.masked import MEAN_MASKED, Masked, masks
from vaevq.generation.sampling import SamplingOptions, chosen, filtered, guided, uniforms

PLAIN = SamplingOptions()
OPTIONS = {
    "plain": PLAIN,
    "greedy": SamplingOptions(temperature=0),
    "guided": SamplingOptions(guidance=2.5, temperature=0.8),
    "filtered": SamplingOptions(top_k=6, top_p=0.9),
    "guided and filtered": SamplingOptions(guidance=1.5, top_k=3),
}
MASK_OPTIONS = {name: options for name, options in OPTIONS.items() if name != "greedy"}


def autoregressive(**parts: Any) -> Autoregressive:
    network = random_network("ar", **parts)
    assert isinstance(network, Autoregressive)
    return network


def masked(**parts: Any) -> Masked:
    network = random_network("mask", **parts)
    assert isinstance(network, Masked)
    return network


@pytest.mark.parametrize("codes", [1, 2, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_cached_sampling_equals_uncached_token_for_token(name: str, codes: int) -> None:
    for dtype in (torch.float64, torch.float32):
        network = autoregressive(dtype=dtype, codes_per_position=codes)
        labels = torch.tensor([0, 4, 5])
        for start in (None, random_tokens(network, 3)[:, : 4 * codes]):
            both = [
                network.sample(labels, range(3), OPTIONS[name], seed=2, given=start, cached=cached)
                for cached in (True, False)
            ]
            assert torch.equal(*both)
            assert len(both[0].unique()) > 3, "there is something to compare"


def test_greedy_sampling_takes_the_most_likely_token_of_the_models_own_logits() -> None:
    network = autoregressive()
    labels = torch.tensor([1, 2])
    tokens = network.sample(labels, range(2), OPTIONS["greedy"], seed=0)
    with torch.inference_mode():
        assert torch.equal(network.logits(tokens, labels).argmax(-1), tokens)


def test_an_image_depends_on_seed_and_number_alone_not_on_its_batch() -> None:
    for network, options in ((autoregressive(), OPTIONS["guided"]), (masked(), OPTIONS["guided"])):
        labels = torch.tensor([0, 1, 2, 3])
        whole = network.sample(labels, range(4), options, seed=5)
        parts = [network.sample(labels[i : i + 2], range(i, i + 2), options, seed=5) for i in (0, 2)]
        assert torch.equal(whole, torch.cat(parts))
        same = torch.zeros(4, dtype=torch.int64)
        assert len(network.sample(same, range(4), options, seed=5).unique(dim=0)) == 4, "numbers differ"
        assert not torch.equal(network.sample(labels, range(4), options, seed=6), whole), "seeds differ"


def test_sampled_tokens_have_the_models_probabilities() -> None:
    """The first token of many images against the softmax of its logits."""
    network = autoregressive(dtype=torch.float32)
    count = 4000
    labels = torch.full((count,), 3)
    options = SamplingOptions(temperature=1.5)
    with torch.inference_mode():
        logits = network.logits(torch.zeros(1, 12, dtype=torch.int64), labels[:1])[0, 0]
    expected = (logits.float() / 1.5).softmax(-1)
    draws = uniforms(0, range(count), (1,))[:, 0]
    found = torch.bincount(chosen(logits.expand(count, -1), draws, options), minlength=K) / count
    deviation = (expected * (1 - expected) / count).sqrt()
    assert bool(((found - expected).abs() < 5 * deviation + 1e-9).all())
    sampled = network.sample(labels[:200], range(200), options, seed=0)[:, 0]
    assert torch.equal(sampled, chosen(logits.expand(200, -1), uniforms(0, range(200), (12,))[:, 0], options))


@settings(max_examples=60, deadline=None)
@when(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.01, 1.0),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
)
def test_only_what_top_k_and_top_p_keep_is_drawn(logits: list[float], top_k: int, top_p: float, uniform: float) -> None:
    options = SamplingOptions(top_k=top_k, top_p=top_p)
    row = torch.tensor(logits)
    kept = filtered(row, options).isfinite()
    token = int(chosen(row, torch.tensor(uniform), options))
    assert bool(kept[token])
    ordered = sorted(logits, reverse=True)
    if 0 < top_k < len(logits):
        assert bool((row[kept] >= ordered[top_k - 1]).all())
    probabilities = row.softmax(-1)
    assert bool(kept[row.argmax()])
    if not top_k:
        assert float(probabilities[kept].sum()) >= top_p - 1e-5
        least = float(probabilities[kept].min())
        assert float(probabilities[kept].sum()) - least < top_p + 1e-5, "no more than are needed"


def test_a_draw_of_nearly_one_falls_on_a_token_that_has_a_probability() -> None:
    row = torch.tensor([0.0, 1.0, -torch.inf, -torch.inf])
    assert int(chosen(row, torch.tensor(1 - 2**-24), PLAIN)) == 1
    assert int(chosen(torch.tensor([-torch.inf, 0.0, 1.0]), torch.tensor(0.0), PLAIN)) == 1


def test_guidance_is_the_line_through_both_logits() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert guided(logits, 1.0).tolist() == logits.tolist()
    assert guided(logits, 0.0).tolist() == [[0.0, 2.0]]
    assert guided(logits, 3.0).tolist() == [[3.0, -4.0]]


def test_guidance_uses_the_logits_without_label() -> None:
    network = autoregressive()
    strong = network.sample(torch.tensor([2]), range(1), SamplingOptions(guidance=0, temperature=0), seed=0)
    none = network.sample(torch.tensor([5]), range(1), SamplingOptions(temperature=0), seed=0)
    other = network.sample(torch.tensor([2]), range(1), SamplingOptions(temperature=0), seed=0)
    assert torch.equal(strong, none)
    assert not torch.equal(other, none)


@pytest.mark.parametrize("codes", [1, 2])
@pytest.mark.parametrize("name", MASK_OPTIONS)
def test_masked_sampling_keeps_what_is_given_and_fills_the_rest(name: str, codes: int) -> None:
    network = masked(codes_per_position=codes)
    start = random_tokens(network, 2)[:, : 4 * codes]
    labels = torch.tensor([0, 5])
    for made in (network, autoregressive(codes_per_position=codes)):
        tokens = made.sample(labels, range(2), MASK_OPTIONS[name], seed=0, given=start)
        assert torch.equal(tokens[:, : 4 * codes], start)
        assert not torch.equal(tokens, made.sample(labels, range(2), MASK_OPTIONS[name], seed=1, given=start))
        whole = random_tokens(network, 2)
        assert torch.equal(made.sample(labels, range(2), MASK_OPTIONS[name], seed=0, given=whole), whole)


def test_masked_sampling_in_one_step_draws_every_token_by_itself() -> None:
    network, labels = masked(), torch.tensor([1, 2])
    options = SamplingOptions(steps=1, temperature=0, choice_temperature=0)
    tokens = network.sample(labels, range(2), options, seed=0)
    with torch.inference_mode():
        everything = torch.ones_like(tokens, dtype=torch.bool)
        assert torch.equal(tokens, network.logits(tokens, everything, labels).argmax(-1))


@pytest.mark.parametrize("steps", [2, 5, 12, 30])
def test_masked_sampling_leaves_as_many_unknown_as_the_cosine_says(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a token that was kept is never drawn again; in the end none is unknown."""
    network, unknown = masked(), []
    before = Masked.logits

    def logits(self: Masked, tokens: torch.Tensor, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        unknown.append((hidden.clone(), tokens.clone()))
        return before(self, tokens, hidden, labels)

    monkeypatch.setattr(Masked, "logits", logits)
    tokens = network.sample(torch.tensor([1]), range(1), SamplingOptions(steps=steps), seed=0)
    counts = [int(hidden.sum()) for hidden, _ in unknown]
    assert counts == sorted(set(counts), reverse=True)
    assert (counts[0], len(counts)) == (12, min(steps, 12))
    if steps == 5:
        assert counts == [12, 11, 9, 7, 3]  # ⌊12 cos(π/2 · t/5)⌋
    for (hidden, seen), (later, _) in itertools.pairwise(unknown):
        assert bool((hidden | ~later).all()), "what is known stays known"
        assert torch.equal(seen[~hidden], tokens[~hidden])


def test_training_masks_as_many_as_the_cosine_schedule_says() -> None:
    made = masks(64, torch.arange(3000), "mask", 1)
    shares = made.float().mean(1)
    assert float(shares.mean()) == pytest.approx(MEAN_MASKED, abs=0.02)
    assert int(made.sum(1).min()) >= 1
    assert float(made.float().mean(0).std()) < 0.03, "no place is preferred"
    assert torch.equal(masks(64, torch.tensor([7, 2]), "mask", 1), made[[7, 2]])
    # P(share < x) = P(u > 2/π arccos x)
    assert float((shares < 0.5).float().mean()) == pytest.approx(1 / 3, abs=0.04)


def test_a_step_of_sampling_compiles_as_one_graph_that_is_never_made_anew() -> None:
    network = autoregressive(dtype=torch.float32)
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(network.transformer.step, fullgraph=True, dynamic=False, backend=backend)
    with torch.inference_mode():
        cache, place = network.transformer.new_cache(2), torch.tensor([0])
        for at in range(6):
            embedded = network.transformer.embed(torch.tensor([[at], [1]]), at)
            compiled(embedded, place, cache)
            place += 1
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 or at least 1e-06, not -1"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"temperature": 1e-40}, "temperature must be 0 or at least 1e-06, not 1e-40"),
        ({"guidance": -0.5}, "guidance must be at least 0"),
        ({"guidance": float("inf")}, "guidance must be at least 0 and finite, not inf"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"temperature": 0, "top_k": 5}, "top_k has no effect at temperature 0"),
        ({"temperature": 0, "top_p": 0.5}, "top_p has no effect at temperature 0"),
    ],
)
def test_options_out_of_range_or_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingOptions(**options)
