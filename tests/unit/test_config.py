"""Recipes, overrides and variants; every mistake in one line that names the field and the right name."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vaevq.config import (
    QUANTIZERS,
    VARIANTS,
    EvalConfig,
    PlainConfig,
    RunConfig,
    TokenizerConfig,
    VariationalConfig,
    load_generator_config,
    load_run_config,
    load_section,
    recipe_names,
)
from vaevq.errors import UserError

DIGESTS = {
    "vaevq": "f7b76954d94a",
    "vq": "4c9ab6918253",
    "vq_ema": "4326297c4a85",
    "simvq": "f7bb47a2ac58",
    "ibq": "58daff938847",
    "softvq": "378bf24d023b",
    "wasserstein": "24623c1e0413",
    "vqbridge": "5f6b379a866e",
    "gaussian": "b6380e760be0",
    "fsq": "4a11c8d06044",
    "lfq": "b162842b9af3",
    "bsq": "4f8d70750762",
    "residual": "6ad27063e9cc",
    "movq": "21cbd09d066d",
    "vqgan_lc": "ffa8b0ba3743",
}
"""Of each kind's default configuration."""


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_survives_json(name: str) -> None:
    config = load_run_config(name)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_overrides_win_over_the_recipe_and_flags_over_both() -> None:
    config = load_run_config("quickstart", ["train.images=5", "model.quantizer.code_dim=7"], {"train": {"images": 9}})
    assert config.train.images == 9
    assert config.model.quantizer.code_dim == 7


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_variant_sets_every_point_where_paper_and_released_code_differ(variant: str) -> None:
    config = RunConfig.model_validate({"variant": variant})
    dumped = config.model_dump(mode="json")
    for section, wanted in VARIANTS[variant].items():
        given = dumped[section]
        if section == "model":
            given, wanted = given["quantizer"], wanted["quantizer"]
        assert {key: given[key] for key in wanted} == wanted
    # Both set the same points.
    other = VARIANTS["released" if variant == "paper" else "paper"]
    assert VARIANTS[variant]["model"]["quantizer"].keys() == other["model"]["quantizer"].keys()
    assert RunConfig.model_validate(dumped) == config


def test_an_explicit_field_wins_over_the_variant() -> None:
    config = RunConfig.model_validate({"variant": "paper", "model": {"quantizer": {"rcs_weight": 0.5}}})
    quantizer = config.model.quantizer
    assert isinstance(quantizer, VariationalConfig)
    assert (quantizer.rcs_weight, quantizer.codebook) == (0.5, "embedding")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("images=30", "images: unknown option (did you mean train.images or eval.images?)"),
        ("kl_weight=1", "kl_weight: unknown option (did you mean model.quantizer.kl_weight?)"),
        ("modle.x=1", "modle: unknown option (did you mean 'model'?)"),
        ("model.quantizer.code_dm=3", "model.quantizer.code_dm: unknown option (did you mean 'code_dim'?)"),
        ("train.learning_rat=1", "train.learning_rat: unknown option (did you mean 'learning_rate'?)"),
        ("train.images=many", "train.images: input should be a valid integer"),
        ("train.images=0", "train.images: input should be greater than or equal to 1, not 0"),
        ("variant=papr", "variant: input should be 'paper' or 'released', not 'papr'"),
        ("loss.pixel=l3", "loss.pixel: input should be 'l1' or 'l2', not 'l3'"),
        ("data.image_size=63", "data.image_size 63 is no multiple of the downsampling factor 8"),
        ("train.batch_size", "'train.batch_size': an override is written dotted.key=value"),
        ("model.quantizer.rcs_form=nll", "rcs_form: nll needs rcs_detach_sigma: false"),
        ("data.crop_scale=[0.9,0.5]", "crop_scale must be 0 < low <= high <= 1"),
        ("train.accumulation=7", "no multiple of accumulation 7"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_run_config("quickstart", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError, match=r"data\.flipp: .*; train\.images: "):
        load_run_config("quickstart", ["train.images=x", "data.flipp=1"])


def test_a_quantizer_of_unknown_kind_is_told_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"model\.quantizer\.kind: there is no 'vqq' .*'vq'.*: vaevq, vq, vq_ema"):
        load_run_config("quickstart", ["model.quantizer.kind=vqq"])


def test_a_variant_with_another_quantizer_is_refused() -> None:
    with pytest.raises(UserError, match="variant: paper goes with"):
        load_run_config("quickstart", ["variant=paper", "model.quantizer={kind: vq}", "loss.continuous_path=0"])


def test_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe named 'quickstar' .did you mean 'quickstart'"):
        load_run_config("quickstar")
    with pytest.raises(UserError, match="no such recipe file"):
        load_run_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("train: [1,\n")
    with pytest.raises(UserError, match=r"broken\.yaml, line 2: not valid YAML"):
        load_run_config(broken)
    broken.write_text("- 1\n")
    with pytest.raises(UserError, match="a recipe is a mapping"):
        load_run_config(broken)


def test_a_section_is_validated_with_its_overrides() -> None:
    assert load_section(EvalConfig, ["metrics=[psnr]", "crop=64"], EvalConfig()).crop == 64
    with pytest.raises(UserError, match="crop 512 is larger than resize 256"):
        load_section(EvalConfig, ["crop=512"], EvalConfig())
    with pytest.raises(UserError, match=r"metric: unknown option .did you mean 'metrics'"):
        load_section(EvalConfig, ["metric=psnr"], EvalConfig())


def quantize_from(**sections: Any) -> int | None:
    return RunConfig.model_validate(sections).model.quantizer.quantize_from


def test_the_continuous_path_goes_first_for_a_share_of_the_run_that_leaves_a_step() -> None:
    assert quantize_from(train={"images": 1000, "batch_size": 10}) == 300
    assert quantize_from(train={"images": 16, "batch_size": 16}) == 0, "the only step decodes codewords"
    assert quantize_from(variant="paper") == 0
    assert VariationalConfig().quantize_from is None, "a layer by itself decodes codewords from the start"
    saved = RunConfig.model_validate({"train": {"images": 1000}})
    assert RunConfig.model_validate_json(saved.model_dump_json()) == saved


def test_the_continuous_path_does_not_go_first_where_nothing_moves_the_codebook_meanwhile() -> None:
    still = {"codebook": "embedding", "rcs_weight": 0}
    assert quantize_from(model={"quantizer": still}) == 0
    with pytest.raises(ValidationError, match="nothing else moves the codebook"):
        quantize_from(model={"quantizer": {**still, "quantize_from": 16}})


def test_a_run_that_would_decode_no_codeword_is_refused() -> None:
    train = {"images": 40, "batch_size": 16}
    assert quantize_from(train=train, model={"quantizer": {"quantize_from": 32}}) == 32
    with pytest.raises(ValidationError, match=r"past the last step of train\.images 40"):
        quantize_from(train=train, model={"quantizer": {"quantize_from": 33}})


def test_models_that_were_saved_before_an_option_was_there_keep_their_digest() -> None:
    """The configuration is part of a digest, which token files name: what is new is not in it at its default."""
    digests = {
        kind: hashlib.sha256(TokenizerConfig(quantizer=QUANTIZERS[kind]()).model_dump_json().encode()).hexdigest()[:12]
        for kind in DIGESTS
    }
    assert digests == DIGESTS


def test_a_recipe_is_laid_on_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: simvq\ntrain: {images: 640}\nmodel: {quantizer: {codebook_size: 64}}\n")
    (tmp_path / "again.yaml").write_text("base: mine.yaml\nmodel: {quantizer: {kind: vq}}\n")
    simvq, mine = load_run_config("simvq"), load_run_config(tmp_path / "mine.yaml")
    again = load_run_config(tmp_path / "again.yaml", ["seed=3"])
    assert mine.train == simvq.train.model_copy(update={"images": 640})
    assert mine.loss == simvq.loss
    assert mine.model.quantizer == simvq.model.quantizer.model_copy(update={"codebook_size": 64})
    assert (again.seed, again.train) == (3, mine.train)
    assert again.model.quantizer.model_dump() == PlainConfig(code_dim=4, codebook_size=64).model_dump()


def test_a_size_takes_the_place_of_what_the_base_of_a_generator_says(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("base: maskgit\nnetwork: {size: L, dropout: 0}\n")
    network = load_generator_config(tmp_path / "large.yaml").network
    assert (network.kind, network.layers, network.heads, network.width, network.dropout) == ("mask", 24, 16, 1024, 0)


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("b.yaml", "a.yaml: base: this recipe is its own base"),
        ("[1]", "base: name a recipe"),
        ("vqq", "no recipe named"),
    ],
)
def test_a_base_that_cannot_be_is_named(tmp_path: Path, base: str, says: str) -> None:
    (tmp_path / "a.yaml").write_text(f"base: {base}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UserError, match=re.escape(says)):
        load_run_config(tmp_path / "a.yaml")
