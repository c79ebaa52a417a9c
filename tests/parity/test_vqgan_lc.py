"""VQGAN-LC: k-means against scipy's, a fitted codebook against plain VQ's formulas, and what it refuses."""

import math
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from feature_networks import alive, write_lpips
from runs import largest_difference, small_recipe, small_run, step, step_batches, tensors, trained, trainer, vaevq
from vaevq.config import FEATURE_DIMS, VqganLcConfig
from vaevq.data.held_out import run_images
from vaevq.errors import UserError
from vaevq.nn.efficientnet import EfficientNetLite0
from vaevq.nn.patches import PatchFeatures
from vaevq.quantization import Posterior, VqganLc
from vaevq.quantization.kmeans import kmeans
from vaevq.seeding import generator
from vaevq.training.codebook_fit import vector_source


def randn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(name), dtype=torch.float64)


def drawn(vectors: Tensor, count: int, seed: int) -> Tensor:
    return vectors[torch.randperm(len(vectors), generator=generator("kmeans", seed))[:count]]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(60, 300), count=st.integers(1, 12), dim=st.integers(1, 5), steps=st.integers(1, 30))
def test_kmeans_equals_scipys_from_the_same_start(n: int, count: int, dim: int, steps: int) -> None:
    vectors = randn(n, dim)
    start = drawn(vectors, count, seed=7)
    with np.errstate(all="ignore"):
        expected, _ = kmeans2(vectors.numpy(), start.numpy(), iter=steps, minit="matrix")
    with mock.patch("vaevq.quantization.kmeans.PART", 50):
        assert torch.allclose(kmeans(vectors, count, steps=steps, seed=7), torch.from_numpy(expected))


def test_kmeans_is_a_function_of_its_seed() -> None:
    vectors = randn(500, 3).float()
    torch.manual_seed(1)
    one = kmeans(vectors, 20, steps=5, seed=1)
    torch.manual_seed(2)
    assert torch.equal(one, kmeans(vectors, 20, steps=5, seed=1))
    assert not torch.equal(one, kmeans(vectors, 20, steps=5, seed=2))


def test_a_centre_that_wins_nothing_goes_to_a_vector_that_is_farthest_from_its_own() -> None:
    far = torch.tensor([[100.0, 0.0]])
    vectors = torch.cat([torch.zeros(30, 2), far]).double()
    seed = next(seed for seed in range(99) if not drawn(vectors, 2, seed).any())  # both start at 0
    centres = kmeans(vectors, 2, steps=10, seed=seed)
    assert sorted(centres.tolist()) == [[0.0, 0.0], [100.0, 0.0]]


def test_fitted_it_quantizes_by_the_projected_centres_with_plain_vqs_terms() -> None:
    layer = VqganLc(3, 8, features="f.safetensors", feature_dim=5).double().train()
    layer.fit(randn(60, 5, name="vectors"), seed=3)
    centres = kmeans(randn(60, 5, name="vectors"), 8, steps=20, seed=3)
    centres = centres - centres.mean(0)
    centres = centres / centres.std(correction=0) / 3**0.5
    assert torch.allclose(layer.codebook.embedding, centres)
    assert layer.codebook.projection is not None
    codewords = centres @ layer.codebook.projection.weight.T + layer.codebook.projection.bias
    latents = randn(2, 3, 4, 4, name="latents").requires_grad_()
    result = layer(Posterior(latents))
    flat = latents.permute(0, 2, 3, 1).reshape(-1, 3)
    tokens = torch.cdist(flat, codewords).argmin(dim=1)
    assert torch.equal(result.tokens.flatten(), tokens)
    difference = (codewords[tokens] - flat).square().mean().item()
    assert {name: term.item() for name, term in result.terms.items()} == pytest.approx(
        {"codebook": difference, "commitment": difference}
    )
    assert layer.term_weights == {"codebook": 0.33, "commitment": 1.0}
    result.terms["codebook"].backward()
    assert float(layer.codebook.projection.weight.grad.abs().max()) > 0
    assert latents.grad is None


def test_k_vectors_are_the_codebook_and_clusters_of_latents_start_where_they_are() -> None:
    layer, vectors = VqganLc(4, 6), randn(6, 4).float()
    layer.fit(vectors, seed=0)
    assert torch.equal(layer.codebook.embedding, vectors)
    assert torch.equal(layer.codebook(), vectors)


def test_before_it_is_fitted_training_passes_the_latent_on() -> None:
    layer, latents = VqganLc(4, 6).train(), randn(1, 4, 2, 2).float().requires_grad_()
    result = layer(Posterior(latents))
    assert torch.equal(result.latent, latents)
    assert result.terms == {}
    assert not result.tokens.any()
    (result.latent**2).sum().backward()
    assert torch.equal(latents.grad, 2 * latents)


def lc(**quantizer: object) -> dict[str, object]:
    return {"model": {"quantizer": {"kind": "vqgan_lc", **quantizer}}, "loss": {"continuous_path": 0}}


def test_the_warm_up_ends_with_clusters_of_the_training_images_latents(photos: Path) -> None:
    config = small_run(photos, **lc(quantize_from=8, vectors_per_codeword=2))
    made, losses = trained(config, 2)
    assert not made.tokenizer.quantizer.is_fitted
    assert all("codebook" not in row for row in losses)
    third = step_batches(config, 3)[2]
    stream = [batch for batches in step_batches(config, 3) for batch in batches]
    with torch.no_grad():
        latents = torch.cat([made.tokenizer.posterior(batch.images).mean for batch in stream])
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2)[: 16 * 2]
    expected = kmeans(rows, 16, steps=20, seed=config.seed)
    assert "codebook" in step(made, third)
    assert torch.allclose(made.tokenizer.quantizer.codebook.embedding, expected, atol=1e-6)
    assert (
        largest_difference(
            tensors({"average": made.average.module.quantizer.codebook.embedding}),
            tensors({"average": made.tokenizer.quantizer.codebook.embedding}),
        )
        == 0
    )
    before = made.tokenizer.quantizer.codebook.embedding.clone()
    weight = made.tokenizer.quantizer.codebook.projection.weight.clone()
    step(made, third)
    assert torch.equal(made.tokenizer.quantizer.codebook.embedding, before), "frozen"
    assert not torch.equal(made.tokenizer.quantizer.codebook.projection.weight, weight)


def test_a_files_vectors_are_the_codebook_from_the_first_step(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    save_file({"features": randn(100, 7).float()}, path)
    config = small_run(photos, **lc(features=str(path), feature_dim=7))
    assert config.model.quantizer.quantize_from == 0
    made, losses = trained(config, 1)
    assert "codebook" in losses[0]
    centres = kmeans(randn(100, 7).float(), 16, steps=20, seed=config.seed)
    centres = centres - centres.mean(0)
    expected = centres / centres.std(correction=0) / 2
    assert torch.allclose(made.tokenizer.quantizer.codebook.embedding, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "patches"), [("alexnet", 13**2), ("vgg16", 14**2), ("efficientnet_lite0", 7**2)])
def test_patches_are_the_positions_of_the_last_map(name: str, patches: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "weights"
    if name == "efficientnet_lite0":
        torch.save(alive(EfficientNetLite0()).state_dict(), path)
    else:
        write_lpips(name, path)
    network, images = PatchFeatures(name, path), torch.rand(2, 3, 16, 24) * 2 - 1
    found = network(images)
    assert found.shape == (2 * patches, FEATURE_DIMS[name])
    assert found.dtype == torch.float32
    assert torch.allclose(found[patches:], network(images[1:]), atol=1e-4)
    side = math.isqrt(patches)
    assert float(found[:patches].view(side, side, -1).std(dim=0).mean()) > 0
    if name == "efficientnet_lite0":
        resized = nn.functional.interpolate(images, (224, 224), mode="bilinear", antialias=True)
        assert torch.allclose(network.network(resized)[0], found[:patches].mean(dim=0), atol=1e-4)


def test_a_networks_patches_become_the_codebook_and_the_model_needs_no_network_afterwards(
    photos: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = write_lpips("alexnet", tmp_path / "alex.ckpt")
    recipe = small_recipe(tmp_path, photos, **lc(features="alexnet", feature_weights=str(path)))
    outcome = vaevq("train", recipe, "--run-dir", tmp_path / "run", "--quiet")
    assert outcome.code == 0, outcome.err
    assert "the codebook is made of 512 vectors, features: alexnet" in (tmp_path / "run" / "log.txt").read_text()
    path.unlink()
    outcome = vaevq("eval", "metrics=[psnr]", "resize=32", "crop=32", "--model", tmp_path / "run", "--data", photos)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("tensors_of_file", "says"),
    [
        (None, "no such file"),
        ({"a": torch.zeros(40, 7), "b": torch.zeros(2)}, "takes a file of one tensor, not of 2"),
        ({"a": torch.zeros(40, 5)}, r"holds torch.float32 40×5, not floats N×7: D is model.quantizer.feature_dim"),
        ({"a": torch.zeros(40, 7, dtype=torch.int64)}, "not floats N×7"),
        ({"a": torch.zeros(15, 7)}, "15 vectors are too few for model.quantizer.codebook_size 16"),
        ({"a": torch.full((40, 7), torch.inf)}, "not finite"),
    ],
)
def test_a_file_that_does_not_serve_is_refused_before_anything_is_trained(
    tensors_of_file: dict[str, Tensor] | None, says: str, photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "f.safetensors"
    if tensors_of_file is not None:
        save_file(tensors_of_file, path)
    options = VqganLcConfig(code_dim=4, codebook_size=16, features=str(path), feature_dim=7)
    with pytest.raises(UserError, match=says) as caught:
        vector_source(options)
    assert "\n" not in str(caught.value)
    recipe = small_recipe(tmp_path, photos, **lc(features=str(path), feature_dim=7))
    outcome = vaevq("train", recipe, "--run-dir", tmp_path / "run")
    assert outcome.code == 2
    assert not (tmp_path / "run").exists()
    dry = vaevq("train", recipe, "--dry-run")
    assert (dry.code, dry.out, dry.err) == (2, "", outcome.err)


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    options = VqganLcConfig(features="vgg16", feature_weights=str(tmp_path / "no.ckpt"))
    with pytest.raises(UserError, match=r"no\.ckpt: No such file"):
        vector_source(options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"features": "alexnett"},
            r"features 'alexnett' \(did you mean 'alexnet'\?\): give one of .*, warm_up",
        ),
        ({"features": "a.safetensors"}, "feature_dim is needed beside a file of features"),
        ({"features": "alexnet", "feature_dim": 256}, "that of alexnet is known"),
        ({"features": "alexnet", "quantize_from": 8}, "quantize_from goes with features: warm_up"),
    ],
)
def test_options_that_do_not_go_together_say_so(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VqganLcConfig(**options)  # type: ignore[arg-type]


def test_a_dry_run_measures_the_quantized_path(photos: Path, tmp_path: Path) -> None:
    outcome = vaevq("train", small_recipe(tmp_path, photos, **lc()), "--dry-run")
    assert outcome.code == 0, outcome.err
    config = small_run(photos, **lc())
    assert trainer(config).tokenizer.quantizer.is_fitted is False
    assert run_images(config.data, config.seed).train
