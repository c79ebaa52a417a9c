"""Plots of few rows and of many."""

import warnings
from pathlib import Path

import pytest
from PIL import Image

from vaevq.comparison.charts import Band, Points, band_chart, point_picture


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
