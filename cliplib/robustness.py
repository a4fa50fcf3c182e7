"""How a result holds up: with few labelled images, and on images that are worse than those trained on."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from cliplib.errors import CliplibError
from cliplib.evaluation.bootstrap import Floats, Ints, bootstrap, group_codes, group_sums, intervals, ratio

CORRUPTIONS: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "jpeg": (25, 18, 15, 10, 7),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "rotation": (5, 10, 15, 20, 30),
}
"""Settings at strengths 1 to 5, of a picture whose shorter side has 224 pixels: standard deviation of Gaussian noise
(1: full scale), standard deviation of a Gaussian blur in pixels, JPEG quality, and what is added to the value in HSV
(1: full scale), all four as in ImageNet-C (Hendrycks and Dietterich, ICLR 2019, and its code); degrees of rotation."""

SIDE = 224


def few_shot(labels: ArrayLike, shots: int, *, groups: ArrayLike | None = None, seed: int = 0) -> tuple[Ints, Ints]:
    """Draw a few images of each class to train on, and no more to validate on.

    The protocol of CoOp (Zhou et al., Int. J. Comput. Vis. 130, 2022, section 4.1; the size of the validation set is
    in its code): `shots` images of each class to train and ``min(shots, 4)`` to validate. For more than 16 shots, which
    CoOp does not try, validation grows to a quarter of the training set. Every image is of another group, so that none
    repeats another and none stands on both sides. With one seed the training sets of rising `shots` contain each other.

    Parameters
    ----------
    labels : (n,) array-like
        Class labels.
    shots : int
        Training images of each class. A class with too few groups gives all it has, shared in the same proportion.
    groups : (n,) array-like, optional
        Near-duplicates; by default every image is its own group.
    seed : int
        Of the draw.

    Returns
    -------
    train, val : int64
        Row numbers, ascending. A class of fewer than two groups is an error.
    """
    if shots < 1:
        raise CliplibError(f"shots must be at least 1, not {shots}.")
    y = np.asarray(labels)
    codes, _ = group_codes(groups, len(y))
    order = np.random.default_rng(seed).permutation(len(y))
    first = np.sort(np.unique(codes[order], return_index=True)[1])  # one row of each group, in the order of the draw
    drawn, held = order[first], min(shots, max(4, shots // 4))
    train, val = [], []
    for label in np.unique(y):
        rows = drawn[y[drawn] == label]
        if len(rows) < 2:
            raise CliplibError(f"The class {str(label)!r} needs two groups of images: to train and to validate.")
        n_val = held if len(rows) >= shots + held else max(1, len(rows) * held // (shots + held))
        train.append(rows[: min(shots, len(rows) - n_val)])
        val.append(rows[len(rows) - n_val :])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def corrupt(image: Image.Image, kind: str, strength: int, *, seed: int = 0) -> Image.Image:
    """Make a picture worse.

    The result is RGB, its shorter side `SIDE` pixels, so that a strength means the same whatever the size of the file.

    Parameters
    ----------
    image : PIL image
    kind : str
        One of `CORRUPTIONS`.
    strength : int
        1 to 5, or 0 for the picture as it is, only resized like the others.
    seed : int
        Of the noise.
    """
    if kind not in CORRUPTIONS or not 0 <= strength <= len(CORRUPTIONS[kind]):
        raise CliplibError(f"No corruption is {kind!r} of strength {strength}: use 0 to 5 of {', '.join(CORRUPTIONS)}.")
    scale = SIDE / min(image.size)
    width, height = (max(SIDE, round(side * scale)) for side in image.size)
    rgb = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    if strength == 0:
        return rgb
    setting = CORRUPTIONS[kind][strength - 1]
    if kind == "noise":
        noise = np.random.default_rng(seed).normal(0, 255 * setting, (height, width, 3))
        return Image.fromarray(np.clip(np.asarray(rgb) + noise, 0, 255).astype(np.uint8))
    if kind == "blur":
        return rgb.filter(ImageFilter.GaussianBlur(setting))
    if kind == "jpeg":
        rgb.save(buffer := io.BytesIO(), "JPEG", quality=int(setting))
        return Image.open(buffer).convert("RGB")
    if kind == "brightness":
        hue, saturation, value = rgb.convert("HSV").split()
        brighter = Image.fromarray(np.minimum(np.asarray(value) + np.float64(255 * setting), 255).astype(np.uint8))
        return Image.merge("HSV", (hue, saturation, brighter)).convert("RGB")
    pixels = np.asarray(rgb)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    fill = tuple(int(channel) for channel in np.median(border, axis=0))  # its background, be it black or white
    return rgb.rotate(setting, Image.Resampling.BICUBIC, fillcolor=fill)


def mean_interval(
    values: ArrayLike, *, groups: ArrayLike | None = None, where: ArrayLike | None = None, **options: Any
) -> dict[str, float]:
    """Mean over rows, with a cluster-bootstrap interval over their groups.

    Parameters
    ----------
    values : (n,) or (r, n) array-like
        One number per row, such as whether it was predicted right, or the losses of two methods subtracted; of r
        repeats (other training sets, the same test rows) the mean is taken row by row first. Truth values count as a
        proportion, as in `cliplib.evaluation.bootstrap.intervals`.
    groups : (n,) array-like, optional
    where : bool (n,), optional
        The rows that count; the bootstrap draws their number too.
    **options
        n_boot, seed and level as in `cliplib.evaluation.evaluate`.

    Returns
    -------
    dict
        value, low, high; NaN where no row counts.
    """
    given: NDArray[Any] = np.atleast_2d(np.asarray(values))
    rows: Floats = given.mean(axis=0, dtype=np.float64)
    counted = np.ones(len(rows)) if where is None else np.asarray(where, dtype=np.float64)
    if counted.shape != rows.shape:
        raise CliplibError(f"where must have the shape {rows.shape} of the rows, not {counted.shape}.")
    codes, n_groups = group_codes(groups, len(rows))
    sums = group_sums(np.column_stack([rows * counted, counted]), codes, n_groups)
    if not counted.any():
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    level = options.pop("level", 0.95)
    draws = bootstrap(lambda w: ratio(w @ sums[:, :1], w @ sums[:, 1:]), n_groups, n_rows=len(rows), **options)
    sizes = np.array([(sums[:, 1] > 0).sum()]) if given.dtype == bool else None
    ((value, low, high),) = intervals(draws, level=level, proportion_groups=sizes)
    return {"value": float(value), "low": float(low), "high": float(high)}
