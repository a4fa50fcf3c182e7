"""Copies that are cropped, shifted, or turned a little: found by registering images.

Of two images the one may show a part of the other, on 80 to 100 % of its sides, turned
by up to 8 degrees, and mirrored. First the cross-correlation of their small detail is
sought over a grid of scales and angles (by Fourier transforms, which try all shifts at
once). Then an affine map is fitted by Gauss-Newton steps (Baker & Matthews, IJCV 2004,
inverse compositional), at 32 and at 64 pixels. Last, detail must agree all over the
picture, block by block: outlines of like objects agree in places only.

Maps are (2, 3) and lead from a place in the fixed image to that in the moving one, as
in `torch.nn.functional.affine_grid`: from -1 to 1 along each side.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter
from torch import Tensor

from cliplib.data.arrays import Bools, Features, Floats, Ints
from cliplib.features.hashes import BLOCKS, MIN_CONTRAST, fine_detail

SCALES = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.11, 1.18, 1.25)
ANGLES = (-8, -4, 0, 4, 8)  # degrees

COARSE_SIDE = 32
MIN_COARSE = 0.4  # of the best cross-correlation on the grid
MIN_FITTED = 0.45  # of detail, once the map is fitted
STEPS = 8  # of fitting a map
PAIRS_AT_ONCE = 64
MIN_SHARED = 0.5  # of the area of both images, less a rim
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


def register(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> pd.DataFrame:
    """Register pairs of grey images (n, 64, 64), by rows (p,), and say how they match.

    Returned is a row for each pair: is_mirrored, and the correlation of detail and that
    of grey levels, `grey`, where the images overlap; both are 0 where they do not show
    the same.
    """
    is_mirrored = np.zeros(len(rows_a), bool)
    found = np.zeros((len(rows_a), 2))
    for start in range(0, len(rows_a), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        a, b = (grey[rows[part]].astype(np.float32) for rows in (rows_a, rows_b))
        correlation, is_mirrored[part], maps = _best_places(a, b)
        b = np.where(is_mirrored[part, None, None], b[..., ::-1], b)
        promising = np.flatnonzero(correlation >= MIN_COARSE)
        a, b, maps = a[promising], b[promising], maps[promising]
        # Where one image ends, the other may go on: that end is no detail of the
        # picture. So the frame is that of either, and the better one counts.
        in_b = _agreements(a, b, maps)
        in_a = _agreements(b, a, _inverse(maps))
        is_better = in_a[:, :1] > in_b[:, :1]
        found[start + promising] = np.where(is_better, in_a, in_b)
    return pd.DataFrame(found, columns=["correlation", "grey"]).assign(
        is_mirrored=is_mirrored
    )


def _standardised(squares: Tensor) -> Tensor:
    """Return squares (…, s, s) of mean 0 and sum of squares 1; flat ones are 0."""
    centred = squares - squares.mean(dim=(-2, -1), keepdim=True)
    norm = (centred**2).sum(dim=(-2, -1), keepdim=True).sqrt()
    return centred / norm.clamp(min=1e-3)


def _best_places(moving: Features, fixed: Features) -> tuple[Features, Bools, Tensor]:
    """Seek each pair's best cross-correlation over warps, shifts and mirroring.

    Images are (p, 64, 64). Returned are the correlation, whether the fixed image is to
    be mirrored, (p,) both, and the maps, (p, 2, 3).
    """
    details = [fine_detail(halved(images), noise=8.0) for images in (moving, fixed)]
    spectra = torch.fft.rfft2(_standardised(warped(details[0], GRID)))
    goals = _standardised(torch.from_numpy(details[1]))
    by_side = [
        torch.fft.irfft2(spectra * torch.fft.rfft2(goal).conj())
        for goal in (goals, goals.flip(-1))
    ]
    correlation = torch.stack(by_side).permute(2, 0, 1, 3, 4)  # pairs first
    best, place = correlation.flatten(1).max(dim=1)
    side, warp, *shift = torch.unravel_index(place, correlation.shape[1:])
    down, right = (
        (s + COARSE_SIDE // 2) % COARSE_SIDE - COARSE_SIDE // 2 for s in shift
    )
    maps = GRID[warp]
    shifts = torch.stack([right, down], dim=1) * 2 / COARSE_SIDE
    maps[:, :, 2:] = maps[:, :, :2] @ shifts[:, :, None]
    return best.numpy(), side.numpy() == 1, maps


def _fitted(moving: Features, fixed: Features, maps: Tensor) -> tuple[Tensor, Features]:
    """Return the affine maps that carry fixed images' detail to the moving ones best.

    Images are (p, s, s), maps (p, 2, 3). Returned with them are the correlations, (p,),
    of detail. The steps are inverse compositional: the derivatives are those of the
    fixed image, so that they are taken once.
    """
    n, side, _ = fixed.shape
    image, goal = (
        torch.from_numpy(gaussian_filter(fine_detail(of, sigma=2.0), (0, 0.6, 0.6)))
        for of in (moving, fixed)
    )
    down, right = (slope * side / 2 for slope in torch.gradient(goal, dim=(1, 2)))
    x = (2 * torch.arange(side) + 1) / side - 1
    y = x[:, None]
    columns = [right * x, right * y, right, down * x, down * y, down]
    slopes = torch.stack(columns, dim=1).flatten(2)  # (p, 6, s²)
    for _ in range(STEPS):
        values, is_inside = _sampled(image, maps)
        here, spread_here = _centred(goal, is_inside)
        there, spread_there = _centred(values, is_inside)
        error = there * (spread_here / spread_there)[:, None] - here
        shared = slopes * is_inside.flatten(1)[:, None]
        normal = shared @ slopes.mT + 1e-3 * torch.eye(6)
        change = torch.linalg.solve(normal, shared @ error[:, :, None])
        steps = torch.eye(3).repeat(n, 1, 1)
        steps[:, :2] += change.reshape(n, 2, 3)
        maps = maps @ torch.linalg.inv(steps)
    values, is_inside = _sampled(torch.from_numpy(fine_detail(moving)), maps)
    there, spread_there = _centred(values, is_inside)
    here, spread_here = _centred(torch.from_numpy(fine_detail(fixed)), is_inside)
    alike = (there * here).mean(dim=1) / (spread_there * spread_here)
    return maps, alike.numpy()


def _centred(squares: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return squares (p, s, s) as rows less their means under a mask, and their spread.

    All that is masked is 0, and counts in the spread, (p,).
    """
    values, weight = squares.flatten(1), mask.flatten(1)
    n_used = weight.sum(dim=1, keepdim=True).clamp(min=1)
    centred = (values - (values * weight).sum(dim=1, keepdim=True) / n_used) * weight
    return centred, (centred**2).mean(dim=1).sqrt().clamp(min=1e-3)


def _sampled(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (p, s, s) as their maps show them, and whether each pixel is in."""
    n, side, _ = images.shape
    places = F.affine_grid(maps, [n, 1, side, side], align_corners=False)
    values = F.grid_sample(images[:, None], places, align_corners=False)[:, 0]
    return values, (places.abs() <= 1 - 1 / side).all(dim=-1)


def _inverse(maps: Tensor) -> Tensor:
    """Return the maps (p, 2, 3) that lead back."""
    whole = torch.eye(3).repeat(len(maps), 1, 1)
    whole[:, :2] = maps
    back: Tensor = torch.linalg.inv(whole)
    return back[:, :2]


def _agreements(moving: Features, fixed: Features, maps: Tensor) -> Floats:
    """Fit the maps between images (p, 64, 64), and compare the images by blocks.

    Returned are the correlations of detail and of grey levels where both overlap,
    (p, 2), zeros where they do not show the same.
    """
    found = np.zeros((len(moving), 2))
    kept = np.arange(len(moving))
    for sized in (halved, np.asarray):
        if not len(kept):
            break
        small = sized(moving[kept]), sized(fixed[kept])
        maps[kept], alike = _fitted(*small, maps[kept])
        kept = kept[alike >= MIN_FITTED]
    for row in kept:
        if ((maps[row, :, :2] - torch.eye(2)).abs() <= MAX_CHANGE).all():
            found[row] = _compared(moving[row], fixed[row], maps[row])
    return found


def _compared(moving: Features, fixed: Features, affine: Tensor) -> tuple[float, float]:
    """Return the correlations of detail and of grey levels where two images overlap.

    `affine` lays the one on the other. Zeros where they share less than `MIN_SHARED` of
    the fixed image, or do not agree block by block.
    """
    values, inside = _sampled(torch.from_numpy(moving)[None], affine[None])
    image, is_inside = values[0].numpy(), inside[0].numpy()
    # Two pixels from the edge of the overlap, local means know what lies beyond it.
    is_shared = binary_erosion(is_inside, iterations=2)
    if is_shared.mean() < MIN_SHARED:
        return 0.0, 0.0
    image = np.where(is_inside, image, image[is_shared].mean())
    fixed = np.where(is_inside, fixed, fixed[is_shared].mean())
    detail_a, detail_b = fine_detail(image), fine_detail(fixed)
    by_block = _block_correlations(detail_a, detail_b, is_shared)
    if len(by_block) < MIN_BLOCKS or np.quantile(by_block, 0.1) < MIN_DECILE:
        return 0.0, 0.0
    detail = np.corrcoef(detail_a[is_shared], detail_b[is_shared])[0, 1]
    grey = np.corrcoef(image[is_shared], fixed[is_shared])[0, 1]
    return float(np.nan_to_num(detail)), float(np.nan_to_num(grey))


def _block_correlations(detail_a: Features, detail_b: Features, mask: Bools) -> Floats:
    """Return the correlation in each block that holds detail in either, (b,).

    Blocks of which the mask covers less than half are left out.
    """
    weight = np.maximum(_block_means(mask), 1e-6)
    mean_a = _block_means(detail_a * mask) / weight
    mean_b = _block_means(detail_b * mask) / weight
    variance_a = _block_means(detail_a**2 * mask) / weight - mean_a**2
    variance_b = _block_means(detail_b**2 * mask) / weight - mean_b**2
    covariance = _block_means(detail_a * detail_b * mask) / weight - mean_a * mean_b
    holds_detail = np.maximum(variance_a, variance_b) > MIN_CONTRAST**2
    spreads = np.sqrt(np.maximum(variance_a * variance_b, 1e-12))
    return np.asarray((covariance / spreads)[holds_detail & (weight >= 0.5)])


def _block_means(square: NDArray[Any]) -> Floats:
    """Return the mean of each block of a square (s, s), (8, 8)."""
    part = len(square) // BLOCKS
    cut = square.reshape(BLOCKS, part, BLOCKS, part)
    return np.asarray(cut.mean(axis=(1, 3), dtype=np.float64))
