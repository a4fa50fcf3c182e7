"""Whether a classifier depends on the patches that a heat map marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from cliplib.data.arrays import Bools, Features, Floats, Ints
from cliplib.data.image import ImageSource
from cliplib.encoders.clip import ClipEncoder
from cliplib.inspection.maps import patches_a_side


def deletion_insertion(
    encoder: ClipEncoder,
    images: Sequence[ImageSource],
    maps: ArrayLike,
    targets: ArrayLike,
    predict_proba: Callable[[Features], ArrayLike],
    *,
    readout: str = "pooled",
    steps: int = 8,
) -> tuple[Floats, Floats]:
    """Delete, and insert, patches in the order of a map, and watch a probability.

    RISE (Petsiuk, Das and Saenko, BMVC 2018, section 4.1), by patches instead of
    pixels: deletion greys the most relevant first; insertion puts them first into a
    blurred image. Only the difference to another order, such as a random one, means
    something.

    Parameters
    ----------
    maps
        (n, rows, columns), the relevance of each patch: the larger, the more relevant.
    targets
        (n,), the column of `predict_proba` to watch for each image.
    predict_proba
        Maps features (m, d) in this `readout` to probabilities (m, k).
    readout
        Which of the encoder's features `predict_proba` takes.
    steps
        Number of steps in which all patches are deleted, or inserted: about as many
        patches in each.

    Returns
    -------
    shares : Floats
        (steps + 1,), from 0 to 1: of the patches that are deleted, or inserted.
    probabilities : Floats
        (2, n, steps + 1), of the targets: first by deletion, then by insertion.

    Raises
    ------
    ValueError
        If maps are not of the shape of the encoder's patches.
    """
    heats = np.asarray(maps)
    side = patches_a_side(encoder)
    if heats.shape != (len(images), side, side):
        raise ValueError(
            f"maps must be {side} x {side} for each of {len(images)} images, as this "
            f"encoder's patches, and not of shape {heats.shape}."
        )
    columns = encoder.columns_of(readout)
    # Of patches that are deleted, or inserted, at each step: from none to all.
    counts = np.rint(np.linspace(0, side**2, steps + 1)).astype(np.int64)
    rng = np.random.default_rng(0)  # for patches of equal relevance
    curves: list[Floats] = []
    bar = tqdm(images, "deletion and insertion")
    for image, heat, target in zip(bar, heats, np.asarray(targets), strict=True):
        masks = _pixel_masks(encoder, _patch_ranks(heat, rng), counts)
        changed = _deleted_and_inserted(encoder.preprocess(image), masks)
        features = encoder.encode_pixels(changed)[:, columns]
        proba = np.asarray(predict_proba(features), np.float64)
        # The copies with deleted patches come first, then those with inserted ones.
        curves.append(proba[:, target].reshape(2, steps + 1))
    return counts / side**2, np.stack(curves, axis=1)


def _patch_ranks(heat: Floats, rng: np.random.Generator) -> Ints:
    """Return the rank of each patch of a map (rows, columns): 0 is the most relevant.

    Patches of equal relevance are ranked at random.
    """
    draws = rng.random(heat.size)
    # Numbers of the patches, the most relevant first: by heat, then by draw.
    order = np.lexsort((draws, -heat.ravel()))
    ranks = np.empty(heat.size, np.int64)
    ranks[order] = np.arange(heat.size)
    return ranks.reshape(heat.shape)


def _pixel_masks(encoder: ClipEncoder, ranks: Ints, counts: Ints) -> Bools:
    """Return masks of pixels, (m, 1, s, s), one for each of m `counts` of patches.

    It holds that many patches, those first by `ranks` (rows, columns). Pixels on the
    right and below that fill no patch go with the last one.
    """
    patch_size = encoder.image_size // patches_a_side(encoder)
    patch_of_pixel = np.arange(encoder.image_size) // patch_size
    patch_of_pixel = np.minimum(patch_of_pixel, len(ranks) - 1)
    rank_of_pixel = ranks[np.ix_(patch_of_pixel, patch_of_pixel)]  # (s, s)
    return np.asarray(rank_of_pixel < counts[:, None, None, None])


def _deleted_and_inserted(pixels: Features, masks: Bools) -> Features:
    """Return m copies of an image with deleted pixels, then m with inserted ones.

    `pixels` (3, s, s) are as CLIP preprocesses them; copies are (2m, 3, s, s). Deleted
    pixels, those in one of the `masks` (m, 1, s, s), are 0, the mean grey; inserted
    ones, too, are those in the mask, and all around them is blurred.
    """
    deviation = pixels.shape[-1] / 16  # of the Gaussian, in pixels
    blurred = gaussian_filter(pixels, (0, deviation, deviation))  # not over channels
    deleted = np.where(masks, 0, pixels)
    inserted = np.where(masks, pixels, blurred)
    return np.concatenate([deleted, inserted])
