"""Apple's GPU has no float64: what is computed in it is computed on the CPU there, with the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apple import on_apple_gpu
from vaevq.config import EvalConfig, TokenizerConfig, VolumesConfig
from vaevq.data.index import VolumeOptions, find_images
from vaevq.diagnostics.hubs import skewness
from vaevq.diagnostics.latents import LatentMoments
from vaevq.errors import UserError
from vaevq.metrics import evaluation
from vaevq.metrics.image import psnr, ssim
from vaevq.metrics.inception_score import InceptionScore
from vaevq.metrics.precision_recall import precision_recall
from vaevq.metrics.volumes import VolumeScores
from vaevq.quantization.posterior import Posterior
from vaevq.report.projection import project
from vaevq.tokenizer import Tokenizer
from vaevq.training.engine import engine
from volumes import ball, write_volume


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_stand_in_refuses_what_the_gpu_refuses() -> None:
    values = on_apple_gpu(some(3, 4))
    assert values.device.type == (values * 2).sum(1).device.type == "mps"
    for wrong in (values.double, lambda: values.to(torch.device("cpu"), torch.float64), lambda: values + some(3, 4)):
        with pytest.raises((TypeError, RuntimeError)):
            wrong()
    assert values.cpu().double().device.type == "cpu"


def test_figures_of_features_and_latents_are_those_of_the_cpu() -> None:
    generated, real, classes = some(40, 6), some(50, 6, seed=1) * 0.9, some(5, 6, seed=2)
    found = []
    for place in (lambda x: x, on_apple_gpu):
        score = InceptionScore(place(classes))
        score.update(place(generated))
        moments = LatentMoments(6, place(real).device)
        grid = place(generated.T.reshape(1, 6, 4, 10).contiguous())
        moments.update(Posterior(grid, grid * 0.1), grid.round())
        plane = project(place(generated), place(real))
        found.append(
            (
                precision_recall(place(generated), place(real), tile=16),
                score.result(),
                moments.squared_error,
                moments.deviations.figures(),
                moments.means.mean.tolist(),
                plane.codewords.tolist(),
                plane.latents.tolist(),
                skewness(place(real[0])),
            )
        )
    assert found[0] == found[1]


def test_figures_of_slices_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))
    path = write_volume(tmp_path / "x.nii", ball((16, 18, 8)))
    index = find_images(path, VolumeOptions(VolumesConfig(size=16)))
    originals = torch.stack([torch.from_numpy(entry.load(1)).permute(2, 0, 1) for entry in index])
    reconstructions = (originals + 0.1 * some(*originals.shape)).clamp(-1, 1)
    found: list[Any] = []
    for place in (lambda x: x, on_apple_gpu):
        one, other = place(originals), place(reconstructions)
        scores = VolumeScores.of(index, one.device)
        assert scores is not None
        scores.update(torch.arange(len(index)), one, other)
        pairs = [measure(one, other).tolist() for measure in (scores.slice_psnr, scores.slice_ssim, psnr, ssim)]
        found.append((scores.figures(), pairs))
    assert found[0] == found[1]
    assert found[0][0]["psnr_3d"] > 10


def test_lpips_of_images_is_averaged_in_float64_on_the_cpu(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distance(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Any:
            return on_apple_gpu((x.float() - y.float()).abs().flatten(1).mean(1))

    monkeypatch.setattr(evaluation, "load_lpips", lambda config, device: Distance())
    monkeypatch.setattr(evaluation, "image_protocol", lambda *_, **__: {})
    config = EvalConfig(metrics=("psnr", "lpips"), resize=16, crop=16)
    figures = evaluation.evaluate(Tokenizer(TokenizerConfig()), find_images(photos), config, device="cpu").figures
    assert figures[f"lpips_{config.lpips_network}"] > 0


def test_held_out_errors_of_a_diffusion_generator_are_summed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from test_diffusion import network

    made = network(prediction="v")
    errors = some(6).square()
    content, labels, places = torch.zeros(6, 4, 2, 4), torch.arange(6) % 5, torch.arange(6)
    found = []
    for place in (lambda x: x, on_apple_gpu):
        monkeypatch.setattr(made, "errors", lambda *_, place=place: place(errors))
        made.alpha = place(made.alpha.float())
        found.append(made.held_out(content, labels, places).tolist())
    assert found[0] == found[1]


def test_double_precision_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaevq.training.engine.choose_device", lambda name: torch.device("mps"))
    with pytest.raises(UserError, match="precision float64 is not to be had on Apple's GPU"), engine("auto", "float64"):
        pass
