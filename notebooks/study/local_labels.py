"""What a few labels of a new collection are worth: drawn, and learned from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.data.threads import one_thread


def draw_local(
    labels: Ints, groups: Ints, count: int, *, seed: int, draw: int
) -> tuple[Ints, Ints]:
    """Draw `count` images a class, and return their rows and the rows to test on.

    `labels` and `groups` are (n,). No group is on both sides. A ValueError says where
    a class is left without a test image.
    """
    order = np.random.default_rng([seed, count, draw]).permutation(len(labels))
    rank = pd.Series(order).groupby(labels[order]).cumcount().to_numpy()
    local = order[rank < count]
    test = np.flatnonzero(~np.isin(groups, groups[local]))
    if len(np.unique(labels[test])) < len(np.unique(labels)):
        raise ValueError(f"With {count} labels a class, one of them is not tested.")
    return local, test


def offsets_from(log_proba: Floats, labels: Ints) -> Floats:
    """Return a number for each class, (k,), to add to log-probabilities (n, k).

    They make the labels (n,) as likely as can be, a little held back so that few images
    do not run away with them.
    """
    one_hot = np.eye(log_proba.shape[1])[labels]

    def loss(offsets: Floats) -> float:
        scores = log_proba + offsets
        shifted = scores - special.logsumexp(scores, axis=1, keepdims=True)
        return float(-(one_hot * shifted).sum() + (offsets**2).sum() / 20)

    found = optimize.minimize(loss, np.zeros(log_proba.shape[1]))
    return np.asarray(found.x)


def probe_on_both(
    home: tuple[Features, Ints],
    local: tuple[Features, Ints],
    strength: float,
) -> LogisticRegression:
    """Fit a regression on images of two places, those of each weighing as much.

    Both are features (n, d) and labels (n,); the second may be empty. `strength` is
    that of a `LinearProbe`.
    """
    features = np.vstack([home[0], local[0]])
    labels = np.concatenate([home[1], local[1]])
    n_home, n_local = len(home[1]), len(local[1])
    weights = np.repeat([1.0, n_home / max(1, n_local)], [n_home, n_local])
    probe = LogisticRegression(C=strength / 2, max_iter=200)
    with one_thread():  # on so few features, several take twenty times as long
        return probe.fit(features, labels, sample_weight=weights)
