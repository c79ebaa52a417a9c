"""Runs on volumes: trained, measured in the window without rounding, split by subject and held to it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from runs import figures, small_recipe, vaevq
from vaevq.config import DataConfig, EvalConfig, LossConfig, TokenizerConfig, VolumesConfig
from vaevq.data.index import VolumeOptions, find_images
from vaevq.data.loader import evaluation_batches, training_batches
from vaevq.data.volumes.entries import SliceEntry, sliced_volumes
from vaevq.losses.objective import TokenizerObjective
from vaevq.metrics.evaluation import evaluate
from vaevq.metrics.image import psnr, ssim
from vaevq.metrics.volumes import VolumeScores
from vaevq.nn.lpips import Lpips
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer, TokenizerOutput
from volumes import ball, write_brats, write_volume

WHOLE = {"resize": None, "crop": None}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path_factory.getbasetemp() / "volume-cache"))


@pytest.fixture(scope="module")
def brats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients of one visit, 20×24×16 voxels a contrast."""
    return write_brats(tmp_path_factory.mktemp("brats"))


def options(**given: Any) -> VolumeOptions:
    return VolumeOptions(VolumesConfig.model_validate({"size": 32, **given}))


def recipe(folder: Path, data: Path, channels: int, **volumes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return small_recipe(
        folder,
        data,
        model={"autoencoder": {"image_channels": channels}},
        data={"split_by": "shoot", "held_out_share": 0.25, "volumes": {"size": 32, **volumes}},
        eval=WHOLE,
    )


@pytest.mark.parametrize(("channels", "volumes"), [(1, {"contrasts": ["t2f"]}), (4, {"stack": "channels"})])
def test_a_run_on_brats_is_trained_measured_reported_and_held_to_its_subjects(
    tmp_path: Path, channels: int, volumes: dict[str, Any]
) -> None:
    folder, run = write_brats(tmp_path / "brats"), tmp_path / "run"
    path = recipe(tmp_path, folder, channels, **volumes)
    done = vaevq("train", path, "--run-dir", run, "--quiet")
    assert done.code == 0, done.err
    split = json.loads((run / "split.json").read_text())
    assert len(split["held_out_subjects"]) == 1
    assert len(split["train_subjects"]) == 3
    assert all(name.startswith(split["held_out_subjects"][0]) for name in split["held_out"])
    measured = figures(run)
    assert {"psnr", "ssim", "psnr_foreground", "ssim_foreground", "psnr_3d", "psnr_3d_foreground"} <= measured.keys()
    protocol = json.loads((run / "eval.json").read_text())["protocol"]
    assert protocol["rounding"] == "none: reconstructions clamped to the window"
    assert protocol["volumes"] == protocol["subjects"] == 1
    assert (run / "report.html").is_file()
    again = vaevq("eval", "--model", run, "--json", "--device", "cpu")
    assert again.code == 0, again.err
    assert json.loads(again.out)["figures"] == pytest.approx(measured)
    # Images that were trained on are not to be measured on, whichever way they are named.
    everyone = vaevq("eval", "--model", run, "--data", folder, "--device", "cpu")
    assert everyone.code == 2
    assert "3 subjects also stand on the training side" in everyone.err
    # Another patient changes who is held out, or who is trained on: such a run is not gone on with.
    write_brats(folder, patients=9)
    refused = vaevq("train", path, "--run-dir", run, "--quiet")
    assert refused.code == 2
    assert "holds a run with other data (train_subjects of split.json" in refused.err


def test_a_model_of_other_channels_is_refused_before_anything_is_trained(brats: Path, tmp_path: Path) -> None:
    refused = vaevq("train", recipe(tmp_path, brats, 3), "--run-dir", tmp_path / "run", "--quiet")
    assert refused.code == 2
    assert "its slices have 1 channel, and the model takes 3: set model.autoencoder.image_channels=1" in refused.err
    assert not (tmp_path / "run").exists()


def test_slices_reach_the_networks_unrounded(brats: Path) -> None:
    index = find_images(brats, options(contrasts=["t1c"]))
    data = DataConfig(image_size=16, flip=False)
    batch = next(training_batches(index, data, 1, seed=0, start=0, stop=8, batch_size=8))
    assert not batch.eight_bits
    assert batch.images.dtype == torch.float32
    on_bytes = (batch.images + 1) * 127.5
    assert (on_bytes - on_bytes.round()).abs().max() > 0.1, "values between those of 8 bits"
    assert torch.equal(batch.measurable(batch.images), batch.images)
    (whole,) = list(evaluation_batches(index[:4], EvalConfig(**WHOLE, batch_size=4), 1))
    np.testing.assert_array_equal(whole.images[2, 0].numpy(), index[2].load(1)[..., 0])
    resized = next(iter(evaluation_batches(index[:4], EvalConfig(resize=48, crop=40, batch_size=4), 1)))
    assert resized.images.shape[-2:] == (40, 40)
    assert resized.images.abs().max() <= 1
    assert resized.images.unique().numel() > 300


def test_figures_of_slices_are_those_of_scikit_image_over_the_window(brats: Path) -> None:
    index = find_images(brats, options(stack="channels", contrasts=["t1c", "t2w"]))[:6]
    (batch,) = list(evaluation_batches(index, EvalConfig(**WHOLE, batch_size=6), 2))
    noise = 0.2 * torch.randn(batch.images.shape, generator=generator("noise"))
    originals, others = batch.images, (batch.images + noise).clamp(-1, 1)
    scores = VolumeScores(index, torch.device("cpu"))
    inside = scores.foreground(originals)
    for i in range(6):
        x, y = originals[i].double().numpy(), others[i].double().numpy()
        assert float(psnr(originals, others)[i]) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=2))
        maps = [
            structural_similarity(
                a, b, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
            )
            for a, b in zip(x, y, strict=True)
        ]
        assert float(ssim(originals, others)[i]) == pytest.approx(np.mean([value for value, _ in maps]))
        mask = inside[i, 0].numpy()
        error = ((x - y)[:, mask] ** 2).mean()
        assert float(scores.slice_psnr(originals, others)[i]) == pytest.approx(10 * math.log10(4 / error))
        middle = np.zeros_like(mask)
        middle[5:-5, 5:-5] = mask[5:-5, 5:-5]
        expected = np.mean([full[middle].mean() for _, full in maps])
        assert float(scores.slice_ssim(originals, others)[i]) == pytest.approx(expected)
    empty = torch.full_like(originals, -1)
    assert torch.equal(scores.slice_psnr(empty, others), psnr(empty, others)), "without foreground, of the whole"


@pytest.mark.parametrize("size", [None, 32, 12])
def test_the_psnr_of_a_volume_is_that_of_the_reassembled_one(tmp_path: Path, size: int | None) -> None:
    """Against the volume put together by hand: dropped planes and cut borders are there as background."""
    for number in range(2):
        write_volume(tmp_path / f"s{number}.nii", ball((20, 24, 16), number))
    index = find_images(tmp_path, options(size=size, empty_below=0.2))
    torch.manual_seed(0)
    config = TokenizerConfig.model_validate(
        {
            "autoencoder": {"base_width": 8, "multipliers": [1, 2], "blocks": 1, "image_channels": 1},
            "quantizer": {"code_dim": 4, "codebook_size": 16},
        }
    )
    tokenizer = Tokenizer(config).eval()
    # SSIM windows do not fit into 12 pixels less its borders by much; PSNR is what is looked at.
    measured = evaluate(tokenizer, index, EvalConfig(**WHOLE, metrics=("psnr",), batch_size=3), device="cpu")
    expected, inside = [], []
    for sliced in sliced_volumes(index):
        planes = range(sliced.slicing.shape[2])
        assert 0 < len(sliced.slicing.kept) < len(planes)
        original = np.stack([sliced.plane(place) for place in planes])
        back = np.full_like(original, -1)
        errors = []
        for entry in sliced.slices():
            with torch.inference_mode():
                image = torch.from_numpy(entry.load(1)).permute(2, 0, 1)[None]
                made = tokenizer(image).reconstruction.clamp(-1, 1)
            back[entry.place] = sliced.slicing.unfitted(made[0].permute(1, 2, 0).numpy(), -1)
            errors.append(((made - image) / 2)[image > -1].double() ** 2)
        expected.append(-10 * math.log10((((original.astype(float) - back) / 2) ** 2).mean()))
        inside.append(-10 * math.log10(float(torch.cat(errors).mean())))
    assert measured.figures["psnr_3d"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert measured.figures["psnr_3d_foreground"] == pytest.approx(np.mean(inside), abs=1e-4)
    few = evaluate(tokenizer, index, EvalConfig(**WHOLE, metrics=("psnr",), images=5), device="cpu")
    assert "psnr_3d" not in few.figures
    assert any("2 of 2 volumes are not in psnr_3d" in note for note in few.notes)


class Brightness(Lpips):
    """A stand-in that says how many images it was shown, and of how many channels."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.seen: list[torch.Size] = []

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.seen.append(images.shape)
        return [images]

    def distance(self, features_x: list[torch.Tensor], features_y: list[torch.Tensor]) -> torch.Tensor:
        return (features_x[0] - features_y[0]).square().flatten(1).mean(1)


def test_contrasts_are_no_colours_to_lpips_where_each_is_asked_for() -> None:
    for channels, shape in (("each", (10, 1, 8, 8)), ("colour", (2, 5, 8, 8))):
        lpips = Brightness()
        loss = LossConfig.model_validate({"perceptual_weight": 1, "perceptual_channels": channels})
        images = torch.randn(2, 5, 8, 8, generator=generator("each"))
        output = TokenizerOutput(images / 2, None, None, type("Terms", (), {"terms": {}}))  # type: ignore[arg-type]
        terms = TokenizerObjective(loss, {}, lpips)(images, output).terms
        assert set(lpips.seen) == {torch.Size(shape)}
        assert float(terms["perceptual"]) == pytest.approx(float((images / 2).square().mean()), rel=1e-5)


def test_workers_hand_over_slices(brats: Path) -> None:
    index = find_images(brats, options(contrasts=["t1c"]))
    streams = [
        next(training_batches(index, DataConfig(image_size=16, workers=w), 1, seed=0, start=0, stop=4, batch_size=4))
        for w in (0, 1)
    ]
    assert torch.equal(streams[0].images, streams[1].images)
    assert streams[0].names == streams[1].names


def test_a_slice_whose_file_has_gone_is_passed_over(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_volume(tmp_path / f"{name}.nii", ball((20, 24, 16)))
    index = find_images(tmp_path, options())
    (tmp_path / "two.nii").unlink()
    batches = list(evaluation_batches(index, EvalConfig(**WHOLE), 1))
    gone = [entry.name for entry in index if isinstance(entry, SliceEntry) and entry.group == "two"]
    skipped = [line for batch in batches for line in batch.unreadable]
    assert {name for batch in batches for name in batch.names}.isdisjoint(gone)
    assert [line.partition(":")[0] for line in skipped] == gone
    assert all(line.endswith("no such file or directory") for line in skipped)
