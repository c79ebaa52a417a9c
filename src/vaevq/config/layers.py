"""One layer of settings on another, and which of them do nothing beside the others."""

from collections.abc import Mapping, Sequence
from typing import Any

from vaevq.config.run import RunConfig
from vaevq.config.section import Section, dig, leaves, merged
from vaevq.config.shapes import CodebookShape
from vaevq.config.variants import VARIANTS, kind_of, spelled_out
from vaevq.effect import NO_EFFECT, NoEffect


def laid(ground: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A layer of settings on the one below; neither is changed.

    Where `given` names another kind of quantizer, of the ground's quantizer its codebook's shape alone is kept, and
    what the ground says of a continuous path goes where the new kind has none. A variant of the ground is spelled
    out: the rest of it stays.
    """
    if dig(given, "model.quantizer.kind") is None or kind_of(given) == kind_of(ground):
        return merged(ground, given)
    kept = spelled_out(ground)
    quantizer, loss = dig(kept, "model.quantizer"), kept.get("loss")
    if isinstance(quantizer, Mapping):
        kept["model"]["quantizer"] = {k: v for k, v in quantizer.items() if k in CodebookShape.model_fields}
    if isinstance(loss, dict) and kind_of(given) != "vaevq":
        loss.pop("continuous_path", None)
    return merged(kept, given)


def without_effect(given: Mapping[str, Any], *configs: RunConfig) -> list[str]:
    """What a layer of settings gives in vain, a sentence an option.

    Defaults, and what a variant sets, are never in vain: they are given by nobody.

    Args:
        given: the layer, not validated.
        configs: the configurations that it is a part of; an option that has an effect in one of them is not named.
    """
    each = [in_vain(config) for config in configs]
    return [each[-1][name] for name, _ in leaves(given) if all(name in of for of in each)]


def in_vain(section: Section, prefix: str = "", rules: Sequence[NoEffect] = NO_EFFECT) -> dict[str, str]:
    """What each option below a section that has no effect does not do, by name; those left at their default apart."""
    options = dict(leaves(section.model_dump(), prefix))
    variant = dict(leaves(VARIANTS.get(options.get("variant"), {})))  # type: ignore[arg-type]
    found: dict[str, str] = {}
    for option, says in idle(section, prefix, rules).items():
        parent, _, name = option.removeprefix(prefix).rpartition(".")
        default = type(dig(section, parent) if parent else section).model_fields[name].default
        if options[option] not in (default, variant.get(option, default)):
            found[option] = says
    return found


def idle(section: Section, prefix: str = "", rules: Sequence[NoEffect] = NO_EFFECT) -> dict[str, str]:
    """What each option below a section that has no effect beside the others does not do, by name."""
    options = dict(leaves(section.model_dump(), prefix))
    found: dict[str, str] = {}
    for rule in rules:
        for option in rule.options:
            # Another quantizer's, another section's options are not there.
            if option in options and rule.where(options):
                found.setdefault(option, f"{option} {rule.says}")
    return found
