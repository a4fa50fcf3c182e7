"""Plots that no library draws, in the style of the report, and their SVG."""

import io
from collections.abc import Sequence
from pathlib import Path

import font_source_sans_pro
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

INK, MIDDLE, PALE = "#1f2933", "#6b7680", "#a9b2bb"
METHOD_COLOURS = {
    "kernel probe": "#0b3c5d",
    "linear probe": "#e0a12b",
    "nearest neighbour": "#c4512d",
    "MLP probe": "#3fa0a8",
    "zero-shot": "#8c7a5b",
}
NAME_LENGTH = 24
"""Characters of a class's name for which a confusion matrix has room."""


def use_style() -> None:
    """Set matplotlib's typeface, sizes and colours to the report's from now on."""
    for face in Path(font_source_sans_pro.__file__).parent.glob("files/*.ttf"):
        font_manager.fontManager.addfont(face)  # Source Sans, which the style names
    plt.style.use("cliplib.reports.figures")


def confusion_heatmap(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw a (k, k) confusion matrix: counts, shaded by their share of the true class.

    True classes are rows. From 10 classes on the figure grows with their number, and
    names of more than `NAME_LENGTH` characters are shortened.
    """
    true_classes = pd.Index(classes, name="true")
    counts = pd.DataFrame(np.asarray(confusion), true_classes, list(classes))
    shares = counts.div(counts.sum(axis=1), axis=0).rename_axis(columns="predicted")
    inches = max(2.9, 0.32 * len(classes))
    figure, ax = plt.subplots(figsize=(inches + 0.5, inches))  # width and height
    names = [_shortened(name) for name in classes]
    sns.heatmap(
        shares,
        annot=counts,
        fmt="d",
        vmin=0,
        vmax=1,
        cmap="Blues",
        cbar=False,
        xticklabels=names,  # given as a list, seaborn leaves none of them out
        yticklabels=names,
    )
    ax.tick_params("y", rotation=0)
    return figure


def _shortened(name: str) -> str:
    """Cut the middle out of a long name: both its ends may tell it from others."""
    if len(name) <= NAME_LENGTH:
        return name
    end = NAME_LENGTH // 2
    return f"{name[: NAME_LENGTH - end - 1]}…{name[-end:]}"


def svg(figure: Figure) -> str:
    """Return a figure as SVG, and close it."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    return drawn.getvalue()
