"""The transformer that all generators of tokens share, in the shape of LlamaGen's (Sun et al. 2024, arXiv 2406.06525).

RMSNorm before attention and feed-forward, SwiGLU, rotary positions of rows and columns, no biases; a class token in
front. Seen from both sides at once it is MaskGIT's, and then has learned positions as well: masked tokens are all
alike, and rotary positions tell distances alone.

Where a position has q codes, the sequence is h·w·q long: the codes of one position one after another, then the next
position's. Codes of one level share embeddings and logits; those of different levels share nothing but the blocks.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vaevq.config.generation import TokensConfig, TransformerConfig

ROTARY_BASE = 10_000
HIDDEN_MULTIPLE = 256
"""SwiGLU's hidden width is 8/3 of the width, rounded up to a multiple of this."""


@dataclass(frozen=True)
class Cache:
    """Keys and values of the positions seen so far, of every layer; its shape never changes.

    Attributes:
        keys, values: layers×B×heads×(1 + L)×(width / heads).
    """

    keys: Tensor
    values: Tensor


class Transformer(nn.Module):
    """Blocks over [class, token, token, …], with logits of the tokens.

    Args:
        config: its shape.
        tokens: the tokens: K, grid, q, classes.
        masked: whether tokens may be unknown: there is a mask token a level, and each place has a learned embedding.

    Attributes:
        length: L = h·w·q.
        codebook_size: K.
        class_count: classes; the label `class_count` stands for none.
        gradient_checkpointing: computes blocks again in the backward pass.
    """

    rotary: Tensor  # see `rotary_angles`
    level: Tensor  # int64 L: which of the q codes of its position a place holds
    offset: Tensor  # int64 L: where its level's embeddings begin
    causal: Tensor  # bool (1 + L)×(1 + L)

    def __init__(self, config: TransformerConfig, tokens: TokensConfig, *, masked: bool = False) -> None:
        super().__init__()
        self.length, self.codebook_size, self.levels = tokens.length, tokens.codebook_size, tokens.codes_per_position
        self.class_count = tokens.class_count if config.conditional else 0
        self.gradient_checkpointing = False
        self.layers, self.heads, self.head_width = config.layers, config.heads, config.width // config.heads
        self.classes = nn.Embedding(self.class_count + 1, config.width)
        self.tokens = nn.Embedding(self.levels * self.codebook_size, config.width)
        self.mask = nn.Parameter(torch.empty(self.levels, config.width)) if masked else None
        self.places = nn.Parameter(torch.empty(self.length, config.width)) if masked else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.head = nn.Parameter(torch.zeros(self.levels, self.codebook_size, config.width))
        self.register_buffer("rotary", rotary_angles(tokens, self.head_width), persistent=False)
        level = torch.arange(self.length) % self.levels
        self.register_buffer("level", level, persistent=False)
        self.register_buffer("offset", level * self.codebook_size, persistent=False)
        causal = torch.ones(1 + self.length, 1 + self.length, dtype=torch.bool).tril()
        self.register_buffer("causal", causal, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for parameter in (self.mask, self.places):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.02)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Tokens B×n in [0, K) that begin at place `start` of the sequence, as B×n×width."""
        embedded: Tensor = self.tokens(tokens + self.offset[start : start + tokens.shape[1]])
        return embedded

    def embed_masked(self, tokens: Tensor, unknown: Tensor) -> Tensor:
        """Whole sequences B×L of which some tokens (bool B×L) are unknown, as B×L×width."""
        assert self.mask is not None
        assert self.places is not None
        embedded = self.embed(tokens)
        mask = self.mask[self.level].to(embedded.dtype)
        return torch.where(unknown[..., None], mask, embedded) + self.places

    def start(self, labels: Tensor) -> Tensor:
        """The class token of labels B in [0, class_count], as B×1×width."""
        token: Tensor = self.classes(labels)[:, None]
        return token

    def forward(self, inputs: Tensor, *, causal: bool) -> Tensor:
        """What comes out at each place: B×n×width to B×n×width, of the first n places of [class, token, …].

        Args:
            inputs: embeddings, n ≤ 1 + L.
            causal: each place sees itself and those before it; otherwise all.
        """
        x, rotary = self.dropout(inputs), self.rotary[: inputs.shape[1]]
        for block in self._blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rotary, causal, use_reentrant=False)
            else:
                x = block(x, rotary, causal)
        normed: Tensor = self.norm(x)
        return normed

    def logits(self, outputs: Tensor, start: int = 0) -> Tensor:
        """The logits, B×n×K, of the tokens at the places from `start` on, of outputs B×n×width."""
        if outputs.shape[1] == 1 or self.levels == 1:
            return F.linear(outputs, self.head[start % self.levels])
        # Level by level: a weight for each place would be as large as n×K×width.
        first = [(level - start) % self.levels for level in range(self.levels)]
        parts = [F.linear(outputs[:, at :: self.levels], self.head[level]) for level, at in enumerate(first)]
        logits = parts[0].new_empty(*outputs.shape[:2], self.codebook_size)
        for at, part in zip(first, parts, strict=True):
            logits[:, at :: self.levels] = part
        return logits

    def new_cache(self, batch: int) -> Cache:
        """A cache in which nothing is."""
        weight = self.classes.weight
        shape = (self.layers, batch, self.heads, 1 + self.length, self.head_width)
        return Cache(weight.new_zeros(shape), weight.new_zeros(shape))

    def prefill(self, inputs: Tensor, cache: Cache) -> Tensor:
        """As `forward`, causal, keeping keys and values: for the first n places at once."""
        x, rotary, n = inputs, self.rotary[: inputs.shape[1]], inputs.shape[1]
        for i, block in enumerate(self._blocks):
            query, key, value = block.attention.project(block.attention_norm(x), rotary)
            cache.keys[i, :, :, :n] = key
            cache.values[i, :, :, :n] = value
            x = block.finish(x, F.scaled_dot_product_attention(query, key, value, is_causal=True))
        normed: Tensor = self.norm(x)
        return normed

    def step(self, embedded: Tensor, place: Tensor, cache: Cache) -> Tensor:
        """What comes out at one place, B×1×width, from its embedding B×1×width and the cache of those before it.

        Args:
            place: int64, one element: so that no shape and no number of the program changes from step to step.
        """
        x, rotary, seen = embedded, self.rotary[place], self.causal[place]
        for i, block in enumerate(self._blocks):
            query, key, value = block.attention.project(block.attention_norm(x), rotary)
            keys, values = cache.keys[i].index_copy_(2, place, key), cache.values[i].index_copy_(2, place, value)
            x = block.finish(x, F.scaled_dot_product_attention(query, keys, values, attn_mask=seen))
        normed: Tensor = self.norm(x)
        return normed

    @property
    def _blocks(self) -> list["_Block"]:
        return cast(list["_Block"], list(self.blocks))


class _Block(nn.Module):
    """x + attention(norm x), then x + SwiGLU(norm x)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.attention = _Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.feed_forward = _SwiGLU(config)

    def forward(self, x: Tensor, rotary: Tensor, causal: bool) -> Tensor:
        query, key, value = self.attention.project(self.attention_norm(x), rotary)
        return self.finish(x, F.scaled_dot_product_attention(query, key, value, is_causal=causal))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows once it is known what each place has looked at."""
        x = x + self.attention.merge(attended)
        outputs: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return outputs


class _Attention(nn.Module):
    """Queries, keys and values of all heads, and the way back."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.in_projection = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out_projection = nn.Linear(config.width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B×n×width to three of B×heads×n×(width / heads), queries and keys turned."""
        query, key, value = self.in_projection(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotated(query, rotary), rotated(key, rotary), value

    def merge(self, attended: Tensor) -> Tensor:
        """B×heads×n×(width / heads) to B×n×width."""
        outputs: Tensor = self.dropout(self.out_projection(attended.transpose(1, 2).flatten(2)))
        return outputs


class _SwiGLU(nn.Module):
    """W₂(silu(W₁x) ⊙ W₃x) (Shazeer 2020)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden = -(-8 * config.width // (3 * HIDDEN_MULTIPLE)) * HIDDEN_MULTIPLE
        self.gate_and_value = nn.Linear(config.width, 2 * hidden, bias=False)
        self.out_projection = nn.Linear(hidden, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        outputs: Tensor = self.dropout(self.out_projection(F.silu(gate) * value))
        return outputs


def rotary_angles(tokens: TokensConfig, head_width: int) -> Tensor:
    """Cosines and sines of the angles by which each place turns its pairs of channels, (1 + L)×2×(head_width / 2).

    The first half of the pairs turns with the row, the second with the column (LlamaGen, section 3.2). The class token
    is not turned; the codes of one position are turned alike.
    """
    quarter = head_width // 4
    rates = ROTARY_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    (height, width), q = tokens.grid, tokens.codes_per_position
    rows = torch.arange(height, dtype=torch.float64).repeat_interleave(width * q)
    columns = torch.arange(width, dtype=torch.float64).repeat_interleave(q).repeat(height)
    angles = torch.cat([torch.outer(rows, rates), torch.outer(columns, rates)], dim=1)
    angles = torch.cat([torch.zeros(1, 2 * quarter, dtype=torch.float64), angles])
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def rotated(x: Tensor, rotary: Tensor) -> Tensor:
    """Each pair (first half, second half) of channels of x, B×heads×n×c, turned by its place's angles n×2×(c/2)."""
    cosine, sine = rotary.to(x.dtype).unbind(1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
