"""Measures all that the project says about its speed, prints a table and writes JSON.

python -m benchmarks                              # minutes; a quiet machine, please
python -m benchmarks search growth --threads 2
python -m benchmarks --quick                      # seconds each; shows that all runs, no figures
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks import coding, evaluation, index, loading, search, training
from benchmarks.measuring import CLOCKS, Row, Settings, as_json, as_table


def main() -> None:
    """Runs the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["search", "memory", "growth", "training", "options", "coding", "evaluation", "loading", "index"]
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"which: {', '.join(names)}; all where left out")
    parser.add_argument("--quick", action="store_true", help="small shapes, one turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall", help="cpu: this process's own time")
    parser.add_argument(
        "--photos", type=Path, help="a folder of JPEG files for the loading benchmark; else it makes some"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--plot", type=Path, default=Path("growth.png"), help="of the growth in K")
    args = parser.parse_args()
    if unknown := [name for name in args.only if name not in names]:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(names)}")
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu adds up the time of all threads: it goes with --threads 1")
    torch.set_num_threads(args.threads)
    settings = Settings(args.quick, args.clock, args.photos)
    every: dict[str, Callable[[Settings], list[Row]]] = {
        "search": search.times,
        "memory": search.memory,
        "growth": partial(search.growth, plot=args.plot),
        "training": training.measure,
        "options": training.options,
        "coding": coding.measure,
        "evaluation": evaluation.measure,
        "loading": loading.measure,
        "index": index.measure,
    }
    rows: list[Row] = []
    for name in args.only or names:
        print(f"{name} …", flush=True)
        measured = every[name](settings)
        print(as_table(measured), flush=True)
        rows += measured
        args.output.write_text(json.dumps(as_json(rows, settings), indent=2, ensure_ascii=False) + "\n")
    print(f"\n{torch.get_num_threads()} threads, {args.clock} clock\n\n{as_table(rows)}\n\n{args.output}")


if __name__ == "__main__":
    main()
