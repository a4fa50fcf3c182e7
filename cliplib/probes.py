"""Light classifiers on frozen features: scikit-learn estimators, saved without pickle.

What is chosen is chosen on validation rows, never on test rows, as in CLIP's protocol (Radford et
al. 2021, appendix A.3) and DINOv2's (Oquab et al. 2024, ``eval/log_regression.py``).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import ndtr, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from cliplib.resampling import Floats, Ints, group_train_test_split

logger = logging.getLogger(__name__)

TIE = 1e-4  # nats: validation losses this close are equal, so that rounding does not decide


class Probe(ClassifierMixin, BaseEstimator):
    """What both probes share: the split, the scaling, the prediction."""

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

        Without validation rows `X_val` and `y_val` a fifth is held out, rows of one group together.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(
                f"All labels are {str(self.classes_[0])!r}: a classifier needs two classes."
            )
        if X_val is None:
            train, held = group_train_test_split(labels, groups, seed=self.seed)
        else:
            train = np.arange(len(rows))
            rows = np.concatenate([rows, np.asarray(X_val, np.float32)])
            held = np.arange(len(train), len(rows))
            labels = np.concatenate([labels, y_val])
        self._fit(rows, np.searchsorted(self.classes_, labels), train, held)
        return self

    def _scale(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        scaler = StandardScaler().fit(rows)
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        return np.asarray(scaler.transform(rows), np.float32)

    def logits(self, X: ArrayLike) -> Floats:
        """Return logits (n, k) of features (n, d)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        return self._logits((rows - self.mean_) / self.scale_)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probability of each class, (n, k), in the order of `classes_`."""
        return np.asarray(softmax(self.logits(X), axis=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, (n,)."""
        best = self.logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])


class LinearProbe(Probe):
    """Multinomial logistic regression whose C is swept on validation rows.

    Features are standardised. Each C starts from the solution of the one before; of those within
    1e-4 nats of the smallest validation log loss the smallest C wins, and the probe is fitted once
    more with it on training and validation rows together. DINOv2 sweeps 45 values from 1e-6 to 1e5;
    the default takes every other one of their useful range.

    Attributes
    ----------
    coef_, intercept_ : (k, d) and (k,)
        For standardised features: ``(X - mean_) / scale_``.
    C_, sweep_ : float, DataFrame
        The chosen C; C, log_loss (nats) and accuracy on validation rows.
    """

    def __init__(
        self,
        Cs: Sequence[float] = tuple(np.logspace(-6, 1, 15)),
        max_iter: int = 1000,
        seed: int = 0,
    ) -> None:
        self.Cs = Cs
        self.max_iter = max_iter
        self.seed = seed

    def _fit(self, rows: NDArray[np.float32], codes: Ints, train: Ints, held: Ints) -> None:
        # One thread: the same digits on any number of cores, and faster where cores are shared.
        with threadpool_limits(1, user_api="blas"):
            X, X_held = self._scale(rows[train]), (rows[held] - self.mean_) / self.scale_
            path = LogisticRegression(warm_start=True, max_iter=self.max_iter)
            sweep = []
            for C in sorted(self.Cs):
                path.set_params(C=C).fit(X, codes[train])
                proba = path.predict_proba(X_held)
                loss = log_loss(codes[held], proba, labels=path.classes_)
                sweep.append((C, loss, (proba.argmax(axis=1) == codes[held]).mean()))
            self.sweep_ = pd.DataFrame(sweep, columns=["C", "log_loss", "accuracy"])
            good = self.sweep_.log_loss <= self.sweep_.log_loss.min() + TIE
            self.C_ = float(self.sweep_.C[good].iloc[0])
            final = LogisticRegression(C=self.C_, max_iter=self.max_iter)
            final.fit(self._scale(rows), codes)
        self.coef_, self.intercept_, self.n_iter_ = final.coef_, final.intercept_, final.n_iter_
        if len(self.classes_) == 2:  # scikit-learn gives the log odds of the second alone
            self.coef_ = np.concatenate([-self.coef_, self.coef_]) / 2
            self.intercept_ = np.concatenate([-self.intercept_, self.intercept_]) / 2
        logger.debug("linear probe: C = %.3g of %d", self.C_, len(self.Cs))

    def _logits(self, scaled: Floats) -> Floats:
        return np.asarray(scaled @ self.coef_.T + self.intercept_)


class MLPProbe(Probe):
    """One hidden layer of GELU units on standardised features, stopped early on validation rows.

    Trained with AdamW (Loshchilov and Hutter 2019) in float32 on one thread, so that a seed gives
    the same network everywhere. The epoch with the smallest validation log loss is kept; validation
    rows decide that alone, and there is no refit.

    Attributes
    ----------
    hidden_coef_, hidden_intercept_, coef_, intercept_ : (d, hidden), (hidden,), (k, hidden), (k,)
    history_ : DataFrame
        epoch, train_log_loss (with dropout), log_loss and accuracy on validation rows.
    """

    def __init__(
        self,
        hidden: int = 256,
        dropout: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 128,
        max_epochs: int = 200,
        patience: int = 15,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.seed = seed

    def _fit(self, rows: NDArray[np.float32], codes: Ints, train: Ints, held: Ints) -> None:
        x, t = torch.from_numpy(self._scale(rows[train])), torch.from_numpy(codes[train])
        scaled = ((rows[held] - self.mean_) / self.scale_).astype(np.float32)
        x_held, t_held = torch.from_numpy(scaled), torch.from_numpy(codes[held])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in one order: the same digits on any number of cores
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(self.seed)
            net = torch.nn.Sequential(
                torch.nn.Linear(x.shape[1], self.hidden),
                torch.nn.GELU(),
                torch.nn.Dropout(self.dropout),
                torch.nn.Linear(self.hidden, len(self.classes_)),
            )
            optimizer = torch.optim.AdamW(
                net.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
            history: list[tuple[int, float, float, float]] = []
            kept: list[NDArray[np.float64]] = []
            best, best_epoch = np.inf, 0
            for epoch in range(1, self.max_epochs + 1):
                net.train()
                total = 0.0
                for batch in torch.randperm(len(x)).split(self.batch_size):
                    loss = torch.nn.functional.cross_entropy(net(x[batch]), t[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total += loss.item() * len(batch)
                net.eval()
                with torch.no_grad():
                    z = net(x_held)
                held_loss = torch.nn.functional.cross_entropy(z, t_held).item()
                accuracy = (z.argmax(1) == t_held).double().mean().item()
                history.append((epoch, total / len(x), held_loss, accuracy))
                if held_loss < best:
                    best, best_epoch = held_loss, epoch
                    kept = [p.detach().double().numpy().copy() for p in net.parameters()]
                elif epoch - best_epoch >= self.patience:
                    break
        torch.set_num_threads(threads)
        self.hidden_coef_, self.hidden_intercept_, self.coef_, self.intercept_ = kept
        columns = ["epoch", "train_log_loss", "log_loss", "accuracy"]
        self.history_ = pd.DataFrame(history, columns=columns)
        logger.debug("MLP probe: kept epoch %d of %d", best_epoch, len(history))

    def _logits(self, scaled: Floats) -> Floats:
        z = scaled @ self.hidden_coef_.T + self.hidden_intercept_
        return np.asarray(z * ndtr(z) @ self.coef_.T + self.intercept_)


def save_probe(probe: LinearProbe | MLPProbe, folder: str | os.PathLike[str]) -> None:
    """Write a fitted probe to a folder: ``probe.json`` and ``probe.safetensors``, data only."""
    check_is_fitted(probe)
    arrays, tables, values = {}, {}, {"n_features_in_": probe.n_features_in_}
    for name, value in vars(probe).items():
        if isinstance(value, pd.DataFrame):
            tables[name] = value.to_dict("list")
        elif name.endswith("_") and isinstance(value, np.ndarray) and name != "classes_":
            arrays[name] = np.ascontiguousarray(value)
        elif name.endswith("_") and isinstance(value, float):
            values[name] = value
    document = {"kind": type(probe).__name__, "parameters": probe.get_params()}
    document |= {"classes": probe.classes_.tolist(), "tables": tables, "values": values}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(arrays, Path(folder) / "probe.safetensors")
    (Path(folder) / "probe.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def load_probe(folder: str | os.PathLike[str]) -> LinearProbe | MLPProbe:
    """Read a probe that `save_probe` wrote; its probabilities are the same to the bit."""
    try:
        document = json.loads((Path(folder) / "probe.json").read_text(encoding="utf-8"))
        kind = {"LinearProbe": LinearProbe, "MLPProbe": MLPProbe}[document["kind"]]
        arrays = load_file(Path(folder) / "probe.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise OSError(f"{folder} holds no whole probe ({error}): save it anew.") from error
    probe = kind(**document["parameters"])
    tables = {name: pd.DataFrame(columns) for name, columns in document["tables"].items()}
    vars(probe).update(arrays | tables | document["values"])
    probe.classes_ = np.array(document["classes"])
    return probe
