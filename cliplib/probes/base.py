"""What all probes share: scikit-learn estimators on frozen features.

What is chosen is chosen on validation rows, never on test rows, as in CLIP's protocol
(Radford et al. 2021, appendix A.3) and DINOv2's (Oquab et al. 2024,
``eval/log_regression.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import log_loss
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cliplib.images.arrays import Features, Floats, Ints
from cliplib.probes.rows import StandardizedRows, mean_and_scale
from cliplib.probes.threads import one_thread
from cliplib.tables.splits import group_train_test_split

ClassWeight = Literal["balanced"] | Mapping[Any, float] | None

Split = Callable[[int], tuple[Ints, Ints]]
"""Gives, for a seed, the rows to train on and the rows to validate on."""

TIE = 1e-4
"""Validation losses (nats) this close are equal, so that rounding does not decide."""

STORED = (np.float32, np.float16)
"""Types that features are read in; others are converted to the first."""

FEATURES_A_PART = 2**24
"""Features that are standardised at a time to be answered, in float64: 134 MB."""


class Probe(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What all probes share: how rows are checked, split and scaled, and the answers.

    A probe's own part is ``_fit``, ``_logits`` and ``_slopes``, the latter two on
    standardised features. After `fit` all have classes_ (k,), and mean_ and scale_ (d,)
    of the features.

    `class_weight` says what a row of each class counts, in fitting as in choosing on
    validation rows: None, all alike; "balanced", so that all classes count alike; or a
    dict from class to weight.
    """

    seed: int
    class_weight: ClassWeight
    classes_: NDArray[Any]
    mean_: Floats
    scale_: Floats

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Fit on features (n, d) and labels (n,) of any kind.

        Without validation rows `X_val` (m, d) and `y_val` (m,) a fifth is held out,
        rows of one group together. ValueError for rows that do not fit together.
        """
        rows, labels = validate_data(self, X, y, dtype=STORED)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(
                f"All labels are {str(labels[0])!r}: a classifier needs two classes."
            )
        n = len(rows)
        if X_val is None and y_val is None:

            def split(seed: int) -> tuple[Ints, Ints]:
                return group_train_test_split(labels, groups, seed=seed)

        else:
            rows_val, labels_val = self._validation_rows(X_val, y_val)
            rows = np.concatenate([rows, rows_val])
            labels = np.concatenate([labels, labels_val])

            def split(seed: int) -> tuple[Ints, Ints]:
                return np.arange(n), np.arange(n, len(rows))

        weights = compute_class_weight(
            self.class_weight, classes=self.classes_, y=labels
        )
        with one_thread:
            codes = np.searchsorted(self.classes_, labels)
            self._fit(rows, codes, weights.astype(np.float32), split)
        return self

    def _validation_rows(
        self, X_val: ArrayLike | None, y_val: ArrayLike | None
    ) -> tuple[Features, NDArray[Any]]:
        if X_val is None or y_val is None:
            raise ValueError("Give both X_val and y_val, or neither.")
        rows = check_array(
            X_val, dtype=np.float32, ensure_all_finite=False, input_name="X_val"
        )
        labels = np.asarray(y_val)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X_val has {rows.shape[1]} features, and X {self.n_features_in_}: "
                "take both from the same readout."
            )
        if labels.shape != (len(rows),):
            raise ValueError(
                f"y_val must hold one label for each of the {len(rows)} rows of X_val."
            )
        odd = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if odd.size:
            raise ValueError(
                f"X_val is not finite in {odd.size} rows, the first of them {odd[0]}: "
                "leave them out."
            )
        if not np.isin(labels, self.classes_).all():
            raise ValueError("y_val holds a class that y lacks: leave its rows out.")
        return rows, labels

    def logits(self, X: ArrayLike) -> Floats:
        """Return logits (n, k) of features (n, d)."""
        check_is_fitted(self)
        rows = self._checked(X)
        # In parts: standardising in float64 would take two to four times the memory.
        parts = np.array_split(rows, 1 + rows.size // FEATURES_A_PART)
        with one_thread:
            return np.concatenate(
                [self._logits((part - self.mean_) / self.scale_) for part in parts]
            )

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probability of each class, (n, k), in the order of `classes_`."""
        return np.asarray(softmax(self.logits(X), axis=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, (n,)."""
        best = self.logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def logit_gradients(self, X: ArrayLike, classes: ArrayLike) -> Features:
        """Return how a class's logit changes with the features of each row, (n, d).

        `classes` (n,) name the logit of each row, as `predict` does.
        """
        scaled = self._scaled(X)
        codes = pd.Index(self.classes_).get_indexer(np.asarray(classes))
        if codes.shape != (len(scaled),) or (codes < 0).any():
            known = ", ".join(map(str, self.classes_))
            raise ValueError(f"classes must name one of {known} for each row of X.")
        with one_thread:
            return np.asarray(self._slopes(scaled, codes) / self.scale_, np.float32)

    def _standardize(self, rows: Features, index: Ints) -> StandardizedRows:
        """Learn mean_ and scale_ of some rows, and return them standardised."""
        self.mean_, self.scale_ = mean_and_scale(rows, index)
        return StandardizedRows(rows, index, self.mean_, self.scale_)

    def _logits_of_rows(self, rows: Features, index: Ints) -> Floats:
        """Return logits (m, k) of some rows, standardised a part at a time."""
        n_parts = 1 + len(index) * rows.shape[1] // FEATURES_A_PART
        parts = np.array_split(index, n_parts)
        return np.concatenate(
            [self._logits((rows[part] - self.mean_) / self.scale_) for part in parts]
        )

    def _scaled(self, X: ArrayLike) -> Floats:
        """Check and standardise features."""
        check_is_fitted(self)
        return np.asarray((self._checked(X) - self.mean_) / self.scale_)

    def _checked(self, X: ArrayLike) -> Features:
        return np.asarray(validate_data(self, X, dtype=STORED, reset=False))

    @abstractmethod
    def _fit(
        self, rows: Features, codes: Ints, class_weights: Features, split: Split
    ) -> None:
        """Fit on rows (n, d) of classes `codes` (n,), which count `class_weights`."""

    @abstractmethod
    def _logits(self, scaled: Floats) -> Floats:
        """Return logits (n, k) of standardised features (n, d)."""

    @abstractmethod
    def _slopes(self, scaled: Floats, codes: Ints) -> Floats:
        """Return the gradients of logits by standardised features, both (n, d)."""


def weighted_log_loss(codes: Ints, logits: ArrayLike, class_weights: Features) -> float:
    """Return the mean log loss (nats) of logits (n, k), weighted by class."""
    proba = softmax(np.asarray(logits, np.float64), axis=1)  # float32 would be clipped
    return float(
        log_loss(
            codes,
            proba,
            sample_weight=class_weights[codes],
            labels=range(len(class_weights)),
        )
    )
