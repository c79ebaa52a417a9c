"""Encoder and decoder in the shape of VQGAN's (Esser et al. 2021, table 7)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vaevq.config import AutoencoderConfig, Normalization
from vaevq.nn.normalization import normalization


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def _equal_children(conv: nn.Conv2d, children: int) -> nn.Conv2d:
    """`conv` with equal filters for the pixels that one pixel becomes (Aitken et al. 2017)."""
    with torch.no_grad():
        for parameter in conv.parameters():  # pixel_shuffle reads the children of channel c from nc … nc + n − 1
            parameter.copy_(parameter[::children].repeat_interleave(children, dim=0))
    return conv


class ResBlock(nn.Module):
    """Two times norm, SiLU, 3×3 convolution, added to the input: B×inputs×H×W -> B×outputs×H×W.

    Without norm the branch starts as 0 (Zhang et al. 2019, Fixup), so that nothing grows with the number of blocks.
    With `latent_channels` a latent of so many modulates both norms: it is given beside x.
    """

    def __init__(self, inputs: int, outputs: int, norm: Normalization, latent_channels: int | None = None) -> None:
        super().__init__()
        self.norm1 = normalization(norm, inputs, latent_channels)
        self.conv1 = _conv3x3(inputs, outputs)
        self.norm2 = normalization(norm, outputs, latent_channels)
        self.conv2 = _conv3x3(outputs, outputs)
        if norm == "none":
            nn.init.zeros_(self.conv2.weight)
            assert self.conv2.bias is not None
            nn.init.zeros_(self.conv2.bias)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, *latent: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, *latent)))
        h = self.conv2(F.silu(self.norm2(h, *latent)))
        return h + self.shortcut(x)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Single-head attention over all positions, added to the input: B×width×H×W -> the same; modulated as ResBlock."""

    def __init__(self, width: int, norm: Normalization, latent_channels: int | None = None) -> None:
        super().__init__()
        self.norm = normalization(norm, width, latent_channels)
        self.query_key_value = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, *latent: Tensor) -> Tensor:
        qkv = self.query_key_value(self.norm(x, *latent)).flatten(2).transpose(1, 2).unsqueeze(1)  # B×1×HW×3C
        attended = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        return x + self.out(attended.squeeze(1).transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class DepthToSpace(nn.Module):
    """A 3×3 convolution to four times the width, rearranged into twice the height and width.

    At the start the filters of a pixel's children are equal, so an untrained decoder shows no checkerboard.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _equal_children(_conv3x3(width, 4 * width), 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


class NearestUpsample(nn.Module):
    """Every pixel repeated to 2×2, then a 3×3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class HalvingConv(nn.Conv2d):
    """A 3×3 convolution of stride 2 that pads below and on the right alone, as VQGAN's: H×W to H/2×W/2."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class _Network(nn.Module):
    """A chain of layers; with `gradient_checkpointing` the backward pass of training computes each again."""

    body: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def _run_body(self, x: Tensor, *latent: Tensor) -> Tensor:
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.body:
            given = (x, *latent) if isinstance(layer, ResBlock | SelfAttention) else (x,)
            x = checkpoint(layer, *given, use_reentrant=False) if recompute else layer(*given)
        return x


def _middle(width: int, attention: bool, norm: Normalization, latent_channels: int | None = None) -> list[nn.Module]:
    between = [SelfAttention(width, norm, latent_channels)] if attention else []
    first, second = (ResBlock(width, width, norm, latent_channels) for _ in range(2))
    return [first, *between, second]


class Encoder(_Network):
    """Images B×image_channels×H×W in [-1, 1] -> features B×out_channels×H/f×W/f; H and W are multiples of f.

    It ends with normalisation, by option, and SiLU, as VQGAN's with a convolution: the head that makes a posterior of
    the features is the tokenizer's.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, norm = config.base_width, config.normalization
        last = len(config.multipliers) - 1
        as_vqgan = config.vqgan_channels is not None
        self.patch_size = config.patch_size
        self.conv_in = _conv3x3(config.image_channels * config.patch_size**2, width)
        layers: list[nn.Module] = []
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                layers.append(ResBlock(width, config.base_width * multiplier, norm))
                width = config.base_width * multiplier
                if level in config.attention_levels:
                    layers.append(SelfAttention(width, norm))
            if level < last:
                layers.append(HalvingConv(width) if as_vqgan else _conv3x3(width, width, stride=2))
        self.body = nn.ModuleList(layers + _middle(width, as_vqgan or last in config.attention_levels, norm))
        self.norm_out = normalization(norm, width)
        self.out_channels = config.vqgan_channels or width
        self.conv_out = _conv3x3(width, config.vqgan_channels) if config.vqgan_channels else None

    def forward(self, images: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(images, self.patch_size)
        features = F.silu(self.norm_out(self._run_body(self.conv_in(patches))))
        return features if self.conv_out is None else self.conv_out(features)


class Decoder(_Network):
    """Latents B×code_dim×h×w -> images B×image_channels×fh×fw, near [-1, 1] once trained but not clamped.

    By option the latent modulates every normalization (MoVQ), whatever quantizer it comes from.
    """

    def __init__(self, config: AutoencoderConfig, code_dim: int) -> None:
        super().__init__()
        base, norm = config.decoder_width or config.base_width, config.normalization
        self.modulated = config.modulated
        latent_channels = code_dim if config.modulated else None
        upsample = DepthToSpace if config.upsampling == "depth_to_space" else NearestUpsample
        last = len(config.multipliers) - 1
        width, as_vqgan = base * config.multipliers[last], config.vqgan_channels is not None
        self.conv_latent = nn.Conv2d(code_dim, config.vqgan_channels, 1) if config.vqgan_channels else None
        self.conv_in = _conv3x3(config.vqgan_channels or code_dim, width)
        layers = _middle(width, as_vqgan or last in config.attention_levels, norm, latent_channels)
        for level in range(last, -1, -1):
            for _ in range(config.blocks + 1):
                layers.append(ResBlock(width, base * config.multipliers[level], norm, latent_channels))
                width = base * config.multipliers[level]
                if level in config.attention_levels:
                    layers.append(SelfAttention(width, norm, latent_channels))
            if level > 0:
                layers.append(upsample(width))
        self.body = nn.ModuleList(layers)
        self.norm_out = normalization(norm, width, latent_channels)
        self.patch_size = config.patch_size
        pixels = config.patch_size**2
        self.conv_out = _equal_children(_conv3x3(width, config.image_channels * pixels), pixels)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the last convolution, where adaptive loss weights compare their gradients."""
        return self.conv_out.weight

    def forward(self, latent: Tensor) -> Tensor:
        modulation = (latent,) if self.modulated else ()
        given = latent if self.conv_latent is None else self.conv_latent(latent)
        features = self._run_body(self.conv_in(given), *modulation)
        patches = self.conv_out(F.silu(self.norm_out(features, *modulation)))
        return F.pixel_shuffle(patches, self.patch_size)
