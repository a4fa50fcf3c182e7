"""The linear probe: logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.probes.base import TIE, Probe, mean_log_loss
from cliplib.probes.logistic import LogisticProblem, are_few_rows, principal_axes

# Largest entry of the preconditioned gradient at which a minimum counts as reached.
TOL = 3e-5

# The same limit while values of C are tried on many rows; it saves a quarter of the
# steps. The log losses of values near the best are then within 2e-4 nats of those at
# the minima, as measured on 5,600 brain slices and 2,000 photographs. Few rows are
# solved to TOL: their losses depend more on the last steps, which take little time.
TRIAL_TOL = 3 * TOL


class LinearProbe(Probe):
    """Multinomial logistic regression on standardised features.

    The fit minimises the mean log loss + |coef_|² / (2 C n). Values of C are tried from
    the smallest on, until the validation loss is more than 1e-4 nats above the best.
    The smallest C within 1e-4 nats of the best is chosen, and fitted to all rows,
    validation rows included. (DINOv2 tries more values: 45.)

    The fitted attributes are coef_ (k, d), intercept_ (k,), C_, and sweep_, a DataFrame
    of C, log_loss (nats) and accuracy.

    Parameters
    ----------
    Cs
        Inverse strengths of the penalty to choose from, at least one.
    seed
        Seed of the draw of the held-out fifth.
    """

    def __init__(
        self,
        Cs: Sequence[float] = tuple(np.logspace(-5, 1, 7)),
        *,
        seed: int = 0,
    ) -> None:
        self.Cs = Cs
        self.seed = seed

    def _fit(
        self,
        rows: Features,
        class_codes: Ints,
        train_rows: Ints,
        held_out_rows: Ints,
    ) -> None:
        """Choose C on held-out rows, then fit to all rows."""
        if not len(self.Cs) or min(self.Cs) <= 0:
            raise ValueError(f"Cs={self.Cs!r} must be positive numbers, one at least.")
        scaled = self._standardize(rows[train_rows])
        # The axes only matter for speed, so they serve for all rows below as well.
        axes = principal_axes(scaled)
        problem = LogisticProblem(scaled, class_codes[train_rows], axes)
        trial_tol = TOL if are_few_rows(*scaled.shape) else TRIAL_TOL
        held_out = self._scaled(rows[held_out_rows])
        held_out_codes = class_codes[held_out_rows]
        weights = self._choose_C(problem, trial_tol, held_out, held_out_codes)
        # Freed first, since beside a copy of all rows they would double the memory.
        del problem, scaled
        scaled = self._standardize(rows)
        problem = LogisticProblem(scaled, class_codes, axes)
        self._set_weights(problem.minimize(self.C_, weights, TOL))

    def _choose_C(
        self,
        problem: LogisticProblem,
        tol: float,
        held_out: Features,
        held_out_codes: Ints,
    ) -> Floats:
        """Choose C by the log loss on held-out rows; set C_ and sweep_.

        Returns the problem's solution for C_, to the tolerance `tol`: weights
        (k, d + 1), the intercept last. `held_out` (m, d) are standardised features,
        `held_out_codes` (m,) the classes of these rows. coef_ and intercept_ are left
        at the last value of C that was tried.
        """
        weights = np.zeros((len(self.classes_), held_out.shape[1] + 1))
        weights_by_C: dict[float, Floats] = {}
        sweep: list[dict[str, float]] = []
        for C in sorted(self.Cs):
            # The solution for the last C is a near starting point.
            weights = problem.minimize(C, weights, tol)
            weights_by_C[C] = weights
            self._set_weights(weights)  # which _logits uses
            logits = self._logits(held_out)
            loss = mean_log_loss(held_out_codes, logits)
            accuracy = (logits.argmax(axis=1) == held_out_codes).mean()
            sweep.append({"C": C, "log_loss": loss, "accuracy": accuracy})
            if loss > min(row["log_loss"] for row in sweep) + TIE:
                break
        self.sweep_ = pd.DataFrame(sweep)
        is_best = self.sweep_["log_loss"] <= self.sweep_["log_loss"].min() + TIE
        self.C_ = float(self.sweep_["C"][is_best].min())
        return weights_by_C[self.C_]

    def _set_weights(self, weights: Floats) -> None:
        """Set coef_ and intercept_ from weights (k, d + 1), the intercept last."""
        self.coef_ = weights[:, :-1].copy()
        self.intercept_ = weights[:, -1].copy()

    def _logits(self, scaled: Features) -> Floats:
        """Return logits (n, k) of standardised features (n, d)."""
        return np.asarray(scaled @ self.coef_.T + self.intercept_)

    def _gradients(self, scaled: Features, class_codes: Ints) -> Floats:
        """Return each row's gradient of its class's logit, (n, d), by `scaled`."""
        # A linear logit has the same gradient everywhere: the class's coefficients.
        return np.asarray(self.coef_[class_codes])
