"""The report's section of the codebook: its use, never without T/K and the ceiling, and where codewords lie."""

from vaevq.metrics.codebook import MINIMUM_TOKENS_PER_CODEWORD, CodebookStatistics, TokenHistogram
from vaevq.report.codebook_plots import histogram_chart, projection_chart
from vaevq.report.labels import label
from vaevq.report.markup import paragraph, table
from vaevq.report.run_folder import RunFolder

_OF_CODEBOOK = (
    *("tokens_per_codeword", "usage", "usage_ceiling", "usage_of_ceiling"),
    *("dead_codewords", "perplexity", "perplexity_share", "entropy_bits"),
)


def codebook(run: RunFolder) -> str:
    """The histogram of held-out tokens and what it says, and where the codewords lie."""
    statistics = codebook_statistics(run)
    if run.evaluation is None or statistics is None:
        return paragraph("The codebook's use is measured when the run is finished.", "muted")
    values = {row.name: row.value for row in run.evaluation.rows()}
    books, codewords = statistics.codebooks, statistics.codebook_size * statistics.codebooks
    rows = [("codewords (K)", f"{books} × {statistics.codebook_size:,}" if books > 1 else f"{codewords:,}")]
    rows += [("tokens a position", f"{run.codes_per_position}")] if run.codes_per_position > 1 else []
    rows += [(label("tokens"), f"{statistics.tokens:,}")]
    rows += [(label(name), values[name]) for name in _OF_CODEBOOK if name in values]
    used = codewords - statistics.dead_codewords
    description = (
        f"Counts of {codewords:,} codewords in {statistics.tokens:,} held-out tokens, sorted, on a log "
        f"scale: {used:,} occur, {statistics.dead_codewords:,} never do. A uniform use would give each "
        f"{statistics.tokens_per_codeword:.1f} in the mean, and reach {statistics.usage_ceiling:.1%} of them."
    )
    parts = [
        paragraph("Which codewords the held-out images use, encoded deterministically (no noise)."),
        f'<div class="codebook"><figure>{histogram_chart(run.evaluation.histogram, description)}</figure>'
        f"{table(rows, ('figure', 'value'), numbers=(1,))}</div>",
        paragraph(
            "The dashed line is what a perfectly uniform tokenizer would show on so many tokens, by Poisson's "
            "distribution; it ends at the ceiling of usage. Perplexity is how many equally frequent codewords would "
            "carry as much."
            + (f" Usage is over all {books} codebooks, perplexity of the mean one." if books > 1 else ""),
            "muted",
        ),
    ]
    if statistics.tokens_per_codeword < MINIMUM_TOKENS_PER_CODEWORD:
        parts.append(
            paragraph(
                f"T/K is {statistics.tokens_per_codeword:.1f}: below {MINIMUM_TOKENS_PER_CODEWORD} tokens a codeword, "
                "usage and perplexity say more of the number of images than of the codebook.",
                "note",
            )
        )
    return "\n".join([*parts, _plane(run, statistics)])


def _plane(run: RunFolder, statistics: CodebookStatistics) -> str:
    """The codewords in a plane, where they are points of a space, and its own evaluation counted these."""
    found = run.projection
    if run.evaluation is None or found is None or len(found.codewords) != len(run.evaluation.histogram):
        return ""
    shown = sum(found.shares)
    plane = (
        f"The plane in which the {statistics.codebook_size:,} codewords of {found.code_dim} dimensions vary most "
        f"(principal component analysis): it holds {shown:.1%} of their variance and {found.latent_share:.1%} of that "
        f"of the latents."
        if found.code_dim > 2
        else "The codewords in the two dimensions that they have."
    )
    said = (
        f"{plane} A dot is a codeword, coloured by how often held-out images use it; dots that would cover each other "
        f"are drawn once. The grey areas hold half and 95 % of {len(found.latents):,} held-out latents, the means that "
        "are quantized. Dead codewords off the grey are where no image is; dead ones inside it lose to neighbours"
        + (", or lie off the latents in another dimension." if found.code_dim > 2 else ".")
    )
    dead = statistics.dead_codewords
    description = (
        f"Codewords in a plane that holds {shown:.1%} of their variance and {found.latent_share:.1%} of the latents': "
        f"{statistics.codebook_size - dead:,} used ones and {dead:,} dead ones."
    )
    chart = projection_chart(found, run.evaluation.histogram, description)
    return f'<div class="codebook"><figure>{chart}</figure>{paragraph(said)}</div>'


def codebook_statistics(run: RunFolder) -> CodebookStatistics | None:
    """Of the evaluation's histogram; None before there is one."""
    if run.evaluation is None or not sum(run.evaluation.histogram):
        return None
    return TokenHistogram.of_counts(run.evaluation.histogram, run.evaluation.codebooks).statistics()
