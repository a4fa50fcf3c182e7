"""Copies that are cropped, shifted, or turned a little: found by registering images.

Of two images the one may show a part of the other, on 80 to 100 % of its sides, turned
by up to 8 degrees, and mirrored. First the phase-free cross-correlation of their small
detail is sought over a grid of scales and angles (by Fourier transforms, which try all
shifts at once). Then an affine map is fitted by Gauss-Newton steps (Baker & Matthews,
IJCV 2004, inverse compositional), at 32 and at 64 pixels. Last, detail must agree all
over the picture, block by block: outlines of like objects agree in places only.
"""

from __future__ import annotations

import functools
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, sparse
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

from cliplib.data.arrays import Bools, Features, Floats, Ints
from cliplib.features.hashes import BLOCKS, MIN_CONTRAST, fine_detail

SCALES = (1.0, 0.95, 0.9, 0.85, 0.8)
ANGLES = (-8, -4, 0, 4, 8)  # degrees
WARPS = tuple(product(SCALES, ANGLES))
PLAIN_WARPS = tuple((s, angle) for s, angle in WARPS if s == 1 or angle == 0)
"""Those that crop or turn, but not both: enough to propose pairs by their hashes."""

COARSE_SIDE = 32
MIN_COARSE = 0.4  # of the best cross-correlation on the grid
MIN_SMALL = 0.55  # of detail at 32 pixels, once the map is fitted
MIN_FITTED = 0.55  # likewise at 64 pixels, where interpolation has softened one
STEPS = 8  # of fitting a map
PAIRS_AT_ONCE = 256
MIN_SHARED = 0.6  # of the area of both images
MAX_TURN = 10  # degrees, of a fitted map
SCALE_RANGE = (0.75, 1.34)
MAX_STRETCH = 1.25  # of one direction over the other

MIN_BLOCKS = 10  # that hold detail
# Of the blocks' correlations, the lowest tenth: at most 0.65 for neighbouring slices of
# one head, at least 0.76 for copies.
MIN_DECILE = 0.7


class Registered(NamedTuple):
    """For each pair, (p,), whether it is the same picture, mirrored, and how alike.

    `correlation` is of detail and `grey` of grey levels, where the images overlap.
    """

    is_same: Bools
    is_mirrored: Bools
    correlation: Floats
    grey: Floats


class _Place(NamedTuple):
    """Where on the grid a pair agrees best: (p,) each."""

    correlation: Features
    is_mirrored: Bools
    is_swapped: Bools
    """Whether the second image is the one that is warped."""
    warp: Ints
    shift: NDArray[np.int64]
    """Pixels to the right and down, (p, 2)."""


def halved(squares: NDArray[Any]) -> Features:
    """Return squares (n, s, s) of half the side, (n, s / 2, s / 2)."""
    n, side, _ = squares.shape
    parts = squares.reshape(n, side // 2, 2, side // 2, 2)
    return np.asarray(parts.mean(axis=(2, 4), dtype=np.float32))


def warped(squares: Features, warps: tuple[tuple[float, float], ...]) -> Features:
    """Return squares (n, s, s) zoomed and turned by each of the warps: (n, w, s, s)."""
    n, side, _ = squares.shape
    rows = squares.reshape(n, -1).T
    parts = [_warp_matrix(side, *warp) @ rows for warp in warps]
    return np.stack(parts, axis=1).transpose(2, 1, 0).reshape(n, len(warps), side, side)


def register(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> Registered:
    """Register pairs of grey images (n, 64, 64), by rows (p,), and say which match."""
    place = _best_places(grey, rows_a, rows_b)
    found = np.zeros((len(rows_a), 2))
    is_same = np.zeros(len(rows_a), bool)
    promising = np.flatnonzero(place.correlation >= MIN_COARSE)
    moving = np.where(place.is_swapped, rows_b, rows_a)
    fixed = np.where(place.is_swapped, rows_a, rows_b)
    for start in range(0, len(promising), PAIRS_AT_ONCE):
        pairs = promising[start : start + PAIRS_AT_ONCE]
        images = grey[moving[pairs]].astype(np.float32)
        goals = grey[fixed[pairs]].astype(np.float32)
        is_mirrored = place.is_mirrored[pairs]
        goals[is_mirrored] = goals[is_mirrored][:, :, ::-1]
        maps = np.stack([_similarity(*WARPS[warp]) for warp in place.warp[pairs]])
        shift = place.shift[pairs, :, None] / COARSE_SIDE
        maps[:, :, 2:] = maps[:, :, :2] @ shift
        maps, alike = _fitted(halved(images), halved(goals), maps)
        for row in np.flatnonzero(alike >= MIN_SMALL):
            result = _agreement(images[row], goals[row], maps[row])
            if result is not None:
                is_same[pairs[row]] = True
                found[pairs[row]] = result
    return Registered(is_same, place.is_mirrored, found[:, 0], found[:, 1])


def _similarity(scale: float, angle: float) -> Floats:
    """Return the map (2, 3) of (x, y, 1), counted from the centre, that zooms in."""
    radians = np.deg2rad(angle)
    cos, sin = scale * np.cos(radians), scale * np.sin(radians)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])


@functools.cache
def _warp_matrix(side: int, scale: float, angle: float) -> sparse.csr_array:
    """Return the matrix that warps squares, as columns of pixels, (s², s²)."""
    x, y = _positions(side, _similarity(scale, angle))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    entries = []
    for right, down in product((0, 1), (0, 1)):
        weight = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - top))
        column, row = left + right, top + down
        inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
        target = np.flatnonzero(inside)
        entries.append((weight[inside], target, (row * side + column)[inside]))
    weights, targets, sources = (
        np.concatenate(part) for part in zip(*entries, strict=True)
    )
    shape = (side**2, side**2)
    return sparse.csr_array((weights.astype(np.float32), (targets, sources)), shape)


def _positions(side: int, affine: Floats) -> tuple[Floats, Floats]:
    """Return x and y, in pixels (s²,), to which a map takes each pixel of a square.

    The map's shift is in shares of the side.
    """
    centre = (side - 1) / 2
    y, x = np.mgrid[:side, :side] - centre
    pixels = np.stack([x.ravel(), y.ravel(), np.full(side**2, float(side))])
    mapped = affine @ pixels + centre
    return mapped[0], mapped[1]


def _standardised(squares: Features) -> Features:
    """Return squares (…, s, s) of mean 0 and sum of squares 1; flat ones are 0."""
    centred = squares - squares.mean(axis=(-2, -1), keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=(-2, -1), keepdims=True))
    return np.asarray(centred / np.maximum(norm, 1e-3))


def _best_places(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> _Place:
    """Seek each pair's best cross-correlation over warps, shifts and mirroring."""
    n_pairs = len(rows_a)
    zeros = [np.zeros(n_pairs, kind) for kind in (np.float32, bool, bool, np.int64)]
    best = _Place._make([*zeros, np.zeros((n_pairs, 2), np.int64)])
    detail = fine_detail(halved(grey), noise=8.0)
    for is_swapped in (False, True):
        moving, fixed = (rows_b, rows_a) if is_swapped else (rows_a, rows_b)
        for image, pairs in pd.Series(moving).groupby(moving).indices.items():
            views = _standardised(warped(detail[image][None], WARPS)[0])
            spectra = fft.rfft2(views)
            for part in np.array_split(pairs, np.ceil(len(pairs) / 32)):
                others = _standardised(detail[fixed[part]])
                for is_mirrored, turned in ((False, others), (True, others[..., ::-1])):
                    _keep_better(best, part, spectra, turned, is_mirrored, is_swapped)
    return best


def _keep_better(
    best: _Place,
    pairs: Ints,
    spectra: NDArray[np.complex64],
    others: Features,
    is_mirrored: bool,
    is_swapped: bool,
) -> None:
    """Note in `best` where one image's views match the `others`, if better than before.

    `spectra` (w, s, s // 2 + 1) are of its warps, `others` (p, s, s) its partners.
    """
    products = spectra * fft.rfft2(others).conj()[:, None]
    correlation = fft.irfft2(products, s=(COARSE_SIDE, COARSE_SIDE))
    flat = correlation.reshape(len(pairs), -1)
    peak = flat.argmax(axis=1)
    value = flat[np.arange(len(pairs)), peak]
    is_better = value > best.correlation[pairs]
    rows = pairs[is_better]
    warp, down, right = np.unravel_index(peak[is_better], correlation.shape[1:])
    half = COARSE_SIDE // 2
    shift = (np.stack([right, down], axis=1) + half) % COARSE_SIDE - half
    best.correlation[rows] = value[is_better]
    best.is_mirrored[rows] = is_mirrored
    best.is_swapped[rows] = is_swapped
    best.warp[rows] = warp
    best.shift[rows] = shift


def _agreement(
    moving: Features, fixed: Features, affine: Floats
) -> tuple[float, float] | None:
    """Fit the map from a fixed image to a moving one, and compare them by blocks.

    Returned are the correlations of detail and of grey levels where both overlap, or
    None where they do not show the same.
    """
    maps, alike = _fitted(moving[None], fixed[None], affine[None])
    affine = maps[0]
    if alike[0] < MIN_FITTED or not _is_slight(affine):
        return None
    # Where one image ends, the other may go on: that end is no detail of the picture.
    # So the frame is that of either, and the better one counts.
    inverse = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2]
    of_each = [_compared(moving, fixed, affine), _compared(fixed, moving, inverse)]
    agreeing = [numbers for numbers in of_each if numbers is not None]
    return max(agreeing, default=None, key=lambda numbers: numbers[0])


def _fitted(moving: Features, fixed: Features, maps: Floats) -> tuple[Floats, Features]:
    """Return the affine maps that carry fixed images' detail to the moving ones best.

    Images are (p, s, s), maps (p, 2, 3). Returned with them are the correlations, (p,),
    of detail. The steps are inverse compositional: the derivatives are
    those of the fixed image, so that they are taken once.
    """
    n, side, _ = fixed.shape
    detail, goal = (
        gaussian_filter(fine_detail(images, sigma=2.0), (0, 0.6, 0.6))
        for images in (moving, fixed)
    )
    down, right = (slope.reshape(n, -1) for slope in np.gradient(goal, axis=(1, 2)))
    y, x = ((np.mgrid[:side, :side] - (side - 1) / 2) / side).reshape(2, -1)
    columns = [right * x, right * y, right, down * x, down * y, down]
    slopes = side * np.stack(columns, axis=1).astype(np.float32)  # (p, 6, s²)
    goal = goal.reshape(n, -1)
    for _ in range(STEPS):
        values, is_inside = _sampled(detail, maps)
        spread_here, here = _centred(goal, is_inside)
        spread, there = _centred(values, is_inside)
        ratio = spread_here / np.maximum(spread, 1e-6)
        error = there * ratio[:, None] - here
        shared = slopes * is_inside[:, None]
        normal = shared @ slopes.transpose(0, 2, 1) + 1e-3 * np.eye(6)
        change = np.linalg.solve(normal, shared @ error[:, :, None])
        steps = np.tile(np.eye(3), (n, 1, 1))
        steps[:, :2] += change.reshape(n, 2, 3)
        maps = maps @ np.linalg.inv(steps)
    values, is_inside = _sampled(fine_detail(moving), maps)
    spread_a, values = _centred(values, is_inside)
    spread_b, goal = _centred(fine_detail(fixed).reshape(n, -1), is_inside)
    covariance = (values * goal).mean(axis=1)
    return maps, covariance / np.maximum(spread_a * spread_b, 1e-6)


def _centred(values: Features, mask: Bools) -> tuple[Features, Features]:
    """Return the spread of each row under a mask, (p,), and rows less their means.

    The spread is over the whole row, of which all that is masked is 0.
    """
    n_used = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    centred = (values - (values * mask).sum(axis=1, keepdims=True) / n_used) * mask
    return np.sqrt((centred**2).mean(axis=1)), centred


def _sampled(images: Features, maps: Floats) -> tuple[Features, Bools]:
    """Return the pixels of images (p, s, s) where maps take each pixel, (p, s²).

    They are interpolated linearly. Beside them stands whether each lies inside.
    """
    n, side, _ = images.shape
    centre = (side - 1) / 2
    y, x = (np.mgrid[:side, :side] - centre).reshape(2, -1)
    pixels = np.stack([x, y, np.full(side**2, float(side))]).astype(np.float32)
    places = maps.astype(np.float32) @ pixels + np.float32(centre)  # (p, 2, s²)
    is_inside = ((places >= 0) & (places <= side - 1)).all(axis=1)
    corner = np.clip(np.floor(places), 0, side - 2).astype(np.int64)
    share = np.clip(places - corner, 0, 1)
    first = corner[:, 1] * side + corner[:, 0]
    flat = images.reshape(n, -1)
    upper, lower = (
        (1 - share[:, 0]) * np.take_along_axis(flat, first + down, axis=1)
        + share[:, 0] * np.take_along_axis(flat, first + down + 1, axis=1)
        for down in (0, side)
    )
    return (1 - share[:, 1]) * upper + share[:, 1] * lower, is_inside


def _moved(image: Features, affine: Floats) -> tuple[Features, Bools]:
    """Return the image's pixels where the map takes each pixel, and whether inside."""
    side = len(image)
    x, y = _positions(side, affine)
    is_inside = (np.minimum(x, y) >= 0) & (np.maximum(x, y) <= side - 1)
    return map_coordinates(image, [y, x], order=1, mode="nearest"), is_inside


def _is_slight(affine: Floats) -> bool:
    """Return whether a map crops and turns no more than a copy may be."""
    linear = affine[:, :2]
    stretch = np.linalg.svd(linear, compute_uv=False)
    angle = np.rad2deg(
        np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])
    )
    is_in_range = SCALE_RANGE[0] <= stretch.min() and stretch.max() <= SCALE_RANGE[1]
    is_even = stretch.max() <= MAX_STRETCH * stretch.min()
    return bool(is_in_range and is_even and abs(angle) <= MAX_TURN)


def _compared(
    moving: Features, fixed: Features, affine: Floats
) -> tuple[float, float] | None:
    """Return the correlations of detail and of grey levels where two images overlap.

    `affine` lays the one on the other. None where they share less than `MIN_SHARED` of
    the fixed image, or do not agree block by block.
    """
    side = len(fixed)
    image, is_inside = _moved(moving, affine)
    # Two pixels from the edge of the overlap, local means know what lies beyond it.
    is_shared = binary_erosion(is_inside.reshape(side, side), iterations=2)
    if is_shared.mean() < MIN_SHARED - 0.1:
        return None
    image = image.reshape(side, side)
    outside = ~is_inside.reshape(side, side)
    fixed, image = fixed.copy(), image.copy()
    fixed[outside], image[outside] = fixed[is_shared].mean(), image[is_shared].mean()
    detail_a, detail_b = fine_detail(image), fine_detail(fixed)
    by_block = _block_correlations(detail_a, detail_b, is_shared)
    if len(by_block) < MIN_BLOCKS or np.quantile(by_block, 0.1) < MIN_DECILE:
        return None
    detail = np.corrcoef(detail_a[is_shared], detail_b[is_shared])[0, 1]
    grey = np.corrcoef(image[is_shared], fixed[is_shared])[0, 1]
    return float(np.nan_to_num(detail)), float(np.nan_to_num(grey))


def _block_correlations(detail_a: Features, detail_b: Features, mask: Bools) -> Floats:
    """Return the correlation in each block that holds detail in either, (b,).

    Blocks of which the mask covers less than half are left out.
    """
    weight = _blocks(mask.astype(np.float32))
    n_pixels = weight.sum(axis=1)
    a, b = _blocks(detail_a), _blocks(detail_b)
    total = np.maximum(n_pixels, 1)[:, None]
    a = (a - (a * weight).sum(axis=1, keepdims=True) / total) * weight
    b = (b - (b * weight).sum(axis=1, keepdims=True) / total) * weight
    spread_a, spread_b = (np.sqrt((one**2).sum(axis=1) / total[:, 0]) for one in (a, b))
    holds_detail = np.maximum(spread_a, spread_b) > MIN_CONTRAST
    is_used = holds_detail & (n_pixels >= weight.shape[1] / 2)
    covariance = (a * b).sum(axis=1) / total[:, 0]
    return np.asarray((covariance / np.maximum(spread_a * spread_b, 1e-6))[is_used])


def _blocks(square: Features) -> Features:
    """Cut a square (s, s) into the pixels of each of its blocks, (64, s² / 64)."""
    part = len(square) // BLOCKS
    cut = square.reshape(BLOCKS, part, BLOCKS, part).swapaxes(1, 2)
    return cut.reshape(BLOCKS**2, part**2)
