"""Round trips of the tokenizer at any size, before and after saving, and what it refuses."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vaevq
from vaevq.config import QUANTIZERS as ALL_QUANTIZERS
from vaevq.config import (
    AnyQuantizerConfig,
    AutoencoderConfig,
    BsqConfig,
    EmaConfig,
    FsqConfig,
    GaussianConfig,
    IbqConfig,
    LfqConfig,
    MoVQConfig,
    PlainConfig,
    ResidualConfig,
    SimVQConfig,
    SoftVQConfig,
    TokenizerConfig,
    VariationalConfig,
    VQBridgeConfig,
    VqganLcConfig,
    WassersteinConfig,
)
from vaevq.errors import UserError
from vaevq.seeding import generator

QUANTIZERS = [
    VariationalConfig(code_dim=4, codebook_size=32),
    VariationalConfig(
        code_dim=4, codebook_size=32, codebook="embedding", dcr_weight=0.1, dcr_target="aggregate_posterior"
    ),
    PlainConfig(code_dim=4, codebook_size=32),
    EmaConfig(code_dim=4, codebook_size=32, revive_below=0.1),
    SimVQConfig(code_dim=4, codebook_size=32),
    IbqConfig(code_dim=4, codebook_size=32),
    SoftVQConfig(code_dim=4, codebook_size=32),
    WassersteinConfig(code_dim=4, codebook_size=32),
    VQBridgeConfig(code_dim=4, codebook_size=32, bridge_width=8),
    GaussianConfig(code_dim=4, codebook_size=32),
    FsqConfig(code_dim=4, codebook_size=54),
    LfqConfig(code_dim=5, codebook_size=32),
    BsqConfig(code_dim=5, codebook_size=32),
    ResidualConfig(code_dim=4, codebook_size=32),
    ResidualConfig(code_dim=4, codebook_size=32, codes_per_position=2, shared_codebook=True),
    ResidualConfig(code_dim=4, codebook_size=32, codes_per_position=1, codebook="embedding"),
    MoVQConfig(code_dim=4, codebook_size=32, codes_per_position=2),
    VqganLcConfig(code_dim=4, codebook_size=32),
]
NAMES = [
    *("vaevq", "vaevq with moments", "vq", "vq_ema", "simvq", "ibq", "softvq", "wasserstein", "vqbridge", "gaussian"),
    *("fsq", "lfq", "bsq"),
    *("residual", "residual shared", "residual of one code", "movq", "vqgan_lc"),
]
SEVERAL = QUANTIZERS[NAMES.index("residual")]


def test_every_kind_is_here() -> None:
    assert {quantizer.kind for quantizer in QUANTIZERS} == ALL_QUANTIZERS.keys()
    assert len(NAMES) == len(QUANTIZERS)


def tokenizer(quantizer: AnyQuantizerConfig, channels: int = 3, *, modulated: bool = False) -> vaevq.Tokenizer:
    torch.manual_seed(0)
    networks = AutoencoderConfig(
        base_width=8, multipliers=(1, 1, 2), blocks=1, image_channels=channels, modulated=modulated
    )
    return vaevq.Tokenizer(TokenizerConfig(autoencoder=networks, quantizer=quantizer)).eval()


def images(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, height, width, generator=generator("images", height, width)) * 2 - 1


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kind=st.integers(0, len(QUANTIZERS) - 1),
    channels=st.integers(1, 4),
)
def test_decode_of_encode_is_the_reconstruction_at_any_size(height: int, width: int, kind: int, channels: int) -> None:
    model, x = tokenizer(QUANTIZERS[kind], channels), images(height, width, channels)
    with torch.no_grad():
        tokens = model.encode(x)
        assert tokens.dtype == torch.int64
        q = QUANTIZERS[kind].codes_per_position
        assert tokens.shape == (2, -(-height // 4), -(-width // 4), *([q] if q > 1 else []))
        reconstruction = model(x).reconstruction
        assert reconstruction.shape == x.shape
        assert torch.allclose(model.decode(tokens, size=(height, width)), reconstruction, atol=1e-5)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=NAMES)
def test_a_model_in_bfloat16_encodes_and_decodes(quantizer: AnyQuantizerConfig) -> None:
    model, x = tokenizer(quantizer).bfloat16(), images(8, 12).bfloat16()
    with torch.no_grad():
        assert model.decode(model.encode(x).to(torch.int64)).shape == x.shape


def test_patches_are_part_of_the_factor_and_change_no_promise(tmp_path: Path) -> None:
    networks = AutoencoderConfig(base_width=8, patch_size=3, multipliers=(1, 2), blocks=1)
    torch.manual_seed(0)
    model, x = vaevq.Tokenizer(TokenizerConfig(autoencoder=networks, quantizer=QUANTIZERS[0])).eval(), images(13, 20)
    assert model.downsample_factor == 6
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        tokens = model.encode(x)
        assert tokens.shape == (2, 3, 4)
        decoded = vaevq.Tokenizer.from_pretrained(tmp_path).decode(tokens, (13, 20))
        assert torch.allclose(decoded, model(x).reconstruction, atol=1e-5)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=NAMES)
def test_saved_and_loaded_it_gives_the_same_tokens_and_pixels(quantizer: AnyQuantizerConfig, tmp_path: Path) -> None:
    model, x = tokenizer(quantizer), images(21, 34)
    model.save_pretrained(tmp_path / "model")
    assert {"model.safetensors", "config.json"} <= {file.name for file in (tmp_path / "model").iterdir()}
    loaded = vaevq.Tokenizer.from_pretrained(tmp_path / "model")
    assert not loaded.training
    assert loaded.digest == model.digest
    with torch.no_grad():
        tokens = model.encode(x)
        assert torch.equal(loaded.encode(x), tokens)
        assert torch.allclose(loaded.decode(tokens, (21, 34)), model.decode(tokens, (21, 34)), atol=1e-5)


@pytest.mark.parametrize("quantizer", [QUANTIZERS[0], SEVERAL], ids=["vaevq", "residual"])
def test_a_modulated_decoder_is_saved_with_the_rest(quantizer: AnyQuantizerConfig, tmp_path: Path) -> None:
    model, x = tokenizer(quantizer, modulated=True), images(21, 34)
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if name.endswith(("scale.weight", "shift.weight")):
                parameter.normal_()
        model.save_pretrained(tmp_path)
        loaded = vaevq.Tokenizer.from_pretrained(tmp_path)
        assert loaded.config.autoencoder.modulated
        assert loaded.digest == model.digest
        assert torch.equal(loaded.decode(model.encode(x), (21, 34)), model(x).reconstruction)
        assert not torch.allclose(loaded(x).reconstruction, tokenizer(quantizer)(x).reconstruction, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "said"), [((1, 2, 2), "1×2×2"), ((1, 2, 2, 3), "1×2×2×3"), ((2, 2, 4), "2×2×4"), ((1, 1, 2, 2, 4), "")]
)
def test_tokens_of_another_number_of_codes_are_refused(shape: tuple[int, ...], said: str) -> None:
    message = f"tokens are integers B×h×w×4, 4 codes a position, not torch.int64 {said}"
    with pytest.raises(UserError, match=message):
        tokenizer(SEVERAL).decode(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(UserError, match=r"tokens must be in \[0, 32\), these reach from 0 to 32"):
        tokenizer(SEVERAL).decode(torch.tensor([0, 1, 2, 32]).expand(1, 2, 2, 4))


def test_a_run_folder_loads_its_model(tmp_path: Path) -> None:
    model = tokenizer(QUANTIZERS[0])
    model.save_pretrained(tmp_path / "run" / "model")
    assert vaevq.Tokenizer.from_pretrained(tmp_path / "run").digest == model.digest


def test_digest_changes_with_a_weight_and_with_the_configuration() -> None:
    model = tokenizer(QUANTIZERS[0])
    before = model.digest
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert model.digest != before
    assert tokenizer(QUANTIZERS[2]).digest != before


def test_networks_of_one_seed_do_not_depend_on_the_quantizer() -> None:
    ours, plain = tokenizer(QUANTIZERS[0]).state_dict(), tokenizer(QUANTIZERS[2]).state_dict()
    shared = [name for name in plain if not name.startswith("quantizer.")]
    assert len(shared) > 20
    assert all(torch.equal(ours[name], plain[name]) for name in shared)


def test_tokens_do_not_depend_on_the_batch() -> None:
    model, x = tokenizer(QUANTIZERS[0]), images(32, 32)
    with torch.no_grad():
        assert torch.equal(model.encode(x)[1:], model.encode(x[1:]))


@pytest.mark.parametrize(
    ("tokens", "size", "message"),
    [
        (torch.full((1, 2, 2), 32), None, "must be in \\[0, 32\\)"),
        (torch.full((1, 2, 2), -1), None, "must be in \\[0, 32\\)"),
        (torch.zeros(1, 2, 2), None, "integers"),
        (torch.zeros(2, 2, dtype=torch.int64), None, "integers B×h×w"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), (9, 8), "does not belong to a grid of 2×2"),
    ],
)
def test_decode_refuses_what_is_no_grid_of_its_tokens(
    tokens: torch.Tensor, size: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tokenizer(QUANTIZERS[0]).decode(tokens, size)


def test_encode_refuses_another_number_of_channels() -> None:
    with pytest.raises(UserError, match="takes images B×3×H×W, not 2×1×8×8"):
        tokenizer(QUANTIZERS[0]).encode(images(8, 8, channels=1))


def saved(folder: Path) -> Path:
    tokenizer(QUANTIZERS[0]).save_pretrained(folder)
    return folder


def test_a_pickle_in_place_of_safetensors_is_refused_unread(tmp_path: Path) -> None:
    weights = saved(tmp_path) / "model.safetensors"
    torch.save(tokenizer(QUANTIZERS[0]).state_dict(), weights)
    with pytest.raises(UserError, match=r"model\.safetensors: damaged, or no safetensors file"):
        vaevq.Tokenizer.from_pretrained(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    weights = saved(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        vaevq.Tokenizer.from_pretrained(tmp_path)


def test_weights_of_another_configuration_are_refused(tmp_path: Path) -> None:
    config = saved(tmp_path) / "config.json"
    config.write_text(config.read_text().replace('"codebook_size": 32', '"codebook_size": 33'))
    with pytest.raises(UserError, match="do not belong to"):
        vaevq.Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_without_one_of_its_files_is_refused(missing: str, tmp_path: Path) -> None:
    (saved(tmp_path) / missing).unlink()
    with pytest.raises(UserError, match=missing):
        vaevq.Tokenizer.from_pretrained(tmp_path)


def test_a_name_without_an_owner_is_not_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaevq.saved.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match=r"^quickstart: no such folder, and no hub name"):
        vaevq.Tokenizer.from_pretrained("quickstart")


def test_a_name_that_is_no_folder_and_no_hub_name_is_refused() -> None:
    with pytest.raises(UserError, match="/no/such/place: no such folder"):
        vaevq.Tokenizer.from_pretrained("/no/such/place")
