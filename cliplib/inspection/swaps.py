"""Swaps of image statistics, which show whether a probe relies on a shortcut.

Even if the corners of two classes differ, a probe may not look at corners. So images
get the corner, the brightness or the sharpness of an image of another class. As any
swap costs something, the same is done with an image of the own class, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter
from scipy.stats import ttest_rel

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.data.image import ImageSource, load_image
from cliplib.encoders.encoder import Encoder
from cliplib.evaluation.intervals import Estimate
from cliplib.features.groups import one_of_each_group
from cliplib.features.table import FeatureTable
from cliplib.inspection.image_statistics import (
    BORDER_SHARE,
    PATCH_SHARE,
    PATCHES,
    region,
    sharpness,
)
from cliplib.inspection.shortcuts import NOT_MEASURED, Shortcut
from cliplib.probes.out_of_fold import Fit

# Least AUROC, for the class that it identifies best, of a statistic that is swapped.
MIN_AUROC = 0.8
# Largest number of statistics that are swapped: those with the highest AUROC.
MOST_STATISTICS = 2
# Largest number of images that are altered; half belong to the class identified best.
MOST_IMAGES = 60
# Longer side, in pixels, to which images are reduced; CLIP sees fewer pixels.
MOST_SIDE = 640
# Radii in pixels of the Gaussian blurs that are tried.
RADII = (0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0, 4.0, 6.0)

# A function of two RGB images that gives the first one a statistic of the second.
Swap = Callable[[Image.Image, Image.Image], Image.Image]


def measure_swaps(
    shortcuts: Sequence[Shortcut],
    fits: Sequence[Fit],
    table: FeatureTable,
    encoder: Encoder,
    images: Sequence[ImageSource],
    *,
    seed: int = 0,
) -> list[Shortcut]:
    """Measure whether a probe uses the statistics that identify a class best.

    Each statistic is swapped between images of the class that it identifies best and
    images of all other classes, none of which the probe was trained on. Fields of files
    are not swapped.

    Parameters
    ----------
    shortcuts
        The result of `probe_shortcuts`.
    fits
        CLIP's probe, fitted in each fold.
    table
        The table that it was fitted on, with groups.
    encoder
        The encoder that made the table.
    images
        The images of the table's rows, (n,).
    seed
        Random seed of the draw of images.

    Returns
    -------
    list of Shortcut
        The shortcuts in the same order, with `swap_cost` if it was measured.
    """
    separable = [s for s in shortcuts if s.name in SWAPS and s.auroc >= MIN_AUROC]
    # The highest AUROC first; of equal ones, the swap that changes most of an image.
    separable.sort(key=lambda s: (-round(s.auroc, 2), [*SWAPS].index(s.name)))
    cost_of = {
        shortcut.name: _cost(shortcut, fits, table, encoder, images, seed)
        for shortcut in separable[:MOST_STATISTICS]
    }
    return [
        replace(shortcut, swap_cost=cost_of.get(shortcut.name, NOT_MEASURED))
        for shortcut in shortcuts
    ]


def _cost(
    shortcut: Shortcut,
    fits: Sequence[Fit],
    table: FeatureTable,
    encoder: Encoder,
    images: Sequence[ImageSource],
    seed: int,
) -> Estimate:
    """Return how much more a swap costs with another class than with the own class.

    The cost is a loss of probability of the right answer. There are two answers: the
    class that the shortcut identifies best, and any other class. The result is
    `NOT_MEASURED` if no fold has images of both.
    """
    label = shortcut.most_separable_class
    drawn = _draw_donors(table, label, [fit.test_rows for fit in fits], seed)
    if drawn.empty:
        return NOT_MEASURED
    swap = SWAPS[shortcut.name]

    def proba_of_right_answer(donor_rows: pd.Series) -> Floats:
        altered = [
            swap(_load_reduced(images[row]), _load_reduced(images[donor_row]))
            for row, donor_row in zip(drawn["row"], donor_rows, strict=True)
        ]
        features = encoder.encode_images(altered, readout=table.readout, progress=False)
        proba = _proba_of_class(label, features, fits, drawn["fold"])
        is_class = table.labels[drawn["row"]] == label
        return np.where(is_class, proba, 1 - proba)

    with_same_class = proba_of_right_answer(drawn["same_class"])
    with_other_class = proba_of_right_answer(drawn["other_class"])
    low, high = ttest_rel(with_same_class, with_other_class).confidence_interval()
    cost = float(np.mean(with_same_class - with_other_class))
    return Estimate(cost, low, high)


def _proba_of_class(
    label: int, features: Features, fits: Sequence[Fit], fold_of_image: pd.Series
) -> Floats:
    """Return the probability of a class for each of n images, (n,).

    Each image is judged by the fit that was trained without its fold, and so without
    its donors.
    """
    by_fit = [
        fit.estimator.predict_proba(features) @ (fit.estimator.classes_ == label)
        for fit in fits
    ]
    image = np.arange(len(features))
    return np.asarray(np.array(by_fit)[fold_of_image, image])


def _load_reduced(source: ImageSource) -> Image.Image:
    """Load an image, and reduce it if its longer side is above `MOST_SIDE`."""
    image = load_image(source)
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    return image


def _draw_donors(
    table: FeatureTable, label: int, test_folds: Sequence[Ints], seed: int
) -> pd.DataFrame:
    """Draw images of a class and of all others, each with two donors of its fold.

    The result has the columns fold, row, same_class and other_class. The last three are
    rows of the table: the image and its two donors. No two images are of one group.
    """
    rng = np.random.default_rng(seed)
    most_of_side = MOST_IMAGES // (2 * len(test_folds))
    drawn: list[tuple[int, ...]] = []
    for fold, test_rows in enumerate(test_folds):
        rows = one_of_each_group(rng.permutation(test_rows), table.groups)
        is_class = table.labels[rows] == label
        of_class = rows[is_class]
        of_others = rows[~is_class]
        for own, other in ((of_class, of_others), (of_others, of_class)):
            if len(own) > 1:  # a single image would be its own donor
                same_class_donors = np.roll(own, 1)
                # Stops when there are no more images, or no more donors.
                trios = zip(own[:most_of_side], same_class_donors, other, strict=False)
                drawn += [(fold, *trio) for trio in trios]
    return pd.DataFrame(drawn, columns=["fold", "row", "same_class", "other_class"])


def paste_region(name: str, image: Image.Image, donor: Image.Image) -> Image.Image:
    """Return an image with a corner, an edge or the border of another image.

    The pasted part is larger than the one that the statistic measures, since the trait
    of a class may be, too: an edge reaches from corner to corner, and a corner is twice
    as wide and high.
    """
    resized = donor.resize(image.size, Image.Resampling.BICUBIC)
    if name == "border":
        border = max(1, round(BORDER_SHARE * min(image.size)))
        if min(image.size) > 2 * border:  # a smaller image consists of border alone
            inner = (border, border, image.width - border, image.height - border)
            resized.paste(image.crop(inner), inner)
        return resized
    x, y = PATCHES[name]
    share = PATCH_SHARE if "edge" in name else 2 * PATCH_SHARE
    width_share = 1 if x == 0.5 else share  # top and bottom edge: the whole width
    height_share = 1 if y == 0.5 else share
    box = region(image.size, (x, y), (width_share, height_share))
    pasted = image.copy()
    pasted.paste(resized.crop(box), box)
    return pasted


def shift_brightness(image: Image.Image, donor: Image.Image) -> Image.Image:
    """Return an image with the mean brightness of another image."""
    levels = np.asarray(image.convert("L"), np.float64)
    donor_levels = np.asarray(donor.convert("L"), np.float64)
    shifted = np.asarray(image, np.float64) + donor_levels.mean() - levels.mean()
    return Image.fromarray(np.clip(shifted, 0, 255).astype(np.uint8))


def blur(image: Image.Image, donor: Image.Image) -> Image.Image:
    """Return an image, blurred as long as it is sharper than another image."""
    donor_sharpness = _sharpness(donor)
    blurred = image
    for radius in RADII:
        if _sharpness(blurred) <= donor_sharpness:
            break
        blurred = image.filter(ImageFilter.GaussianBlur(radius))
    return blurred


def _sharpness(image: Image.Image) -> float:
    """Return the sharpness of an RGB image at its full size."""
    return float(sharpness(image.convert("L"))[0])


# The swap of each statistic; those that change most of an image come first.
SWAPS: dict[str, Swap] = {
    "brightness": shift_brightness,
    "sharpness": blur,
    **{name: partial(paste_region, name) for name in ("border", *PATCHES)},
}
