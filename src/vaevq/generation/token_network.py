"""What the generators of tokens share: a transformer, and held-out figures from the length of their code."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaevq.config.generation import TokensConfig, TransformerConfig
from vaevq.generation.network import GeneratorNetwork
from vaevq.generation.transformer import Transformer

TOKEN_OPTIONS = frozenset({"guidance", "temperature", "top_k", "top_p"})
"""The options of sampling that both kinds look at."""


@dataclass(frozen=True)
class CodeLength:
    """Nats that some tokens cost, summed, and how many tokens these are."""

    nats: Tensor  # scalar
    tokens: int


class TokenNetwork(GeneratorNetwork):
    """A transformer over tokens, int64 B×L in [0, K).

    Attributes:
        transformer: the network itself.
    """

    content = "tokens"
    completes = True
    measures: ClassVar[str]
    """What its code length is of: the name of the held-out figure in bits."""

    def __init__(self, config: TransformerConfig, tokens: TokensConfig, *, masked: bool) -> None:
        super().__init__(tokens.class_count if config.conditional else 0, config.class_dropout)
        self.transformer = Transformer(config, tokens, masked=masked)

    @abstractmethod
    def code_length(self, tokens: Tensor, labels: Tensor | None, positions: Tensor) -> CodeLength:
        """What tokens B×L cost, with their labels; deterministic."""

    def held_out(self, content: Tensor, labels: Tensor | None, positions: Tensor) -> Tensor:
        """Nats and tokens; see `GeneratorNetwork.held_out`."""
        length = self.code_length(content, labels, positions)
        return torch.tensor([float(length.nats), length.tokens], dtype=torch.float64)

    def figures(self, sums: Tensor) -> Mapping[str, float]:
        """Nats a token, and bits."""
        loss = float(sums[0] / sums[1])
        return {"loss": loss, self.measures: loss / math.log(2)}

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer's."""
        return list(self.transformer.blocks)

    def checkpoint_gradients(self) -> None:
        """See `GeneratorNetwork.checkpoint_gradients`."""
        self.transformer.gradient_checkpointing = True
