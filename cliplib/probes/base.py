"""The base class of all probes: scikit-learn estimators on frozen features.

Hyperparameters are chosen on validation rows, never on test rows, as in CLIP's protocol
(Radford et al. 2021, appendix A.3) and DINOv2's (Oquab et al. 2024,
``eval/log_regression.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.data.threads import one_thread
from cliplib.features.splits import group_train_test_split
from cliplib.probes.withheld_groups import refuse_withheld_groups

# Difference (nats) up to which two validation losses count as equal, so that rounding
# does not decide.
TIE = 1e-4

# Number of feature values (rows times features) that get their logits at once: 67 MB.
VALUES_AT_ONCE = 2**24


class Probe(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """The base class of all probes: it checks, splits and standardises rows.

    A subclass defines ``_fit``, and on standardised features ``_logits`` and
    ``_gradients``. After `fit`, every probe has classes_ (k,), sorted, and mean_ and
    scale_ (d,), by which features are standardised: (X - mean_) / scale_.
    """

    # With metadata routing on, scikit-learn passes groups on to `fit`.
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
        """Fit the probe to features (n, d) and labels (n,) of any kind, and return it.

        Hyperparameters are chosen on validation rows, `X_val` (m, d) and `y_val` (m,);
        by default on about a fifth of the rows of X, held out by whole `groups` (n,).
        ValueError for a single class, values that are not finite, or arrays that do not
        fit together.
        """
        # This raises a ValueError if X or y is unusable, and sets n_features_in_. Rows
        # are stored one after another ("C"), so that products are rounded in the same
        # way whatever the memory order of X.
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
        else:  # validation rows are appended to the training rows
            rows_val, labels_val = validate_data(
                self, X_val, y_val, dtype=np.float32, reset=False
            )
            n_train = len(rows)
            rows = np.concatenate([rows, rows_val])
            labels = np.concatenate([labels, labels_val])
            train_rows = np.arange(n_train)
            held_out_rows = np.arange(n_train, len(rows))
        class_codes = encoder.transform(labels)  # refuses a class that only y_val has
        with one_thread():
            self._fit(rows, class_codes, train_rows, held_out_rows)
        return self

    def logits(self, X: ArrayLike) -> Floats:
        """Return the logits of features (n, d), (n, k), in the order of `classes_`."""
        features = self._checked(X)
        parts = np.array_split(features, 1 + features.size // VALUES_AT_ONCE)
        with one_thread():
            return np.concatenate([self._logits(self._scaled(part)) for part in parts])

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probability of each class, (n, k), in the order of `classes_`."""
        return np.asarray(softmax(self.logits(X), axis=1))

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return logits (n, k), or for two classes their difference (n,).

        The difference is the second class's logit less the first class's.
        """
        logits = self.logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, (n,)."""
        class_codes = self.logits(X).argmax(axis=1)
        return np.asarray(self.classes_[class_codes])

    def logit_gradients(self, X: ArrayLike, classes: ArrayLike) -> Features:
        """Return for each row the gradient of one class's logit, (n, d) float32.

        `classes` (n,) holds the class for each row; ValueError if one is not among
        `classes_`. The gradient is with respect to the features X (n, d), before they
        are standardised.
        """
        scaled = self._scaled(self._checked(X))
        class_codes = LabelEncoder().fit(self.classes_).transform(classes)
        with one_thread():
            gradients = self._gradients(scaled, class_codes)
            # By the chain rule, since scaled = (X - mean_) / scale_.
            return np.asarray(gradients / self.scale_, np.float32)

    def _standardize(self, rows: Features) -> Features:
        """Set mean_ and scale_ by rows (n, d), and return the rows standardised.

        The scale is the standard deviation, or 1 for a constant feature. Scikit-learn's
        StandardScaler would take more memory, since it computes in float64.
        """
        self.mean_ = rows.mean(axis=0, dtype=np.float64)
        centred = rows - self.mean_.astype(np.float32)
        variance = np.square(centred).mean(axis=0, dtype=np.float64)
        self.scale_ = np.sqrt(np.where(variance == 0, 1, variance))
        centred /= self.scale_.astype(np.float32)  # in place: a third of the time
        return centred

    def _scaled(self, rows: Features) -> Features:
        """Return rows (n, d) standardised: (rows - mean_) / scale_."""
        scaled = rows - self.mean_.astype(np.float32)
        scaled /= self.scale_.astype(np.float32)
        return scaled

    def _checked(self, X: ArrayLike) -> Features:
        """Return features (n, d) as float32, for a fitted probe.

        ValueError if d differs from `fit`.
        """
        check_is_fitted(self)
        # With reset=False, it compares d with n_features_in_, which `fit` has set.
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
            Features of training and validation rows, (n, d), not yet standardised.
        class_codes
            Class of each row as an index into classes_, (n,).
        train_rows, held_out_rows
            Numbers of the rows to train on, and of those to choose hyperparameters on.
        """

    @abstractmethod
    def _logits(self, scaled: Features) -> Floats:
        """Return logits (n, k) of standardised features (n, d)."""

    @abstractmethod
    def _gradients(self, scaled: Features, class_codes: Ints) -> Floats:
        """Return for each row the gradient of one class's logit, (n, d).

        It is with respect to the standardised features (n, d). `class_codes` (n,) are
        indices into classes_.
        """


def mean_log_loss(class_codes: Ints, logits: ArrayLike) -> float:
    """Return the mean log loss (nats) of logits (n, k).

    `class_codes` (n,) are the true classes, as column numbers. ValueError if the loss
    is not finite.
    """
    # Scikit-learn's log_loss takes longer than fitting a probe to a hundred rows.
    log_proba = log_softmax(np.asarray(logits, np.float64), axis=1)
    loss = float(-log_proba[np.arange(len(class_codes)), class_codes].mean())
    if not np.isfinite(loss):
        raise ValueError(
            "The log loss on held-out rows is not finite: see whether some features "
            "are far larger than others."
        )
    return loss
