"""Plots of the findings on a folder, in the report's style, and their SVG."""

from __future__ import annotations

import io
import re
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

from cliplib.aids.decision_aid import RISK
from cliplib.evaluation.calibration import quantile_reliability, risk_coverage
from cliplib.reports.findings import Findings

INK = "#1f2933"
PALE = "#a9b2bb"
# A name of more than 24 characters, with the beginning and the end that are kept of it.
LONG_NAME = "^(.{11}).{2,}(.{12})$"
# Width of a figure in inches, at which every letter can be read on a phone.
FIGURE_WIDTH = 4.6
# Most characters that all class names together may have to fit side by side.
MOST_LETTERS = 30


def use_style() -> None:
    """Set matplotlib's fonts, sizes and colours to the report's from now on."""
    for face in Path(font_source_sans_pro.__file__).parent.glob("files/*.ttf"):
        font_manager.fontManager.addfont(face)  # Source Sans, which the style names
    plt.style.use("cliplib.reports.plots")


def confusion_heatmap(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix (k, k): counts, shaded by their share of the true class.

    True classes are rows. With ten classes or more, the figure grows with their number.
    Names of more than 24 characters are shortened.
    """
    true_classes = pd.Index(classes, name="true")
    counts = pd.DataFrame(np.asarray(confusion), true_classes, list(classes))
    shares = counts.div(counts.sum(axis=1), axis=0).rename_axis(columns="predicted")
    inches = max(2.9, 0.32 * len(classes))
    figure, ax = plt.subplots(figsize=(inches + 0.5, inches))  # width and height
    # The middle of a long name is cut out, since either end may tell it from others.
    names = [re.sub(LONG_NAME, r"\1…\2", name) for name in classes]
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


def svg(figure: Figure) -> str:
    """Return a figure as SVG, and close it."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    return drawn.getvalue()


def to_ends(shares: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the distances of each value from the low and high ends of its interval."""
    return shares["value"] - shares["low"], shares["high"] - shares["value"]


def accuracy_plot(findings: Findings) -> Figure:
    """Plot the accuracy of each method, in folds by group, with its 95% interval.

    Each method is a row. The last row is the best probe by image, that is, with other
    images of the same group in training.
    """
    results = findings.results
    shares = {
        name: evaluation.estimate("accuracy")
        for name, evaluation in results.evaluations.items()
    }
    if results.by_image is not None:
        shares[f"{results.best}, by image"] = results.by_image.estimate("accuracy")
    figure, ax = plt.subplots(figsize=(FIGURE_WIDTH, 0.5 + 0.22 * len(shares)))
    rows = 100 * pd.DataFrame(shares.values(), shares.keys())
    rows = rows[::-1]  # the first method comes last, and so is drawn on top
    ax.errorbar(rows["value"], rows.index, xerr=to_ends(rows), fmt="o", color=INK)
    ax.set(xlabel="accuracy (%)", xlim=(0, 100))
    ax.grid(axis="y", visible=False)
    return figure


def confusion_plot(findings: Findings) -> Figure:
    """Draw the confusion matrix of the best probe."""
    results = findings.results
    confusion = results.evaluation.confusion
    figure = confusion_heatmap(confusion, results.table.classes)
    if sum(map(len, results.table.classes)) > MOST_LETTERS:
        figure.axes[0].tick_params("x", rotation=90)
    return figure


def trust_plot(findings: Findings) -> Figure:
    """Draw a reliability diagram and, beside it, the risk-coverage curve, in per cent.

    Left: accuracy by stated probability, with 95% intervals. Right: the share of errors
    among the answers by the share of images answered, with a line at `RISK`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(FIGURE_WIDTH, 2.3))
    left.plot([0, 100], [0, 100], color=PALE, linewidth=0.8)
    # For each bin of confidence: accuracy (value, low and high) and mean confidence.
    results = findings.results
    bins = 100 * quantile_reliability(
        results.table.labels, results.proba, results.table.groups, seed=results.seed
    )
    left.errorbar(
        bins["confidence"], bins["value"], to_ends(bins), fmt="o", linewidth=1
    )
    left.set(xlabel="stated (%)", ylabel="right (%)", xlim=(0, 100), ylim=(0, 100))
    is_correct = results.predicted == results.table.labels
    curve = 100 * risk_coverage(is_correct, results.proba.max(axis=1))
    right.plot(curve["coverage"], curve["risk"])
    right.axhline(100 * RISK, color=PALE, linewidth=0.8)
    right.set(xlabel="answered (%)", ylabel="of these wrong (%)", xlim=(0, 100))
    right.set_ylim(0)
    return figure
