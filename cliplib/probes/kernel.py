"""The kernel probe: ridge regression of the classes with a Gaussian kernel."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.probes.base import Probe, mean_log_loss

# The kernel of two rows of d features is exp(-GAMMA / d times their squared distance).
GAMMA = 0.6

# Factors that turn scores into logits, of which one is chosen.
LOGIT_SCALES = (4, 6, 8, 12, 16, 24)

# Largest number of rows, which takes 2 GB: memory grows with their square.
MAX_ROWS = 20_000


class KernelProbe(Probe):
    """Ridge regression of the classes with a Gaussian kernel, on standardised features.

    The method is that of Rifkin, Yeo and Poggio 2003, "Regularized least-squares
    classification". The regression gives each row a score for each class, about 1 for
    its own class and 0 for the others. Logits are the scores times a factor, the one
    with the smallest log loss on validation rows; then the regression is fitted to all
    rows.

    Kernels are computed in float32, so the logits of a row may differ by about 1e-6
    with the number of rows that are predicted together. Therefore one check of
    scikit-learn's ``check_estimator`` fails, ``check_methods_subset_invariance``, which
    allows 1e-7.

    The fitted attributes are logit_scale_, gamma_, rows_ (n, d), standardised, with
    validation rows last, and coef_ (n, k).

    Parameters
    ----------
    alpha
        Weight of the penalty on the squared norm of the scoring function.
    seed
        Seed of the draw of the held-out fifth.
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
        """Choose the logit scale on held-out rows, then fit to all rows."""
        n, d = rows.shape
        if n > MAX_ROWS:
            peak_gb = 1.3 * 4 * n**2 / 1e9  # measured: that of 1.3 float32 kernels
            raise ValueError(
                f"A KernelProbe of {n:,} rows needs about {peak_gb:.0f} GB of memory: "
                f"use LinearProbe, or at most {MAX_ROWS:,} rows."
            )
        self.gamma_ = GAMMA / d
        n_train = len(train_rows)
        # From here on, training rows come first, then held-out rows.
        order = np.concatenate([train_rows, held_out_rows])
        self.rows_ = self._standardize(rows[order])
        codes = class_codes[order]
        one_hot = np.eye(len(self.classes_), dtype=np.float32)[codes]

        try:
            held_out_scores, coef = self._two_regressions(one_hot, n_train)
        except linalg.LinAlgError:  # the kernel is singular, as for nearly equal rows
            raise ValueError(
                f"alpha={self.alpha} is too small for rows as alike as these: give a "
                "larger one."
            ) from None
        losses = [
            mean_log_loss(codes[n_train:], factor * held_out_scores)
            for factor in LOGIT_SCALES
        ]
        self.logit_scale_ = LOGIT_SCALES[int(np.argmin(losses))]
        # In the memory order of a loaded probe, so that products are rounded alike.
        self.coef_ = np.ascontiguousarray(coef)

    def _two_regressions(
        self, targets: Features, n_train: int
    ) -> tuple[Features, Features]:
        """Fit targets (n, k) twice: to the first n_train of `rows_`, and to all.

        Returns the scores of the other rows by the first fit, (n - n_train, k), and the
        coefficients of the second fit, (n, k).

        A fit minimises the sum over rows of (y - f(x))², plus alpha |f|², for targets
        y. With the kernel matrix K and A = K + alpha I, its coefficients are c = A⁻¹ y
        and its scores K c. Both fits share one Cholesky factor L, where A = L Lᵀ;
        scikit-learn's KernelRidge gives only the second fit, and needs two more kernels
        in memory.
        """
        kernel = gaussian_kernel(self.rows_, self.rows_, self.gamma_)
        kernel.flat[:: len(kernel) + 1] += self.alpha  # now A = K + alpha I
        # A.T equals A, but has the memory order that LAPACK overwrites without a copy.
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
        # The score of a row x is the sum, over the fitted rows r, of the terms
        # t = coef exp(-gamma |x - r|²). Its gradient by x is 2 gamma times the sum of
        # t (r - x).
        kernel = gaussian_kernel(scaled, self.rows_, self.gamma_)
        terms = kernel * self.coef_[:, class_codes].T  # (n, fitted rows)
        sums = terms @ self.rows_ - terms.sum(axis=1)[:, None] * scaled
        return np.asarray(self.logit_scale_ * 2 * self.gamma_ * sums)


def gaussian_kernel(left: Floats | Features, right: Features, gamma: float) -> Features:
    """Return exp(-gamma times squared distance), (m, n), of rows (m, d) and (n, d)."""
    # scikit-learn's rbf_kernel would compute in float64, and take twice the time.
    left = left.astype(np.float32, copy=False)
    norms_left = (left**2).sum(axis=1)
    norms_right = (right**2).sum(axis=1)
    # The squared distance is |x|² - 2 x·y + |y|². The matrix is changed in place, since
    # for many rows it is large.
    kernel = left @ right.T
    kernel *= -2
    kernel += norms_left[:, None]
    kernel += norms_right
    kernel *= -gamma
    return np.asarray(np.exp(kernel, out=kernel))
