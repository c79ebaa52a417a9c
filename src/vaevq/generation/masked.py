"""All tokens at once, from masked ones, in a few steps: MaskGIT (Chang et al. 2022, arXiv 2202.04200)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vaevq.config.generation import MaskedConfig, TokensConfig
from vaevq.generation.sampling import SamplingOptions, chosen, guided, uniforms
from vaevq.generation.token_network import TOKEN_OPTIONS, CodeLength, TokenNetwork
from vaevq.nn.precision import at_least_float32
from vaevq.seeding import generator

STEPS = 12
"""Steps of sampling where none are asked for."""

MEAN_MASKED = 2 / math.pi
"""The mean of the cosine schedule: the share of the tokens that training masks on average."""


class Masked(TokenNetwork):
    """p(masked tokens | class, the others), each token by itself; the transformer sees both sides."""

    kind = "mask"
    measures = "bits_per_masked_token"
    how = "it fills in tokens in a few steps"
    sampling_options = TOKEN_OPTIONS | {"steps", "choice_temperature"}

    def __init__(self, config: MaskedConfig, tokens: TokensConfig) -> None:
        super().__init__(config, tokens, masked=True)

    def forward(
        self, content: Tensor, labels: Tensor | None, positions: Tensor, *, seed: int, smoothing: float = 0.0
    ) -> Tensor:
        """Cross-entropy over the masked tokens, divided by how many they are on average.

        So the loss of a batch is the mean of the losses of its parts, on any number of processes; a division by the
        number of a part's own masked tokens would weigh parts differently.
        """
        shown = self.with_dropped(self.shown(labels, len(content)), positions, seed)
        hidden = masks(content.shape[1], positions, "mask", seed).to(content.device)
        logits = at_least_float32(self.logits(content, hidden, shown)[hidden])
        nats = F.cross_entropy(logits, content[hidden], label_smoothing=smoothing, reduction="sum")
        return nats / (MEAN_MASKED * content.numel())

    def code_length(self, tokens: Tensor, labels: Tensor | None, positions: Tensor) -> CodeLength:
        """Of masked tokens given the others, under masks that the positions decide."""
        hidden = masks(tokens.shape[1], positions, "held-out mask").to(tokens.device)
        logits = at_least_float32(self.logits(tokens, hidden, self.shown(labels, len(tokens)))[hidden])
        return CodeLength(F.cross_entropy(logits, tokens[hidden], reduction="sum"), int(hidden.sum()))

    def logits(self, tokens: Tensor, hidden: Tensor, labels: Tensor) -> Tensor:
        """Tokens B×L of which those in `hidden` (bool B×L) are not seen, and labels B, to B×L×K."""
        transformer = self.transformer
        embedded = transformer.embed_masked(tokens, hidden)
        outputs = transformer(torch.cat([transformer.start(labels), embedded], dim=1), causal=False)
        return transformer.logits(outputs[:, 1:])

    @torch.no_grad()
    def sample(
        self, labels: Tensor, numbers: range, options: SamplingOptions, *, seed: int, given: Tensor | None = None
    ) -> Tensor:
        """See `GeneratorNetwork.sample`.

        In each step every unknown token is drawn, and those of the highest confidence stay: the log-probability of the
        token drawn, with Gumbel noise that fades over the steps. How many are still unknown after step t of T is the
        share cos(π/2 · t/T).
        """
        length, rows = self.transformer.length, self.both(labels, options)
        copies, count = len(rows) // len(labels), len(labels)
        steps = options.steps or STEPS
        draws = uniforms(seed, numbers, (steps, length)).to(labels.device)
        noise = _gumbel(uniforms(seed, numbers, (steps, length), "confidence")).to(labels.device)
        tokens = torch.zeros(count, length, dtype=torch.int64, device=labels.device)
        hidden = torch.ones_like(tokens, dtype=torch.bool)
        if given is not None:
            tokens[:, : given.shape[1]] = given
            hidden[:, : given.shape[1]] = False
        unknown = length - (0 if given is None else given.shape[1])
        remaining = unknown
        for step in range(steps):
            if not remaining:
                break
            logits = self.logits(tokens.repeat(copies, 1), hidden.repeat(copies, 1), rows)
            logits = guided(logits, options.guidance)
            # One image at a time: the probabilities of all would be the largest thing in memory.
            drawn = torch.stack([chosen(one, draws[i, step], options) for i, one in enumerate(logits)])
            tokens = torch.where(hidden, drawn, tokens)
            share = (step + 1) / steps
            remaining = max(0, min(int(math.cos(math.pi / 2 * share) * unknown), remaining - 1))
            confidence = torch.stack([_log_probability(*one) for one in zip(logits, tokens, strict=True)])
            confidence = confidence + options.choice_temperature * (1 - share) * noise[:, step]
            confidence = confidence.masked_fill(~hidden, torch.inf)
            least = confidence.argsort(dim=1, stable=True)[:, :remaining]
            hidden = torch.zeros_like(hidden).scatter(1, least, True)
        return tokens


def masks(length: int, positions: Tensor, *purpose: int | str) -> Tensor:
    """Which tokens are masked, bool B×length on the CPU: ⌈cos(π/2 · u) · length⌉ of them, u uniform, at least one.

    Row i depends on (purpose, positions[i]) alone.
    """
    rows = []
    for position in positions.tolist():
        draw = generator(*purpose, position)
        share = math.cos(math.pi / 2 * float(torch.rand((), generator=draw, dtype=torch.float64)))
        order = torch.rand(length, generator=draw).argsort()
        rows.append(order < max(1, math.ceil(share * length)))
    return torch.stack(rows)


def _gumbel(uniform: Tensor) -> Tensor:
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of tokens L under logits L×K, float32 L."""
    return -F.cross_entropy(logits.float(), tokens, reduction="none")
