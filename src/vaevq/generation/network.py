"""What every generator's network does: a loss, figures of held-out images, and samples."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaevq.errors import UserError
from vaevq.generation.sampling import SamplingOptions
from vaevq.seeding import generator


class GeneratorNetwork(nn.Module):
    """A network, and how it is trained and sampled.

    Its content is what it learns from and makes: tokens, int64 B×L, or latents, B×d×h×w of about unit variance.

    Args:
        class_count: classes it is told of, 0 where it is unconditional; the label `class_count` stands for none.
        class_dropout: share of the training images that are shown without their class.
    """

    kind: ClassVar[str]
    """What `network.kind` calls it."""
    content: ClassVar[str]
    """What its loss is of, in a word."""
    how: ClassVar[str]
    """How it makes an image, in a few words: why other options do nothing."""
    sampling_options: ClassVar[frozenset[str]]
    """The names of the options of sampling that it looks at."""
    completes: ClassVar[bool]
    """Whether it can go on from given content."""

    def __init__(self, class_count: int, class_dropout: float) -> None:
        super().__init__()
        self.no_label = class_count
        self.class_dropout = class_dropout if class_count else 0.0

    @abstractmethod
    def forward(
        self, content: Tensor, labels: Tensor | None, positions: Tensor, *, seed: int, smoothing: float = 0.0
    ) -> Tensor:
        """The loss of a batch: nats a token, or a squared error.

        Args:
            content: of B images.
            labels: int64 B, or None; not looked at by an unconditional network.
            positions: int64 B: places in the run's stream, which with `seed` decide what is hidden or noise.
            seed: of the run.
            smoothing: label smoothing, of tokens alone.
        """

    @abstractmethod
    def held_out(self, content: Tensor, labels: Tensor | None, positions: Tensor) -> Tensor:
        """Sums over held-out images, float64 on the CPU, which `figures` takes added up over batches; deterministic."""

    @abstractmethod
    def figures(self, sums: Tensor) -> Mapping[str, float]:
        """The figures of all held-out images, `loss` among them."""

    @abstractmethod
    def sample(
        self, labels: Tensor, numbers: range, options: SamplingOptions, *, seed: int, given: Tensor | None = None
    ) -> Tensor:
        """Content of B images.

        Args:
            labels: int64 B, `no_label` for none.
            numbers: of the images: image i depends on (seed, numbers[i]) alone.
            options: how content is drawn.
            seed: of all images.
            given: where it `completes`, int64 B×m: the first tokens, which stay as they are.
        """

    @property
    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Its larger parts, in the order in which they run: what sharded training brings together one by one."""

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """From now on computes blocks again in the backward pass: less memory, more time, the same result."""

    def check_options(self, options: SamplingOptions) -> None:
        """Passes if this network can be sampled so.

        Raises:
            UserError: an option that it has no use for, or guidance without classes or without class dropout.
        """
        if options.guidance != 1 and not self.no_label:
            raise UserError("guidance has no effect on an unconditional generator: there is no label to be led by")
        if options.guidance != 1 and not self.class_dropout:
            raise UserError("guidance needs a generator that was trained with network.class_dropout above 0")
        for option in fields(options):
            if option.name not in self.sampling_options and getattr(options, option.name) != option.default:
                raise UserError(f"{option.name} has no effect on a generator of kind {self.kind}: {self.how}")

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def shown(self, labels: Tensor | None, count: int) -> Tensor:
        """The labels of `count` images as the network takes them."""
        if labels is None or self.no_label == 0:
            return torch.full((count,), self.no_label, device=self.device)
        return labels

    def with_dropped(self, labels: Tensor, positions: Tensor, seed: int) -> Tensor:
        """Labels of which some are taken away: which, (seed, position) decides."""
        if not self.class_dropout:
            return labels
        draws = [torch.rand((), generator=generator("class dropout", seed, p)) for p in positions.tolist()]
        return torch.where(torch.stack(draws).to(labels.device) < self.class_dropout, self.no_label, labels)

    def both(self, labels: Tensor, options: SamplingOptions) -> Tensor:
        """The labels that guidance needs outputs of: each image's, then as many times none."""
        if options.guidance == 1:
            return labels
        return torch.cat([labels, torch.full_like(labels, self.no_label)])
