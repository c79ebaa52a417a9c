"""What a shell needs to complete the command: a script that knows every verb and its options, and asks nobody.

Made of the verbs' own signatures, so that it is never behind them; it runs no Python while one types.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

_BASH = """\
# Completion of vaevq for bash. In ~/.bashrc: source <(vaevq completion bash)
_vaevq() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} options= valued= words=
    local before=${{COMP_WORDS[COMP_CWORD-1]}}
    if [[ $verb == generate && COMP_CWORD -gt 1 ]]; then
        [[ $COMP_CWORD -eq 2 ]] && {{ COMPREPLY=($(compgen -W '{generate}' -- "$word")); return; }}
        verb="generate ${{COMP_WORDS[2]}}"
    elif [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W '{verbs}' -- "$word"))
        return
    fi
    case $verb in
{cases}
    esac
    case $before in
        -m|--model|--init-from) words='{models}';;
        -*) [[ " $valued " == *" $before "* ]] && words=;;
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$options --help" -- "$word"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _vaevq vaevq
"""

_ZSH = """\
# Completion of vaevq for zsh. In ~/.zshrc, after compinit: source <(vaevq completion zsh)
autoload -U +X bashcompinit && bashcompinit
"""


def script(
    shell: str, verbs: Mapping[str, Callable[..., Any]], words: Mapping[str, Iterable[str]], models: Iterable[str]
) -> str:
    """The script for a shell.

    Args:
        shell: bash or zsh.
        verbs: every verb, those of `generate` as `generate VERB`.
        words: what a verb's words can be besides files: names of recipes.
        models: what a model can be besides a folder: names of those in the box.
    """
    own = [name for name in verbs if " " not in name]
    cases = [
        f"        '{name}') options='{' '.join(options(verb))}' valued='{' '.join(options(verb, valued=True))}' "
        f"words='{' '.join(words.get(name, ()))}';;"
        for name, verb in verbs.items()
    ]
    nested = [name.partition(" ")[2] for name in verbs if " " in name]
    bash = _BASH.format(verbs=" ".join(own), generate=" ".join(nested), cases="\n".join(cases), models=" ".join(models))
    return bash if shell == "bash" else _ZSH + bash.partition("\n")[2]


def options(verb: Callable[..., Any], *, valued: bool = False) -> list[str]:
    """The options of a verb as one types them; with `valued` those alone that a value follows."""
    found = list[str]()
    for name, parameter in inspect.signature(verb).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or (valued and isinstance(parameter.default, bool)):
            continue
        settings = [each for each in get_args(parameter.annotation)[1:] if hasattr(each, "aliases")]
        named = next((each.name for each in settings if each.name), name)
        found.append(f"--{named.replace('_', '-')}")
        found += [alias for each in settings for alias in each.aliases or ()]
    return found
