"""Models and token files that earlier versions wrote load, and give the tokens and pixels that they gave then."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vaevq import Tokenizer
from vaevq.codec import fitting
from vaevq.data.tokens import read_token_file

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("version-*"))


def test_there_is_a_version_and_all_are_small() -> None:
    assert FIXTURES
    assert sum(file.stat().st_size for folder in FIXTURES for file in folder.rglob("*") if file.is_file()) < 200_000


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
@torch.no_grad()
def test_an_earlier_version_s_model_and_tokens_are_what_they_were(folder: Path) -> None:
    tokenizer, expected = Tokenizer.from_pretrained(folder / "model"), load_file(folder / "expected.safetensors")
    assert expected["tokens"].unique().numel() > 10
    assert torch.equal(tokenizer.encode(expected["images"]), expected["tokens"])
    height, width = expected["images"].shape[-2:]
    assert torch.allclose(tokenizer.decode(expected["tokens"], (height, width)), expected["decoded"], atol=1e-5)
    file = read_token_file(folder / "tokens.safetensors")
    assert fitting(tokenizer, file, remap=False) is file, "the digest is the same"
    assert np.array_equal(np.stack(file.tokens), expected["tokens"].numpy())
    assert file.sizes == ((height, width),) * 2
