"""The page of a tokenizer on a model hub: what it is, how good it was measured to be, how it came about, its limits."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vaevq.config import TokenizerConfig
from vaevq.config.section import dig

_LIMITS = (
    "Figures are of the images and the protocol above alone, and compare with others of the same protocol.",
    "A tokenizer reconstructs what is like its training images; text, faces and fine patterns go first.",
    "Tokens belong to these weights: another model, and this one after further training, decode them otherwise.",
)


def tokenizer_card(front_matter: str, config: TokenizerConfig, digest: str, origin: Path | None) -> str:
    """The page in Markdown.

    Args:
        front_matter: the hub's YAML.
        config: of the tokenizer.
        digest: of its weights; figures of other weights are not shown.
        origin: the folder that it was loaded from, beside which a run's eval.json, config.json and environment.json
            may lie.
    """
    quantizer, autoencoder = config.quantizer, config.autoencoder
    f, size, codes = autoencoder.downsample_factor, quantizer.codebook_size, quantizer.codes_per_position
    run = _run_folder(origin)
    shape = [
        ("quantizer", quantizer.kind),
        ("codebook_size (K)", f"{size:,}"),
        ("code_dim (d)", quantizer.code_dim),
        ("downsample_factor (f)", f),
        ("codes a position", codes),
        ("image channels", autoencoder.image_channels),
        ("bits a pixel", f"{codes * math.log2(size) / f**2:.4g}"),
        ("model digest", f"`{digest}`"),
    ]
    grid = "B×⌈H/f⌉×⌈W/f⌉" + (f"×{codes}" if codes > 1 else "")
    return "\n".join(
        [
            f"---\n{front_matter}\n---",
            f"\n# A discrete visual tokenizer, f = {f}, K = {size:,}\n",
            f"Images in [-1, 1], B×{autoencoder.image_channels}×H×W of any size, to integers {grid}, and back.\n",
            *_table(("", ""), shape),
            "\n## Use\n",
            "```python\nimport vaevq\n",
            'tokenizer = vaevq.Tokenizer.from_pretrained("OWNER/NAME")',
            "tokens = tokenizer.encode(images)",
            "images = tokenizer.decode(tokens, size=images.shape[-2:])\n```",
            "\n## Held-out figures\n",
            *_figures(_read(run, "eval.json"), digest),
            "\n## Training\n",
            *_training(_read(run, "config.json"), _read(run, "environment.json")),
            "\n## Limits\n",
            *(f"- {limit}" for limit in _LIMITS),
            "",
        ]
    )


def _run_folder(origin: Path | None) -> Path | None:
    """The run folder that a model folder belongs to, or the folder itself."""
    return origin.parent if origin is not None and origin.name == "model" else origin


def _read(folder: Path | None, name: str) -> Mapping[str, Any]:
    """A JSON file of a run, or nothing where there is none that can be read: a page is written all the same."""
    try:
        tree = json.loads((folder / name).read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _figures(evaluation: Mapping[str, Any], digest: str) -> list[str]:
    figures, protocol = evaluation.get("figures"), evaluation.get("protocol")
    if not isinstance(figures, dict) or not isinstance(protocol, dict):
        return ["None lie beside the model. `vaevq eval` measures them."]
    if protocol.get("model_digest") != digest:
        return ["Not given: those beside the model are of other weights."]
    values = [(f"`{name}`", f"{value:.4g}") for name, value in figures.items() if isinstance(value, int | float)]
    stated = [
        (f"`{name}`", f"`{json.dumps(value, ensure_ascii=False)}`")
        for name, value in protocol.items()
        if not isinstance(value, dict | list)
    ]
    notes = [f"- {note}" for note in evaluation.get("notes", [])]
    count = f"Of {evaluation.get('images')} images, encoded deterministically:\n"
    return [count, *_table(("figure", "value"), values), "", *notes, "\nProtocol:\n", *_table(("", ""), stated)]


def _training(config: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    if dig(config, "train.images") is None:
        return ["Not known: there is no run beside the model."]
    data = dig(config, "data.train")
    rows = [
        ("data", f"`{Path(data).name}`" if data else "the quick start's photos"),
        ("images seen", f"{dig(config, 'train.images'):,}"),
        ("batch size", dig(config, "train.batch_size")),
        ("crops of", f"{dig(config, 'data.image_size')} pixels"),
        ("seed", config.get("seed")),
        ("started from", dig(config, "train.init_from")),
        ("command", f"`{environment['command']}`" if "command" in environment else None),
        ("vaevq", environment.get("vaevq")),
        ("commit", environment.get("commit")),
        ("torch", dig(environment, "packages.torch")),
        ("device", environment.get("device")),
    ]
    return _table(("", ""), [row for row in rows if row[1] is not None])


def _table(header: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> list[str]:
    lines = [f"| {name} | {value} |" for name, value in rows]
    return [f"| {header[0]} | {header[1]} |", "|---|---|", *lines]
