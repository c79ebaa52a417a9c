"""The network of a configuration."""

from vaevq.config.diffusion import DiffusionConfig
from vaevq.config.generation import AnyNetworkConfig, AutoregressiveConfig, LatentsConfig, TokensConfig
from vaevq.generation.autoregressive import Autoregressive
from vaevq.generation.diffusion import Diffusion
from vaevq.generation.masked import Masked
from vaevq.generation.network import GeneratorNetwork


def build_network(
    config: AnyNetworkConfig, tokens: TokensConfig, latents: LatentsConfig | None = None
) -> GeneratorNetwork:
    """A network with random weights; `latents` are those of kind diffusion."""
    if isinstance(config, DiffusionConfig):
        assert latents is not None, "the configuration asks for them"
        return Diffusion(config, tokens, latents)
    if isinstance(config, AutoregressiveConfig):
        return Autoregressive(config, tokens)
    return Masked(config, tokens)
