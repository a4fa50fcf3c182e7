"""The nearest neighbour: a classifier that only remembers its training rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.probes.threads import one_thread

MOST_ROWS_TO_COMPARE_AT_ONCE = 20_000
"""Similarities of all pairs of so many rows take 1.6 GB."""


class NearestNeighbour(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The class of the most similar training row, by the cosine of standardised rows.

    It shows how far memory alone goes: nothing is learned, so that it is accurate where
    a test image resembles a training image, such as its copy.

    Fitted are classes_ (k,), sorted, and pipeline_, of scikit-learn.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Remember features (n, d) and labels (n,) of any kind; returns itself."""
        rows, labels = validate_data(self, X, y, dtype=np.float32)
        nearest = KNeighborsClassifier(1, metric="cosine")
        self.pipeline_ = make_pipeline(StandardScaler(), nearest).fit(rows, labels)
        self.classes_ = self.pipeline_.classes_
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return 1 for the class of each row's nearest neighbour, else 0: (n, k)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        with one_thread:
            return np.asarray(self.pipeline_.predict_proba(rows))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class of each row's nearest neighbour, (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def fits_folds_at_once(self, n_rows: int) -> bool:
        """Tell whether `predict_folds` can be used: not for too many rows."""
        return n_rows <= MOST_ROWS_TO_COMPARE_AT_ONCE

    def prepare_folds(self, X: Features) -> Features:
        """Return what `predict_folds` needs: the similarity of each two rows, (n, n).

        For it to serve all folds, features (n, d) are standardised by all rows, a
        fold's test rows included; no labels enter.
        """
        scaled = StandardScaler().fit_transform(X.astype(np.float32, copy=False))
        with one_thread:
            return np.asarray(cosine_similarity(scaled))

    def predict_folds(
        self,
        shared: Features,
        y: Ints,
        folds: Sequence[tuple[Ints, Ints]],
        groups: Ints,
    ) -> Iterator[tuple[Ints, Floats]]:
        """Yield for each fold its training rows' classes (k,) and probabilities (m, k).

        The probabilities are of the fold's test rows, 1 or 0. `shared` is what
        `prepare_folds` returned, y (n,) are labels, and `folds` row numbers of training
        and test rows; `groups` are not used.
        """
        for train_rows, test_rows in folds:
            similarity = shared[np.ix_(test_rows, train_rows)]
            nearest_rows = train_rows[similarity.argmax(axis=1)]
            classes = np.unique(y[train_rows])
            yield classes, (y[nearest_rows][:, None] == classes).astype(float)
