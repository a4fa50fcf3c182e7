"""Copies that are cropped, shifted, or turned a little: found by registering images.

Of two images the one may show a part of the other, on 80 to 100 % of its sides, turned
by up to 8 degrees, and mirrored. First the cross-correlation of their small detail is
sought over a grid of scales and angles (by Fourier transforms, which try all shifts at
once), at 16 pixels. Then an affine map is fitted by Gauss-Newton steps (Baker &
Matthews, IJCV 2004, inverse compositional), at 32 and at 64 pixels. Last, detail must
agree all over the picture, block by block: outlines of like objects agree in places
only.

Maps lead from a place in the fixed image to that in the moving one, as in
`torch.nn.functional.affine_grid`: from -1 to 1 along each side.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cliplib.data.arrays import Features, Ints, row_batches
from cliplib.data.threads import one_thread
from cliplib.features.hashes import (
    BLOCK_SIDE,
    MIN_CONTRAST,
    fine_detail,
    largest_difference,
)

# What is tried: shares of the sides, and turns in degrees.
SCALES = (1.0, 0.95, 0.9, 0.85, 0.8)
ANGLES = (-8, -4, 0, 4, 8)

COARSE_SIDE = 16
# What a shift by so many pixels is in a map.
OFFSETS = 2 * torch.fft.fftfreq(COARSE_SIDE)
# Correlation of detail on the grid, at best, and once the map is fitted.
MIN_COARSE = 0.45
MIN_FITTED = 0.5
# Steps in which a map is fitted.
STEPS = 8
# Pairs whose arrays a core's cache holds.
PAIRS_AT_ONCE = 64
# Share of the area of both images, less a rim.
MIN_SHARED = 0.5
# Pixels from the edge of the overlap: local means know what lies beyond it.
OVERLAP_RIM = 2
# Of a map's entries from those of the map that changes nothing: a scale, and a turn.
# Without it ten pairs more of brain MRI's slices would count.
MAX_CHANGE = torch.tensor([[0.3, 0.2], [0.2, 0.3]])

# Blocks that hold detail.
MIN_BLOCKS = 10
# Of the blocks' correlations, the lowest tenth: at most 0.65 for neighbouring slices of
# one head, at least 0.76 for copies.
MIN_DECILE = 0.7


def halved(squares: NDArray[Any]) -> Features:
    """Return squares (n, s, s) of half the side, (n, s / 2, s / 2)."""
    n, side, _ = squares.shape
    parts = squares.reshape(n, side // 2, 2, side // 2, 2)
    return np.asarray(parts.mean(axis=(2, 4), dtype=np.float32))


def similarity_maps(warps: list[tuple[float, float]]) -> Tensor:
    """Return the maps, (w, 2, 3), that zoom and turn, each by a scale and an angle."""
    scale = torch.tensor([scale for scale, _ in warps])
    angle = torch.tensor([angle for _, angle in warps])
    cos = scale * torch.cos(torch.deg2rad(angle))
    sin = scale * torch.sin(torch.deg2rad(angle))
    none = torch.zeros(len(warps))
    rows = [torch.stack([cos, -sin, none]), torch.stack([sin, cos, none])]
    return torch.stack(rows).permute(2, 0, 1)


GRID = similarity_maps(list(product(SCALES, ANGLES)))


def warped(squares: Features, maps: Tensor) -> Tensor:
    """Return squares (n, s, s) as each of the maps shows them, (w, n, s, s)."""
    side = squares.shape[-1]
    places = F.affine_grid(maps, [len(maps), 1, side, side], align_corners=False)
    images = torch.from_numpy(squares).expand(len(maps), -1, -1, -1)
    return F.grid_sample(images, places, align_corners=False)


class Alignment(NamedTuple):
    """Pairs of images, (p,), of which one is moved over the other, which is fixed."""

    moving: Ints  # rows of images
    fixed: Ints
    maps: Tensor  # (p, 3, 3), of which the last row is 0, 0, 1
    correlation: Features  # of detail, where they lie

    def select(self, pairs: Ints) -> Alignment:
        """Return some of the pairs, by number."""
        return Alignment(
            self.moving[pairs],
            self.fixed[pairs],
            self.maps[pairs],
            self.correlation[pairs],
        )

    def best_of_two(self) -> Alignment:
        """Return of each pair the placement with the higher correlation.

        Each pair is there twice: once in the first half, and in the same order once
        in the second.
        """
        first, second = self.correlation.reshape(2, -1)
        n_pairs = len(first)
        return self.select(np.arange(n_pairs) + n_pairs * (second > first))


@one_thread()  # on so small images, two would wait for each other most of the time
def register(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> pd.DataFrame:
    """Register pairs of grey images (n, 64, 64), by rows (p,), and say how they match.

    Returned is a row for each pair: is_mirrored, and where the images overlap the
    correlation of detail, that of grey levels, `grey`, and the `difference`, the
    `largest_difference`. All three are 0 where they do not show the same.
    """
    rows, place = np.unique([rows_a, rows_b], return_inverse=True)
    a, b = place.reshape(2, -1)
    images = np.concatenate([grey[rows], grey[rows][..., ::-1]])  # mirrored ones last
    firsts = np.tile(a, 2)
    seconds = np.append(b, b + len(rows))  # as they are, then mirrored
    # Either image may be the larger part, and so the one that moves.
    alignment = _shifted(images, np.append(firsts, seconds), np.append(seconds, firsts))
    alignment = _fitted(halved(images), alignment.best_of_two(), MIN_COARSE)
    alignment = _fitted(images, alignment.best_of_two(), MIN_FITTED)
    is_mirrored = np.maximum(alignment.moving, alignment.fixed) >= len(rows)
    return _compared(images, alignment).assign(is_mirrored=is_mirrored)


def _shifted(images: NDArray[np.uint8], moving: Ints, fixed: Ints) -> Alignment:
    """Place pairs, rows of images (n, 64, 64), by warp and shift of whole pixels.

    Those with the highest cross-correlation are sought, at 16 pixels a side.
    """
    detail = fine_detail(halved(halved(images)), noise=4.0)
    goals = _standardised(torch.from_numpy(detail))
    correlation = np.zeros(len(moving), np.float32)
    maps = torch.eye(3).repeat(len(moving), 1, 1)
    # In this order an image's views are made once for many of its pairs.
    by_moving = np.argsort(moving, kind="stable")
    for batch in row_batches(len(by_moving), PAIRS_AT_ONCE):
        pairs = by_moving[batch]
        rows, row_of_pair = np.unique(moving[pairs], return_inverse=True)
        views = torch.fft.rfft2(_standardised(warped(detail[rows], GRID)))
        views_of_pair = views.transpose(0, 1)[row_of_pair]  # (pairs, warps, …)
        goal = torch.fft.rfft2(goals[fixed[pairs], None])
        # By shift, since the product of transforms is that of a correlation.
        correlations = torch.fft.irfft2(views_of_pair * goal.conj())
        maps[pairs, :2], correlation[pairs] = _best_place(correlations)
    return Alignment(moving, fixed, maps, correlation)


def _best_place(correlations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map with the highest correlation of p pairs, (p, 2, 3), and that one.

    Correlations are (p, warps, down, right): by warp, and by shift of whole pixels.
    """
    peak = correlations.flatten(1).max(dim=1)
    shape = tuple(correlations.shape[1:])
    warp, down, right = np.unravel_index(peak.indices.numpy(), shape)
    turned = GRID[warp][:, :, :2]
    shift = torch.stack([OFFSETS[right], OFFSETS[down]], dim=1)
    maps = torch.cat([turned, turned @ shift[:, :, None]], dim=2)
    return maps, peak.values


def _standardised(squares: Tensor) -> Tensor:
    """Return squares (…, s, s) of mean 0 and sum of squares 1; flat ones are 0."""
    centred = squares - squares.mean(dim=(-2, -1), keepdim=True)
    norm = (centred**2).sum(dim=(-2, -1), keepdim=True).sqrt()
    return centred / norm.clamp(min=1e-3)


def _fitted(images: NDArray[Any], alignment: Alignment, least: float) -> Alignment:
    """Fit the maps of those pairs of images (n, s, s) that are alike by now."""
    maps = alignment.maps.clone()
    correlation = np.zeros(len(maps), np.float32)
    likely = np.flatnonzero(alignment.correlation >= least)
    for batch in row_batches(len(likely), PAIRS_AT_ONCE):
        some = likely[batch]
        moving = _soft_detail(images[alignment.moving[some]])
        fixed = _soft_detail(images[alignment.fixed[some]])
        maps[some] = _gauss_newton(moving, fixed, maps[some])
        values, to_edge = _sampled(moving, maps[some])
        correlation[some] = _correlation(values, fixed, to_edge >= 0.5)
    return alignment._replace(maps=maps, correlation=correlation)


def _soft_detail(images: NDArray[Any]) -> Tensor:
    """Return the detail of images (n, s, s), softened as it is between pixels."""
    detail = fine_detail(images.astype(np.float32), sigma=2.0)
    return torch.from_numpy(gaussian_filter(detail, (0, 0.6, 0.6)))


def _gauss_newton(moving: Tensor, fixed: Tensor, maps: Tensor) -> Tensor:
    """Return the affine maps that carry the fixed images' detail to the moving ones'.

    Detail is (p, s, s), maps are (p, 3, 3). The steps are inverse compositional: the
    derivatives are those of the fixed image, so that they are taken once.
    """
    side = fixed.shape[-1]
    slope_down, slope_right = torch.gradient(fixed, dim=(1, 2))
    down = slope_down.flatten(1) * side / 2
    right = slope_right.flatten(1) * side / 2
    pixels = _pixels(side)
    x = pixels[0]
    y = pixels[1]
    columns = [right * x, right * y, right, down * x, down * y, down]
    slopes = torch.stack(columns, dim=1)  # (p, 6, s²)
    # Of so small matrices the inverse takes an eighth of the time of `solve`.
    descent = torch.linalg.inv(slopes @ slopes.mT + 1e-3 * torch.eye(6)) @ slopes
    for _ in range(STEPS):
        values, to_edge = _sampled(moving, maps)
        error = ((values - fixed) * (to_edge >= 0.5)).flatten(1)
        change = (descent * error[:, None]).sum(dim=2).reshape(-1, 2, 3)
        maps = maps @ (torch.eye(3) - F.pad(change, (0, 0, 0, 1)))
    return maps


def _pixels(side: int) -> Tensor:
    """Return x, y and 1 of each pixel of a square, (3, s²)."""
    along = (2 * torch.arange(side) + 1) / side - 1
    return torch.stack(
        [along.repeat(side), along.repeat_interleave(side), torch.ones(side**2)]
    )


def _sampled(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of images (p, s, s) as their maps show them, (p, s, s).

    Beside them stands how many pixels each lies from the image's edge, below 0 outside.
    """
    side = images.shape[-1]
    # Those of affine_grid, in a tenth of its time; the edge is at -1 and 1.
    places = (maps[:, :2] @ _pixels(side)).reshape(-1, 2, side, side)
    values = F.grid_sample(
        images[:, None], places.permute(0, 2, 3, 1), align_corners=False
    )
    to_edge = (1 - places.abs().amax(dim=1)) * side / 2
    return values[:, 0], to_edge


def _mean(squares: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of squares (p, s, s) under a mask, (p, 1, 1)."""
    n_used = mask.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return (squares * mask).sum(dim=(1, 2), keepdim=True) / n_used


def _correlation(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Return Pearson's correlation of squares under a mask, (p,); of flat ones 0."""
    a = (a - _mean(a, mask)) * mask
    b = (b - _mean(b, mask)) * mask
    spread = ((a**2).sum(dim=(1, 2)) * (b**2).sum(dim=(1, 2))).sqrt()
    return (a * b).sum(dim=(1, 2)) / spread.clamp(min=1e-6)


def _compared(images: NDArray[np.uint8], alignment: Alignment) -> pd.DataFrame:
    """Compare pairs where they overlap: see `register`."""
    change = (alignment.maps[:, :2, :2] - torch.eye(2)).abs()
    is_small = (change <= MAX_CHANGE).all(dim=(1, 2)).numpy()
    compared = np.zeros((len(change), 3))
    likely = np.flatnonzero(is_small & (alignment.correlation >= MIN_FITTED))
    for batch in row_batches(len(likely), PAIRS_AT_ONCE):
        some = likely[batch]
        pairs = alignment.select(some)
        a = torch.from_numpy(images[pairs.moving]).float()
        b = torch.from_numpy(images[pairs.fixed]).float()
        # Where one image ends, the other may go on: that end is no detail of the
        # picture. So the frame is that of either, and the better one counts.
        in_b = _compared_overlap(a, b, pairs.maps)
        in_a = _compared_overlap(b, a, torch.linalg.inv(pairs.maps))
        compared[some] = torch.where(in_a[:, :1] > in_b[:, :1], in_a, in_b)
    return pd.DataFrame(compared, columns=["correlation", "grey", "difference"])


def _compared_overlap(moving: Tensor, fixed: Tensor, maps: Tensor) -> Tensor:
    """Return correlations of detail and grey levels, and the difference, (p, 3).

    Images are (p, 64, 64), the maps lay the one on the other, and what overlaps is
    compared. Zeros where it is less than `MIN_SHARED` of the fixed image, or where
    the images do not agree block by block.
    """
    values, to_edge = _sampled(moving, maps)
    is_inside = to_edge >= 0.5
    is_shared = torch.zeros_like(is_inside)
    inner = slice(OVERLAP_RIM, -OVERLAP_RIM)
    is_shared[:, inner, inner] = to_edge[:, inner, inner] > OVERLAP_RIM
    # What is outside has the mean of what is shared: it is no detail.
    a = torch.where(is_inside, values, _mean(values, is_shared))
    b = torch.where(is_inside, fixed, _mean(fixed, is_shared))
    detail_a = torch.from_numpy(fine_detail(a.numpy()))
    detail_b = torch.from_numpy(fine_detail(b.numpy()))
    share = is_shared.float().mean(dim=(1, 2))
    is_same = (share >= MIN_SHARED) & _agree_by_block(detail_a, detail_b, is_shared)
    difference = torch.zeros_like(share)
    for pair in np.flatnonzero(is_same):
        difference[pair] = largest_difference(
            a[pair].numpy(), b[pair].numpy(), is_shared[pair].numpy()
        )
    of_detail = _correlation(detail_a, detail_b, is_shared)
    of_grey = _correlation(a, b, is_shared)
    return torch.stack([of_detail, of_grey, difference], dim=1) * is_same[:, None]


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


def _block_means(squares: Tensor) -> Tensor:
    """Return the mean of each block of squares (p, s, s), (p, 64)."""
    return F.avg_pool2d(squares, BLOCK_SIDE).flatten(1)
