"""Latent diffusion: its formulas, what it learns by heart, samples that know no batch, and the command end to end."""

import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from generators import (
    generator_trainer,
    small_generator_run,
    tokens_config,
    trained_generator,
    write_latent_shards,
)
from runs import last_checkpoint, metrics, vaevq
from vaevq.config import GeneratorRunConfig, LatentsConfig, load_generator_config
from vaevq.config.diffusion import DiffusionConfig
from vaevq.config.quantizers import QUANTIZERS
from vaevq.data.token_set import read_token_set
from vaevq.errors import UserError
from vaevq.generation.build import build_network
from vaevq.generation.diffusion import Diffusion
from vaevq.generation.generator import Generator
from vaevq.generation.sampling import SamplingOptions
from vaevq.quantization.build import build_quantizer
from vaevq.quantization.posterior import Posterior
from vaevq.training.generator_loop import train_generator

SHAPE: dict[str, Any] = {"widths": [16], "attention": [True], "head_width": 16}


def network(**options: Any) -> Diffusion:
    """A small one for latents of 4×2×4 in five classes, whose every weight is random."""
    config = DiffusionConfig.model_validate({"size": "tiny", **SHAPE, **options})
    torch.manual_seed(0)
    latents = LatentsConfig(source="codewords", channels=4, mean=0.0, std=1.0)
    made = build_network(config, tokens_config(grid=(2, 4), image_size=(4, 8)), latents).double().eval()
    assert isinstance(made, Diffusion)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def run(tokens: Path, **sections: Any) -> GeneratorRunConfig:
    return small_generator_run(tokens, "diffusion", **{"network": SHAPE, **sections})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latent_shards(tmp_path_factory.mktemp("shards") / "tokens", continuous=True)


SCHEDULES = {
    "linear": lambda t: 0.0015 + (0.0195 - 0.0015) * t / 999,
    "scaled_linear": lambda t: (0.0015**0.5 + (0.0195**0.5 - 0.0015**0.5) * t / 999) ** 2,
    "cosine": lambda t: np.minimum(
        1
        - np.cos(((t + 1) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        / np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2,
        0.999,
    ),
}


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [*itertools.product(SCHEDULES, ["v"]), ("linear", "epsilon"), ("scaled_linear", "epsilon")],
)
def test_losses_are_those_of_the_formulas(prediction: str, schedule: str) -> None:
    made = network(prediction=prediction, noise_schedule=schedule)
    kept = np.cumprod(1 - SCHEDULES[schedule](np.arange(1000.0)))
    draw = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    steps, labels = torch.tensor([0, 400, 999]), torch.tensor([0, 5, 2])
    with torch.no_grad():
        found = made.errors(latents, labels, steps, noise)
        for i, t in enumerate(steps.tolist()):
            alpha, sigma = kept[t] ** 0.5, (1 - kept[t]) ** 0.5
            noisy = alpha * latents[i] + sigma * noise[i]
            predicted = made.unet(noisy[None], steps[i : i + 1], labels[i : i + 1])[0]
            of_noise = alpha * predicted + sigma * noisy if prediction == "v" else predicted
            error = float((of_noise - noise[i]).square().mean())
            assert error == pytest.approx(float(found[i]) * (alpha**2 if prediction == "v" else 1), rel=2e-4, abs=1e-9)


def test_without_signal_at_the_last_step_v_is_the_latent() -> None:
    made = network(prediction="v", zero_terminal_snr=True)
    assert (float(made.alpha[-1]), float(made.sigma[-1])) == (0, 1)
    assert made.sample(torch.tensor([1]), range(1), SamplingOptions(steps=3), seed=0).isfinite().all()


@pytest.mark.parametrize("options", [SamplingOptions(steps=3), SamplingOptions(steps=4, sampler="dpm++", guidance=2.0)])
def test_a_sample_depends_on_seed_number_and_label_alone(options: SamplingOptions) -> None:
    made, labels = network(), torch.tensor([0, 3, 4, 5, 1])
    whole = made.sample(labels, range(5), options, seed=7)
    parts = [made.sample(labels[n : n + 2], range(n, min(n + 2, 5)), options, seed=7) for n in (0, 2, 4)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-9)
    assert not torch.allclose(made.sample(labels.roll(1), range(5), options, seed=7), whole, atol=1e-3)
    assert not torch.allclose(made.sample(labels, range(5), options, seed=8), whole, atol=1e-3)


def test_held_out_figures_add_up_over_any_parts_and_are_the_same_again() -> None:
    made = network(prediction="v")
    latents, labels = torch.randn(6, 4, 2, 4, dtype=torch.float64), torch.arange(6) % 5
    places = torch.arange(6)
    with torch.no_grad():
        whole = made.held_out(latents, labels, places)
        parts = made.held_out(latents[:2], labels[:2], places[:2]) + made.held_out(latents[2:], labels[2:], places[2:])
    figures = made.figures(whole)
    assert figures == pytest.approx(made.figures(parts), rel=1e-9)
    assert figures.keys() == {"loss", "noise_error"}
    assert figures["noise_error"] < figures["loss"]


def test_a_few_images_learned_by_heart_come_back_as_their_tokens(tmp_path: Path) -> None:
    tokens = write_latent_shards(tmp_path / "t", 3)  # one image of each class, one of them held out
    train = {"learning_rate": 0.003, "batch_size": 16, "ema_decay": 0.98}
    shape = {"widths": [64], "head_width": 64, "prediction": "v", "noise_schedule": "cosine"}
    config = run(tokens, train=train, network={**SHAPE, **shape}, data={"held_out_share": 0.3})
    trainer, _ = trained_generator(config, 200)
    both = read_token_set(tokens)
    train_items, _ = both.split(0.3, config.seed)
    assert both.labels is not None
    labels = both.labels[train_items].tolist()
    for sampler in ("ddim", "dpm++"):
        options = SamplingOptions(sampler=sampler, steps=20)
        made = next(trainer.averaged.samples(8, labels=labels, options=options, seed=5)).tokens
        expected = torch.from_numpy(both.tokens[train_items].astype(np.int64)).repeat(4, 1, 1)
        assert float((made == expected).float().mean()) > 0.97, sampler


def test_micro_batches_and_checkpointed_gradients_learn_what_a_whole_batch_learns(shards: Path) -> None:
    exact = {"precision": "float64"}
    whole = trained_generator(run(shards, train=exact), 3)[0].network.state_dict()
    for changed in ({"accumulation": 4}, {"gradient_checkpointing": True}):
        others = trained_generator(run(shards, train={**exact, **changed}), 3)[0].network.state_dict()
        assert max(float((whole[name] - others[name]).abs().max()) for name in whole) < 1e-10


def test_a_run_that_goes_on_is_the_uninterrupted_one(shards: Path, tmp_path: Path) -> None:
    whole = train_generator(run(shards), tmp_path / "whole", quiet=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again/checkpoints/000000000020.pt").unlink()
    again = train_generator(run(shards), tmp_path / "again", quiet=True)
    one, other = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "again")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics(tmp_path / "again") == metrics(tmp_path / "whole")
    assert again.figures == whole.figures
    assert whole.figures.keys() == {"loss", "noise_error"}
    assert whole.generator.config.latents is not None
    assert whole.generator.config.latents.source == "continuous"
    saved, options = Generator.from_pretrained(tmp_path / "whole"), SamplingOptions(steps=2)
    assert torch.equal(
        next(saved.samples(3, options=options)).tokens, next(again.generator.samples(3, options=options)).tokens
    )


def test_what_is_learned_from_has_mean_0_and_variance_1(shards: Path) -> None:
    for source in ("codewords", "continuous"):
        trainer, tokens = generator_trainer(run(shards, data={"latents": source}))
        batch = tokens.train.batch(tokens.train_items, tokens.train_items)
        content = trainer.prepared(batch)[0]
        assert content.shape == (19, 4, 2, 3)
        assert float(content.mean()) == pytest.approx(0, abs=1e-3)
        assert float(content.std(correction=0)) == pytest.approx(1, abs=1e-3)
        # What it would make if it made these, is their tokens.
        assert torch.equal(trainer.averaged._tokens(content), batch.tokens)


def test_an_unconditional_one_knows_no_label(shards: Path) -> None:
    trainer, _ = trained_generator(run(shards, network={**SHAPE, "conditional": False}), 1)
    assert trainer.network.no_label == 0
    assert next(trainer.averaged.samples(2, options=SamplingOptions(steps=2))).labels is None


@pytest.mark.parametrize("kind", sorted(set(QUANTIZERS) - {"vqgan_lc"}))
def test_the_nearest_tokens_of_looked_up_latents_are_those_tokens(kind: str) -> None:
    torch.manual_seed(0)
    size = {"code_dim": 4, "codebook_size": 16}
    quantizer = build_quantizer(QUANTIZERS[kind].model_validate(size)).eval()
    q = quantizer.codes_per_position
    for name, parameter in quantizer.named_parameters():
        if "recover" in name:
            torch.nn.init.normal_(parameter)
    tokens = torch.randint(16, (2, 3, 5) if q == 1 else (2, 3, 5, q))
    latents = quantizer.lookup(tokens).detach()
    again = quantizer.lookup(quantizer.nearest(latents + 1e-6)).detach()
    if kind == "residual":  # its search is greedy
        assert quantizer.nearest(latents).shape == tokens.shape
        return
    assert torch.allclose(again, latents, atol=1e-6)
    if kind != "gaussian":
        assert torch.equal(quantizer.encode(Posterior(latents)), quantizer.encode(Posterior(latents, latents)))


def test_tokens_of_continuous_latents_are_those_that_were_written(tmp_path: Path, finished: Path, photos: Path) -> None:
    folder = tmp_path / "classes/a"
    shutil.copytree(photos, folder)
    words = ("encode", tmp_path / "classes", "-m", finished, "-o", tmp_path / "t", "--shard-size", 20, "--crop", 32)
    assert vaevq(*words, "--latents").code == 0
    with safe_open(tmp_path / "t/shard-00000.safetensors", framework="np") as opened:
        assert opened.metadata()["format_version"] == "2"
        assert opened.get_tensor("latents").shape == (
            opened.get_tensor("tokens").size,
            opened.get_tensor("latents").shape[1],
        )
    refused = vaevq(*words)
    assert refused.code == 2
    assert "holds tokens made otherwise (latents: True there, False here)" in refused.err
    tokens = read_token_set(tmp_path / "t", latents="continuous")
    assert tokens.latents is not None
    tree = ["network.size=tiny", "train.images=8", "train.batch_size=4", "train.warmup_images=0", "--device", "cpu"]
    made = vaevq(
        "generate", "train", "--kind", "diffusion", *tree, "--tokens", tmp_path / "t", "--run-dir", tmp_path / "r"
    )
    assert made.code == 0, made.err
    assert "noise_error" in made.out
    generator = Generator.from_pretrained(tmp_path / "r")
    found = generator.tokenizer.quantize(torch.from_numpy(tokens.latents).float())
    assert float((found.numpy() == tokens.tokens).mean()) > 0.99, "float16 may move a few across a border"
    sample = (
        "generate",
        "sample",
        tmp_path / "r",
        "-o",
        tmp_path / "s",
        "--count",
        3,
        "--device",
        "cpu",
        "--label",
        "a",
    )
    done = vaevq(*sample, "--sampler", "dpm++", "--steps", 3, "--guidance", 1.5)
    assert done.code == 0, done.err
    assert len(list((tmp_path / "s/images").glob("*.png"))) == 3
    for words, message in {
        ("--complete", next(folder.iterdir())): "a generator of kind diffusion completes nothing",
        ("--top-k", 3): "top_k has no effect on a generator of kind diffusion: it frees whole latents from noise",
        ("--steps", 1001): "steps must be at most 1000, the noise steps",
        (
            "--steps",
            60,
        ): "steps of sampler ddim must divide the 1000 noise steps that this generator has learned, like 40 or 50",
        ("--sampler", "ddmp"): "there is no sampler 'ddmp': ddim, dpm++",
        ("--compile",): "compiling has no effect on a generator of kind diffusion",
    }.items():
        outcome = vaevq(*sample, *words, "--force")
        assert outcome.code == 2
        assert message in outcome.err
    inspected = vaevq("inspect", tmp_path / "r")
    assert inspected.code == 0, inspected.err
    assert "continuous, " in inspected.out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.label_smoothing=0.1"], "train.label_smoothing has no effect where network.kind is diffusion"),
        (["network.kind=ar", "data.latents=continuous"], "data.latents has no effect unless network.kind is diffusion"),
        (["network.beta_start=0.001"], "network.beta_start has no effect where network.noise_schedule is cosine"),
        (
            ["network.noise_schedule=linear", "network.prediction=epsilon", "network.zero_terminal_snr=true"],
            "zero_terminal_snr needs prediction v",
        ),
        (["network.prediction=epsilon"], "noise_schedule cosine needs prediction v"),
        (["network.noise_schedule=linear", "network.noise_steps=20"], "a share of 0.90 of the latents is left"),
        (["network.widths=[64]"], "attention is said of 2 levels, widths of 1"),
        (["network.widths=[60,64]"], "width 60 is no multiple of 8"),
        (["network.layers=3"], "network.layers: unknown option"),
        (["network.size=B"], "network.size: input should be 'tiny', 'small' or 'ldm-4'"),
        (["network.conditional=false", "network.context_width=8"], "network.context_width has no effect"),
    ],
)
def test_options_that_cannot_be_or_do_nothing_are_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    recipe = "cifar10" if "network.kind=ar" in overrides else "cifar10-ldm"
    with pytest.raises(UserError, match=message):
        load_generator_config(recipe, overrides)


def test_what_a_run_lacks_is_one_line(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(config: GeneratorRunConfig) -> str:
        with pytest.raises(UserError) as caught:
            train_generator(config, tmp_path / "run", quiet=True)
        return str(caught.value)

    plain = write_latent_shards(tmp_path / "plain")
    assert "no continuous latents beside the tokens; vaevq encode --latents" in refusal(
        run(plain, data={"latents": "continuous"})
    )
    assert "no continuous latents" in refusal(run(shards, data={"held_out": str(plain)}))
    assert "2 levels halve a grid 1 times, which 2×3 does not allow" in refusal(
        run(plain, network={"widths": [16, 16], "attention": [False, False], "head_width": 16})
    )
    shutil.rmtree(plain / "tokenizer")
    assert "no tokenizer lies beside these tokens, and kind diffusion" in refusal(run(plain))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert refusal(run(shards)).endswith('needs the library diffusers: pip install "vaevq[diffusion]"')


def test_ldm_4_has_as_many_parameters_as_the_papers() -> None:
    config = load_generator_config("ldm-4").network
    latents = LatentsConfig(source="continuous", channels=3, mean=0.0, std=1.0)
    tokens = tokens_config(codebook_size=8192, grid=(64, 64), image_size=(256, 256), class_count=1000)
    with torch.device("meta"):
        made = build_network(config, tokens, latents)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(400, abs=2)  # its table 12


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 100), ("ddim", 1000), ("dpm++", 20), ("dpm++", 70)])
def test_a_perfect_denoiser_gives_the_distribution_it_is_perfect_for(sampler: str, steps: int) -> None:
    """Of latents N(0, ¼): v = α σ (1 − ¼) x_t / (¼ α² + σ²)."""
    made = network(prediction="v", noise_schedule="cosine")

    def perfect(noisy: torch.Tensor, at: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (of[at.long()].to(noisy.dtype)[:, None, None, None] for of in (made.alpha, made.sigma))
        return alpha * sigma * 0.75 * noisy / (0.25 * alpha**2 + sigma**2)

    made.unet.forward = perfect  # type: ignore[method-assign]
    count = 256
    options = SamplingOptions(sampler=sampler, steps=steps)
    sample = made.sample(torch.full((count,), made.no_label), range(count), options, seed=0)
    assert float(sample.std()) == pytest.approx(0.5, rel=0.12)


def test_fewer_noise_steps_than_a_sampler_takes_by_itself() -> None:
    made = network(prediction="v", noise_schedule="cosine", noise_steps=30)
    assert [made.default_steps(sampler) for sampler in ("ddim", "dpm++")] == [30, 20]
    made = network(prediction="v", noise_schedule="cosine", noise_steps=64)
    assert made.default_steps("ddim") == 32
