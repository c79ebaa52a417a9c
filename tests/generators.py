"""What the tests of generators share: small networks, tokens, and a tokenizer they belong to."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runs import place
from vaevq.config import AutoencoderConfig, PlainConfig, TokenizerConfig
from vaevq.config.generation import GENERATORS, GeneratorConfig, GeneratorRunConfig, LatentsConfig, TokensConfig
from vaevq.config.section import merged
from vaevq.data.entries import ImageIndex
from vaevq.data.entry import ImageEntry
from vaevq.data.token_set import token_batches
from vaevq.data.token_shards import TOKENIZER_FOLDER, ShardPlan, claim_folder, shard_path
from vaevq.data.tokens import TokenFile, read_token_file, write_token_file
from vaevq.data.views import Views
from vaevq.distributed import rank, world_size
from vaevq.generation.build import build_network
from vaevq.generation.generator import Generator
from vaevq.generation.token_network import TokenNetwork
from vaevq.tokenizer import Tokenizer
from vaevq.training.generator_loop import RunTokens, model_config, run_tokens
from vaevq.training.generator_step import GeneratorTrainer
from vaevq.training.latents import measured_latents

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
) -> TokenNetwork:
    """A network whose every weight is random, the logits' too, in evaluation mode."""
    config = generator_config(kind, network, **parts)
    torch.manual_seed(0)
    made = build_network(config.network, config.tokens).to(dtype).eval()
    assert isinstance(made, TokenNetwork)
    torch.nn.init.normal_(made.transformer.head, std=0.4)
    for name, parameter in made.named_parameters():
        if "projection" in name or "gate" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def write_generator(tokenizer: Path, run_dir: Path, kind: str = "ar", network: dict[str, Any] | None = None) -> None:
    """A run folder with a generator of the tokens of a tokenizer, of 8×8 positions in ten classes."""
    model = Tokenizer.from_pretrained(tokenizer)
    tokens = tokens_config(
        codebook_size=model.quantizer.codebook_size,
        grid=(8, 8),
        image_size=(8 * model.downsample_factor,) * 2,
        tokenizer_digest=model.digest,
        class_count=10,
        classes=("dog", "cat", *"abcdefgh"),
    )
    latents = LatentsConfig(source="codewords", channels=model.quantizer.code_dim, mean=0.0, std=1.0)
    shape = GENERATORS[kind].model_validate({"size": "tiny", "dropout": 0.0, **(network or {})})
    config = GeneratorConfig(network=shape, tokens=tokens, latents=latents if shape.of_latents else None)
    Generator(config, model).save_pretrained(run_dir / "model")


def random_tokens(network: TokenNetwork, count: int) -> Tensor:
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


def latent_tokenizer(seed: int = 0) -> Tokenizer:
    """An untrained tokenizer at f = 2 of 11 codewords in four channels."""
    torch.manual_seed(seed)
    shape = AutoencoderConfig(base_width=8, multipliers=(1, 1), blocks=1)
    return Tokenizer(TokenizerConfig(autoencoder=shape, quantizer=PlainConfig(code_dim=4, codebook_size=K))).eval()


def write_latent_shards(folder: Path, count: int = 24, *, continuous: bool = False) -> Path:
    """`write_tokens` as a folder of one shard with `latent_tokenizer` beside it, if so with latents near codewords."""
    tokenizer, whole = latent_tokenizer(), write_tokens(folder.with_suffix(".safetensors"), count)
    file = dataclasses.replace(read_token_file(whole), model_digest=tokenizer.digest)
    if continuous:
        found = [tokenizer.lookup(torch.from_numpy(grid)[None])[0].detach().half().numpy() for grid in file.tokens]
        file = dataclasses.replace(file, latents=tuple(latent * np.float16(0.97) for latent in found))
    entries = tuple(ImageEntry(name, 0, "") for name in file.names)
    index = ImageIndex("images", entries, ("a", "b", "c"))
    claim_folder(folder, ShardPlan.of(index, tokenizer.digest, count, Views(), latents=continuous), force=False)
    write_token_file(shard_path(folder, 0), file)
    tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    return folder


def generator_trainer(config: GeneratorRunConfig) -> tuple[GeneratorTrainer, RunTokens]:
    """As a run makes it of its tokens, on `place`."""
    tokens, tokenizer, latents = run_tokens(config), None, None
    if config.network.of_latents:
        assert tokens.train.tokenizer is not None
        tokenizer = Tokenizer.from_pretrained(tokens.train.tokenizer)
        latents = measured_latents(tokens.train, tokens.train_items, tokenizer)
    trainer = GeneratorTrainer(config, model_config(config, tokens.train, latents), place(config.train))
    if tokenizer is not None:
        trainer.averaged.take_tokenizer(tokenizer)
    return trainer, tokens


def trained_generator(config: GeneratorRunConfig, steps: int) -> tuple[GeneratorTrainer, list[dict[str, float]]]:
    """A trainer after some steps, and this process's loss terms of each."""
    trainer, tokens = generator_trainer(config)
    train = config.train
    batches = token_batches(
        *(tokens.train, tokens.train_items),
        seed=config.seed,
        start=0,
        stop=steps * train.batch_size,
        batch_size=train.batch_size // train.accumulation,
        rank=rank(),
        world_size=world_size(),
    )
    return trainer, [dict(trainer.step([next(batches) for _ in range(train.accumulation)])) for _ in range(steps)]


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
