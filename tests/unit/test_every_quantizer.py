"""Every kind of quantizer goes through a run: trained, stopped and continued, measured, diagnosed, reported on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import largest_difference, small_recipe, small_run, step, step_batches, tensors, trained, trainer, vaevq
from vaevq.config import QUANTIZERS, RunConfig

SHAPES: dict[str, dict[str, Any]] = {
    "fsq": {"code_dim": 3, "codebook_size": 18},
    "vqbridge": {"bridge_width": 8},
}
"""What the small run's 16 codewords of 4 dimensions do not suit."""

LATEST = ("fsq", "lfq", "bsq", "vqgan_lc")


def options(kind: str) -> dict[str, Any]:
    quantizer = {"kind": kind, **SHAPES.get(kind, {})}
    return {"model": {"quantizer": quantizer}} | ({} if kind == "vaevq" else {"loss": {"continuous_path": 0}})


@pytest.mark.parametrize("steps", [1, 3])  # VQGAN-LC's codebook is made in the third
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_continued_from_its_state_it_ends_as_without_a_stop(
    kind: str, steps: int, photos: Path, tmp_path: Path
) -> None:
    config: RunConfig = small_run(photos, **options(kind))
    whole, losses = trained(config, 5)
    first, _ = trained(config, steps)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = trainer(config)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    rest = [step(second, batches) for batches in step_batches(config, 5)[steps:]]
    assert rest == losses[steps:]
    assert largest_difference(tensors(second.state_dict()), tensors(whole.state_dict())) == 0


@pytest.mark.parametrize("kind", LATEST)
def test_the_command_trains_measures_diagnoses_and_reports(kind: str, photos: Path, tmp_path: Path) -> None:
    recipe, run_dir = small_recipe(tmp_path, photos, **options(kind)), tmp_path / "run"
    outcome = vaevq("train", recipe, "--run-dir", run_dir, "--quiet")
    assert outcome.code == 0, outcome.err
    assert "no diagnos" not in (run_dir / "log.txt").read_text()
    size = SHAPES.get(kind, {}).get("codebook_size", 16)
    assert len(json.loads((run_dir / "eval.json").read_text())["histogram"]) == size
    assert json.loads((run_dir / "diagnosis.json").read_text())["hubs"]
    assert (run_dir / "report.html").exists()
    for words in (["inspect", run_dir], ["encode", photos, "--model", run_dir, "-o", tmp_path / "tokens.safetensors"]):
        outcome = vaevq(*words)
        assert outcome.code == 0, outcome.err
    assert vaevq("decode", tmp_path / "tokens.safetensors", "--model", run_dir, "-o", tmp_path / "back").code == 0
    assert len(list((tmp_path / "back").iterdir())) == 12
