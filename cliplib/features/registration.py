"""Registration: whether one image, moved over another, shows a part of the same.

It finds copies that are cropped to 80 to 100 % of the sides, shifted, turned by up to 8
degrees, and mirrored. First, at 16 × 16 pixels, the position with the highest
cross-correlation of fine detail is sought over a grid of scales and angles; Fourier
transforms try all shifts at once. Then an affine map is fitted by Gauss-Newton steps
(Baker & Matthews, IJCV 2004, inverse compositional), at 32 and at 64 pixels. Last,
detail must agree all over the picture, block by block, since outlines of similar
objects agree in places only.

The image that moves is called moving, the other one fixed. A map leads from a point of
the fixed image to that of the moving one. Coordinates run from -1 to 1 along each side,
as in `torch.nn.functional.affine_grid`.
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

# The scales (shares of the sides) and angles (degrees) that are tried.
SCALES = (1.0, 0.95, 0.9, 0.85, 0.8)
ANGLES = (-8, -4, 0, 4, 8)

COARSE_SIDE = 16
# Shift in a map's coordinates for each index of a circular cross-correlation of squares
# of 16 × 16 pixels: 0, 1/8, … 7/8, -1, … -1/8.
SHIFTS = 2 * torch.fft.fftfreq(COARSE_SIDE)
# Smallest correlation of detail at which a map is fitted at 32 pixels, and at which it
# is fitted at 64 pixels and then compared.
MIN_COARSE = 0.45
MIN_FITTED = 0.5
# Number of Gauss-Newton steps.
STEPS = 8
# Number of pairs whose arrays fit into a core's cache.
PAIRS_AT_ONCE = 64
# Smallest share of the images' area that must overlap, without a rim.
MIN_SHARED = 0.5
# Pixels along the edge of the overlap that do not count, since their local means depend
# on what lies beyond it.
OVERLAP_RIM = 2
# Largest change of a map's scales (diagonal) and turns or shears from the identity.
# Without this limit, ten more pairs of slices in the brain MRI set would count.
MAX_CHANGE = torch.tensor([[0.3, 0.2], [0.2, 0.3]])

# Smallest number of blocks with detail in the overlap.
MIN_BLOCKS = 10
# Smallest value of the lowest decile of the blocks' correlations. The decile is at most
# 0.65 for neighbouring slices of one head, and at least 0.76 for copies.
MIN_DECILE = 0.7


def halved(squares: NDArray[Any]) -> Features:
    """Return squares (n, s, s) shrunk to half the side, (n, s / 2, s / 2)."""
    n, side, _ = squares.shape
    cells = squares.reshape(n, side // 2, 2, side // 2, 2)
    return np.asarray(cells.mean(axis=(2, 4), dtype=np.float32))


def similarity_maps(warps: list[tuple[float, float]]) -> Tensor:
    """Return the map of each of w warps, a scale and an angle in degrees: (w, 2, 3)."""
    scale, angle = torch.tensor(warps).T
    cos = scale * torch.cos(torch.deg2rad(angle))
    sin = scale * torch.sin(torch.deg2rad(angle))
    no_shift = torch.zeros(len(warps))
    rows = [torch.stack([cos, -sin, no_shift]), torch.stack([sin, cos, no_shift])]
    return torch.stack(rows).permute(2, 0, 1)


GRID = similarity_maps(list(product(SCALES, ANGLES)))


def warped(squares: Features, maps: Tensor) -> Tensor:
    """Return squares (n, s, s) as seen through each of w maps, (w, n, s, s)."""
    side = squares.shape[-1]
    points = F.affine_grid(maps, [len(maps), 1, side, side], align_corners=False)
    images = torch.from_numpy(squares).expand(len(maps), -1, -1, -1)
    return F.grid_sample(images, points, align_corners=False)


class Alignment(NamedTuple):
    """The maps that lay p moving images over p fixed images, and how well they fit."""

    moving: Ints  # rows of images, (p,)
    fixed: Ints
    maps: Tensor  # (p, 3, 3), of which the last row is 0, 0, 1
    correlation: Features  # of the detail where the images overlap, (p,)

    def best_of_two(self) -> Alignment:
        """Return the better of two alignments of each pair.

        The first half of the entries holds one alignment of each pair; the second half,
        in the same order, the other.
        """
        first, second = self.correlation.reshape(2, -1)
        n_pairs = len(first)
        # A pair's number in the first half, or n_pairs later in the second half.
        better = np.arange(n_pairs) + n_pairs * (second > first)
        return Alignment(
            self.moving[better],
            self.fixed[better],
            self.maps[better],
            self.correlation[better],
        )


@one_thread()  # on such small images, two would wait for each other most of the time
def register(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> pd.DataFrame:
    """Register pairs of grey images (n, 64, 64), given by their rows, (p,) each.

    Returns a row for each pair: is_mirrored, and for the overlap the correlation of
    detail, that of grey levels (``grey``), and the `largest_difference` in grey levels
    (``difference``). These three are 0 where the images do not show the same.
    """
    rows, positions = np.unique([rows_a, rows_b], return_inverse=True)
    a, b = positions.reshape(2, -1)
    upright = grey[rows]
    images = np.concatenate([upright, upright[..., ::-1]])
    # Each image a goes with b as it is, and with b mirrored.
    firsts = np.append(a, a)
    seconds = np.append(b, b + len(rows))
    # Either one may be the larger part, and so the moving one.
    moving = np.append(firsts, seconds)
    fixed = np.append(seconds, firsts)
    alignment = _coarsely_aligned(images, moving, fixed)
    alignment = alignment.best_of_two()  # which of the two moves
    alignment = _fitted(halved(images), alignment, MIN_COARSE)
    alignment = alignment.best_of_two()  # as it is or mirrored
    alignment = _fitted(images, alignment, MIN_FITTED)
    is_mirrored = np.maximum(alignment.moving, alignment.fixed) >= len(rows)
    return _compared(images, alignment).assign(is_mirrored=is_mirrored)


def _coarsely_aligned(
    images: NDArray[np.uint8], moving: Ints, fixed: Ints
) -> Alignment:
    """Align pairs of rows of images (n, 64, 64) by scale, angle and shift.

    Of all warps in `GRID` and all shifts by whole pixels, at 16 × 16 pixels, the one
    with the highest cross-correlation is taken.
    """
    detail = fine_detail(halved(halved(images)), noise=4.0)
    unwarped = _standardised(torch.from_numpy(detail))
    correlation = np.zeros(len(moving), np.float32)
    maps = torch.eye(3).repeat(len(moving), 1, 1)
    # Sorted, so that the warped versions of an image serve many of its pairs.
    by_moving = np.argsort(moving, kind="stable")
    for batch in row_batches(len(by_moving), PAIRS_AT_ONCE):
        pairs = by_moving[batch]
        rows, row_of_pair = np.unique(moving[pairs], return_inverse=True)
        # The Fourier transform of a circular cross-correlation is the product of one
        # transform and the conjugate of the other.
        versions = torch.fft.rfft2(_standardised(warped(detail[rows], GRID)))
        versions_of_pair = versions.transpose(0, 1)[row_of_pair]  # (pairs, warps, …)
        goals = torch.fft.rfft2(unwarped[fixed[pairs], None])
        correlations = torch.fft.irfft2(versions_of_pair * goals.conj())
        maps[pairs, :2], correlation[pairs] = _best_map(correlations)
    return Alignment(moving, fixed, maps, correlation)


def _best_map(correlations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best map of each pair, (p, 2, 3), and its correlation, (p,).

    `correlations` (p, warps, 16, 16) are by warp of `GRID`, and by shift in pixels:
    down, then right.
    """
    peak = correlations.flatten(1).max(dim=1)
    shape = tuple(correlations.shape[1:])
    warp, down, right = np.unravel_index(peak.indices.numpy(), shape)
    linear_part = GRID[warp][:, :, :2]
    shift = torch.stack([SHIFTS[right], SHIFTS[down]], dim=1)
    # The fixed image's points are shifted first, then zoomed and turned.
    maps = torch.cat([linear_part, linear_part @ shift[:, :, None]], dim=2)
    return maps, peak.values


def _standardised(squares: Tensor) -> Tensor:
    """Return squares (…, s, s) of mean 0 and sum of squares 1; flat ones are 0."""
    centred = squares - squares.mean(dim=(-2, -1), keepdim=True)
    norm = (centred**2).sum(dim=(-2, -1), keepdim=True).sqrt()
    return centred / norm.clamp(min=1e-3)


def _fitted(images: NDArray[Any], alignment: Alignment, least: float) -> Alignment:
    """Fit the maps of pairs of images (n, s, s) whose correlation is `least` or more.

    The other pairs get the correlation 0.
    """
    maps = alignment.maps.clone()
    correlation = np.zeros(len(maps), np.float32)
    likely = np.flatnonzero(alignment.correlation >= least)
    for batch in row_batches(len(likely), PAIRS_AT_ONCE):
        pairs = likely[batch]
        moving = _smooth_detail(images[alignment.moving[pairs]])
        fixed = _smooth_detail(images[alignment.fixed[pairs]])
        maps[pairs] = _gauss_newton(moving, fixed, maps[pairs])
        values, edge_distance = _sampled(moving, maps[pairs])
        correlation[pairs] = _correlation(values, fixed, edge_distance >= 0.5)
    return alignment._replace(maps=maps, correlation=correlation)


def _smooth_detail(images: NDArray[Any]) -> Tensor:
    """Return the detail of images (n, s, s), as smooth as when it is interpolated."""
    detail = fine_detail(images.astype(np.float32), sigma=2.0)
    return torch.from_numpy(gaussian_filter(detail, (0, 0.6, 0.6)))


def _gauss_newton(moving: Tensor, fixed: Tensor, maps: Tensor) -> Tensor:
    """Return better maps (p, 3, 3) from the fixed images' detail to the moving ones'.

    Detail is (p, s, s). The Gauss-Newton steps minimise the squared difference between
    the fixed image and the moving one as its map shows it. They are inverse
    compositional: the derivatives are those of the fixed image, so that they are
    computed once.
    """
    side = fixed.shape[-1]
    gradient_down, gradient_right = torch.gradient(fixed, dim=(1, 2))
    down = gradient_down.flatten(1) * side / 2  # from pixels to map coordinates
    right = gradient_right.flatten(1) * side / 2
    x, y, _ = _pixel_coordinates(side)
    # The derivative of each pixel by the six entries of an affine map, (p, 6, s²).
    columns = [right * x, right * y, right, down * x, down * y, down]
    jacobian = torch.stack(columns, dim=1)
    # For such small matrices, the inverse takes an eighth of the time of `solve`.
    hessian = jacobian @ jacobian.mT + 1e-3 * torch.eye(6)
    # The matrix that turns the pixels' errors into a change of the six entries.
    descent = torch.linalg.inv(hessian) @ jacobian
    for _ in range(STEPS):
        values, edge_distance = _sampled(moving, maps)
        error = ((values - fixed) * (edge_distance >= 0.5)).flatten(1)
        change = (descent * error[:, None]).sum(dim=2).reshape(-1, 2, 3)
        maps = maps @ (torch.eye(3) - F.pad(change, (0, 0, 0, 1)))
    return maps


def _pixel_coordinates(side: int) -> Tensor:
    """Return x, y and 1 of each pixel of a square, (3, s²)."""
    centres = (2 * torch.arange(side) + 1) / side - 1
    return torch.stack(
        [centres.repeat(side), centres.repeat_interleave(side), torch.ones(side**2)]
    )


def _sampled(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of images (p, s, s) as their maps show them, (p, s, s).

    The second result is each pixel's distance from the image's edge, (p, s, s), in
    pixels, and negative outside.
    """
    side = images.shape[-1]
    # The points of affine_grid, in a tenth of its time; the edge is at -1 and 1.
    points = (maps[:, :2] @ _pixel_coordinates(side)).reshape(-1, 2, side, side)
    values = F.grid_sample(
        images[:, None], points.permute(0, 2, 3, 1), align_corners=False
    )
    edge_distance = (1 - points.abs().amax(dim=1)) * side / 2
    return values[:, 0], edge_distance


def _mean(squares: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of squares (p, s, s) where a mask is true, (p, 1, 1)."""
    n_used = mask.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return (squares * mask).sum(dim=(1, 2), keepdim=True) / n_used


def _correlation(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Return Pearson's correlation of squares (p, s, s) where a mask is true, (p,).

    It is 0 where one of the squares is flat.
    """
    a = (a - _mean(a, mask)) * mask
    b = (b - _mean(b, mask)) * mask
    spread = ((a**2).sum(dim=(1, 2)) * (b**2).sum(dim=(1, 2))).sqrt()
    return (a * b).sum(dim=(1, 2)) / spread.clamp(min=1e-6)


def _compared(images: NDArray[np.uint8], alignment: Alignment) -> pd.DataFrame:
    """Compare aligned pairs where they overlap; see `register` for the columns."""
    change = (alignment.maps[:, :2, :2] - torch.eye(2)).abs()
    is_small = (change <= MAX_CHANGE).all(dim=(1, 2)).numpy()
    compared = np.zeros((len(change), 3))
    likely = np.flatnonzero(is_small & (alignment.correlation >= MIN_FITTED))
    for batch in row_batches(len(likely), PAIRS_AT_ONCE):
        pairs = likely[batch]
        moving = torch.from_numpy(images[alignment.moving[pairs]]).float()
        fixed = torch.from_numpy(images[alignment.fixed[pairs]]).float()
        maps = alignment.maps[pairs]
        # Where one image ends and the other goes on, the end is an edge that the
        # picture does not have. So both are compared in the frame of either, and the
        # better result counts.
        in_fixed = _compared_overlap(moving, fixed, maps)
        in_moving = _compared_overlap(fixed, moving, torch.linalg.inv(maps))
        is_better = in_moving[:, :1] > in_fixed[:, :1]
        compared[pairs] = torch.where(is_better, in_moving, in_fixed)
    return pd.DataFrame(compared, columns=["correlation", "grey", "difference"])


def _compared_overlap(moving: Tensor, fixed: Tensor, maps: Tensor) -> Tensor:
    """Compare the overlap of images (p, 64, 64) in the frame of the fixed ones, (p, 3).

    The columns are the correlations of detail and of grey levels, and the largest
    difference. They are 0 where the overlap is less than `MIN_SHARED` of the fixed
    image, or the images do not agree block by block.
    """
    values, edge_distance = _sampled(moving, maps)
    is_inside = edge_distance >= 0.5
    # The overlap, without a rim along the edges of both images.
    is_shared = torch.zeros_like(is_inside)
    inner = slice(OVERLAP_RIM, -OVERLAP_RIM)
    is_shared[:, inner, inner] = edge_distance[:, inner, inner] > OVERLAP_RIM
    # Outside, both get the mean of the overlap, so that no detail arises there.
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
    detail_correlation = _correlation(detail_a, detail_b, is_shared)
    grey_correlation = _correlation(a, b, is_shared)
    columns = [detail_correlation, grey_correlation, difference]
    return torch.stack(columns, dim=1) * is_same[:, None]


def _agree_by_block(detail_a: Tensor, detail_b: Tensor, mask: Tensor) -> Tensor:
    """Return whether detail (p, s, s) correlates in nearly all blocks that hold some.

    Blocks with less than half of their pixels in the mask (p, s, s) do not count. The
    result is (p,).
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
    lowest_decile = torch.nanquantile(correlation, 0.1, dim=1)
    return (is_used.sum(dim=1) >= MIN_BLOCKS) & (lowest_decile >= MIN_DECILE)


def _block_means(squares: Tensor) -> Tensor:
    """Return the mean of each block of squares (p, 64, 64), (p, 64)."""
    return F.avg_pool2d(squares, BLOCK_SIDE).flatten(1)
