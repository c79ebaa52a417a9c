"""The search for a codebook's size: when it moves and when it waits, and what follows of it in a run."""

import json
import math
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import (
    ADAPTIVE,
    figures,
    last_checkpoint,
    metrics,
    small_recipe,
    small_run,
    step_batches,
    tensors,
    trained,
    trainer,
    vaevq,
    weights,
)
from vaevq.config import AdaptConfig, RunConfig, merged
from vaevq.data.tokens import read_token_file
from vaevq.tokenizer import Tokenizer
from vaevq.training.adaptation import Search

UP, DOWN = {"perplexity_share": 0.01}, {"perplexity_share": 0.99}
BY_GRADIENT: dict[str, Any] = {"model": {"quantizer": {"codebook": "embedding"}}}


def adaptive(photos: Path, **sections: Any) -> RunConfig:
    return small_run(photos, **merged(ADAPTIVE, sections))


def sizes(figure_of: Any, start: int, looks: int = 60, target: float = 0.5) -> list[int]:
    """The sizes that a search goes through, of a codebook whose figure is a function of its size."""
    search, size, config = Search(), start, AdaptConfig(by="usage", min_size=16, max_size=2**16)
    found = [size]
    for _ in range(looks):
        search = search.after(figure_of(size), target)
        size = search.size(size, config)
        found += [size] if size != found[-1] else []
    return found


@pytest.mark.parametrize("start", [16, 256, 16_384, 65_536])
@pytest.mark.parametrize("right", [30, 700, 5_000])
def test_the_search_ends_at_the_size_from_below_and_from_above(start: int, right: int) -> None:
    found = sizes(lambda size: 0.5 * (right / size) ** 0.5, start)
    assert abs(math.log2(found[-1] / right)) < 1 / 4, found
    steps = [round(8 * abs(math.log2(after / before))) for before, after in pairwise(found)]
    assert max(steps) <= 8
    assert steps == sorted(steps, reverse=True), "steps get smaller and never larger"


def test_the_search_stays_within_its_bounds() -> None:
    assert sizes(lambda size: 1.0, 256)[-1] == 2**16
    assert sizes(lambda size: 0.0, 256)[-1] == 16


def test_one_look_decides_nothing_and_a_figure_on_its_way_is_waited_for() -> None:
    once = Search().after(0.1, 0.8)
    assert once.direction == 0
    rising = once.after(0.2, 0.8)
    assert rising.direction == 0
    assert rising.after(0.2, 0.8) == Search(1.0, -1)
    assert rising.after(0.15, 0.8) == Search(1.0, -1), "it goes away"
    assert rising.after(0.95, 0.8).direction == 0, "it has come nearer, on the other side"
    assert rising.after(0.95, 0.8).after(0.96, 0.8) == Search(1.0, 1)


@pytest.mark.parametrize("by", ["usage", "distortion"])
@pytest.mark.parametrize("sections", [{}, {"model": {"quantizer": {"kind": "vq_ema"}}, "loss": {"continuous_path": 0}}])
def test_a_codebook_grows_and_shrinks_while_it_trains(photos: Path, by: str, sections: dict[str, Any]) -> None:
    wanted = {"usage": (UP, DOWN), "distortion": ({"gain": 1e-6}, {"gain": 0.9})}[by]
    found = []
    for target in wanted:
        made, losses = trained(adaptive(photos, **merged(sections, {"adapt": {"by": by, **target}})), 10)
        size = made.tokenizer.quantizer.codebook_size
        assert made.tokenizer.config.quantizer.codebook_size == made.averaged.quantizer.codebook_size == size
        assert made.tokens.counts.numel() == size
        assert all(math.isfinite(value) for row in losses for value in row.values())
        found.append(size)
    assert found[0] > 16 > found[1]


def test_a_look_is_said_in_a_line(photos: Path) -> None:
    made, _ = trained(adaptive(photos, adapt=DOWN), 5)
    assert re.fullmatch(r"codebook: 16 → 8 codewords \(perplexity is [\d.]+% of K, wanted 99.0%\)", str(made.look))
    assert trained(adaptive(photos, adapt=DOWN), 4)[0].look is None


@pytest.mark.parametrize("target", [UP, DOWN])
def test_a_descended_codebook_takes_its_moments_along(photos: Path, target: dict[str, Any]) -> None:
    config = adaptive(photos, **merged(BY_GRADIENT, {"adapt": target}))
    batches = step_batches(config, 6)
    made = trainer(config)
    for step in batches[:4]:
        made.step(step)
    before = made.tokenizer.quantizer.codebook.embedding
    moments = made.optimizer.state[before]["exp_avg_sq"].clone()
    gradients = list[torch.Tensor]()
    made.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(made.tokenizer.quantizer.codebook.embedding.grad.clone())
    )
    made.step(batches[4])
    assert made.look is not None
    assert made.look.resizing is not None
    after, source = made.tokenizer.quantizer.codebook.embedding, made.look.resizing.source
    assert after is not before
    assert any(after is p for p in made.optimizer.param_groups[0]["params"])
    assert not any(before is p for group in made.optimizer.param_groups for p in group["params"])
    assert before not in made.optimizer.state
    state = made.optimizer.state[after]
    assert float(state["step"]) == 5
    beta = config.train.betas[1]
    norm = (state["exp_avg_sq"] - beta * moments[source]) / (1 - beta)
    torch.testing.assert_close(norm, gradients[0].square(), atol=1e-12, rtol=1e-3)
    assert made.averaged.quantizer.codebook.embedding.shape == after.shape
    unmoved = after.detach().clone()
    made.step(batches[5])
    assert not torch.equal(made.tokenizer.quantizer.codebook.embedding, unmoved), "the optimizer has the new one"


def test_codewords_that_had_to_be_revived_count_as_unused(photos: Path) -> None:
    config = adaptive(photos, model={"quantizer": {"revive_below": 0.99, "average_decay": 0.1}})
    made = trainer(config)
    for step in step_batches(config, 2):
        made.step(step)
    adaptation = made.adaptation
    assert adaptation is not None
    state = adaptation.state_dict()
    assert 0 < int(state["revived"].sum()) < 16
    used = (state["table"][:, 0] > 0) & ~state["revived"]
    adaptation.config = adaptation.config.model_copy(update={"perplexity_share": 0.5})
    look = adaptation.look(8)
    assert look is not None
    share = float(look.figure.split()[2].rstrip("%")) / 100
    assert share <= (int(used.sum()) + 2) / 16


@pytest.fixture(scope="module", params=["averaged", "embedding"])
def runs(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that grows, and one that goes on from each of its checkpoints."""
    folder = tmp_path_factory.mktemp(f"adaptive-{request.param}")
    sections = merged(ADAPTIVE, {"adapt": {"perplexity_share": 0.4}, "train": {"checkpoint_every": 4}})
    sections = merged(
        sections, {"train": {"keep_checkpoints": 20}, "model": {"quantizer": {"codebook": request.param}}}
    )
    recipe = small_recipe(folder, photos, **sections)
    outcome = vaevq("train", recipe, "--run-dir", folder / "run", "--quiet")
    assert outcome.code == 0, outcome.err
    return folder


def test_a_run_goes_on_across_a_resize_to_the_last_bit(runs: Path) -> None:
    run = runs / "run"
    found = [row["codebook/size"] for row in metrics(run) if row["split"] == "train"]
    assert len(set(found)) > 1, "or nothing is tried here"
    state, model = last_checkpoint(run), weights(run)
    for images in (4, 12, 16, 20, 32):
        shutil.copytree(run, runs / "again")
        for path in (runs / "again" / "checkpoints").glob("*.pt"):
            if int(path.stem) > images:
                path.unlink()
        (runs / "again" / "eval.json").unlink()
        outcome = vaevq("train", runs / "small.yaml", "--run-dir", runs / "again", "--quiet")
        assert outcome.code == 0, outcome.err
        again = last_checkpoint(runs / "again")
        assert again.keys() == state.keys()
        assert all(torch.equal(again[name], state[name]) for name in state)
        assert all(torch.equal(tensor, model[name]) for name, tensor in weights(runs / "again").items())
        assert metrics(runs / "again") == metrics(run)
        assert figures(runs / "again") == figures(run)
        lineages = [(folder / "model" / "lineage.json").read_text() for folder in (run, runs / "again")]
        assert lineages[0] == lineages[1]
        shutil.rmtree(runs / "again")


def test_all_that_a_run_leaves_has_the_size_that_was_found(runs: Path, photos: Path, tmp_path: Path) -> None:
    run = runs / "run"
    tokenizer = Tokenizer.from_pretrained(run)
    size = tokenizer.quantizer.codebook_size
    assert size != 16
    assert json.loads((run / "model" / "config.json").read_text())["quantizer"]["codebook_size"] == size
    assert [row for row in metrics(run) if row["split"] == "train"][-1]["codebook/size"] == size
    assert len(json.loads((run / "eval.json").read_text())["histogram"]) == size
    assert f"{size} codewords" in (run / "report.html").read_text()
    assert json.loads(vaevq("inspect", run, "--json").out)["codebook_size"] == size
    assert vaevq("inspect", run, "--diagnose").code == 0
    assert "→" in (run / "log.txt").read_text()
    outcome = vaevq("encode", photos, "--model", run, "-o", tmp_path / "t.safetensors")
    assert outcome.code == 0, outcome.err
    assert read_token_file(tmp_path / "t.safetensors").codebook_size == size


def test_a_state_of_one_size_is_taken_by_a_trainer_of_another(photos: Path) -> None:
    config = adaptive(photos, adapt=UP)
    made, _ = trained(config, 5)
    other = trainer(config)
    assert other.tokenizer.quantizer.codebook_size == 16
    other.load_state_dict(made.state_dict())
    one, another = tensors(made.state_dict()), tensors(other.state_dict())
    assert one.keys() == another.keys()
    assert all(torch.equal(one[name], another[name]) for name in one)
