"""The MLP probe: a network with one hidden layer on frozen features."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.probes.base import Probe

# Attributes that hold the fitted weights.
FITTED = ("hidden_coef_", "hidden_intercept_", "coef_", "intercept_")

# Settings of AdamW. The weight decay is torch's default.
LEARNING_RATE = 1e-3
BATCH_SIZE = 256
WEIGHT_DECAY = 1e-2
# Share of the hidden units that are set to 0 in a training step.
DROPOUT = 0.2
# Number of epochs without a smaller validation loss after which training stops.
PATIENCE = 4
MAX_EPOCHS = 200


class MLPProbe(Probe):
    """A network with one hidden layer of GELU units, stopped early.

    It is trained with AdamW (Loshchilov and Hutter, ICLR 2019), and keeps the weights
    of the epoch with the smallest log loss on validation rows, or on a held-out fifth.
    Features are standardised by all rows, held-out rows included. The accuracy varies
    with the seed by several points; that of logits averaged over several seeds hardly
    does (Lakshminarayanan et al., NIPS 2017).

    Logits are computed in float32, so scikit-learn's
    ``check_methods_subset_invariance`` may fail, as for `KernelProbe`.

    The fitted attributes are hidden_coef_ (hidden, d), hidden_intercept_ (hidden,),
    coef_ (k, hidden) and intercept_ (k,).

    Parameters
    ----------
    hidden
        Number of units of the hidden layer.
    seed
        Seed of the first weights, batches, dropout and held-out fifth.
    """

    def __init__(self, hidden: int = 128, *, seed: int = 0) -> None:
        self.hidden = hidden
        self.seed = seed

    def _fit(
        self,
        rows: Features,
        class_codes: Ints,
        train_rows: Ints,
        held_out_rows: Ints,
    ) -> None:
        """Train the network; keep the weights of the smallest loss on held-out rows.

        ValueError if the loss is not finite after any epoch.
        """
        if self.hidden < 1:
            raise ValueError(
                f"hidden={self.hidden!r} must be a whole number, 1 at least."
            )
        inputs = torch.from_numpy(self._standardize(rows))
        targets = torch.from_numpy(class_codes)
        # Not torch's global generator, which all threads share: a fit would depend on
        # what else is running.
        generator = torch.Generator().manual_seed(int(self.seed))
        weights = self._first_weights(inputs.shape[1], generator)
        optimizer = torch.optim.AdamW(
            weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )
        best_loss = np.inf
        best_epoch = -1
        for epoch in range(MAX_EPOCHS):
            order = train_rows[torch.randperm(len(train_rows), generator=generator)]
            for batch in torch.split(torch.from_numpy(order), BATCH_SIZE):
                logits = self._forward(weights, inputs[batch], generator)
                torch.autograd.backward(F.cross_entropy(logits, targets[batch]))
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                logits = self._forward(weights, inputs[held_out_rows])
                loss = F.cross_entropy(logits, targets[held_out_rows]).item()
            if loss < best_loss:
                best_loss = loss
                best_epoch = epoch
                for name, weight in zip(FITTED, weights, strict=True):
                    setattr(self, name, weight.detach().numpy().copy())
            elif epoch - best_epoch >= PATIENCE:
                break
        if not np.isfinite(best_loss):
            raise ValueError(
                "The network's loss is not finite after any epoch: see whether some "
                "features are far larger than others, or take another probe."
            )

    def _first_weights(self, d: int, generator: torch.Generator) -> list[Tensor]:
        """Draw first weights as ``torch.nn.Linear`` does: uniform between ±1 / √inputs.

        They are in the order of `FITTED`; d is the number of features.
        """
        weights = []
        for n_units, n_inputs in ((self.hidden, d), (len(self.classes_), self.hidden)):
            bound = n_inputs**-0.5
            for shape in ((n_units, n_inputs), (n_units,)):
                drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
                weights.append(drawn.requires_grad_())
        return weights

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
            share = 1 - DROPOUT
            is_kept = torch.empty_like(hidden).bernoulli_(share, generator=generator)
            hidden = hidden * is_kept / share  # so that the mean is as without dropout
        return F.linear(hidden, coef, intercept)

    def _fitted_logits(self, rows: Tensor) -> Tensor:
        """Return the fitted network's logits (n, k), float64, of rows (n, d)."""
        weights = [torch.from_numpy(getattr(self, name)) for name in FITTED]
        return self._forward(weights, rows).double()

    def _logits(self, scaled: Features) -> Floats:
        """Return logits (n, k) of standardised features (n, d)."""
        return np.asarray(self._fitted_logits(torch.from_numpy(scaled)))

    def _gradients(self, scaled: Features, class_codes: Ints) -> Floats:
        """Return each row's gradient of its class's logit, (n, d), by `scaled`."""
        rows = torch.from_numpy(scaled).requires_grad_()
        logits = self._fitted_logits(rows)
        # A row's logit depends on that row alone. So the gradient of the sum of all
        # these logits holds, in each row, the gradient of that row's logit.
        class_logits = logits[torch.arange(len(rows)), torch.from_numpy(class_codes)]
        (gradients,) = torch.autograd.grad(class_logits.sum(), rows)
        return np.asarray(gradients)
