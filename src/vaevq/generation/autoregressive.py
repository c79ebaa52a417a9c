"""One token after another, row by row: LlamaGen's training and sampling (Sun et al. 2024)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vaevq.config.generation import AutoregressiveConfig, TokensConfig
from vaevq.generation.sampling import SamplingOptions, chosen, guided, uniforms
from vaevq.generation.token_network import TOKEN_OPTIONS, CodeLength, TokenNetwork
from vaevq.nn.precision import at_least_float32


class Autoregressive(TokenNetwork):
    """p(tokens | class) = Π p(token | class, tokens before it).

    Attributes:
        compiled: whether a step of sampling is compiled by torch; its shapes are the same in every step.
    """

    kind = "ar"
    measures = "bits_per_token"
    how = "it makes one token after another"
    sampling_options = TOKEN_OPTIONS

    def __init__(self, config: AutoregressiveConfig, tokens: TokensConfig) -> None:
        super().__init__(config, tokens, masked=False)
        self.compiled = False

    def forward(
        self, content: Tensor, labels: Tensor | None, positions: Tensor, *, seed: int, smoothing: float = 0.0
    ) -> Tensor:
        """Mean cross-entropy over all tokens; see `GeneratorNetwork.forward`."""
        shown = self.with_dropped(self.shown(labels, len(content)), positions, seed)
        logits = at_least_float32(self.logits(content, shown))
        return F.cross_entropy(logits.flatten(0, 1), content.flatten(), label_smoothing=smoothing)

    def code_length(self, tokens: Tensor, labels: Tensor | None, positions: Tensor) -> CodeLength:
        """−log p(tokens | class)."""
        logits = at_least_float32(self.logits(tokens, self.shown(labels, len(tokens))))
        return CodeLength(F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum"), tokens.numel())

    def logits(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Of each token given those before it: tokens B×L and labels B to B×L×K."""
        inputs = torch.cat([self.transformer.start(labels), self.transformer.embed(tokens[:, :-1])], dim=1)
        return self.transformer.logits(self.transformer(inputs, causal=True))

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        numbers: range,
        options: SamplingOptions,
        *,
        seed: int,
        given: Tensor | None = None,
        cached: bool = True,
    ) -> Tensor:
        """See `GeneratorNetwork.sample`. Without `cached`, every step looks at all tokens anew: slow, and the same."""
        transformer, length = self.transformer, self.transformer.length
        rows = self.both(labels, options)
        copies = len(rows) // len(labels)
        draws = uniforms(seed, numbers, (length,)).to(labels.device)
        tokens = torch.zeros(len(labels), length, dtype=torch.int64, device=labels.device)
        known = 0 if given is None else given.shape[1]
        if given is not None:
            tokens[:, :known] = given
        inputs = torch.cat([transformer.start(rows), transformer.embed(tokens[:, :known].repeat(copies, 1))], dim=1)
        cache = transformer.new_cache(len(rows))
        step = torch.compile(transformer.step, fullgraph=True, dynamic=False) if self.compiled else transformer.step
        place = torch.tensor([known], device=labels.device)
        outputs = transformer.prefill(inputs, cache) if cached else transformer(inputs, causal=True)
        for at in range(known, length):
            logits = guided(transformer.logits(outputs[:, -1:], at)[:, 0], options.guidance)
            tokens[:, at] = chosen(logits, draws[:, at], options)
            if at + 1 < length and cached:
                place += 1
                outputs = step(transformer.embed(tokens[:, at : at + 1].repeat(copies, 1), at), place, cache)
            elif at + 1 < length:
                embedded = transformer.embed(tokens[:, : at + 1].repeat(copies, 1))
                outputs = transformer(torch.cat([transformer.start(rows), embedded], dim=1), causal=True)
        return tokens
