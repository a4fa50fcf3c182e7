"""A few images of each class, drawn as CoOp draws them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.data.arrays import Ints
from cliplib.features.splits import checked_groups


def few_shot(
    labels: ArrayLike, shots: int, *, groups: ArrayLike | None = None, seed: int = 0
) -> tuple[Ints, Ints]:
    """Draw `shots` images of each class to train on, and others to validate on.

    The protocol of CoOp (Zhou et al., IJCV 130, 2022, section 4.1, and its code):
    ``min(shots, 4)`` validation images of each class; beyond CoOp's 16 shots a quarter
    of `shots`. No two images drawn share a group; without `groups` each image is its
    own. With the same seed, sets of more shots contain those of fewer.

    Returns
    -------
    train_rows, validation_rows : Ints
        Row numbers in `labels`, in increasing order.

    Raises
    ------
    ValueError
        Where a class has too few groups.
    """
    rows = pd.DataFrame({"label": np.asarray(labels)})
    rows["group"] = checked_groups(groups, len(rows))
    # The index is the row number in `labels`, and stays so below.
    shuffled = rows.iloc[np.random.default_rng(seed).permutation(len(rows))]
    one_a_group = shuffled.drop_duplicates("group")
    by_class = one_a_group.groupby("label")["label"]
    place = by_class.cumcount()  # of each image among those of its class, from 0
    available = by_class.transform("size")  # images of each image's class
    n_validation = min(shots, max(4, shots // 4))
    if available.min() < shots + n_validation:
        raise ValueError(
            f"Each class needs {shots + n_validation} groups, {n_validation} to"
            " validate: draw fewer."
        )
    train_rows = place.index[place < shots]
    # From the other end, so that sets of more shots contain those of fewer.
    validation_rows = place.index[place >= available - n_validation]
    return np.sort(train_rows), np.sort(validation_rows)
