"""Tables of the terminal: no value is cut short, whatever the width."""

import io

import pytest
from rich.console import Console

from vaevq import console

HEADER = ["", "PSNR (dB) ↑", *(f"figure number {i}" for i in range(8))]
ROWS = [[name, "22.34 ± 0.06", *(f"{i}.000000 ± 0.00000{i}" for i in range(8))] for name in ("vaevq", "simvq")]


@pytest.mark.parametrize("width", [40, 80, 400])
def test_a_table_in_a_terminal_fits_it_and_loses_nothing(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console, "_out", Console(file=out, width=width, force_terminal=True, color_system=None))
    console.say_table("rates", HEADER, ROWS)
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert "…" not in out.getvalue()
    turned = any(line.startswith("│ PSNR") for line in out.getvalue().splitlines())
    assert turned == (width < 400)
    if width >= 80:
        assert all(value in out.getvalue() for row in ROWS for value in row)


def test_a_table_of_many_rows_is_not_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console, "_out", Console(file=out, width=100, force_terminal=True, color_system=None))
    console.say_table("rates", HEADER, 10 * ROWS)
    assert sum(line.startswith("│ vaevq") for line in out.getvalue().splitlines()) == 10


def test_a_table_in_a_file_is_as_wide_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.say_table("rates", HEADER, ROWS)
    lines = [line for line in capsys.readouterr().out.splitlines() if "22.34" in line]
    assert len(lines) == len(ROWS)
    assert all(all(value in line for value in row) for line, row in zip(lines, ROWS, strict=True))
