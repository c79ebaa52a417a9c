"""The generator: labels to tokens to images. Composition only: a network, and the tokenizer that decodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard
from torch import Tensor

from vaevq.card import generator_card
from vaevq.config import read_json
from vaevq.config.generation import GeneratorConfig
from vaevq.errors import UserError, nearest_name
from vaevq.generation.autoregressive import Autoregressive
from vaevq.generation.build import build_network
from vaevq.generation.sampling import SamplingOptions
from vaevq.saved import CONFIG_FILE, MODEL_FILES, SavedModel, hub_folder
from vaevq.tokenizer import Tokenizer

TOKENIZER_FOLDER = "tokenizer"

Label = int | str
"""A class: its number, or its name where the generator knows the names."""


@dataclass(frozen=True)
class Samples:
    """Some generated images.

    Attributes:
        tokens: int64 B×h×w, or B×h×w×q.
        labels: int64 B; None of an unconditional generator.
        numbers: of the images among all that one seed gives.
    """

    tokens: Tensor
    labels: Tensor | None
    numbers: range


class Generator(SavedModel, tags=["image-generation", "vector-quantization"]):
    """A model that samples the tokens of one tokenizer, and with it images.

    Attributes:
        config: what it takes to build it again.
        network: samples tokens.
        origin: the folder that it was loaded from, if it was; what lies beside it there goes into the model card.
    """

    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.network, config.tokens, config.latents)
        # In a list, so that its weights are none of the generator's.
        self._tokenizer: list[Tokenizer] = []
        if tokenizer is not None:
            self.take_tokenizer(tokenizer)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose tokens these are.

        Raises:
            UserError: it is not at hand.
        """
        if not self._tokenizer:
            raise UserError(
                f"this generator was saved without its tokenizer {self.config.tokens.tokenizer_digest}, which decoding "
                "needs: name it (--tokenizer, or tokenizer= in Python)"
            )
        return self._tokenizer[0]

    def take_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Decodes with this tokenizer from now on.

        Raises:
            UserError: its tokens are not those that the generator has learned.
        """
        digest, expected = tokenizer.digest, self.config.tokens.tokenizer_digest
        if digest != expected:
            raise UserError(f"this generator makes tokens of tokenizer {expected}, not of {digest}")
        self._tokenizer[:] = [tokenizer.eval()]

    def share_tokenizer(self, other: "Generator") -> None:
        """Decodes with the tokenizer of another generator of the same tokens, if that has one."""
        self._tokenizer[:] = other._tokenizer

    def sample(
        self,
        count: int = 1,
        *,
        labels: Sequence[Label] | None = None,
        seed: int = 0,
        options: SamplingOptions = SamplingOptions(),  # noqa: B008 - it is frozen
        given: Tensor | None = None,
        batch_size: int = 16,
    ) -> Tensor:
        """Images, count×C×H×W about [-1, 1], not clamped.

        Args:
            count: how many.
            labels: classes that the images take in turn; None: all classes in turn. Numbers, or names where known.
            seed: image i depends on (seed, i) and its label alone, whatever the batch size.
            options: guidance, temperature and so on.
            given: the upper rows of an image's tokens, int64 h'×w or h'×w×q with h' ≤ h, that all images begin with.
            batch_size: images at a time.

        Raises:
            UserError: a label or an option that this generator has not, or no tokenizer.
        """
        self.tokenizer  # noqa: B018 - it is needed, and missed now rather than after the first batch
        parts = self.samples(count, labels=labels, seed=seed, options=options, given=given, batch_size=batch_size)
        return torch.cat([self.decode(part.tokens) for part in parts])

    def samples(
        self,
        count: int = 1,
        *,
        labels: Sequence[Label] | None = None,
        seed: int = 0,
        options: SamplingOptions = SamplingOptions(),  # noqa: B008
        given: Tensor | None = None,
        batch_size: int = 16,
    ) -> Iterator[Samples]:
        """Tokens of images, batch by batch; the arguments are those of `sample`. Mistakes are raised at once."""
        if count < 1 or batch_size < 1:
            raise UserError(f"count and batch size must be at least 1, not {count} and {batch_size}")
        self.network.check_options(options)
        if self.config.latents is not None:
            self.tokenizer  # noqa: B018 - as in `sample`: tokens of latents are its affair
        if given is not None and not self.network.completes:
            raise UserError(f"a generator of kind {self.network.kind} completes nothing: {self.network.how}")
        classes = self._classes(labels)
        beginning = None if given is None else self._beginning(given)
        device = self.network.device

        def batches() -> Iterator[Samples]:
            for first in range(0, count, batch_size):
                numbers = range(first, min(count, first + batch_size))
                of_batch = torch.tensor([classes[n % len(classes)] for n in numbers], device=device)
                start = None if beginning is None else beginning.to(device).expand(len(numbers), -1)
                made = self.network.sample(of_batch, numbers, options, seed=seed, given=start)
                yield Samples(
                    tokens=self._tokens(made),
                    labels=of_batch if self.network.no_label else None,
                    numbers=numbers,
                )

        return batches()

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Images, B×C×H×W about [-1, 1], of tokens."""
        return self.tokenizer.to(tokens.device).decode(tokens, self.config.tokens.image_size)

    def compile_step(self) -> None:
        """Compiles a step of autoregressive sampling with torch; the first image takes longer, the others less.

        Raises:
            UserError: the generator is not autoregressive.
        """
        if not isinstance(self.network, Autoregressive):
            raise UserError(f"compiling has no effect on a generator of kind {self.config.network.kind}")
        self.network.compiled = True

    @torch.no_grad()
    def content(self, tokens: Tensor, latents: Tensor | None = None) -> Tensor:
        """What the network learns of images.

        Args:
            tokens: int64 B×h×w or B×h×w×q.
            latents: B×d×h×w, the means that they were made of, where it learns from continuous latents.

        Returns:
            The tokens B×L or, of a generator of latents, these B×d×h×w with mean 0 and variance 1 over those it learns.
        """
        scale = self.config.latents
        if scale is None:
            return tokens.flatten(1)
        if scale.source == "codewords":
            with torch.autocast(tokens.device.type, enabled=False):
                latents = self.tokenizer.to(tokens.device).lookup(tokens)
        assert latents is not None, "a token set of continuous latents has them"
        return (latents.to(next(self.network.parameters()).dtype) - scale.mean) / scale.std

    @torch.no_grad()
    def _tokens(self, made: Tensor) -> Tensor:
        """Tokens B×h×w or B×h×w×q of what the network has made; latents are quantized by the tokenizer."""
        tokens, scale = self.config.tokens, self.config.latents
        if scale is None:
            levels = (tokens.codes_per_position,) if tokens.codes_per_position > 1 else ()
            return made.view(len(made), *tokens.grid, *levels)
        tokenizer, latents = self.tokenizer.to(made.device), made.float() * scale.std + scale.mean
        return tokenizer.nearest(latents) if scale.source == "codewords" else tokenizer.quantize(latents)

    def _classes(self, labels: Sequence[Label] | None) -> list[int]:
        """The classes that images take in turn, by number."""
        count, names = self.network.no_label, self.config.tokens.classes
        if labels is None:
            return list(range(count)) if count else [0]
        if not count:
            raise UserError("labels have no effect on an unconditional generator")
        if not labels:
            raise UserError("name at least one label")
        numbers = []
        for label in labels:
            if isinstance(label, str) and label not in names and not label.isdecimal():
                known = f": it knows the numbers 0 to {count - 1}" if not names else nearest_name(label, names)
                raise UserError(f"this generator knows no class '{label}'{known}")
            number = names.index(label) if label in names else int(label)
            if not 0 <= number < count:
                raise UserError(
                    f"label {number} is out of range: this generator knows {count} classes, 0 to {count - 1}"
                )
            numbers.append(number)
        return numbers

    def _beginning(self, given: Tensor) -> Tensor:
        """The upper rows of an image as the first tokens of a sequence, 1×m."""
        tokens = self.config.tokens
        (height, width), codes = tokens.grid, tokens.codes_per_position
        shape = tuple(given.shape) if codes > 1 else (*given.shape, 1)
        if given.is_floating_point() or len(shape) != 3 or shape[1:] != (width, codes) or shape[0] > height:
            whole = "×".join(map(str, (height, width) + ((codes,) if codes > 1 else ())))
            raise UserError(f"given tokens are the upper rows of a grid {whole}, not {'×'.join(map(str, given.shape))}")
        if given.numel() and not (int(given.min()) >= 0 and int(given.max()) < tokens.codebook_size):
            raise UserError(f"given tokens must be in [0, {tokens.codebook_size})")
        return given.long().reshape(1, -1)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The README.md that `save_pretrained` and `push_to_hub` write: `vaevq.card`."""
        return ModelCard(generator_card(self._hub_mixin_info.model_card_data.to_yaml(), self.config, self.origin))

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes, where it is at hand, the tokenizer too, into a folder of its own."""
        super()._save_pretrained(save_directory)
        for tokenizer in self._tokenizer:
            tokenizer.save_pretrained(save_directory / TOKENIZER_FOLDER)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        tokenizer: Tokenizer | str | Path | None = None,
        **hub_options: Any,
    ) -> Self:
        """A saved generator, in evaluation mode. Nothing that is loaded is run.

        Args:
            pretrained_model_name_or_path: a model folder, a run folder, or a hub name (`owner/name`).
            tokenizer: the one to decode with; None: the one that lies beside the generator, if there is one.
            hub_options: for a hub name, what `huggingface_hub.snapshot_download` takes (`revision`, `token`, ...).

        Raises:
            UserError: no such folder or name, a damaged file, a tokenizer whose tokens it has not learned.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _hub_folder(str(pretrained_model_name_or_path), hub_options)
        elif (folder / "model").is_dir():
            folder = folder / "model"
        config = _read_config(folder)
        generator = cls._of_folder(folder, config, config.network.extent)
        if tokenizer is None and (folder / TOKENIZER_FOLDER).is_dir():
            tokenizer = folder / TOKENIZER_FOLDER
        if tokenizer is not None:
            loaded = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_pretrained(tokenizer)
            generator.take_tokenizer(loaded)
        return generator


def _read_config(folder: Path) -> GeneratorConfig:
    file = folder / CONFIG_FILE
    if not all((folder / name).is_file() for name in MODEL_FILES):
        raise UserError(f"{folder}: neither a saved generator nor a run that has come to its first checkpoint")
    text = file.read_text(encoding="utf-8", errors="replace")
    if '"autoencoder"' in text and '"network"' not in text:
        raise UserError(f"{folder}: a tokenizer, not a generator; vaevq generate train makes one")
    return read_json(GeneratorConfig, file)


def _hub_folder(name: str, hub_options: dict[str, Any]) -> Path:
    if "/" not in name or Path(name).exists():
        raise UserError(f"{name}: no such folder, and no hub name (owner/name)")
    wanted = [f"{folder}{file}" for folder in ("", f"{TOKENIZER_FOLDER}/") for file in MODEL_FILES]
    return hub_folder(name, wanted, hub_options)
