"""What a protocol is worth: accuracy without looking at the motif, the gap between two protocols, an external set."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from PIL import Image
from sklearn.utils.parallel import Parallel, delayed

from cliplib.data.images import FORMATS, decode
from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import (
    Floats,
    Ints,
    bootstrap,
    check_proba,
    group_codes,
    group_sums,
    intervals,
    labels_of,
)

__all__ = ["SHORTCUTS", "accuracy_gap", "class_mapping", "map_classes", "shortcut_features"]

logger = logging.getLogger(__name__)

SHORTCUTS = {"size": ("width", "height"), "file": ("bytes_per_pixel", "format", "mode", "quantisation"),
             "border": ("border_mean", "border_std"), "brightness": ("mean",)}  # fmt: skip
"""Columns of :func:`shortcut_features` by kind."""

BORDER = 0.04  # width of the border as a share of the shorter side


def shortcut_features(dataset: datasets.Dataset) -> pd.DataFrame:
    """Traces by which a class may be guessed without seeing what the picture shows.

    Parameters
    ----------
    dataset : datasets.Dataset
        As from :func:`cliplib.data.load_dataset`.

    Returns
    -------
    pandas.DataFrame
        One row per image, indexed by ``id``: ``width``, ``height`` (as stored, pixels), ``bytes_per_pixel``,
        ``format``, ``mode`` (as stored, categories), ``quantisation`` (mean of JPEG's first table, 0 without one: the
        coarser, the lower the quality), ``border_mean``, ``border_std`` (grey levels 0 to 255 of the outermost ring),
        ``mean`` (grey level of the whole). The ring is 4 % of the shorter side wide, at least one pixel.

    Raises ImageError where an image cannot be read.
    """
    rows = Parallel(n_jobs=-1, prefer="threads")(delayed(_traces)(image) for image in dataset["image"])
    frame = pd.DataFrame(rows, index=pd.Index(dataset["id"], name="id"))
    return frame.astype({"format": "category", "mode": "category"})


def accuracy_gap(
    y_true: ArrayLike, a: ArrayLike, b: ArrayLike, *, groups: ArrayLike, n_boot: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Accuracy under protocol `a` less that under `b`, averaged over repeats: value, low and high (95 %).

    `a` and `b` are out-of-fold probabilities (n_repeats, n, k) of the same rows, as from
    :func:`cliplib.cross_validate_probe`. The bootstrap draws whole groups, in both at once: the interval is of the
    paired difference.
    """
    stacks = [[check_proba(p) for p in np.asarray(stack)] for stack in (a, b)]
    y = labels_of(y_true, stacks[0][0])
    right = [np.mean([p.argmax(axis=1) == labels_of(y, p) for p in stack], axis=0) for stack in stacks]
    codes, n_groups = group_codes(groups, len(y))
    gain, size = np.hsplit(group_sums(np.column_stack([right[0] - right[1], np.ones(len(y))]), codes, n_groups), 2)
    draws = bootstrap(lambda w: (w @ gain) / (w @ size), n_groups, n_rows=len(y), n_boot=n_boot, seed=seed)
    value, low, high = intervals(draws)[0]
    return float(value), float(low), float(high)


def class_mapping(text: str, theirs: Sequence[str], ours: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read which of our classes each class of an external set stands for.

    Parameters
    ----------
    text : str
        Such as ``"yes=glioma|meningioma|pituitary,no=notumor"``; empty: classes of the same name, whatever their case.
    theirs, ours : sequence of str
        Classes of the external set, and of the probe. Either may have more than the mapping names; the log says which.

    Raises
    ------
    CliplibError
        An entry without "=", an unknown class, one of ours in two entries, or fewer than two classes mapped.
    """
    if text.strip():
        entries = [part.partition("=") for part in text.split(",")]
        mapping = {left.strip(): tuple(c.strip() for c in right.split("|")) for left, _, right in entries}
        if len(mapping) < len(entries) or not all(sign for _, sign, _ in entries):
            raise CliplibError(f"The mapping {text!r} must read theirs=ours|ours,theirs=ours, each of theirs once.")
    else:
        mapping = {t: same for t in theirs if (same := tuple(c for c in ours if c.lower() == t.lower()))}
    named = [c for group in mapping.values() for c in group]
    for side, names, known in (("external set", mapping, theirs), ("probe", named, ours)):
        if unknown := [name for name in names if name not in known]:
            raise CliplibError(f"The mapping names {unknown[0]!r}, but the {side} has the classes {', '.join(known)}.")
    if len(set(named)) < len(named):
        raise CliplibError(f"The mapping {text!r} names a class of the probe twice: it can stand for one class only.")
    if len(mapping) < 2:
        raise CliplibError(f"The mapping {text!r} leaves {len(mapping)} class: name at least two, as in yes=a|b,no=c.")
    for whose, every, used in (("external", theirs, [*mapping]), ("own", ours, named)):
        if left := [name for name in every if name not in used]:
            logger.warning("Not mapped, so left out: %s classes %s", whose, ", ".join(left))
    return mapping


def map_classes(
    proba: ArrayLike, labels: ArrayLike, theirs: Sequence[str], ours: Sequence[str], mapping: dict[str, tuple[str, ...]]
) -> tuple[Ints, Ints, Floats]:
    """Bring a probe's probabilities into the classes of an external set.

    The probability of one of theirs is the sum over ours that it stands for. What the probe gives to a class of ours
    without a counterpart is shared out in proportion; images of a class of theirs without one are left out.

    Parameters
    ----------
    proba, labels : float (n, k) and int (n,)
        Columns in the order of `ours`; index into `theirs`.
    mapping : dict
        As from :func:`class_mapping`; its m keys, in their order, are the new classes.

    Returns
    -------
    rows, labels, proba : int64 (r,), int64 (r,) and float64 (r, m); the rows that are kept
    """
    index = {theirs.index(name): i for i, name in enumerate(mapping)}
    new = np.array([index.get(int(label), -1) for label in np.asarray(labels)], dtype=np.int64)
    rows = np.flatnonzero(new >= 0)
    merge = np.array([[c in group for group in mapping.values()] for c in ours], dtype=np.float64)
    sums = np.maximum(check_proba(proba) @ merge, np.finfo(np.float64).tiny)  # no opinion rather than 0 / 0
    return rows, new[rows], (sums / sums.sum(axis=1, keepdims=True))[rows]


def _traces(row: dict[str, Any]) -> dict[str, Any]:
    grey = np.asarray(decode(row).convert("L"), dtype=np.float64)  # first: its errors name the file
    data = row["bytes"] if row["bytes"] is not None else Path(row["path"]).read_bytes()
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        table = (getattr(image, "quantization", None) or {}).get(0, [0])
        facts = {"width": width, "height": height, "bytes_per_pixel": len(data) / (width * height),
                 "format": str(image.format), "mode": image.mode, "quantisation": float(np.mean(table))}  # fmt: skip
    ring = np.ones(grey.shape, dtype=bool)
    edge = max(1, round(BORDER * min(grey.shape)))
    ring[edge:-edge, edge:-edge] = False
    return facts | {"border_mean": grey[ring].mean(), "border_std": grey[ring].std(), "mean": grey.mean()}
