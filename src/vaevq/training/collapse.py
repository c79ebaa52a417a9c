"""Warns when a run's codebook falls out of use, with the likely cause and the option to change."""

import math
from collections.abc import Mapping

from vaevq.config import RunConfig
from vaevq.config.variational import VariationalConfig
from vaevq.metrics.codebook import CodebookStatistics

LITTLE_KL = 0.1
"""A posterior whose KL is less than this share of ln K says less than the tokens could."""

FEW_DIMENSIONS = 0.125
"""Means that vary in less than this share of code_dim leave most of it to chance."""

LARGE_CODE_DIM = 16
"""Above this, log₂K bits describe the latent badly (docs/method.md)."""


class CollapseWatch:
    """Looks at each evaluation on the way, and speaks when a floor is passed: not again until it has been well.

    Args:
        config: of the run, with the floors.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._low = False

    def look(self, statistics: CodebookStatistics, diagnostics: Mapping[str, float]) -> str | None:
        """A warning, or None.

        Args:
            statistics: of held-out tokens by the averaged weights.
            diagnostics: what `Monitor.measure` gave of the same images; empty where it could not.
        """
        low = self._what_is_low(statistics)
        before, self._low = self._low, low is not None
        if low is None or before:
            return None
        return f"warning: the codebook falls out of use: {low}. {self._cause(diagnostics)}"

    def _what_is_low(self, statistics: CodebookStatistics) -> str | None:
        train = self.config.train
        if statistics.usage_of_ceiling < train.usage_floor:
            return (
                f"held-out usage is {statistics.usage:.1%} where {statistics.usage_ceiling:.1%} can be reached, below "
                f"train.usage_floor {train.usage_floor:g} of it"
            )
        # So many tokens cannot have a larger one.
        most = min(statistics.codebook_size, statistics.tokens / statistics.codebooks)
        if statistics.perplexity < train.perplexity_floor * most:
            return (
                f"held-out perplexity is {statistics.perplexity:,.1f} where {most:,.0f} can be reached, below "
                f"train.perplexity_floor {train.perplexity_floor:g} of it"
            )
        return None

    def _cause(self, diagnostics: Mapping[str, float]) -> str:
        """The first of the causes that the figures and the options do not speak against, and its remedy."""
        quantizer = self.config.model.quantizer
        code_dim, nats = quantizer.code_dim, math.log(quantizer.codebook_size)
        kl, dimension = (diagnostics.get(name, math.nan) for name in ("posterior_kl_sum", "mean_dimension"))
        if kl < LITTLE_KL * nats and getattr(quantizer, "kl_weight", None):
            return (
                f"The posterior says next to nothing (KL {kl:.2f} nats a position, a token can carry {nats:.1f}): "
                "lower model.quantizer.kl_weight"
            )
        if dimension < FEW_DIMENSIONS * code_dim:
            return (
                f"Latents vary in {dimension:.1f} of {code_dim} dimensions, codewords lie in the others: lower "
                "model.quantizer.code_dim"
            )
        if isinstance(quantizer, VariationalConfig) and quantizer.codebook == "embedding":
            return "Codewords that win nothing are not moved: model.quantizer.codebook=averaged revives them"
        if getattr(quantizer, "codebook", "averaged") == "averaged" and getattr(quantizer, "revive_below", None) == 0:
            return "Codewords that win nothing are not moved: set model.quantizer.revive_below, to 0.3 for example"
        if quantizer.kind == "vq":
            return (
                "Codewords that win nothing are not moved: model.quantizer.kind=vq_ema with "
                "model.quantizer.revive_below=0.3 revives them"
            )
        if code_dim > LARGE_CODE_DIM:
            many = f"{code_dim} dimensions are many for {quantizer.codebook_size:,} codewords"
            return f"{many}: try model.quantizer.code_dim=8"
        by = " or let it be searched for (adapt.by=usage)" if quantizer.resizable else ""
        return f"The codebook may be larger than the data can fill: lower model.quantizer.codebook_size{by}"
