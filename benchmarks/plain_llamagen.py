"""LlamaGen's sampling loop stated plainly in PyTorch, from its paper: what `benchmarks.sampling` compares with.

Functions over a dictionary of tensors, a cache that is written by index, top-k and multinomial draws. With the weights
of an `Autoregressive` network (`weights_of`) its logits are that network's (tests/parity/test_plain_llamagen.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vaevq.generation.autoregressive import Autoregressive

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Of the network."""

    layers: int
    heads: int
    length: int


def weights_of(network: Autoregressive) -> tuple[Weights, Shape]:
    """The weights of a network of one code a position, under the names of this file."""
    transformer = network.transformer
    assert transformer.levels == 1
    found = {name: tensor.detach() for name, tensor in transformer.state_dict().items()}
    found["angles"] = transformer.rotary
    return found, Shape(transformer.layers, transformer.heads, transformer.length)


def sample(weights: Weights, shape: Shape, labels: Tensor, steps: int, top_k: int = 0) -> Tensor:
    """The first `steps` tokens of B images, int64 B×steps, drawn with torch's global generator."""
    width = weights["classes.weight"].shape[1] // shape.heads
    size = (shape.layers, 2, len(labels), shape.heads, 1 + shape.length, width)
    cache = torch.zeros(size, dtype=weights["classes.weight"].dtype, device=labels.device)
    tokens: list[Tensor] = []
    x = weights["classes.weight"][labels][:, None]
    for place in range(steps):
        position = torch.tensor([place], device=labels.device)
        drawn = draw(logits(weights, shape, x, position, cache)[:, -1], top_k)
        tokens.append(drawn)
        x = weights["tokens.weight"][drawn]
    return torch.cat(tokens, dim=1)


def logits(weights: Weights, shape: Shape, x: Tensor, position: Tensor, cache: Tensor) -> Tensor:
    """Of what follows the tokens at `position`, B×n×K, of their embeddings B×n×width; keys and values are kept."""
    seen = torch.arange(cache.shape[4], device=x.device)[None] <= position[:, None]
    angles = weights["angles"][position]
    for layer in range(shape.layers):
        name = f"blocks.{layer}."
        h = norm(x, weights[f"{name}attention_norm.weight"])
        query, key, value = F.linear(h, weights[f"{name}attention.in_projection.weight"]).chunk(3, dim=-1)
        query, key, value = (
            part.view(*part.shape[:2], shape.heads, -1).transpose(1, 2) for part in (query, key, value)
        )
        cache[layer, 0][:, :, position] = turn(key, angles)
        cache[layer, 1][:, :, position] = value
        keys, values = cache[layer]
        attended = F.scaled_dot_product_attention(turn(query, angles), keys, values, attn_mask=seen)
        x = x + F.linear(attended.transpose(1, 2).flatten(2), weights[f"{name}attention.out_projection.weight"])
        h = norm(x, weights[f"{name}feed_forward_norm.weight"])
        gate, value = F.linear(h, weights[f"{name}feed_forward.gate_and_value.weight"]).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate) * value, weights[f"{name}feed_forward.out_projection.weight"])
    return F.linear(norm(x, weights["norm.weight"]), weights["head"][0]).float()


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm, in float32."""
    h = x.float()
    return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions as a product of complex numbers: cosines and sines n×2×c/2, x of B×heads×n×c."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.complex(angles[:, 0], angles[:, 1])
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


def draw(of: Tensor, top_k: int) -> Tensor:
    """A token of each row of logits B×K, B×1."""
    if top_k:
        of = of.masked_fill(of < of.topk(top_k).values[:, -1:], -torch.inf)
    return torch.multinomial(of.softmax(-1), 1)
