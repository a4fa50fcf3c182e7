"""The nearest neighbour: a classifier that only remembers its training rows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from cliplib.data.arrays import Floats
from cliplib.probes.threads import one_thread


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
        with one_thread():
            return np.asarray(self.pipeline_.predict_proba(rows))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class of each row's nearest neighbour, (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])
