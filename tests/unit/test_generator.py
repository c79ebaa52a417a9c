"""The generator as a user has it: saved and read again, its own tokenizer alone, labels, given rows, files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vaevq
from generators import generator_config
from runs import files_below
from vaevq.config import AutoencoderConfig, GeneratorConfig, PlainConfig, TokenizerConfig
from vaevq.data.images import to_uint8
from vaevq.errors import UserError
from vaevq.generation.generator import Generator
from vaevq.generation.sampling import SamplingOptions
from vaevq.generation.writing import grid, write_samples
from vaevq.tokenizer import Tokenizer

GUIDED = SamplingOptions(guidance=2.0, top_k=7)


def tokenizer(seed: int = 0, channels: int = 3) -> Tokenizer:
    torch.manual_seed(seed)
    shape = AutoencoderConfig(base_width=8, multipliers=(1, 1), blocks=1, image_channels=channels)
    return Tokenizer(TokenizerConfig(autoencoder=shape, quantizer=PlainConfig(code_dim=4, codebook_size=11))).eval()


def made(
    kind: str = "ar", model: Tokenizer | None = None, network: dict[str, Any] | None = None, **tokens: Any
) -> Generator:
    """A generator of a tokenizer's, with random weights."""
    model = model or tokenizer()
    config = generator_config(kind, network, tokenizer_digest=model.digest, **tokens)
    torch.manual_seed(1)
    generator = Generator(config, model).eval()
    torch.nn.init.normal_(generator.network.transformer.head, std=0.4)
    return generator


@pytest.mark.parametrize("kind", ["ar", "mask"])
@pytest.mark.parametrize("beside", [True, False])
def test_saved_and_read_again_it_makes_the_same_images(tmp_path: Path, kind: str, beside: bool) -> None:
    generator = made(kind)
    generator.save_pretrained(tmp_path / "run" / "model")
    names = files_below(tmp_path / "run" / "model")
    assert names >= {"model.safetensors", "config.json", "tokenizer/model.safetensors", "tokenizer/config.json"}
    assert not [name for name in load_file(tmp_path / "run/model/model.safetensors") if "tokenizer" in name]
    if not beside:
        shutil.move(tmp_path / "run/model/tokenizer", tmp_path / "elsewhere")
    place = None if beside else tmp_path / "elsewhere"
    again = vaevq.Generator.from_pretrained(tmp_path / "run", tokenizer=place)
    assert not again.training
    assert again.config == generator.config
    images = generator.sample(3, labels=[0, 4], seed=3, options=GUIDED)
    assert images.shape == (3, 3, 6, 8)
    others = again.sample(3, labels=[0, 4], seed=3, options=GUIDED, batch_size=2)
    assert torch.allclose(others, images, atol=1e-5)


def test_images_are_the_decoded_tokens_and_labels_are_taken_in_turn() -> None:
    generator = made(classes=("cat", "dog", "frog", "horse", "7"))
    whole = list(generator.samples(5, labels=["dog", 3], seed=1, batch_size=5))
    parts = list(generator.samples(5, labels=["dog", 3], seed=1, batch_size=2))
    assert [list(part.numbers) for part in parts] == [[0, 1], [2, 3], [4]]
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole[0].tokens)
    assert whole[0].labels is not None
    assert whole[0].labels.tolist() == [1, 3, 1, 3, 1]
    assert torch.equal(generator.sample(5, labels=[1, 3], seed=1), generator.tokenizer.decode(whole[0].tokens, (6, 8)))
    everything = next(generator.samples(7, seed=1))
    assert everything.labels is not None
    assert everything.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    named = next(generator.samples(1, labels=["7"]))
    assert named.labels is not None
    assert named.labels.tolist() == [4], "a name goes before a number"


def test_codes_of_a_position_come_back_as_their_own_axis() -> None:
    generator = Generator(generator_config(codes_per_position=2))
    tokens = next(generator.samples(2)).tokens
    assert tokens.shape == (2, 3, 4, 2)
    start = tokens[0, :2]
    completed = next(generator.samples(2, seed=9, given=start)).tokens
    assert torch.equal(completed[:, :2], start.expand(2, -1, -1, -1))


@pytest.mark.parametrize("kind", ["ar", "mask"])
def test_an_image_is_completed_below_its_given_rows(kind: str) -> None:
    generator = made(kind)
    start = torch.randint(11, (2, 4), generator=torch.Generator().manual_seed(0))
    tokens = next(generator.samples(6, seed=9, given=start)).tokens
    assert torch.equal(tokens[:, :2], start.expand(6, -1, -1))
    assert len(tokens[:, 2].unique(dim=0)) > 1


def test_another_tokenizer_is_refused_and_both_are_named(tmp_path: Path) -> None:
    generator, other = made(), tokenizer(seed=5)
    expected = f"this generator makes tokens of tokenizer {tokenizer().digest}, not of {other.digest}"
    with pytest.raises(UserError, match=expected):
        generator.take_tokenizer(other)
    generator.save_pretrained(tmp_path / "generator")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=expected):
        Generator.from_pretrained(tmp_path / "generator", tokenizer=tmp_path / "other")
    shutil.rmtree(tmp_path / "generator" / "tokenizer")
    shutil.copytree(tmp_path / "other", tmp_path / "generator" / "tokenizer")
    with pytest.raises(UserError, match=expected):
        Generator.from_pretrained(tmp_path / "generator")


def test_without_its_tokenizer_it_makes_tokens_but_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(generator_config())
    assert next(generator.samples(2)).tokens.shape == (2, 3, 4)
    monkeypatch.setattr(generator.network, "sample", lambda *_, **options: pytest.fail("sampled in vain"))
    with pytest.raises(UserError, match=r"saved without its tokenizer 0123456789abcdef, which decoding needs: name it"):
        generator.sample(2)


UNCONDITIONAL: dict[str, Any] = {"network": {"conditional": False}, "class_count": 0}


@pytest.mark.parametrize(
    ("parts", "asked", "message"),
    [
        ({}, {"labels": [5]}, "label 5 is out of range: this generator knows 5 classes, 0 to 4"),
        ({}, {"labels": [-1]}, "label -1 is out of range"),
        ({}, {"labels": ["cat"]}, "knows no class 'cat': it knows the numbers 0 to 4"),
        ({"classes": ("cat", "dog", "a", "b", "c")}, {"labels": ["cta"]}, r"no class 'cta' \(did you mean 'cat'\?\)"),
        ({}, {"labels": []}, "name at least one label"),
        ({}, {"count": 0}, "count and batch size must be at least 1, not 0 and 16"),
        (UNCONDITIONAL, {"labels": [0]}, "labels have no effect on an unconditional generator"),
        (UNCONDITIONAL, {"options": GUIDED}, "guidance has no effect on an unconditional generator"),
        ({"network": {"class_dropout": 0}}, {"options": GUIDED}, "trained with network.class_dropout above 0"),
        ({}, {"options": SamplingOptions(steps=3)}, "steps has no effect on a generator of kind ar"),
        ({}, {"options": SamplingOptions(choice_temperature=3)}, "choice_temperature has no effect on a generator of"),
        ({}, {"given": torch.zeros(2, 3, dtype=torch.int64)}, "the upper rows of a grid 3×4, not 2×3"),
        ({}, {"given": torch.zeros(4, 4, dtype=torch.int64)}, "the upper rows of a grid 3×4, not 4×4"),
        ({}, {"given": torch.zeros(2, 4)}, "the upper rows of a grid 3×4"),
        ({}, {"given": torch.full((2, 4), 11)}, r"given tokens must be in \[0, 11\)"),
    ],
)
def test_what_a_generator_has_not_is_one_line_before_anything_is_made(
    parts: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(**parts).samples(**asked)
    assert "\n" not in str(caught.value)


def test_a_compiled_step_makes_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's own backend for tests: what a compiler for a device makes of the graph is not ours."""
    before, made_of = torch.compile, []

    def compile_simply(step: Any, **options: Any) -> Any:
        made_of.append(options)
        return before(step, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_simply)
    plain, compiled = made(), made()
    compiled.compile_step()
    expected = [part.tokens for part in plain.samples(5, options=GUIDED, batch_size=3)]
    found = [part.tokens for part in compiled.samples(5, options=GUIDED, batch_size=3)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert made_of == [{"fullgraph": True, "dynamic": False}] * 2


def test_a_masked_generator_cannot_be_compiled() -> None:
    with pytest.raises(UserError, match="compiling has no effect on a generator of kind mask"):
        made("mask").compile_step()


def test_damaged_and_foreign_folders_are_named(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path / "g")
    tokenizer().save_pretrained(tmp_path / "t")
    for folder, message in (
        (tmp_path / "t", "t: a tokenizer, not a generator; vaevq generate train makes one"),
        (tmp_path, "neither a saved generator nor a run that has come to its first checkpoint"),
        (tmp_path / "nowhere", "nowhere: no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            Generator.from_pretrained(folder)
    with pytest.raises(UserError, match="g: a generator, not a tokenizer; its own, if saved with it, is in"):
        Tokenizer.from_pretrained(tmp_path / "g")
    with pytest.raises(UserError, match="nowhere: no such folder, and no hub name"):
        Generator.from_pretrained("nowhere")
    weights = load_file(tmp_path / "g/model.safetensors")
    save_file({name: value for name, value in weights.items() if "head" not in name}, tmp_path / "g/model.safetensors")
    with pytest.raises(UserError, match=r"weights do not belong to .*config.json: Missing key"):
        Generator.from_pretrained(tmp_path / "g")
    (tmp_path / "g/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="damaged, or no safetensors file"):
        Generator.from_pretrained(tmp_path / "g")
    tree = json.loads((tmp_path / "g/config.json").read_text())
    (tmp_path / "g/config.json").write_text(json.dumps(tree | {"extra": 1}))
    with pytest.raises(UserError, match="extra: unknown option"):
        Generator.from_pretrained(tmp_path / "g")
    assert GeneratorConfig.model_validate(tree).network.kind == "ar"


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_written_as_pictures_a_grid_and_an_archive(tmp_path: Path, channels: int) -> None:
    generator = made(model=tokenizer(channels=channels))
    samples = generator.samples(7, labels=[2, 0], seed=4, batch_size=3)
    write_samples(generator, samples, 7, tmp_path, {"seed": 4})
    expected = to_uint8(generator.sample(7, labels=[2, 0], seed=4)).permute(0, 2, 3, 1).numpy()
    archive = np.load(tmp_path / "samples.npz")
    assert archive.files == ["arr_0", "arr_1"]
    assert archive["arr_0"].dtype == np.uint8
    assert np.array_equal(archive["arr_0"], expected)
    assert archive["arr_1"].tolist() == [2, 0, 2, 0, 2, 0, 2]
    names = {f"images/{i:06d}.png" for i in range(7)}
    assert files_below(tmp_path) == {*names, "grid.png", "samples.npz", "samples.json"}
    for i in range(7):
        picture = np.asarray(Image.open(tmp_path / f"images/{i:06d}.png")).reshape(6, 8, channels)
        assert np.array_equal(picture, expected[i])
    whole = np.asarray(Image.open(tmp_path / "grid.png")).reshape(3 * 6 + 4, 3 * 8 + 4, channels)
    assert np.array_equal(whole[8:14, 10:18], expected[4]), "the fifth picture stands in the middle"
    assert json.loads((tmp_path / "samples.json").read_text()) == {"seed": 4}


def test_samples_are_overwritten_by_force_alone_and_none_of_the_old_ones_stays(tmp_path: Path) -> None:
    generator = made(network={"conditional": False}, class_count=0)
    write_samples(generator, generator.samples(5), 5, tmp_path, {})
    assert np.load(tmp_path / "samples.npz").files == ["arr_0"], "there are no labels"
    with pytest.raises(UserError, match="already there; --force overwrites"):
        write_samples(generator, generator.samples(2), 2, tmp_path, {})
    for mine in ("mine.png", "2024-mine.png"):
        (tmp_path / "images" / mine).write_bytes(b"")
    write_samples(generator, generator.samples(2, seed=1), 2, tmp_path, {}, force=True)
    found = {path.name for path in (tmp_path / "images").iterdir()}
    assert found == {"000000.png", "000001.png", "mine.png", "2024-mine.png"}


def test_a_grid_is_filled_row_by_row_with_white_between() -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2) / 10
    whole = grid(images, gap=1)
    assert whole.shape == (1, 5, 5)
    assert whole[0, 0].tolist() == pytest.approx([0, 0, 1, 0.1, 0.1])
    assert whole[0, 4].tolist() == pytest.approx([0.2, 0.2, 1, 1, 1])
