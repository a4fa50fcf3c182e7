"""Parts of a CLIP's deep readout that notebook 03 compares."""

from __future__ import annotations

import numpy as np

from cliplib import ClipEncoder
from cliplib.data.arrays import Ints


def parts_of_deep(encoder: ClipEncoder) -> dict[str, Ints]:
    """Return columns of the deep readout, by the name of what they are together.

    ``pooled`` is the last class token, ``class_tokens`` those of all blocks,
    ``dinov2`` these and the last mean of patches (Oquab et al. 2024, appendix B.3),
    ``means`` all class tokens and all means, and ``deep`` the deviations as well.
    """
    pooled = encoder.columns_of("pooled")
    deep = encoder.columns_of("deep")
    n_class_tokens = encoder.blocks * encoder.width
    last_mean = pooled + n_class_tokens
    return {
        "pooled": pooled,
        "class_tokens": deep[:n_class_tokens],
        "dinov2": np.append(deep[:n_class_tokens], last_mean),
        "means": deep[: 2 * n_class_tokens],
        "deep": deep,
    }
