"""Multinomial logistic regression to its minimum, by preconditioned L-BFGS.

The preconditioner is diagonal in the principal axes of the rows.

scikit-learn's solver ends at the same minimum. On thousands of features that go
together, as those of the readout "deep", it takes 3 to 8 times as long to an equal
tolerance; on a few hundred, as those of "pooled", less than twice as long.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import block_diag, qr
from scipy.optimize import fmin_l_bfgs_b
from sklearn.utils.extmath import randomized_svd

from cliplib.images.arrays import Features, Floats, Ints
from cliplib.probes.rows import Rows, blocks


class LogisticProblem:
    """A regression's rows and classes, to be solved for one penalty after another.

    Minimised is the mean over rows of weight times log loss, plus |weights|² / (2 C n).
    With few rows in many dimensions, rows and weights are in coordinates of the row
    span, in which the minimum lies: weights orthogonal to all rows would be penalised,
    and change no logit.

    Parameters
    ----------
    rows
        Standardised features (n, d), float32.
    codes
        Class of each row (n,), from 0 to k - 1.
    class_weights
        (k,) float32, what a row of each class counts.
    axes
        First principal axes (r, d) of the rows; see `Preconditioner`.
    """

    def __init__(
        self, rows: Rows, codes: Ints, class_weights: Features, axes: Features | Floats
    ) -> None:
        n, d = rows.shape
        self._span: Features | None = None
        # With more rows, to find their span takes longer than it spares.
        self._rows = self._into_row_span(rows) if 4 * n < d else rows
        self._row_weights = class_weights[codes][:, None]
        one_hot = np.eye(len(class_weights), dtype=np.float32)[codes]
        self._targets = self._row_weights * one_hot
        axes = self._to_span(axes)
        self._directions = block_diag(axes, 1)  # last the intercept
        self._curvatures = self._curvature_bounds(axes)

    def _into_row_span(self, rows: Rows) -> Features:
        """Find an orthonormal basis of the row span, (d, n); return the rows in it."""
        self._span, coordinates = qr(rows[:].T, mode="economic", check_finite=False)
        return np.ascontiguousarray(coordinates.T)

    def _to_span(self, vectors: Floats | Features) -> Floats:
        """Return vectors (m, d) in coordinates of the row span, where that is used."""
        coordinates = vectors if self._span is None else vectors @ self._span
        return np.asarray(coordinates, np.float64)

    def _from_span(self, coordinates: Floats) -> Floats:
        """Return vectors (m, d) from their coordinates in the row span."""
        return coordinates if self._span is None else coordinates @ self._span.T

    def _curvature_bounds(self, axes: Floats) -> Floats:
        """Bound the curvature along each axis, and along the intercept, (r + 1,)."""
        n = self._rows.shape[0]
        bounds = np.zeros(len(axes) + 1)
        bounds[-1] = self._row_weights.mean(dtype=np.float64) / 4
        for block in blocks(*self._rows.shape):
            weights = self._row_weights[block]
            of_block = largest_curvatures(self._rows[block], weights, axes)
            bounds[:-1] += of_block * len(weights) / n
        return bounds

    def minimize(self, C: float, start: Floats, tol: float) -> Floats:
        """Return weights and intercepts (k, d + 1) at the minimum, from `start` on.

        C is the inverse strength of the penalty, `tol` the largest entry of the
        preconditioned gradient at which the minimum is taken as reached.
        """
        penalty = 1 / (C * self._rows.shape[0])
        curvatures = self._curvatures.copy()
        curvatures[:-1] += penalty  # not of the intercept
        preconditioner = Preconditioner(self._directions, curvatures)
        first = np.column_stack([self._to_span(start[:, :-1]), start[:, -1]])

        def weights_after(step: Floats) -> Floats:
            return first + preconditioner.apply(step.reshape(first.shape))

        def loss_and_gradient(step: Floats) -> tuple[float, Floats]:
            weights = weights_after(step)
            loss, gradient = self._mean_loss(weights)
            weights[:, -1] = 0  # intercepts are not penalised
            loss += penalty / 2 * np.square(weights).sum()
            gradient += penalty * weights
            return loss, preconditioner.apply(gradient).ravel()

        step = fmin_l_bfgs_b(loss_and_gradient, np.zeros(first.size), m=20, pgtol=tol)
        weights = weights_after(step[0])
        return np.column_stack([self._from_span(weights[:, :-1]), weights[:, -1]])

    def _mean_loss(self, weights: Floats) -> tuple[float, Floats]:
        """Return the mean log loss without the penalty, and its gradient."""
        n, d = self._rows.shape
        coef = weights[:, :-1].astype(np.float32)
        intercept = weights[:, -1].astype(np.float32)
        loss = 0.0
        gradient = np.zeros(weights.shape)
        for block in blocks(n, d, len(coef)):
            rows = self._rows[block]
            row_weights = self._row_weights[block]
            targets = self._targets[block]
            logits = (coef @ rows.T).T + intercept
            logits -= logits.max(axis=1, keepdims=True)
            proba = np.exp(logits)
            total = proba.sum(axis=1, keepdims=True)
            loss += (row_weights * np.log(total)).sum(dtype=np.float64)
            loss -= (targets * logits).sum(dtype=np.float64)
            residuals = proba * (row_weights / total) - targets
            gradient[:, :-1] += residuals.T @ rows
            gradient[:, -1] += residuals.sum(axis=0)
        return loss / n, gradient / n


class Preconditioner:
    """A diagonal preconditioner in the principal axes.

    It scales weights so that the loss curves about alike in all directions. With
    orthonormal directions A (r, d) and curvatures h (r,) along them a row w of weights
    becomes ::

        P w = s w + Aᵀ ((h^-1/2 - s) ∘ A w)

    Each direction is scaled by its h^-1/2, and what is orthogonal to all of them by s.
    P is symmetric: by the chain rule it scales gradients, too.

    Parameters
    ----------
    directions
        The principal axes, the first one first, and last the intercept, (r, d).
    curvatures
        Of the loss, with the penalty, along each direction (r,).
    """

    def __init__(self, directions: Floats, curvatures: Floats) -> None:
        self.directions = directions
        scales = curvatures**-0.5
        last_axis = -2  # the least curved one, which stands for all axes that follow
        self.scale_elsewhere = scales[last_axis]
        self.extra_scales = scales - self.scale_elsewhere

    def apply(self, weights: Floats) -> Floats:
        """Return P w for each row w of weights (k, d)."""
        along = weights @ self.directions.T
        extra = (along * self.extra_scales) @ self.directions
        return np.asarray(self.scale_elsewhere * weights + extra)


def largest_curvatures(
    rows: Features, row_weights: Features, directions: Floats
) -> Floats:
    """Return how much the mean log loss curves at most along each direction, (r,).

    Along a direction a of length 1 it curves by at most mean((a·x)²) / 4 over the rows
    x (Böhning 1992, "Multinomial logistic regression algorithm").

    Parameters
    ----------
    rows
        Features (n, d).
    row_weights
        (n, 1), what each row counts in the loss.
    directions
        (r, d)
    """
    along = rows @ directions.T.astype(np.float32)
    squares = row_weights * np.square(along)
    return np.asarray(squares.mean(axis=0, dtype=np.float64) / 4)


def principal_axes(rows: Features, n_axes: int) -> Features:
    """Return the first principal axes (r, d) of centred rows (n, d), r <= `n_axes`.

    Approximate, and always drawn alike: only the speed of the solver hangs on them.
    """
    count = min(n_axes, *rows.shape)
    axes = randomized_svd(rows, count, n_iter=2, random_state=0)[2]
    return np.asarray(axes, np.float32)
