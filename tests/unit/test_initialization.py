"""A run that starts from a saved model: what is carried over, resized, adapted and started anew; what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from runs import (
    figures,
    largest_difference,
    last_checkpoint,
    small_recipe,
    small_run,
    small_tree,
    step_batches,
    trained,
    trainer,
    vaevq,
    weights,
)
from vaevq.comparison import read_plan
from vaevq.comparison.cells import DataDigests, Task, configuration, digest
from vaevq.config import load_run_config, merged
from vaevq.tokenizer import Tokenizer
from vaevq.training.initialization import Initialization, with_channels
from vaevq.training.tokenizer_step import TokenizerTrainer


def started(photos: Path, base: Path, **sections: Any) -> tuple[TokenizerTrainer, Initialization]:
    made = trainer(small_run(photos, **merged({"train": {"init_from": str(base)}}, sections)))
    return made, made.initialize(str(base))


def images(channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, 24, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_run_starts_as_the_model_and_quantizes_from_its_first_step(finished: Path, photos: Path) -> None:
    made, told = started(photos, finished)
    model = Tokenizer.from_pretrained(finished)
    state, own = model.state_dict(), made.tokenizer.state_dict()
    counter = "quantizer.images_seen"
    assert int(state.pop(counter)) > 0 == int(own.pop(counter))
    assert largest_difference(own, state) == 0
    assert all(torch.equal(made.averaged.state_dict()[name], state[name]) for name in state)
    assert made.tokenizer.config.quantizer.quantize_from == 0
    assert (told.digest, told.codebook_size) == (model.digest, 16)
    assert sorted(name for part in told.parts for name in part.tensors) == sorted(made.tokenizer.state_dict())
    assert made.averaged.lineage.ancestors[-1].digest == model.digest
    explicit = small_run(
        photos, train={"init_from": str(finished)}, model={"quantizer": {"quantize_from": 8}}
    ).model.quantizer
    assert explicit.quantize_from == 8


@pytest.mark.parametrize("size", [5, 24, 70])
@pytest.mark.parametrize("codebook", ["averaged", "embedding"])
def test_the_codebook_takes_another_size(finished: Path, photos: Path, size: int, codebook: str) -> None:
    quantizer = {"codebook_size": size, "codebook": codebook}
    made, told = started(photos, finished, model={"quantizer": quantizer})
    model = Tokenizer.from_pretrained(finished)
    before, after = model.quantizer.codebook().detach(), made.tokenizer.quantizer.codebook().detach()
    assert len(after) == size
    lineage = made.averaged.lineage
    indices = torch.from_numpy(lineage.map_from(lineage.ancestors[-1]))
    if size < 16:
        apart = torch.cdist(before, after)
        assert len(set(indices.tolist())) == size
        assert float(apart.gather(1, indices[:, None]).mean()) < 0.7 * float(apart.mean())
    else:
        assert indices.tolist() == list(range(16))
        assert len(after.unique(dim=0)) == size
        assert float(torch.cdist(after, before).min(dim=1).values.max()) < float(torch.pdist(before).mean())
    (line,) = [line for line in told.lines() if "codewords" in line]
    assert f"carried over, 16 → {size} codewords" in line
    trained_on = made.config.model_copy()
    assert trained_on.model.quantizer.codebook_size == size


def test_another_code_dim_starts_the_latent_anew_and_keeps_the_rest(finished: Path, photos: Path) -> None:
    made, told = started(photos, finished, model={"quantizer": {"code_dim": 6}})
    model, fresh = Tokenizer.from_pretrained(finished).state_dict(), trainer(made.config).tokenizer.state_dict()
    for name, tensor in made.tokenizer.state_dict().items():
        anew = name.startswith(("head.", "decoder.conv_in.", "quantizer."))
        assert torch.equal(tensor, (fresh if anew else model)[name]), name
    assert made.averaged.lineage.ancestors == ()
    text = "\n".join(told.lines())
    assert "started anew: code_dim 4 → 6" in text
    assert "model.quantizer.quantize_from would let VAEVQ's continuous path go first" in text


@pytest.mark.parametrize(
    ("kind", "carried"),
    [("vq", True), ("vq_ema", True), ("wasserstein", True), ("simvq", False), ("gaussian", False)],
)
def test_another_quantizer_takes_the_codewords_where_it_has_such(
    finished: Path, photos: Path, kind: str, carried: bool
) -> None:
    tree = {"quantizer": {"kind": kind}}
    made, _ = started(photos, finished, model=tree, loss={"continuous_path": 0})
    quantizer = made.tokenizer.quantizer
    if carried:
        assert torch.equal(quantizer.codebook(), Tokenizer.from_pretrained(finished).quantizer.codebook())
    assert (made.averaged.lineage.ancestors != ()) == carried
    made.step(step_batches(made.config, 1)[0])
    assert quantizer.codebook_size == 16
    tree = {"quantizer": {"kind": kind, "codebook_size": 24}}
    told = " ".join(started(photos, finished, model=tree, loss={"continuous_path": 0})[1].lines())
    assert ("16 → 24 codewords" in told) == carried, "what is said is what was done"


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 4), (4, 3), (1, 4), (2, 1), (4, 1)])
def test_other_channels_see_and_give_what_the_old_ones_did(before: int, after: int, patch: int) -> None:
    torch.manual_seed(0)
    first = torch.nn.Conv2d(before * patch**2, 5, 3, padding=1)
    last = torch.nn.Conv2d(5, before * patch**2, 3, padding=1)
    state = {
        "encoder.conv_in.weight": first.weight,
        "decoder.conv_out.weight": last.weight,
        "decoder.conv_out.bias": last.bias,
    }
    found = with_channels(state, before, after)
    grey = torch.rand(2, 1, 8, 8)
    colours, new_colours = (1, 3)[before > 2], (1, 3)[after > 2]

    def seen(weight: torch.Tensor, channels: int, tint: int) -> torch.Tensor:
        """What a convolution makes of grey pictures, their alpha channel, if any, at 0."""
        picture = torch.zeros(2, channels, 8, 8)
        picture[:, :tint] = grey
        return torch.conv2d(torch.pixel_unshuffle(picture, patch), weight, first.bias, padding=1)

    now = seen(found["encoder.conv_in.weight"], after, new_colours)
    torch.testing.assert_close(now, seen(first.weight, before, colours))
    features = torch.rand(2, 5, 4, 4)

    def given(weight: torch.Tensor, bias: torch.Tensor, tint: int) -> torch.Tensor:
        """The mean over colours of what comes out."""
        return torch.pixel_shuffle(torch.conv2d(features, weight, bias, padding=1), patch)[:, :tint].mean(dim=1)

    assert last.bias is not None
    now = given(found["decoder.conv_out.weight"], found["decoder.conv_out.bias"], new_colours)
    torch.testing.assert_close(now, given(last.weight, last.bias, colours))


def test_colours_that_stay_are_as_they_were(finished: Path, photos: Path) -> None:
    made, told = started(photos, finished, model={"autoencoder": {"image_channels": 4}})
    opaque = torch.cat([images(), torch.ones(2, 1, 24, 32)], dim=1)
    old, new = Tokenizer.from_pretrained(finished), made.averaged
    assert torch.equal(new.encode(opaque), old.encode(images()))
    tokens = old.encode(images())
    torch.testing.assert_close(new.decode(tokens)[:, :3], old.decode(tokens))
    torch.testing.assert_close(new.decode(tokens)[:, 3], old.decode(tokens).mean(dim=1))
    assert any("carried over, 3 → 4 image channels" in line for line in told.lines())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"autoencoder": {"base_width": 16}}, "model.autoencoder.base_width is 8 there and 16 here"),
        ({"autoencoder": {"decoder_width": 16}}, "model.autoencoder.decoder_width is 8 there and 16 here"),
        ({"autoencoder": {"multipliers": [1, 1]}}, "model.autoencoder.multipliers is (1, 2) there and (1, 1) here"),
        ({"autoencoder": {"normalization": "none"}}, "normalization is 'group' there and 'none' here"),
    ],
)
def test_other_networks_are_refused_by_the_first_difference(
    finished: Path, photos: Path, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    recipe = small_recipe(tmp_path, photos, model=model)
    for words in (["--run-dir", tmp_path / "run"], ["--dry-run"]):
        outcome = vaevq("train", recipe, "--init-from", finished, *words)
        assert outcome.code == 2
        assert f"train.init_from: {finished} does not fit: " in outcome.err
        assert outcome.err.rstrip().endswith(message)
    assert not (tmp_path / "run").exists()


def saved(folder: Path, photos: Path, quantizer: dict[str, Any], vectors: int = 0) -> Path:
    """A model of another kind of quantizer, untrained; its codebook made of vectors of that dimension where asked."""
    made = trainer(small_run(photos, model={"quantizer": quantizer}, loss={"continuous_path": 0})).averaged
    if vectors:
        made.quantizer.fit(torch.randn(16, vectors, generator=torch.Generator().manual_seed(1)), 0)
    made.save_pretrained(folder)
    return folder


FEATURES = {"kind": "vqgan_lc", "features": "away.safetensors", "feature_dim": 6}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"kind": "simvq"}, {"codebook_size": 20}, "codebook_size 16 → 20"),
        ({"kind": "simvq"}, {"kind": "vq", "codebook_size": 20}, "codebook_size 16 → 20"),
        ({"kind": "softvq"}, {"kind": "vq"}, "kind softvq → vq"),
        ({"kind": "ibq"}, {"kind": "vq"}, "kind ibq → vq"),
        ({"kind": "movq", "codes_per_position": 1}, {"kind": "vq"}, "kind movq → vq"),
        ({"kind": "residual"}, {"codes_per_position": 2}, "codes_per_position 4 → 2"),
        ({"kind": "residual"}, {"codebook": "embedding"}, "codebook averaged → embedding"),
        ({"kind": "residual"}, {"shared_codebook": True}, "shared_codebook False → True"),
        ({"kind": "fsq", "codebook_size": 24}, {"levels": [2, 2, 3, 2]}, "levels (3, 2, 2, 2) → (2, 2, 3, 2)"),
        ({"kind": "lfq"}, {"kind": "bsq"}, "kind lfq → bsq"),
        (FEATURES, {"features": "other.safetensors"}, "features away.safetensors → other.safetensors"),
        (FEATURES, {"feature_dim": 5}, "feature_dim 6 → 5"),
    ],
)
def test_a_codebook_of_another_form_starts_anew_as_a_whole_and_it_is_said(
    photos: Path, tmp_path: Path, before: dict[str, Any], after: dict[str, Any], reason: str
) -> None:
    base = saved(tmp_path / "base", photos, before, before.get("feature_dim", 0))
    quantizer = after if "kind" in after else before | after
    made, told = started(photos, base, model={"quantizer": quantizer}, loss={"continuous_path": 0})
    assert f"started anew: {reason}" in "\n".join(told.lines())
    assert "quantize_from" not in "\n".join(told.lines()), "a hint for VAEVQ alone"
    assert made.averaged.lineage.ancestors == ()
    fresh = trainer(made.config).tokenizer.state_dict()
    own = made.tokenizer.state_dict()
    assert all(torch.equal(own[name], fresh[name]) for name in own if name.startswith("quantizer."))
    assert torch.equal(own["head.mean.weight"], Tokenizer.from_pretrained(base).state_dict()["head.mean.weight"])


@pytest.mark.parametrize(
    ("quantizer", "vectors"),
    [
        ({"kind": "simvq"}, 0),
        ({"kind": "softvq"}, 0),
        ({"kind": "residual"}, 0),
        ({"kind": "fsq"}, 0),
        ({"kind": "lfq"}, 0),
        ({"kind": "bsq"}, 0),
        (FEATURES, 6),
    ],
)
def test_a_quantizer_of_the_same_form_goes_on_with_its_lineage(
    photos: Path, tmp_path: Path, quantizer: dict[str, Any], vectors: int
) -> None:
    base = saved(tmp_path / "base", photos, quantizer, vectors)
    made, told = started(photos, base, model={"quantizer": quantizer}, loss={"continuous_path": 0})
    model = Tokenizer.from_pretrained(base)
    assert largest_difference(made.tokenizer.state_dict(), model.state_dict()) == 0
    assert made.averaged.lineage.ancestors[-1].digest == model.digest
    assert any(part.name == "quantizer" and part.what == "carried over" for part in told.parts)
    assert made.tokenizer.quantizer.is_fitted


def test_simvqs_codewords_are_carried_over_as_points_and_unmade_ones_are_not(photos: Path, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", photos, {"kind": "simvq"})
    made, _ = started(photos, base, model={"quantizer": {"kind": "vq"}}, loss={"continuous_path": 0})
    assert torch.equal(made.tokenizer.quantizer.codebook(), Tokenizer.from_pretrained(base).quantizer.codebook())
    base = saved(tmp_path / "unmade", photos, FEATURES)
    made, told = started(photos, base, model={"quantizer": FEATURES}, loss={"continuous_path": 0})
    assert "started anew: the model's codebook is not made yet" in "\n".join(told.lines())
    assert made.averaged.lineage.ancestors == ()


def test_a_codebook_that_is_made_needs_its_features_no_more_and_waits_for_nothing(photos: Path, tmp_path: Path) -> None:
    tree = small_tree(photos, loss={"continuous_path": 0})
    del tree["model"]
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(tree))
    base = saved(tmp_path / "base", photos, FEATURES, 6)
    outcome = vaevq("train", tmp_path / "tune.yaml", "--init-from", base, "--run-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    words = ["--run-dir", tmp_path / "other", "model.quantizer.features=other.safetensors"]
    outcome = vaevq("train", tmp_path / "tune.yaml", "--init-from", base, *words)
    assert outcome.code == 2
    assert "feature_dim is needed beside a file" in outcome.err, "what went with another file is not given"
    outcome = vaevq("train", tmp_path / "tune.yaml", "--init-from", base, *words, "model.quantizer.feature_dim=6")
    assert outcome.code == 2
    assert "other.safetensors: no such file (model.quantizer.features)" in outcome.err
    assert not (tmp_path / "other").exists()
    base = saved(tmp_path / "warm", photos, {"kind": "vqgan_lc"}, 4)
    words = ["--run-dir", tmp_path / "warm_run", "model.quantizer.quantize_from=4"]
    outcome = vaevq("train", tmp_path / "tune.yaml", "--init-from", base, *words)
    assert outcome.code == 0, outcome.err
    assert "the continuous path goes first" not in outcome.err
    assert "model.quantizer.quantize_from does nothing here" in outcome.err


def test_what_followed_from_an_option_of_the_model_gives_way_with_it(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tune.yaml"
    tree = small_tree(photos)
    del tree["model"]
    recipe.write_text(yaml.safe_dump(tree))
    fsq = {"kind": "fsq", "levels": [4, 2, 2, 2], "code_dim": 4, "codebook_size": 32}
    for words, levels in (([], (4, 2, 2, 2)), (["codebook_size=81"], (3, 3, 3, 3)), (["code_dim=5"], (2,) * 5)):
        given = [f"model.quantizer.{word}" for word in words]
        found = load_run_config(
            recipe, ["loss.continuous_path=0", *given], {"train": {"init_from": "base"}}, lambda _: {"quantizer": fsq}
        )
        assert getattr(found.model.quantizer, "levels", None) == levels
    network = {"kind": "vqgan_lc", "features": "vgg16", "feature_weights": "vgg.pt"}
    found = load_run_config(
        recipe,
        ["loss.continuous_path=0", "model.quantizer.features=alexnet"],
        {"train": {"init_from": "base"}},
        lambda _: {"quantizer": network},
    )
    assert getattr(found.model.quantizer, "feature_weights", "") is None


@pytest.fixture(scope="module")
def tuned(finished: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, fine-tuned from the finished one, with another loss and half the codewords."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(finished, folder / "base")
    (folder / "tune.yaml").write_text(yaml.safe_dump(tuning(photos)))
    outcome = vaevq("train", folder / "tune.yaml", "--init-from", folder / "base", "--run-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    (folder / "told.txt").write_text(outcome.err)
    return folder


def tuning(photos: Path) -> dict[str, Any]:
    """A recipe that says nothing of the networks, and of the codebook its size."""
    tree = small_tree(photos, loss={"pixel": "l1"}, train={"checkpoint_every": 4, "keep_checkpoints": 9})
    return tree | {"model": {"quantizer": {"codebook_size": 8}}}


def test_the_command_says_what_became_of_the_weights_and_the_run_keeps_it(tuned: Path) -> None:
    told, digest = (tuned / "told.txt").read_text(), Tokenizer.from_pretrained(tuned / "base").digest
    assert f"weights from {tuned / 'base'} (model {digest}, K = 16)" in told
    assert re.search(r"encoder +carried over, \d+ tensors", told)
    assert re.search(r"quantizer\.codebook +carried over, 16 → 8 codewords, 4 tensors", told)
    assert re.search(r"optimizers +started anew", told)
    assert "the continuous path goes first" not in told
    kept = json.loads((tuned / "run" / "init.json").read_text())
    assert (kept["digest"], kept["codebook_size"]) == (digest, 16)
    assert {"name": "optimizers", "what": "started anew", "tensors": []} in kept["parts"]
    config = json.loads((tuned / "run" / "config.json").read_text())
    assert config["train"]["init_from"] == str(tuned / "base")
    assert config["model"]["autoencoder"]["base_width"] == 8, "the model's, where the recipe says nothing"
    assert config["model"]["quantizer"]["quantize_from"] == 0


@pytest.mark.parametrize("images", [0, 8])
def test_it_goes_on_without_starting_from_the_model_again(tuned: Path, tmp_path: Path, images: int) -> None:
    shutil.copytree(tuned / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*.pt"):
        if int(path.stem) > images:
            path.unlink()
    words = [tuned / "tune.yaml", "--init-from", tuned / "base", "--run-dir", tmp_path / "run", "--quiet"]
    outcome = vaevq("train", *words)
    assert outcome.code == 0, outcome.err
    one, another = last_checkpoint(tuned / "run"), last_checkpoint(tmp_path / "run")
    assert all(torch.equal(one[name], another[name]) for name in one)
    assert largest_difference(weights(tuned / "run"), weights(tmp_path / "run")) == 0
    assert figures(tuned / "run") == figures(tmp_path / "run")


def test_a_model_that_has_changed_since_or_is_gone_is_refused(tuned: Path, finished: Path, tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(finished, base)
    words = ["train", tuned / "tune.yaml", "--init-from", base, "--run-dir", run, "--quiet"]
    assert vaevq(*words).code == 0
    tokenizer = Tokenizer.from_pretrained(base)
    before = tokenizer.digest
    with torch.no_grad():
        tokenizer.head.mean.weight.mul_(2)
    tokenizer.save_pretrained(base / "model")
    outcome = vaevq(*words)
    assert outcome.code == 2
    assert f"{run} was started from model {before}, and {base} is model {tokenizer.digest} by now" in outcome.err
    shutil.rmtree(base)
    outcome = vaevq(*words)
    assert outcome.code == 2
    assert f"{base}: no such folder" in outcome.err


def test_a_run_that_starts_elsewhere_is_another_run(tuned: Path, finished: Path) -> None:
    outcome = vaevq("train", tuned / "tune.yaml", "--init-from", finished, "--run-dir", tuned / "run")
    assert outcome.code == 2
    assert "holds a run with another configuration (train.init_from: " in outcome.err


def test_a_packaged_recipe_gives_way_to_the_models_networks(finished: Path, photos: Path, tmp_path: Path) -> None:
    words = ["train.images=8", "train.batch_size=4", "data.image_size=16", "data.resize=32", "loss.perceptual_weight=0"]
    words += ["eval.metrics=[psnr]", "eval.resize=32", "train.tensorboard=false", "loss.pixel=l1"]
    run = tmp_path / "run"
    outcome = vaevq("train", "--data", photos, "--init-from", finished, "--run-dir", run, "--quiet", *words)
    assert outcome.code == 0, outcome.err
    config = json.loads((run / "config.json").read_text())
    theirs = json.loads((finished / "config.json").read_text())
    assert config["model"]["autoencoder"] == theirs["model"]["autoencoder"]
    assert config["model"]["quantizer"] == {**theirs["model"]["quantizer"], "quantize_from": 0}


def test_tokens_of_the_model_before_are_refused_by_name_and_remapped_where_asked(
    tuned: Path, photos: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.safetensors"
    assert vaevq("encode", photos / "cat-0.png", "--model", tuned / "base", "-o", tokens).code == 0
    base, run = Tokenizer.from_pretrained(tuned / "base"), Tokenizer.from_pretrained(tuned / "run")
    outcome = vaevq("decode", tokens, "--model", tuned / "run", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert f"was made by model {base.digest} (K = 16), from which this model, {run.digest} (K = 8)" in outcome.err
    assert "--remap" in outcome.err
    outcome = vaevq("decode", tokens, "--model", tuned / "run", "-o", tmp_path / "out", "--remap")
    assert outcome.code == 0, outcome.err
    assert f"remapped from model {base.digest} (K = 16) to {run.digest} (K = 8)" in outcome.err
    assert (tmp_path / "out" / "cat-0.png").is_file()
    outcome = vaevq("decode", tokens, "--model", tuned / "base", "-o", tmp_path / "own", "--remap")
    assert outcome.code == 0, outcome.err
    assert "remapped" not in outcome.err
    ancestors = json.loads(vaevq("inspect", tuned / "run", "--json").out)["ancestors"]
    assert ancestors[0] != run.digest
    assert base.digest in ancestors


def test_tokens_of_strangers_stay_refused(tuned: Path, finished: Path, photos: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.safetensors"
    assert vaevq("encode", photos / "cat-0.png", "--model", tuned / "run", "-o", tokens).code == 0
    outcome = vaevq("decode", tokens, "--model", finished, "-o", tmp_path / "out", "--remap")
    assert outcome.code == 2
    assert "decode it with the model that made it" in outcome.err


def test_a_cell_depends_on_which_model_a_run_starts_from_and_not_on_where_it_lies(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    places = [finished, Path(shutil.copytree(finished, tmp_path / "copy")), tmp_path / "other"]
    made, _ = trained(small_run(photos), 1)
    made.averaged.save_pretrained(places[2])
    data = DataDigests("aa", "bb")
    configs = [small_run(photos), *(small_run(photos, train={"init_from": str(place)}) for place in places)]
    none, here, there, other = (digest(config, data, "code") for config in configs)
    assert here == there
    assert len({none, here, other}) == 3
    assert "init_from" not in configuration(configs[1])["train"]
    assert Task("row", 3, configs[1], data, "code").name == Task("row", 3, configs[2], data, "code").name


def test_a_plan_may_start_rows_from_a_model(finished: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(small_tree(photos, train={"images": 8})))
    rows = {"anew": {}, "tuned": {"train": {"init_from": str(finished)}}}
    plan = {"base": "base.yaml", "reference": "anew", "seeds": [0], "rows": rows}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert read_plan(tmp_path / "plan.yaml").rows[1].config.model.quantizer.quantize_from == 0
    outcome = vaevq("compare", tmp_path / "plan.yaml", "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    (group,) = json.loads(outcome.out)["groups"]
    psnr = {row["row"]: row["figures"]["psnr"]["mean"] for row in group["rows"]}
    assert psnr["tuned"] > psnr["anew"]
