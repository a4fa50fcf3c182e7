"""Who may stand where: splits, folds and subsets that keep groups whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter
from tqdm.auto import tqdm

from cliplib.arrays import Floats, Ints


def group_codes(groups: ArrayLike | None, n: int) -> Ints:
    """Number the groups of n rows from 0; without groups each row is its own."""
    given = np.arange(n) if groups is None else np.asarray(groups)
    codes = np.unique(given, return_inverse=True)[1]
    if codes.shape != (n,) or codes.max(initial=0) == 0:
        raise ValueError(
            f"Each of {n} images needs a group, and at least two of them must differ."
        )
    return codes


def class_indices(y: ArrayLike) -> Ints:
    """Return labels (n,) that are indices into classes; ValueError for names."""
    labels = np.asarray(y)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            "Labels must be numbers of classes here, from 0, and not their names."
        )
    return labels


def group_train_test_split(
    y: ArrayLike, groups: ArrayLike | None = None, *, parts: int = 5, seed: int = 0
) -> tuple[Ints, Ints]:
    """Return row numbers (train, test): of each class one in `parts` groups, or else one group."""
    return next(
        group_folds(y, groups, n_splits=parts, n_repeats=1, seed=seed, fewest=2)
    )


def stratified_subset(
    labels: ArrayLike, splits: ArrayLike, limit: int, *, seed: int = 0
) -> Ints:
    """Draw about `limit` rows, by class and split, two of each at least; 0 keeps all."""
    rows = pd.DataFrame({"label": np.asarray(labels), "split": np.asarray(splits)})
    if limit == 0 or limit >= len(rows):
        return np.arange(len(rows))
    shuffled = rows.sample(frac=1, random_state=seed)
    parts = shuffled.groupby(["split", "label"])
    kept = np.maximum(2, limit * parts["label"].transform("size") // len(rows))
    return np.sort(shuffled.index[parts.cumcount() < kept])


def group_folds(
    y: Any,
    groups: Any = None,
    *,
    n_splits: int,
    n_repeats: int,
    seed: int,
    fewest: int = 0,
) -> Iterator[tuple[Ints, Ints]]:
    """Yield (train, test) rows of repeated, shuffled, stratified folds; groups stay whole."""
    labels = np.asarray(y)
    codes = group_codes(groups, len(labels))
    sizes, rng = np.bincount(codes), np.random.default_rng(seed)
    strata = labels[
        np.unique(codes, return_index=True)[1]
    ]  # a group's class: its first row's
    for _ in range(n_repeats):
        fold = np.zeros_like(sizes)
        for label in np.unique(labels):
            own = rng.permutation(np.flatnonzero(strata == label))
            if len(own) < (fewest or n_splits):
                few = f"Class {label} has too few images for {fewest or n_splits} folds"
                raise ValueError(
                    f"{few}, near-duplicates counted once: add some, or leave it out."
                )
            own = own[
                np.argsort(-sizes[own], kind="stable")
            ]  # like sizes go to different folds
            dealt = min(
                n_splits, len(own)
            )  # with `fewest` the first folds alone may have some
            rounds = np.tile(np.arange(dealt), (len(own) // dealt + 1, 1))
            fold[own] = rng.permuted(rounds, axis=1).ravel()[: len(own)]
        for k in range(n_splits):
            yield np.flatnonzero(fold[codes] != k), np.flatnonzero(fold[codes] == k)


def out_of_fold_proba(
    estimator: Any,
    table: Any,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    n_repeats: int = 5,
    seed: int = 0,
) -> Floats:
    """Return a scikit-learn classifier's out-of-fold probabilities (n_repeats, n, k) of a table.

    `groups` are by default the table's; a `fit` that takes groups gets them.
    """
    X, labels, classes = table.features, table.labels, np.asarray(table.classes)
    codes = group_codes(table.groups if groups is None else groups, len(labels))
    found = np.zeros((n_repeats, len(labels), len(classes)))
    folds = group_folds(
        classes[labels], codes, n_splits=n_splits, n_repeats=n_repeats, seed=seed
    )
    takes_groups = has_fit_parameter(estimator, "groups")
    bar = tqdm(folds, "folds", n_splits * n_repeats)
    for i, (train, test) in enumerate(bar):
        options = {"groups": codes[train]} if takes_groups else {}
        probe = clone(estimator).fit(X[train], labels[train], **options)
        found[i // n_splits, test[:, None], probe.classes_] = probe.predict_proba(
            X[test]
        )
    return found


def few_shot(
    labels: ArrayLike, shots: int, *, groups: ArrayLike | None = None, seed: int = 0
) -> tuple[Ints, Ints]:
    """Draw rows of `shots` images of each class to train on, and of a few more to validate on.

    The protocol of CoOp (Zhou et al., IJCV 130, 2022, section 4.1, and its code): ``min(shots, 4)``
    validation images of each class; beyond CoOp's 16 shots a quarter of `shots`. Each image is of
    another group, and larger sets contain smaller ones.
    """
    rows = pd.DataFrame(
        {"label": labels, "group": group_codes(groups, len(np.asarray(labels)))}
    )
    shuffled = rows.iloc[np.random.default_rng(seed).permutation(len(rows))]
    drawn = shuffled.drop_duplicates("group").groupby("label")
    place, size = drawn.cumcount(), drawn["group"].transform("size")
    held = min(shots, max(4, shots // 4))
    if size.min() < shots + held:
        raise ValueError(
            f"Each class needs {shots + held} groups, {held} to validate: draw fewer."
        )
    return np.sort(place.index[place < shots]), np.sort(
        place.index[place >= size - held]
    )
