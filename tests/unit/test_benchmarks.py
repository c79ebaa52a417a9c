"""What the benchmarks compare is the same, and their helpers count right; how fast anything is, no test says."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import loading, search, training
from benchmarks.measuring import MIB, Row, Settings, as_json, as_table, medians, peak_mib
from benchmarks.pictures import write_photos, write_shard
from benchmarks.plain_released import PlainStep
from vaevq.config import DataConfig
from vaevq.data.index import find_images


def test_a_goal_is_reached_on_its_own_side_of_the_bound() -> None:
    assert Row("w", "a", 1.25, "≤ 1.25").reached
    assert not Row("w", "a", 1.26, "≤ 1.25").reached
    assert Row("w", "a", 5.0, "≥ 5").reached
    assert not Row("w", "a", 4.9, "≥ 5").reached
    assert not Row("w", "a", 65.0, "≤ 64 MiB").reached
    assert Row("w", "a", 65.0).reached is None


def test_rows_as_a_table_and_as_json() -> None:
    rows = [Row("work", "limit", 1.2345, "≤ 1.25", {"ours": 2.0}), Row("memory", "nothing", 70, "≤ 64 MiB")]
    assert as_table(rows).splitlines()[2:] == [
        "| work | limit | 1.23 | ≤ 1.25 | yes |",
        "| memory | nothing | 70 MiB | ≤ 64 MiB | no |",
    ]
    written = json.loads(json.dumps(as_json(rows, Settings(quick=True))))
    assert written["rows"][0]["reached"] is True
    assert written["rows"][0]["figures"] == {"ours": 2.0}
    assert {"commit", "torch", "threads", "clock", "load"} <= written.keys()


def test_works_take_turns_and_the_first_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr("benchmarks.measuring.CLOCKS", {"wall": lambda: now[0]})

    def work(name: str, *seconds: float) -> Callable[[], None]:
        left = iter(seconds)

        def run() -> None:
            calls.append(name)
            now[0] += next(left)

        return run

    assert medians({"a": work("a", 99, 1, 5, 2), "b": work("b", 99, 3, 3, 4)}, 3) == {"a": 2, "b": 3}
    assert calls == ["a", "b"] * 4


def of_mib(ready: int, more: int) -> Callable[[], object]:
    kept = torch.ones(ready * MIB, dtype=torch.uint8)
    return lambda: (kept, torch.ones(more * MIB, dtype=torch.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read in /proc")
def test_peak_memory_is_what_the_work_takes_and_not_what_was_there() -> None:
    assert peak_mib(of_mib, 50, 80) == pytest.approx(80, abs=8)


def test_disagreement_tells_rounding_from_a_wrong_codeword() -> None:
    latents, codewords = search.data(50, 40, 8)
    tokens = search.textbook(latents, codewords)
    assert search.disagreement(tokens, latents, codewords) == (0, 0)
    twins = torch.cat([codewords, codewords])
    assert search.disagreement(tokens + 40, latents, twins) == (50, 0), "equally near: rounding decides"
    tokens[3] = (tokens[3] + 1) % 40
    assert search.disagreement(tokens, latents, codewords) == (1, 1)


def test_the_plain_released_step_has_the_losses_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "lpips", training.random_lpips)
    torch.manual_seed(0)
    config = training.configuration("small", 32, 2)
    trainer, batch = training.trainer_of(config), training.batch_of(config)
    plain = PlainStep(trainer)
    images, noise = trainer._prepare(batch)
    assert noise is not None
    for _ in range(2):
        ours, theirs = dict(trainer.step([batch])), plain.step(images, noise)
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-4)
    with pytest.raises(RuntimeError, match="pixel is"):
        training.compare_losses({**ours, "pixel": 2 * ours["pixel"]}, theirs, training.TOLERANCES[1])
    averages = zip(trainer.averaged.parameters(), plain.average.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in averages)


def test_pillow_alone_and_the_loader_give_the_same_pixels_from_a_folder_and_a_shard(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 16, (60, 41))
    write_shard(photos, tmp_path / "photos.tar")
    config = DataConfig(image_size=32, resize=36, cache_mib=0)
    for place in (tmp_path / "photos", tmp_path / "photos.tar"):
        index = find_images(place)
        pixels = loading.plain(index, config, 16)()
        assert torch.equal(loading.ours(index, config, 16)(), pixels)
        assert pixels.shape == (16, 3, 32, 32)


def test_the_command_writes_json_and_refuses_a_name_that_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "memory", lambda _: [Row("memory", "nothing", 3.0, "≤ 64 MiB")])
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "memory", "--output", str(tmp_path / "rows.json")])
    try:
        command.main()
    finally:
        torch.set_num_threads(threads)
    assert json.loads((tmp_path / "rows.json").read_text())["rows"][0]["value"] == 3.0
    assert "| memory | nothing | 3 MiB | ≤ 64 MiB | yes |" in capsys.readouterr().out
    for arguments, message in ((["memry"], "memry"), (["--clock", "cpu", "--threads", "2"], "--threads 1")):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        with pytest.raises(SystemExit):
            command.main()
        assert message in capsys.readouterr().err
