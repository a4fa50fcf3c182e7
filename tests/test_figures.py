"""Plots are legible in print, and no browser needs a font for them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from cliplib.evaluation.calibration import quantile_reliability
from cliplib.reports import plots
from study import figures


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    figures.use_style()
    yield
    plt.close("all")


def test_no_browser_needs_a_font_for_a_figure() -> None:
    figure, ax = plt.subplots()
    ax.set(title="a label with 12 digits", xlabel="$x_i$")
    assert "<text" not in figures.svg(figure)


def test_photographs_are_embedded_as_jpeg_and_drawings_are_not() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    assert "data:image/jpeg" in figures.svg(figures.image_grid([noise]))
    fig, ax = plt.subplots()
    ax.imshow(np.full((4, 4, 4), 0.5))
    assert "data:image/png" in figures.svg(fig)


def test_images_and_words_are_large_enough_to_see_in_print() -> None:
    images = [np.zeros((60, 60), np.uint8)] * 8
    grid = figures.image_grid(
        images, ["pituitary\nas glioma"] * 8, [True, False, None] * 2
    )
    queries = ["an MRI scan of a healthy brain", images[0], (images[0], "a can")]
    finds = [images[:6], images[:2], []]
    found = figures.result_grid(
        queries, finds, [["can 0.31"] * 6, ["a"] * 2, []], [[True] * 6]
    )
    for figure in (
        grid,
        found,
        figures.confusion_heatmap([[3, 1], [0, 2]], ["x", "y"]),
    ):
        figure.draw_without_rendering()
        drawn = [ax for ax in figure.axes if ax.images]
        sizes = [25.4 * ax.get_window_extent().width / figure.dpi for ax in drawn]
        assert min(sizes, default=18) >= 18
        assert (
            min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text())
            >= 7
        )
    assert [ax.get_title()[:1] for ax in grid.axes[:3]] == ["✓", "×", "p"]
    assert len(found.axes) == 3 * 7 and found.axes[0].texts[0].get_text().startswith(
        "an MRI"
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1", "0", "2"]
    plt.close("all")


def test_a_line_that_only_the_mark_breaks_makes_the_figure_higher() -> None:
    images = [np.zeros((60, 60), np.uint8)] * 8
    title = "a long title"
    broken_by_mark = figures.image_grid(images, [f"{title} 12"] * 8, [True] * 8)
    broken_by_hand = figures.image_grid(images, [f"{title}\n12"] * 8)
    assert broken_by_mark.axes[0].get_title().count("\n") == 1
    assert broken_by_mark.get_figheight() == broken_by_hand.get_figheight()


def test_images_are_as_large_with_lines_of_text_below_them() -> None:
    image = np.zeros((60, 60), np.uint8)
    name = "a folder/of photographs/from a telephone/of 2025/IMG_20250101_0001.jpg"
    widths = []
    for text in ("", name):
        grid = figures.image_grid([(image, text)] * 8, ["as glass 0.97"] * 8, columns=4)
        widths.append(grid.axes[0].get_window_extent().width)
    assert grid.axes[0].get_xlabel().count("\n") > 1
    assert widths[1] > 0.95 * widths[0]
    plt.close("all")


def test_intervals_are_drawn_in_percent_with_a_legend_for_all_panels() -> None:
    table = pd.DataFrame({"method": list("abab"), "set": list("xxyy")})
    table = table.assign(accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6)
    table["data"] = "Brain Tumor MRI Dataset"
    plot = figures.interval_plot(table, "accuracy", "method", color="set").facet("data")
    svg = figures.svg(figures.draw_plot(plot, height=2))
    assert re.search(r'width="447.84pt" height="144pt"', svg) and "<!-- x -->" in svg
    for words in ("accuracy (%)", "50", "brain MRI"):
        assert f"<!-- {words} -->" in svg, words


def test_a_method_has_the_same_colour_in_every_figure() -> None:
    table = pd.DataFrame({"method": ["linear probe", "kernel probe"], "part": "all"})
    table = table.assign(accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6)
    drawn = []
    for rows in (table, table[::-1], table[:1]):
        plot = figures.interval_plot(rows, "accuracy", "part", color="method")
        svg = figures.svg(figures.draw_plot(plot, height=2))
        drawn.append("#e0a12b" in svg)
    assert drawn == [True, True, True]


def test_a_confusion_is_shaded_by_its_share_of_the_true_class() -> None:
    figure = figures.confusion_heatmap([[30, 10], [1, 3]], ["x", "y"])
    (ax,) = figure.axes
    (mesh,) = ax.collections
    assert mesh.get_array().ravel().tolist() == [0.75, 0.25, 0.25, 0.75]
    assert mesh.get_clim() == (0, 1)  # so that all matrices are shaded alike
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("true", "predicted")


def confusion_of(classes: list[str]) -> Any:
    """Return evidence that holds a confusion matrix alone."""
    confusion = 9 + 1800 * np.eye(len(classes), dtype=int)
    evaluation = SimpleNamespace(confusion=confusion)
    table = SimpleNamespace(classes=classes)
    results = SimpleNamespace(evaluation=evaluation, table=table)
    return SimpleNamespace(results=results)


NAMES = ("{}", "class {}", "leaves with a curling virus, {}")


@pytest.mark.parametrize(
    ("n_classes", "name"), [*itertools.product((6, 10, 16), NAMES), (24, NAMES[2])]
)
def test_a_confusion_names_every_class_once_and_apart(
    n_classes: int, name: str
) -> None:
    classes = [name.format(number) for number in range(n_classes)]
    figure = plots.confusion_plot(confusion_of(classes))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    rows, columns = ax.get_yticklabels(), ax.get_xticklabels()
    names = [label.get_text() for label in rows]
    assert len(set(names)) == n_classes and max(map(len, names)) <= 24
    assert [label.get_text() for label in columns] == names
    for labels in (rows, columns, ax.texts):
        boxes = [label.get_window_extent() for label in labels]
        assert max(box.count_overlaps(boxes) for box in boxes) == 1  # with itself


def test_a_confusion_of_few_classes_keeps_its_size() -> None:
    for n_classes in (2, 4, 6, 9):
        names = [f"c{number}" for number in range(n_classes)]
        figure = figures.confusion_heatmap(np.eye(n_classes, dtype=int), names)
        assert figure.get_size_inches().tolist() == [3.4, 2.9]


def test_bars_of_the_reliability_diagram_end_at_its_intervals() -> None:
    labels = np.arange(40) % 2
    groups = np.arange(40)
    sure = np.random.default_rng(0).uniform(0.5, 1, 40)
    is_right = sure > 0.6
    of_class_1 = np.where(is_right == (labels == 1), sure, 1 - sure)
    proba = np.column_stack([1 - of_class_1, of_class_1])
    results = SimpleNamespace(
        table=SimpleNamespace(labels=labels, groups=groups),
        proba=proba,
        predicted=proba.argmax(axis=1),
        seed=0,
    )
    found: Any = SimpleNamespace(results=results)
    left, right = plots.trust_plot(found).axes
    (bars,) = left.containers[0].lines[2]
    ends = [segment[:, 1] for segment in bars.get_segments()]
    bins = quantile_reliability(labels, proba, groups)
    np.testing.assert_allclose(ends, 100 * bins[["low", "high"]])
    surest, all_images = right.lines[0].get_xydata()[[0, -1]]
    np.testing.assert_allclose(surest, [2.5, 0])
    np.testing.assert_allclose(all_images, [100, 100 * (1 - is_right.mean())])
