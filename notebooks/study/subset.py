"""A part of the images, to try a notebook out."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.data.arrays import Ints
from cliplib.data.datasets import Source, load_dataset


def drawn_images(source: Source, limit: int, *, seed: int = 0) -> Source:
    """Return a source of images, or about `limit` of its images, unless that is 0."""
    if limit == 0:
        return source
    dataset = load_dataset(source)
    rows = stratified_subset(dataset["label"], dataset["split"], limit, seed=seed)
    return dataset.select(rows)


def stratified_subset(
    labels: ArrayLike, splits: ArrayLike, limit: int, *, seed: int = 0
) -> Ints:
    """Draw about `limit` rows at random, so that classes and splits keep their shares.

    `labels` and `splits` (n,) hold each row's class and published split, "" for none.
    Each class keeps two rows at least in each split, where it has them. A limit of 0,
    or of more rows than there are, keeps all.

    Returns
    -------
    Ints
        Row numbers, in increasing order.

    Raises
    ------
    ValueError
        If `limit` is no whole number from 0 on, or `seed` is none.
    """
    if not isinstance(limit, Integral) or limit < 0:
        raise ValueError(
            f"limit={limit!r} must be a whole number: about so many images, 0 for all."
        )
    if not isinstance(seed, Integral):
        raise ValueError(f"seed={seed!r} must be a whole number.")
    rows = pd.DataFrame({"label": np.asarray(labels), "split": np.asarray(splits)})
    if limit == 0 or limit >= len(rows):
        return np.arange(len(rows))
    shuffled = rows.sample(frac=1, random_state=seed)  # keeps row numbers as index
    # A stratum is the rows of one class in one split. Kept are its first rows.
    strata = shuffled.groupby(["split", "label"])["label"]
    n_kept_of_stratum = np.maximum(2, limit * strata.transform("size") // len(rows))
    place_in_stratum = strata.cumcount()  # from 0
    return np.sort(shuffled.index[place_in_stratum < n_kept_of_stratum])
