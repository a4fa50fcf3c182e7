"""The house style, and the few plots that many notebooks draw."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib import font_manager
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.calibration import calibration_curve

TEXT_WIDTH = 6.22
"""Width of the report's text column in inches: a figure this wide is printed at its own size."""

palette = ["#0b3c5d", "#e0a12b", "#c4512d", "#3fa0a8", "#8a8f98", "#7b3f8c"]
"""Colours that colour-blind readers tell apart, the first three also in print without colour."""

STYLE: dict[str, Any] = {
    "figure.figsize": (TEXT_WIDTH, 3.0),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    "svg.hashsalt": "cliplib",  # else the ids inside an SVG differ from run to run
    "mathtext.fontset": "stixsans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.edgecolor": "#59636e",
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.color": "#dde1e6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}


def use_style() -> None:
    """Set the house style: seaborn's, in the report's font and at the sizes at which it is printed."""
    wheel = importlib.util.find_spec("font_source_sans_pro")
    fonts = ["DejaVu Sans"]
    if wheel and wheel.origin:
        for face in ("Regular", "It", "Bold", "BoldIt"):
            font_manager.fontManager.addfont(Path(wheel.origin).parent / "files" / f"SourceSansPro-{face}.ttf")
        fonts = ["Source Sans Pro", *fonts]
    sns.set_theme(context="paper", style="whitegrid", palette=palette)
    settings: Any = {**STYLE, "font.family": fonts}  # Any: matplotlib types its keys as literals
    mpl.rcParams.update(settings)


def image_grid(
    images: Sequence[Any], titles: Sequence[str] = (), *, columns: int = 8, width: float = TEXT_WIDTH
) -> Figure:
    """Draw images row by row.

    Parameters
    ----------
    images : sequence of PIL images or arrays
        Grey ``(h, w)`` or colour ``(h, w, 3)``.
    titles : sequence of str
        One or a few short lines above each image, or none.
    columns : int
    width : float
        Of the whole, in inches.
    """
    rows, side = math.ceil(len(images) / columns), width / columns
    above = max((0.05 + 0.12 * len(title.splitlines()) for title in titles), default=0)
    fig, axes = plt.subplots(rows, columns, squeeze=False, figsize=(width, rows * (side + above)))
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < len(images):
            ax.imshow(np.asarray(images[i]), cmap="gray")
            ax.set_title(titles[i] if titles else "", fontsize=7.5, pad=2)
    return fig


def confusion_heatmap(confusion: ArrayLike, classes: Sequence[str], *, width: float = 3.4) -> Figure:
    """Draw a confusion matrix: counts, shaded by their share of the true class.

    Parameters
    ----------
    confusion : int (k, k)
        Rows are true classes, columns predicted ones.
    classes : sequence of str
    width : float
        In inches.
    """
    counts = np.asarray(confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    fig, ax = plt.subplots(figsize=(width, width * 0.88))
    sns.heatmap(
        share, annot=counts, fmt="d", cmap="Blues", vmin=0, vmax=1, square=True, cbar=False, linewidths=0.5,
        xticklabels=list(classes), yticklabels=list(classes), ax=ax,
    )  # fmt: skip
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(axis="x", rotation=30)
    ax.tick_params(axis="y", rotation=0)
    return fig


def reliability_plot(y_true: ArrayLike, proba: ArrayLike, *, bins: int = 15, width: float = 3.4) -> Figure:
    """Draw accuracy against confidence, and how often each confidence occurs (Guo et al., ICML 2017, figure 1).

    Parameters
    ----------
    y_true : int (n,)
    proba : float (n, k)
        Rows sum to 1; the confidence is their maximum.
    bins : int
        Of equal width.
    width : float
        In inches.
    """
    p = np.asarray(proba)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == np.asarray(y_true)
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins)
    fig, (top, low) = plt.subplots(2, 1, figsize=(width, width), sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color="#8a8f98", linestyle="--", label="perfect calibration")
    top.plot(mean, accuracy, marker="o", color=palette[0], label="classifier")
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    top.legend(loc="upper left")
    low.hist(confidence, bins=bins, range=(0, 1), color=palette[0], edgecolor="white")
    low.set(xlabel="confidence", ylabel="rows")
    return fig
