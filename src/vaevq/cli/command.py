"""From the words of the command line to a verb, and from a user's mistake to one line and an exit code."""

import inspect as inspect_module
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import tyro

from vaevq import __version__
from vaevq.arguments import chosen_verbs, words_first
from vaevq.cli.codec import decode, encode
from vaevq.cli.compare import compare
from vaevq.cli.completion import completion
from vaevq.cli.demo import demo
from vaevq.cli.doctor import doctor
from vaevq.cli.evaluate import evaluate
from vaevq.cli.export import export
from vaevq.cli.generate import GENERATE_VERBS
from vaevq.cli.import_weights import import_weights
from vaevq.cli.inspect import inspect, report
from vaevq.cli.train import train
from vaevq.console import escape_what_cannot_be_written, say, warn
from vaevq.errors import UserError


def generate() -> None:
    """Train a generator on tokens, sample images from it, measure them.

    For example:

      vaevq generate train --tokens tokens/cifar10
      vaevq generate sample runs/cifar10-ar --count 64 -o samples
      vaevq generate eval samples/images --reference cifar10/train
    """
    raise AssertionError("its own verbs are called instead")


VERBS: dict[str, Callable[..., Any]] = {
    "train": train,
    "eval": evaluate,
    "encode": encode,
    "decode": decode,
    "inspect": inspect,
    "report": report,
    "compare": compare,
    "generate": generate,
    "demo": demo,
    "export": export,
    "import": import_weights,
    "doctor": doctor,
    "completion": completion,
}


def main() -> None:
    """Runs a verb; a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    escape_what_cannot_be_written()
    arguments = sys.argv[1:]
    try:
        if arguments == ["--version"]:
            say(f"vaevq {__version__}")
            return
        if arguments[:1] == ["generate"]:
            _call(GENERATE_VERBS, arguments[1:], "vaevq generate", inspect_module.getdoc(generate) or "")
        else:
            about = "discrete visual tokenizers. `vaevq VERB --help` shows a verb's options and examples."
            _call(VERBS, arguments, "vaevq", f"vaevq {__version__}: {about}")
    except UserError as error:
        _tell(error, os.environ.get("RANK", "0"))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    if "RANK" in os.environ:
        _leave()


def _tell(error: UserError, rank: str) -> None:
    """Prints a mistake, of several processes once: the first one's, or of the others what it has not found."""
    if rank == "0":
        warn(f"vaevq: error: {error}")
        return
    # torchrun ends all processes as soon as one has failed: whoever still runs then has a mistake that nobody has told.
    time.sleep(2 + 0.5 * int(os.environ.get("LOCAL_RANK", "0")))
    warn(f"vaevq: error: process {rank}: {error}")


def _leave() -> NoReturn:
    """Ends a process of torchrun at once: everything is written, and threads of torch's may abort an orderly end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _call(verbs: dict[str, Callable[..., Any]], arguments: list[str], name: str, description: str) -> None:
    tyro.extras.subcommand_cli_from_dict(
        chosen_verbs(verbs, arguments),
        prog=name,
        description=description,
        args=words_first(arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
