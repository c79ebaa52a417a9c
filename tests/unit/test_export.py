"""Exported tokenizers: what onnxruntime and torch.export make of images, beside PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_tokenizer import NAMES, QUANTIZERS, images, tokenizer
from torch import Tensor, nn
from torch.export import Dim

from runs import files_below, vaevq
from vaevq import Tokenizer
from vaevq.config import (
    AnyQuantizerConfig,
    AutoencoderConfig,
    TokenizerConfig,
    VariationalConfig,
    VQBridgeConfig,
    VqganLcConfig,
)
from vaevq.data.tokens import read_token_file
from vaevq.errors import UserError
from vaevq.export import export_model
from vaevq.export.export import METADATA
from vaevq.export.graphs import with_plain_codebooks
from vaevq.export.misfit import misfit, ties
from vaevq.export.onnx_files import OnnxRunner
from vaevq.export.parity import Parity, compare
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.search import in_one_piece

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_without_torch.py"
KINDS = pytest.mark.parametrize("quantizer", QUANTIZERS, ids=NAMES)


def model(quantizer: AnyQuantizerConfig) -> Tokenizer:
    """With a codebook that has been made, and a posterior of its own at every position."""
    made = tokenizer(quantizer)
    if isinstance(quantizer, VqganLcConfig):
        made.quantizer.fit(torch.randn(64, quantizer.vector_dim), seed=0)
    if isinstance(quantizer, VQBridgeConfig):
        nn.init.normal_(made.quantizer.codebook.recover.weight)
    if made.head.logvar is not None:
        nn.init.normal_(made.head.logvar.weight, std=0.3)
    return made


def posterior_of(quantizer: AnyQuantizerConfig, seed: int = 0) -> Posterior:
    torch.manual_seed(seed)
    shape = 2, quantizer.code_dim, 3, 5
    return Posterior(torch.randn(shape), torch.randn(shape) - 2)


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run as ONNX files, and what the command said in said.json."""
    folder = tmp_path_factory.mktemp("exported")
    outcome = vaevq("export", finished, "-o", folder / "files", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    (folder / "said.json").write_text(outcome.out)
    return folder


def test_the_command_writes_two_files_that_agree_with_pytorch(exported: Path, finished: Path) -> None:
    said = json.loads((exported / "said.json").read_text())
    assert files_below(exported / "files") == {"encoder.onnx", "decoder.onnx"}
    assert [Path(file).name for file in said["files"]] == ["encoder.onnx", "decoder.onnx"]
    assert said["parity"]["differing"] == 0
    assert said["parity"]["tokens"] > 100
    assert len(said["parity"]["shapes"]) == 3
    assert said["parity"]["largest_pixel_difference"] < 1e-4
    saved = Tokenizer.from_pretrained(finished)
    for part in ("encoder", "decoder"):
        about = OnnxRunner(exported / "files" / f"{part}.onnx").session.get_modelmeta().custom_metadata_map
        assert about == {**said["metadata"], "part": part}
        assert (about["model_digest"], about["codebook_size"]) == (saved.digest, "16")
        assert (about["downsample_factor"], about["image_channels"]) == ("2", "3")
        assert about["value_range"] == "[-1, 1]"


def test_onnx_takes_any_number_of_images_of_any_size(exported: Path, finished: Path) -> None:
    saved = Tokenizer.from_pretrained(finished)
    encoder, decoder = (OnnxRunner(exported / "files" / f"{part}.onnx") for part in ("encoder", "decoder"))
    for shape in ((1, 1), (2, 31), (17, 3)):
        given = torch.cat([images(*shape), images(*shape).flip(0)])
        found = encoder(given)
        assert torch.equal(found, saved.encode(given))
        whole = decoder(found)
        assert torch.allclose(whole[..., : shape[0], : shape[1]], saved.decode(found, shape), atol=1e-4)


def test_the_example_does_without_torch_what_the_command_does(
    exported: Path, finished: Path, photos: Path, tmp_path: Path
) -> None:
    photo = photos / "cat-0.png"
    Image.open(photo).crop((0, 0, 95, 77)).save(tmp_path / "odd.png")  # no multiple of f = 2
    without = "import sys, runpy; sys.modules.update(torch=None, vaevq=None); runpy.run_path(sys.argv[1])"
    script = f"{without.replace('runpy.run', 'sys.argv.pop(0); runpy.run').replace('argv[1]', 'argv[0]')}"
    words = [EXAMPLE, exported / "files", tmp_path / "odd.png", tmp_path / "out.png"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"(1, 39, 48) tokens below 16: {tmp_path / 'out.png'}\n"
    assert vaevq("encode", tmp_path / "odd.png", "-m", finished, "-o", tmp_path / "t.safetensors").code == 0
    assert vaevq("decode", tmp_path / "t.safetensors", "-m", finished, "-o", tmp_path / "decoded").code == 0
    assert read_token_file(tmp_path / "t.safetensors").tokens[0].shape == (39, 48)
    ours, example = (np.asarray(Image.open(tmp_path / name), dtype=int) for name in ("decoded/odd.png", "out.png"))
    assert np.abs(ours - example).max() <= 1


def test_the_example_has_at_most_twenty_lines_of_code() -> None:
    text = EXAMPLE.read_text().partition('"""\n\nimport')[2]
    assert len([line for line in text.splitlines() if line]) <= 20


GRAPHS = ["vaevq", "ibq", "softvq", "gaussian", "fsq", "bsq", "residual", "movq"]
"""One of each way to choose and to look up: the others are the first, with codewords stored as they are, or `bsq`'s."""


class SeveralQuantizers(nn.Module):
    """Latents to the tokens and codewords of each of several quantizers: one graph for all of them."""

    def __init__(self, tokenizers: list[Tokenizer]) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(with_plain_codebooks(each.quantizer) for each in tokenizers)

    def forward(self, latents: Tensor) -> list[Tensor]:
        found = []
        for quantizer in self.quantizers:
            mean = latents[:, : quantizer.code_dim]
            tokens = quantizer.encode(Posterior(mean, mean * 0.5))
            found += [tokens, quantizer.lookup(tokens)]
        return found


@KINDS
def test_with_plain_codebooks_a_quantizer_chooses_and_looks_up_the_same(quantizer: AnyQuantizerConfig) -> None:
    made, posterior = model(quantizer).quantizer, posterior_of(quantizer)
    plain, tokens = with_plain_codebooks(made), made.encode(posterior)
    assert torch.equal(plain.encode(posterior), tokens)
    assert torch.equal(plain.lookup(tokens), made.lookup(tokens))
    assert type(plain) is type(made)


def test_every_way_to_choose_and_look_up_is_the_same_in_onnx(tmp_path: Path) -> None:
    every = SeveralQuantizers([model(QUANTIZERS[NAMES.index(name)]) for name in GRAPHS]).eval()
    with in_one_piece(), torch.no_grad():
        sizes = {"latents": dict.fromkeys((0, 2, 3), Dim.DYNAMIC)}
        program = torch.export.export(every, (torch.zeros(2, 5, 4, 3),), dynamic_shapes=sizes, strict=False)
        made = torch.onnx.export(program, dynamo=True, verbose=False)
        assert made is not None
        made.save(tmp_path / "every.onnx")
    session = OnnxRunner(tmp_path / "every.onnx").session
    latents = torch.randn(3, 5, 7, 11)
    results = [torch.from_numpy(result) for result in session.run(None, {"latents": latents.numpy()})]
    with torch.no_grad():
        expected = every(latents)
    for name, quantizer, tokens, codewords, theirs, looked_up in zip(
        GRAPHS, every.quantizers, expected[::2], expected[1::2], results[::2], results[1::2], strict=True
    ):
        mean = latents[:, : quantizer.code_dim]
        differ = (tokens != theirs) & ~ties(quantizer, Posterior(mean, mean * 0.5), tokens, theirs)
        assert not differ.any(), name
        same = torch.equal(tokens, theirs)
        assert not same or torch.allclose(codewords, looked_up, atol=1e-6), name
        assert tokens.unique().numel() > 3, name


@KINDS
def test_what_a_quantizer_chooses_has_the_least_misfit(quantizer: AnyQuantizerConfig) -> None:
    made, posterior = model(quantizer).quantizer, posterior_of(quantizer)
    chosen = made.encode(posterior)
    best = misfit(made, posterior, chosen)
    assert best.shape == chosen.shape
    for other in range(16):
        others = chosen.clone()
        flat = others.view(-1, made.codes_per_position)
        flat[:, -1] = other  # of residual codes those before stay as they are
        worse = misfit(made, posterior, others)
        assert (worse >= best - 1e-6 * best.abs()).all()
    assert not ties(made, posterior, chosen, chosen).any()
    assert not ties(made, posterior, chosen, (chosen + 1) % made.codebook_size).all()


@KINDS
def test_in_one_piece_a_quantizer_chooses_what_it_chooses_in_tiles(quantizer: AnyQuantizerConfig) -> None:
    made, posterior = model(quantizer).quantizer, posterior_of(quantizer)
    tiled = made.encode(posterior)
    with in_one_piece():
        whole = made.encode(posterior)
    assert ((whole == tiled) | ties(made, posterior, tiled, whole)).all()


def test_a_tie_is_one_where_both_choices_are_equally_far() -> None:
    made = model(VariationalConfig(code_dim=2, codebook_size=3, codebook="embedding")).quantizer
    made.codebook.embedding.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]])
    mean = torch.tensor([[1e-7, 0.5], [1e-3, 0.5], [0.0, 0.5]]).T.view(1, 2, 1, 3)
    zero, one, two = (torch.full((1, 1, 3), token) for token in range(3))
    assert ties(made, Posterior(mean), zero, one).tolist() == [[[True, False, True]]]
    assert ties(made, Posterior(mean), zero, two).tolist() == [[[False, False, False]]]


def test_an_export_that_differs_is_noticed_and_refused() -> None:
    made = model(QUANTIZERS[0])

    def shifted(given: Tensor) -> Tensor:
        tokens = made.encode(given)
        tokens[0, 0, 0] = (tokens[0, 0, 0] + 1) % 32
        return tokens

    assert compare(made, made.encode, made.decode) == Parity(
        ("1×3×16×24", "3×3×21×11", "2×3×8×38"), 24 + 54 + 40, ties=0, differing=0, largest_pixel_difference=0.0
    )
    differing = compare(made, shifted, made.decode)
    assert differing.differing == 3
    with pytest.raises(UserError, match="3 of 118 tokens of the export are not PyTorch's"):
        differing.check()
    with pytest.raises(UserError, match=r"pixels of the export differ .* by up to 0\.01"):
        compare(made, made.encode, lambda tokens: made.decode(tokens) + 0.01).check()
    with pytest.raises(UserError, match="pixels of the export differ"):
        compare(made, made.encode, lambda tokens: made.decode(tokens) * torch.nan).check()


def test_nothing_is_left_of_an_export_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaevq.export.export._write", lambda *_: (lambda x: made.encode(x) * 0, made.decode))
    made = model(QUANTIZERS[0])
    with pytest.raises(UserError, match="nothing is kept"):
        export_model(made, tmp_path / "files", "onnx")
    assert files_below(tmp_path) == set()


@pytest.mark.slow
def test_torch_export_agrees_and_says_what_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = AutoencoderConfig(base_width=8, multipliers=(1,), blocks=1, patch_size=4)
    made = Tokenizer(TokenizerConfig(autoencoder=networks, quantizer=QUANTIZERS[NAMES.index("residual")])).eval()
    exported = export_model(made, tmp_path, "torch")
    assert exported.parity is not None
    assert exported.parity.differing == 0
    assert files_below(tmp_path) == {"encoder.pt2", "decoder.pt2"}
    extra = {METADATA: ""}
    program = torch.export.load(tmp_path / "encoder.pt2", extra_files=extra)
    assert json.loads(extra[METADATA]) == {**exported.metadata, "part": "encoder"}
    assert exported.metadata["codes_per_position"] == "4"
    given = images(30, 21)
    assert torch.equal(program.module()(given), made.encode(given))


def test_safetensors_are_a_model_folder(finished: Path, tmp_path: Path) -> None:
    outcome = vaevq("export", finished, "-o", tmp_path / "model", "--format", "safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert Tokenizer.from_pretrained(tmp_path / "model").digest == Tokenizer.from_pretrained(finished).digest
    again = vaevq("export", finished, "-o", tmp_path / "model", "--format", "safetensors")
    assert again.code == 2
    assert again.err.endswith("model.safetensors and 1 more already there; --force overwrites\n")


def test_a_codebook_that_is_not_made_yet_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="codebook is not made yet"):
        export_model(tokenizer(QUANTIZERS[NAMES.index("vqgan_lc")]), tmp_path, "torch")


def test_without_what_writes_onnx_the_package_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = vaevq("export", finished, "-o", tmp_path)
    assert outcome.code == 2
    assert outcome.err == "vaevq: error: --format onnx needs the package onnxruntime: pip install 'vaevq[export]'\n"


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_every_kind_is_exported_whole(quantizer: AnyQuantizerConfig, form: str, tmp_path: Path) -> None:
    parity = export_model(model(quantizer), tmp_path, form).parity
    assert parity is not None
    assert (parity.differing, parity.ties) == (0, 0)


@pytest.mark.slow
def test_a_modulated_decoder_with_attention_is_exported(tmp_path: Path) -> None:
    made = tokenizer(QUANTIZERS[0], channels=1, modulated=True)
    assert export_model(made, tmp_path, "onnx").parity is not None
