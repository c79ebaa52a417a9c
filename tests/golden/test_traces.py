"""Recorded losses of short runs: a change that is meant to change no number changes none of these.

`VAEVQ_RECORD=1 .venv/bin/pytest tests/golden` records them anew. The images are made here of integers and the
arithmetic is float64, so what a trace hangs on beside our code is torch's seeded CPU generator, which draws initial
weights and the posterior's noise in float32. Its normal numbers differ in their last digits between processors with
AVX2, where traces are recorded, and others.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runs import ADVERSARIAL, small_run, trained

STEPS = 8
TOLERANCE = 1e-9 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 1e-5
RUNS: Mapping[str, Mapping[str, Any]] = {
    "vaevq": {},
    "without_normalization": {"model": {"autoencoder": {"normalization": "none"}}},
    "paper": {"variant": "paper", "loss": {**ADVERSARIAL, "adversarial_start": 16}},  # from the fifth step on
    "adaptive": {  # another size in the fifth step
        "model": {"quantizer": {"average_decay": 0.9}},
        "adapt": {
            "by": "usage",
            "perplexity_share": 0.2,
            "every": 4,
            "start": 0,
            "until": 1,
        },  # splits in the fifth step
    },
    "vq": {"model": {"quantizer": {"kind": "vq"}}, "loss": {"continuous_path": 0.0}},
}


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten images, 24×32."""
    folder = tmp_path_factory.mktemp("patterns")
    y, x, channel = np.ogrid[:24, :32, :3]
    for i in range(10):
        pixels = (3 + i) * x + (11 - i) * y + x * y // (i + 1) + 70 * channel * (i % 4) + 20 * i
        Image.fromarray((pixels % 256).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_losses_that_were_recorded(patterns: Path, name: str) -> None:
    config = small_run(patterns, **RUNS[name], train={"precision": "float64", "images": 4 * STEPS})
    _, losses = trained(config, STEPS)
    path = Path(__file__).with_name(f"{name}.json")
    if os.environ.get("VAEVQ_RECORD"):
        path.write_text(json.dumps(losses, indent=1) + "\n")
    recorded = json.loads(path.read_text())
    assert len(losses) == len(recorded)
    for step, (now, then) in enumerate(zip(losses, recorded, strict=True), start=1):
        assert now == pytest.approx(then, rel=TOLERANCE), f"{name}, step {step}"
