"""Where the frozen encoder's patch tokens say that a tumour lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import zoom
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cliplib.data.arrays import Bools, Features, Floats, Ints
from cliplib.encoders.clip import ClipEncoder
from cliplib.inspection.erase import Box

FINER = 4
"""Log odds are interpolated to so many points a side of a patch."""
PATCHES_TAKEN = 49
"""So many of a picture's patches train the probe, drawn."""


def patch_tokens(encoder: ClipEncoder, images: Sequence[Image.Image]) -> Features:
    """Return the patch tokens of n images in the blocks of the deep readout.

    They go through the final layer norm, as there. Shape (n, side, side, blocks *
    width), float16.
    """
    tower = encoder.model.vision_model
    with torch.inference_mode():
        pixels = torch.as_tensor(np.stack([encoder.preprocess(i) for i in images]))
        states = tower(
            pixels.to(encoder.device),
            output_hidden_states=True,
            interpolate_pos_encoding=True,
        ).hidden_states
        read = [tower.post_layernorm(s)[:, 1:] for s in states[-encoder.blocks :]]
    tokens = torch.cat(read, dim=-1).half().cpu().numpy()
    side = round(tokens.shape[1] ** 0.5)
    return tokens.reshape(len(images), side, side, -1)


def patches_in(box: Box, side: int) -> Bools:
    """Return which patches lie in a box by their centres, (side, side), or nearest."""
    centres = (np.arange(side) + 0.5) / side
    x, y = abs(centres - box.x_center), abs(centres - box.y_center)
    across = x <= max(box.width / 2, x.min())
    down = y <= max(box.height / 2, y.min())
    return np.outer(down, across)


def log_odds_by_fold(
    tokens: Features, in_box: Bools, folds: Ints, *, seed: int = 0
) -> Floats:
    """Return each patch's log odds to lie in a box, by a probe of the other folds.

    The probe is a linear discriminant with the shrinkage of Ledoit and Wolf. `tokens`
    are (n, side, side, d), `in_box` (n, side, side), `folds` (n,).
    """
    rng = np.random.default_rng(seed)
    odds = np.zeros(in_box.shape)
    for fold in np.unique(folds):
        tested = folds == fold
        taken = rng.random(in_box.shape) < PATCHES_TAKEN / in_box[0].size
        taken &= ~tested[:, None, None]
        probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        probe.fit(tokens[taken].astype(np.float32), in_box[taken])
        for row in np.flatnonzero(tested):
            patches = tokens[row].reshape(-1, tokens.shape[-1]).astype(np.float32)
            odds[row] = probe.decision_function(patches).reshape(odds.shape[1:])
    return odds


def best_box(odds: Floats) -> Box:
    """Return the box with the largest sum of log odds, (side, side).

    It is what Lampert, Blaschko and Hofmann search for (CVPR 2008); here every box is
    looked at.
    """
    fine = zoom(odds, FINER, order=1, grid_mode=True, mode="nearest")
    points = len(fine)
    sums = np.pad(fine.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    first, last = np.triu_indices(points + 1, k=1)
    bands = sums[last] - sums[first]  # of rows `first` to `last`, up to each column
    inside = bands[:, last] - bands[:, first]
    rows, columns = np.unravel_index(inside.argmax(), inside.shape)
    top, bottom, left, right = (
        np.array([first[rows], last[rows], first[columns], last[columns]]) / points
    )
    width, height = float(right - left), float(bottom - top)
    return Box(float(left) + width / 2, float(top) + height / 2, width, height)


def overlap(one: Box, other: Box) -> float:
    """Return the shared area of two boxes over the area of both, 0 to 1."""
    width, height = (
        min(a + b, c + d) - max(a - b, c - d)
        for a, b, c, d in (
            (one.x_center, one.width / 2, other.x_center, other.width / 2),
            (one.y_center, one.height / 2, other.y_center, other.height / 2),
        )
    )
    shared = max(width, 0) * max(height, 0)
    return shared / (one.width * one.height + other.width * other.height - shared)
