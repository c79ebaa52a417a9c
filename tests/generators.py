"""What the tests of generators share: small networks, tokens, and a tokenizer they belong to."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaevq.config.generation import GENERATORS, GeneratorConfig, GeneratorRunConfig, TokensConfig
from vaevq.config.section import merged
from vaevq.data.tokens import TokenFile, write_token_file
from vaevq.generation.build import build_network
from vaevq.generation.generator import Generator
from vaevq.generation.network import GeneratorNetwork
from vaevq.tokenizer import Tokenizer

K = 11


def tokens_config(**parts: Any) -> TokensConfig:
    """Grids of 3×4 tokens of 11 codewords in 5 classes."""
    whole = {
        "codebook_size": K,
        "grid": (3, 4),
        "image_size": (6, 8),
        "tokenizer_digest": "0123456789abcdef",
        "class_count": 5,
    }
    return TokensConfig.model_validate(whole | parts)


def generator_config(kind: str = "ar", network: dict[str, Any] | None = None, **parts: Any) -> GeneratorConfig:
    """A tiny network without dropout, for `tokens_config`."""
    given = {"size": "tiny", "dropout": 0.0, **(network or {})}
    return GeneratorConfig(network=GENERATORS[kind].model_validate(given), tokens=tokens_config(**parts))


def random_network(
    kind: str = "ar", network: dict[str, Any] | None = None, dtype: torch.dtype = torch.float64, **parts: Any
) -> GeneratorNetwork:
    """A network whose every weight is random, the logits' too, in evaluation mode."""
    config = generator_config(kind, network, **parts)
    torch.manual_seed(0)
    made = build_network(config.network, config.tokens).to(dtype).eval()
    torch.nn.init.normal_(made.transformer.head, std=0.4)
    for name, parameter in made.named_parameters():
        if "projection" in name or "gate" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def write_generator(tokenizer: Path, run_dir: Path) -> None:
    """A run folder with a generator of the tokens of a tokenizer, of 8×8 positions in ten classes."""
    model = Tokenizer.from_pretrained(tokenizer)
    config = generator_config(
        codebook_size=model.quantizer.codebook_size,
        grid=(8, 8),
        image_size=(8 * model.downsample_factor,) * 2,
        tokenizer_digest=model.digest,
        class_count=10,
        classes=("dog", "cat", *"abcdefgh"),
    )
    Generator(config, model).save_pretrained(run_dir / "model")


def random_tokens(network: GeneratorNetwork, count: int) -> Tensor:
    """Sequences that a network takes."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(network.transformer.codebook_size, (count, network.transformer.length), generator=draw)


def write_tokens(path: Path, count: int = 24, codes: int | None = None, classes: int | None = 3) -> Path:
    """A token file of grids of 2×3 codes that depend on the class, so that there is something to learn."""
    rng = np.random.default_rng(0)
    shape = (2, 3) if codes is None else (2, 3, codes)
    labels = [i % (classes or 1) for i in range(count)]
    file = TokenFile(
        tokens=tuple((rng.integers(0, 4, shape) + 2 * label) % K for label in labels),
        sizes=((4, 6),) * count,
        names=tuple(f"{i}.png" for i in range(count)),
        codebook_size=K,
        downsample_factor=2,
        model_digest="0123456789abcdef",
        labels=None if classes is None else tuple(labels),
    )
    write_token_file(path, file)
    return path


def small_generator_tree(tokens: Path, kind: str = "ar", **sections: Any) -> dict[str, Any]:
    """A run that takes a second: five steps of four images."""
    tree = {
        "seed": 3,
        "network": {"kind": kind, "size": "tiny"},
        "data": {"tokens": str(tokens), "held_out_share": 0.2},
        "train": {
            "images": 20,
            "batch_size": 4,
            "learning_rate": 0.003,
            "ema_decay": 0.9,
            "device": "cpu",
            "tensorboard": False,
            "log_every": 4,
            "evaluate_every": 8,
            "checkpoint_every": 8,
        },
    }
    return merged(tree, sections)


def small_generator_run(tokens: Path, kind: str = "ar", **sections: Any) -> GeneratorRunConfig:
    """`small_generator_tree` as a configuration."""
    return GeneratorRunConfig.model_validate(small_generator_tree(tokens, kind, **sections))
