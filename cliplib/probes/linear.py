"""The linear probe: logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cliplib.images.arrays import Features, Floats, Ints
from cliplib.probes.base import (
    TIE,
    ClassWeight,
    Probe,
    Split,
    weighted_log_loss,
)
from cliplib.probes.logistic import LogisticProblem, principal_axes
from cliplib.probes.rows import Rows

LARGEST_COPY = 4e9
"""Bytes: larger features are not copied but standardised each time they are read."""
MOST_ROWS_FOR_AXES = 20_000
AXES, AXES_OF_FEW_ROWS = 16, 64


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
        Principal axes along which the solver stretches, a matter of speed. None is 16,
        or 64 if the rows are fewer than a quarter of the features.
    class_weight
        See `Probe`.
    seed
        Of the draw of the held-out fifth.
    """

    def __init__(
        self,
        Cs: Sequence[float] = tuple(np.logspace(-5, 1, 7)),
        *,
        tol: float = 3e-5,
        n_axes: int | None = None,
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
        scaled = self._readable(rows, train)
        n_axes = self._number_of_axes(*scaled.shape)
        axes = principal_axes(scaled[:MOST_ROWS_FOR_AXES], n_axes)
        problem = LogisticProblem(scaled, codes[train], class_weights, axes)
        chosen = self._choose(problem, rows, held_out, codes[held_out], class_weights)
        # Before the rows are standardised anew: both at once would need twice the room.
        del problem, scaled
        scaled = self._readable(rows, np.arange(len(rows)))
        problem = LogisticProblem(scaled, codes, class_weights, axes)
        self._keep(problem.minimize(self.C_, chosen, self.tol))

    def _number_of_axes(self, n: int, d: int) -> int:
        if self.n_axes is not None:
            return self.n_axes
        return AXES_OF_FEW_ROWS if 4 * n < d else AXES

    def _readable(self, rows: Features, index: Ints) -> Rows:
        """Learn mean_ and scale_ of some rows, and return these standardised.

        As a copy; very many as a view, which standardises each time it is read.
        """
        view = self._standardize(rows, index)
        n, d = view.shape
        return view.copy() if 4 * n * d <= LARGEST_COPY else view

    def _choose(
        self,
        problem: LogisticProblem,
        rows: Features,
        held_out: Ints,
        codes: Ints,
        class_weights: Features,
    ) -> Floats:
        """Choose C_ on held-out rows, note sweep_, and return the solution for C_."""
        solution = np.zeros((len(self.classes_), rows.shape[1] + 1))
        solutions: dict[float, Floats] = {}
        sweep: list[dict[str, float]] = []
        for C in sorted(self.Cs):
            solution = problem.minimize(C, solution, self.tol)
            solutions[C] = solution
            self._keep(solution)
            logits = self._logits_of_rows(rows, held_out)
            loss = weighted_log_loss(codes, logits, class_weights)
            accuracy = (logits.argmax(axis=1) == codes).mean()
            sweep.append({"C": C, "log_loss": loss, "accuracy": accuracy})
            if loss > min(row["log_loss"] for row in sweep) + TIE:
                break
        self.sweep_ = pd.DataFrame(sweep)
        good = self.sweep_["log_loss"] <= self.sweep_["log_loss"].min() + TIE
        self.C_ = float(self.sweep_["C"][good].min())
        return solutions[self.C_]

    def _keep(self, solution: Floats) -> None:
        self.coef_ = solution[:, :-1].copy()
        self.intercept_ = solution[:, -1].copy()

    def _logits(self, scaled: Floats) -> Floats:
        return np.asarray(scaled @ self.coef_.T + self.intercept_)

    def _slopes(self, scaled: Floats, codes: Ints) -> Floats:
        return np.asarray(self.coef_[codes])
