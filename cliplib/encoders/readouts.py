"""What is read of a CLIP's vision tower, by name."""

from __future__ import annotations

import numpy as np

from cliplib.data.arrays import Ints

READOUTS = ("pooled", "class_tokens", "dinov2", "means", "deep")
# The last blocks of the vision tower, which the deep readout reads.
DEEP_BLOCKS = 4


def readout_columns(readout: str, width: int, blocks: int = DEEP_BLOCKS) -> Ints:
    """Return which columns of the deep readout a readout consists of.

    ``deep`` has three parts: first class tokens, then means over the patch tokens, then
    their standard deviations. Each part has `width` columns for each of the last
    `blocks` blocks, in the order of the blocks. Every token goes through the final
    layer norm. ``pooled`` is the last class token (Radford et al. 2021, appendix A.3),
    ``class_tokens`` all of them, ``dinov2`` these and the last mean (Oquab et al. 2024,
    appendix B.3), ``means`` all class tokens and all means.

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
    part = blocks * width
    class_tokens = np.arange(part)
    means = np.arange(part, 2 * part)
    columns = {
        "pooled": class_tokens[-width:],
        "class_tokens": class_tokens,
        "dinov2": np.concatenate([class_tokens, means[-width:]]),
        "means": np.concatenate([class_tokens, means]),
        "deep": np.arange(3 * part),
    }
    if readout not in columns:
        raise ValueError(
            f"There is no readout {readout!r}; there are {', '.join(READOUTS)}."
        )
    return columns[readout]
