"""Copies that are cropped, shifted, or turned a little: found by registering images.

Of two images the one may show a part of the other, on 80 to 100 % of its sides, turned
by up to 8 degrees, and mirrored. First the cross-correlation of their small detail is
sought over a grid of scales and angles (by Fourier transforms, which try all shifts at
once), at 16 pixels. Then an affine map is fitted by Gauss-Newton steps (Baker &
Matthews, IJCV 2004, inverse compositional), at 32 and at 64 pixels. Last, detail must
agree all over the picture, block by block: outlines of like objects agree in places
only.

Maps are (2, 3) and lead from a place in the fixed image to that in the moving one, as
in `torch.nn.functional.affine_grid`: from -1 to 1 along each side.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cliplib.data.arrays import Bools, Features, Ints
from cliplib.data.threads import one_thread
from cliplib.features.hashes import (
    BLOCKS,
    MIN_CONTRAST,
    fine_detail,
    largest_difference,
)

SCALES = (1.0, 0.95, 0.9, 0.85, 0.8)
ANGLES = (-8, -4, 0, 4, 8)  # degrees

COARSE_SIDE = 16
MIN_COARSE = 0.45  # of the best cross-correlation on the grid
MIN_FITTED = 0.5  # of detail, once the map is fitted
STEPS = 8  # of fitting a map
PAIRS_AT_ONCE = 64  # whose arrays a core's cache holds
MIN_SHARED = 0.5  # of the area of both images, less a rim
RIM = 2  # pixels from the edge of the overlap: local means know what lies beyond it
# Of a map's entries from those of the map that changes nothing: a scale, and a turn.
MAX_CHANGE = torch.tensor([[0.3, 0.2], [0.2, 0.3]])

MIN_BLOCKS = 10  # that hold detail
# Of the blocks' correlations, the lowest tenth: at most 0.65 for neighbouring slices of
# one head, at least 0.76 for copies.
MIN_DECILE = 0.7


def halved(squares: NDArray[Any]) -> Features:
    """Return squares (n, s, s) of half the side, (n, s / 2, s / 2)."""
    n, side, _ = squares.shape
    parts = squares.reshape(n, side // 2, 2, side // 2, 2)
    return np.asarray(parts.mean(axis=(2, 4), dtype=np.float32))


def similarities(warps: list[tuple[float, float]]) -> Tensor:
    """Return the maps, (w, 2, 3), that zoom and turn, each by a scale and an angle."""
    scale, angle = torch.tensor(warps).T
    cos = scale * torch.cos(torch.deg2rad(angle))
    sin = scale * torch.sin(torch.deg2rad(angle))
    none = torch.zeros(len(warps))
    rows = [torch.stack([cos, -sin, none]), torch.stack([sin, cos, none])]
    return torch.stack(rows).permute(2, 0, 1)


GRID = similarities(list(product(SCALES, ANGLES)))


def warped(squares: Features, maps: Tensor) -> Tensor:
    """Return squares (n, s, s) as each of the maps shows them, (w, n, s, s)."""
    side = squares.shape[-1]
    places = F.affine_grid(maps, [len(maps), 1, side, side], align_corners=False)
    images = torch.from_numpy(squares).expand(len(maps), -1, -1, -1)
    return F.grid_sample(images, places, align_corners=False)


@one_thread()  # on so small images, two would wait for each other most of the time
def register(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> pd.DataFrame:
    """Register pairs of grey images (n, 64, 64), by rows (p,), and say how they match.

    Returned is a row for each pair: is_mirrored, and where the images overlap the
    correlation of detail, that of grey levels, `grey`, and the `difference`, the
    `largest_difference`. All three are 0 where they do not show the same.
    """
    n_pairs = len(rows_a)
    rows, place = np.unique([rows_a, rows_b], return_inverse=True)
    # Mirrored images follow, so that each pair is there twice, to try both.
    images = np.concatenate([grey[rows], grey[rows][..., ::-1]])
    first, second = place.reshape(2, n_pairs)
    firsts = np.tile(first, 2)
    seconds = np.append(second, second + len(rows))
    coarse, is_swapped, maps = _best_places(images, firsts, seconds)
    moving = np.where(is_swapped, seconds, firsts)
    fixed = np.where(is_swapped, firsts, seconds)
    small = _soft_detail(halved(images))
    alike = np.zeros(2 * n_pairs, np.float32)
    for some in _parts(np.flatnonzero(coarse >= MIN_COARSE)):
        a = small[moving[some]]
        b = small[fixed[some]]
        maps[some], alike[some] = _fitted(a, b, maps[some])
    is_mirrored = alike[n_pairs:] > alike[:n_pairs]
    better = np.arange(n_pairs) + n_pairs * is_mirrored
    for some in _parts(better[alike[better] >= MIN_FITTED]):
        a = _soft_detail(images[moving[some]])
        b = _soft_detail(images[fixed[some]])
        maps[some], alike[some] = _fitted(a, b, maps[some])
    change = (maps[:, :, :2] - torch.eye(2)).abs()
    is_like = (alike >= MIN_FITTED) & (change <= MAX_CHANGE).all(dim=(1, 2)).numpy()
    compared = np.zeros((2 * n_pairs, 3))
    for some in _parts(better[is_like[better]]):
        a = torch.from_numpy(images[moving[some]]).float()
        b = torch.from_numpy(images[fixed[some]]).float()
        # Where one image ends, the other may go on: that end is no detail of the
        # picture. So the frame is that of either, and the better one counts.
        in_b = _compared_overlap(a, b, maps[some])
        in_a = _compared_overlap(b, a, _inverse(maps[some]))
        compared[some] = torch.where(in_a[:, :1] > in_b[:, :1], in_a, in_b)
    named = pd.DataFrame(
        compared[better], columns=["correlation", "grey", "difference"]
    )
    return named.assign(is_mirrored=is_mirrored)


def _parts(rows: Ints) -> Iterator[Ints]:
    """Yield some rows after others."""
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        yield rows[start : start + PAIRS_AT_ONCE]


def _standardised(squares: Tensor) -> Tensor:
    """Return squares (…, s, s) of mean 0 and sum of squares 1; flat ones are 0."""
    centred = squares - squares.mean(dim=(-2, -1), keepdim=True)
    norm = (centred**2).sum(dim=(-2, -1), keepdim=True).sqrt()
    return centred / norm.clamp(min=1e-3)


def _best_places(
    images: NDArray[np.uint8], moving: Ints, fixed: Ints
) -> tuple[Features, Bools, Tensor]:
    """Seek each pair's best cross-correlation over warps, shifts, and which one moves.

    Pairs are rows of the images (n, 64, 64), (p,). Returned are the correlation,
    whether the fixed image is the one to move, (p,) both, and the maps, (p, 2, 3).
    """
    detail = fine_detail(halved(halved(images)), noise=4.0)
    as_given, place_as_given = _best_correlations(detail, moving, fixed)
    swapped, place_swapped = _best_correlations(detail, fixed, moving)
    is_swapped = swapped > as_given
    maps = _maps_of_places(np.where(is_swapped, place_swapped, place_as_given))
    return np.maximum(as_given, swapped), is_swapped, maps


def _best_correlations(
    detail: Features, moving: Ints, fixed: Ints
) -> tuple[Features, Ints]:
    """Return each pair's best cross-correlation over warps and shifts, and its place.

    Pairs are rows of the details (n, 16, 16), (p,). A place is one number for a warp of
    the `GRID` and a shift by whole pixels, for `_maps_of_places`.
    """
    goals = _standardised(torch.from_numpy(detail))
    best = np.zeros(len(moving), np.float32)
    place = np.zeros(len(moving), np.int64)
    # In this order an image's views are made once for many of its pairs.
    for pairs in _parts(np.argsort(moving, kind="stable")):
        rows, row_of_pair = np.unique(moving[pairs], return_inverse=True)
        views = torch.fft.rfft2(_standardised(warped(detail[rows], GRID)))
        views_of_pair = views.transpose(0, 1)[row_of_pair]  # (pairs, warps, …)
        goal = torch.fft.rfft2(goals[fixed[pairs], None])
        # By shift, since the product of transforms is that of a correlation.
        correlations = torch.fft.irfft2(views_of_pair * goal.conj())
        peak = correlations.flatten(1).max(dim=1)
        best[pairs] = peak.values
        place[pairs] = peak.indices
    return best, place


def _maps_of_places(place: Ints) -> Tensor:
    """Return the maps, (p, 2, 3), of what `_best_correlations` found, (p,)."""
    shape = (len(GRID), COARSE_SIDE, COARSE_SIDE)
    warp, down, right = np.unravel_index(place, shape)
    half = COARSE_SIDE // 2
    pixels = np.stack([right, down], axis=1)
    pixels = (pixels + half) % COARSE_SIDE - half  # from half a side back to half on
    shift = torch.from_numpy(pixels / half).float()
    maps = GRID[warp]
    maps[:, :, 2:] = maps[:, :, :2] @ shift[:, :, None]
    return maps


def _soft_detail(images: NDArray[Any]) -> Tensor:
    """Return the detail of images (n, s, s), softened as it is between pixels."""
    detail = fine_detail(images.astype(np.float32), sigma=2.0)
    return torch.from_numpy(gaussian_filter(detail, (0, 0.6, 0.6)))


def _pixels(side: int) -> Tensor:
    """Return x, y and 1 of each pixel of a square, (3, s²)."""
    along = (2 * torch.arange(side) + 1) / side - 1
    return torch.stack(
        [along.repeat(side), along.repeat_interleave(side), torch.ones(side**2)]
    )


def _sampled(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of images (p, s, s) as their maps show them, (p, s²).

    Beside them stands how far from the centre each lies: 1 is the image's edge.
    """
    n, side, _ = images.shape
    places = maps @ _pixels(side)  # of affine_grid, in a tenth of its time
    values = F.grid_sample(
        images[:, None], places.mT.reshape(n, side, side, 2), align_corners=False
    )
    return values.flatten(1), places.abs().amax(dim=1)


def _fitted(moving: Tensor, fixed: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the affine maps that carry the fixed images' detail to the moving ones'.

    Detail is (p, s, s), maps are (p, 2, 3). Returned with them is how alike it is,
    (p,). The steps are inverse compositional: the derivatives are those of the fixed
    image, so that they are taken once.
    """
    n, side, _ = fixed.shape
    slope_down, slope_right = torch.gradient(fixed, dim=(1, 2))
    down = slope_down.flatten(1) * side / 2
    right = slope_right.flatten(1) * side / 2
    x, y, _ = _pixels(side)
    columns = [right * x, right * y, right, down * x, down * y, down]
    slopes = torch.stack(columns, dim=1)  # (p, 6, s²)
    # Of so small matrices the inverse takes an eighth of the time of `solve`.
    descent = torch.linalg.inv(slopes @ slopes.mT + 1e-3 * torch.eye(6)) @ slopes
    goal = fixed.flatten(1)
    for _ in range(STEPS):
        values, distance = _sampled(moving, maps)
        error = (values - goal) * (distance <= 1 - 1 / side)
        change = (descent * error[:, None]).sum(dim=2)
        backwards = torch.eye(3).repeat(n, 1, 1)
        backwards[:, :2] -= change.reshape(n, 2, 3)
        maps = maps @ backwards
    values, distance = _sampled(moving, maps)
    return maps, _correlation(values, goal, distance <= 1 - 1 / side)


def _correlation(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Return Pearson's correlation of rows under a mask, (p, d) all; of flat ones 0."""
    a = _centred(a, mask)
    b = _centred(b, mask)
    spread = ((a**2).sum(dim=1) * (b**2).sum(dim=1)).sqrt()
    return (a * b).sum(dim=1) / spread.clamp(min=1e-6)


def _centred(rows: Tensor, mask: Tensor) -> Tensor:
    """Return rows (p, d) less their mean under a mask, and 0 where it does not lie."""
    n_used = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (rows * mask).sum(dim=1, keepdim=True) / n_used
    return (rows - mean) * mask


def _inverse(maps: Tensor) -> Tensor:
    """Return the maps (p, 2, 3) that lead back."""
    whole = torch.eye(3).repeat(len(maps), 1, 1)
    whole[:, :2] = maps
    back: Tensor = torch.linalg.inv(whole)
    return back[:, :2]


def _compared_overlap(moving: Tensor, fixed: Tensor, maps: Tensor) -> Tensor:
    """Return correlations of detail and grey levels, and the difference, (p, 3).

    Images are (p, 64, 64), the maps lay the one on the other, and what overlaps is
    compared. Zeros where it is less than `MIN_SHARED` of the fixed image, or where
    the images do not agree block by block.
    """
    values, distance = _sampled(moving, maps)
    side = fixed.shape[-1]
    to_centre = _pixels(side)[:2].abs().amax(dim=0)
    is_shared = torch.maximum(distance, to_centre) < 1 - 2 * RIM / side
    is_inside = distance <= 1 - 1 / side
    grey_a = _evened(values, is_inside, is_shared)
    grey_b = _evened(fixed.flatten(1), is_inside, is_shared)
    detail_a = _detail_of_rows(grey_a)
    detail_b = _detail_of_rows(grey_b)
    share = is_shared.float().mean(dim=1)
    is_same = (share >= MIN_SHARED) & _agree_by_block(detail_a, detail_b, is_shared)
    difference = torch.zeros_like(share)
    for pair in np.flatnonzero(is_same):
        a, b, shared = (
            rows[pair].reshape(side, side).numpy()
            for rows in (grey_a, grey_b, is_shared)
        )
        difference[pair] = largest_difference(a, b, shared)
    of_detail = _correlation(detail_a, detail_b, is_shared)
    of_grey = _correlation(grey_a, grey_b, is_shared)
    return torch.stack([of_detail, of_grey, difference], dim=1) * is_same[:, None]


def _detail_of_rows(rows: Tensor) -> Tensor:
    """Return the detail of squares that are given as rows, (p, s²) both."""
    side = int(rows.shape[1] ** 0.5)
    squares = rows.reshape(len(rows), side, side)
    return torch.from_numpy(fine_detail(squares.numpy())).flatten(1)


def _evened(rows: Tensor, is_inside: Tensor, is_shared: Tensor) -> Tensor:
    """Return rows (p, d), of which all outside is the mean of what is shared."""
    n_shared = is_shared.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (rows * is_shared).sum(dim=1, keepdim=True) / n_shared
    return torch.where(is_inside, rows, mean)


def _agree_by_block(detail_a: Tensor, detail_b: Tensor, mask: Tensor) -> Tensor:
    """Return whether details agree in nearly each block that holds detail, (p,).

    Blocks of which the mask covers less than half are left out.
    """
    weight = _block_means(mask.float()).clamp(min=1e-6)
    mean_a = _block_means(detail_a * mask) / weight
    mean_b = _block_means(detail_b * mask) / weight
    variance_a = _block_means(detail_a**2 * mask) / weight - mean_a**2
    variance_b = _block_means(detail_b**2 * mask) / weight - mean_b**2
    covariance = _block_means(detail_a * detail_b * mask) / weight - mean_a * mean_b
    correlation = covariance / (variance_a * variance_b).clamp(min=1e-12).sqrt()
    holds_detail = torch.maximum(variance_a, variance_b) > MIN_CONTRAST**2
    is_used = holds_detail & (weight >= 0.5)
    correlation[~is_used] = torch.nan
    decile = torch.nanquantile(correlation, 0.1, dim=1)
    return (is_used.sum(dim=1) >= MIN_BLOCKS) & (decile >= MIN_DECILE)


def _block_means(rows: Tensor) -> Tensor:
    """Return the mean of each block of squares, from (p, s²) to (p, 64)."""
    side = int(rows.shape[1] ** 0.5)
    squares = rows.reshape(len(rows), side, side)
    return F.avg_pool2d(squares, side // BLOCKS).flatten(1)
