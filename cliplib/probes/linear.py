"""The linear probe: logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cliplib.arrays import Features, Floats, Ints
from cliplib.probes.base import TIE, ClassWeight, Probe, Split, weighted_log_loss
from cliplib.probes.logistic import LogisticProblem, principal_axes


class LinearProbe(Probe):
    """Multinomial logistic regression on standardised features.

    Minimised is the mean log loss + |coef_|² / (2 C n), for each C from the solution of
    the one before, until one is worse than the best. Of those within 1e-4 nats of the
    smallest validation loss the smallest C wins, and is fitted on all rows. (DINOv2
    sweeps finer: 45 values.)

    Fitted are coef_ (k, d), intercept_ (k,), C_ and sweep_, a DataFrame of C, log_loss
    (nats) and accuracy.

    Parameters
    ----------
    Cs
        Inverse strengths of the penalty to choose from.
    tol
        Slope of the loss that counts as flat.
    n_axes
        Principal axes along which the solver stretches: a matter of speed.
    class_weight
        See `Probe`.
    seed
        Of the draw of the held-out fifth.
    """

    def __init__(
        self,
        Cs: Sequence[float] = tuple(np.logspace(-5, 1, 7)),
        *,
        tol: float = 1e-5,
        n_axes: int = 64,
        class_weight: ClassWeight = None,
        seed: int = 0,
    ) -> None:
        self.Cs = Cs
        self.tol = tol
        self.n_axes = n_axes
        self.class_weight = class_weight
        self.seed = seed

    def _fit(
        self, rows: Features, codes: Ints, class_weights: Features, split: Split
    ) -> None:
        if not len(self.Cs) or not all(C > 0 for C in self.Cs):
            raise ValueError(f"Cs={self.Cs!r} must hold numbers above 0, one at least.")
        train, held_out = split(self.seed)
        scaled = self._scale(rows[train])
        scaled_held_out = (rows[held_out] - self.mean_) / self.scale_
        axes = principal_axes(scaled, self.n_axes)
        problem = LogisticProblem(scaled, codes[train], class_weights, axes)
        solution = np.zeros((len(self.classes_), rows.shape[1] + 1))
        solutions: dict[float, Floats] = {}
        sweep: list[dict[str, float]] = []
        for C in sorted(self.Cs):
            solution = problem.minimize(C, solution, self.tol)
            solutions[C] = solution
            self._keep(solution)
            logits = self._logits(scaled_held_out)
            loss = weighted_log_loss(codes[held_out], logits, class_weights)
            accuracy = (logits.argmax(axis=1) == codes[held_out]).mean()
            sweep.append({"C": C, "log_loss": loss, "accuracy": accuracy})
            if loss > min(row["log_loss"] for row in sweep) + TIE:
                break
        self.sweep_ = pd.DataFrame(sweep)
        good = self.sweep_[
            self.sweep_["log_loss"] <= self.sweep_["log_loss"].min() + TIE
        ]
        self.C_ = float(good["C"].min())
        problem = LogisticProblem(self._scale(rows), codes, class_weights, axes)
        self._keep(problem.minimize(self.C_, solutions[self.C_], self.tol))

    def _keep(self, solution: Floats) -> None:
        self.coef_ = solution[:, :-1].copy()
        self.intercept_ = solution[:, -1].copy()

    def _logits(self, scaled: Floats) -> Floats:
        return np.asarray(scaled @ self.coef_.T + self.intercept_)

    def _slopes(self, scaled: Floats, codes: Ints) -> Floats:
        return np.asarray(self.coef_[codes])
