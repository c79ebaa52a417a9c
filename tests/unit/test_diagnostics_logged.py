"""Diagnostics while a run trains and at its end: they are those of `diagnose`, disturb nothing, and may fail."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from runs import ADVERSARIAL, last_checkpoint, small_run, trained, weights
from vaevq.data.held_out import run_images
from vaevq.diagnostics import Diagnosis, diagnose
from vaevq.diagnostics.gradients import gradient_batch
from vaevq.diagnostics.monitor import OF_DISTORTION, OF_LATENTS, Monitor, gradient_name
from vaevq.tokenizer import Tokenizer
from vaevq.training import run_diagnosis
from vaevq.training.run_diagnosis import diagnose_run
from vaevq.training.tokenizer_loop import train_tokenizer
from vaevq.training.tracking import read_metrics

EVERY_TERM: dict[str, Any] = {
    "model": {"quantizer": {"codebook": "projected", "dcr_weight": 0.1, "dcr_target": "aggregate_posterior"}},
    "loss": ADVERSARIAL,
    # Checkpoints where it is evaluated, so that both compare with the same state.
    "train": {"images": 24, "evaluate_every": 8, "checkpoint_every": 8},
}
RUNS: dict[str, dict[str, Any]] = {
    "moving averages": {"model": {"quantizer": {"revive_below": 0.5}}},
    "every term": EVERY_TERM,
    "vq_ema": {"model": {"quantizer": {"kind": "vq_ema"}}, "loss": {"continuous_path": 0}},
    "recomputed": {"train": {"gradient_checkpointing": True}},
}


def logged(run_dir: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run_dir / "metrics.jsonl") if row["split"] == "diagnostics"]


def by_name(diagnosis: Diagnosis) -> dict[str, Any]:
    """What the log has of a diagnosis."""
    assert diagnosis.stability is not None
    values = {name: getattr(diagnosis.latents, name) for name in OF_LATENTS}
    values |= {name: getattr(diagnosis.distortion, name) for name in OF_DISTORTION}
    values |= {name: getattr(diagnosis.stability, name) for name in ("changed_tokens", "codeword_drift")}
    return values | {gradient_name(row.term): row.rms for row in diagnosis.gradients}


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logged") / "run"
    train_tokenizer(small_run(photos, **EVERY_TERM), folder, quiet=True)
    return folder


def test_what_is_logged_last_is_what_diagnose_measures(run: Path) -> None:
    rows = logged(run)
    assert [row["images_seen"] for row in rows] == [8, 16, 24]
    wanted = by_name(diagnose_run(run, device="cpu"))
    last = {name: value for name, value in rows[-1].items() if name not in {"images_seen", "split", "seconds"}}
    assert last.keys() == wanted.keys() >= {"gradient/adversarial_quantized", "gradient/dcr", "gradient/total"}
    assert last == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    assert last["gradient/total"] > 0
    assert last["codeword_drift"] > 0
    assert "changed_tokens" not in rows[0], "there is nothing before it"
    assert "gradient/adversarial_quantized" not in rows[0], "the discriminator has not joined"


def test_a_point_quantizer_logs_no_posterior(photos: Path, tmp_path: Path) -> None:
    train_tokenizer(small_run(photos, **RUNS["vq_ema"]), tmp_path / "run", quiet=True)
    first, second = logged(tmp_path / "run")
    assert second.keys() - first.keys() == {"changed_tokens", "codeword_drift"}
    assert first.keys() >= {"mean_dimension", "codebook_dimension", "w2_codebook_prior", "gradient/commitment"}
    assert not first.keys() & {"posterior_variance_sum", "posterior_kl_sum"}


@pytest.mark.parametrize("name", RUNS)
def test_training_goes_the_same_way_with_and_without(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = small_run(photos, **RUNS[name])
    train_tokenizer(config, tmp_path / "with", quiet=True)
    assert all(row["gradient/total"] > 0 for row in logged(tmp_path / "with"))
    monkeypatch.setattr(Monitor, "measure", lambda *_: {})
    train_tokenizer(config, tmp_path / "without", quiet=True)
    one, other = last_checkpoint(tmp_path / "with"), last_checkpoint(tmp_path / "without")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[part]) for part, value in one.items())


def test_measuring_leaves_the_averaged_model_as_it_is(photos: Path) -> None:
    config = small_run(photos)
    made, _ = trained(config, 2)
    tokenizer, images = made.average.module, run_images(config.data, config.seed)
    assert isinstance(tokenizer, Tokenizer)
    before, random = copy.deepcopy(tokenizer.state_dict()), torch.random.get_rng_state()
    monitor = Monitor(images.held_out, config.eval, gradient_batch(images.train, config.eval, 3))
    first = monitor.measure(tokenizer, made.objective)
    second = monitor.measure(tokenizer, made.objective)
    assert second == {**first, "changed_tokens": 0, "codeword_drift": 0}
    assert all(torch.equal(before[name], value) for name, value in tokenizer.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert not any(part.training for part in tokenizer.modules())
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
    assert not tokenizer.quantizer.codebook._pending


def test_a_run_ends_with_a_diagnosis_of_few_images(photos: Path, tmp_path: Path) -> None:
    config = small_run(photos, data={"held_out_share": 0.5}, train={"evaluate_images": 3})
    result = train_tokenizer(config, tmp_path / "run", quiet=True)
    assert len(result.images.held_out) == 6
    read = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert (read["images"], read["probed"]) == (3, 3)
    few = config.eval.model_copy(update={"images": 3})
    images = result.images
    again = diagnose(result.tokenizer, images.held_out, images.train, few, config.loss, device="cpu").to_json()
    assert read.pop("stability")["changed_tokens"] >= 0, "against the checkpoint before the last"
    assert again.pop("stability") is None
    assert read == json.loads(json.dumps(again, allow_nan=False))


def test_a_diagnosis_is_made_anew_where_it_is_of_other_weights_or_damaged(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, calls = Path(shutil.copytree(finished, tmp_path / "run")), list[str]()
    path, config = run_dir / "diagnosis.json", small_run(photos)
    stood = json.loads(path.read_text())
    measure = run_diagnosis.diagnose
    monkeypatch.setattr(run_diagnosis, "diagnose", lambda *a, **k: (calls.append("made"), measure(*a, **k))[1])
    train_tokenizer(config, run_dir, quiet=True)
    assert calls == []
    for text in (json.dumps({**stood, "model_digest": "0" * 16}), path.read_text()[:100]):
        path.write_text(text)
        train_tokenizer(config, run_dir, quiet=True)
        assert json.loads(path.read_text()) == stood
    assert calls == ["made"] * 2


def test_a_run_that_cannot_be_diagnosed_ends_all_the_same_and_says_why(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(photos / "cat-0.png", tmp_path / "one")
    (tmp_path / "small").mkdir()
    for path in sorted(photos.iterdir()):
        if not path.name.startswith("cat-0"):
            Image.open(path).crop((0, 0, 24, 24)).save(tmp_path / "small" / path.name)
    sides = {"train": str(tmp_path / "small"), "held_out": str(tmp_path / "one")}
    config = small_run(photos, data=sides, eval={"resize": None})
    result = train_tokenizer(config, tmp_path / "run", quiet=True)
    assert result.evaluation.images == 1
    assert not (tmp_path / "run" / "diagnosis.json").exists()
    told = [line.partition("  ")[2] for line in (tmp_path / "run" / "log.txt").read_text().splitlines()]
    assert "no diagnosis.json: diagnostics need at least 2 held-out images and 1 training image, not 1 and 11" in told
    assert any(line.startswith("no gradients of single terms in the log: ") and "crop" in line for line in told)
    first, _ = logged(tmp_path / "run")
    assert first["mean_dimension"] >= 1
    assert not any(name.startswith("gradient/") for name in first)


def test_a_diverged_model_is_a_line_in_the_log_and_not_the_end_of_a_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise torch.linalg.LinAlgError("did not converge\nbecause")

    monkeypatch.setattr(Monitor, "measure", fails)
    train_tokenizer(small_run(photos), tmp_path / "run", quiet=True)
    assert "no diagnostics at 8 images: did not converge\n" in (tmp_path / "run" / "log.txt").read_text()
    assert weights(tmp_path / "run")
