"""Repeated cross-validation in which no group of rows ever stands on both sides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, StratifiedGroupKFold
from sklearn.utils.validation import has_fit_parameter
from tqdm.auto import tqdm

from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import Floats, Ints, check_labels, group_codes

logger = logging.getLogger(__name__)


@runtime_checkable
class Table(Protocol):
    """What `cross_validate_probe` needs of a `cliplib.table.FeatureTable`."""

    @property
    def features(self) -> NDArray[np.float32]: ...
    @property
    def labels(self) -> Ints: ...
    @property
    def groups(self) -> Ints: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


def repeated_group_folds(
    y: ArrayLike, groups: ArrayLike | None = None, n_splits: int = 5, n_repeats: int = 10, seed: int = 0
) -> Iterator[tuple[Ints, Ints]]:
    """Yield the folds of repeated, shuffled, stratified cross-validation over groups.

    Parameters
    ----------
    y : int (n,)
        Labels; folds have similar shares of each as far as the groups allow.
    groups : (n,), optional
        Rows of one group stay together; without it each row is its own group.
    n_splits, n_repeats : int
        Folds per repeat, and repeats.
    seed : int

    Yields
    ------
    train, test : int64
        Row indices; ``n_splits`` pairs per repeat, repeat after repeat. Each row is tested once per repeat.

    Raises
    ------
    CliplibError
        At the first fold, when groups or rows are too few for the folds or a class lies within a single group.
    """
    labels = check_labels(y)
    codes, n_groups = group_codes(groups, len(labels))
    if not 2 <= n_splits <= n_groups or n_repeats < 1:
        raise CliplibError(
            f"{n_splits} folds in {n_repeats} repeats cannot be made of {n_groups} groups: "
            "n_splits must lie between 2 and the number of groups, and n_repeats be at least 1."
        )
    pairs = np.unique(np.column_stack([labels, codes]), axis=0)
    present, counts = np.unique(pairs[:, 0], return_counts=True)
    if n_splits > np.bincount(labels).max():
        raise CliplibError(f"No class has as many as n_splits={n_splits} rows: take fewer folds.")
    if counts.min() < 2:
        raise CliplibError(
            f"All rows of class {present[counts.argmin()]} lie in one group, so it cannot be both trained "
            "on and tested: leave the class out or find more groups of it."
        )
    for state in np.random.default_rng(seed).integers(0, 2**31, n_repeats):
        # Stratification is by rows; sklearn warns of classes with fewer rows than folds only to say that it is uneven.
        folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=int(state))
        for train, test in folds.split(np.zeros((len(labels), 1)), labels, codes):
            if len(test):  # a fold may stay empty where large groups fill the others
                yield train, test


def cross_validate_probe(
    make_probe: Callable[[], Any],
    data: Table | ArrayLike,
    y: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    n_repeats: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> Floats:
    """Out-of-fold probabilities of a classifier under `repeated_group_folds`.

    A new probe is fitted on each training part, its model selection inside that part: its groups go to the `fit` of
    a classifier that takes `groups` (cliplib's probes) and of scikit-learn's searches (give those a group splitter).
    Of another classifier it is logged that its fit does not see them.

    Parameters
    ----------
    make_probe : callable
        Without arguments, returns an unfitted scikit-learn classifier with `predict_proba`.
    data : FeatureTable or float (n, d)
        A table brings labels, classes and groups along.
    y : int (n,)
        Labels ``0 .. k-1``; only with an array.
    groups : (n,), optional
        In place of the table's, or the array's.
    n_splits, n_repeats, seed
        As in `repeated_group_folds`.
    progress : bool
        Show a progress bar over the fits.

    Returns
    -------
    float64 (n_repeats, n, k)
        For `cliplib.evaluation.evaluate_repeats`. A class that a training part lacks has probability 0 there.

    Raises
    ------
    CliplibError
        When data, labels and groups do not fit together, and as in `repeated_group_folds`.
    """
    if isinstance(data, Table):
        features, labels, k = np.asarray(data.features), check_labels(data.labels), len(data.classes)
        groups = data.groups if groups is None else groups
    elif y is None:
        raise CliplibError("Labels are missing: give a FeatureTable, or an array of features and y.")
    else:
        features, labels = np.asarray(data), check_labels(y)
        k = int(labels.max()) + 1
    if features.ndim != 2 or len(features) != len(labels):
        raise CliplibError(
            f"Features of shape {features.shape} do not fit {len(labels)} labels: give one row for each."
        )
    codes, _ = group_codes(groups, len(labels))
    takes_groups = _takes_groups(make_probe())
    if groups is not None and not takes_groups:
        logger.warning("The classifier's fit takes no groups: any selection inside it splits by rows.")

    found = np.full((n_repeats, len(labels), k), np.nan)
    repeat = np.zeros(len(labels), dtype=np.int64)
    folds = repeated_group_folds(labels, codes, n_splits, n_repeats, seed)
    for train, test in tqdm(folds, total=n_splits * n_repeats, desc="folds", disable=not progress):
        probe = make_probe()
        probe.fit(features[train], labels[train], **({"groups": codes[train]} if takes_groups else {}))
        proba = np.zeros((len(test), k))
        proba[:, np.asarray(probe.classes_, dtype=np.int64)] = probe.predict_proba(features[test])
        found[repeat[test[0]], test] = proba
        repeat[test] += 1
    return found


def _takes_groups(probe: Any) -> bool:
    return isinstance(probe, GridSearchCV | RandomizedSearchCV) or bool(has_fit_parameter(probe, "groups"))
