"""The whole diagnosis of small runs: what it holds, that it is repeatable, and what it refuses."""

import json
import re
from pathlib import Path

import pytest
import torch

from runs import small_run, trained
from vaevq.config import EvalConfig
from vaevq.data.held_out import run_images
from vaevq.data.index import find_images
from vaevq.diagnostics import Diagnosis, diagnose
from vaevq.errors import UserError
from vaevq.metrics.evaluation import evaluate
from vaevq.tokenizer import Tokenizer
from vaevq.training.run_diagnosis import diagnose_run

PAGE = Path(__file__).parents[2] / "docs" / "diagnostics.md"


@pytest.fixture(scope="module")
def diagnosis(finished: Path) -> Diagnosis:
    return diagnose_run(finished, device="cpu")


def test_a_runs_diagnosis_is_of_its_model_and_its_held_out_images(diagnosis: Diagnosis, finished: Path) -> None:
    config = small_run(Path(json.loads((finished / "config.json").read_text())["data"]["train"]))
    tokenizer, images = Tokenizer.from_pretrained(finished), run_images(config.data, config.seed)
    figures = evaluate(tokenizer, images.held_out, config.eval, device="cpu").figures
    assert diagnosis.model_digest == tokenizer.digest
    assert diagnosis.images == diagnosis.probed == len(images.held_out)
    assert diagnosis.overfitting.psnr_held_out == pytest.approx(figures["psnr"])
    assert diagnosis.alignment.psnr_quantized == pytest.approx(figures["psnr"])
    known = evaluate(tokenizer, images.train, config.eval, device="cpu").figures
    assert diagnosis.overfitting.psnr_train == pytest.approx(known["psnr"])
    assert diagnosis.hubs.dead_share == pytest.approx(1 - figures["usage"])
    assert diagnosis.hubs.tokens_per_codeword == pytest.approx(figures["tokens_per_codeword"])
    assert diagnosis.distortion.token_bits == pytest.approx(figures["entropy_bits"])
    assert diagnosis.stability is not None, "against the checkpoint before the last"
    assert diagnosis.stability.codeword_drift > 0
    error = diagnosis.distortion.quantization_error
    assert diagnosis.alignment.mean_mse * tokenizer.quantizer.code_dim == pytest.approx(error, rel=1e-4)


def test_it_is_json_and_rows_with_a_name_a_value_and_a_meaning(diagnosis: Diagnosis) -> None:
    tree = json.loads(json.dumps(diagnosis.to_json(), allow_nan=False))
    assert len(tree["latents"]["posterior_variance"]) == 4
    rows = {row.name: row for row in diagnosis.rows()}
    assert len(rows) == len(diagnosis.rows())
    assert all(row.value and row.meaning for row in rows.values())
    assert rows["psnr_held_out"].value == f"{diagnosis.overfitting.psnr_held_out:.2f} dB"
    assert rows["gradient, total"].meaning.startswith("RMS at the encoder's output, 100.0% of the whole loss's")


def test_the_page_has_every_figure_and_no_other(diagnosis: Diagnosis) -> None:
    described = re.findall(r"`([a-z][a-z0-9_]*)`", "\n".join(re.findall(r"^\|([^|]*)\|", PAGE.read_text(), re.M)))
    named = [row.name for row in diagnosis.rows() if not row.name.startswith("gradient, ")]
    # Two figures are of dead codewords, where there are any.
    of_the_dead = {"dead_but_close_share", "dead_norm_ratio"} if diagnosis.hubs.dead_share == 0 else set()
    assert sorted(described) == sorted([*named, *of_the_dead])


def test_neither_batches_nor_a_second_time_make_a_difference(photos: Path) -> None:
    config = small_run(photos, train={"precision": "float64"})
    tokenizer = trained(config, 2)[0].average.module
    assert isinstance(tokenizer, Tokenizer)
    tokenizer.train()
    images = run_images(config.data, config.seed)

    def measured(batch_size: int) -> Diagnosis:
        options = config.eval.model_copy(update={"batch_size": batch_size})
        return diagnose(tokenizer, images.held_out, images.train, options, config.loss, device="cpu")

    first = measured(2)
    assert first == measured(2)
    assert tokenizer.training, "the model is left as it was"
    other = measured(1)
    for mine, theirs in zip(first.rows(), other.rows(), strict=True):
        assert mine == theirs or mine.name.startswith("gradient, "), "gradients are of one batch"


@pytest.mark.parametrize(
    ("kind", "term"),
    [
        *(("vq", "commitment"), ("vq_ema", "commitment"), ("simvq", "commitment"), ("ibq", "index")),
        *(("softvq", "entropy"), ("wasserstein", "wasserstein"), ("vqbridge", "codebook")),
        *(("fsq", "pixel, quantized"), ("lfq", "entropy"), ("bsq", "commitment"), ("vqgan_lc", "codebook")),
        *(("residual", "commitment"), ("movq", "codebook")),
    ],
)
def test_point_quantizers_give_what_they_have(photos: Path, kind: str, term: str) -> None:
    quantizer = {"kind": kind} | ({"quantize_from": 0} if kind == "vqgan_lc" else {})
    config = small_run(photos, model={"quantizer": quantizer}, loss={"continuous_path": 0})
    tokenizer = trained(config, 1)[0].average.module
    assert isinstance(tokenizer, Tokenizer)
    images = run_images(config.data, config.seed)
    result = diagnose(tokenizer, images.held_out, images.train, config.eval, config.loss, device="cpu")
    assert result.latents.posterior_kl is None
    assert result.alignment.psnr_sample is None
    assert result.stability is None
    assert {row.term for row in result.gradients} >= {"pixel, quantized", term, "total"}
    assert "posterior_kl_sum" not in {row.name for row in result.rows()}


def test_a_diverged_model_and_too_few_images_are_mistakes_of_one_line(photos: Path, tmp_path: Path) -> None:
    config = small_run(photos)
    tokenizer = Tokenizer(config.model)
    images = find_images(str(photos))
    options = EvalConfig(resize=32, crop=32)
    with pytest.raises(UserError, match="at least 2 held-out images and 1 training image, not 1 and 12"):
        diagnose(tokenizer, images[:1], images, options, config.loss, device="cpu")
    with torch.no_grad():
        tokenizer.head.mean.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="this model has diverged"):
        diagnose(tokenizer, images, images, options, config.loss, device="cpu")
    with pytest.raises(UserError, match="diagnostics need the folder of a run"):
        diagnose_run(tmp_path, device="cpu")
