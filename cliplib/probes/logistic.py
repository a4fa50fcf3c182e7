"""Multinomial logistic regression to its minimum, by preconditioned L-BFGS.

The preconditioner is diagonal in the principal axes of the rows.

scikit-learn's solver ends at the same minimum. On thousands of correlated features, as
those of the readout "deep", it takes 3 to 8 times as long to an equal tolerance; on a
few hundred, as those of "pooled", less than twice as long.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import block_diag, qr
from scipy.optimize import fmin_l_bfgs_b
from sklearn.utils.extmath import randomized_svd

from cliplib.images.arrays import Features, Floats, Ints
from cliplib.probes.rows import Rows, blocks


def are_few_rows(n: int, d: int) -> bool:
    """Tell whether n rows of d features are so few that the solver uses their span.

    To find the span of more rows takes longer than it spares.
    """
    return 4 * n < d


class LogisticProblem:
    """A regression's rows and classes, to be solved for one penalty after another.

    Minimised is the mean over rows of class weight times log loss, plus |weights|² /
    (2 C n); intercepts are not penalised. Few rows, and their weights, are held in
    coordinates of the row span, in which the minimum lies: weights orthogonal to all
    rows would be penalised, and change no logit.

    Parameters
    ----------
    rows
        Standardised features (n, d), float32.
    class_codes
        Class of each row (n,), from 0 to k - 1.
    class_weights
        (k,) float32, what a row of each class counts.
    axes
        First principal axes (r, d) of the rows, or of most of them.
    """

    def __init__(
        self,
        rows: Rows,
        class_codes: Ints,
        class_weights: Features,
        axes: Features | Floats,
    ) -> None:
        self._rows = rows
        self._basis: Features | None = None
        if are_few_rows(*rows.shape):
            # An orthonormal basis (d, n) of the row span, and the coordinates of each
            # row in a column, (n, n).
            self._basis, columns = qr(rows[:].T, mode="economic", check_finite=False)
            self._rows = np.ascontiguousarray(columns.T)
        self._row_weights = class_weights[class_codes][:, None]
        one_hot = np.eye(len(class_weights), dtype=np.float32)[class_codes]
        self._weighted_one_hot = self._row_weights * one_hot
        axes = self._to_basis(axes)
        self._directions = block_diag(axes, 1)  # the intercept is a dimension, the last
        self._curvatures = self._curvature_bounds(axes)

    def _to_basis(self, vectors: Floats | Features) -> Floats:
        """Return vectors (m, d) in the coordinates of the solver, float64.

        These are (m, n), of the span of the n rows, if rows are few; else as given.
        """
        coordinates = vectors if self._basis is None else vectors @ self._basis
        return np.asarray(coordinates, np.float64)

    def _from_basis(self, coordinates: Floats) -> Floats:
        """Return vectors (m, d) from the solver's coordinates: undo `_to_basis`."""
        return coordinates if self._basis is None else coordinates @ self._basis.T

    def _curvature_bounds(self, axes: Floats) -> Floats:
        """Return upper bounds on the mean log loss's second derivative, (r + 1,).

        They are along each of the axes (r, d) and, last, along the intercept, in the
        weights of one class, without the penalty. Rows are taken in blocks, over which
        the bounds are averaged.
        """
        n = self._rows.shape[0]
        bounds = np.zeros(len(axes) + 1)
        # The intercept is the weight of a feature that is 1 in all rows.
        bounds[-1] = self._row_weights.mean(dtype=np.float64) / 4
        for block in blocks(*self._rows.shape):
            row_weights = self._row_weights[block]
            of_block = largest_curvatures(self._rows[block], row_weights, axes)
            bounds[:-1] += of_block * len(row_weights) / n
        return bounds

    def minimize(self, C: float, start: Floats, tol: float) -> Floats:
        """Return the weights (k, d + 1) at the minimum, intercepts last.

        The search begins at `start`, of the same shape. C is the inverse strength of
        the penalty, `tol` the largest entry of the preconditioned gradient at which the
        minimum counts as reached.
        """
        penalty = 1 / (C * self._rows.shape[0])
        curvatures = self._curvatures.copy()
        curvatures[:-1] += penalty  # not of the intercept
        preconditioner = Preconditioner(self._directions, curvatures)
        first = np.column_stack([self._to_basis(start[:, :-1]), start[:, -1]])

        # L-BFGS varies a flat step from the first weights, before preconditioning.
        def weights_after(step: Floats) -> Floats:
            return first + preconditioner.apply(step.reshape(first.shape))

        def loss_and_gradient(step: Floats) -> tuple[float, Floats]:
            """Return the penalised loss after a step, and its gradient by the step."""
            weights = weights_after(step)
            loss, gradient = self._mean_log_loss(weights)
            weights[:, -1] = 0  # intercepts are not penalised
            loss += penalty / 2 * np.square(weights).sum()
            gradient += penalty * weights
            # The preconditioner is symmetric: this is the chain rule.
            return loss, preconditioner.apply(gradient).ravel()

        no_step = np.zeros(first.size)
        step, _, _ = fmin_l_bfgs_b(loss_and_gradient, no_step, m=20, pgtol=tol)
        weights = weights_after(step)
        return np.column_stack([self._from_basis(weights[:, :-1]), weights[:, -1]])

    def _mean_log_loss(self, weights: Floats) -> tuple[float, Floats]:
        """Return the weighted mean log loss (nats) and its gradient, without penalty.

        Weights and gradient are (k, d + 1), intercepts last, in the rows' coordinates.
        """
        n, d = self._rows.shape
        coef = weights[:, :-1].astype(np.float32)
        intercept = weights[:, -1].astype(np.float32)
        loss = 0.0
        gradient = np.zeros(weights.shape)
        for block in blocks(n, d, len(coef)):
            rows = self._rows[block]
            row_weights = self._row_weights[block]
            weighted_one_hot = self._weighted_one_hot[block]
            logits = (coef @ rows.T).T + intercept  # (rows of the block, k)
            logits -= logits.max(axis=1, keepdims=True)  # so that exp does not overflow
            exponentials = np.exp(logits)
            total = exponentials.sum(axis=1, keepdims=True)
            # The log loss of a row is log(total) less the logit of its class.
            loss += (row_weights * np.log(total)).sum(dtype=np.float64)
            loss -= (weighted_one_hot * logits).sum(dtype=np.float64)
            residuals = exponentials * (row_weights / total) - weighted_one_hot
            gradient[:, :-1] += residuals.T @ rows
            gradient[:, -1] += residuals.sum(axis=0)
        return loss / n, gradient / n


class Preconditioner:
    """A diagonal preconditioner in the principal axes.

    It scales weights so that the loss curves about alike in all directions. With
    orthonormal directions A (r, d) and curvatures h (r,) along them a row w of weights
    becomes ::

        P w = s w + Aᵀ ((h^-1/2 - s) ∘ A w)

    Each direction is scaled by its h^-1/2, and what is orthogonal to all of them by s,
    the h^-1/2 of the last axis. P is symmetric: by the chain rule it scales gradients,
    too.

    Parameters
    ----------
    directions
        Principal axes, by falling variance, and last the intercept, (r, d).
    curvatures
        Of the loss, with the penalty, along each direction (r,).
    """

    def __init__(self, directions: Floats, curvatures: Floats) -> None:
        self.directions = directions
        scales = curvatures**-0.5
        last_axis = -2  # the least curved one, which stands for all that are left out
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
    """Return upper bounds on the mean log loss's second derivative, (r,).

    They are along directions a in the weights of one class, the others held: there a
    row x curves the loss by p (1 - p) (a·x)², where p is the probability of the class,
    so that the mean is at most that of row weight times (a·x)² / 4.

    Parameters
    ----------
    rows
        Features (n, d).
    row_weights
        (n, 1), what each row counts in the loss.
    directions
        (r, d), each of length 1.
    """
    along = rows @ directions.T.astype(np.float32)
    squares = row_weights * np.square(along)
    return np.asarray(squares.mean(axis=0, dtype=np.float64) / 4)


def principal_axes(rows: Features, n_axes: int) -> Features:
    """Return the first principal axes (r, d) of centred rows (n, d), r <= `n_axes`.

    They are approximate, by a fixed seed: the solver's speed depends on them, its
    minimum does not.
    """
    count = min(n_axes, *rows.shape)
    axes = randomized_svd(rows, count, n_iter=2, random_state=0)[2]
    return np.asarray(axes, np.float32)
