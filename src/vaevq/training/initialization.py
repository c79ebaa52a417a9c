"""`train.init_from`: a run starts from a saved model's weights, in part resized or adapted, in part anew."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaevq.config import AutoencoderConfig, QuantizerConfig
from vaevq.errors import UserError
from vaevq.files import write_json
from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.codebook import Codebook
from vaevq.quantization.resizing import growth, perturbed_halves, shrinkage
from vaevq.tokenizer import Tokenizer

FILE = "init.json"
CARRIED, ANEW = "carried over", "started anew"
_OF_CODEBOOK = "quantizer.codebook."
_FORM = (
    "kind",
    "code_dim",
    "codebook_size",
    "codes_per_position",
    "codebook",
    "shared_codebook",
    "features",
    "feature_dim",
    "levels",
    "bridge_group",
    "bridge_width",
    "bridge_depth",
)
"""The options that shape a quantizer's codebook, or say what it is made of."""


@dataclass(frozen=True)
class Part:
    """What became of tensors that belong together.

    Attributes:
        name: what their names have in common.
        what: carried over, resized, adapted or started anew, in words.
        tensors: their names.
    """

    name: str
    what: str
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Initialization:
    """Where a run's weights come from.

    Attributes:
        model: as it was named.
        digest: of the model.
        codebook_size: its K.
        parts: of the run's own tensors all, and the optimizers.
        continuous_path: whether there is one which could go first, since the codebook starts anew.
    """

    model: str
    digest: str
    codebook_size: int
    parts: tuple[Part, ...]
    continuous_path: bool = False

    def lines(self) -> Iterator[str]:
        """A small table."""
        yield f"weights from {self.model} (model {self.digest}, K = {self.codebook_size:,})"
        width = max(len(part.name) for part in self.parts)
        for part in self.parts:
            count = f", {len(part.tensors)} tensors" if len(part.tensors) > 1 else ""
            yield f"  {part.name:<{width}}  {part.what}{count}"
        if self.continuous_path:
            yield "the codebook starts anew: model.quantizer.quantize_from would let VAEVQ's continuous path go first"

    def write(self, run_dir: Path) -> None:
        """Writes init.json."""
        write_json(run_dir / FILE, asdict(self))


def initialize(tokenizer: Tokenizer, model: str, seed: int) -> Initialization:
    """Fills a new tokenizer with what a saved one has; what counts a run's images starts at 0.

    Args:
        tokenizer: its weights are changed, and its lineage goes on from the model where its tokens do.
        model: a run folder, a model folder or a hub name.
        seed: of the directions in which codewords are split.

    Raises:
        UserError: there is no such model, or it does not fit: the first difference is named.
    """
    source, own = Tokenizer.from_pretrained(model), tokenizer.state_dict()
    digest, size = source.digest, source.quantizer.codebook_size
    _check_networks(source.config.autoencoder, tokenizer.config.autoencoder, model)
    quantizer, reason = tokenizer.config.quantizer, _why_anew(source, tokenizer.config.quantizer)
    notes, theirs = dict[str, str](), source.state_dict()
    if reason is None:
        source.lineage = source.lineage.after_saving(digest, size)
        if size != quantizer.codebook_size:
            _resize(source, quantizer.codebook_size, model, seed)
            notes[_OF_CODEBOOK] = f"{CARRIED}, {size:,} → {quantizer.codebook_size:,} codewords"
        theirs = source.state_dict() | _codewords(source, own)
        tokenizer.lineage = source.lineage
    else:
        anew = ["quantizer."]
        if source.quantizer.code_dim != quantizer.code_dim:
            anew += ["head.", "decoder.conv_in."]
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(tuple(anew))}
        notes |= dict.fromkeys(anew, f"{ANEW}: {reason}")
    channels = source.config.autoencoder.image_channels, tokenizer.config.autoencoder.image_channels
    if channels[0] != channels[1]:
        theirs |= with_channels(theirs, *channels)
        ends = ("encoder.conv_in.weight", "decoder.conv_out.")
        notes |= dict.fromkeys(ends, f"{CARRIED}, {channels[0]} → {channels[1]} image channels")
    theirs.pop("quantizer.images_seen", None)
    taken = {name: theirs[name] for name in own if name in theirs and theirs[name].shape == own[name].shape}
    tokenizer.load_state_dict(own | taken)
    what = {name: _fate(name, notes, CARRIED if name in taken else ANEW) for name in own}
    parts = [*_parts(what), Part("optimizers", ANEW)]
    if not any(name.startswith("quantizer.") for name in own):
        parts.insert(-1, Part("quantizer", notes.get("quantizer.", CARRIED)))
    return Initialization(model, digest, size, tuple(parts), reason is not None and quantizer.kind == "vaevq")


def check_unchanged(run_dir: Path, model: str) -> None:
    """That a run which goes on was started from the model that is named now, where it lies here.

    Raises:
        UserError: it is another model by now.
    """
    path = run_dir / FILE
    if not path.is_file() or not Path(model).is_dir():
        return
    try:
        digest: Any = json.loads(path.read_text(encoding="utf-8"))["digest"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; name another folder with --run-dir to begin anew") from None
    if (present := Tokenizer.from_pretrained(model).digest) != digest:
        raise UserError(
            f"{run_dir} was started from model {digest}, and {model} is model {present} by now; name another folder "
            "with --run-dir"
        )


def with_channels(state: dict[str, Tensor], before: int, after: int) -> dict[str, Tensor]:
    """The first and the last convolution for images of other channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.

    Grey in place of colours: the filters' sum on the way in, since the three would be equal, and their mean on the way
    out. Colours in place of grey: a third of the filter each, and the filter. A new alpha channel is not looked at
    first, and comes out as the colours' mean.
    """
    colours, alpha = (1, 3)[before > 2], before in (2, 4)
    new_colours, new_alpha = (1, 3)[after > 2], after in (2, 4)

    def adapted(filters: Tensor, *, out: bool) -> Tensor:
        """C×… to C'×…, channels first."""
        tint, rest = filters[:colours], filters[colours:]
        if colours != new_colours:
            grey = tint.mean(dim=0, keepdim=True) if out or colours == 1 else tint.sum(dim=0, keepdim=True)
            tint = grey.repeat(new_colours, *[1] * (tint.ndim - 1)) / (1 if out else new_colours)
        if new_alpha and not alpha:
            rest = tint.mean(dim=0, keepdim=True) if out else torch.zeros_like(tint[:1])
        return torch.cat([tint, rest[:1]]) if new_alpha else tint

    name = "encoder.conv_in.weight"  # width × channels·p² × 3 × 3, a channel's pixels beside one another
    weight = state[name]
    first = weight.reshape(len(weight), before, -1, *weight.shape[2:]).transpose(0, 1)
    found = {name: adapted(first, out=False).transpose(0, 1).flatten(1, 2)}
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        last = state[name]
        found[name] = adapted(last.reshape(before, -1, *last.shape[1:]), out=True).flatten(0, 1)
    return found


def _check_networks(theirs: AutoencoderConfig, own: AutoencoderConfig, model: str) -> None:
    for name in AutoencoderConfig.model_fields:
        there, here = getattr(theirs, name), getattr(own, name)
        if name == "decoder_width":
            there, here = there or theirs.base_width, here or own.base_width
        if name != "image_channels" and there != here:
            raise UserError(
                f"train.init_from: {model} does not fit: model.autoencoder.{name} is {there!r} there and {here!r} here"
            )


def _why_anew(source: Tokenizer, own: QuantizerConfig) -> str | None:
    """Why a quantizer cannot go on from a model's, by the first option that differs; None where it can.

    It can where it is of the same form, or where both have plain points in the latent's space as codewords: those that
    are `resizable` hold such, VAEVQ and SimVQ with a projection make such.
    """
    theirs = source.config.quantizer
    if not source.quantizer.is_fitted:
        return "the model's codebook is not made yet"
    differ = [name for name in _FORM if getattr(theirs, name, None) != getattr(own, name, None)]
    points = own.resizable and (theirs.resizable or theirs.kind in ("vaevq", "simvq"))
    same_size = theirs.codebook_size == own.codebook_size or theirs.resizable
    if not differ or (points and same_size and "code_dim" not in differ):
        return None
    name = "code_dim" if "code_dim" in differ else "codebook_size" if points else differ[0]
    return f"{name} {getattr(theirs, name, None)} → {getattr(own, name, None)}"


def _resize(source: Tokenizer, size: int, model: str, seed: int) -> None:
    """Brings a model's codebook to another size."""
    codebook = getattr(source.quantizer, "codebook", None)
    assert isinstance(codebook, Codebook | AveragedCodebook)
    if size < codebook.codebook_size:
        source.resize(shrinkage(codebook().detach(), codebook.counts, size))
    while (now := codebook.codebook_size) < size:
        grown = growth(perturbed_halves(codebook().detach(), codebook.counts, seed, now), size)
        if grown.codebook_size == now:
            raise UserError(f"{model}: all its codewords are equal, and nothing tells how to split them")
        source.resize(grown)


def _codewords(source: Tokenizer, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The codewords of a model in the form of another quantizer's codebook, where they are not in it."""
    codebook, theirs = getattr(source.quantizer, "codebook", None), source.state_dict()
    wanted = {name.removeprefix(_OF_CODEBOOK) for name in own if name.startswith(_OF_CODEBOOK)}
    present = {name.removeprefix(_OF_CODEBOOK) for name in theirs if name.startswith(_OF_CODEBOOK)}
    plain = wanted == {"embedding"}, wanted == {"embedding", "counts", "sums", "updates"}
    if codebook is None or wanted == present or not any(plain):
        return {}
    codewords = codebook().detach()
    averages = {"counts": torch.ones_like(codewords[:, 0]), "sums": codewords, "updates": torch.tensor(1)}
    found = {"embedding": codewords} | (averages if plain[1] else {})
    return {f"{_OF_CODEBOOK}{name}": tensor for name, tensor in found.items()}


def _fate(name: str, notes: dict[str, str], fate: str) -> str:
    """Carried over or anew, with what is noted of that."""
    found = (what for prefix, what in notes.items() if name.startswith(prefix) and what.startswith(fate))
    return next(found, fate)


def _parts(what: dict[str, str]) -> Iterator[Part]:
    """Tensors of one network with one fate together, what is carried over in full first."""
    keys = {name: (name.partition(".")[0], fate != CARRIED, fate) for name, fate in what.items()}
    for (network, special, fate), group in groupby(sorted(what, key=lambda name: keys[name]), key=lambda n: keys[n]):
        names = tuple(group)
        yield Part(_common(names) if special else network, fate, names)


def _common(names: tuple[str, ...]) -> str:
    """The dotted beginning of all names."""
    places = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(place[0] for place in takewhile(lambda place: len(set(place)) == 1, places))
