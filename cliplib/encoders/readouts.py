"""What is read of a CLIP's vision tower, by name."""

from __future__ import annotations

import numpy as np

from cliplib.data.arrays import Ints

READOUTS = ("pooled", "deep")
# The last blocks of the vision tower, which the deep readout reads.
DEEP_BLOCKS = 4


def readout_columns(readout: str, width: int, blocks: int = DEEP_BLOCKS) -> Ints:
    """Return which columns of the deep readout a readout consists of.

    ``deep`` has three parts: first class tokens, then means over the patch tokens, then
    their standard deviations. Each part has `width` columns for each of the last
    `blocks` blocks, in the order of the blocks. Every token goes through the final
    layer norm. ``pooled`` is the last class token (Radford et al. 2021, appendix A.3).

    Parameters
    ----------
    readout
        One of `READOUTS`; ValueError for another.
    width
        Number of components of a token of the vision tower.
    blocks
        How many blocks the deep readout reads: four, or all of a tower of fewer.

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
