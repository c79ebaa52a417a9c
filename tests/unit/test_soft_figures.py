"""SoftVQ's mean of codewords as continuous figures: what they are of, where they stand, and who has none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from runs import small_recipe, small_run, small_tree, trained, vaevq
from vaevq.comparison import read_plan
from vaevq.comparison.cells import Cell
from vaevq.config import EvalConfig, SoftVQConfig, TokenizerConfig
from vaevq.data.images import to_uint8
from vaevq.data.index import find_images
from vaevq.data.loader import evaluation_batches
from vaevq.errors import UserError
from vaevq.metrics.evaluation import evaluate
from vaevq.metrics.image import psnr
from vaevq.metrics.result import Evaluation
from vaevq.quantization import Posterior, SoftVectorQuantizer
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer

SOFT: dict[str, Any] = {"model": {"quantizer": {"kind": "softvq"}}, "loss": {"continuous_path": 0}}
OPTIONS = EvalConfig(metrics=("psnr", "ssim"), resize=32, crop=32, soft=True)


@pytest.fixture(scope="module")
def tokenizer(photos: Path) -> Tokenizer:
    model = trained(small_run(photos, **SOFT), 2)[0].average.module
    assert isinstance(model, Tokenizer)
    return model


def test_the_soft_latent_is_what_training_decodes_and_needs_no_mode() -> None:
    torch.manual_seed(0)
    layer = SoftVectorQuantizer(4, 30).double()
    posterior = Posterior(torch.randn(3, 4, 20, 30, generator=generator("soft"), dtype=torch.float64))  # several tiles
    assert torch.allclose(layer.eval().soft_latent(posterior), layer.train()(posterior).latent)


def test_continuous_figures_are_of_the_decoded_mean_and_the_others_as_without_them(
    tokenizer: Tokenizer, photos: Path
) -> None:
    images = find_images(photos)
    both = evaluate(tokenizer, images, OPTIONS, device="cpu")
    plain = evaluate(tokenizer, images, OPTIONS.model_copy(update={"soft": False}), device="cpu")
    assert both.figures == plain.figures
    assert both.protocol == plain.protocol
    assert plain.continuous == {}
    assert plain.continuous_rows() == []
    assert list(both.continuous) == ["psnr", "psnr_deviation", "ssim", "ssim_deviation"]
    values = []
    with torch.no_grad():
        for batch in evaluation_batches(images, OPTIONS, 3):
            latent = tokenizer.quantizer.soft_latent(tokenizer.posterior(batch.images))
            assert latent is not None
            values.append(psnr(to_uint8(batch.images), to_uint8(tokenizer.decode_latent(latent))))
    assert both.continuous["psnr"] == pytest.approx(float(torch.cat(values).mean()), rel=1e-6)
    assert both.continuous["psnr"] != both.figures["psnr"]
    assert Evaluation.from_json(json.loads(json.dumps(both.to_json()))) == both
    assert both.continuous_rows()[0].name == "psnr (continuous)"


def test_towards_temperature_0_it_is_the_codeword(tokenizer: Tokenizer, photos: Path) -> None:
    config = SoftVQConfig(code_dim=4, codebook_size=16, temperature=1e-6)
    hard = Tokenizer(TokenizerConfig(autoencoder=tokenizer.config.autoencoder, quantizer=config))
    hard.load_state_dict(tokenizer.state_dict())
    measured = evaluate(hard, find_images(photos), OPTIONS, device="cpu")
    assert measured.continuous["psnr"] == pytest.approx(measured.figures["psnr"], abs=1e-3)


def test_who_has_no_soft_latent_refuses_it(finished: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"eval.soft: vaevq decodes its codewords alone; softvq has"):
        evaluate(Tokenizer.from_pretrained(finished), find_images(photos), OPTIONS, device="cpu")
    outcome = vaevq("eval", "soft=true", "--model", finished)
    assert (outcome.code, outcome.out) == (2, "")
    assert "eval.soft: vaevq decodes its codewords alone" in outcome.err
    outcome = vaevq("train", small_recipe(tmp_path, photos), "eval.soft=true", "--run-dir", tmp_path / "run")
    assert outcome.code == 2
    assert "eval.soft: vaevq decodes its codewords alone" in outcome.err
    assert not (tmp_path / "run").exists()


def test_without_a_figure_to_measure_again_they_are_refused(photos: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    outcome = vaevq("eval", "metrics=[]", "soft=true", "--model", tmp_path / "model", "--data", photos)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "vaevq: error: options: soft has no effect where metrics is empty: it gives the same figures again, of the "
        "soft latent\n"
    )


def test_a_comparison_shows_them_in_a_row_of_their_own_that_is_ranked_nowhere(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(small_tree(photos)))
    plan = {
        "base": "base.yaml",
        "seeds": [0],
        "reference": "plain",
        "rows": {
            "plain": {"model": {"quantizer": {"kind": "vq"}}},
            "soft": {"model": {"quantizer": {"kind": "softvq"}}, "eval": {"soft": True}},
        },
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    assert [row.config.eval.soft for row in read_plan(tmp_path / "plan.yaml").rows] == [False, True]
    outcome = vaevq("compare", tmp_path / "plan.yaml", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    (path,) = (tmp_path / "out" / "cells").glob("soft-*.json")
    cell = Cell.read(path)
    assert cell.continuous["psnr"] != cell.figures["psnr"]
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("| soft (continuous) |"))
    assert f"| {cell.continuous['psnr']:.2f} |" in line
    assert "**" not in line
    assert line.rstrip(" |").endswith("–"), "no usage without tokens"
    assert "soft (continuous)" in (tmp_path / "out" / "report.html").read_text()
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    rows = {row["row"]: row for group in table["groups"] for row in group["rows"]}
    assert rows["plain"]["continuous"] == {}
    assert rows["soft"]["continuous"]["psnr"]["mean"] == pytest.approx(cell.continuous["psnr"])
    assert "soft (continuous)" not in rows
