"""What `inspect` says of a run, a model, a checkpoint and a token file; anything else is one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vaevq.data.tokens import TokenFile, write_token_file
from vaevq.errors import UserError
from vaevq.inspection import inspect_path
from vaevq.tokenizer import Tokenizer


def test_a_run(finished: Path) -> None:
    rows = dict(inspect_path(finished))
    assert (rows["kind"], rows["images seen"], rows["images to see"], rows["evaluated"]) == ("run", 20, 20, True)
    assert rows["checkpoints"] == ["000000000016.pt", "000000000020.pt"]
    assert json.loads(json.dumps(rows)) == rows


def test_a_model(finished: Path) -> None:
    rows = dict(inspect_path(finished / "model"))
    tokenizer = Tokenizer.from_pretrained(finished)
    assert (rows["kind"], rows["quantizer"], rows["codebook_size"], rows["code_dim"]) == ("tokenizer", "vaevq", 16, 4)
    assert (rows["downsample_factor"], rows["image_channels"], rows["digest"]) == (2, 3, tokenizer.digest)
    codewords = rows["codebook_size"] * rows["code_dim"]
    assert rows["parameters, quantizer"] == codewords  # averaged, so that PyTorch counts none
    assert rows["parameters"] == sum(p.numel() for p in tokenizer.parameters()) + codewords
    assert rows["parameters"] == sum(value for name, value in rows.items() if name.startswith("parameters, "))
    assert rows.items() <= (dict(inspect_path(finished)) | {"kind": "tokenizer"}).items()


def test_a_run_before_its_first_checkpoint(finished: Path, tmp_path: Path) -> None:
    for name in ("config.json", "split.json"):
        shutil.copy(finished / name, tmp_path)
    rows = dict(inspect_path(tmp_path))
    assert (rows["images seen"], rows["evaluated"], rows["model"]) == (0, False, "none before the first checkpoint")


def test_a_checkpoint(finished: Path) -> None:
    path = finished / "checkpoints" / "000000000016.pt"
    rows = dict(inspect_path(path))
    assert rows == {
        "kind": "checkpoint",
        "images seen": 16,
        "holds": ["average", "lineage", "optimizer", "tokenizer"],
        "codebook_size": 16,
        "bytes": path.stat().st_size,
    }


def test_a_token_file(tmp_path: Path) -> None:
    grids = (np.array([[0, 0], [1, 3]]), np.array([[0, 1]]))
    path = tmp_path / "t.safetensors"
    write_token_file(path, TokenFile(grids, ((4, 4), (1, 3)), ("a", "b"), 4, 2, "0123456789abcdef"))
    rows = dict(inspect_path(path))
    assert (rows["kind"], rows["images"], rows["tokens"], rows["labels"]) == ("token file", 2, 6, False)
    assert (rows["usage"], rows["dead codewords"], rows["T/K"]) == (0.75, 1, 1.5)
    assert rows["usage ceiling"] == pytest.approx(1 - np.exp(-1.5))
    assert rows["counts, deciles"] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert rows["counts, log scale"] == "█▇▄·"
    assert rows["note"].startswith("T/K is below 30")
    assert rows["model digest"] == "0123456789abcdef"
    assert rows["bits a pixel (log2 K)"] == pytest.approx(6 * 2 / (16 + 3))
    shares = np.array([3, 2, 1]) / 6
    entropy = -(shares * np.log2(shares)).sum()
    assert rows["perplexity"] == pytest.approx(2**entropy)
    assert rows["bits a pixel (entropy)"] == pytest.approx(entropy * 6 / 19)
    assert json.loads(json.dumps(rows)) == rows


def test_the_codebook_usage_of_a_run_and_its_model_is_that_of_its_evaluation(finished: Path) -> None:
    figures = json.loads((finished / "eval.json").read_text())
    for folder in (finished, finished / "model"):
        rows = dict(inspect_path(folder))
        shown = {name: rows[name] for name in ("usage", "usage ceiling", "T/K", "perplexity", "dead codewords")}
        assert shown == {
            "usage": figures["figures"]["usage"],
            "usage ceiling": figures["figures"]["usage_ceiling"],
            "T/K": figures["figures"]["tokens_per_codeword"],
            "perplexity": pytest.approx(figures["figures"]["perplexity"]),
            "dead codewords": figures["histogram"].count(0),
        }
        assert rows["measured on"] == "2 held-out images"
        assert len(rows["counts, log scale"]) == 16
        assert (min(rows["counts, deciles"]), max(rows["counts, deciles"])) == (
            min(figures["histogram"]),
            max(figures["histogram"]),
        )


def test_without_its_evaluation_a_model_has_no_codebook_usage(finished: Path, tmp_path: Path) -> None:
    model = tmp_path / "elsewhere"
    shutil.copytree(finished / "model", model)
    assert dict(inspect_path(model)).keys().isdisjoint({"usage", "perplexity", "codebook usage"})
    shutil.copy(finished / "eval.json", model)
    assert "usage" in dict(inspect_path(model)), "a published model may carry it"
    evaluation = json.loads((model / "eval.json").read_text())
    evaluation["protocol"]["model_digest"] = "0123456789abcdef"
    (model / "eval.json").write_text(json.dumps(evaluation))
    rows = dict(inspect_path(model))
    assert rows["codebook usage"] == f"not shown: {model / 'eval.json'} is of other weights"
    assert "usage" not in rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"figures": ', "not valid JSON"),
        ("[1]", "not the result of vaevq eval"),
        ('{"figures": {}, "protocol": {}, "histogram": [1, "2"], "images": 1}', "'histogram' holds no counts"),
        ('{"figures": {}, "protocol": {}, "histogram": [], "images": 1}', "'histogram' holds no counts"),
    ],
)
def test_a_damaged_evaluation_is_one_line(finished: Path, tmp_path: Path, text: str, message: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished / "model", model)
    (model / "eval.json").write_text(text)
    with pytest.raises(UserError) as caught:
        inspect_path(model)
    assert str(caught.value).startswith(f"{model / 'eval.json'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_none_of_these_is_one_line(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "cut.pt").write_bytes((finished / "checkpoints" / "000000000016.pt").read_bytes()[:999])
    torch.save([1, 2], tmp_path / "list.pt")
    messages = {
        "nothing": "no such file or folder",
        "empty": "neither a saved tokenizer nor a run",
        "photo.png": "not a safetensors file, or cut short",
        "cut.pt": "truncated, damaged, or no checkpoint",
        "list.pt": "truncated, damaged, or no checkpoint",
    }
    for name, message in messages.items():
        with pytest.raises(UserError) as caught:
            inspect_path(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="a safetensors file, but not a vaevq token file"):
        inspect_path(finished / "model" / "model.safetensors")
