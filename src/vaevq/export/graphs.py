"""The two graphs of a tokenizer as torch.export traces them, for any batch and any height and width."""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental import _config

from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.codebook import Codebook
from vaevq.quantization.quantizer import Quantizer
from vaevq.quantization.search import in_one_piece
from vaevq.tokenizer import Tokenizer

ENCODER, DECODER = "encoder", "decoder"
IMAGES, TOKENS = "images", "tokens"


class EncoderGraph(nn.Module):
    """Images B×C×H×W in [-1, 1] of any size to tokens, int64 B×⌈H/f⌉×⌈W/f⌉ or B×⌈H/f⌉×⌈W/f⌉×q; pads by itself."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = [tokenizer]  # for its checks and its padding, beside what of it is used
        self.encoder, self.head = tokenizer.encoder, tokenizer.head
        self.quantizer = with_plain_codebooks(tokenizer.quantizer)

    def forward(self, images: Tensor) -> Tensor:
        return self.quantizer.encode(self.tokenizer[0].posterior(images))


class DecoderGraph(nn.Module):
    """Tokens, int64 B×h×w or B×h×w×q in [0, K), to images B×C×fh×fw: to be cropped where a size is no multiple of f.

    Tokens are not checked, since a graph raises no errors of ours.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.decoder = tokenizer.decoder
        self.quantizer = with_plain_codebooks(tokenizer.quantizer)

    def forward(self, tokens: Tensor) -> Tensor:
        images: Tensor = self.decoder(self.quantizer.lookup(tokens))
        return images


def with_plain_codebooks(quantizer: Quantizer) -> Quantizer:
    """A copy whose codewords are stored as they are, where they come out of layers or of an embedding's norm."""
    plain = copy.deepcopy(quantizer)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Codebook | AveragedCodebook):
            codewords = module().detach().clone()
            codebook = Codebook(*codewords.shape)
            codebook.embedding = nn.Parameter(codewords, requires_grad=False)
            plain.set_submodule(name, codebook)
    return plain


@dataclass(frozen=True)
class Graphs:
    """What torch.export makes of a tokenizer."""

    encoder: ExportedProgram
    decoder: ExportedProgram

    def items(self) -> tuple[tuple[str, ExportedProgram], tuple[str, ExportedProgram]]:
        """Both, by name."""
        return (ENCODER, self.encoder), (DECODER, self.decoder)


@torch.no_grad()
def trace(tokenizer: Tokenizer) -> Graphs:
    """Both graphs of a tokenizer in evaluation mode on the CPU.

    The codeword search holds B·h·w × K scores at once, where the tokenizer itself goes tile by tile.
    """
    assert not tokenizer.training
    f, channels = tokenizer.downsample_factor, tokenizer.config.autoencoder.image_channels
    images = torch.zeros(2, channels, 3 * f + 1, 2 * f + 1)  # no two sizes are equal, so none is taken for the other
    tokens = tokenizer.encode(images)
    encoder, decoder = EncoderGraph(tokenizer).eval(), DecoderGraph(tokenizer).eval()
    with in_one_piece(), _taking_no_size_for_all():
        graphs = Graphs(
            encoder=export(encoder, (images,), dynamic_shapes={IMAGES: _any_size(0, 2, 3)}, strict=False),
            decoder=export(decoder, (tokens,), dynamic_shapes={TOKENS: _any_size(0, 1, 2)}, strict=False),
        )
    for _, program in graphs.items():
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # half of the file, and it names folders of this machine
    return graphs


def _taking_no_size_for_all() -> AbstractContextManager[object]:
    """Without it the sizes of the example say that a batch is never 1. Absent before torch 2.7, where that stands."""
    options: Any = _config
    known = hasattr(options, "backed_size_oblivious")
    return options.patch(backed_size_oblivious=True) if known else nullcontext()


def _any_size(*axes: int) -> dict[int, Any]:
    # Not by name: a named size would have to be any at all, and torch.export makes a guard against grids of one row.
    return dict.fromkeys(axes, Dim.DYNAMIC)
