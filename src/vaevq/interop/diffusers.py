"""A tokenizer where diffusers expects its own VQModel, as in LDMPipeline(vqvae=...).

Latents are the posterior's means; `decode` quantizes them, unless it is told not to.
"""

from typing import Any, Self, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.autoencoders.vq_model import VQEncoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from vaevq.config import TokenizerConfig, validate
from vaevq.errors import UserError
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantizer
from vaevq.tokenizer import Tokenizer


class _Quantize(nn.Module):
    """diffusers' side of a quantizer: latents B×d×h×w to (codewords, loss, (None, None, tokens))."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self._quantizer = [quantizer]  # in a list: its weights are the tokenizer's

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, tuple[None, None, Tensor]]:
        (quantizer,) = self._quantizer
        tokens = quantizer.encode(Posterior(latents))
        codewords = quantizer.lookup(tokens)
        # Straight through; the loss is plain commitment, what diffusers' own gives but for its weights.
        loss = (latents - codewords.detach()).square().mean()
        return latents + (codewords - latents).detach(), loss, (None, None, tokens)

    def get_codebook_entry(self, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Codewords B×d×h×w of tokens in any shape; `shape` is (B, h, w, d) as diffusers has it."""
        (quantizer,) = self._quantizer
        codes = (quantizer.codes_per_position,) if quantizer.codes_per_position > 1 else ()
        return quantizer.lookup(indices.reshape(*shape[:3], *codes).long())


class DiffusersTokenizer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A tokenizer with the interface of `diffusers.VQModel`: inference only.

    `DiffusersTokenizer.of(tokenizer)` makes one; `save_pretrained` and `from_pretrained` are diffusers' own, and so are
    those of a pipeline that holds it. `config` has VQModel's `in_channels`, `out_channels`, `latent_channels`,
    `vq_embed_dim`, `num_vq_embeddings`, `block_out_channels`, `scaling_factor` and `lookup_from_codebook`.

    Args:
        tokenizer_config: a `TokenizerConfig` as JSON data.
        scaling_factor: what pipelines multiply latents by before their noise; 1 over the latents' deviation is usual.

    Raises:
        UserError: a quantizer that chooses by the posterior's variance too, which a latent alone does not have.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        tokenizer_config: dict[str, Any],
        scaling_factor: float = 1.0,
        in_channels: int | None = None,
        out_channels: int | None = None,
        latent_channels: int | None = None,
        vq_embed_dim: int | None = None,
        num_vq_embeddings: int | None = None,
        block_out_channels: tuple[int, ...] | None = None,
        lookup_from_codebook: bool = False,
    ) -> None:
        super().__init__()
        config = validate(TokenizerConfig, dict(tokenizer_config), "the tokenizer's configuration")
        if config.quantizer.kind == "gaussian":
            raise UserError("a tokenizer of kind gaussian chooses by the posterior's variance, which diffusers has not")
        autoencoder, quantizer = config.autoencoder, config.quantizer
        self.register_to_config(
            in_channels=autoencoder.image_channels,
            out_channels=autoencoder.image_channels,
            latent_channels=quantizer.code_dim,
            vq_embed_dim=quantizer.code_dim,
            num_vq_embeddings=quantizer.codebook_size,
            # As many as halve the size: pipelines take f from their number.
            block_out_channels=[autoencoder.base_width] * autoencoder.downsample_factor.bit_length(),
        )
        self.tokenizer = Tokenizer(config).eval()
        self.quantize = _Quantize(self.tokenizer.quantizer)

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, scaling_factor: float = 1.0) -> Self:
        """The same tokenizer, with a copy of its weights, in evaluation mode."""
        made = cls(tokenizer.config.model_dump(mode="json"), scaling_factor)
        made.tokenizer.load_state_dict(tokenizer.state_dict())
        return made.eval()  # type: ignore[no-any-return]

    def encode(self, x: Tensor, return_dict: bool = True) -> VQEncoderOutput | tuple[Tensor]:
        """Images B×C×H×W in [-1, 1] to latents B×d×h×w, not quantized yet."""
        latents = self.tokenizer.posterior(x).mean
        return VQEncoderOutput(latents=latents) if return_dict else (latents,)

    def decode(
        self,
        h: Tensor,
        force_not_quantize: bool = False,
        return_dict: bool = True,
        shape: tuple[int, ...] | None = None,
    ) -> DecoderOutput | tuple[Tensor, Tensor]:
        """Latents B×d×h×w to images B×C×fh×fw, through the codebook unless told otherwise.

        With `force_not_quantize` and `config.lookup_from_codebook` h are tokens, of the `shape` (B, h, w, d).
        """
        loss = torch.zeros(len(h), device=h.device)
        if not force_not_quantize:
            latents, loss, _ = self.quantize(h)
        elif self.config["lookup_from_codebook"]:
            assert shape is not None, "the shape of the latents goes with tokens"
            latents = self.quantize.get_codebook_entry(h, shape)
        else:
            latents = h
        images = self.tokenizer.decode_latent(latents)
        return _output(images, loss) if return_dict else (images, loss)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor, Tensor]:
        """Images to their reconstructions, cropped to the size of the images."""
        images, loss = self.decode(self.encode(sample, return_dict=False)[0], return_dict=False)
        images = images[..., : sample.shape[-2], : sample.shape[-1]]
        return _output(images, loss) if return_dict else (images, loss)


def _output(images: Tensor, loss: Tensor) -> DecoderOutput:
    return DecoderOutput(sample=images, commit_loss=cast(torch.FloatTensor, loss))
