"""What the probes share: validation rows cut by group, the checks of `fit`, class weights, prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from cliplib.errors import ArgumentError, CliplibError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LARGEST = 1e100  # of a feature, in float64


@contextmanager
def one_sentence(what: str = "") -> Iterator[None]:
    """What scikit-learn, NumPy or torch say of unusable input, often in several lines, as one sentence of ours."""
    try:
        yield
    except CliplibError:
        raise
    except ValueError as error:
        text = " ".join(str(error).split())
        if "NaN" in text or "infinity" in text:  # followed by advice about other estimators
            text = f"{text.split('. ')[0].rstrip('.')}: drop or repair such rows."
        raise ArgumentError(f"{what}: {text}" if what else text) from None


def validation_split(y: ArrayLike, groups: ArrayLike | None, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Cut validation rows from training rows: stratified by class, never through a group.

    Each class gives about `fraction` of its rows; every class stays in training, and one that has at least two
    groups is in validation too wherever that leaves all classes in training.

    Parameters
    ----------
    y : (n,) array-like
        Class labels.
    groups : (n,) array-like or None
        Rows of one group stay together (near-duplicates, say); None makes each row its own group.
    fraction : float
        Share of each class that goes to validation, between 0 and 1.
    seed : int
        Seed of the order in which groups are offered to validation.

    Returns
    -------
    train, val : (n_train,) and (n_val,) int64
        Row numbers, ascending.

    Raises
    ------
    ArgumentError
        When `fraction` is not between 0 and 1, or no group can be spared.
    """
    if not 0 < fraction < 1:
        raise ArgumentError(f"validation_fraction must lie between 0 and 1, both excluded; got {fraction!r}.")
    classes, codes = np.unique(np.asarray(y), return_inverse=True)
    _, member = np.unique(np.arange(len(codes)) if groups is None else np.asarray(groups), return_inverse=True)
    with one_sentence():
        check_consistent_length(codes, member)
    if not len(codes):
        raise ArgumentError("y is empty: validation rows can only be cut from some rows.")
    counts = np.zeros((member.max() + 1, len(classes)), dtype=np.int64)
    np.add.at(counts, (member, codes), 1)
    total = counts.sum(axis=0)
    quota = np.minimum(np.maximum(np.rint(fraction * total), 1), total - 1)
    held, taken = np.zeros_like(total), np.zeros(len(counts), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(counts))
    for g in order:
        if (held + counts[g] <= quota).all():
            taken[g], held = True, held + counts[g]
    # A class of few large groups may have got none: it gives its smallest one, though that exceeds its share.
    for g in order[np.argsort(counts[order].sum(axis=1), kind="stable")]:
        if (held[counts[g] > 0] == 0).any() and (held + counts[g] < total).all():
            taken[g], held = True, held + counts[g]
    if not taken.any():
        raise ArgumentError("No validation rows can be cut from so few groups per class: give X_val and y_val.")
    return np.flatnonzero(~taken[member]), np.flatnonzero(taken[member])


class Probe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is not typed
    """What both probes share: the checks of `fit`, the class weights, the prediction."""

    _learned: ClassVar[frozenset[str]]

    def _check(
        self, X: ArrayLike, y: ArrayLike, X_val: ArrayLike | None, y_val: ArrayLike | None, groups: ArrayLike | None
    ) -> tuple[Floats, Ints, Floats, NDArray[Any] | None, tuple[Ints, Ints] | None]:
        """Return all rows, their class codes, the weight of each class, groups, and the given split if there is one."""
        with one_sentence():
            rows, labels = validate_data(self, X, y, dtype=np.float64)
            check_classification_targets(labels)
        if np.abs(rows).max() > _LARGEST:
            raise ArgumentError(f"X holds numbers beyond {_LARGEST:.0e}, whose squares overflow: scale the features.")
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ArgumentError(f"y holds only one class, '{self.classes_[0]}': a classifier needs at least two.")
        with one_sentence():
            group_of: NDArray[Any] | None = None if groups is None else column_or_1d(groups)
            check_consistent_length(rows, group_of)
        if (X_val is None) != (y_val is None):
            raise ArgumentError("X_val and y_val belong together: give both or neither.")
        split = None
        if X_val is not None:
            with one_sentence():
                rows_val, labels_val = validate_data(self, X_val, y_val, dtype=np.float64, reset=False)
            unknown = labels_val[~np.isin(labels_val, self.classes_)]
            if len(unknown):
                raise ArgumentError(f"y_val holds the class '{unknown[0]}', which y lacks: train on every class.")
            split = np.arange(len(rows)), np.arange(len(rows), len(rows) + len(rows_val))
            rows, labels = np.concatenate([rows, rows_val]), np.concatenate([labels, labels_val])
        with one_sentence():
            weight = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)
        if not (weight > 0).all():
            raise ArgumentError(f"class_weight must be positive for every class; got {self.class_weight!r}.")
        return rows, np.searchsorted(self.classes_, labels), weight, group_of, split

    def _scaler(self, X: Floats) -> tuple[Floats, Floats]:
        """Mean and scale of each feature; a constant feature has scale 1 (scikit-learn's StandardScaler)."""
        if not self.standardize:
            return np.zeros(X.shape[1]), np.ones(X.shape[1])
        scaler = StandardScaler().fit(X)
        return scaler.mean_, scaler.scale_

    def _seed(self) -> int:
        with one_sentence("random_state"):
            return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _logits(self, X: Floats) -> Floats:
        raise TypeError("LinearProbe and MLPProbe are the probes; this is what they share.")

    def _scores(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        with one_sentence():
            rows = validate_data(self, X, dtype=np.float64, reset=False)
        return self._logits(rows)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Probability of each class, in the order of `classes_`: (n, d) features to (n, k) float64."""
        return np.asarray(softmax(self._scores(X), axis=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class of each row: (n, d) features to (n,) labels of the kind that `fit` was given."""
        chosen = self._scores(X).argmax(axis=1)  # before classes_, so that an unfitted probe says that it is unfitted
        return np.asarray(self.classes_[chosen])
