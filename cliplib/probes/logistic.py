"""A solver for multinomial logistic regression: preconditioned L-BFGS.

The preconditioner is diagonal in the principal axes of the rows.

Scikit-learn's solver ends at the same minimum. On thousands of correlated features,
such as those of the readout "deep", it takes several times as long; on a few hundred,
such as those of "pooled", one and a half to three times (SPEED.md has the ratios).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import block_diag, qr
from scipy.optimize import fmin_l_bfgs_b
from sklearn.utils.extmath import randomized_svd

from cliplib.data.arrays import Features, Floats, Ints, row_batches

# Number of principal axes in the preconditioner, for many rows and for few. More axes
# make fewer steps, each of them slower.
AXES = 16
AXES_OF_FEW_ROWS = 64

# Number of multiplications in the product of the weights with a block of rows. Up to so
# many, OpenBLAS multiplies without copying the rows first, in half the time.
BLOCK_PRODUCTS = 1_000_000


def are_few_rows(n: int, d: int) -> bool:
    """Return whether n rows of d features are so few that the solver uses their span.

    For more rows, finding the span takes longer than it saves.
    """
    return 10 * n < d


class LogisticProblem:
    """The rows and classes of a regression, to be solved for one penalty after another.

    The solution minimises the mean log loss of the rows, plus |weights|² / (2 C n);
    intercepts are not penalised. Few rows, and their weights, are stored in coordinates
    of the row span. The minimum lies in this span, since a component of the weights
    orthogonal to all rows is penalised but changes no logit.

    Parameters
    ----------
    rows
        Standardised features (n, d), float32.
    class_codes
        Class of each row (n,), from 0 to k - 1.
    axes
        First principal axes (r, d) of the rows, or of most of them.
    """

    def __init__(
        self, rows: Features, class_codes: Ints, axes: Features | Floats
    ) -> None:
        self._rows = rows
        self._basis: Features | None = None
        if are_few_rows(*rows.shape):
            # rowsᵀ = Q R: the columns of Q (d, n) are an orthonormal basis of the row
            # span, and column i of R (n, n) holds the coordinates of row i in it.
            self._basis, R = qr(rows.T, mode="economic", check_finite=False)
            self._rows = np.ascontiguousarray(R.T)
        n_classes = class_codes.max() + 1
        self._one_hot = np.eye(n_classes, dtype=np.float32)[class_codes]  # (n, k)
        axes = self._to_basis(axes)
        # The intercept adds a last dimension, and a last direction along it.
        self._directions = block_diag(axes, 1)
        self._curvatures = largest_curvatures(self._rows, axes)

    def _to_basis(self, vectors: Floats | Features) -> Floats:
        """Return vectors (m, d) in the coordinates in which rows are stored, float64.

        For few rows they are (m, n), in the basis of the row span; otherwise unchanged.
        """
        coordinates = vectors if self._basis is None else vectors @ self._basis
        return np.asarray(coordinates, np.float64)

    def _from_basis(self, coordinates: Floats) -> Floats:
        """Return vectors (m, d) from the coordinates that `_to_basis` gives them."""
        return coordinates if self._basis is None else coordinates @ self._basis.T

    def minimize(self, C: float, start: Floats, tol: float) -> Floats:
        """Return the weights (k, d + 1) at the minimum, intercepts last.

        The search begins at `start`, of the same shape; C is the inverse strength of
        the penalty. L-BFGS varies z, where weights = start + P z, so that the curvature
        of the loss by z is similar in all directions. Let A (r, d + 1) be orthonormal
        directions, and h (r,) the curvatures of the penalised loss along them. P scales
        each row w of z by h^-1/2 along these directions; what is orthogonal to all of
        them is scaled by s, the h^-1/2 of the last axis ::

            P w = s w + Aᵀ ((h^-1/2 - s) ∘ A w)

        P is symmetric, so the gradient by z is P times the gradient by the weights. The
        minimum counts as reached when its largest entry is `tol` or less.
        """
        penalty = 1 / (C * len(self._rows))  # factor of half the squared weights
        curvatures = self._curvatures.copy()
        curvatures[:-1] += penalty  # all but that of the intercept
        scales = curvatures**-0.5
        # The last axis, before the intercept, has the least variance. It stands for all
        # axes that are left out.
        scale_off_axes = scales[-2]  # s
        extra_scales = scales - scale_off_axes
        first_weights = np.column_stack([self._to_basis(start[:, :-1]), start[:, -1]])

        def precondition(weights: Floats) -> Floats:
            """Return P w for each row w of weights (k, d + 1)."""
            along = weights @ self._directions.T
            extra = (along * extra_scales) @ self._directions
            return np.asarray(scale_off_axes * weights + extra)

        def loss_and_gradient(z: Floats) -> tuple[float, Floats]:
            """Return the penalised loss, and its gradient by z.

            z and the gradient are flat: one class after another.
            """
            weights = first_weights + precondition(z.reshape(first_weights.shape))
            loss, gradient = self._mean_log_loss(weights)
            penalized = weights.copy()
            penalized[:, -1] = 0  # the intercepts
            loss += penalty / 2 * np.square(penalized).sum()
            gradient += penalty * penalized
            return loss, precondition(gradient).ravel()

        # m is the number of the last steps from which L-BFGS estimates the curvature.
        no_step = np.zeros(first_weights.size)
        z, _, _ = fmin_l_bfgs_b(loss_and_gradient, no_step, m=20, pgtol=tol)
        weights = first_weights + precondition(z.reshape(first_weights.shape))
        return np.column_stack([self._from_basis(weights[:, :-1]), weights[:, -1]])

    def _mean_log_loss(self, weights: Floats) -> tuple[float, Floats]:
        """Return the mean log loss (nats) of the rows, and its gradient.

        Neither includes the penalty. Weights and gradient are (k, d + 1), intercepts
        last, in the coordinates in which rows are stored. Rows are read block by block.
        """
        n = len(self._rows)
        coef = weights[:, :-1].astype(np.float32)
        intercept = weights[:, -1].astype(np.float32)
        loss = 0.0
        gradient = np.zeros(weights.shape)
        for block in row_batches(n, max(1, BLOCK_PRODUCTS // coef.size)):
            rows = self._rows[block]
            one_hot = self._one_hot[block]
            logits = (coef @ rows.T).T + intercept  # (rows of the block, k)
            logits -= logits.max(axis=1, keepdims=True)  # so that exp does not overflow
            exponentials = np.exp(logits)
            total = exponentials.sum(axis=1, keepdims=True)
            # The log loss of a row is log(total) less the logit of its class.
            loss += np.log(total).sum(dtype=np.float64)
            loss -= (one_hot * logits).sum(dtype=np.float64)
            # The gradient by the logits is the probabilities less the one-hot labels.
            residuals = exponentials * (1 / total) - one_hot
            gradient[:, :-1] += residuals.T @ rows
            gradient[:, -1] += residuals.sum(axis=0)
        return loss / n, gradient / n


def largest_curvatures(rows: Features, axes: Floats) -> Floats:
    """Return upper bounds on the second derivatives of the mean log loss, (r + 1,).

    The weights of one class vary along each of the unit axes (r, d), and last along the
    intercept; those of the other classes are fixed. Along an axis a, the loss of a row
    x has the second derivative p (1 - p) (a·x)², where p is the probability of the
    class. As p (1 - p) is at most 1/4, the bound is the mean of (a·x)² / 4 over the
    rows (n, d).
    """
    squares = np.square(rows @ axes.T.astype(np.float32))
    # The intercept is the weight of a feature that is 1 in all rows.
    return np.append(squares.mean(axis=0, dtype=np.float64), 1) / 4


def principal_axes(rows: Features) -> Features:
    """Return the first principal axes (r, d) of rows (n, d) of mean 0.

    They are approximate, with a fixed seed. The solver's speed depends on them, but not
    its minimum.
    """
    n_axes = AXES_OF_FEW_ROWS if are_few_rows(*rows.shape) else AXES
    n_axes = min(n_axes, *rows.shape)
    # rows = U S V, where the rows of V are the axes.
    _, _, axes = randomized_svd(rows, n_axes, n_iter=2, random_state=0)
    return np.asarray(axes, np.float32)
