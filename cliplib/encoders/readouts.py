"""Readouts: which features of a CLIP's vision tower a probe gets."""

from __future__ import annotations

import numpy as np

from cliplib.data.arrays import Ints

READOUTS = ("pooled", "deep")
# How many of the vision tower's last blocks the deep readout reads.
DEEP_BLOCKS = 4


def readout_columns(readout: str, width: int, blocks: int = DEEP_BLOCKS) -> Ints:
    """Return the columns of the deep readout that form a given readout.

    ``deep`` has three parts: the class tokens, then the means over the patch tokens,
    then the standard deviations over the patch tokens. Each part has `width` columns
    for each of the last `blocks` blocks, in the order of the blocks. All tokens are
    normalised by the final layer norm. ``pooled`` is the last block's class token
    (Radford et al. 2021, appendix A.3).

    Parameters
    ----------
    readout
        One of `READOUTS`; ValueError for another.
    width
        Number of components of a token of the vision tower.
    blocks
        Number of blocks that the deep readout reads.

    Returns
    -------
    (m,) int64, indices in increasing order, m at most ``3 * blocks * width``.
    """
    n_class_tokens = blocks * width
    columns = {
        "pooled": np.arange(n_class_tokens - width, n_class_tokens),
        "deep": np.arange(3 * n_class_tokens),
    }
    if readout not in columns:
        raise ValueError(
            f"There is no readout {readout!r}; there are {', '.join(READOUTS)}."
        )
    return columns[readout]
