"""Runs whose positions have several codes: every figure counts them all, and what they do not have is left out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pages import Page
from runs import figures, last_checkpoint, metrics, small_recipe, small_run, small_tree, vaevq, weights
from vaevq.comparison import read_plan
from vaevq.comparison.cells import tasks
from vaevq.comparison.table import make_comparison
from vaevq.comparison.text import group_title
from vaevq.config import QUANTIZERS, CodebookShape, TokenizerConfig
from vaevq.data.held_out import run_images
from vaevq.data.loader import evaluation_batches
from vaevq.diagnostics.claims import stability
from vaevq.diagnostics.distortion import reverse_water_filling
from vaevq.errors import UserError
from vaevq.inspection import inspect_path
from vaevq.report.pictures import token_colours
from vaevq.tokenizer import Tokenizer

SEVERAL: dict[str, dict[str, Any]] = {
    "residual": {"quantizer": {"kind": "residual", "codes_per_position": 3}},
    "movq": {"quantizer": {"kind": "movq", "codes_per_position": 2}, "autoencoder": {"modulated": True}},
}
Q, CODEBOOKS = {"residual": 3, "movq": 2}, {"residual": 3, "movq": 1}


def sections(kind: str) -> dict[str, Any]:
    return {"model": SEVERAL[kind], "loss": {"continuous_path": 0}}


@pytest.fixture(scope="module", params=SEVERAL)
def run(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each kind, in a folder of its name. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("several")
    recipe = small_recipe(folder, photos, **sections(request.param))
    outcome = vaevq("train", recipe, "--run-dir", folder / request.param, "--quiet")
    assert outcome.code == 0, outcome.err
    return folder / request.param


def model_of(photos: Path, model: dict[str, Any]) -> TokenizerConfig:
    return small_run(photos, model=model, loss={"continuous_path": 0}).model


def evaluation(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "eval.json").read_text())
    return read


def held_out_tokens(run: Path, photos: Path) -> torch.Tensor:
    config = small_run(photos, **sections(run.name))
    tokenizer = Tokenizer.from_pretrained(run)
    batches = evaluation_batches(run_images(config.data, config.seed).held_out, config.eval, 3)
    with torch.no_grad():
        return torch.cat([tokenizer.encode(batch.images) for batch in batches])


def entropy(tokens: torch.Tensor) -> float:
    shares = torch.bincount(tokens.flatten(), minlength=16).double() / tokens.numel()
    return float(-(shares[shares > 0] * shares[shares > 0].log2()).sum())


def test_figures_are_of_all_codes_of_held_out_positions(run: Path, photos: Path) -> None:
    tokens, q, found = held_out_tokens(run, photos), Q[run.name], evaluation(run)
    assert tokens.shape == (2, 16, 16, q)
    protocol = found["protocol"]
    assert (protocol["tokens"], protocol["codes_per_position"], protocol["codebooks"]) == (
        2 * 256 * q,
        q,
        CODEBOOKS[run.name],
    )
    books = [tokens] if run.name == "movq" else list(tokens.unbind(dim=-1))
    counts = torch.cat([torch.bincount(book.flatten(), minlength=16) for book in books])
    assert found["histogram"] == counts.tolist()
    bits = sum(map(entropy, books)) / len(books)
    expected = {
        "usage": float((counts > 0).double().mean()),
        "dead_codewords": int((counts == 0).sum()),
        "tokens_per_codeword": tokens.numel() / len(counts),
        "entropy_bits": bits,
        "perplexity": 2**bits,
        "bits_per_pixel": q * 4 / 4,
        "bits_per_pixel_entropy": q * bits / 4,
    }
    assert {name: found["figures"][name] for name in expected} == pytest.approx(expected)


def test_inspection_shows_what_was_evaluated_and_what_a_token_file_holds(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    q, rows, found = Q[run.name], dict(inspect_path(run)), evaluation(run)["figures"]
    assert (rows["codes_per_position"], rows["codebook_size"]) == (q, 16)
    shown = {name: rows[name] for name in ("usage", "T/K", "perplexity", "dead codewords")}
    names = ("usage", "tokens_per_codeword", "perplexity", "dead_codewords")
    assert list(shown.values()) == pytest.approx([found[name] for name in names])
    outcome = vaevq("encode", photos, "--model", run, "-o", tmp_path / "t.safetensors", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    rows = dict(inspect_path(tmp_path / "t.safetensors"))
    assert (rows["codes_per_position"], rows["codebooks"]) == (q, CODEBOOKS[run.name])
    assert rows["bits a pixel (log2 K)"] == q * 4 / 4
    assert vaevq("decode", tmp_path / "t.safetensors", "--model", run, "-o", tmp_path / "out").code == 0


def test_shards_are_counted_as_a_token_file_of_the_same_images(run: Path, photos: Path, tmp_path: Path) -> None:
    words = ("encode", photos, "--model", run, "--resize", 32, "--crop", 32, "-o")
    assert vaevq(*words, tmp_path / "one.safetensors").code == 0
    assert vaevq(*words, tmp_path / "shards", "--shard-size", 5).code == 0
    one, shards = (dict(inspect_path(tmp_path / name)) for name in ("one.safetensors", "shards"))
    assert shards["codebooks"] == CODEBOOKS[run.name]
    common = one.keys() & shards.keys() - {"kind"}
    assert common > {"tokens", "codebooks", "perplexity", "usage"}
    assert {name: one[name] for name in common} == {name: shards[name] for name in common}


def test_a_diagnosis_leaves_out_what_needs_a_codeword_a_position_and_rates_are_of_all_codes(run: Path) -> None:
    tree, q, found = json.loads((run / "diagnosis.json").read_text()), Q[run.name], evaluation(run)["figures"]
    assert tree["hubs"] is None
    absent = {"codebook_eigenvalues", "codebook_dimension", "w2_codebook_prior", "w2_codebook_means"}
    assert {name for name in tree["latents"] if tree["latents"][name] is None} >= absent
    assert tree["stability"]["codeword_drift"] is None
    assert tree["stability"]["changed_tokens"] > 0
    spectrum = torch.tensor(tree["latents"]["mean_eigenvalues"], dtype=torch.float64)
    bound = reverse_water_filling(spectrum, q * 4.0) / float(spectrum.sum())
    assert tree["distortion"]["reference_share"] == pytest.approx(bound)
    assert tree["distortion"]["token_bits"] == pytest.approx(q * found["entropy_bits"])
    logged = [row for row in metrics(run) if row["split"] == "diagnostics"]
    assert logged
    assert not any("codebook_" in name or name == "codeword_drift" for row in logged for name in row)
    assert all(row["reference_share"] > 0 for row in logged)
    outcome = vaevq("inspect", run, "--diagnose", "--json")
    assert outcome.code == 0, outcome.err


def test_the_report_shows_the_first_code_and_says_so(run: Path) -> None:
    page, q = Page((run / "report.html").read_text()), Q[run.name]
    assert f"becomes {q} tokens, each one of 16 codewords, for a latent of 4 dimensions" in page.text
    assert f"They show the first of the {q} tokens of each position." in page.text
    assert f"16×16×{q} tokens, of the first " in page.text
    assert ("Usage is over all 3 codebooks" in page.text) is (run.name == "residual")
    assert f"of {16 * CODEBOOKS[run.name]} codewords; ceiling" in page.text
    assert any(f"at {4 * q:.2f} bits a position" in (svg["aria-label"] or "") for svg in page.all("svg"))
    pictures = json.loads((run / "images" / "pictures.json").read_text())
    assert {picture["codes_per_position"] for picture in pictures} == {q}


def test_the_token_map_is_of_the_first_code(run: Path, photos: Path) -> None:
    first = held_out_tokens(run, photos)[0, ..., 0]
    (path, *_) = sorted((run / "images").glob("00_*_tokens.png"))
    drawn = np.asarray(Image.open(path))[::2, ::2]
    assert (drawn == token_colours(first.numpy())).all()


def test_continued_from_its_first_checkpoint_a_run_ends_the_same(run: Path, photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, photos, **sections(run.name), train={"keep_checkpoints": 9})
    again = tmp_path / "again"
    assert vaevq("train", recipe, "--run-dir", again, "--quiet").code == 0
    for path in sorted((again / "checkpoints").glob("*.pt"))[1:]:
        path.unlink()
    (again / "eval.json").unlink()
    assert vaevq("train", recipe, "--run-dir", again, "--quiet").code == 0
    for one, other in ((last_checkpoint(again), last_checkpoint(run)), (weights(again), weights(run))):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert figures(again) == figures(run)


def test_stability_compares_equal_numbers_of_codes_alone(photos: Path) -> None:
    one, other = (
        Tokenizer(model_of(photos, {"quantizer": {"kind": "residual", "codes_per_position": q}})) for q in (2, 3)
    )
    with pytest.raises(UserError, match="a codebook of 16×4, 3 codes a position and f = 2, this one 16×4, 2 codes"):
        stability(one, other, [])


def test_rows_of_equal_bits_a_pixel_are_one_group_whatever_their_codes(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(small_tree(photos)))
    rows = {
        "ours": {"codebook_size": 216},
        "residual": {"kind": "residual", "codebook_size": 6, "codes_per_position": 3},
        "movq": {"kind": "movq", "codebook_size": 6, "codes_per_position": 2},
    }
    settings = {name: {"seeds": [0], "model": {"quantizer": quantizer}} for name, quantizer in rows.items()}
    plan = {"base": "base.yaml", "reference": "ours", "rows": settings}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    read = read_plan(tmp_path / "plan.yaml")
    low, high = make_comparison(read, tasks(read), tmp_path / "cells").groups
    assert [entry.name for entry in low.entries] == ["movq"]
    assert low.bits_per_pixel == math.log2(36) / 4
    assert {entry.name for entry in high.entries} == {"ours", "residual"}
    assert group_title(high) == "1.939 bits a pixel (f = 2, K = 6, 3 codes a position or f = 2, K = 216)"


def test_every_configuration_says_how_many_codes_a_position_has() -> None:
    several = {kind: shape().codes_per_position for kind, shape in QUANTIZERS.items() if shape().codes_per_position > 1}
    assert several == {"residual": 4, "movq": 4}
    assert "codes_per_position" not in CodebookShape().model_dump()
