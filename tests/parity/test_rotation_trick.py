"""The rotation trick against vector-quantize-pytorch, and its gradient against the matrix written out."""

import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch import SimVQ as TheirSimVQ
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from vaevq.config import EmaConfig, PlainConfig, SimVQConfig, VariationalConfig
from vaevq.quantization import EmaQuantizer, Posterior, SimVQ, VariationalLatentQuantizer, VectorQuantizer
from vaevq.quantization.gradient import rotated, straight_through
from vaevq.seeding import generator


def randn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(name), dtype=torch.float64)


def flat(grid: Tensor) -> Tensor:
    return grid.permute(0, 2, 3, 1).flatten(0, 2)


def test_value_and_gradient_equal_vector_quantize_pytorchs() -> None:
    one, codeword, pull = (randn(2, 6, 3, 4, name=name) for name in ("latent", "codeword", "pull"))
    other = flat(one).clone().requires_grad_()
    one.requires_grad_()
    theirs, mine = rotate_to(other, flat(codeword)), rotated(one, codeword)
    assert torch.allclose(flat(mine), theirs)
    (mine * pull).sum().backward()
    (theirs * flat(pull)).sum().backward()
    assert torch.allclose(flat(one.grad), other.grad)


def test_the_gradient_is_that_of_the_scaled_rotation_written_out() -> None:
    latent, codeword, pull = (randn(1, 5, 1, 1, name=name) for name in ("latent", "codeword", "pull"))
    latent.requires_grad_()
    (rotated(latent, codeword) * pull).sum().backward()
    z, e, g = (t.detach().flatten() for t in (latent, codeword, pull))
    # A basis of the plane of the two, and the angle between them.
    first = z / z.norm()
    second = e - (e @ first) * first
    second = second / second.norm()
    cosine, sine = e @ first / e.norm(), e @ second / e.norm()
    plane = torch.stack([first, second])
    turn = torch.eye(5).double() + plane.T @ torch.tensor([[cosine - 1, -sine], [sine, cosine - 1]]).double() @ plane
    assert torch.allclose(turn @ turn.T, torch.eye(5).double())
    matrix = e.norm() / z.norm() * turn
    assert torch.allclose(matrix @ z, e)
    assert torch.allclose(latent.grad.flatten(), matrix.T @ g)
    # What the name promises: the gradient stands to the latent as it stood to the codeword.
    assert float(latent.grad.flatten() @ z) == pytest.approx(float(g @ e))


def test_towards_itself_it_is_straight_through() -> None:
    latent, pull = randn(2, 4, 2, 2), randn(2, 4, 2, 2, name="pull")
    for passing in (rotated, straight_through):
        mine = latent.clone().requires_grad_()
        (passing(mine, latent) * pull).sum().backward()
        assert torch.allclose(mine.grad, pull)


def test_latents_and_codewords_of_norm_0_and_opposite_ones_have_finite_gradients_and_the_codewords_value() -> None:
    latent = torch.stack([torch.zeros(3), torch.ones(3), torch.ones(3)], dim=1).double().view(1, 3, 1, 3)
    codeword = torch.stack([torch.ones(3), torch.zeros(3), -torch.ones(3)], dim=1).double().view(1, 3, 1, 3)
    latent.requires_grad_()
    result = rotated(latent, codeword)
    result.sum().backward()
    assert torch.allclose(result, codeword)
    assert torch.isfinite(latent.grad).all()


def test_simvq_with_rotation_equals_vector_quantize_pytorch() -> None:
    ours = SimVQ(8, 32, gradient="rotation", codebook_weight=1.0, commitment_weight=0.25).train()
    theirs = TheirSimVQ(dim=8, codebook_size=32, channel_first=True, rotation_trick=True).train()
    theirs.frozen_codebook.copy_(ours.codebook.embedding)
    assert ours.codebook.projection is not None
    theirs.code_transform.weight.data.copy_(ours.codebook.projection.weight)
    latents = randn(2, 8, 5, 4, name="latents").float()
    one, other = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    result, (latent, tokens, _) = ours(Posterior(one)), theirs(other)
    assert torch.equal(result.tokens, tokens)
    assert torch.allclose(result.latent, latent, atol=1e-5)
    result.latent.square().sum().backward()
    # Theirs lets the codeword's own gradient through beside it, and ours none: what reaches the latent is the same.
    latent.square().sum().backward()
    assert torch.allclose(one.grad, other.grad, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        VectorQuantizer(4, 16, gradient="rotation"),
        EmaQuantizer(4, 16, gradient="rotation"),
        SimVQ(4, 16, gradient="rotation"),
        VariationalLatentQuantizer(4, 16, gradient="rotation"),
        VariationalLatentQuantizer(4, 16, gradient="rotation", codebook="embedding", codebook_gradient=True),
    ],
    ids=["vq", "vq_ema", "simvq", "vaevq", "vaevq with its gradient to the codebook"],
)
def test_the_quantizers_that_have_it_turn_the_gradient_about_what_they_quantize(layer: VectorQuantizer) -> None:
    layer = layer.double().train()
    mean, noise, pull = (randn(2, 4, 3, 3, name=name) for name in ("mean", "noise", "pull"))
    mean.requires_grad_()
    posterior = Posterior(mean, torch.zeros_like(mean) if isinstance(layer, VariationalLatentQuantizer) else None)
    result = layer(posterior, noise)
    codeword = layer.lookup(result.tokens).detach()
    assert torch.allclose(result.latent, codeword)
    (result.latent * pull).sum().backward()
    source = posterior.sample(noise).detach().requires_grad_()
    (rotated(source, codeword) * pull).sum().backward()
    assert torch.allclose(mean.grad, source.grad)
    assert not torch.allclose(mean.grad, pull)


@pytest.mark.parametrize("config", [PlainConfig, EmaConfig, SimVQConfig, VariationalConfig])
def test_one_dimension_has_nothing_to_turn_in(config: type[PlainConfig]) -> None:
    with pytest.raises(ValueError, match="gradient: rotation needs a code_dim of at least 2"):
        config(code_dim=1, gradient="rotation")
