"""What all probes share: scikit-learn estimators on frozen features.

What is chosen is chosen on validation rows, never on test rows, as in CLIP's protocol
(Radford et al. 2021, appendix A.3) and DINOv2's (Oquab et al. 2024,
``eval/log_regression.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import log_loss
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.data.threads import one_thread
from cliplib.features.splits import group_train_test_split
from cliplib.probes.withheld_groups import refuse_withheld_groups

# Validation losses (nats) this close are equal, so that rounding does not decide.
TIE = 1e-4

# Rows times features that get their logits at once: 67 MB.
VALUES_AT_ONCE = 2**24


class Probe(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What all probes share: how rows are checked, split and scaled, and the answers.

    A probe's own part is ``_fit``, ``_logits`` and ``_gradients``, the latter two on
    standardised features. After `fit` all have classes_ (k,), sorted, and mean_ and
    scale_ (d,), by which features are standardised: (X - mean_) / scale_.
    """

    # With scikit-learn's metadata routing on, `fit` gets the groups that it has.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}

    seed: int
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

        Hyperparameters are chosen on validation rows, `X_val` (m, d) and `y_val` (m,),
        or without them on about a fifth of X's rows, held out by whole `groups` (n,).
        Returns the probe. ValueError for a single class, values that are not finite, or
        arrays that do not fit together.
        """
        # It raises where X or y is of no use, and sets n_features_in_. Row by row in
        # memory: products then round alike, however X came.
        rows, labels = validate_data(self, X, y, dtype=np.float32, order="C")
        check_consistent_length(rows, groups)
        if groups is None:
            refuse_withheld_groups()
        check_classification_targets(labels)
        encoder = LabelEncoder().fit(labels)
        self.classes_ = encoder.classes_
        if len(self.classes_) < 2:
            raise ValueError(
                f"All labels are of one class, {str(labels[0])!r}: a classifier needs "
                "two."
            )
        if X_val is None and y_val is None:
            train_rows, held_out_rows = group_train_test_split(
                labels, groups, seed=self.seed
            )
        else:  # validation rows are put behind those to train on
            rows_val, labels_val = validate_data(
                self, X_val, y_val, dtype=np.float32, reset=False
            )
            n_train = len(rows)
            rows = np.concatenate([rows, rows_val])
            labels = np.concatenate([labels, labels_val])
            train_rows, held_out_rows = np.split(np.arange(len(rows)), [n_train])
        class_codes = encoder.transform(labels)  # a ValueError for a class of y_val's
        with one_thread():
            self._fit(rows, class_codes, train_rows, held_out_rows)
        return self

    def logits(self, X: ArrayLike) -> Floats:
        """Return logits of features (n, d): (n, k), columns in `classes_`' order."""
        check_is_fitted(self)
        features = self._checked(X)
        parts = np.array_split(features, 1 + features.size // VALUES_AT_ONCE)
        with one_thread():
            return np.concatenate([self._logits(self._scaled(part)) for part in parts])

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probability of each class, (n, k), in the order of `classes_`."""
        return np.asarray(softmax(self.logits(X), axis=1))

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return logits (n, k); of two classes the second less the first, (n,)."""
        logits = self.logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, (n,)."""
        best = self.logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def logit_gradients(self, X: ArrayLike, classes: ArrayLike) -> Features:
        """Return for each row the gradient of one class's logit, (n, d) float32.

        `classes` (n,) names that class, one of `classes_`, for each row; ValueError for
        others. The gradient is by the features X (n, d) as given, not standardised.
        """
        check_is_fitted(self)
        scaled = self._scaled(self._checked(X))
        class_codes = LabelEncoder().fit(self.classes_).transform(classes)
        with one_thread():
            by_scaled = self._gradients(scaled, class_codes)
            # The chain rule: scaled = (X - mean_) / scale_.
            return np.asarray(by_scaled / self.scale_, np.float32)

    def _standardize(self, rows: Features) -> Features:
        """Set mean_ and scale_ to those of rows (n, d), and return these standardised.

        The scale is the standard deviation, or 1 for a constant feature. Scikit-learn's
        StandardScaler would take more memory, for it computes in float64.
        """
        self.mean_ = rows.mean(axis=0, dtype=np.float64)
        mean = self.mean_.astype(np.float32)
        variance = np.square(rows - mean).mean(axis=0, dtype=np.float64)
        self.scale_ = np.sqrt(np.where(variance == 0, 1, variance))
        return self._scaled(rows)

    def _scaled(self, rows: Features) -> Features:
        """Return rows (n, d) standardised: (rows - mean_) / scale_."""
        mean = self.mean_.astype(np.float32)
        return np.asarray((rows - mean) / self.scale_.astype(np.float32))

    def _checked(self, X: ArrayLike) -> Features:
        """Return features (n, d) as float32; ValueError if d is not as in `fit`."""
        # Without a reset it compares d with n_features_in_, which `fit` has set.
        rows = validate_data(self, X, dtype=np.float32, order="C", reset=False)
        return np.asarray(rows)

    @abstractmethod
    def _fit(
        self,
        rows: Features,
        class_codes: Ints,
        train_rows: Ints,
        held_out_rows: Ints,
    ) -> None:
        """Set the fitted attributes: `mean_`, `scale_`, and what the probe learns.

        Parameters
        ----------
        rows
            Features (n, d), not yet standardised; validation rows are among them.
        class_codes
            Class of each row as an index into classes_, (n,).
        train_rows, held_out_rows
            Numbers of the rows to train on, and of the validation rows, to choose on.
        """

    @abstractmethod
    def _logits(self, scaled: Features) -> Floats:
        """Return logits (n, k) of standardised features (n, d)."""

    @abstractmethod
    def _gradients(self, scaled: Features, class_codes: Ints) -> Floats:
        """Return for each row the gradient of one class's logit, (n, d).

        It is the derivative by the standardised features (n, d); `class_codes` (n,)
        are indices into classes_.
        """


def mean_log_loss(class_codes: Ints, logits: ArrayLike) -> float:
    """Return the mean log loss (nats) of logits (n, k).

    `class_codes` (n,) are the true classes, as column numbers.
    """
    # float64, because scikit-learn clips probabilities at the precision of their type.
    proba = softmax(np.asarray(logits, np.float64), axis=1)
    labels = range(proba.shape[1])  # the rows may lack a class
    return float(log_loss(class_codes, proba, labels=labels))
