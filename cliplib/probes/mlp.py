"""A small neural network on frozen features, stopped early on validation rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from cliplib.errors import ArgumentError
from cliplib.probes.base import Floats, Ints, Probe, one_sentence, validation_split

logger = logging.getLogger(__name__)

_ACTIVATIONS: dict[str, tuple[type[torch.nn.Module], Callable[[Floats], Floats]]] = {
    "gelu": (torch.nn.GELU, lambda x: x * ndtr(x)),
    "relu": (torch.nn.ReLU, lambda x: np.maximum(x, 0)),
}


@contextmanager
def _private_torch(seed: int) -> Iterator[None]:
    """One thread (sums in one order: the same bits anywhere), own random numbers; the caller's settings return."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


class MLPProbe(Probe):
    """One hidden layer on standardised features, trained with AdamW and stopped early on validation rows.

    Trains in float32 on one CPU thread, so that a seed gives the same network everywhere; the weights of the epoch
    with the smallest validation log loss (weighted by `class_weight` like the training loss) are kept, of equal ones
    the earliest. Validation rows only decide that; there is no refit. Predicts in float64 without torch.

    Parameters
    ----------
    hidden : int
        Units of the hidden layer.
    activation : "gelu" or "relu"
    dropout : float
        Share of hidden units dropped in training.
    learning_rate, weight_decay : float
        Of AdamW (Loshchilov and Hutter 2019).
    batch_size, max_epochs : int
    patience : int
        Epochs without a better validation log loss after which training ends.
    standardize : bool
        Scale features to mean 0 and variance 1 of the training rows.
    validation_fraction : float
        Share of the rows cut off for validation (see `validation_split`) when `fit` is given none.
    class_weight : "balanced", dict of class to weight, or None
    random_state : int, RandomState instance or None
        Draws validation rows, initial weights, batches and dropout. Torch's global generator is left as it was.

    Attributes
    ----------
    classes_ : (k,) array
    mean_, scale_ : (d,) float64
    hidden_coef_, hidden_intercept_ : (d, hidden) and (hidden,) float64
    coef_, intercept_ : (hidden, k) and (k,) float64
    history_ : DataFrame
        A row per epoch: epoch (from 1), train_log_loss (with dropout), val_log_loss, val_accuracy.
    best_epoch_ : int
        The epoch whose weights were kept.
    """

    _learned = frozenset({"n_features_in_", "classes_", "mean_", "scale_", "hidden_coef_", "hidden_intercept_", "coef_",
                          "intercept_", "history_", "best_epoch_"})  # fmt: skip

    def __init__(
        self,
        *,
        hidden: int = 256,
        activation: str = "gelu",
        dropout: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 128,
        max_epochs: int = 200,
        patience: int = 15,
        standardize: bool = True,
        validation_fraction: float = 0.2,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.standardize = standardize
        self.validation_fraction = validation_fraction
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
        """Train on the training rows until the validation rows say stop; parameters and errors as `LinearProbe.fit`."""
        for name in ("hidden", "batch_size", "max_epochs", "patience"):
            if not (isinstance(value := getattr(self, name), (int, np.integer)) and value >= 1):
                raise ArgumentError(f"{name} must be at least 1, a whole number; got {value!r}.")
        if self.activation not in _ACTIVATIONS:
            raise ArgumentError(f"activation must be one of {', '.join(_ACTIVATIONS)}; got {self.activation!r}.")
        X, codes, class_weight, groups, split = self._check(X, y, X_val, y_val, groups)
        seed = self._seed()
        train, val = split or validation_split(codes, groups, self.validation_fraction, seed)
        self.mean_, self.scale_ = self._scaler(X[train])
        with _private_torch(seed), one_sentence():
            self._train(((X - self.mean_) / self.scale_).astype(np.float32), codes, class_weight, train, val)
        logger.info("MLP probe: kept epoch %d of %d", self.best_epoch_, len(self.history_))
        return self

    def _train(self, X: NDArray[np.float32], codes: Ints, class_weight: Floats, train: Ints, val: Ints) -> None:
        x, t = torch.from_numpy(X[train]), torch.from_numpy(codes[train])
        x_val, t_val = torch.from_numpy(X[val]), torch.from_numpy(codes[val])
        weight = torch.tensor(class_weight, dtype=torch.float32)
        net = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], self.hidden, dtype=torch.float32),
            _ACTIVATIONS[self.activation][0](),
            torch.nn.Dropout(self.dropout),
            torch.nn.Linear(self.hidden, len(class_weight), dtype=torch.float32),
        )
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        history, best, best_epoch, kept = [], np.inf, 0, None
        for epoch in range(1, self.max_epochs + 1):
            net.train()
            summed = 0.0
            for rows in torch.split(torch.randperm(len(x)), self.batch_size):
                losses = torch.nn.functional.cross_entropy(net(x[rows]), t[rows], weight=weight, reduction="none")
                optimizer.zero_grad()
                torch.autograd.backward(losses.mean())
                optimizer.step()
                summed += losses.sum().item()
            net.eval()
            with torch.no_grad():
                z = net(x_val)
                val_loss = torch.nn.functional.cross_entropy(z, t_val, weight=weight).item()
            accuracy = (z.argmax(dim=1) == t_val).double().mean().item()
            history.append((epoch, summed / weight[t].sum().item(), val_loss, accuracy))
            if val_loss < best:
                best, best_epoch = val_loss, epoch
                kept = [p.detach().numpy().astype(np.float64) for p in net.parameters()]
            elif epoch - best_epoch >= self.patience:
                break
        if kept is None:
            raise ArgumentError("MLPProbe's loss is not finite: standardise the features or lower learning_rate.")
        self.hidden_coef_, self.coef_ = (np.ascontiguousarray(kept[i].T) for i in (0, 2))
        self.hidden_intercept_, self.intercept_ = kept[1], kept[3]
        self.best_epoch_ = best_epoch
        self.history_ = pd.DataFrame(history, columns=["epoch", "train_log_loss", "val_log_loss", "val_accuracy"])

    def _logits(self, X: Floats) -> Floats:
        h = (X - self.mean_) / self.scale_ @ self.hidden_coef_ + self.hidden_intercept_
        return np.asarray(_ACTIVATIONS[self.activation][1](h) @ self.coef_ + self.intercept_)
