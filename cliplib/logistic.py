"""Multinomial logistic regression to its minimum: L-BFGS on a stretched problem.

scikit-learn's solver ends at the same minimum. On thousands of features that go
together, as those of the readout "deep", it takes 3 to 8 times as long to an equal
tolerance; on a few hundred, as those of "pooled", less than twice as long.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import block_diag
from scipy.optimize import fmin_l_bfgs_b
from scipy.special import log_softmax
from sklearn.utils.extmath import randomized_svd

from cliplib.arrays import Features, Floats, Ints


class Preconditioner:
    """A stretch of the weights after which the loss curves alike in all directions.

    Along a direction a of length 1 the mean log loss of rows x curves by at most
    mean((a·x)²) / 4 (Böhning 1992, "Multinomial logistic regression algorithm"), and
    the penalty adds its own. With orthonormal directions A (r, d) and curvatures h (r,)
    along them a row w of weights becomes ::

        P w = s w + Aᵀ ((h^-1/2 - s) ∘ A w)

    so that each direction is stretched by its h^-1/2, and everything at right angles to
    all of them by s. P is symmetric: by the chain rule it stretches gradients, too.

    Parameters
    ----------
    rows
        Features (n, d + 1), the last of which is 1, for the intercept.
    row_weights
        (n,), what each row counts in the loss.
    axes
        Principal axes (r, d) of the features, the first one first.
    penalty
        Curvature that the penalty adds to all weights but the intercept.
    """

    def __init__(
        self, rows: Features, row_weights: Features, axes: Features, penalty: float
    ) -> None:
        self.directions = block_diag(axes, 1)  # the axes, then the intercept
        along = rows @ self.directions.T.astype(np.float32)
        squares = row_weights[:, None] * np.square(along)
        curvatures = squares.mean(axis=0, dtype=np.float64) / 4
        curvatures[:-1] += penalty
        stretches = curvatures**-0.5
        last_axis = -2  # the least curved one, which stands for all axes that follow
        self.rest = stretches[last_axis]
        self.extra = stretches - self.rest

    def apply(self, weights: Floats) -> Floats:
        """Return P w for each row w of weights (k, d + 1)."""
        along = weights @ self.directions.T
        return np.asarray(self.rest * weights + (along * self.extra) @ self.directions)


def principal_axes(rows: Features, n_axes: int) -> Features:
    """Return the first principal axes (r, d) of centred rows (n, d), r <= `n_axes`.

    Approximate, and always drawn alike: only the speed of the solver hangs on them.
    """
    count = min(n_axes, *rows.shape)
    axes = randomized_svd(rows, count, n_iter=2, random_state=0)[2]
    return np.asarray(axes, np.float32)


def minimize_log_loss(
    rows: Features,
    codes: Ints,
    *,
    C: float,
    start: Floats,
    axes: Features,
    tol: float,
    row_weights: Features,
) -> Floats:
    """Return weights and intercepts (k, d + 1) at the minimum, going on from `start`.

    Minimised is the mean over rows of weight times log loss, plus |weights|² / (2 C n).

    Parameters
    ----------
    rows
        Standardised features (n, d), float32.
    codes
        Class of each row (n,), from 0.
    C
        Inverse strength of the penalty.
    start
        Weights and intercepts (k, d + 1).
    axes
        See `Preconditioner`.
    tol
        Largest slope of the stretched loss that counts as flat.
    row_weights
        (n,) float32.
    """
    n = len(rows)
    penalty = 1 / (C * n)
    rows = np.column_stack([rows, np.ones(n, np.float32)])
    preconditioner = Preconditioner(rows, row_weights, axes, penalty)
    one_hot = np.eye(len(start), dtype=np.float32)[codes]

    def weights_after(step: Floats) -> Floats:
        return start + preconditioner.apply(step.reshape(start.shape))

    def loss_and_gradient(step: Floats) -> tuple[float, Floats]:
        weights = weights_after(step)
        log_proba = log_softmax(rows @ weights.T.astype(np.float32), axis=1)
        losses = -row_weights[:, None] * one_hot * log_proba
        residuals = row_weights[:, None] * (np.exp(log_proba) - one_hot)
        penalised = weights.copy()
        penalised[:, -1] = 0  # not the intercepts
        loss = losses.sum(dtype=np.float64) / n
        loss += penalty / 2 * np.square(penalised).sum()
        gradient = residuals.T @ rows / n + penalty * penalised
        return loss, preconditioner.apply(gradient).ravel()

    step = fmin_l_bfgs_b(loss_and_gradient, np.zeros(start.size), m=20, pgtol=tol)[0]
    return weights_after(step)
