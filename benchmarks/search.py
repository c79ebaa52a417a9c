"""The exact search for the nearest codeword: time against other ways, memory, growth with K.

The limit is torch's bare matrix product of that shape, which is no search yet.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import Row, Settings, medians, peak_mib
from vaevq.quantization.search import nearest

DIM = 64
WORK = "nearest codeword, {:,} latents × {:,} × {}"


def textbook(latents: Tensor, codewords: Tensor) -> Tensor:
    """argmin_k ‖z‖² + ‖e‖² − 2zᵀe, of the full matrix."""
    norms = latents.square().sum(1, keepdim=True) + codewords.square().sum(1)
    return (norms - 2 * latents @ codewords.T).argmin(1)


def data(latents: int, codewords: int, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """Standard normal latents N×dim and codewords K×dim, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(latents, dim, generator=generator), torch.randn(codewords, dim, generator=generator)


def disagreement(tokens: Tensor, latents: Tensor, codewords: Tensor) -> tuple[int, int]:
    """How many tokens differ from those of `nearest`, and how many of these not by rounding: where the other codeword
    is farther, in float64, by more than float32 can tell."""
    ours = nearest(latents, codewords)
    at = (ours != tokens).nonzero()[:, 0]
    rows = latents[at].double()
    here, there = ((rows - codewords[found[at]].double()).square().sum(1) for found in (ours, tokens))
    scale = rows.square().sum(1) + codewords.double().square().sum(1).max()
    return len(at), int(((here - there).abs() > 16 * torch.finfo(torch.float32).eps * scale).sum())


def faiss_flat(latents: Tensor, codewords: Tensor) -> Callable[[], Tensor]:
    """faiss's flat index, filled beforehand."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(codewords.shape[1])
    index.add(codewords.numpy())
    return lambda: torch.from_numpy(index.search(latents.numpy(), 1)[1][:, 0])


def vector_quantize_pytorch(latents: Tensor, codewords: Tensor) -> Callable[[], Tensor]:
    """The package's layer in evaluation mode."""
    from vector_quantize_pytorch import VectorQuantize

    layer = VectorQuantize(dim=codewords.shape[1], codebook_size=len(codewords)).eval()
    layer._codebook.embed.copy_(codewords[None])
    return lambda: layer(latents[None])[1][0]


@torch.no_grad()
def times(settings: Settings) -> list[Row]:
    """Against a bare product, the textbook's formula and two packages."""
    shape = (1024, 4096) if settings.quick else (8192, 16384)
    latents, codewords = data(*shape)
    ready = torch.empty(shape)
    searches: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: nearest(latents, codewords),
        "textbook formula": lambda: textbook(latents, codewords),
        "vector-quantize-pytorch": vector_quantize_pytorch(latents, codewords),
        "faiss flat index": faiss_flat(latents, codewords),
    }
    for name, search in searches.items():
        differing, wrong = disagreement(search(), latents, codewords)
        if wrong or differing > len(latents) // 1000:
            raise RuntimeError(f"{name} finds other codewords than we do for {differing} latents, {wrong} clearly")
    products = {
        "matrix product": lambda: latents @ codewords.T,
        "matrix product into a ready buffer": lambda: torch.mm(latents, codewords.T, out=ready),
    }
    taken = medians({**searches, **products}, settings.turns(5), settings.clock)
    work, ours = WORK.format(*shape, DIM), taken["ours"]
    goals = {"textbook formula": "≥ 2.5", "vector-quantize-pytorch": "≥ 5", "faiss flat index": "≥ 1.5"}
    rows = [
        Row(f"{work}: our time / theirs", name, ours / taken[name], "≤ 1.25" * (name == "matrix product"), taken)
        for name in products
    ]
    return rows + [Row(f"{work}: their time / ours", name, taken[name] / ours, goals[name], taken) for name in goals]


def prepared(search: Callable[[Tensor, Tensor], Tensor], latents: int, codewords: int) -> Callable[[], object]:
    """For `peak_mib`: a search whose inputs are there."""
    search(*data(8, 8))
    inputs = data(latents, codewords)
    return lambda: search(*inputs)


def memory(settings: Settings) -> list[Row]:
    """Peak memory beyond inputs and outputs."""
    rows = []
    shapes = [(1024, 65536)] if settings.quick else [(8192, 16384), (512, 1 << 20), (1 << 20, 1024)]
    for latents, codewords in shapes:
        output = latents * 8 / (1 << 20)
        ours = peak_mib(prepared, nearest, latents, codewords) - output
        figures = {"ours": ours, "full matrix alone": latents * codewords * 4 / (1 << 20)}
        if (latents, codewords) == (8192, 16384):
            figures["textbook"] = peak_mib(prepared, textbook, latents, codewords) - output
        work = f"its peak memory, {latents:,} latents × {codewords:,} × {DIM}"
        rows.append(Row(work, "nothing", ours, "≤ 64 MiB", figures))
        rows.append(Row(work, "the full matrix", ours / figures["full matrix alone"], "", figures))
    return rows


@torch.no_grad()
def growth(settings: Settings, plot: Path | None = None) -> list[Row]:
    """From K 1,024 on: seconds and memory a codeword; the plot is written where a path is given."""
    latents = 256 if settings.quick else 1024
    sizes = [1 << n for n in range(10, 15 if settings.quick else 19, 2)]
    inputs = {size: data(latents, size) for size in sizes}
    for size in sizes[:3]:
        assert not disagreement(textbook(*inputs[size]), *inputs[size])[1]
    seconds = medians({str(k): lambda k=k: nearest(*inputs[k]) for k in sizes}, settings.turns(7), settings.clock)
    mib = {str(size): peak_mib(prepared, nearest, latents, size) for size in sizes}
    first, last = str(sizes[0]), str(sizes[-1])
    exponent_free = seconds[last] / seconds[first] / (sizes[-1] / sizes[0])
    if plot is not None:
        _plot(sizes, seconds, mib, latents, plot)
    span = f"{sizes[0]:,} → {sizes[-1]:,}"
    return [
        Row(f"growth in K, {span}: time × {sizes[-1] // sizes[0]}", "growth of K", exponent_free, "≤ 1", seconds),
        Row(f"growth in K, {span}: the most memory", "nothing", max(mib.values()), "≤ 64 MiB", mib),
    ]


def _plot(sizes: list[int], seconds: dict[str, float], mib: dict[str, float], latents: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.loglog(sizes, [seconds[str(size)] for size in sizes], "o-", label="measured")
    left.loglog(sizes, [seconds[str(sizes[0])] * size / sizes[0] for size in sizes], ":", label="in proportion to K")
    left.set(xlabel="K", ylabel=f"seconds for {latents:,} latents")
    left.legend()
    right.semilogx(sizes, [mib[str(size)] for size in sizes], "o-", label="measured")
    right.semilogx(sizes, [latents * size * 4 / (1 << 20) for size in sizes], ":", label="the full matrix")
    right.set(xlabel="K", ylabel="MiB beyond the inputs", ylim=(0, 64))
    right.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
