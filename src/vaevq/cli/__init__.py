"""The command: one verb a task. Verbs read options, call one room, and say what was reached; nothing else.

torch and all that needs it is imported inside the verbs, so that `vaevq --help` answers at once.
"""

from vaevq.cli.command import VERBS, main
from vaevq.cli.generate import GENERATE_VERBS

__all__ = ["GENERATE_VERBS", "VERBS", "main"]
