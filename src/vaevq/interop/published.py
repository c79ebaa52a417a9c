"""Tokenizers that others have published, in our form: VQGAN's (taming-transformers) and LlamaGen's.

Both are networks of one shape with two sets of names. `model.autoencoder.vqgan_channels` makes ours that shape, so that
every tensor has its place; the shape is read from the tensors themselves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vaevq.config import AutoencoderConfig, PlainConfig, TokenizerConfig
from vaevq.errors import refuse
from vaevq.interop.checkpoints import read_tensors
from vaevq.nn.autoencoder import HalvingConv, NearestUpsample, ResBlock, SelfAttention
from vaevq.tokenizer import Tokenizer

GROUPS = 32
"""Of all their normalizations; ours has as many from 64 channels on."""

_QUANT, _POST_QUANT, _EMBEDDING = "quant_conv", "post_quant_conv", "quantize.embedding.weight"


@dataclass(frozen=True)
class Layout:
    """What one project calls its tensors.

    Attributes:
        name: of the project.
        down, up: the levels of encoder and decoder.
        block: the residual blocks of a level.
        middle: the two blocks of the middle and the attention between them.
        lowest_first: whether the decoder's levels are numbered from the lowest resolution.
        unit_codewords: whether codewords count by their direction alone.
        ignored: beginnings of the names of what is not the tokenizer's, or not needed to use it.
    """

    name: str
    down: str
    up: str
    block: str
    middle: tuple[str, str, str]
    lowest_first: bool
    unit_codewords: bool
    ignored: tuple[str, ...]


TAMING = Layout(
    name="taming",
    down="encoder.down",
    up="decoder.up",
    block="block",
    middle=("block_1", "attn_1", "block_2"),
    lowest_first=False,
    unit_codewords=False,
    ignored=("loss.", "quantize.embedding.cluster_size", "quantize.embedding.embed_avg"),
)
LLAMAGEN = Layout(
    name="llamagen",
    down="encoder.conv_blocks",
    up="decoder.conv_blocks",
    block="res",
    middle=("0", "1", "2"),
    lowest_first=True,
    unit_codewords=True,
    ignored=("quantize.codebook_used",),
)


@dataclass(frozen=True)
class Published:
    """A tokenizer of a published file.

    Attributes:
        layout: the project's names, taming or llamagen.
        tokenizer: in evaluation mode.
    """

    layout: str
    tokenizer: Tokenizer


def read_published(file: Path) -> Published:
    """The tokenizer of a published file: `.ckpt`, `.pt`, `.pth`, `.bin` or `.safetensors`.

    Every tensor is used once, and its shape is what ours has there. LlamaGen's codewords are stored at norm 1: the
    nearest of those is that of the largest cosine, which LlamaGen takes.

    Raises:
        UserError: no such file, or not a tokenizer of these two shapes: the first tensor that does not fit is named.
    """
    state = read_tensors(file)
    layout = next((each for each in (TAMING, LLAMAGEN) if f"{each.down}.0.{each.block}.0.conv1.weight" in state), None)
    if layout is None:
        refuse(file, "neither taming-transformers' names of a VQGAN's tensors nor LlamaGen's")
    state = {name: tensor for name, tensor in state.items() if not name.startswith(layout.ignored)}
    if _EMBEDDING not in state:
        other = "; a Gumbel quantizer's" if "quantize.embed.weight" in state else ""
        refuse(file, f"'{_EMBEDDING}' is missing{other}: only a codebook that is searched for the nearest is read")
    config = _config(file, state, layout)
    tokenizer = Tokenizer(config)
    tokenizer.load_state_dict(_translated(file, state, tokenizer, layout))
    return Published(layout.name, tokenizer.eval())


def source_names(tokenizer: Tokenizer, layout: Layout) -> dict[str, tuple[str, ...]]:
    """What each of our tensors is called there; where several are named, ours is all of them one after another."""
    config = tokenizer.config.autoencoder
    last = len(config.multipliers) - 1
    down, up = list[str](), list[str]()
    for level in range(last + 1):
        down += _level(f"{layout.down}.{level}", layout, config.blocks, level in config.attention_levels)
        down += [f"{layout.down}.{level}.downsample.conv"] if level < last else []
    for level in range(last, -1, -1):
        place = f"{layout.up}.{last - level if layout.lowest_first else level}"
        up += _level(place, layout, config.blocks + 1, level in config.attention_levels)
        up += [f"{place}.upsample.conv"] if level else []
    middle = {network: [f"{network}.mid.{part}" for part in layout.middle] for network in ("encoder", "decoder")}
    pairs = {"head.mean": _QUANT, "decoder.conv_latent": _POST_QUANT}
    ends = [f"{network}.{end}" for network in middle for end in ("conv_in", "norm_out", "conv_out")]
    pairs |= dict(zip(ends, ends, strict=True))
    names: dict[str, tuple[str, ...]] = {"quantizer.codebook.embedding": (_EMBEDDING,)}
    for ours, there in pairs.items():
        names |= {f"{ours}.{kind}": (f"{there}.{kind}",) for kind in ("weight", "bias")}
    for network, theirs in (("encoder", down + middle["encoder"]), ("decoder", middle["decoder"] + up)):
        body = tokenizer.get_submodule(f"{network}.body")
        for (place, layer), source in zip(body.named_children(), theirs, strict=True):
            for part, sources in _layer(layer, source):
                for kind in ("weight", "bias"):
                    names[f"{network}.body.{place}{part}.{kind}"] = tuple(f"{name}.{kind}" for name in sources)
    return names


def _level(place: str, layout: Layout, blocks: int, attends: bool) -> Iterator[str]:
    for block in range(blocks):
        yield f"{place}.{layout.block}.{block}"
        if attends:
            yield f"{place}.attn.{block}"


def _layer(layer: nn.Module, source: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The parts of one of our layers with a weight and a bias, and what they are called there."""
    match layer:
        case ResBlock():
            yield from ((f".{part}", (f"{source}.{part}",)) for part in ("norm1", "conv1", "norm2", "conv2"))
            if not isinstance(layer.shortcut, nn.Identity):
                yield ".shortcut", (f"{source}.nin_shortcut",)
        case SelfAttention():
            yield ".norm", (f"{source}.norm",)
            yield ".query_key_value", tuple(f"{source}.{part}" for part in "qkv")
            yield ".out", (f"{source}.proj_out",)
        case NearestUpsample():
            yield ".conv", (source,)
        case _:
            assert isinstance(layer, HalvingConv)
            yield "", (source,)


def _config(file: Path, state: Mapping[str, Tensor], layout: Layout) -> TokenizerConfig:
    """The shape of the networks, by the shapes of the tensors."""

    def shape(name: str) -> torch.Size:
        if name not in state:
            refuse(file, f"not the weights of a tokenizer of {layout.name}: '{name}' is missing")
        return state[name].shape

    def count(pattern: str) -> int:
        return next(i for i in range(len(state) + 1) if pattern.format(i) not in state)

    conv = f"{layout.down}.{{}}.{layout.block}.0.conv1.weight"
    levels, base = count(conv), shape("encoder.conv_in.weight")[0]
    widths = [shape(conv.format(level))[0] for level in range(levels)]
    if any(width % base or width % GROUPS for width in widths) or base < 2 * GROUPS:
        refuse(file, f"widths {base}, {widths}: multiples of the first are read, and {GROUPS} groups of two or more")
    embedding = state[_EMBEDDING]
    attends = (f"{layout.down}.{level}.attn.0.norm.weight" in state for level in range(levels))
    decoder_width = shape("decoder.conv_out.weight")[1] * base // widths[0]
    return TokenizerConfig(
        autoencoder=AutoencoderConfig(
            image_channels=shape("encoder.conv_in.weight")[1],
            base_width=base,
            decoder_width=None if decoder_width == base else decoder_width,
            multipliers=tuple(width // base for width in widths),
            blocks=count(f"{layout.down}.0.{layout.block}.{{}}.conv1.weight"),
            attention_levels=tuple(level for level, found in enumerate(attends) if found),
            upsampling="nearest",
            vqgan_channels=shape("encoder.conv_out.weight")[0],
        ),
        quantizer=PlainConfig(codebook_size=embedding.shape[0], code_dim=embedding.shape[1]),
    )


def _translated(file: Path, state: Mapping[str, Tensor], tokenizer: Tokenizer, layout: Layout) -> dict[str, Tensor]:
    """Their tensors under our names."""
    names, own = source_names(tokenizer, layout), tokenizer.state_dict()
    assert names.keys() == own.keys()
    used = [source for sources in names.values() for source in sources]
    assert len(used) == len(set(used))
    for name in sorted(state.keys() ^ set(used)):
        what = "is too much" if name in state else "is missing"
        refuse(file, f"not the weights of a tokenizer of {layout.name}: '{name}' {what}")
    found = dict[str, Tensor]()
    for name, sources in names.items():
        tensors = [state[source].float() for source in sources]
        found[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0].clone()
        if found[name].shape != own[name].shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(own[name].shape)}"
            refuse(file, f"not the weights of a tokenizer of {layout.name}: '{sources[0]}' has shape {shapes}")
    if layout.unit_codewords:
        name = "quantizer.codebook.embedding"
        found[name] = normalize(found[name], dim=1)
    return found
