"""Published tokenizers in our form beside their networks, restated here from their papers' tables and tensor names."""

import argparse
import sys
import types
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from runs import vaevq
from vaevq import Tokenizer
from vaevq.errors import UserError
from vaevq.interop.published import read_published


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        h = self.conv1(h * torch.sigmoid(h))
        h = self.norm2(h)
        h = self.conv2(h * torch.sigmoid(h))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bci,bcj->bij", q, k).mul(x.shape[1] ** -0.5).softmax(dim=2)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).view_as(x))


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, columns = x.shape
        larger = x.new_zeros(batch, width, height + 1, columns + 1)
        larger[..., :-1, :-1] = x
        return self.conv(larger)


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


class Level(nn.Module):
    """Blocks and attention under the project's names, then a change of size."""

    def __init__(self, blocks: str, inputs: int, outputs: int, count: int, attends: bool, end: str | None) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * count
        self.blocks = blocks
        setattr(self, blocks, nn.ModuleList(Block(*pair) for pair in pairwise(widths)))
        self.attn = nn.ModuleList(Attention(outputs) for _ in range(count if attends else 0))
        if end:
            setattr(self, end, (Down if end == "downsample" else Up)(outputs))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(getattr(self, self.blocks)):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        for end in ("downsample", "upsample"):
            x = getattr(self, end)(x) if hasattr(self, end) else x
        return x


class Middle(nn.Module):
    def __init__(self, names: tuple[str, str, str], width: int) -> None:
        super().__init__()
        self.names = names
        for name, layer in zip(names, (Block(width, width), Attention(width), Block(width, width)), strict=True):
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x


class Network(nn.Module):
    """VQGAN, with taming-transformers' names or LlamaGen's."""

    def __init__(
        self, project: str, multipliers: tuple[int, ...], attention: tuple[int, ...], channels: int = 3
    ) -> None:
        super().__init__()
        self.taming, width, z, dim, size = project == "taming", 64, 7, 5, 40
        blocks, middle = ("block", ("block_1", "attn_1", "block_2")) if self.taming else ("res", ("0", "1", "2"))
        widths, last = [width * m for m in multipliers], len(multipliers) - 1
        encoder, decoder = nn.Module(), nn.Module()
        encoder.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        before = [width, *widths]
        down = [
            Level(blocks, before[i], widths[i], 2, i in attention, "downsample" if i < last else None)
            for i in range(last + 1)
        ]
        above = [*widths, widths[last]]
        up = [
            Level(blocks, above[i + 1], widths[i], 3, i in attention, "upsample" if i else None)
            for i in range(last + 1)
        ]
        setattr(encoder, "down" if self.taming else "conv_blocks", nn.ModuleList(down))
        encoder.mid, encoder.norm_out = Middle(middle, widths[last]), norm(widths[last])
        encoder.conv_out = nn.Conv2d(widths[last], z, 3, padding=1)
        decoder.conv_in = nn.Conv2d(z, widths[last], 3, padding=1)
        decoder.mid = Middle(middle, widths[last])
        setattr(decoder, "up" if self.taming else "conv_blocks", nn.ModuleList(up if self.taming else up[::-1]))
        decoder.norm_out, decoder.conv_out = norm(widths[0]), nn.Conv2d(widths[0], channels, 3, padding=1)
        self.encoder, self.decoder = encoder, decoder
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z, dim, 1), nn.Conv2d(dim, z, 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(size, dim)
        if not self.taming:
            self.quantize.register_buffer("codebook_used", torch.zeros(65536))
        for name, parameter in self.named_parameters():  # norms and biases count, and tokens are of many kinds
            if "norm" in name or name.endswith("bias"):
                nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.3)
        nn.init.normal_(self.quant_conv.weight, std=1.0)

    def codewords(self) -> Tensor:
        weight = self.quantize.embedding.weight
        return weight if self.taming else weight / weight.norm(dim=1, keepdim=True)

    def encode(self, images: Tensor) -> Tensor:
        x = self.encoder.conv_in(images)
        for level in self.encoder.down if self.taming else self.encoder.conv_blocks:
            x = level(x)
        x = self.encoder.norm_out(self.encoder.mid(x))
        z = self.quant_conv(self.encoder.conv_out(x * torch.sigmoid(x))).movedim(1, -1)
        z = z if self.taming else z / z.norm(dim=-1, keepdim=True)
        return torch.cdist(z.double(), self.codewords().double()[None]).argmin(dim=-1)

    def decode(self, tokens: Tensor) -> Tensor:
        x = self.decoder.mid(self.decoder.conv_in(self.post_quant_conv(self.codewords()[tokens].movedim(-1, 1))))
        for level in reversed(self.decoder.up) if self.taming else self.decoder.conv_blocks:
            x = level(x)
        x = self.decoder.norm_out(x)
        return self.decoder.conv_out(x * torch.sigmoid(x))


SHAPES = [
    pytest.param("taming", (1, 1, 2), (2,), id="taming, attention at the lowest level (f16 of ImageNet)"),
    pytest.param("taming", (1, 2), (), id="taming, attention in the middle alone (vq-f4 of latent diffusion)"),
    pytest.param("llamagen", (1, 2), (1,), id="llamagen"),
]


def network(project: str, multipliers: tuple[int, ...], attention: tuple[int, ...]) -> Network:
    torch.manual_seed(0)
    return Network(project, multipliers, attention).eval()


def checkpoint_of(project: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the project's training writes."""
    if project == "taming":
        losses = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.ones(2, 2)}
        return {"epoch": 3, "global_step": 100, "state_dict": {**state, **losses}, "lr_schedulers": []}
    return {"model": dict(state), "optimizer": {"state": {}, "param_groups": []}, "args": argparse.Namespace(lr=1e-4)}


@pytest.mark.parametrize(("project", "multipliers", "attention"), SHAPES)
@torch.no_grad()
def test_tokens_and_pixels_are_those_of_the_published_network(
    project: str, multipliers: tuple[int, ...], attention: tuple[int, ...], tmp_path: Path
) -> None:
    theirs = network(project, multipliers, attention)
    torch.save(checkpoint_of(project, theirs.state_dict()), tmp_path / "last.ckpt")
    published = read_published(tmp_path / "last.ckpt")
    ours = published.tokenizer
    assert published.layout == project
    assert ours.downsample_factor == 2 ** (len(multipliers) - 1)
    images = torch.rand(2, 3, 24, 16) * 2 - 1
    tokens = theirs.encode(images)
    assert tokens.unique().numel() > 4
    assert torch.equal(ours.encode(images), tokens)
    expected = theirs.decode(tokens)
    assert expected.std() > 0.1
    assert torch.allclose(ours.decode(tokens), expected, atol=1e-5)


def test_the_command_makes_a_model_that_every_verb_takes(tmp_path: Path, photos: Path) -> None:
    theirs = network("taming", (1, 1), ())
    save_file(theirs.state_dict(), tmp_path / "vqgan.safetensors")
    outcome = vaevq("import", tmp_path / "vqgan.safetensors", "-o", tmp_path / "model")
    assert (outcome.code, outcome.err) == (0, "")
    assert "taming" in outcome.out
    saved = Tokenizer.from_pretrained(tmp_path / "model")
    assert saved.config.autoencoder.vqgan_channels == 7
    assert saved.config.quantizer.kind == "vq"
    images = torch.rand(1, 3, 12, 12) * 2 - 1
    assert torch.equal(saved.encode(images), theirs.encode(images))
    again = vaevq("import", tmp_path / "vqgan.safetensors", "-o", tmp_path / "model")
    assert (again.code, "--force overwrites" in again.err) == (2, True)
    run = ["--data", photos, "--init-from", tmp_path / "model", "--device", "cpu", "--run-dir", tmp_path / "run"]
    small = ["data.image_size=8", "data.split_by=file", "loss.perceptual_weight=0", "train.batch_size=2"]
    tuned = vaevq("train", *small, *run, "--dry-run")
    assert (tuned.code, tuned.err) == (0, "")


def _without(state: dict[str, Tensor]) -> None:
    del state["decoder.mid.block_1.conv2.bias"]


def _with_more(state: dict[str, Tensor]) -> None:
    state["encoder.down.0.block.7.conv1.bias"] = torch.zeros(3)


def _with_another_shape(state: dict[str, Tensor]) -> None:
    state["post_quant_conv.weight"] = torch.zeros(7, 6, 1, 1)


def _with_gumbel(state: dict[str, Tensor]) -> None:
    state["quantize.embed.weight"] = state.pop("quantize.embedding.weight")


def _of_something_else(state: dict[str, Tensor]) -> None:
    state.pop("encoder.down.0.block.0.conv1.weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "not the weights of a tokenizer of taming: 'decoder.mid.block_1.conv2.bias' is missing"),
        (_with_more, "not the weights of a tokenizer of taming: 'encoder.down.0.block.7.conv1.bias' is too much"),
        (_with_another_shape, r"'post_quant_conv.weight' has shape \(7, 6, 1, 1\), not \(7, 5, 1, 1\)"),
        (_with_gumbel, "'quantize.embedding.weight' is missing; a Gumbel quantizer's"),
        (_of_something_else, "neither taming-transformers' names .* nor LlamaGen's"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, Tensor]], None], message: str, tmp_path: Path) -> None:
    state = network("taming", (1,), ()).state_dict()
    change(state)
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=message):
        read_published(tmp_path / "last.ckpt")


class ModelCheckpoint:
    """As Lightning's, whose class older checkpoints hold."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_nothing_in_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "extra": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"evil\.ckpt: it asks for .*print, which no weights need"):
        read_published(tmp_path / "evil.ckpt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pt", None, "no such file"),
        ("a.pt", b"nothing", "damaged, or nothing torch.save wrote"),
        ("a.safetensors", b"nothing", "damaged, or no safetensors file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {message}"):
        read_published(tmp_path / name)


def test_a_training_state_of_an_older_lightning_is_read(tmp_path: Path) -> None:
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", ModelCheckpoint.__module__]
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[-1]].ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    state = network("taming", (1,), ()).state_dict()
    best = {ModelCheckpoint: {"best_model_score": np.float64(0.5), "monitor": "val/rec_loss"}}
    with mock.patch.dict(sys.modules, modules):
        torch.save({"state_dict": state, "callbacks": best}, tmp_path / "last.ckpt")
    assert read_published(tmp_path / "last.ckpt").layout == "taming"
