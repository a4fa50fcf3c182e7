"""Swaps, which show whether a probe uses what tells the classes without any object.

That the corners of two classes differ does not show that a probe looks at corners. So
images get the corner, the brightness or the sharpness of an image of another class, and
for comparison that of an image of their own class: any swap costs something.
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

# AUROC from which on a statistic tells a class so well that it is swapped.
MIN_AUROC = 0.8
# So many are swapped, those that tell a class best.
MOST_STATISTICS = 2
# So many images get them at most, half of these of the class that is told best.
MOST_IMAGES = 60
# Pixels of the longer side of images that are altered; CLIP sees fewer.
MOST_SIDE = 640
# Of the Gaussian blurs that are tried, in pixels.
RADII = (0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0, 4.0, 6.0)

# Returns the first of two RGB images with one statistic of the second.
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
    """Measure whether a probe uses the statistics that tell a class best.

    Each is swapped between images that the probe was not trained on, of the class that
    it tells best and of all others. That is not done with fields of files.

    Parameters
    ----------
    shortcuts
        What `probe_shortcuts` returns.
    fits
        CLIP's probe, fitted in each fold.
    table
        What it was fitted on, with the groups that are kept together.
    encoder
        The one that made the table.
    images
        The files of the table's rows, (n,).
    seed
        Of the draw of images.

    Returns
    -------
    list of Shortcut
        The same in the same order, with their `swap_cost` where it was measured.
    """
    separable = [s for s in shortcuts if s.name in SWAPS and s.auroc >= MIN_AUROC]
    # Of equal ones, those that change more of the image come first.
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
    """Return what another class's statistic costs more than one of the own class.

    The cost is of the probability of the right class, that of the class which the
    shortcut tells best or of all others. It is `NOT_MEASURED` where no fold has images
    of both.
    """
    label = shortcut.most_separable_class
    drawn = _draw_donors(table, label, [fit.test_rows for fit in fits], seed)
    if drawn.empty:
        return NOT_MEASURED
    is_class = table.labels[drawn["row"]] == label
    proba_of_true = {}
    for donor in ("same_class", "other_class"):
        altered = [
            SWAPS[shortcut.name](
                _load_reduced(images[row]), _load_reduced(images[donor_row])
            )
            for row, donor_row in zip(drawn["row"], drawn[donor], strict=True)
        ]
        features = encoder.encode_images(altered, readout=table.readout, progress=False)
        proba = _proba_of_class(label, features, fits, drawn["fold"])
        proba_of_true[donor] = np.where(is_class, proba, 1 - proba)
    of_same, of_other = proba_of_true["same_class"], proba_of_true["other_class"]
    interval = ttest_rel(of_same, of_other).confidence_interval()
    return Estimate(np.mean(of_same - of_other), *interval)


def _proba_of_class(
    label: int, features: Features, fits: Sequence[Fit], fold_of_image: pd.Series
) -> Floats:
    """Return the probability of a class for each of n images, (n,).

    It is by the fit without the image's fold, which has seen no donor of it either.
    """
    by_fit = [
        fit.estimator.predict_proba(features) @ (fit.estimator.classes_ == label)
        for fit in fits
    ]
    return np.asarray(np.array(by_fit)[fold_of_image, np.arange(len(features))])


def _load_reduced(source: ImageSource) -> Image.Image:
    """Load an image, reduced where its longer side is above `MOST_SIDE`."""
    image = load_image(source)
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    return image


def _draw_donors(
    table: FeatureTable, label: int, test_folds: Sequence[Ints], seed: int
) -> pd.DataFrame:
    """Draw images of a class and as many of others, each with two donors of its fold.

    Returned is the fold of each image, and three rows of the table: row, that of the
    image, and same_class and other_class, those of its donors. No group has two images.
    """
    rng = np.random.default_rng(seed)
    most = MOST_IMAGES // (2 * len(test_folds))
    drawn: list[tuple[int, ...]] = []
    for fold, test_rows in enumerate(test_folds):
        rows = one_of_each_group(rng.permutation(test_rows), table.groups)
        is_class = table.labels[rows] == label
        of_class = rows[is_class]
        of_others = rows[~is_class]
        for same, other in ((of_class, of_others), (of_others, of_class)):
            if len(same) > 1:  # a single one would be its own donor
                same_class_donors = np.roll(same, 1)
                # It ends where images, or donors of the other class, do.
                trios = zip(same[:most], same_class_donors, other, strict=False)
                drawn += [(fold, *trio) for trio in trios]
    return pd.DataFrame(drawn, columns=["fold", "row", "same_class", "other_class"])


def paste_region(name: str, image: Image.Image, donor: Image.Image) -> Image.Image:
    """Return an image with a corner, an edge or the border of another image.

    As what tells the classes may reach further than the statistic, an edge is a strip
    from corner to corner, and a corner twice as wide and high.
    """
    pasted = donor.resize(image.size, Image.Resampling.BICUBIC)
    if name == "border":
        border = max(1, round(BORDER_SHARE * min(image.size)))
        if min(image.size) > 2 * border:  # of a smaller one, all is border
            inner = (border, border, image.width - border, image.height - border)
            pasted.paste(image.crop(inner), inner)
        return pasted
    x, y = PATCHES[name]
    share = PATCH_SHARE if "edge" in name else 2 * PATCH_SHARE
    across = 1 if x == 0.5 else share  # an edge has all of a side
    down = 1 if y == 0.5 else share
    box = region(image.size, (x, y), (across, down))
    changed = image.copy()
    changed.paste(pasted.crop(box), box)
    return changed


def shift_brightness(image: Image.Image, donor: Image.Image) -> Image.Image:
    """Return an image as bright, on average, as another image."""
    levels = np.asarray(image.convert("L"), np.float64)
    wanted = np.asarray(donor.convert("L"), np.float64)
    shifted = np.asarray(image, np.float64) + wanted.mean() - levels.mean()
    return Image.fromarray(np.clip(shifted, 0, 255).astype(np.uint8))


def blur(image: Image.Image, donor: Image.Image) -> Image.Image:
    """Return an image no sharper than another: as it is, or blurred until it is so."""
    wanted = _sharpness(donor)
    blurred = image
    for radius in RADII:
        if _sharpness(blurred) <= wanted:
            break
        blurred = image.filter(ImageFilter.GaussianBlur(radius))
    return blurred


def _sharpness(image: Image.Image) -> float:
    """Return the sharpness of an RGB image at its own size."""
    return float(sharpness(image.convert("L"))[0])


# What swaps a statistic of an image; those that change most of it come first.
SWAPS: dict[str, Swap] = {
    "brightness": shift_brightness,
    "sharpness": blur,
    **{name: partial(paste_region, name) for name in ("border", *PATCHES)},
}
