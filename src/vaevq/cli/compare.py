"""`vaevq compare`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from vaevq.cli.options import Json, Location
from vaevq.console import say, say_table, warn


def compare(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.yaml")],
    /,
    *,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    data: Location = None,
    held_out: Location = None,
    processes: int = 1,
    rows: Annotated[str | None, tyro.conf.arg(metavar="A,B")] = None,
    table_only: bool = False,
    keep_runs: bool = False,
    any_code: bool = False,
    as_json: Json = False,
    quiet: bool = False,
) -> None:
    """Train several quantizers under one budget and say what can be said: a table, plots, pictures.

    Cells that stand are left as they are, so that running the same command again goes on where it stopped.

    For example:

      vaevq compare experiments/example.yaml
      vaevq compare experiments/example.yaml --processes 2 --rows vaevq,simvq
      vaevq compare experiments/example.yaml --table-only --json

    Args:
        file: what is compared: a base recipe, rows and seeds.
        out: where cells and tables are kept; experiments/NAME, or runs/NAME where there is no such folder.
        data: images to train on, instead of what the file names.
        held_out: images to measure on, where they lie apart.
        processes: how many cells are trained at once.
        rows: train these alone; the table has all that stand.
        table_only: train nothing.
        keep_runs: delete nothing of the runs; otherwise the models of one seed are kept.
        any_code: take cells that another version of the numeric code has made; the table says so.
        as_json: print JSON instead of tables.
        quiet: no progress display.
    """
    from vaevq.comparison import Sweep, default_folder, read_plan
    from vaevq.comparison.text import difference_header, difference_rows, group_title, notes, table_header, table_rows

    plan = read_plan(file, data=data, held_out=held_out)
    chosen = plan.chosen(rows)
    sweep = Sweep(plan, out or default_folder(file), any_code=any_code, need_data=not table_only)
    if not table_only:
        sweep.run(chosen, warn, processes=processes, keep_runs=keep_runs, quiet=quiet or as_json)
    table = sweep.write(shlex.join(["vaevq", *sys.argv[1:]]))
    if as_json:
        say(json.dumps(table.to_json(), indent=2))
        return
    for group in table.groups:
        say_table(group_title(group), table_header(table), table_rows(table, group, "* {}"))
    if differences := difference_rows(table):
        say_table(f"less {plan.reference}, seed by seed", difference_header(table), differences)
    for note in notes(table):
        say(f"note: {note}")
    if not any_code and (others := sweep.of_other_code()):
        say(f"note: {len(others)} more cells were made by other numeric code; --any-code takes them")
    say(f"\nreport        {sweep.out / 'report.html'}")
    say(f"table         {sweep.out / 'table.md'}")
