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
    assert rows["parameters"] == sum(p.numel() for p in tokenizer.parameters())
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
        "holds": ["average", "optimizer", "tokenizer"],
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
    assert rows["model digest"] == "0123456789abcdef"
    assert rows["bits a pixel (log2 K)"] == pytest.approx(6 * 2 / (16 + 3))
    shares = np.array([3, 2, 1]) / 6
    entropy = -(shares * np.log2(shares)).sum()
    assert rows["perplexity"] == pytest.approx(2**entropy)
    assert rows["bits a pixel (entropy)"] == pytest.approx(entropy * 6 / 19)
    assert json.loads(json.dumps(rows)) == rows


def test_what_is_none_of_these_is_one_line(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "cut.pt").write_bytes((finished / "checkpoints" / "000000000016.pt").read_bytes()[:999])
    torch.save([1, 2], tmp_path / "list.pt")
    messages = {
        "nothing": "no such file or folder",
        "empty": "config.json: no such file",
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
