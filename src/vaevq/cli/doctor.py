"""`vaevq doctor`."""

import json
import sys
from itertools import groupby

from vaevq.cli.options import Json
from vaevq.console import say, say_rows, warn


def doctor(
    *,
    device: str = "auto",
    as_json: Json = False,
) -> None:
    """Say whether everything works here: versions, devices, cache, and a tiny tokenizer trained and used.

    Nothing is fetched. The exit code is 1 where something is broken.

    For example:

      vaevq doctor
      vaevq doctor --device cuda --json

    Args:
        device: of the self-test: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON instead of tables.
    """
    from vaevq.doctor import examine

    diagnosis = examine(device)
    if as_json:
        say(json.dumps(diagnosis.to_json(), indent=2, ensure_ascii=False))
    else:
        for section, findings in groupby(diagnosis.findings, key=lambda finding: finding.section):
            say_rows(section, [(finding.name, finding.value) for finding in findings])
        say("everything works" if not diagnosis.broken else "")
    for finding in diagnosis.broken:
        warn(f"broken: {finding.section}, {finding.name}: {finding.value}")
    if diagnosis.broken:
        sys.exit(1)
