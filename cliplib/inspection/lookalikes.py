"""Look-alikes: images whose features suggest that they show the same things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.preprocessing import StandardScaler, normalize

from cliplib.data.arrays import Features, Ints, row_batches
from cliplib.evaluation.intervals import Estimate, share_with_interval
from cliplib.features.table import FeatureTable
from cliplib.probes.out_of_fold import out_of_fold_proba

# Upper quartile of the nearest cosines from which on images count as views of fewer
# things. It was chosen on the development folders of tests/benchmarks/verdict.py, of
# which no clean one reaches it, and on the first draw of pairs.py.
MIN_UPPER_QUARTILE = 0.8
# Least mean cosine between two clusters that are joined.
OF_ONE_CLUSTER = 0.5
# Largest number of groups that are clustered; the memory grows with its square.
MOST_GROUPS = 10_000
MOST_PAIRS = 6
# Number of rows whose cosines with all rows are in memory together.
BATCH_SIZE = 1_000


@dataclass(frozen=True, eq=False)
class LookAlikes:
    """How similar images of different groups are.

    Attributes
    ----------
    upper_quartile
        Upper quartile of the images' cosines with their nearest image of another group.
        Features are standardised within classes.
    pairs
        At most six pairs of rows with their cosine, from the most similar to the upper
        quartile.
    n_clusters
        Number of clusters of look-alikes; a cluster consists of whole groups.
    accuracy
        Accuracy of a probe in folds that keep clusters together. It is a lower bound,
        because clusters also join images that are similar for other reasons. None if
        `looks_like_views` is false, if there are too many groups, or if a class has
        fewer clusters than there are folds.
    """

    upper_quartile: float
    pairs: list[tuple[int, int, float]]
    n_clusters: int
    accuracy: Estimate | None

    @property
    def looks_like_views(self) -> bool:
        """Whether the images look like several views of the same things."""
        return self.upper_quartile >= MIN_UPPER_QUARTILE


def look_alikes(
    table: FeatureTable, probe: Any, *, n_splits: int = 5, seed: int = 0
) -> LookAlikes:
    """Measure how similar images of different groups are, and what that may hide.

    Parameters
    ----------
    table
        Features in the readout "deep", labels and groups of n images.
    probe
        A scikit-learn classifier, which is tested by clusters if images are similar.
    n_splits, seed
        Number of folds, and random seed of their draw.
    """
    # If classes are far apart, all images of one class are similar in comparison with
    # the other classes. Without its class's mean, only an image's own content is left.
    by_class = pd.DataFrame(table.features).groupby(table.labels)
    centred = table.features - by_class.transform("mean").to_numpy()
    rows = normalize(StandardScaler().fit_transform(centred))
    neighbour, cosine = _nearest(rows, table.groups)
    upper_quartile = float(np.quantile(cosine, 0.75))
    clusters = table.groups
    accuracy = None
    if upper_quartile >= MIN_UPPER_QUARTILE and len(np.unique(clusters)) <= MOST_GROUPS:
        clusters = _clusters(rows, table.groups)
        accuracy = _accuracy_by(clusters, table, probe, n_splits, seed)
    n_clusters = len(np.unique(clusters))
    return LookAlikes(upper_quartile, _pairs(neighbour, cosine), n_clusters, accuracy)


def _nearest(rows: Features, groups: Ints) -> tuple[Ints, NDArray[np.float32]]:
    """Return each row's nearest row of another group, (n,), and its cosine, (n,)."""
    neighbours = []
    cosines = []
    for batch in row_batches(len(rows), BATCH_SIZE):
        cosine = rows[batch] @ rows.T
        cosine[groups[batch, None] == groups] = -1  # excludes the row's own group
        neighbours.append(cosine.argmax(axis=1))
        cosines.append(cosine.max(axis=1))
    return np.concatenate(neighbours), np.concatenate(cosines)


def _pairs(
    neighbour: Ints, cosine: NDArray[np.float32]
) -> list[tuple[int, int, float]]:
    """Return some pairs, evenly spaced from the most similar to the upper quartile."""
    rows = np.arange(len(cosine))
    first = np.minimum(rows, neighbour)
    second = np.maximum(rows, neighbour)
    pairs = pd.DataFrame({"a": first, "b": second, "cosine": cosine})
    similar = pairs[cosine >= np.quantile(cosine, 0.75)].drop_duplicates(["a", "b"])
    similar = similar.sort_values("cosine", ascending=False, kind="stable")
    places = np.linspace(0, len(similar) - 1, min(MOST_PAIRS, len(similar)))
    chosen = similar.iloc[places.round().astype(int)]
    return [*chosen.itertuples(index=False, name=None)]


def _clusters(rows: Features, groups: Ints) -> Ints:
    """Return each row's cluster, (n,), by average linkage of the groups' mean rows."""
    means = pd.DataFrame(rows).groupby(groups).mean()
    tree = linkage(means, "average", "cosine")
    clusters = fcluster(tree, 1 - OF_ONE_CLUSTER, "distance")
    return np.asarray(pd.Series(clusters, means.index)[groups], np.int64)


def _accuracy_by(
    clusters: Ints, table: FeatureTable, probe: Any, n_splits: int, seed: int
) -> Estimate | None:
    """Return a probe's accuracy in folds that keep clusters whole.

    It is None if a class has fewer clusters than there are folds.
    """
    clusters_of_class = pd.Series(clusters).groupby(table.labels).nunique()
    if clusters_of_class.min() < n_splits:
        return None
    proba = out_of_fold_proba(
        probe, table, groups=clusters, n_splits=n_splits, seed=seed
    )
    is_correct = proba.argmax(axis=1) == table.labels
    return share_with_interval(is_correct, groups=clusters, seed=seed)
