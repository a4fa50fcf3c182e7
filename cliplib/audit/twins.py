"""Which pictures are the same picture: exact copies, and near ones, also mirrored left to right.

A near copy is found in two steps. A perceptual hash, which is cheap to compare, proposes candidates; the correlation
of the two pictures' fine detail decides. The hash alone would not do: slices through different heads look alike to it,
as do photos on the same table.

* Hash: that of ``imagehash.phash`` with 256 bits (which of the 16 × 16 lowest frequencies of a discrete cosine
  transform of the grey picture at 64 × 64 are above their median), once as is and once mirrored. Candidates differ in
  at most :data:`MAX_DISTANCE` bits; unrelated pictures in about 128.
* Detail: the grey 64 × 64 picture, each pixel less its local mean and divided by its local contrast (local contrast
  normalisation: Jarrett et al. 2009, "What is the best multi-stage architecture for object recognition?", section
  2.2). What is left hardly depends on brightness, contrast and sharpening. Among MRI slices its correlation divides
  copies, however brightened or sharpened, from neighbouring slices of one head: hardly any pair lies between 0.82
  and 0.86; hence the threshold.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.fft import dct
from scipy.ndimage import gaussian_filter
from sklearn.utils.parallel import Parallel, delayed
from tqdm.auto import tqdm

from cliplib.data.images import decode
from cliplib.errors import ImageError

Source: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | Mapping[str, Any]
"""A picture: a path, the bytes of a file, a PIL image, or a row ``{"path": ..., "bytes": ...}``."""

MAX_DISTANCE = 72
"""Largest number of differing bits, of 256, between the hashes of two candidates."""

MIN_CORRELATION = 0.82
"""Smallest correlation of detail at which two candidates count as copies."""

TWIN_COLUMNS = ("index_a", "index_b", "kind", "mirrored", "correlation", "hash_distance")

_FACTS: dict[str, Any] = {"format": "", "mode": "", "width": 0, "height": 0, "bytes": 0, "file_digest": "",
                          "digest": "", "extension_lies": False, "error": ""}  # fmt: skip
_SIZE = 64  # pixels on a side
_BATCH = 64  # pictures that one task of the thread pool takes
_CELLS = 2**20  # hash comparisons in memory at once
_ROWS = 1024  # correlations in memory at once


@dataclass(frozen=True, eq=False)
class Prints:
    """What is kept of the pictures to compare them: about 4 kB of each distinct one, whatever its size.

    Attributes
    ----------
    facts : pandas.DataFrame
        One row per picture, n of them: ``format``, ``mode``, ``width``, ``height`` (as stored, before EXIF rotation),
        ``bytes`` (file size), ``file_digest`` (BLAKE2b of the file), ``digest`` (XXH3 of size and RGB pixels:
        of ten times as many bytes, hence the faster hash), ``extension_lies``, ``error`` (empty when it could be read).
    distinct : ndarray of int64, shape (n,)
        Which distinct picture, 0 to m - 1, each row shows: same number, same pixels. -1: unreadable.
    first : ndarray of int64, shape (m,)
        First row of each distinct picture.
    hashes : ndarray of uint64, shape (m, 2, 4)
        256 bits as is, and mirrored.
    details : ndarray of int8, shape (m, 64, 64)
        Locally normalised grey picture.
    """

    facts: pd.DataFrame
    distinct: NDArray[np.int64]
    first: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    details: NDArray[np.int8]


def take_prints(
    sources: Iterable[Source], *, total: int | None = None, progress: bool = True, n_jobs: int | None = None
) -> Prints:
    """Decode pictures once and keep their prints; one that cannot be read gets a row with its error.

    Parameters
    ----------
    sources : iterable of path, bytes, PIL image or mapping
        Consumed lazily.
    total : int, optional
        Their number, for the progress bar.
    progress : bool
    n_jobs : int, optional
        Threads (decoding leaves Python's lock); default: one per core.
    """
    pool = Parallel(n_jobs=n_jobs or -1, prefer="threads", return_as="generator")
    facts: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    first: list[int] = []
    hashes = [np.empty((0, 2, 4), np.uint64)]
    details = [np.empty((0, _SIZE, _SIZE), np.int8)]
    with tqdm(total=total, desc="audit", unit="img", disable=not progress) as bar:
        for batch, hashed, detailed in pool(delayed(_print_batch)(b) for b in _batches(sources)):
            new = []
            for k, fact in enumerate(batch):
                if not fact["error"] and seen.setdefault(fact["digest"], len(seen)) == len(first):
                    new.append(k)
                    first.append(len(facts) + k)
            facts.extend(batch)
            hashes.append(hashed[new])
            details.append(detailed[new])
            bar.update(len(batch))
    types = {key: type(value).__name__ for key, value in _FACTS.items()}
    table = pd.DataFrame(facts, columns=list(_FACTS)).astype(types)
    distinct = np.asarray([seen.get(fact["digest"], -1) for fact in facts], np.int64)
    return Prints(table, distinct, np.asarray(first, np.int64), np.concatenate(hashes), np.concatenate(details))


def find_twins(
    images_a: Iterable[Source],
    images_b: Iterable[Source],
    *,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
    progress: bool = True,
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Find pictures of one collection that also are in another, such as a training corpus and an evaluation set.

    Parameters
    ----------
    images_a, images_b : iterable of path, bytes, PIL image or ``{"path", "bytes"}``
        Pictures that cannot be read have no twins; find them with :func:`take_prints`.
    max_distance : int
        Bits of 256 in which the hashes of two candidates may differ.
    min_correlation : float
        Correlation of detail, -1 to 1, from which two candidates are twins.
    progress : bool
    n_jobs : int, optional
        Threads; default: one per core.

    Returns
    -------
    pandas.DataFrame
        ``index_a``, ``index_b`` (positions), ``kind`` ("exact": same pixels; "near"), ``mirrored``, ``correlation``
        (1 for exact), ``hash_distance`` (bits; 0 for exact). Sorted by the positions.
    """
    a, b = (take_prints(images, progress=progress, n_jobs=n_jobs) for images in (images_a, images_b))
    near = near_pairs(a, b, max_distance=max_distance, min_correlation=min_correlation, n_jobs=n_jobs)
    near["picture_a"], near["picture_b"] = a.distinct[near["index_a"]], b.distinct[near["index_b"]]
    digests = [pd.DataFrame({"digest": p.facts["digest"].to_numpy()[p.first], f"picture_{x}": range(len(p.first))})
               for p, x in ((a, "a"), (b, "b"))]  # fmt: skip
    exact = digests[0].merge(digests[1], on="digest").assign(
        kind="exact", mirrored=False, correlation=1.0, hash_distance=0
    )  # fmt: skip
    columns = ["picture_a", "picture_b", *TWIN_COLUMNS[2:]]
    pairs = pd.concat([exact[columns].astype(near[columns].dtypes), near[columns]])
    pairs = pairs.drop_duplicates(["picture_a", "picture_b"])  # exact copies correlate, too: exact comes first
    for p, x in ((a, "a"), (b, "b")):  # from distinct pictures to every row that shows them
        rows = pd.DataFrame({f"picture_{x}": p.distinct, f"index_{x}": range(len(p.distinct))})
        pairs = pairs.merge(rows, on=f"picture_{x}")
    return pairs[list(TWIN_COLUMNS)].sort_values(["index_a", "index_b"], ignore_index=True)


def near_pairs(
    a: Prints,
    b: Prints | None = None,
    *,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Pairs of near copies between the distinct pictures of two sets of prints, or of one (``index_a < index_b``).

    A pair that matches both ways round, as a symmetric picture does, has one row: the better match.

    Returns
    -------
    pandas.DataFrame
        As :func:`find_twins`, all of kind "near"; the indices are those of the distinct pictures' first rows. Between
        two sets, pictures with the same pixels are near copies, too.
    """
    other = a if b is None else b
    step = max(1, _CELLS // max(1, len(other.hashes)))

    def block(start: int) -> tuple[NDArray[Any], ...]:
        skip = start if b is None else 0  # pairs with earlier ones were seen from their side
        i, j, mirrored, distance = _candidates(a.hashes[start : start + step], other.hashes[skip:], max_distance)
        i, j = i + start, j + skip
        once = i < j if b is None else slice(None)
        i, j, mirrored, distance = i[once], j[once], mirrored[once], distance[once]
        correlation = _correlation(a.details, other.details, i, j, mirrored)
        keep = correlation >= min_correlation
        return a.first[i[keep]], other.first[j[keep]], mirrored[keep], correlation[keep], distance[keep]

    rows = Parallel(n_jobs=n_jobs or -1, prefer="threads")(delayed(block)(k) for k in range(0, len(a.hashes), step))
    empty = tuple(np.empty(0, t) for t in (np.int64, np.int64, bool, np.float64, np.int64))
    i, j, mirrored, correlation, distance = (np.concatenate(part) for part in zip(empty, *rows, strict=True))
    frame = pd.DataFrame({"index_a": i, "index_b": j, "kind": pd.Series("near", range(len(i)), dtype="str"),
                          "mirrored": mirrored, "correlation": correlation, "hash_distance": distance})  # fmt: skip
    frame = frame.sort_values(["index_a", "index_b", "correlation"], ascending=[True, True, False])
    return frame.drop_duplicates(["index_a", "index_b"], ignore_index=True)


def _candidates(
    a: NDArray[np.uint64], b: NDArray[np.uint64], max_distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Index pairs with close hashes, whether the second is ``mirrored``, and the distance."""
    distance = np.zeros((2, len(a), len(b)), np.uint16)
    for mirrored, word in np.ndindex(2, a.shape[-1]):
        distance[mirrored] += np.bitwise_count(a[:, 0, word, None] ^ b[None, :, mirrored, word])
    side, i, j = np.nonzero(distance <= max_distance)
    return i, j, side.astype(bool), distance[side, i, j].astype(np.int64)


def _correlation(
    a: NDArray[np.int8], b: NDArray[np.int8], i: NDArray[np.int64], j: NDArray[np.int64], mirrored: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Pearson correlation of the pairs' details, shape (pairs,); 0 where a picture has none, as a blank one."""
    out = np.zeros(len(i))
    for s in (slice(k, k + _ROWS) for k in range(0, len(i), _ROWS)):
        y = b[j[s]]
        y[mirrored[s]] = y[mirrored[s], :, ::-1]
        left, right = (z.reshape(len(z), -1).astype(np.float32) for z in (a[i[s]], y))
        left -= left.mean(axis=1, keepdims=True)
        right -= right.mean(axis=1, keepdims=True)
        norm = np.sqrt(np.einsum("nd,nd->n", left, left) * np.einsum("nd,nd->n", right, right))
        out[s] = np.einsum("nd,nd->n", left, right) / np.maximum(norm, 1e-6)
    return out


def _batches(sources: Iterable[Source]) -> Iterator[tuple[Source, ...]]:
    rest = iter(sources)
    return iter(lambda: tuple(itertools.islice(rest, _BATCH)), ())


def _print_batch(
    sources: tuple[Source, ...],
) -> tuple[list[dict[str, Any]], NDArray[np.uint64], NDArray[np.int8]]:
    facts = []
    grey = np.zeros((len(sources), _SIZE, _SIZE), np.float32)
    for k, source in enumerate(sources):
        fact, rgb = _facts(source)
        facts.append(fact)
        if rgb is not None:
            small = rgb.convert("L").resize((_SIZE, _SIZE), Image.Resampling.LANCZOS, reducing_gap=3.0)
            grey[k] = np.asarray(small)
    hashes = _hashes(np.stack([grey, grey[:, :, ::-1]], axis=1))
    sigma = (0, 1, 1)  # pixels of the small picture
    fine = grey - gaussian_filter(grey, sigma)
    contrast = np.sqrt(gaussian_filter(fine**2, sigma))
    fine /= contrast + 16  # grey levels: below, the noise of the encoder would count as detail
    peak = np.abs(fine).max(axis=(1, 2), keepdims=True)  # correlation does not care for scale, 8 bits do
    return facts, hashes, np.rint(127 * fine / np.maximum(peak, 1e-3)).astype(np.int8)


def _hashes(grey: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Perceptual hashes of grey pictures, (..., 64, 64) to (..., 4): all at once, and so free of Python's lock."""
    low = dct(dct(grey.astype(np.float64), axis=-2)[..., :16, :], axis=-1)[..., :16].reshape(*grey.shape[:-2], 256)
    return np.packbits(low > np.median(low, axis=-1, keepdims=True), axis=-1).view(np.uint64)


def _facts(source: Source) -> tuple[dict[str, Any], Image.Image | None]:
    """What the table says about a picture, and its RGB pixels, or None with the ``error``."""
    fact = _FACTS.copy()

    def header(image: Image.Image, path: str) -> None:
        form = "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a JPEG with more JPEGs behind it
        lies = form != Image.registered_extensions().get(Path(path).suffix.lower(), form)
        fact.update(format=form, mode=image.mode, width=image.width, height=image.height, extension_lies=lies)

    try:
        if isinstance(source, Image.Image):
            header(source, "")
            rgb = ImageOps.exif_transpose(source).convert("RGB")
        else:
            row: Mapping[str, Any] = source if isinstance(source, Mapping) else {}
            data: bytes | None = source if isinstance(source, bytes) else row.get("bytes")
            path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else row.get("path") or ""
            if data is None and Path(path).is_file():  # if it is not, decode says what it is
                data = Path(path).read_bytes()
            if data is not None:
                fact |= {"bytes": len(data), "file_digest": hashlib.blake2b(data, digest_size=16).hexdigest()}
            rgb = decode(path if data is None else data, path or "<bytes>", opened=lambda image: header(image, path))
    except ImageError as error:
        return fact | {"error": error.reason}, None
    except OSError as error:  # no permission, or a PIL image whose file is cut short
        return fact | {"error": error.strerror or str(error)}, None
    digest = xxhash.xxh3_128(f"{rgb.size}".encode())
    digest.update(rgb.tobytes())
    return fact | {"digest": digest.hexdigest()}, rgb
