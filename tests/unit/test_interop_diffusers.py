"""A tokenizer in diffusers' pipelines, in the place of its VQModel."""

from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel
from test_tokenizer import NAMES, QUANTIZERS, images, tokenizer

from vaevq import DiffusersTokenizer
from vaevq.config import AnyQuantizerConfig
from vaevq.errors import UserError

OTHERS = [pytest.param(q, id=name) for q, name in zip(QUANTIZERS, NAMES, strict=True) if q.kind != "gaussian"]


@pytest.mark.parametrize("quantizer", OTHERS)
@torch.no_grad()
def test_it_encodes_and_decodes_as_the_tokenizer(quantizer: AnyQuantizerConfig) -> None:
    plain, x = tokenizer(quantizer), images(12, 20)
    model = DiffusersTokenizer.of(plain)
    latents, tokens = model.encode(x).latents, plain.encode(x)
    assert torch.equal(latents, plain.posterior(x).mean)
    decoded = model.decode(latents)
    assert torch.allclose(decoded.sample, plain.decode(tokens), atol=1e-5)
    quantized, loss, (_, _, found) = model.quantize(latents)
    assert torch.equal(found, tokens)
    assert torch.allclose(loss, (latents - plain.lookup(tokens)).square().mean())
    assert torch.allclose(model.decode(quantized, force_not_quantize=True).sample, decoded.sample, atol=1e-5)
    entry = model.quantize.get_codebook_entry(tokens.flatten(), (2, 3, 5, quantizer.code_dim))
    assert torch.equal(entry, plain.lookup(tokens))


@torch.no_grad()
def test_any_size_is_reconstructed_and_tuples_are_given_where_asked() -> None:
    plain, x = tokenizer(QUANTIZERS[0]), images(13, 18)
    model = DiffusersTokenizer.of(plain)
    reconstruction, loss = model(x, return_dict=False)
    assert torch.allclose(reconstruction, plain(x).reconstruction, atol=1e-5)
    assert torch.equal(model(x).sample, reconstruction)
    assert loss > 0


def test_it_has_what_diffusers_own_has() -> None:
    model = DiffusersTokenizer.of(tokenizer(QUANTIZERS[0]), scaling_factor=0.5)
    own = VQModel(block_out_channels=(32,), norm_num_groups=8)
    for name in ("in_channels", "out_channels", "latent_channels", "vq_embed_dim", "num_vq_embeddings"):
        assert isinstance(model.config[name], int), name
        assert name in own.config
    assert (model.config.latent_channels, model.config.num_vq_embeddings) == (4, 32)
    assert model.config.scaling_factor == 0.5
    assert 2 ** (len(model.config.block_out_channels) - 1) == 4, "f"
    for method in ("encode", "decode", "forward"):
        theirs, ours = (signature(getattr(cls, method)) for cls in (VQModel, DiffusersTokenizer))
        assert list(theirs.parameters) == list(ours.parameters)


def test_a_pipeline_runs_on_it_and_is_saved_and_loaded_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    plain = tokenizer(QUANTIZERS[0])
    pipeline = LDMPipeline(vqvae=DiffusersTokenizer.of(plain, scaling_factor=2.0), unet=unet, scheduler=DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)

    def sampled(of: LDMPipeline) -> np.ndarray:
        return of(2, generator=torch.manual_seed(1), num_inference_steps=2, output_type="np").images

    first = sampled(pipeline)
    assert first.shape == (2, 16, 16, 3)
    pipeline.save_pretrained(tmp_path)
    loaded = LDMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.vqvae, DiffusersTokenizer)
    assert loaded.vqvae.tokenizer.digest == plain.digest
    assert np.array_equal(sampled(loaded), first)


def test_a_quantizer_that_needs_the_variance_is_refused() -> None:
    with pytest.raises(UserError, match="kind gaussian chooses by the posterior's variance"):
        DiffusersTokenizer.of(tokenizer(QUANTIZERS[NAMES.index("gaussian")]))
