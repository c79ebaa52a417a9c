"""A generator's run folder, what is in its log, who may continue it, and that it learns."""

import dataclasses
import hashlib
import json
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from generators import K, generator_trainer, small_generator_run, small_generator_tree, trained_generator, write_tokens
from runs import files_below, last_checkpoint, metrics, start_vaevq, vaevq, weights
from vaevq.config import GeneratorRunConfig, load_generator_config, read_json, recipe_names
from vaevq.data.token_set import read_token_set
from vaevq.data.tokens import read_token_file, write_token_file
from vaevq.errors import UserError
from vaevq.generation.generator import Generator
from vaevq.training import generator_loop
from vaevq.training.generator_loop import GeneratorResult, run_tokens, train_generator

KINDS = ["ar", "mask"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens") / "t.safetensors")


@pytest.fixture(scope="module", params=KINDS)
def result(request: pytest.FixtureRequest, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> GeneratorResult:
    """A finished run."""
    config = small_generator_run(tokens, request.param)
    return train_generator(config, tmp_path_factory.mktemp("finished") / "run", quiet=True)


def refusal(config: GeneratorRunConfig, run_dir: Path) -> str:
    with pytest.raises(UserError) as caught:
        train_generator(config, run_dir, quiet=True)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_run_folder_holds_what_the_run_was_and_gave(result: GeneratorResult, tokens: Path) -> None:
    folder, kind = result.run_dir, result.generator.config.network.kind
    assert files_below(folder) == {
        *("config.json", "environment.json", "tokens.json", "metrics.jsonl", "log.txt", "eval.json"),
        *("model/model.safetensors", "model/config.json", "model/README.md"),
        *("checkpoints/000000000016.pt", "checkpoints/000000000020.pt"),
    }
    assert read_json(GeneratorRunConfig, folder / "config.json") == small_generator_run(tokens, kind)
    about = json.loads((folder / "tokens.json").read_text())
    assert (about["train_items"], about["held_out_items"], len(about["held_out_names"])) == (19, 5, 5)
    weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((folder / "eval.json").read_text()) == {"figures": result.figures, "weights": weights}
    bits = "bits_per_token" if kind == "ar" else "bits_per_masked_token"
    assert result.figures.keys() == {"loss", bits}
    assert result.figures[bits] == pytest.approx(result.figures["loss"] / math.log(2))
    assert "there is no tokenizer beside the tokens" in (folder / "log.txt").read_text()


def test_the_log_has_every_interval(result: GeneratorResult) -> None:
    rows = metrics(result.run_dir)
    assert [row["images_seen"] for row in rows if row["split"] == "train"] == [4, 8, 12, 16, 20]
    assert [row["images_seen"] for row in rows if row["split"] == "held_out"] == [8, 16]
    assert {"loss/tokens", "learning_rate"} <= rows[0].keys()
    assert rows[0]["learning_rate"] == 0.003


def test_the_model_is_the_averaged_one_and_its_held_out_loss_is_that_of_its_code(result: GeneratorResult) -> None:
    checkpoint = torch.load(max((result.run_dir / "checkpoints").glob("*.pt")), weights_only=True)
    saved = weights(result.run_dir)
    assert all(torch.equal(saved[f"network.{name}"], value) for name, value in checkpoint["average"].items())
    assert any(not torch.equal(saved[f"network.{name}"], value) for name, value in checkpoint["network"].items())
    config = read_json(GeneratorRunConfig, result.run_dir / "config.json")
    both = run_tokens(config)
    batch = both.held_out.batch(both.held_out_items, torch.arange(5).numpy())
    network = Generator.from_pretrained(result.run_dir).network
    with torch.no_grad():
        length = network.code_length(batch.tokens.flatten(1), batch.labels, batch.positions)
    assert result.figures["loss"] == pytest.approx(float(length.nats) / length.tokens, rel=1e-5)


@pytest.mark.parametrize("codes", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_there_is_to_learn(tmp_path: Path, kind: str, codes: int | None) -> None:
    """A class has 4 of the 11 codewords: log 4 nats a token with its label, more without."""
    tokens = write_tokens(tmp_path / "t", 240, codes)
    train = {"images": 3200, "batch_size": 32, "evaluate_every": 4000, "checkpoint_every": 4000, "log_every": 800}
    config = small_generator_run(tokens, kind, train=train, network={"dropout": 0.0})
    learned = train_generator(config, tmp_path / "run", quiet=True)
    assert math.log(4) - 0.1 < learned.figures["loss"] < math.log(4) + 0.25
    assert learned.generator.config.tokens.codes_per_position == (codes or 1)
    sampled = next(learned.generator.samples(30, batch_size=30))
    assert sampled.labels is not None
    right = sum(
        int(t) in {(n + 2 * label) % K for n in range(4)}
        for grid, label in zip(sampled.tokens, sampled.labels.tolist(), strict=True)
        for t in grid.flatten()
    )
    assert right > 0.9 * sampled.tokens.numel()
    plain = small_generator_run(tokens, kind, train=train, network={"dropout": 0.0, "conditional": False})
    assert train_generator(plain, tmp_path / "plain", quiet=True).figures["loss"] > learned.figures["loss"] + 0.05


def test_a_finished_run_is_measured_again_without_training(
    result: GeneratorResult, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(generator_loop.GeneratorTrainer, "step", step)
    copied = Path(shutil.copytree(result.run_dir, tmp_path / "run"))
    config = small_generator_run(tokens, result.generator.config.network.kind)
    assert train_generator(config, copied, quiet=True).figures == result.figures


def test_a_run_of_another_configuration_or_kind_of_model_is_refused(
    result: GeneratorResult, tokens: Path, finished: Path
) -> None:
    kind = result.generator.config.network.kind
    message = refusal(small_generator_run(tokens, kind, train={"learning_rate": 0.1}), result.run_dir)
    assert message.endswith(
        "holds a run with another configuration (train.learning_rate: 0.003 there, 0.1 here); name another folder "
        "with --run-dir"
    )
    assert "config.json" in refusal(small_generator_run(tokens, kind), finished), "a tokenizer's run"


def test_a_run_does_not_go_on_with_other_tokens_that_lie_where_its_own_were(tmp_path: Path) -> None:
    config = small_generator_run(write_tokens(tmp_path / "t"))
    train_generator(config, tmp_path / "run", quiet=True)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("eval.json", "tokens.json")}
    file = read_token_file(tmp_path / "t")
    write_token_file(tmp_path / "t", dataclasses.replace(file, model_digest="f" * 16), force=True)
    assert refusal(config, tmp_path / "run").endswith(
        "run holds a run with other data (model_digest of tokens.json: '0123456789abcdef' there, 'ffffffffffffffff' "
        "here); name another folder with --run-dir"
    )
    write_tokens(tmp_path / "u", 30)
    shutil.copy(tmp_path / "u", tmp_path / "t")
    assert "train_items of tokens.json: 19 there, 24 here" in refusal(config, tmp_path / "run")
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    (tmp_path / "run" / "tokens.json").write_text("{")
    assert "tokens.json: damaged" in refusal(config, tmp_path / "run")


MISTAKES: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "no tokens": (lambda p: {"data": {"tokens": None}}, "data.tokens: name the tokens to learn from with --tokens"),
    "tokens that are not there": (lambda p: {"data": {"tokens": str(p / "x")}}, "x: no such file or folder"),
    "no labels": (
        lambda p: {"data": {"tokens": str(write_tokens(p / "plain", classes=None))}},
        "plain: tokens without labels; network.conditional=false makes do without them",
    ),
    "held-out tokens of another form": (
        lambda p: {"data": {"held_out": str(write_tokens(p / "two", codes=2))}},
        "are of different codes_per_position: 2, 1",
    ),
    "held-out tokens of more classes": (
        lambda p: {"data": {"held_out": str(write_tokens(p / "four", classes=4))}},
        "four: its labels are not those of",
    ),
    "shards for one process": (
        lambda p: {"train": {"parallel": "fsdp"}},
        "train.parallel: fsdp has no effect on one process: start several with torchrun",
    ),
    "a learning rate that diverges": (
        lambda p: {"train": {"learning_rate": 1e30, "images": 400}},
        "try a lower train.learning_rate; the last checkpoint is kept",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(tokens: Path, tmp_path: Path, mistake: str) -> None:
    change, expected = MISTAKES[mistake]
    assert expected in refusal(small_generator_run(tokens, **change(tmp_path)), tmp_path / "run")


def test_tokens_outside_the_codebook_are_refused_when_they_are_read(tokens: Path, tmp_path: Path) -> None:
    from test_tokens_file import rewritten

    shutil.copy(tokens, tmp_path / "t")
    rewritten(tmp_path / "t", codebook_size="4")
    message = refusal(small_generator_run(tmp_path / "t"), tmp_path / "run")
    assert "is outside the codebook of 4 codewords" in message


def test_an_unconditional_run_makes_do_without_labels(tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "t", classes=None)
    config = small_generator_run(tokens, network={"conditional": False})
    made = train_generator(config, tmp_path / "run", quiet=True).generator
    assert made.config.tokens.class_count == 0
    assert next(made.samples(2)).labels is None


def test_tokens_that_lie_apart_are_measured_whole(tokens: Path, tmp_path: Path) -> None:
    config = small_generator_run(tokens, data={"held_out": str(write_tokens(tmp_path / "others", 10))})
    both = run_tokens(config)
    assert (len(both.train_items), len(both.held_out_items)) == (24, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_learn_what_a_whole_batch_learns(tokens: Path, kind: str) -> None:
    """Without dropout, which is drawn for each of them."""

    def after_steps(accumulation: int) -> dict[str, Tensor]:
        config = small_generator_run(
            tokens, kind, train={"accumulation": accumulation, "precision": "float64"}, network={"dropout": 0.0}
        )
        return trained_generator(config, 3)[0].network.state_dict()

    whole, parts = after_steps(1), after_steps(4)
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-12


def test_matrices_decay_and_vectors_do_not(tokens: Path) -> None:
    trainer, _ = generator_trainer(small_generator_run(tokens, train={"weight_decay": 0.3}))
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    named = {name: decay[id(p)] for name, p in trainer.network.named_parameters()}
    assert len(named) == len(decay)
    assert {name for name, value in named.items() if value == 0} == {name for name in named if "norm" in name}


def test_bfloat16_is_autocast_and_the_weights_stay_float32(tokens: Path) -> None:
    half, whole = (
        trained_generator(small_generator_run(tokens, train={"precision": p}), 3)[0] for p in ("bfloat16", "float32")
    )
    assert {p.dtype for p in half.network.parameters()} == {torch.float32}
    difference = max(
        float((a - b).detach().abs().max())
        for a, b in zip(half.network.parameters(), whole.network.parameters(), strict=True)
    )
    assert 0 < difference < 0.05


RUN: dict[str, Any] = {"train": {"images": 240, "evaluate_every": 40, "checkpoint_every": 12, "warmup_images": 16}}


def recipe(folder: Path, tokens: Path, kind: str) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(small_generator_tree(tokens, kind, **RUN)))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_started_again_is_uninterrupted(tokens: Path, tmp_path: Path, kind: str) -> None:
    words = ("generate", "train", recipe(tmp_path, tokens, kind), "--quiet", "--run-dir")
    assert vaevq(*words, tmp_path / "whole").code == 0
    killed, log, chance = tmp_path / "killed", tmp_path / "log.txt", random.Random(os.urandom(8))
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = start_vaevq(*words, killed, log=log)
        before = sorted((killed / "checkpoints").glob("*.pt"))
        while process.is_alive() and sorted((killed / "checkpoints").glob("*.pt")) == before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        assert process.pid is not None
        if process.is_alive():
            os.kill(process.pid, number)
        process.join(60)
    assert "Traceback" not in log.read_text()
    outcome = vaevq(*words, killed)
    assert outcome.code == 0, outcome.err
    one, other = last_checkpoint(killed), last_checkpoint(tmp_path / "whole")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics(killed) == metrics(tmp_path / "whole")
    assert (killed / "eval.json").read_text() == (tmp_path / "whole" / "eval.json").read_text()
    assert files_below(killed) == files_below(tmp_path / "whole")


@pytest.mark.parametrize("name", recipe_names("generators"))
def test_recipes_are_valid_and_complete_when_written_out(name: str, tmp_path: Path) -> None:
    config = load_generator_config(name)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_generator_config(tmp_path / "again.yaml") == config
    assert config.train.images % config.train.batch_size < config.train.batch_size


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["network.conditional=false", "network.class_dropout=0.3"],
            "network.class_dropout has no effect where network.conditional is false",
        ),
        (["data.held_out=x", "data.held_out_share=0.5"], "data.held_out_share has no effect with data.held_out"),
        (["network.layer=3"], r"network.layer: unknown option \(did you mean 'layers'\?\)"),
        (["train.batch_size=6", "train.accumulation=4"], "batch_size 6 is no multiple of accumulation 4"),
        (["network.kind=gan"], "network.kind: there is no 'gan': ar, mask"),
    ],
)
def test_options_that_cannot_be_or_do_nothing_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_generator_config("cifar10", overrides)


def test_a_size_takes_the_place_of_the_recipes_shape() -> None:
    config = load_generator_config("maskgit", ["network.size=tiny", "network.heads=4"])
    assert (config.network.layers, config.network.heads, config.network.width) == (2, 4, 32)
    load_generator_config("llamagen-b", ["network.conditional=false"])


@pytest.mark.parametrize("size", ["b", "l", "xl"])
def test_llamagens_recipes_are_of_its_shapes(size: str) -> None:
    network = load_generator_config(f"llamagen-{size}").network
    shapes = {"b": (12, 12, 768), "l": (24, 16, 1024), "xl": (36, 20, 1280)}
    assert (network.layers, network.heads, network.width) == shapes[size]


def test_a_tokenizer_beside_the_tokens_is_saved_with_the_generator(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "classes" / "a"
    shutil.copytree(photos, folder)
    made = vaevq("encode", tmp_path / "classes", "-m", finished, "-o", tmp_path / "t", "--shard-size", 5, "--crop", 16)
    assert made.code == 0, made.err
    result = train_generator(small_generator_run(tmp_path / "t"), tmp_path / "run", quiet=True)
    assert result.generator.sample(2).shape == (2, 3, 16, 16)
    again = Generator.from_pretrained(tmp_path / "run")
    assert again.tokenizer.digest == read_token_set(tmp_path / "t").model_digest
    assert again.config.tokens.classes == ("a",)
    shutil.rmtree(tmp_path / "t" / "tokenizer")
    shutil.copytree(tmp_path / "run" / "model", tmp_path / "t" / "tokenizer")
    assert "tokenizer" in refusal(small_generator_run(tmp_path / "t"), tmp_path / "other")
