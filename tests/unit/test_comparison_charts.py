"""Plots of few rows and of many."""

import re
import warnings
from pathlib import Path

import pytest
from PIL import Image

from vaevq.comparison.charts import Band, Points, band_chart, point_picture
from vaevq.comparison.interval_charts import Interval, interval_chart
from vaevq.comparison.statistics import estimate


@pytest.mark.parametrize("count", [2, 8, 9, 50])
def test_a_legend_of_many_rows_takes_nothing_from_the_axes(tmp_path: Path, count: int) -> None:
    rows = [f"a_row_of_the_table_{i}" for i in range(count)]
    points = [Points(row, [1.0 + i], [2.0 - i]) for i, row in enumerate(rows)]
    bands = [Band(row, [10, 20], [1.0, 2.0 + i], [0.5, 1.5], [1.5, 3.5 + i]) for i, row in enumerate(rows)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's of axes that have no room
        point_picture("title", "x", "y", points, rows, tmp_path / "points.png")
        chart = band_chart("title", "unit", bands, rows)
    with Image.open(tmp_path / "points.png") as picture:
        width, height = picture.size
    assert width == 900
    assert (height > 600) == (count > 8)
    assert all(row in chart for row in rows)


def test_intervals_are_drawn_as_long_as_they_are_and_one_seed_has_none() -> None:
    rows = ["ours", "single"]
    drawn = [
        Interval("ours", "ours", estimate([20.0, 21.0, 22.0]), (20.0, 21.0, 22.0)),
        Interval("single", "single", estimate([20.5]), (20.5,)),
    ]
    chart = interval_chart("PSNR", "psnr", drawn, rows)
    assert "Means and 95% intervals over seeds: ours 21.00 ± 2.48; single 20.50." in chart
    bars = re.findall(r'd="M (\S+) (\S+) L (\S+) \2"[^>]*stroke-width: 2[;"]', chart)
    assert len(bars) == 1
    seeds = [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"[^>]*var\(--faded\)', chart)]
    scale = (seeds[2] - seeds[0]) / 2  # points a dB
    assert float(bars[0][2]) - float(bars[0][0]) == pytest.approx(2 * 2.484 * scale, rel=0.01)


def test_differences_of_shares_are_in_percentage_points_around_zero() -> None:
    drawn = [Interval("ours", "ours", estimate([0.1, 0.2]), (0.1, 0.2))]
    chart = interval_chart("usage, less plain", "usage", drawn, ["ours"], around_zero=True)
    assert ">percentage points<" in chart
    assert ">0<" in chart
