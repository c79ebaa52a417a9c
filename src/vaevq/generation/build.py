"""The network of a configuration."""

from vaevq.config.generation import AnyNetworkConfig, AutoregressiveConfig, TokensConfig
from vaevq.generation.autoregressive import Autoregressive
from vaevq.generation.masked import Masked
from vaevq.generation.network import GeneratorNetwork


def build_network(config: AnyNetworkConfig, tokens: TokensConfig) -> GeneratorNetwork:
    """A network with random weights."""
    if isinstance(config, AutoregressiveConfig):
        return Autoregressive(config, tokens)
    return Masked(config, tokens)
