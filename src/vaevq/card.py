"""The page of a model on a hub: what it is, how good it was measured to be, how it came about, its limits."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vaevq.config import GeneratorConfig, TokenizerConfig
from vaevq.config.section import dig
from vaevq.errors import UserError
from vaevq.nn.weights import checksum

PAGE = "README.md"

_OURS = "<!-- Written by vaevq, and renewed whenever the model is saved. Without this line it stays as you edit it. -->"

_LIMITS = (
    "Figures are of the images and the protocol above alone, and compare with others of the same protocol.",
    "A tokenizer reconstructs what is like its training images; text, faces and fine patterns go first.",
    "Tokens belong to these weights: another model, and this one after further training, decode them otherwise.",
)


_GENERATOR_LIMITS = (
    "It makes tokens of the tokenizer named above alone; another one is refused.",
    "It knows no more than its training images; samples can resemble them, and share their bias.",
)


def edited_pages(folder: Path) -> tuple[str, ...]:
    """README.md where the one in a model folder is somebody's own, which no saving may take away."""
    try:
        return () if _OURS in (folder / PAGE).read_text(encoding="utf-8") else (PAGE,)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError):
        return (PAGE,)


def generator_card(front_matter: str, config: GeneratorConfig, origin: Path | None) -> str:
    """The page of a generator, in Markdown; arguments as of `tokenizer_card`."""
    network, tokens = config.network, config.tokens
    run = _run_folder(origin)
    evaluation = _read(run, "eval.json")
    figures = evaluation.get("figures")
    if not isinstance(figures, dict) or origin is None or evaluation.get("weights") != weights_checksum(origin):
        figures = {}
    shape = [
        ("kind", network.kind),
        ("size", network.size),
        ("tokens an image", "×".join(map(str, (*tokens.grid, tokens.codes_per_position)))),
        ("codebook_size (K)", f"{tokens.codebook_size:,}"),
        ("images", "×".join(map(str, tokens.image_size))),
        ("classes", tokens.class_count or "none: unconditional"),
        ("tokenizer digest", f"`{tokens.tokenizer_digest}`"),
    ]
    values = [(f"`{name}`", f"{value:.4g}") for name, value in figures.items() if isinstance(value, int | float)]
    return _page(
        front_matter,
        f"An image generator, {network.kind}",
        "Samples tokens of a discrete visual tokenizer, and with it images.",
        shape,
        'generator = vaevq.Generator.from_pretrained("OWNER/NAME")\nimages = generator.sample(4, seed=0)',
        _table(("held-out tokens", ""), values) if values else ["None lie beside the model."],
        _training(_read(run, "config.json"), _read(run, "environment.json")),
        _GENERATOR_LIMITS,
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
    return _page(
        front_matter,
        f"A discrete visual tokenizer, f = {f}, K = {size:,}",
        f"Images in [-1, 1], B×{autoencoder.image_channels}×H×W of any size, to integers {grid}, and back.",
        shape,
        'tokenizer = vaevq.Tokenizer.from_pretrained("OWNER/NAME")\n'
        "tokens = tokenizer.encode(images)\nimages = tokenizer.decode(tokens, size=images.shape[-2:])",
        _figures(_read(run, "eval.json"), digest),
        _training(_read(run, "config.json"), _read(run, "environment.json")),
        _LIMITS,
    )


def weights_checksum(folder: Path) -> str | None:
    """SHA-256 of the weights in a model folder; None where there are none."""
    try:
        return checksum(folder / "model.safetensors")
    except UserError:
        return None


def _page(
    front_matter: str,
    title: str,
    about: str,
    shape: Iterable[tuple[str, Any]],
    use: str,
    figures: Iterable[str],
    training: Iterable[str],
    limits: Iterable[str],
) -> str:
    return "\n".join(
        [
            f"---\n{front_matter}\n---\n{_OURS}",
            f"\n# {title}\n\n{about}\n",
            *_table(("", ""), shape),
            f"\n## Use\n\n```python\nimport vaevq\n\n{use}\n```",
            "\n## Held-out figures\n",
            *figures,
            "\n## Training\n",
            *training,
            "\n## Limits\n",
            *(f"- {limit}" for limit in limits),
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
    notes = [f"- {note}" for note in evaluation.get("notes") or ()]
    count = f"Of {evaluation.get('images')} images, encoded deterministically:\n"
    return [count, *_table(("figure", "value"), values), "", *notes, "\nProtocol:\n", *_table(("", ""), stated)]


def _training(config: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    if dig(config, "train.images") is None:
        return ["Not known: there is no run beside the model."]
    data = dig(config, "data.tokens" if "network" in config else "data.train")
    crops = dig(config, "data.image_size")
    rows = [
        ("data", f"`{Path(data).name}`" if isinstance(data, str) else "the quick start's photos"),
        ("images seen", f"{dig(config, 'train.images'):,}"),
        ("batch size", dig(config, "train.batch_size")),
        ("crops of", f"{crops} pixels" if crops else None),
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
    lines = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows]
    return [f"| {header[0]} | {header[1]} |", "|---|---|", *lines]
