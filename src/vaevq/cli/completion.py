"""`vaevq completion`."""

from typing import Annotated, Literal

import tyro

from vaevq.config import recipe_names
from vaevq.console import say


def completion(
    shell: Annotated[tyro.conf.Positional[Literal["bash", "zsh"]], tyro.conf.arg(metavar="SHELL")], /
) -> None:
    """Print what makes bash or zsh complete verbs, options, recipes and files.

    For example:

      vaevq completion bash > ~/.local/share/bash-completion/completions/vaevq
      vaevq completion zsh >> ~/.zshrc

    Args:
        shell: bash or zsh.
    """
    from vaevq.cli.command import VERBS
    from vaevq.cli.generate import GENERATE_VERBS
    from vaevq.completion import script
    from vaevq.pretrained import names

    verbs = {**VERBS, **{f"generate {name}": verb for name, verb in GENERATE_VERBS.items()}}
    words = {"train": recipe_names(), "generate train": recipe_names("generators"), "completion": ["bash", "zsh"]}
    say(script(shell, verbs, words, names()))
