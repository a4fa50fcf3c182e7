"""The kernel probe: ridge regression of the classes with a Gaussian kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import linalg

from cliplib.arrays import Features, Floats, Ints
from cliplib.probes.base import ClassWeight, Probe, Split, weighted_log_loss


class KernelProbe(Probe):
    """Ridge regression of the classes with a Gaussian kernel, on standardised features.

    Rifkin, Yeo and Poggio 2003, "Regularized least-squares classification". Logits are
    the scores times the `sharpness` with the smallest log loss on validation rows; the
    regression then is fitted on all rows.

    Fitted are sharpness_, sweep_, a DataFrame of sharpness and log_loss (nats), gamma_,
    rows_ (n, d), standardised, rows to choose on last, and coef_ (n, k).

    Parameters
    ----------
    alpha
        Penalty on the squared norm of the scores.
    gamma
        The kernel is exp(-gamma times squared distance); None is 0.6 / d.
    sharpness
        Factors to choose from.
    class_weight
        See `Probe`.
    max_rows
        More rows are refused, because memory grows with their square.
    seed
        Of the draw of the held-out fifth.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.01,
        gamma: float | None = None,
        sharpness: Sequence[float] = (4, 6, 8, 12, 16, 24),
        class_weight: ClassWeight = None,
        max_rows: int = 20_000,
        seed: int = 0,
    ) -> None:
        self.alpha = alpha
        self.gamma = gamma
        self.sharpness = sharpness
        self.class_weight = class_weight
        self.max_rows = max_rows
        self.seed = seed

    def _fit(
        self, rows: Features, codes: Ints, class_weights: Features, split: Split
    ) -> None:
        n, d = rows.shape
        if n > self.max_rows:
            peak = 1.3 * 4 * n**2 / 1e9  # measured: 1.3 kernels of float32
            raise ValueError(
                f"A KernelProbe of {n:,} rows needs about {peak:.0f} GB of memory: use "
                f"LinearProbe, fewer rows, or raise max_rows ({self.max_rows:,})."
            )
        if not len(self.sharpness):
            raise ValueError("sharpness must hold one factor at least.")
        self.gamma_ = 0.6 / d if self.gamma is None else self.gamma
        train, held_out = split(self.seed)
        order = np.concatenate([train, held_out])
        self.rows_ = self._scale(rows)[order]
        codes = codes[order]
        one_hot = np.eye(len(self.classes_), dtype=np.float32)[codes]
        row_weights = class_weights[codes]

        scores, coef = self._two_regressions(one_hot, row_weights, len(train))
        codes_held_out = codes[len(train) :]
        losses = [
            weighted_log_loss(codes_held_out, factor * scores, class_weights)
            for factor in self.sharpness
        ]
        self.sweep_ = pd.DataFrame({"sharpness": self.sharpness, "log_loss": losses})
        self.sharpness_ = self.sharpness[int(np.argmin(losses))]
        # The order in memory decides how products are rounded: the one it is saved in.
        self.coef_ = np.ascontiguousarray(coef)

    def _two_regressions(
        self, targets: Features, row_weights: Features, n_train: int
    ) -> tuple[Features, Features]:
        """Regress on the first rows alone, and on all, by one factorisation.

        Returns the scores of the other rows after the first regression (n - n_train,
        k), and the coefficients of the second (n, k). scikit-learn's KernelRidge finds
        the latter, too, and needs two more kernels in memory.
        """
        roots = np.sqrt(row_weights)[:, None]
        kernel = self._kernel(self.rows_)
        if self.class_weight is not None:
            kernel *= roots
            kernel *= roots.T
        kernel.flat[:: len(kernel) + 1] += self.alpha
        # Its transpose, which it equals, lies in memory as LAPACK wants it.
        factor = linalg.cholesky(kernel.T, lower=True, overwrite_a=True)
        half_solved = linalg.solve_triangular(factor, roots * targets, lower=True)
        # Up to here the first rows of factor and solution rest on these rows alone.
        scores = factor[n_train:, :n_train] @ half_solved[:n_train]
        coef = linalg.solve_triangular(factor, half_solved, lower=True, trans="T")
        return scores / roots[n_train:], roots * coef

    def _kernel(self, scaled: Floats | Features) -> Features:
        """Return the kernel (m, n) of standardised features (m, d) and `rows_`."""
        # scikit-learn's rbf_kernel would take float64, and twice the time.
        left = scaled.astype(np.float32, copy=False)
        right = self.rows_
        norms_left = (left**2).sum(axis=1)
        norms_right = (right**2).sum(axis=1)
        # One matrix from here on, changed in its place: of many rows it is large.
        kernel = left @ right.T
        kernel *= -2
        kernel += norms_left[:, None]
        kernel += norms_right
        kernel *= -self.gamma_
        return np.asarray(np.exp(kernel, out=kernel))

    def _logits(self, scaled: Floats) -> Floats:
        scores = self._kernel(scaled) @ self.coef_
        return np.asarray(self.sharpness_ * scores, np.float64)

    def _slopes(self, scaled: Floats, codes: Ints) -> Floats:
        # Of exp(-gamma |x - r|²) the gradient is that times 2 gamma (r - x).
        shares = self._kernel(scaled) * self.coef_[:, codes].T
        pull = shares @ self.rows_ - shares.sum(axis=1)[:, None] * scaled
        return np.asarray(self.sharpness_ * 2 * self.gamma_ * pull)
