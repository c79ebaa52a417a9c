"""Encoding and decoding against the bare encoder and decoder, at the paper's network."""

import torch

from benchmarks.measuring import Row, Settings, medians
from benchmarks.search import textbook
from benchmarks.training import batch_of, configuration
from vaevq.tokenizer import Tokenizer


@torch.inference_mode()
def measure(settings: Settings) -> list[Row]:
    """Two rows; tokens and pixels are compared with a plain statement of both first."""
    side = 64 if settings.quick else 128
    config = configuration("paper", side, 1)
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.model).eval()
    images = batch_of(config).images
    codewords = tokenizer.quantizer.codebook()
    features = tokenizer.encoder(images)
    latents = tokenizer.head(features).mean.permute(0, 2, 3, 1)
    tokens = tokenizer.encode(images)
    plain = textbook(latents.reshape(-1, latents.shape[-1]), codewords).view(tokens.shape)
    if float((plain == tokens).float().mean()) < 0.999:
        raise RuntimeError("encode gives other tokens than the textbook's formula on the encoder's latents")
    latent = codewords[tokens].permute(0, 3, 1, 2).contiguous()
    if not torch.allclose(tokenizer.decode(tokens), tokenizer.decoder(latent), atol=1e-5):
        raise RuntimeError("decode gives other pixels than the decoder on the tokens' codewords")
    works = {
        "encoder": lambda: tokenizer.encoder(images),
        "encode": lambda: tokenizer.encode(images),
        "decoder": lambda: tokenizer.decoder(latent),
        "decode": lambda: tokenizer.decode(tokens),
    }
    taken = medians(works, settings.turns(9), settings.clock)
    of = f"paper network, one image of {side}×{side}"
    return [
        Row(f"encode, {of}: time", "bare encoder", taken["encode"] / taken["encoder"], "≤ 1.1", taken),
        Row(f"decode, {of}: time", "bare decoder", taken["decode"] / taken["decoder"], "≤ 1.1", taken),
    ]
