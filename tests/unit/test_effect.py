"""What is given and can do nothing is refused, layer by layer; and what the table says does nothing does nothing."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from runs import largest_difference, small_recipe, small_tree, trained, vaevq
from vaevq.config import (
    QUANTIZERS,
    EvalConfig,
    LossConfig,
    RunConfig,
    laid,
    leaves,
    load_run_config,
    load_section,
    merged,
    read_json,
    recipe_names,
    without_effect,
)
from vaevq.data.index import find_images
from vaevq.effect import NO_EFFECT, NoEffect
from vaevq.errors import UserError
from vaevq.metrics.evaluation import evaluate
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer

Q = "model.quantizer"
BSQ = [f"{Q}.kind=bsq", f"{Q}.code_dim=4", f"{Q}.codebook_size=16"]
HELD_OUT = "held_out.png"
VECTORS = "vectors.safetensors"
NO_IMAGE_TERM = ["loss.pixel_weight=0", "loss.perceptual_weight=0"]
RCS_STANDS = [f"{Q}.rcs_encoder_share=0"]
ADAPTS = [*("adapt.every=4", "adapt.start=0", "adapt.until=1", "adapt.min_size=2"), "adapt.by=usage"]
LATE = ["loss.adversarial_weight=0.5", "train.images=20", "train.batch_size=4"]

IDLE: dict[str, tuple[list[str], list[str]]] = {
    "model.autoencoder.upsampling": (
        ["model.autoencoder.multipliers=[1]"],
        ["model.autoencoder.multipliers=[1,2]"],
    ),
    f"{Q}.average_decay": ([f"{Q}.codebook=embedding"], [f"{Q}.average_decay=0.3"]),
    f"{Q}.codebook_weight": ([f"{Q}.kind=residual"], [f"{Q}.kind=residual", f"{Q}.codebook=embedding"]),
    f"{Q}.shared_codebook": ([f"{Q}.kind=residual", f"{Q}.codes_per_position=1"], [f"{Q}.kind=residual"]),
    f"{Q}.initial_logvar": (
        [
            *(f"{Q}.quantize=mean", f"{Q}.quantize_from=0", f"{Q}.rcs_weight=0", f"{Q}.kl_weight=0"),
            "loss.continuous_path=0",
        ],
        [],
    ),
    f"{Q}.rcs_form": ([f"{Q}.rcs_weight=0"], [f"{Q}.rcs_min_std=0.1"]),
    f"{Q}.rcs_weight": (RCS_STANDS, []),
    f"{Q}.rcs_encoder_share": (RCS_STANDS, [f"{Q}.rcs_detach_sigma=false"]),
    f"{Q}.dcr_target": ([f"{Q}.dcr_weight=0"], [f"{Q}.dcr_weight=0.1", f"{Q}.codebook=embedding"]),
    f"{Q}.kl_reduction": ([f"{Q}.kl_weight=0"], []),
    f"{Q}.kl_tolerance": ([f"{Q}.kind=gaussian", f"{Q}.kl_weight=0"], [f"{Q}.kind=gaussian"]),
    f"{Q}.entropy_temperature": ([*BSQ, f"{Q}.entropy_weight=0"], BSQ),
    f"{Q}.moments_decay": ([f"{Q}.kind=wasserstein", f"{Q}.wasserstein_weight=0"], [f"{Q}.kind=wasserstein"]),
    f"{Q}.feature_weights": ([f"{Q}.kind=vqgan_lc"], [f"{Q}.kind=vqgan_lc", f"{Q}.features=alexnet"]),
    f"{Q}.vectors_per_codeword": (
        [f"{Q}.kind=vqgan_lc", f"{Q}.features={VECTORS}", f"{Q}.feature_dim=6"],
        [f"{Q}.kind=vqgan_lc", f"{Q}.quantize_from=0"],
    ),
    f"{Q}.temperature": ([f"{Q}.kind=softvq", *NO_IMAGE_TERM], [f"{Q}.kind=softvq"]),
    "loss.quantized_path": ([*NO_IMAGE_TERM, f"{Q}.codebook=embedding"], [f"{Q}.codebook=embedding"]),
    "loss.pixel": (["loss.pixel_weight=0"], []),
    "loss.perceptual_network": (["loss.perceptual_weight=0"], ["loss.perceptual_weight=0.1"]),
    "loss.perceptual_channels": (
        ["loss.perceptual_weight=0"],
        ["loss.perceptual_weight=0.1", "model.autoencoder.image_channels=4"],
    ),
    "loss.adversarial_start": (["loss.adversarial_weight=0"], ["loss.adversarial_weight=0.5"]),
    "loss.adversarial_weight": (
        [*LATE, "loss.adversarial_start=17"],
        [*LATE, "loss.adversarial_start=8"],
    ),
    "adapt.every": (["adapt.by=none"], [*ADAPTS, "adapt.perplexity_share=0.99"]),
    "adapt.perplexity_share": ([*ADAPTS, "adapt.by=distortion"], [*ADAPTS]),
    "adapt.gain": (ADAPTS, [*ADAPTS, "adapt.by=distortion"]),
    "data.held_out_share": ([f"data.held_out={HELD_OUT}"], []),
    "data.crop_scale": (["data.crop=random"], ["data.crop=random_resized"]),
    "eval.lpips_network": (["eval.metrics=[psnr]"], ["eval.metrics=[lpips]"]),
    "eval.feature_network": (["eval.metrics=[psnr]"], ["eval.metrics=[frechet]"]),
    "eval.kid_block": (["eval.metrics=[psnr]"], ["eval.metrics=[kid]"]),
    "eval.soft": ([f"{Q}.kind=softvq", "eval.metrics=[]"], [f"{Q}.kind=softvq", "eval.metrics=[psnr]"]),
    "train.nonfinite_limit": (["train.on_nonfinite=stop"], []),
}
"""By the first option of each entry of the table: what makes its options idle, and what lets them work."""

OTHER: dict[str, list[str]] = {
    "model.autoencoder.upsampling": ["nearest"],
    f"{Q}.average_decay": ["0.5"],
    f"{Q}.revive_below": ["0.9"],
    f"{Q}.codebook_weight": ["0.5"],
    f"{Q}.shared_codebook": ["true"],
    f"{Q}.initial_logvar": ["-1"],
    f"{Q}.rcs_form": ["nll", f"{Q}.rcs_detach_sigma=false"],
    f"{Q}.rcs_detach_sigma": ["false"],
    f"{Q}.rcs_min_std": ["0.9"],
    f"{Q}.rcs_encoder_share": ["0.5"],
    f"{Q}.rcs_reduction": ["image"],
    f"{Q}.rcs_weight": ["3"],
    f"{Q}.dcr_target": ["aggregate_posterior"],
    f"{Q}.dcr_square_root_term": ["false"],
    f"{Q}.kl_reduction": ["image"],
    f"{Q}.kl_tolerance": ["9"],
    f"{Q}.kl_factor": ["1.5"],
    f"{Q}.entropy_temperature": ["0.5"],
    f"{Q}.entropy_group": ["2"],
    f"{Q}.moments_decay": ["0.1"],
    f"{Q}.feature_weights": ["alex.ckpt"],
    f"{Q}.vectors_per_codeword": ["2"],
    f"{Q}.temperature": ["0.5"],
    f"{Q}.gradient": ["reparameterized"],
    f"{Q}.codebook_gradient": ["true"],
    "loss.quantized_path": ["0.5"],
    "loss.continuous_path": ["0.7"],
    "loss.pixel": ["l1"],
    "loss.pixel_reduction": ["image"],
    "loss.perceptual_network": ["vgg16"],
    "loss.perceptual_weights_path": ["alex.ckpt"],
    "loss.perceptual_channels": ["each"],
    "loss.adversarial_weight": ["2"],
    "loss.adversarial_form": ["hinge"],
    "loss.adversarial_adaptive": ["true"],
    "loss.adversarial_start": ["4"],
    "loss.discriminator_width": ["16"],
    "loss.discriminator_layers": ["1"],
    "loss.lecam_weight": ["0.5"],
    "train.discriminator_learning_rate": ["0.1"],
    "adapt.every": ["10"],
    "adapt.start": ["0.5"],
    "adapt.until": ["0.5"],
    "adapt.min_size": ["15"],
    "adapt.max_size": ["20", f"{Q}.codebook_size=16", "adapt.perplexity_share=0.01"],
    "adapt.perplexity_share": ["0.999"],
    "adapt.gain": ["0.9"],
    "data.held_out_share": ["0.9"],
    "data.split_by": ["file"],
    "data.crop_scale": ["[0.3,0.4]"],
    "eval.lpips_network": ["vgg16"],
    "eval.lpips_weights": ["alex.ckpt"],
    "eval.feature_network": ["vgg16"],
    "eval.feature_weights": ["vgg16.ckpt"],
    "eval.kid_block": ["3"],
    "eval.soft": ["true"],
    "train.nonfinite_limit": ["3"],
}
"""A value of each option that is not its default, and what has to stand beside it."""

CASES = [
    pytest.param(entry, option, id=f"{option} where {entry.options[0]} is idle")
    for entry in NO_EFFECT
    for option in entry.options
]


def sides(entry: NoEffect) -> tuple[list[str], list[str]]:
    return IDLE[entry.options[0]]


def other(option: str) -> list[str]:
    value, *beside = OTHER[option]
    return [f"{option}={value}", *beside]


def refusal(recipe: str | Path, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_run_config(recipe, overrides, flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_table_names_options_that_exist_and_these_tests_have_all_of_it() -> None:
    named = {option for entry in NO_EFFECT for option in entry.options}
    known = {name for name, _ in leaves(RunConfig().model_dump())}
    known |= {f"loss.{name}" for name in LossConfig.model_fields}  # one at its default is left out
    known |= {f"{Q}.{name}" for kind in QUANTIZERS.values() for name in kind.model_fields}
    assert named - known == set()
    assert list(IDLE) == [entry.options[0] for entry in NO_EFFECT]
    assert OTHER.keys() == named


@pytest.mark.parametrize(("entry", "option"), CASES)
def test_an_option_without_effect_is_refused_and_one_with_effect_is_not(entry: NoEffect, option: str) -> None:
    idle, working = sides(entry)
    assert f"{option} {entry.says}" in refusal("quickstart", [*other(option), *idle])
    load_run_config("quickstart", [*working, *other(option)])


# An encoding of the mean and its decoding do not read these.
NOT_OF_IMAGES = ("head.logvar.", "quantizer.moments.")


def outcome(photos: Path, overrides: Sequence[str]) -> dict[str, torch.Tensor]:
    """What a small run comes to: its weights, or its figures where the options are of the evaluation."""
    tree = small_tree(photos, loss={"discriminator_width": 8, "discriminator_layers": 2})
    del tree["data"]["split_by"]
    for override in overrides:
        name, _, value = override.partition("=")
        given: Any = yaml.safe_load(value)
        for part in reversed(name.split(".")):
            given = {part: given}
        tree = merged(tree, given)
    config = RunConfig.model_validate(tree)
    if any(override.startswith("eval.") for override in overrides):
        torch.manual_seed(0)
        measured = evaluate(Tokenizer(config.model).eval(), find_images(photos), config.eval, device="cpu")
        continuous = {f"{name} (continuous)": value for name, value in measured.continuous.items()}
        return {name: torch.tensor(value) for name, value in {**measured.figures, **continuous}.items()}
    state = trained(config, 5)[0].tokenizer.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith(NOT_OF_IMAGES)}


# This one turns off what is idle then, `rcs_weight`; the networks of the others would have to be fetched.
TURNS_OFF = f"{Q}.rcs_encoder_share"
OTHER_NETWORKS = ("model.autoencoder.upsampling", f"{Q}.shared_codebook")
FETCHED = ("eval.", "loss.perceptual_", f"{Q}.feature_weights")
WHERE_NOT_FINITE = ("train.nonfinite_limit",)  # test_training_not_finite.py shows what it does


@pytest.mark.parametrize(("entry", "option"), CASES)
def test_what_the_table_says_does_nothing_does_nothing_and_elsewhere_does_something(
    entry: NoEffect, option: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "cat-0.png", HELD_OUT)
    save_file({"vectors": torch.randn(40, 6, generator=generator("vectors"))}, VECTORS)
    idle, working = sides(entry)
    if entry.options != (TURNS_OFF,):
        one, another = outcome(photos, idle), outcome(photos, [*idle, *other(option)])
        assert largest_difference(one, another) == 0
    if not option.startswith(FETCHED + WHERE_NOT_FINITE):
        one, another = outcome(photos, working), outcome(photos, [*working, *other(option)])
        if option in OTHER_NETWORKS or option.startswith("adapt."):  # another codebook
            assert one["decoder.body.0.norm1.weight"].shape == another["decoder.body.0.norm1.weight"].shape
            assert {name: t.shape for name, t in one.items()} != {name: t.shape for name, t in another.items()}
        else:
            assert largest_difference(one, another) > 0


def test_all_that_is_given_in_vain_is_said_at_once_with_the_recipes() -> None:
    text = refusal(
        "quickstart",
        ["loss.lecam_weight=0.1", f"{Q}.dcr_target=aggregate_posterior"],
        {"data": {"crop_scale": [0.1, 1]}},
    )
    assert text == (
        "quickstart: loss.lecam_weight has no effect at loss.adversarial_weight 0; "
        f"{Q}.dcr_target has no effect at {Q}.dcr_weight 0; "
        "data.crop_scale has no effect unless data.crop is random_resized"
    )


def recipe(folder: Path, **sections: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def test_a_recipe_answers_for_itself_alone(tmp_path: Path) -> None:
    details = {"lecam_weight": 0.1, "adversarial_start": 800}
    mine = recipe(tmp_path, loss={"adversarial_weight": 0.5, **details})
    # What is laid on it switches off or narrows what it has the details of.
    for override in ("loss.adversarial_weight=0", "train.images=16"):
        load_run_config(mine, [override])
    mine = recipe(tmp_path, data={"held_out_share": 0.1, "split_by": "file"})
    load_run_config(mine, [], {"data": {"held_out": "photos"}})

    mine = recipe(tmp_path, loss=details)
    assert "loss.adversarial_start has no effect at loss.adversarial_weight 0; loss.lecam_weight" in refusal(mine)
    assert refusal(mine).count("lecam_weight") == refusal(mine, ["loss.lecam_weight=0.2"]).count("lecam_weight") == 1
    load_run_config(mine, ["loss.adversarial_weight=0.5"])
    load_run_config(mine, ["loss.lecam_weight=0", "loss.adversarial_start=0"])


def test_defaults_and_what_a_variant_sets_are_given_by_nobody(tmp_path: Path) -> None:
    load_run_config(
        "quickstart", ["loss.lecam_weight=0", "loss.perceptual_weight=0", "loss.perceptual_network=alexnet"]
    )
    for name in recipe_names():
        whole = load_run_config(name).model_dump(mode="json")
        assert load_run_config(recipe(tmp_path, **whole)).model_dump(mode="json") == whole, "all of it written out"
    load_run_config("quickstart", ["variant=released"])
    load_run_config("released", [f"{Q}.rcs_weight=0"])
    assert f"{Q}.revive_below has no effect" in refusal("quickstart", ["variant=paper", f"{Q}.revive_below=0.2"])


def test_another_quantizers_way_of_passing_a_gradient_needs_one() -> None:
    rotation = [f"{Q}.kind=vq", f"{Q}.gradient=rotation"]
    assert f"{Q}.gradient has no effect without an image term" in refusal("quickstart", [*rotation, *NO_IMAGE_TERM])
    assert load_run_config("quickstart", rotation).model.quantizer.gradient == "rotation"
    assert f"{Q}.initial_logvar has no effect where nothing uses σ" in refusal(
        "quickstart", [*IDLE[f"{Q}.initial_logvar"][0], f"{Q}.gradient=rotation", f"{Q}.initial_logvar=-1"]
    )


def test_options_of_a_quantizer_that_has_no_others_of_the_table_are_taken() -> None:
    config = load_run_config("quickstart", [f"{Q}.kind=gaussian", f"{Q}.initial_logvar=-3"])
    assert config.model.quantizer.initial_logvar == -3


def test_a_saved_configuration_is_read_whatever_it_says(tmp_path: Path) -> None:
    config = load_run_config(
        recipe(tmp_path, loss={"adversarial_weight": 1, "lecam_weight": 1}), ["loss.adversarial_weight=0"]
    )
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    assert read_json(RunConfig, path) == config


def test_a_layer_has_an_effect_where_one_of_its_configurations_shows_it() -> None:
    given = {"loss": {"lecam_weight": 0.1}}
    off, on = (RunConfig.model_validate(merged(given, {"loss": {"adversarial_weight": w}})) for w in (0, 1))
    assert without_effect(given, off, off) == ["loss.lecam_weight has no effect at loss.adversarial_weight 0"]
    assert without_effect(given, off, on) == without_effect(given, on, off) == []
    assert without_effect({}, off) == []


def test_the_options_of_an_evaluation_go_by_their_own_names() -> None:
    with pytest.raises(UserError) as caught:
        load_section(EvalConfig, ["metrics=[psnr]", "lpips_network=vgg16", "kid_block=9"], EvalConfig())
    assert str(caught.value) == (
        "options: lpips_network has no effect without lpips in metrics; kid_block has no effect without kid in metrics"
    )
    base = EvalConfig(metrics=("kid",), kid_block=9)
    assert load_section(EvalConfig, ["metrics=[psnr]"], base).kid_block == 9, "the run's, not given here"


def test_the_command_refuses_it_before_anything_is_fetched_or_trained(tmp_path: Path, photos: Path) -> None:
    mine = small_recipe(tmp_path, photos, loss={"lecam_weight": 0.5})
    for words in (["--dry-run"], ["--run-dir", tmp_path / "run"]):
        outcome = vaevq("train", mine, *words)
        assert outcome.code == 2
        assert "loss.lecam_weight has no effect at loss.adversarial_weight 0" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [kind for kind in QUANTIZERS if kind != "vaevq"])
@pytest.mark.parametrize("name", ["paper", "quickstart", "released"])
def test_another_quantizer_takes_the_codebook_of_the_recipe_and_no_more(name: str, kind: str) -> None:
    theirs = load_run_config(name)
    shape = {"code_dim": theirs.model.quantizer.code_dim, "codebook_size": 77}
    if kind in ("fsq", "lfq", "bsq"):  # where one of the two follows from the other
        shape = {"code_dim": 10, "codebook_size": 1024}
    mine = load_run_config(name, [f"{Q}.kind={kind}", *(f"{Q}.{option}={value}" for option, value in shape.items())])
    if kind == "vqgan_lc":
        shape["quantize_from"] = round(0.3 * theirs.train.images)
    assert mine.model.quantizer == QUANTIZERS[kind](**shape)  # type: ignore[arg-type]
    assert mine.loss == theirs.loss.model_copy(update={"continuous_path": 0.0})
    assert (mine.model.autoencoder, mine.data, mine.train) == (theirs.model.autoencoder, theirs.data, theirs.train)


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_a_recipes_code_dim_that_is_not_the_number_of_bits_is_refused_with_what_to_write(kind: str) -> None:
    assert refusal("quickstart", [f"{Q}.kind={kind}"]) == (
        "quickstart: model.quantizer: code_dim is log₂ of codebook_size here, and 8 is not that of 1024: "
        "write code_dim: 10 or codebook_size: 256"
    )
    assert load_run_config("quickstart", [f"{Q}.kind=fsq"]).model.quantizer.levels == (4, 4, 2, 2, 2, 2, 2, 2)


def test_the_continuous_path_of_a_recipe_goes_and_one_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    mine = recipe(tmp_path, model={"quantizer": {"rcs_weight": 2, "code_dim": 3}}, loss={"continuous_path": 0.4})
    assert load_run_config(mine, [f"{Q}.kind=simvq"]).loss.continuous_path == 0
    assert load_run_config(mine, [f"{Q}.kind=vaevq"]).loss.continuous_path == 0.4
    assert "loss.continuous_path must be 0" in refusal(mine, [f"{Q}.kind=simvq", "loss.continuous_path=0.1"])
    mine = recipe(tmp_path, model={"quantizer": {"kind": "vq", "commitment_weight": 0.5, "code_dim": 3}})
    assert load_run_config(mine).loss.continuous_path == 0
    back = load_run_config(mine, [f"{Q}.kind=vaevq"])
    assert (back.loss.continuous_path, back.model.quantizer.code_dim) == (0.1, 3)
    assert "loss.continuous_path must be 0" in refusal(mine, ["loss.continuous_path=0.1"])


def test_laying_changes_neither_layer() -> None:
    ground: dict[str, Any] = {
        "variant": "paper",
        "model": {"quantizer": {"rcs_weight": 1.0}},
        "loss": {"continuous_path": 1},
    }
    given = {"model": {"quantizer": {"kind": "vq"}}}
    before = copy.deepcopy((ground, given))
    assert laid(ground, given)["model"]["quantizer"] == {"kind": "vq"}
    assert (ground, given) == before
