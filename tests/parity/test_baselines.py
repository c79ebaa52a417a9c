"""The quantizers it is compared with against vector-quantize-pytorch, value by value, and reviving against its rule."""

import pytest
import torch
from vector_quantize_pytorch import SimVQ as TheirSimVQ
from vector_quantize_pytorch import VectorQuantize

from vaevq.quantization import EmaQuantizer, Posterior, SimVQ
from vaevq.quantization.averaged import MOST_PENDING
from vaevq.seeding import generator


def randn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=generator(name))


def step(layer: EmaQuantizer, posterior: Posterior) -> None:
    layer(posterior)
    layer.finish_step()


def test_simvq_equals_vector_quantize_pytorch_in_tokens_latent_loss_and_gradient() -> None:
    ours = SimVQ(8, 32, codebook_weight=1.0, commitment_weight=0.25).train()
    theirs = TheirSimVQ(
        dim=8, codebook_size=32, channel_first=True, rotation_trick=False, input_to_quantize_commit_loss_weight=0.25
    ).train()
    theirs.frozen_codebook.copy_(ours.codebook.embedding)
    assert ours.codebook.projection is not None
    theirs.code_transform.weight.data.copy_(ours.codebook.projection.weight)
    latents = randn(2, 8, 5, 4, name="latents")

    one, other = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    result = ours(Posterior(one))
    loss = torch.stack([ours.term_weights[name] * term for name, term in result.terms.items()]).sum()
    latent, tokens, their_loss = theirs(other)
    assert torch.equal(result.tokens, tokens)
    assert torch.allclose(result.latent, latent, atol=1e-6)
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-5)
    (loss + result.latent.square().sum()).backward()
    (their_loss + latent.square().sum()).backward()
    assert torch.allclose(one.grad, other.grad, atol=1e-5)
    assert torch.allclose(ours.codebook.projection.weight.grad, theirs.code_transform.weight.grad, atol=1e-6)
    assert ours.codebook.embedding.grad is None


def ema_pair() -> tuple[EmaQuantizer, VectorQuantize]:
    ours = EmaQuantizer(8, 32, average_decay=0.9, commitment_weight=0.25).train()
    theirs = VectorQuantize(
        dim=8, codebook_size=32, accept_image_fmap=True, decay=0.9, eps=1e-5, threshold_ema_dead_code=0
    ).train()
    codebook = theirs._codebook
    start = randn(32, 8, name="codebook")
    codebook.embed.copy_(start[None])
    codebook.embed_avg.copy_(start[None])
    codebook.cluster_size.fill_(1.0)
    ours.codebook.embedding.copy_(start)
    ours.codebook.sums.copy_(start)
    return ours, theirs


def test_steps_of_ema_equal_vector_quantize_pytorch_in_counts_sums_and_codewords() -> None:
    ours, theirs = ema_pair()
    for i in range(3):
        latents = randn(2, 8, 5, 4, name=f"latents{i}")
        result = ours(Posterior(latents))
        ours.finish_step()
        latent, tokens, _ = theirs(latents)
        assert torch.equal(result.tokens, tokens)
        assert torch.allclose(result.latent, latent, atol=1e-5)
        assert torch.allclose(ours.codebook.counts, theirs._codebook.cluster_size[0], atol=1e-5)
        assert torch.allclose(ours.codebook.sums, theirs._codebook.embed_avg[0], atol=1e-5)
        assert torch.allclose(ours.codebook(), theirs._codebook.embed[0], atol=1e-4)


def test_ema_has_no_codebook_loss_and_evaluation_moves_nothing() -> None:
    ours, _ = ema_pair()
    assert set(ours(Posterior(randn(1, 8, 3, 3))).terms) == {"commitment"}
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.eval()(Posterior(randn(1, 8, 3, 3)))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_reviving_starts_the_codebook_from_latents_and_later_replaces_what_wins_too_little() -> None:
    layer = EmaQuantizer(4, 16, average_decay=0.5, revive_below=0.1).train()
    latents = randn(4, 4, 4, 4, name="first") + 10.0
    step(layer, Posterior(latents))
    rows = latents.permute(0, 2, 3, 1).reshape(-1, 4)
    assert float((layer.codebook()[:, None] - rows).norm(dim=2).min(dim=1).values.max()) < 1e-4

    layer.codebook.embedding[3] = -100.0  # nothing chooses it any more
    layer.codebook.sums[3] = -100.0 * layer.codebook.counts[3]
    for i in range(8):
        step(layer, Posterior(randn(4, 4, 4, 4, name=f"later{i}") + 10.0))
    assert float(layer.codebook()[3].min()) > 0


def test_an_idle_codeword_is_given_up_after_as_many_steps_whatever_the_codebooks_size() -> None:
    def steps(codebook_size: int) -> int:
        layer = EmaQuantizer(4, codebook_size, average_decay=0.9, revive_below=0.3).train()
        latents = torch.ones(1, 4, 4, 4)  # one codeword wins all 16 of them, the others nothing
        step(layer, Posterior(latents))
        for number in range(1, 100):
            step(layer, Posterior(latents))
            assert layer.codebook.revived is not None
            if layer.codebook.revived.any():
                return number
        raise AssertionError("nothing was given up")

    # 0.9^12 is the first power below 0.3; the first step leaves all at the mean.
    assert {steps(size) for size in (4, 16, 64, 1024)} == {12}


def test_without_reviving_a_codeword_that_nothing_chooses_stays() -> None:
    layer = EmaQuantizer(4, 16, average_decay=0.5).train()
    layer.codebook.embedding[3] = -100.0
    layer.codebook.sums[3] = -100.0 * layer.codebook.counts[3]
    for i in range(8):
        step(layer, Posterior(randn(4, 4, 4, 4, name=f"later{i}")))
    assert float(layer.codebook()[3].max()) < -90


def test_reviving_is_a_function_of_the_number_of_updates() -> None:
    one, other = EmaQuantizer(4, 16, revive_below=0.1).train(), EmaQuantizer(4, 16, revive_below=0.1).train()
    other.load_state_dict(one.state_dict())
    for i in range(3):
        torch.manual_seed(i)  # no global randomness takes part
        step(one, Posterior(randn(2, 4, 4, 4, name=f"s{i}")))
        torch.manual_seed(99 - i)
        step(other, Posterior(randn(2, 4, 4, 4, name=f"s{i}")))
    assert torch.equal(one.codebook(), other.codebook())


def test_micro_batches_of_a_step_are_one_batch() -> None:
    whole, parts = EmaQuantizer(4, 16, revive_below=0.5).train(), EmaQuantizer(4, 16, revive_below=0.5).train()
    parts.load_state_dict(whole.state_dict())
    for i in range(3):
        latents = randn(4, 4, 4, 4, name=f"micro{i}")
        step(whole, Posterior(latents))
        parts(Posterior(latents[:2]))
        step(parts, Posterior(latents[2:]))
    assert torch.allclose(whole.codebook(), parts.codebook(), atol=1e-5)


def test_a_codebook_that_no_step_moves_says_so() -> None:
    layer, posterior = EmaQuantizer(2, 4).train(), Posterior(randn(1, 2, 1, 1))
    for _ in range(MOST_PENDING):
        layer(posterior)
    with pytest.raises(RuntimeError, match=r"call it after each optimizer step"):
        layer(posterior)
