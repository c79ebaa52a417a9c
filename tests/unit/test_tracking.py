"""The training run's log: what is on disk after a run, a kill and a continuation, and what is printed where."""

import io
import json
import os
import pty
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vaevq.errors import UserError
from vaevq.training import display
from vaevq.training.display import LiveDisplay, Pace, choose_display
from vaevq.training.tracking import Tracker, drop_metrics_after, read_metrics

SAMPLED = {"model": {"quantizer": {"kind": "vaevq", "quantize": "sample"}}}
TRAIN = {"loss/total": 0.5, "loss/pixel": 0.25, "codebook/usage_training_queries": 0.981, "learning_rate": 6e-4}
HELD_OUT = {"psnr": 24.314, "usage": 0.913, "perplexity": 512.4}


def tracker(run_dir: Path, start: int = 0, **options: Any) -> Tracker:
    given = {"tensorboard": False, "wandb": False, "run_config": SAMPLED, "quiet": True, **options}
    return Tracker(run_dir, total_images=1000, start_images=start, **given)


def log_run(run_dir: Path, at: Sequence[int], start: int = 0) -> None:
    with tracker(run_dir, start) as log:
        for images_seen in at:
            log.train(images_seen, {"loss/total": 1 / images_seen})
            if images_seen % 200 == 0:
                log.held_out(images_seen, {"psnr": images_seen / 50})


def without_times(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_each_line_of_the_log_is_one_json_object_on_disk_at_once(tmp_path: Path) -> None:
    with tracker(tmp_path) as log:
        log.train(100, TRAIN)
        log.held_out(100, HELD_OUT)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # before the log is closed
    first, second = (json.loads(line) for line in lines)
    assert first.items() >= {"images_seen": 100, "split": "train", **TRAIN}.items()
    assert second.items() >= {"images_seen": 100, "split": "held_out", **HELD_OUT}.items()
    assert second["seconds"] >= first["seconds"] >= 0


def test_a_killed_and_continued_run_has_the_log_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    log_run(whole, [100, 200, 300, 400, 500])
    log_run(killed, [100, 200, 300])  # the checkpoint is that of 200
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"images_seen": 400, "split": "tr')
    log_run(killed, [300, 400, 500], start=200)
    assert without_times(killed) == without_times(whole)
    seconds = [row["seconds"] for row in read_metrics(killed / "metrics.jsonl")]
    assert seconds == sorted(seconds)


def test_a_run_killed_before_its_first_checkpoint_starts_its_log_again(tmp_path: Path) -> None:
    with tracker(tmp_path) as log:
        log.held_out(0, HELD_OUT)
    log_run(tmp_path, [100])
    assert [row["images_seen"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [100]


def test_seconds_are_those_of_all_sittings(tmp_path: Path, clock: list[float]) -> None:
    for start in (0, 100):
        with tracker(tmp_path, start) as log:
            clock[0] += 10
            log.train(start + 100, TRAIN)
        clock[0] += 1000  # nothing runs
    assert [row["seconds"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]


def test_a_log_without_later_lines_is_left_as_it_is(tmp_path: Path) -> None:
    log_run(tmp_path, [100, 200])
    file = tmp_path / "metrics.jsonl"
    before = (file.read_bytes(), file.stat().st_ino)
    drop_metrics_after(file, 200)
    assert (file.read_bytes(), file.stat().st_ino) == before


def test_read_metrics_leaves_out_a_torn_line_and_takes_an_absent_file_for_empty(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_metrics(file) == []
    file.write_bytes(b'{"images_seen": 1, "split": "train", "seconds": 0.1}\n{"images_seen": 2, "name": "\xc3')
    assert [row["images_seen"] for row in read_metrics(file)] == [1]


def test_values_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    with tracker(tmp_path) as log:
        log.held_out(100, {"psnr": float("inf"), "usage": float("nan")})
    line = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["psnr"] is None
    assert row["usage"] is None


def test_without_a_terminal_each_interval_is_one_line_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with tracker(tmp_path, quiet=False) as log:
        log.message("skipped \x1b[31mred\udce9.png: damaged")
        log.progress(50)
        log.train(100, TRAIN)
        log.held_out(100, HELD_OUT)
    printed = capsys.readouterr()
    assert printed.out == ""
    message, train, held_out = printed.err.splitlines()
    assert message == r"skipped \x1b[31mred\udce9.png: damaged"
    assert train.startswith("100/1,000 images | ")
    assert "loss: total 0.5, pixel 0.25 | training queries, sampled: usage 98.1 %" in train
    assert held_out == "100 images | held-out, deterministic: PSNR 24.31 dB, usage 91.3 %, perplexity 512"
    assert all(c.isprintable() or c == "\n" for c in printed.err)


def test_quiet_prints_nothing_and_writes_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker(tmp_path, quiet=True) as log:
        log.message("skipped one.png: damaged")
        log.train(100, TRAIN)
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "log.txt").read_text().endswith("  skipped one.png: damaged\n")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_other_processes_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker(tmp_path / "run", quiet=False, enabled=False, wandb=True) as log:
        log.message("text")
        log.progress(50)
        log.train(100, TRAIN)
        log.held_out(100, HELD_OUT)
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "run").exists()


def test_a_stream_that_cannot_hold_a_character_gets_its_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    choose_display(Pace(10, 0), "training queries", quiet=False).message("naïve.png")
    assert stream.buffer.getvalue() == b"na\\xefve.png\n"  # type: ignore[attr-defined]


def test_a_terminal_gets_the_live_display_and_a_dumb_one_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    _, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm-256color")
        assert isinstance(choose_display(Pace(10, 0), "training queries", quiet=False), LiveDisplay)
        monkeypatch.setenv("TERM", "dumb")
        assert not isinstance(choose_display(Pace(10, 0), "training queries", quiet=False), LiveDisplay)


def test_the_live_display_shows_every_term_and_says_what_is_held_out() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    live = LiveDisplay(Pace(1000, 100), "training queries, sampled", console)
    live.train(TRAIN)
    live.held_out(100, HELD_OUT)
    console.print(live.render())
    shown = console.file.getvalue().replace("\u00a0", " ")  # type: ignore[attr-defined]
    for part in ("100 / 1,000 images", "images/s", "left", "total 0.5", "pixel 0.25", "learning rate 0.0006"):
        assert part in shown
    sampled, held_out = (next(x for x in shown.splitlines() if name in x) for name in ("sampled", "held-out"))
    assert "usage 98.1 %" in sampled
    assert "deterministic" in held_out
    assert "PSNR 24.31 dB   usage 91.3 %   perplexity 512" in held_out


def test_pace_is_recent_and_leaves_evaluations_out(clock: list[float]) -> None:
    pace = Pace(10_000, 0)
    for step in range(1, 11):  # 100 images/s for 100 s
        clock[0] = 100 + 10 * step
        pace.reach(1000 * step // 2)
    assert pace.images_per_second == pytest.approx(50)
    clock[0] += 100  # an evaluation as long as all training before it
    pace.skip_pause()
    assert pace.images_per_second == pytest.approx(50)
    assert pace.seconds_left == pytest.approx(2 * 5000 / 50)
    clock[0] += 40  # slower now: the window holds this alone
    pace.reach(5400)
    assert pace.images_per_second == pytest.approx(10)
    assert pace.elapsed == pytest.approx(240)


def test_pace_knows_no_rate_before_there_is_progress_and_none_of_the_part_before_a_resume(clock: list[float]) -> None:
    pace = Pace(10_000, 9_000)
    assert pace.images_per_second == 0
    assert pace.seconds_left is None
    clock[0] += 10
    pace.reach(9_100)
    assert pace.images_per_second == pytest.approx(10)


def test_tensorboard_shows_a_continued_run_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, at in ((0, [100, 200, 300]), (200, [300, 400])):
        with tracker(tmp_path, start, tensorboard=True) as log:
            for images_seen in at:
                log.train(images_seen, {"loss/total": float(start)})
            log.held_out(images_seen, {"psnr": 20.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/total")] == [(100, 0), (200, 0), (300, 200), (400, 200)]
    assert [e.step for e in events.Scalars("held_out/psnr")] == [400]


def test_tensorboard_is_imported_only_where_it_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it would fail
    with tracker(tmp_path) as log:
        log.train(100, TRAIN)
    assert not (tmp_path / "tensorboard").exists()


def test_wandb_that_is_not_installed_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install "vaevq\[wandb\]"') as error, tracker(tmp_path, wandb=True):
        pass
    assert "\n" not in str(error.value)


class FakeRun:
    """What of a W&B run the tracker uses, written down."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.exit_codes: list[int] = []

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "images_seen")

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


def test_wandb_gets_every_value_and_a_continued_run_keeps_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, given = FakeRun(), []
    fake = types.SimpleNamespace(init=lambda **options: given.append(options) or run, Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for start in (0, 100):
        with tracker(tmp_path, start, wandb=True) as log:
            log.train(start + 100, TRAIN)
            log.held_out(start + 100, HELD_OUT)
    first, second = given
    assert first["id"] == second["id"]
    assert first["config"] == SAMPLED
    assert run.logged[0].items() >= {"images_seen": 100, "loss/total": 0.5, "train/learning_rate": 6e-4}.items()
    assert run.logged[-1] == {"images_seen": 200, **{f"held_out/{name}": value for name, value in HELD_OUT.items()}}
    assert run.exit_codes == [0, 0]


def test_wandb_that_cannot_log_in_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("api_key not configured\nmore")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse, Error=RuntimeError))
    with pytest.raises(UserError, match="api_key not configured; set WANDB_MODE"), tracker(tmp_path, wandb=True):
        pass
