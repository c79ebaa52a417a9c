"""The transformer against the plain statement of LlamaGen's that the benchmark of sampling times."""

import json
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from benchmarks import plain_llamagen, sampling
from generators import random_network, random_tokens
from vaevq.generation.autoregressive import Autoregressive


@pytest.mark.parametrize("chunk", [1, 5, 12])
def test_logits_are_those_of_the_plain_statement(chunk: int) -> None:
    """Whatever number of places is looked at in one call."""
    network = random_network("ar", dtype=torch.float32)
    assert isinstance(network, Autoregressive)
    tokens, labels = random_tokens(network, 3), torch.tensor([0, 3, 5])
    weights, shape = plain_llamagen.weights_of(network)
    with torch.no_grad():
        expected = network.logits(tokens, labels)
        inputs = torch.cat([network.transformer.start(labels), network.transformer.embed(tokens[:, :-1])], dim=1)
        cache = torch.zeros(2, 2, 3, 2, 13, 16)
        parts = [
            plain_llamagen.logits(weights, shape, inputs[:, at], torch.arange(12)[at], cache)
            for at in (slice(first, first + chunk) for first in range(0, 12, chunk))
        ]
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-4)


def test_the_plain_loop_draws_tokens_that_its_network_finds_likely() -> None:
    network = random_network("ar", dtype=torch.float32)
    assert isinstance(network, Autoregressive)
    labels = torch.tensor([0, 3])
    tokens = plain_llamagen.sample(*plain_llamagen.weights_of(network), labels, 12, top_k=1)
    with torch.no_grad():
        assert torch.equal(network.logits(tokens, labels).argmax(-1), tokens)


def test_the_benchmark_runs_and_writes_its_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "tiny", "--batch", "2", "--steps", "2", "--probes", "1", "--repeats", "1", "--output"]
    with mock.patch.object(sys, "argv", ["sampling", *words, str(tmp_path / "s.json")]):
        sampling.main()
    (row,) = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert row["cached / plain"] == pytest.approx(row["cached"] / row["plain"])
    assert "cached / uncached" in capsys.readouterr().out
