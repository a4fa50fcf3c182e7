"""The MLP probe: a network with one hidden layer on frozen features."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.probes.base import HoldOut, Probe


class MLPProbe(Probe):
    """A network with one hidden layer of GELU units, stopped early.

    Of its epochs (AdamW, Loshchilov and Hutter, ICLR 2019) it keeps the one with the
    smallest log loss on validation rows, or on a held-out fifth. Features are
    standardised by all rows, those held out as well. Its accuracy depends on the seed
    by several points; logits averaged over some seeds hardly do (Lakshminarayanan et
    al., NIPS 2017).

    Fitted are hidden_coef_ (hidden, d), hidden_intercept_ (hidden,), coef_ (k, hidden)
    and intercept_ (k,).

    Parameters
    ----------
    hidden
        Units of the hidden layer.
    dropout
        Share of the hidden units that is set to 0 in a step of training, below 1.
    learning_rate, weight_decay, batch_size
        Of AdamW.
    max_epochs
        The last one.
    patience
        Epochs without a smaller validation loss, after which training stops.
    seed
        Of first weights, batches, dropout and held-out fifth.
    """

    def __init__(
        self,
        hidden: int = 128,
        *,
        dropout: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        max_epochs: int = 200,
        patience: int = 4,
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

    def _fit(self, rows: Features, class_codes: Ints, hold_out: HoldOut) -> None:
        """Train the network until its loss on held-out rows is smallest."""
        inputs = torch.from_numpy(self._standardize(rows))
        examples = TensorDataset(inputs, torch.from_numpy(class_codes))
        train_rows, held_out_rows = hold_out(self.seed)
        # Of its own: torch's is shared by all threads, so that a fit would depend on
        # what else is running.
        generator = torch.Generator().manual_seed(int(self.seed))
        weights = self._train(generator, examples[train_rows], examples[held_out_rows])
        self.hidden_coef_ = weights[0]
        self.hidden_intercept_ = weights[1]
        self.coef_ = weights[2]
        self.intercept_ = weights[3]

    def _train(
        self,
        generator: torch.Generator,
        training: tuple[Tensor, ...],
        held_out: tuple[Tensor, ...],
    ) -> list[Features]:
        """Train from first weights; return those after the best epoch.

        `training` and `held_out` are standardised features (m, d) and class codes (m,).
        The best epoch is that of the smallest log loss on held-out rows; ValueError if
        it is finite in none.
        """
        inputs, targets = training
        inputs_held_out, targets_held_out = held_out
        weights = _first_weights(
            inputs.shape[1], self.hidden, len(self.classes_), generator
        )
        optimizer = torch.optim.AdamW(
            weights, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        best_loss = np.inf
        best_epoch = 0
        best_weights: list[Features] = []
        for epoch in range(self.max_epochs):
            order = torch.randperm(len(inputs), generator=generator)
            for batch in torch.split(order, self.batch_size):
                logits = self._forward(weights, inputs[batch], generator)
                batch_loss = F.cross_entropy(logits, targets[batch])
                torch.autograd.backward(batch_loss)
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                logits = self._forward(weights, inputs_held_out)
                loss = F.cross_entropy(logits, targets_held_out).item()
            if loss < best_loss:
                best_loss = loss
                best_epoch = epoch
                best_weights = [weight.detach().numpy().copy() for weight in weights]
            elif epoch - best_epoch >= self.patience:
                break
        if not best_weights:
            raise ValueError(
                "The network's loss is not finite after any epoch: choose a smaller "
                f"learning_rate than {self.learning_rate}."
            )
        return best_weights

    def _forward(
        self,
        weights: list[Tensor],
        rows: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return logits (n, k) of rows (n, d), with dropout if there is a generator."""
        hidden_coef, hidden_intercept, coef, intercept = weights
        hidden = F.gelu(F.linear(rows, hidden_coef, hidden_intercept))
        if generator is not None:
            share = 1 - self.dropout
            # 1 for the units that are kept, 0 for others.
            kept = torch.empty_like(hidden).bernoulli_(share, generator=generator)
            hidden = hidden * kept / share  # so that the mean stays as without dropout
        return F.linear(hidden, coef, intercept)

    def _fitted_logits(self, rows: Tensor) -> Tensor:
        """Return the network's logits (n, k), float64, of rows (n, d)."""
        fitted = (
            self.hidden_coef_,
            self.hidden_intercept_,
            self.coef_,
            self.intercept_,
        )
        weights = [torch.from_numpy(array) for array in fitted]
        return self._forward(weights, rows).double()

    def _logits(self, scaled: Features) -> Floats:
        """Return logits (n, k) of standardised features (n, d)."""
        return np.asarray(self._fitted_logits(torch.from_numpy(scaled)))

    def _gradients(self, scaled: Features, class_codes: Ints) -> Floats:
        """Return each row's gradient of its class's logit, (n, d), by `scaled`."""
        rows = torch.from_numpy(scaled).requires_grad_()
        logits = self._fitted_logits(rows)
        # No row has a part in another row's logit: the sum's gradient has them all.
        chosen = logits[torch.arange(len(rows)), torch.from_numpy(class_codes)]
        (gradients,) = torch.autograd.grad(chosen.sum(), rows)
        return np.asarray(gradients)


def _first_weights(
    n_features: int, n_hidden: int, n_classes: int, generator: torch.Generator
) -> list[Tensor]:
    """Draw first weights as ``torch.nn.Linear`` does: uniform between ±1 / √inputs.

    They are the hidden layer's coefficients (hidden, d) and intercepts, then the output
    layer's (k, hidden) and intercepts.
    """
    weights = []
    for n_units, n_inputs in ((n_hidden, n_features), (n_classes, n_hidden)):
        bound = n_inputs**-0.5
        for shape in ((n_units, n_inputs), (n_units,)):
            drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
            weights.append(drawn.requires_grad_())
    return weights
