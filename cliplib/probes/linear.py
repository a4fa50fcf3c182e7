"""Multinomial logistic regression on frozen features, its L2 strength swept on validation rows."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cliplib.errors import ArgumentError
from cliplib.probes.base import Floats, Ints, Probe, one_sentence, validation_split

logger = logging.getLogger(__name__)

L2_VALUES = np.logspace(-5, 6, 45)  # 1 / C of DINOv2, which sweeps C over 45 values, 1e-6 to 1e5
TIE = 1e-4  # nats: validation losses this close are equal, so that neither rounding nor `tol` decides between them


class _Solution(NamedTuple):
    coef: Floats  # (d, k)
    intercept: Floats  # (k,)
    converged: bool
    n_iter: int


def _path(X: Floats, Y: Floats, weight: Floats, l2: Floats, max_iter: int, tol: float) -> Iterator[_Solution]:
    """Minimise sum_i w_i CE_i + l2 / 2 |coef|^2 for each of `l2` (descending), each from the solutions before it.

    Two things change neither loss nor penalty and save three of four steps. L-BFGS works in coordinates in which the
    Hessian at a solution before, its blocks averaged over the classes, is the identity. And it starts where the last
    two solutions point, as straight lines in log(l2).
    """
    n, (rows, d), k = weight.sum(), X.shape, Y.shape[1]
    mean = weight @ X / n
    A = X - mean  # the intercept, unpenalised, absorbs it; centred, it decouples from the coefficients
    axes = np.linalg.svd(A, full_matrices=False)[2].T if d > rows else None  # no solution leaves the rows' span
    A = A if axes is None else A @ axes
    r = A.shape[1]
    size = 1 + 2**17 // r  # a block of A that stays in the cache is read from memory once for both products
    blocks = [slice(i, i + size) for i in range(0, rows, size)]
    options: Any = {"maxiter": max_iter, "maxfun": 50 * max_iter, "gtol": tol, "ftol": 64 * np.finfo(float).eps}

    def inward(u: Floats, factor: Floats, level: Floats) -> Floats:
        v = u.reshape(r + 1, k) * np.sqrt(n)
        return np.vstack([solve_triangular(factor, v[:-1], lower=True, trans=1, check_finite=False), v[-1] / level])

    def loss(u: Floats, factor: Floats, level: Floats, penalty: float) -> tuple[float, Floats]:
        W = inward(u, factor, level)
        total, slope, tilt = penalty / 2 * np.square(W[:-1]).sum(), penalty * W[:-1], np.zeros(k)
        for block in blocks:
            log_p = log_softmax(A[block] @ W[:-1] + W[-1], axis=1)
            residual = (np.exp(log_p) - Y[block]) * weight[block, None]
            total -= weight[block] @ (log_p * Y[block]).sum(axis=1)
            slope += A[block].T @ residual
            tilt += residual.sum(axis=0)
        slope = solve_triangular(factor, slope, lower=True, check_finite=False)
        return float(total / n), (np.vstack([slope, tilt / level]) / np.sqrt(n)).ravel()

    W = before = np.zeros((r + 1, k))  # last row: intercept
    strides, known = np.diff(np.log(l2)), np.inf
    for i, value in enumerate(l2):
        # Two-class softmax splits one vector w into -w/2 and w/2, which halves |coef|^2: undone, to mean what C means.
        penalty = value * (2 if k == 2 else 1)
        if value < known / 10:  # the Hessian changes slowly
            p = softmax(A @ W[:-1] + W[-1], axis=1)
            curvature = weight[:, None] * p * (1 - p)
            hessian, known = (A * curvature.mean(axis=1)[:, None]).T @ A, value
            floor = np.finfo(float).eps * np.trace(hessian)  # a penalty of almost nothing leaves no inverse
            level = np.maximum(np.sqrt(curvature.sum(axis=0)), 1e-3 * np.sqrt(n))
        factor = cholesky(hessian + (penalty + floor) * np.eye(r), lower=True, check_finite=False)
        ahead = min(1.0, strides[i - 1] / (strides[i - 2] - 1e-12)) if i > 1 else 0.0
        W, before = W + ahead * (W - before), W
        start = np.vstack([factor.T @ W[:-1], W[-1] * level]).ravel() / np.sqrt(n)
        found = minimize(loss, start, args=(factor, level, penalty), jac=True, method="L-BFGS-B", options=options)
        W = inward(found.x, factor, level)
        coef = W[:-1] if axes is None else axes @ W[:-1]
        yield _Solution(coef, W[-1] - mean @ coef, bool(found.success), int(found.nit))


class LinearProbe(Probe):
    """Multinomial logistic regression whose L2 strength is swept on validation rows, then refitted on all rows.

    Minimises ``sum_i w_i * cross_entropy_i + l2 / 2 * |coef|^2`` by L-BFGS, the intercept unpenalised: ``l2`` is
    ``1 / C`` of scikit-learn's LogisticRegression, also for two classes, and the default grid is the reciprocals of
    DINOv2's 45 values of C (1e-6 to 1e5). CLIP's appendix A.3 names the strength lambda and sweeps 96 values from 1e-6
    to 1e6 (``l2=np.logspace(-6, 6, 96)``). The sum over rows is not divided by their number, so a chosen `l2` goes
    unchanged into the refit, as a chosen C does. Where CLIP stops after 1,000 iterations and DINOv2 at a tolerance of
    1e-12, here `tol` bounds the gradient of the objective, divided by the number of rows and with each direction scaled
    by its curvature: the default leaves that mean objective within about 1e-8 of the optimum.

    The strength with the smallest validation log loss wins (weighted by `class_weight` like the training loss); of
    those within 1e-4 nats of the smallest, the strongest. Nothing is learned from validation rows before the refit, the
    standardisation included.

    Parameters
    ----------
    l2 : float, sequence of float or None
        Strengths to sweep; None takes the 45 of `L2_VALUES`. A single one is fitted on all rows without a sweep,
        unless validation rows are given.
    standardize : bool
        Scale features to mean 0 and variance 1 first. The learned scale is folded into `coef_`.
    validation_fraction : float
        Share of the rows cut off for validation (see `validation_split`) when `fit` is given none.
    cv : int or None
        Number of folds (by group where there are groups) to average over in place of the single cut.
    max_iter, tol : int, float
        Stopping rule of L-BFGS, for each strength.
    class_weight : "balanced", dict of class to weight, or None
    random_state : int, RandomState instance or None
        Draws the validation rows; the fit itself has no randomness.

    Attributes
    ----------
    classes_ : (k,) array
    coef_ : (k, d) float64, or (1, d) for two classes
        Acts on unscaled features.
    intercept_ : (k,) float64, or (1,)
    l2_ : float
        The chosen strength.
    sweep_ : DataFrame
        A row per strength, ascending: l2, val_log_loss, val_accuracy (NaN without validation rows), converged.
    converged_, n_iter_ : bool, int
        Of the refit.
    """

    _learned = frozenset(
        {"n_features_in_", "classes_", "coef_", "intercept_", "l2_", "sweep_", "converged_", "n_iter_"}
    )

    def __init__(
        self,
        *,
        l2: float | Sequence[float] | None = None,
        standardize: bool = True,
        validation_fraction: float = 0.2,
        cv: int | None = None,
        max_iter: int = 1000,
        tol: float = 1e-6,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.validation_fraction = validation_fraction
        self.cv = cv
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Sweep the strengths, choose one, refit on all rows (training and validation).

        Parameters
        ----------
        X, y : (n, d) and (n,) array-like
        X_val, y_val : (m, d) and (m,) array-like, optional
            Validation rows; without them they are cut from `X`.
        groups : (n,) array-like, optional
            Rows of one group fall on the same side of that cut. Of no effect when validation rows are given.

        Raises
        ------
        ArgumentError
            When the input is unusable (NaN, one class, unequal lengths, a class that only validation has).
        """
        with one_sentence("l2"):
            l2 = np.sort(np.atleast_1d(np.asarray(L2_VALUES if self.l2 is None else self.l2, dtype=np.float64)))[::-1]
        if l2.ndim != 1 or not l2.size or not (np.isfinite(l2) & (l2 > 0)).all():
            raise ArgumentError(f"l2 must be one or several positive numbers; got {self.l2!r}.")
        X, codes, class_weight, groups, split = self._check(X, y, X_val, y_val, groups)
        Y, weight = np.eye(len(self.classes_))[codes], class_weight[codes]

        def solve(rows: Ints, l2: Floats) -> Iterator[_Solution]:
            mean, scale = self._scaler(X[rows])
            for s in _path((X[rows] - mean) / scale, Y[rows], weight[rows], l2, self.max_iter, self.tol):
                coef = s.coef / scale[:, None]
                yield s._replace(coef=coef, intercept=s.intercept - mean @ coef)

        def validate(fold: tuple[Ints, Ints]) -> Floats:
            train, val = fold
            X_held, out = X[val], np.empty((3, len(l2)))
            for i, s in enumerate(solve(train, l2)):
                log_p = log_softmax(X_held @ s.coef + s.intercept, axis=1)
                hits = (log_p.argmax(axis=1) == codes[val]).sum()
                out[:, i] = -weight[val] @ (log_p * Y[val]).sum(axis=1), hits, s.converged
            return out

        folds = [split] if split else self._folds(codes, groups) if len(l2) > 1 else []
        # One thread: the same bits whatever the number of cores, and these products are bound by memory anyway.
        with threadpool_limits(limits=1, user_api="blas"):
            with ThreadPoolExecutor(min(len(folds), os.cpu_count() or 1) or 1) as pool:  # a fold a thread
                found = np.array(list(pool.map(validate, folds))).reshape(-1, 3, len(l2))
            held = [val for _, val in folds]
            log_loss = found[:, 0].sum(axis=0) / (sum(weight[val].sum() for val in held) or 1.0)
            accuracy = found[:, 1].sum(axis=0) / (sum(map(len, held)) or 1.0)
            converged = found[:, 2].all(axis=0)
            best = int((log_loss <= log_loss.min() + TIE).argmax())  # the first of equal ones: the values descend
            final = next(solve(np.arange(len(X)), l2[[best]]))
        if not folds:
            log_loss, accuracy, converged = (np.full(len(l2), v) for v in (np.nan, np.nan, final.converged))
        self.sweep_ = (
            pd.DataFrame({"l2": l2, "val_log_loss": log_loss, "val_accuracy": accuracy, "converged": converged})
            .iloc[::-1]
            .reset_index(drop=True)
        )
        self.l2_, self.converged_ = float(l2[best]), final.converged
        self.n_iter_ = max(final.n_iter, 1)  # a start that is the optimum counts as one
        coef, intercept = final.coef.T, final.intercept
        if len(coef) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        # Contiguous, because the memory order decides how products round, and a saved probe must predict the same bits.
        self.coef_, self.intercept_ = np.ascontiguousarray(coef), np.ascontiguousarray(intercept)
        if not final.converged:
            message = f"LinearProbe stopped after {final.n_iter} iterations before it converged: raise max_iter."
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        logger.info("linear probe: l2 %.3g of %d, %d iterations, converged: %s", self.l2_, len(l2), self.n_iter_,
                    self.converged_)  # fmt: skip
        return self

    def _folds(self, codes: Ints, groups: NDArray[Any] | None) -> list[tuple[Ints, Ints]]:
        if self.cv is None:
            return [validation_split(codes, groups, self.validation_fraction, self._seed())]
        folder = StratifiedKFold if groups is None else StratifiedGroupKFold
        with one_sentence():
            folds = list(folder(self.cv, shuffle=True, random_state=self._seed()).split(codes, codes, groups))
        if any(len(np.unique(codes[train])) < len(self.classes_) for train, _ in folds):
            raise ArgumentError(f"With cv={self.cv}, a fold trains without one class: use fewer folds or cv=None.")
        return folds

    def decision_function(self, X: ArrayLike) -> Floats:
        """Log odds: (n, k) float64 up to a constant per row, or (n,) for two classes (positive: the second)."""
        scores = self._scores(X)
        return scores if len(self.coef_) > 1 else 2 * scores[:, 1]

    def _logits(self, X: Floats) -> Floats:
        scores = np.asarray(X @ self.coef_.T + self.intercept_)
        return scores if len(self.coef_) > 1 else scores * np.array([-0.5, 0.5])
