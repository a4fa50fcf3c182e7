"""Light classifiers on frozen features: scikit-learn estimators.

What is chosen is chosen on validation rows, never on test rows, as in CLIP's protocol
(Radford et al. 2021, appendix A.3) and DINOv2's (Oquab et al. 2024,
``eval/log_regression.py``).
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save
from scipy import linalg
from scipy.special import ndtr, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import log_loss
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from cliplib.arrays import Features, Floats, Ints
from cliplib.logistic import LogisticProblem, principal_axes
from cliplib.splits import group_train_test_split
from cliplib.threads import one_thread

ClassWeight = Literal["balanced"] | Mapping[Any, float] | None

Split = Callable[[int], tuple[Ints, Ints]]
"""Gives, for a seed, the rows to train on and the rows to validate on."""

TIE = 1e-4
"""Validation losses (nats) this close are equal, so that rounding does not decide."""


class Probe(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What all probes share: how rows are checked, split and scaled, and the answers.

    A probe's own part is ``_fit``, ``_logits`` and ``_slopes``, the latter two on
    standardised features. After `fit` all have classes_ (k,), and mean_ and scale_ (d,)
    of the features.

    `class_weight` says what a row of each class counts, in fitting as in choosing on
    validation rows: None, all alike; "balanced", so that all classes count alike; or a
    dict from class to weight.
    """

    seed: int
    class_weight: ClassWeight
    classes_: NDArray[Any]
    mean_: Floats
    scale_: Floats

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Fit on features (n, d) and labels (n,) of any kind.

        Without validation rows `X_val` (m, d) and `y_val` (m,) a fifth is held out,
        rows of one group together. ValueError for rows that do not fit together.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(
                f"All labels are {str(labels[0])!r}: a classifier needs two classes."
            )
        n = len(rows)
        if X_val is None and y_val is None:

            def split(seed: int) -> tuple[Ints, Ints]:
                return group_train_test_split(labels, groups, seed=seed)

        else:
            rows_val, labels_val = self._validation_rows(X_val, y_val)
            rows = np.concatenate([rows, rows_val])
            labels = np.concatenate([labels, labels_val])

            def split(seed: int) -> tuple[Ints, Ints]:
                return np.arange(n), np.arange(n, len(rows))

        weights = compute_class_weight(
            self.class_weight, classes=self.classes_, y=labels
        )
        with one_thread:
            codes = np.searchsorted(self.classes_, labels)
            self._fit(rows, codes, weights.astype(np.float32), split)
        return self

    def _validation_rows(
        self, X_val: ArrayLike | None, y_val: ArrayLike | None
    ) -> tuple[Features, NDArray[Any]]:
        if X_val is None or y_val is None:
            raise ValueError("Give both X_val and y_val, or neither.")
        rows = check_array(
            X_val, dtype=np.float32, ensure_all_finite=False, input_name="X_val"
        )
        labels = np.asarray(y_val)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X_val has {rows.shape[1]} features, and X {self.n_features_in_}: "
                "take both from the same readout."
            )
        if labels.shape != (len(rows),):
            raise ValueError(
                f"y_val must hold one label for each of the {len(rows)} rows of X_val."
            )
        odd = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if odd.size:
            raise ValueError(
                f"X_val is not finite in {odd.size} rows, the first of them {odd[0]}: "
                "leave them out."
            )
        if not np.isin(labels, self.classes_).all():
            raise ValueError("y_val holds a class that y lacks: leave its rows out.")
        return rows, labels

    def logits(self, X: ArrayLike) -> Floats:
        """Return logits (n, k) of features (n, d)."""
        with one_thread:
            return self._logits(self._scaled(X))

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probability of each class, (n, k), in the order of `classes_`."""
        return np.asarray(softmax(self.logits(X), axis=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, (n,)."""
        best = self.logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def logit_gradients(self, X: ArrayLike, classes: ArrayLike) -> Features:
        """Return how a class's logit changes with the features of each row, (n, d).

        `classes` (n,) name the logit of each row, as `predict` does.
        """
        scaled = self._scaled(X)
        codes = pd.Index(self.classes_).get_indexer(np.asarray(classes))
        if codes.shape != (len(scaled),) or (codes < 0).any():
            known = ", ".join(map(str, self.classes_))
            raise ValueError(f"classes must name one of {known} for each row of X.")
        with one_thread:
            return np.asarray(self._slopes(scaled, codes) / self.scale_, np.float32)

    def _scale(self, rows: Features) -> Features:
        """Learn mean and scale of rows, and return them standardised.

        As scikit-learn's StandardScaler does, in a third of the time.
        """
        self.mean_ = rows.mean(axis=0, dtype=np.float64)
        centred = rows - self.mean_.astype(np.float32)
        variance = np.square(centred).mean(axis=0, dtype=np.float64)
        self.scale_ = np.sqrt(np.where(variance == 0, 1, variance))
        centred /= self.scale_.astype(np.float32)
        return centred

    def _scaled(self, X: ArrayLike) -> Floats:
        """Check and standardise features."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        return np.asarray((rows - self.mean_) / self.scale_)

    @abstractmethod
    def _fit(
        self, rows: Features, codes: Ints, class_weights: Features, split: Split
    ) -> None:
        """Fit on rows (n, d) of classes `codes` (n,), which count `class_weights`."""

    @abstractmethod
    def _logits(self, scaled: Floats) -> Floats:
        """Return logits (n, k) of standardised features (n, d)."""

    @abstractmethod
    def _slopes(self, scaled: Floats, codes: Ints) -> Floats:
        """Return the gradients of logits by standardised features, both (n, d)."""


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
            loss = _log_loss(codes[held_out], logits, class_weights)
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
            _log_loss(codes_held_out, factor * scores, class_weights)
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


class MLPProbe(Probe):
    """Networks with one hidden layer of GELU units, stopped early; logits are averaged.

    One network depends on its first weights by several points of accuracy, five
    together far less (Lakshminarayanan et al., NIPS 2017). Each has its own seed and,
    without validation rows, its own held-out fifth; of its epochs (AdamW, Loshchilov
    and Hutter, ICLR 2019) it keeps the one with the smallest log loss there.

    Fitted are hidden_coef_ (networks, hidden, d), hidden_intercept_ (networks, hidden),
    coef_ (networks, k, hidden) and intercept_ (networks, k).

    Parameters
    ----------
    networks
        How many are averaged.
    hidden
        Units of each.
    dropout
        Share of the hidden units that is left out in a step of training.
    learning_rate, weight_decay, batch_size
        Of AdamW.
    max_epochs
        The last one.
    patience
        Epochs without a smaller validation loss, after which training stops.
    class_weight
        See `Probe`.
    seed
        Of the first network: of its weights, batches, dropout and held-out fifth.
    """

    def __init__(
        self,
        networks: int = 5,
        hidden: int = 128,
        *,
        dropout: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        max_epochs: int = 200,
        patience: int = 4,
        class_weight: ClassWeight = None,
        seed: int = 0,
    ) -> None:
        self.networks = networks
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.class_weight = class_weight
        self.seed = seed

    def _fit(
        self, rows: Features, codes: Ints, class_weights: Features, split: Split
    ) -> None:
        inputs = torch.from_numpy(self._scale(rows))
        targets = torch.from_numpy(codes)
        weights = torch.from_numpy(class_weights)
        networks: list[list[Features]] = []
        for seed in range(self.seed, self.seed + self.networks):
            train, held_out = split(seed)
            network = _Network(
                n_features=rows.shape[1],
                n_hidden=self.hidden,
                n_classes=len(self.classes_),
                dropout=self.dropout,
                generator=torch.Generator().manual_seed(seed),
            )
            parameters = self._train(
                network,
                (inputs[train], targets[train]),
                (inputs[held_out], targets[held_out]),
                weights,
            )
            networks.append(parameters)
        layers = [np.stack(layer) for layer in zip(*networks, strict=True)]
        self.hidden_coef_, self.hidden_intercept_, self.coef_, self.intercept_ = layers

    def _train(
        self,
        network: _Network,
        training: tuple[Tensor, Tensor],
        held_out: tuple[Tensor, Tensor],
        class_weights: Tensor,
    ) -> list[Features]:
        """Return the parameters that a network had after its best epoch."""
        optimizer = torch.optim.AdamW(
            network.parameters,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=True,
        )
        inputs, targets = training
        inputs_held_out, targets_held_out = held_out
        best_loss = np.inf
        best_epoch = 0
        best_parameters: list[Features] = []
        for epoch in range(self.max_epochs):
            order = network.shuffled(len(inputs))
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                logits = network.logits(inputs[batch], training=True)
                batch_loss = F.cross_entropy(logits, targets[batch], class_weights)
                torch.autograd.backward(batch_loss)
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                logits = network.logits(inputs_held_out)
                loss = F.cross_entropy(logits, targets_held_out, class_weights).item()
            if loss < best_loss:
                best_loss = loss
                best_epoch = epoch
                best_parameters = network.copy_parameters()
            elif epoch - best_epoch >= self.patience:
                break
        if not best_parameters:
            raise ValueError(
                "The network's loss is not finite after any epoch: choose a smaller "
                f"learning_rate than {self.learning_rate}."
            )
        return best_parameters

    def member_logits(self, X: ArrayLike) -> Floats:
        """Return each network's own logits (networks, n, k) of features (n, d)."""
        with one_thread:
            return self._member_logits(self._scaled(X))

    def _member_logits(self, scaled: Floats) -> Floats:
        before = self._before_gelu(scaled)
        hidden = before * ndtr(before)
        return np.asarray(hidden @ self.coef_.mT + self.intercept_[:, None])

    def _before_gelu(self, scaled: Floats) -> Floats:
        return np.asarray(
            scaled @ self.hidden_coef_.mT + self.hidden_intercept_[:, None]
        )

    def _logits(self, scaled: Floats) -> Floats:
        return np.asarray(self._member_logits(scaled).mean(axis=0))

    def _slopes(self, scaled: Floats, codes: Ints) -> Floats:
        before = self._before_gelu(scaled)
        density = np.exp(-(before**2) / 2) / np.sqrt(2 * np.pi)
        slope_of_gelu = ndtr(before) + before * density
        slopes = (self.coef_[:, codes] * slope_of_gelu) @ self.hidden_coef_
        return np.asarray(slopes.mean(axis=0))


class _Network:
    """One hidden layer of GELU units, with the first weights of ``torch.nn.Linear``.

    All chance comes from `generator`. torch's own layers draw from random numbers that
    all threads share, so that a fit would depend on what else is running.
    """

    def __init__(
        self,
        n_features: int,
        n_hidden: int,
        n_classes: int,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        self.dropout = dropout
        self.generator = generator
        self.hidden_coef = self._uniform(n_hidden, n_features, fan_in=n_features)
        self.hidden_intercept = self._uniform(n_hidden, fan_in=n_features)
        self.coef = self._uniform(n_classes, n_hidden, fan_in=n_hidden)
        self.intercept = self._uniform(n_classes, fan_in=n_hidden)

    def _uniform(self, *shape: int, fan_in: int) -> Tensor:
        bound = fan_in**-0.5
        values = torch.empty(shape).uniform_(-bound, bound, generator=self.generator)
        return values.requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [self.hidden_coef, self.hidden_intercept, self.coef, self.intercept]

    def copy_parameters(self) -> list[Features]:
        return [parameter.detach().numpy().copy() for parameter in self.parameters]

    def shuffled(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator)

    def logits(self, rows: Tensor, *, training: bool = False) -> Tensor:
        """Return logits (n, k) of rows (n, d), with dropout in training alone."""
        hidden = F.gelu(F.linear(rows, self.hidden_coef, self.hidden_intercept))
        if training:
            kept = 1 - self.dropout
            mask = torch.empty_like(hidden).bernoulli_(kept, generator=self.generator)
            hidden = hidden * mask / kept
        return F.linear(hidden, self.coef, self.intercept)


def _log_loss(codes: Ints, logits: ArrayLike, class_weights: Features) -> float:
    """Return the mean log loss (nats) of logits (n, k), weighted by class."""
    proba = softmax(np.asarray(logits, np.float64), axis=1)  # float32 would be clipped
    return float(
        log_loss(
            codes,
            proba,
            sample_weight=class_weights[codes],
            labels=range(len(class_weights)),
        )
    )


def save_probe(probe: Probe, folder: str | os.PathLike[str]) -> None:
    """Write a fitted probe as ``probe.safetensors`` (arrays) and ``probe.json``."""
    check_is_fitted(probe)
    fitted = {name: value for name, value in vars(probe).items() if name.endswith("_")}
    arrays = {
        name: np.ascontiguousarray(value)
        for name, value in fitted.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
    }
    parameters = probe.get_params()
    if isinstance(probe.class_weight, Mapping):  # JSON's keys are strings alone
        parameters["class_weight"] = list(probe.class_weight.items())
    document = {
        "kind": type(probe).__name__,
        "parameters": parameters,
        "fitted": {n: value for n, value in fitted.items() if n not in arrays},
    }
    text = json.dumps(document, indent=1, default=_as_json)
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "probe.safetensors").write_bytes(save(arrays))
    (Path(folder) / "probe.json").write_text(text, encoding="utf-8")


def _as_json(value: Any) -> Any:
    """Return what JSON can hold in place of a DataFrame, an array or its number."""
    if isinstance(value, pd.DataFrame):
        return value.to_dict("list")
    return np.asarray(value).tolist()


def load_probe(folder: str | os.PathLike[str]) -> LinearProbe | KernelProbe | MLPProbe:
    """Read what `save_probe` wrote; the probabilities are the same to the bit."""
    document = json.loads((Path(folder) / "probe.json").read_text(encoding="utf-8"))
    kinds = {kind.__name__: kind for kind in (LinearProbe, KernelProbe, MLPProbe)}
    parameters = document["parameters"]
    if isinstance(parameters["class_weight"], list):
        parameters["class_weight"] = dict(parameters["class_weight"])
    probe: LinearProbe | KernelProbe | MLPProbe
    probe = kinds[document["kind"]](**parameters)
    for name, value in document["fitted"].items():
        setattr(probe, name, _from_json(value))
    for name, array in load_file(Path(folder) / "probe.safetensors").items():
        setattr(probe, name, array)
    return probe


def _from_json(value: Any) -> Any:
    """Return what `_as_json` replaced: a DataFrame, an array, or a plain number."""
    if isinstance(value, dict):
        return pd.DataFrame(value)
    return np.array(value) if isinstance(value, list) else value
