"""Validated configuration: YAML and `key=value` in, JSON out, every mistake at once with its dotted path.

An option that is given and can do nothing beside the others (`vaevq.effect`) is a mistake too.

Every weight and every choice that the paper and the authors' released code make differently is a field here;
`variant: paper` and `variant: released` set them together, and a field that is given explicitly wins over both.
"""

from vaevq.config.adapt import AdaptConfig
from vaevq.config.layers import laid, without_effect
from vaevq.config.model import AutoencoderConfig, Normalization, TokenizerConfig
from vaevq.config.quantizers import (
    FEATURE_DIMS,
    QUANTIZE_FROM,
    QUANTIZERS,
    AnyQuantizerConfig,
    BsqConfig,
    CodebookShape,
    EmaConfig,
    FsqConfig,
    GaussianConfig,
    IbqConfig,
    LfqConfig,
    MoVQConfig,
    PlainConfig,
    PointGradient,
    QuantizerConfig,
    ResidualConfig,
    SimVQConfig,
    SoftVQConfig,
    VariationalConfig,
    VQBridgeConfig,
    VqganLcConfig,
    WassersteinConfig,
)
from vaevq.config.reading import (
    load_run_config,
    load_section,
    read_json,
    read_yaml,
    recipe_names,
    recipe_tree,
    validate,
)
from vaevq.config.run import NO_SOFT_LATENT, DataConfig, EvalConfig, LossConfig, RunConfig, TrainConfig
from vaevq.config.section import Reduction, Section, leaves, merged
from vaevq.config.variants import VARIANTS, spelled_out

__all__ = [
    "FEATURE_DIMS",
    "NO_SOFT_LATENT",
    "QUANTIZERS",
    "QUANTIZE_FROM",
    "VARIANTS",
    "AdaptConfig",
    "AnyQuantizerConfig",
    "AutoencoderConfig",
    "BsqConfig",
    "CodebookShape",
    "DataConfig",
    "EmaConfig",
    "EvalConfig",
    "FsqConfig",
    "GaussianConfig",
    "IbqConfig",
    "LfqConfig",
    "LossConfig",
    "MoVQConfig",
    "Normalization",
    "PlainConfig",
    "PointGradient",
    "QuantizerConfig",
    "Reduction",
    "ResidualConfig",
    "RunConfig",
    "Section",
    "SimVQConfig",
    "SoftVQConfig",
    "TokenizerConfig",
    "TrainConfig",
    "VQBridgeConfig",
    "VariationalConfig",
    "VqganLcConfig",
    "WassersteinConfig",
    "laid",
    "leaves",
    "load_run_config",
    "load_section",
    "merged",
    "read_json",
    "read_yaml",
    "recipe_names",
    "recipe_tree",
    "spelled_out",
    "validate",
    "without_effect",
]
