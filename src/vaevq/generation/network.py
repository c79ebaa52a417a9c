"""What every generator's network does: a loss of tokens, their code length, and samples of them."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaevq.config.generation import TokensConfig, TransformerConfig
from vaevq.generation.sampling import SamplingOptions
from vaevq.generation.transformer import Transformer
from vaevq.seeding import generator


@dataclass(frozen=True)
class CodeLength:
    """Nats that some tokens cost, summed, and how many tokens these are."""

    nats: Tensor  # scalar
    tokens: int


class GeneratorNetwork(nn.Module):
    """A transformer, and how it is trained and sampled.

    Attributes:
        transformer: the network itself.
        class_dropout: share of the training images that are shown without their class.
        measures: what its code length is of: the name of the held-out figure in bits.
    """

    measures: str

    def __init__(self, config: TransformerConfig, tokens: TokensConfig, *, masked: bool) -> None:
        super().__init__()
        self.transformer = Transformer(config, tokens, masked=masked)
        self.class_dropout = config.class_dropout if self.transformer.class_count else 0.0

    @abstractmethod
    def forward(
        self, tokens: Tensor, labels: Tensor | None, positions: Tensor, *, seed: int, smoothing: float
    ) -> Tensor:
        """The loss of a batch, in nats a token.

        Args:
            tokens: int64 B×L.
            labels: int64 B, or None; not looked at by an unconditional network.
            positions: int64 B: places in the run's stream, which with `seed` decide what is hidden.
            seed: of the run.
            smoothing: label smoothing.
        """

    @abstractmethod
    def code_length(self, tokens: Tensor, labels: Tensor | None, positions: Tensor) -> CodeLength:
        """What tokens B×L cost, with their labels; deterministic."""

    @abstractmethod
    def sample(
        self, labels: Tensor, numbers: range, options: SamplingOptions, *, seed: int, given: Tensor | None = None
    ) -> Tensor:
        """Tokens of B images, int64 B×L.

        Args:
            labels: int64 B, `no_label` for none.
            numbers: of the images: image i depends on (seed, numbers[i]) alone.
            options: how tokens are drawn.
            seed: of all images.
            given: int64 B×m: the first tokens, which stay as they are.
        """

    @property
    def no_label(self) -> int:
        """The label of an image that has none."""
        return self.transformer.class_count

    def shown(self, labels: Tensor | None, count: int) -> Tensor:
        """The labels of `count` images as the network takes them."""
        if labels is None or self.no_label == 0:
            return torch.full((count,), self.no_label, device=self.transformer.classes.weight.device)
        return labels

    def with_dropped(self, labels: Tensor, positions: Tensor, seed: int) -> Tensor:
        """Labels of which some are taken away: which, (seed, position) decides."""
        if not self.class_dropout:
            return labels
        draws = [torch.rand((), generator=generator("class dropout", seed, p)) for p in positions.tolist()]
        return torch.where(torch.stack(draws).to(labels.device) < self.class_dropout, self.no_label, labels)

    def both(self, labels: Tensor, options: SamplingOptions) -> Tensor:
        """The labels that guidance needs logits of: each image's, then as many times none."""
        if options.guidance == 1:
            return labels
        return torch.cat([labels, torch.full_like(labels, self.no_label)])


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 at least: a softmax in bfloat16 would be coarse."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
