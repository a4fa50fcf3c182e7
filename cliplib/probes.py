"""Light classifiers on frozen features: scikit-learn estimators.

What is chosen is chosen on validation rows, never on test rows, as in CLIP's protocol (Radford et
al. 2021, appendix A.3) and DINOv2's (Oquab et al. 2024, ``eval/log_regression.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save
from scipy.linalg import block_diag
from scipy.optimize import fmin_l_bfgs_b
from scipy.special import log_softmax, ndtr, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from cliplib.arrays import Features, Floats, Ints
from cliplib.splits import group_train_test_split

Rows = NDArray[np.float32]


Split = Callable[
    [int], tuple[Ints, Ints]
]  # of a seed: rows to train and to validate on


TIE = 1e-4  # nats: validation losses this close are equal, so that rounding does not decide


TOL, AXES = (
    1e-4,
    64,
)  # of the linear probe: a slope that is flat; directions to stretch along


WIDTH = 0.6  # of the kernel: exp(-WIDTH * squared distance / d)


PENALTY = 0.01


SHARPNESS = (4, 6, 8, 12, 16, 24)  # factors that make logits of the kernel's scores


DROPOUT = 0.2  # of the MLP, as all that follow


PATIENCE = 4  # epochs


RATE = 1e-3


DECAY, BATCH, MAX_EPOCHS = 1e-2, 256, 200


class Probe(ClassifierMixin, BaseEstimator):
    """What all probes share: the split, the scaling, the prediction."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,
        y: Any,
        *,
        groups: Any = None,
        X_val: Any = None,
        y_val: Any = None,
    ) -> Self:
        """Fit on features (n, d) and labels (n,) of any kind.

        Without validation rows `X_val`, `y_val` a fifth is held out, rows of one group together.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(
                f"All labels are {str(labels[0])!r}: a classifier needs two classes."
            )
        if (X_val is None) != (y_val is None):
            raise ValueError("Give both X_val and y_val, or neither.")
        n = len(rows)

        def split(seed: int) -> tuple[Ints, Ints]:
            if X_val is None:
                return group_train_test_split(labels, groups, seed=seed)
            return np.arange(n), np.arange(n, len(rows))

        if X_val is not None:
            rows = np.concatenate([rows, np.asarray(X_val, np.float32)])
            labels = np.concatenate([labels, y_val])
            if not np.isin(labels, self.classes_).all():
                raise ValueError(
                    "y_val holds a class that y lacks: leave its rows out."
                )
        with threadpool_limits(1):  # the same digits on any number of cores
            self._fit(rows, np.searchsorted(self.classes_, labels), split)
        return self

    def _scale(self, rows: Rows) -> Rows:
        scaler = StandardScaler().fit(rows)
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        return np.asarray(scaler.transform(rows), np.float32)

    def _scaled(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        return (
            validate_data(self, X, dtype=np.float32, reset=False) - self.mean_
        ) / self.scale_

    def logits(self, X: ArrayLike) -> Floats:
        """Return logits (n, k) of features (n, d)."""
        with threadpool_limits(1):  # as in `fit`
            return self._logits(self._scaled(X))

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probability of each class, (n, k), in the order of `classes_`."""
        return np.asarray(softmax(self.logits(X), axis=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, (n,)."""
        best = self.logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])


class LinearProbe(Probe):
    """Multinomial logistic regression on standardised features, C swept on validation rows.

    Minimised is the mean log loss + |coef_|² / (2 C n), for each C from the solution of the one
    before, until one is worse than the best. Of those within 1e-4 nats of the smallest log loss the
    smallest C wins, and is fitted on all rows. (DINOv2 sweeps finer: 45 values.)

    Fitted are coef_ (k, d), intercept_ (k,), C_ and sweep_: C, log_loss (nats) and accuracy.
    """

    def __init__(
        self, Cs: Sequence[float] = tuple(np.logspace(-5, 1, 7)), seed: int = 0
    ) -> None:
        self.Cs = Cs
        self.seed = seed

    def _fit(self, rows: Rows, codes: Ints, split: Split) -> None:
        (train, held), k = split(self.seed), len(self.classes_)
        X, X_held = self._scale(rows[train]), (rows[held] - self.mean_) / self.scale_
        axes = randomized_svd(X, min(AXES, *X.shape), n_iter=2, random_state=0)[2]
        W, sweep = np.zeros((k, X.shape[1] + 1)), list[tuple[float, ...]]()
        for C in sorted(self.Cs):
            W = _minimize_log_loss(X, codes[train], C, W, axes)
            proba = softmax(X_held @ W[:, :-1].T + W[:, -1], axis=1)
            loss = log_loss(codes[held], proba, labels=range(k))
            sweep.append((C, loss, (proba.argmax(axis=1) == codes[held]).mean()))
            if loss > min(other for _, other, _ in sweep) + TIE:
                break
        self.sweep_ = pd.DataFrame(sweep, columns=["C", "log_loss", "accuracy"])
        self.C_ = float(
            self.sweep_.query("log_loss <= log_loss.min() + @TIE").C.iloc[0]
        )
        W = _minimize_log_loss(self._scale(rows), codes, self.C_, W, axes)
        self.coef_, self.intercept_ = W[:, :-1].copy(), W[:, -1].copy()

    def _logits(self, scaled: Floats) -> Floats:
        return np.asarray(scaled @ self.coef_.T + self.intercept_)


def _minimize_log_loss(X: Rows, codes: Ints, C: float, W: Floats, axes: Rows) -> Floats:
    """Go on from weights and intercepts (k, d + 1) to the minimum that `LinearProbe` names.

    L-BFGS, stretched along `axes` (r, d), the first principal ones, so that the loss curves alike
    in all directions (Böhning 1992). scikit-learn's takes five times as long to come as near.
    """
    penalty, x = 1 / (C * len(X)), np.column_stack([X, np.ones(len(X), np.float32)])
    target, along = np.eye(len(W), dtype=np.float32)[codes], block_diag(axes, 1)
    curvature = np.square(x @ along.T.astype(np.float32)).mean(axis=0, dtype=float) / 4
    curvature[:-1] += penalty  # all but the intercept's
    stretch = curvature**-0.5

    def stretched(step: Floats) -> Floats:
        return stretch[-2] * step + (step @ along.T * (stretch - stretch[-2])) @ along

    def objective(step: Floats) -> tuple[float, Floats]:
        w = W + stretched(step.reshape(W.shape))
        log_proba = log_softmax(x @ w.T.astype(np.float32), axis=1)
        slope = (np.exp(log_proba) - target).T @ x / len(x)
        w[:, -1] = 0
        loss = penalty / 2 * np.square(w).sum() - (target * log_proba).sum(
            dtype=float
        ) / len(x)
        return loss, stretched(slope + penalty * w).ravel()

    step = fmin_l_bfgs_b(objective, np.zeros(W.size), m=20, pgtol=TOL)[0]
    return np.asarray(W + stretched(step.reshape(W.shape)))


class KernelProbe(Probe):
    """Kernel ridge regression of the classes, Gaussian kernel, on standardised features.

    Rifkin, Yeo and Poggio 2003. The logits are the scores times the one of `SHARPNESS` with the
    smallest log loss on validation rows.

    Fitted are sharpness_, rows_ (n, d) standardised, and coef_ (n, k).
    """

    def _fit(self, rows: Rows, codes: Ints, split: Split) -> None:
        (train, held), k = split(self.seed), len(self.classes_)
        self.rows_ = self._scale(rows)
        kernel, targets = self._kernel(self.rows_), np.eye(k, dtype=np.float32)[codes]
        ridge = KernelRidge(alpha=PENALTY, kernel="precomputed")
        ridge.fit(kernel[np.ix_(train, train)], targets[train])
        scores = ridge.predict(kernel[np.ix_(held, train)])
        proba = [softmax(factor * scores, axis=1) for factor in SHARPNESS]
        losses = [log_loss(codes[held], p, labels=range(k)) for p in proba]
        self.sharpness_ = SHARPNESS[int(np.argmin(losses))]
        self.coef_ = ridge.fit(kernel, targets).dual_coef_

    def _kernel(self, x: Floats | Rows) -> Rows:
        # rbf_kernel would take float64, and twice the time for equal answers.
        x, rows = x.astype(np.float32, copy=False), self.rows_
        squares = (x**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1) - 2 * (x @ rows.T)
        return np.asarray(np.exp(-WIDTH / x.shape[1] * squares))

    def _logits(self, scaled: Floats) -> Floats:
        return np.asarray(self.sharpness_ * (self._kernel(scaled) @ self.coef_), float)


class MLPProbe(Probe):
    """Networks with one hidden layer of GELU units, stopped early; their logits are averaged.

    One network depends on its first weights by several points of accuracy, five together far less
    (Lakshminarayanan et al., NIPS 2017). Each has its own seed and, without validation rows, its
    own held-out fifth; of its epochs (AdamW) it keeps the one with the smallest log loss there.

    Fitted are hidden_coef_ (networks, hidden, d), hidden_intercept_, coef_ and intercept_.
    """

    def __init__(self, networks: int = 5, hidden: int = 128, seed: int = 0) -> None:
        self.networks = networks
        self.hidden = hidden
        self.seed = seed

    def _fit(self, rows: Rows, codes: Ints, split: Split) -> None:
        x, t = torch.from_numpy(self._scale(rows)), torch.from_numpy(codes)
        found = []
        with torch.random.fork_rng(
            devices=[]
        ):  # the caller's random numbers stay as they were
            for seed in range(self.seed, self.seed + self.networks):
                train, held = map(torch.from_numpy, split(seed))
                torch.manual_seed(seed)
                found.append(self._train(x[train], t[train], x[held], t[held]))
        layers = [np.stack(layer) for layer in zip(*found, strict=True)]
        self.hidden_coef_, self.hidden_intercept_, self.coef_, self.intercept_ = layers

    def _train(
        self, x: Tensor, t: Tensor, x_held: Tensor, t_held: Tensor
    ) -> list[Rows]:
        """Return the parameters that one network had after its best epoch."""
        first = nn.Linear(x.shape[1], self.hidden)
        last = nn.Linear(self.hidden, len(self.classes_))
        net = nn.Sequential(first, nn.GELU(), nn.Dropout(DROPOUT), last)
        optimizer = torch.optim.AdamW(
            net.parameters(), RATE, weight_decay=DECAY, fused=True
        )
        best, best_epoch, kept = np.inf, 0, list[Rows]()
        for epoch in range(1, MAX_EPOCHS + 1):
            net.train()
            for batch in torch.randperm(len(x)).split(BATCH):
                F.cross_entropy(net(x[batch]), t[batch]).backward()
                optimizer.step()
                optimizer.zero_grad()
            net.eval()
            with torch.no_grad():
                loss = F.cross_entropy(net(x_held), t_held).item()
            if loss < best:
                best, best_epoch = loss, epoch
                kept = [p.detach().numpy().copy() for p in net.parameters()]
            elif epoch - best_epoch >= PATIENCE:
                break
        return kept

    def member_logits(self, X: ArrayLike) -> Floats:
        """Return the logits (networks, n, k) that each network gives features (n, d)."""
        with threadpool_limits(1):
            z = self._scaled(X) @ self.hidden_coef_.mT + self.hidden_intercept_[:, None]
            return np.asarray((z * ndtr(z)) @ self.coef_.mT + self.intercept_[:, None])

    def logits(self, X: ArrayLike) -> Floats:
        """Return the mean of `member_logits`."""
        return np.asarray(self.member_logits(X).mean(axis=0))


def save_probe(probe: LinearProbe | MLPProbe, folder: str | os.PathLike[str]) -> None:
    """Write what a fitted probe predicts with: ``probe.json`` and ``probe.safetensors``."""
    check_is_fitted(probe)
    fitted = {name: value for name, value in vars(probe).items() if name.endswith("_")}
    arrays = {
        n: np.ascontiguousarray(v)
        for n, v in fitted.items()
        if isinstance(v, np.ndarray)
    }
    classes = arrays.pop("classes_").tolist()
    document = {
        "kind": type(probe).__name__,
        "parameters": probe.get_params(),
        "classes": classes,
    }
    text = json.dumps(
        document, indent=1, default=lambda value: np.asarray(value).tolist()
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "probe.safetensors").write_bytes(save(arrays))
    (Path(folder) / "probe.json").write_text(text, encoding="utf-8")


def load_probe(folder: str | os.PathLike[str]) -> LinearProbe | MLPProbe:
    """Read a probe that `save_probe` wrote; its probabilities are the same to the bit."""
    document = json.loads((Path(folder) / "probe.json").read_text(encoding="utf-8"))
    kind = {"LinearProbe": LinearProbe, "MLPProbe": MLPProbe}[document["kind"]]
    arrays = load_file(Path(folder) / "probe.safetensors")
    probe = kind(**document["parameters"])
    vars(probe).update(arrays, classes_=np.array(document["classes"]))
    probe.n_features_in_ = len(arrays["mean_"])
    return probe


def logit_gradients(
    probe: LinearProbe | MLPProbe, X: ArrayLike, classes: ArrayLike
) -> Features:
    """Return the gradient of one class's logit for each row, (n, d), by the row's features.

    `classes` (n,) are as ``probe.predict`` gives them.
    """
    codes = np.searchsorted(probe.classes_, classes)
    if isinstance(probe, LinearProbe):
        slopes = probe.coef_[codes]
    else:
        scaled = (np.asarray(X) - probe.mean_) / probe.scale_
        z = scaled @ probe.hidden_coef_.mT + probe.hidden_intercept_[:, None]
        of_gelu = ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        slopes = ((probe.coef_[:, codes] * of_gelu) @ probe.hidden_coef_).mean(axis=0)
    return np.asarray(slopes / probe.scale_, np.float32)
