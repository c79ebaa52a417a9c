"""Validated configuration: YAML and `key=value` in, JSON out, every mistake at once with its dotted path.

An option that is given and can do nothing beside the others (`vaevq.effect`) is a mistake too.

Every weight and every choice that the paper and the authors' released code make differently is a field here;
`variant: paper` and `variant: released` set them together, and a field that is given explicitly wins over both.
"""

from vaevq.config.adapt import AdaptConfig
from vaevq.config.baselines import (
    FEATURE_DIMS,
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
from vaevq.config.generation import (
    GENERATORS,
    GenerationEvalConfig,
    GeneratorConfig,
    GeneratorRunConfig,
    GeneratorTrainConfig,
    LatentsConfig,
    TokensConfig,
    TransformerConfig,
)
from vaevq.config.layers import idle, laid, without_effect
from vaevq.config.model import AutoencoderConfig, Normalization, TokenizerConfig
from vaevq.config.quantizers import QUANTIZERS, AnyQuantizerConfig, QuantizerConfig
from vaevq.config.reading import (
    RecipeKind,
    load_generator_config,
    load_run_config,
    load_section,
    read_json,
    read_yaml,
    recipe_names,
    recipe_tree,
    validate,
)
from vaevq.config.run import NO_SOFT_LATENT, DataConfig, EvalConfig, LossConfig, RunConfig, TrainConfig
from vaevq.config.scalar import BsqConfig, FsqConfig, LfqConfig
from vaevq.config.section import Reduction, Section, leaves, merged
from vaevq.config.shapes import QUANTIZE_FROM, CodebookShape, PointGradient
from vaevq.config.variants import VARIANTS, spelled_out
from vaevq.config.variational import VariationalConfig
from vaevq.config.volumes import Axis, VolumesConfig

__all__ = [
    "FEATURE_DIMS",
    "GENERATORS",
    "NO_SOFT_LATENT",
    "QUANTIZERS",
    "QUANTIZE_FROM",
    "VARIANTS",
    "AdaptConfig",
    "AnyQuantizerConfig",
    "AutoencoderConfig",
    "Axis",
    "BsqConfig",
    "CodebookShape",
    "DataConfig",
    "EmaConfig",
    "EvalConfig",
    "FsqConfig",
    "GaussianConfig",
    "GenerationEvalConfig",
    "GeneratorConfig",
    "GeneratorRunConfig",
    "GeneratorTrainConfig",
    "IbqConfig",
    "LatentsConfig",
    "LfqConfig",
    "LossConfig",
    "MoVQConfig",
    "Normalization",
    "PlainConfig",
    "PointGradient",
    "QuantizerConfig",
    "RecipeKind",
    "Reduction",
    "ResidualConfig",
    "RunConfig",
    "Section",
    "SimVQConfig",
    "SoftVQConfig",
    "TokenizerConfig",
    "TokensConfig",
    "TrainConfig",
    "TransformerConfig",
    "VQBridgeConfig",
    "VariationalConfig",
    "VolumesConfig",
    "VqganLcConfig",
    "WassersteinConfig",
    "idle",
    "laid",
    "leaves",
    "load_generator_config",
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
