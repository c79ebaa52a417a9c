"""Tokens a second of autoregressive sampling: cached, uncached, and a plain statement of the published loop.

    python -m benchmarks.sampling --size small
    python -m benchmarks.sampling --size B --batch 1 16 --output sampling.json

All have the same random weights and shape: 16×16 tokens of 16,384 codewords, a thousand classes. A cached step takes
the same time at every place, so a few steps are timed; an uncached one looks at all tokens so far, so places over the
whole length are timed and their mean is taken. What is compared is timed in turns: a busy machine is busy for all.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import medians
from benchmarks.plain_llamagen import sample as plain_sample
from benchmarks.plain_llamagen import weights_of
from vaevq.config.generation import SIZES, AutoregressiveConfig, TokensConfig
from vaevq.generation.autoregressive import Autoregressive
from vaevq.generation.sampling import SamplingOptions, chosen

TOKENS = TokensConfig(
    codebook_size=16_384, grid=(16, 16), image_size=(256, 256), tokenizer_digest="0" * 16, class_count=1000
)
OPTIONS = SamplingOptions()


def cached_steps(network: Autoregressive, batch: int, steps: int, step: Callable[..., Any]) -> Callable[[], None]:
    """The first steps of sampling a batch, with the cache."""
    transformer, device = network.transformer, network.transformer.classes.weight.device
    labels, uniform = torch.arange(batch, device=device), torch.rand(batch, device=device)

    def work() -> None:
        cache, place = transformer.new_cache(batch), torch.tensor([0], device=device)
        outputs = transformer.prefill(transformer.start(labels), cache)
        for at in range(steps):
            tokens = chosen(transformer.logits(outputs, at)[:, 0], uniform, OPTIONS)
            if at + 1 < steps:
                place += 1
                outputs = step(transformer.embed(tokens[:, None], at), place, cache)

    return work


def uncached_step(network: Autoregressive, batch: int, known: int) -> Callable[[], None]:
    """One step of sampling a batch, looking anew at the tokens that are known."""
    transformer, device = network.transformer, network.transformer.classes.weight.device
    labels, uniform = torch.arange(batch, device=device), torch.rand(batch, device=device)
    tokens = torch.zeros(batch, known, dtype=torch.int64, device=device)

    def work() -> None:
        inputs = torch.cat([transformer.start(labels), transformer.embed(tokens)], dim=1)
        outputs = transformer(inputs, causal=True)[:, -1:]
        chosen(transformer.logits(outputs, known)[:, 0], uniform, OPTIONS)

    return work


def measured_row(network: Autoregressive, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each way with one batch size, and their ratios."""
    step, steps = network.transformer.step, args.steps
    labels = torch.arange(batch, device=args.device)
    weights, shape = weights_of(network)
    works: dict[str, Callable[[], object]] = {
        "cached": cached_steps(network, batch, steps, step),
        "plain": lambda: plain_sample(weights, shape, labels, steps),
    }
    if args.compile:
        compiled = torch.compile(step, fullgraph=True, dynamic=False)
        works["compiled"] = cached_steps(network, batch, steps, compiled)
    times = {name: taken / steps for name, taken in medians(works, args.repeats).items()}
    places = [(2 * probe + 1) * shape.length // (2 * args.probes) for probe in range(args.probes)]
    uncached = medians({str(known): uncached_step(network, batch, known) for known in places}, 1)
    times["uncached"] = statistics.mean(uncached.values())
    row: dict[str, Any] = {name: batch / taken for name, taken in times.items()}
    return row | {f"cached / {name}": row["cached"] / row[name] for name in times if name != "cached"}


@torch.inference_mode()
def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a batch size."""
    torch.manual_seed(0)
    config = AutoregressiveConfig.model_validate({"size": args.size})
    network = Autoregressive(config, TOKENS).to(args.device, getattr(torch, args.dtype)).eval()
    rows = []
    for batch in args.batch:
        row = {"size": args.size, "batch": batch, **measured_row(network, batch, args)}
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measures, prints a line a batch size (tokens a second, then ratios) and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--steps", type=int, default=16, help="cached steps timed")
    parser.add_argument("--probes", type=int, default=4, help="places at which an uncached step is timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also time a compiled step")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = {
        "benchmark": "sampling",
        "unit": "tokens a second",
        "torch": str(torch.__version__),
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "rows": measure(args),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
