"""The kernel probe: ridge regression of the classes with a Gaussian kernel."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.probes.base import Probe, mean_log_loss

# The kernel of rows of d features is exp(-GAMMA / d times squared distance).
GAMMA = 0.6

# Factors of the scores to choose from.
LOGIT_SCALES = (4, 6, 8, 12, 16, 24)

# More rows are refused, because memory grows with their square: these take 2 GB.
MAX_ROWS = 20_000


class KernelProbe(Probe):
    """Ridge regression of the classes with a Gaussian kernel, on standardised features.

    Rifkin, Yeo and Poggio 2003, "Regularized least-squares classification". The
    regression gives each row a score for each class, about 1 for its own and 0 for
    others. Logits are the scores times the scale with the smallest log loss on
    validation rows; the regression then is fitted on all rows.

    Kernels are of float32, so logits of a row may differ by some 1e-6 with the number
    of rows beside it: of scikit-learn's ``check_estimator`` that is the only check that
    fails, ``check_methods_subset_invariance``, which allows 1e-7.

    Fitted are logit_scale_, gamma_, rows_ (n, d), standardised, validation rows last,
    and coef_ (n, k).

    Parameters
    ----------
    alpha
        Weight of the penalty on the squared norm of the scoring function.
    seed
        Of the draw of the held-out fifth.
    """

    def __init__(self, *, alpha: float = 0.01, seed: int = 0) -> None:
        self.alpha = alpha
        self.seed = seed

    def _fit(
        self,
        rows: Features,
        class_codes: Ints,
        train_rows: Ints,
        held_out_rows: Ints,
    ) -> None:
        """Choose the logit scale on held-out rows, then fit on all rows."""
        n, d = rows.shape
        if n > MAX_ROWS:
            peak_gb = 1.3 * 4 * n**2 / 1e9  # measured: 1.3 kernels of float32
            raise ValueError(
                f"A KernelProbe of {n:,} rows needs about {peak_gb:.0f} GB of memory: "
                f"use LinearProbe, or at most {MAX_ROWS:,} rows."
            )
        self.gamma_ = GAMMA / d
        n_train = len(train_rows)
        # All from here on is in this order: training rows first, then held-out rows.
        order = np.concatenate([train_rows, held_out_rows])
        self.rows_ = self._standardize(rows[order])
        codes = class_codes[order]
        one_hot = np.eye(len(self.classes_), dtype=np.float32)[codes]

        try:
            held_out_scores, coef = self._two_regressions(one_hot, n_train)
        except linalg.LinAlgError:  # the kernel is singular: rows are nearly equal
            raise ValueError(
                f"alpha={self.alpha} is too small for rows as alike as these: give a "
                "larger one."
            ) from None
        losses = [
            mean_log_loss(codes[n_train:], factor * held_out_scores)
            for factor in LOGIT_SCALES
        ]
        self.logit_scale_ = LOGIT_SCALES[int(np.argmin(losses))]
        # Row by row in memory, as a saved probe is loaded: products then round alike.
        self.coef_ = np.ascontiguousarray(coef)

    def _two_regressions(
        self, targets: Features, n_train: int
    ) -> tuple[Features, Features]:
        """Fit targets (n, k) to `rows_` twice: to the first n_train rows, and to all.

        Returns the scores that the first fit gives to the other rows (n - n_train, k),
        and the coefficients of the second (n, k).

        A fit minimises the sum over rows of (y - f(x))², plus alpha |f|², for targets
        y. With the kernel matrix K and A = K + alpha I its coefficients are c = A⁻¹ y,
        and its scores K c. Both fits share one Cholesky factor L, A = L Lᵀ;
        scikit-learn's KernelRidge has but the second, and needs two more kernels in
        memory.
        """
        kernel = gaussian_kernel(self.rows_, self.rows_, self.gamma_)
        kernel.flat[:: len(kernel) + 1] += self.alpha  # now A = K + alpha I
        # A.T equals A, and has the order in memory that LAPACK overwrites: no copy.
        factor = linalg.cholesky(kernel.T, lower=True, overwrite_a=True)  # L
        forward = linalg.solve_triangular(factor, targets, lower=True)  # L⁻¹ y
        # Index 1 stands for the first n_train rows, 2 for the others. By blocks,
        # A11 = L11 L11ᵀ and A21 = L21 L11ᵀ. So the first fit's scores of the others,
        # A21 A11⁻¹ y1, are L21 L11⁻¹ y1; and the first rows of `forward` are L11⁻¹ y1.
        held_out_scores = factor[n_train:, :n_train] @ forward[:n_train]
        coef = linalg.solve_triangular(factor, forward, lower=True, trans="T")
        return held_out_scores, coef  # c = L⁻ᵀ (L⁻¹ y)

    def _logits(self, scaled: Features) -> Floats:
        """Return logits (n, k) of standardised features (n, d)."""
        scores = gaussian_kernel(scaled, self.rows_, self.gamma_) @ self.coef_
        return np.asarray(self.logit_scale_ * scores, np.float64)

    def _gradients(self, scaled: Features, class_codes: Ints) -> Floats:
        """Return each row's gradient of its class's logit, (n, d), by `scaled`."""
        # The score of a row x is the sum, over fitted rows r, of the terms
        # t = coef exp(-gamma |x - r|²). Its gradient by x is the sum of
        # 2 gamma t (r - x).
        kernel = gaussian_kernel(scaled, self.rows_, self.gamma_)
        terms = kernel * self.coef_[:, class_codes].T  # (rows x, fitted rows r)
        sums = terms @ self.rows_ - terms.sum(axis=1)[:, None] * scaled  # of t (r - x)
        return np.asarray(self.logit_scale_ * 2 * self.gamma_ * sums)


def gaussian_kernel(left: Floats | Features, right: Features, gamma: float) -> Features:
    """Return exp(-gamma times squared distance), (m, n), of rows (m, d) and (n, d)."""
    # scikit-learn's rbf_kernel would take float64, and twice the time.
    left = left.astype(np.float32, copy=False)
    norms_left = (left**2).sum(axis=1)
    norms_right = (right**2).sum(axis=1)
    # The squared distance is |x|² - 2 x·y + |y|². One matrix from here on, changed in
    # its place: of many rows it is large.
    kernel = left @ right.T
    kernel *= -2
    kernel += norms_left[:, None]
    kernel += norms_right
    kernel *= -gamma
    return np.asarray(np.exp(kernel, out=kernel))
