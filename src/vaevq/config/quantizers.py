"""All kinds of quantizers."""

from typing import Annotated, get_args

from pydantic import Field

from vaevq.config.baselines import (
    EmaConfig,
    GaussianConfig,
    IbqConfig,
    MoVQConfig,
    PlainConfig,
    ResidualConfig,
    SimVQConfig,
    SoftVQConfig,
    VQBridgeConfig,
    VqganLcConfig,
    WassersteinConfig,
)
from vaevq.config.scalar import BsqConfig, FsqConfig, LfqConfig
from vaevq.config.variational import VariationalConfig

AnyQuantizerConfig = (
    VariationalConfig
    | PlainConfig
    | EmaConfig
    | SimVQConfig
    | IbqConfig
    | SoftVQConfig
    | WassersteinConfig
    | VQBridgeConfig
    | GaussianConfig
    | FsqConfig
    | LfqConfig
    | BsqConfig
    | ResidualConfig
    | MoVQConfig
    | VqganLcConfig
)
QuantizerConfig = Annotated[AnyQuantizerConfig, Field(discriminator="kind")]
QUANTIZERS: dict[str, type[AnyQuantizerConfig]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(AnyQuantizerConfig)
}
