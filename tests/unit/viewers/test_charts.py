"""Charts hold what they are given, with nothing cut off, whatever the names and counts."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from viewers import charts
from viewers.charts import Curve

LONG = "carcinoma of no special type, grade 3"
X = np.linspace(0, 1, 11)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(charts, "picture_uri", lambda figure: figures.append(figure) or "")
    return figures


def assert_nothing_is_cut_off(figure: Figure) -> None:
    FigureCanvasAgg(figure).draw()  # lays it out
    inside = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert inside.x0 >= -0.02
    assert inside.y0 >= -0.02
    assert inside.x1 <= width + 0.02
    assert inside.y1 <= height + 0.02


@pytest.mark.parametrize("count", [1, 5, 14])
def test_curves_of_many_classes_with_long_names(drawn: list[Figure], count: int) -> None:
    curves = [Curve(f"{LONG} {i}", X, X**0.5) for i in range(count)]
    charts.roc_chart(curves, (0.2, 0.9))
    charts.precision_recall_chart(curves, 0.3)
    for figure in drawn:
        assert_nothing_is_cut_off(figure)
        lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 11]
        assert len(lines) == count
        assert np.array_equal(lines[0].get_ydata(), X**0.5)


@pytest.mark.parametrize("count", [2, 6, 20])
def test_confusion_of_many_classes(drawn: list[Figure], count: int) -> None:
    """Rows are what is: of class 0 one of two slides was said to be class 1."""
    matrix = np.eye(count, dtype=np.int64)
    matrix[0, 1] = 1
    charts.confusion_chart(matrix, [f"{LONG} {i}" for i in range(count)])
    [figure] = drawn
    assert_nothing_is_cut_off(figure)
    image = figure.axes[0].images[0].get_array()
    assert image is not None
    assert (image[0, 0], image[0, 1], image[1, 0]) == (0.5, 0.5, 0)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:2] == {2: ["1\n50%", "1\n50%"], 6: ["1\n50%", "1\n50%"], 20: []}[count]


def test_reliability_survival_and_scatter(drawn: list[Figure]) -> None:
    charts.reliability_chart({"before": [(0.1, 0.2, 30), (0.9, 0.7, 5)], "temperature": []})
    charts.survival_chart([Curve(LONG, X * 1000, 1 - X, 1 - X, 1 - X)], "log-rank p = 0.001")
    charts.scatter_chart(np.array([1e5, 2e5]), np.array([1.1e5, 1.9e5]))
    for figure in drawn:
        assert_nothing_is_cut_off(figure)


def test_a_chart_is_a_png_in_a_data_uri() -> None:
    uri = charts.roc_chart([Curve("a", X, X)])
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        assert image.size == (690, 690)
