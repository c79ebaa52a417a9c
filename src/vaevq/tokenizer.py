"""The tokenizer: images to tokens and back. Composition only: encoder, posterior head, quantizer, decoder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from torch import Tensor

from vaevq.card import tokenizer_card
from vaevq.config import TokenizerConfig, read_json
from vaevq.errors import UserError
from vaevq.lineage import LINEAGE_FILE, Lineage
from vaevq.nn.autoencoder import Decoder, Encoder
from vaevq.pretrained import names, packaged
from vaevq.quantization.build import build_quantizer
from vaevq.quantization.posterior import Posterior, PosteriorHead
from vaevq.quantization.quantizer import Quantized
from vaevq.quantization.resizing import Resizing
from vaevq.saved import CONFIG_FILE, MODEL_FILES, SavedModel, hub_folder


@dataclass(frozen=True)
class TokenizerOutput:
    """What one forward pass gives.

    Attributes:
        reconstruction: x̂_q, B×C×H×W about [-1, 1], not clamped.
        continuous_reconstruction: x̂_c of the same shape, or None where it was not asked for or does not exist.
        posterior: B×d×h×w.
        quantized: tokens, latents and the quantizer's loss terms.
    """

    reconstruction: Tensor
    continuous_reconstruction: Tensor | None
    posterior: Posterior
    quantized: Quantized


class Tokenizer(SavedModel, tags=["image-tokenizer", "vector-quantization"]):
    """A discrete visual tokenizer.

    `decode(encode(x), size=x.shape[-2:])` equals the reconstruction of `forward(x)` in evaluation mode.

    Attributes:
        config: what it takes to build it again.
        downsample_factor: f; a token stands for f×f pixels. Images of other sizes are padded, and cropped on decode.
        lineage: the saved models that this one was trained on from; no part of the digest.
        origin: the folder that it was loaded from, if it was; what lies beside it there goes into the model card.
    """

    config: TokenizerConfig

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.downsample_factor = config.autoencoder.downsample_factor
        # In this order, networks that start from one seed do not depend on the quantizer that they are compared with.
        code_dim = config.quantizer.code_dim
        self.encoder = Encoder(config.autoencoder)
        self.decoder = Decoder(config.autoencoder, code_dim)
        self.head = PosteriorHead(self.encoder.out_channels, code_dim, config.quantizer.initial_logvar)
        self.quantizer = build_quantizer(config.quantizer)
        self.lineage = Lineage()

    def forward(self, images: Tensor, noise: Tensor | None = None, *, continuous: bool = False) -> TokenizerOutput:
        """Reconstructs images through the quantizer, in training also through the continuous path.

        Args:
            images: B×C×H×W in [-1, 1], any H and W.
            noise: the posterior's ε, B×`latent_shape(H, W)`; None draws it. Unused in evaluation mode.
            continuous: also decode z_c. Both latents go through the decoder in one call (dual-path decoding, eq. 4).

        Raises:
            UserError: the number of channels is not the model's.
        """
        size = (images.shape[-2], images.shape[-1])
        posterior = self.posterior(images)
        quantized: Quantized = self.quantizer(posterior, noise)
        if not (continuous and quantized.continuous is not None):
            return TokenizerOutput(self.decode_latent(quantized.latent, size), None, posterior, quantized)
        stacked = self.decode_latent(torch.cat([quantized.latent, quantized.continuous]), size)
        reconstruction, continuous_reconstruction = stacked.chunk(2)
        return TokenizerOutput(reconstruction, continuous_reconstruction, posterior, quantized)

    def posterior(self, images: Tensor) -> Posterior:
        """The posterior of images: B×C×H×W in [-1, 1] to B×d×h×w with h = ⌈H/f⌉ and w = ⌈W/f⌉."""
        channels = self.config.autoencoder.image_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise UserError(f"this tokenizer takes images B×{channels}×H×W, not {'×'.join(map(str, images.shape))}")
        height, width = images.shape[-2:]
        f = self.downsample_factor
        padding = (0, -width % f, 0, -height % f)
        posterior: Posterior = self.head(self.encoder(F.pad(images, padding, mode="replicate")))
        return posterior

    def encode(self, images: Tensor) -> Tensor:
        """Tokens of images, deterministically (the posterior's mean is quantized).

        Args:
            images: B×C×H×W in [-1, 1], any H and W.

        Returns:
            int64 B×⌈H/f⌉×⌈W/f⌉ in [0, K); with a last axis of q where a position has q > 1 codes.
        """
        return self.quantizer.encode(self.posterior(images))

    def decode(self, tokens: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Images of tokens.

        Args:
            tokens: integers B×h×w in [0, K), or B×h×w×q as `encode` gives them.
            size: (H, W) of the images, where it is no multiple of f; None gives fh × fw.

        Returns:
            B×C×H×W about [-1, 1], not clamped.

        Raises:
            UserError: tokens of another shape, one outside [0, K), or a size that the grid does not belong to.
        """
        return self.decode_latent(self.lookup(tokens), size)

    def lookup(self, tokens: Tensor) -> Tensor:
        """The latents of tokens, B×d×h×w: integers in [0, K), B×h×w or B×h×w×q. UserError for others."""
        codes = self.quantizer.codes_per_position
        axes = () if codes == 1 else (codes,)
        if tokens.ndim != 3 + len(axes) or tuple(tokens.shape[3:]) != axes or tokens.is_floating_point():
            wanted = "B×h×w" if codes == 1 else f"B×h×w×{codes}, {codes} codes a position"
            raise UserError(f"tokens are integers {wanted}, not {tokens.dtype} {'×'.join(map(str, tokens.shape))}")
        tokens = tokens.long()
        if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < self.quantizer.codebook_size):
            raise UserError(
                f"tokens must be in [0, {self.quantizer.codebook_size}), "
                f"these reach from {int(tokens.min())} to {int(tokens.max())}"
            )
        return self.quantizer.lookup(tokens)

    def nearest(self, latents: Tensor) -> Tensor:
        """The tokens whose latents (`lookup`) are nearest to some, B×d×h×w: the inverse of `lookup`.

        Of residual codes the search is greedy: `lookup` of them is near, not always the nearest.
        """
        return self.quantizer.nearest(self._checked(latents))

    def quantize(self, means: Tensor) -> Tensor:
        """The tokens that `encode` gives for posteriors of these means, B×d×h×w.

        One quantizer, `gaussian`, looks at variances too, and takes what is nearest where it has none.
        """
        return self.quantizer.encode(Posterior(self._checked(means)))

    def _checked(self, latents: Tensor) -> Tensor:
        d = self.quantizer.code_dim
        if latents.ndim != 4 or latents.shape[1] != d or not latents.is_floating_point():
            raise UserError(f"latents are real numbers B×{d}×h×w, not {'×'.join(map(str, latents.shape))}")
        return latents

    def decode_latent(self, latent: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Images of latents, quantized or not: B×d×h×w to B×C×H×W, cropped to `size` as in `decode`."""
        f = self.downsample_factor
        height, width = size or (latent.shape[-2] * f, latent.shape[-1] * f)
        if (-(-height // f), -(-width // f)) != tuple(latent.shape[-2:]):
            grid = f"{latent.shape[-2]}×{latent.shape[-1]}"
            raise UserError(f"size {height}×{width} does not belong to a grid of {grid} tokens with f = {f}")
        images: Tensor = self.decoder(latent)[..., :height, :width]
        return images

    def resize(self, resizing: Resizing) -> None:
        """Gives the codebook another number of codewords; where an index changes its meaning, the lineage says to what.

        For the quantizers that `config.quantizer.resizable` names, alone.
        """
        self.quantizer.resize(resizing)
        quantizer = self.config.quantizer.model_copy(update={"codebook_size": resizing.codebook_size})
        self.config = self.config.model_copy(update={"quantizer": quantizer})
        if not resizing.keeps_indices:
            self.lineage = self.lineage.after_shrinking(tuple(resizing.target.tolist()))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(d, h, w) of an H×W image's latent."""
        f = self.downsample_factor
        return self.quantizer.code_dim, -(-height // f), -(-width // f)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name these weights and this configuration; token files carry it."""
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The README.md that `save_pretrained` and `push_to_hub` write: `vaevq.card`."""
        front_matter = self._hub_mixin_info.model_card_data.to_yaml()
        return ModelCard(tokenizer_card(front_matter, self.config, self.digest, self.origin))

    def save_pretrained(self, save_directory: str | Path, **hub_options: Any) -> str | None:
        """Writes a model folder, as `vaevq.saved.SavedModel` does; with lineage.json where it has ancestors."""
        url = super().save_pretrained(save_directory, **hub_options)
        if not self.lineage.ancestors:  # of a model that stood there
            (Path(save_directory) / LINEAGE_FILE).unlink(missing_ok=True)
        return url

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        self.lineage.write(save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub_options: Any) -> Self:
        """A saved tokenizer, in evaluation mode. Nothing that is loaded is run.

        Args:
            pretrained_model_name_or_path: a model folder, a run folder, the name of a tokenizer in the box
                (`photos-f8`, docs/photos-f8.md), or a hub name (`owner/name`).
            hub_options: for a hub name, what `huggingface_hub.snapshot_download` takes (`revision`, `token`, ...).

        Raises:
            UserError: no such folder or name, a damaged file, weights that are not of the configuration.
        """
        folder = model_folder(pretrained_model_name_or_path, **hub_options)
        config = read_json(TokenizerConfig, folder / CONFIG_FILE)
        tokenizer = cls._of_folder(folder, config, config.extent)
        tokenizer.lineage = Lineage.read(folder, config.quantizer.codebook_size)
        return tokenizer


def saved_config(location: str | Path) -> TokenizerConfig:
    """The configuration of a saved tokenizer, without its weights. UserError as `Tokenizer.from_pretrained`."""
    return read_json(TokenizerConfig, model_folder(location) / CONFIG_FILE)


def model_folder(location: str | Path, **hub_options: Any) -> Path:
    """Where a saved tokenizer lies: a model folder, that of a run folder, one in the box, or what the hub gives.

    Raises:
        UserError: no such folder or name, or one without a model.
    """
    folder = Path(location)
    if not folder.is_dir():
        folder = packaged(str(location)) or _hub_folder(str(location), hub_options)
    elif (folder / "model").is_dir():
        folder = folder / "model"
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: neither a saved tokenizer nor a run that has come to its first checkpoint "
            f"({missing[0]} is not in it)"
        )
    text = (folder / CONFIG_FILE).read_text(encoding="utf-8", errors="replace")
    if '"autoencoder"' not in text and '"network"' in text:
        raise UserError(
            f"{folder}: a generator, not a tokenizer; its own, if saved with it, is in {folder / 'tokenizer'}"
        )
    return folder


def _hub_folder(name: str, hub_options: dict[str, Any]) -> Path:
    if Path(name).exists():
        raise UserError(f"{name}: a file; name the folder of the run or of the saved tokenizer")
    if "/" not in name:  # the hub itself would look for one of the few models without an owner
        raise UserError(f"{name}: no such folder, and no hub name (owner/name); in the box: {', '.join(names())}")
    return hub_folder(name, [*MODEL_FILES, LINEAGE_FILE], hub_options)
