"""Groups of images that must never stand on both sides of a split."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.preprocessing import StandardScaler, normalize

from cliplib.arrays import Ints


def connected_groups(n: int, index_a: ArrayLike, index_b: ArrayLike) -> Ints:
    """Number the groups (n,) of n images of which some pairs belong together, by first appearance.

    Whatever is connected through other images belongs together as well.
    """
    rows_a = np.asarray(index_a)
    edges = (np.ones(len(rows_a)), (rows_a, np.asarray(index_b)))
    graph = coo_array(edges, shape=(n, n))
    components = connected_components(graph, directed=False)[1]
    return pd.factorize(components)[0].astype(np.int64)


def sequence_groups(ids: Sequence[str], features: ArrayLike, groups: ArrayLike) -> Ints:
    """Merge groups (n,) of images that are neighbours in file number and close in features (n, d).

    An assumption: photos numbered as they were taken, such as ``metal/metal203.jpg``, show one
    object where their standardised features have a cosine that one in a hundred pairs far apart in
    a folder reaches; 0.5 if there are fewer than 100.
    """
    x = normalize(StandardScaler().fit_transform(np.asarray(features, np.float64)))
    _, first, code = np.unique(groups, return_index=True, return_inverse=True)
    stems = pd.Series(
        [os.path.splitext(name)[0] for name in ids]
    )  # .jp2 holds a number, too
    named = stems.str.extract(r"^(?P<stem>.*?)(?P<number>\d+)[^\d/]*$").dropna()
    named = named.astype({"number": float}).sort_values(["stem", "number"])
    rows, run = named.index.to_numpy(), named.groupby("stem")["number"]
    size, place = run.transform("size").to_numpy(), run.cumcount().to_numpy()
    near = np.flatnonzero(run.diff() <= 1)
    far = np.flatnonzero((size >= 20) & (place >= size // 2))
    cosine = np.einsum("nd,nd->n", x[rows[near - 1]], x[rows[near]])
    usual = np.einsum("nd,nd->n", x[rows[far - size[far] // 2]], x[rows[far]])
    near = near[cosine >= (np.quantile(usual, 0.99) if len(usual) >= 100 else 0.5)]
    a, b = (
        np.append(first[code], rows[near - 1]),
        np.append(np.arange(len(ids)), rows[near]),
    )
    return connected_groups(len(ids), a, b)
