"""Functions of images, and a cache that keeps their results by a file's content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from platformdirs import user_cache_dir
from tqdm.auto import tqdm

from cliplib.data.arrays import row_batches
from cliplib.data.image import (
    Images,
    ImageSource,
    UnreadableImage,
    image_bytes,
    image_list,
    load_image,
)
from cliplib.data.warn import warn_once


def cache_folder() -> Path:
    """Return the folder for features and images that are kept between runs.

    It is the setting ``CLIPLIB_CACHE``, or else the platform's folder for caches; it
    need not exist yet.
    """
    return Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib"))


class ResultCache:
    """Arrays by key, a file for each, which threads and processes share.

    Files may be deleted at any time. Where they cannot be written, a warning says so
    once.

    Parameters
    ----------
    folder
        Where the files are; by default in the folder of the setting ``CLIPLIB_CACHE``,
        or else in the platform's folder for caches. It is made if it is missing.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where the files are, by the settings as they are now."""
        return Path(self._folder or cache_folder() / "results")

    def _file_of(self, key: str) -> Path:
        """Return where the array under a key is kept."""
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.npz"

    def get(self, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return those arrays under `keys` that are cached, by key.

        Damaged ones are left out, so that they are computed and stored anew: NPZ files
        hold checksums.
        """
        arrays = {}
        for key in keys:
            # There may be no file, and damaged ones make NumPy raise nearly anything.
            with suppress(Exception), np.load(self._file_of(key)) as file:
                arrays[key] = file[key]
        return arrays

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays of numbers by key; older ones are replaced."""
        try:
            for key, array in arrays.items():
                file = self._file_of(key)
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file, allow_pickle=False, **{key: array})
        except OSError as error:
            warn_once(
                f"Cannot write to the cache {self.folder} ({error.strerror}): "
                "set CLIPLIB_CACHE, or make room. Until then everything is computed "
                "anew."
            )


# The cache in the default folder.
DEFAULT_CACHE = ResultCache()


@dataclass(frozen=True)
class ImageFunction:
    """A function of images, and what its results are cached under.

    Attributes
    ----------
    name
        Part of the keys in the cache: it must change when the results do.
    function
        From n RGB images to an array (n, ...), a row for each.
    """

    name: str
    function: Callable[[list[Image.Image]], NDArray[Any]]

    def key(self, digest: str) -> str:
        """Return the cache's key of the result for an image; `digest` is its file's."""
        return f"{self.name}:{digest}"


def map_images(
    images: Images,
    *functions: ImageFunction,
    cache: ResultCache | None = None,
    errors: dict[int, UnreadableImage] | None = None,
    batch_size: int = 16,
    progress: str = "",
) -> list[NDArray[Any]]:
    """Compute functions of n images; each is read and decoded once for all functions.

    Each thread takes a batch from files to results, on one core. Results are cached
    batch by batch, so an interruption loses at most the batches under way.

    Parameters
    ----------
    images
        One image or several: paths, files' contents, images of Pillow, arrays
        (h, w, 3) of uint8, or rows ``{"path", "bytes"}`` of a data set.
    *functions
        What to compute, and the names under which results are cached.
    cache
        Where results are looked up and stored; if it fails, a warning says so once.
    errors
        Filled with the errors of images that cannot be read, by row, from 0; their rows
        of the results are 0.
    batch_size
        How many images a function gets at once.
    progress
        Title of a progress bar; "" shows none.

    Returns
    -------
    list of arrays
        For each function (n, ...), in the order of the images; (n, 0) if no image can
        be read.

    Raises
    ------
    UnreadableImage
        If an image cannot be read, and `errors` is None.
    """
    # It imports torch, which takes seconds, and is only needed here.
    from cliplib.data.threads import pool_of_single_threads

    sources = image_list(images)
    n = len(sources)
    batches = [sources[batch] for batch in row_batches(n, batch_size)]
    compute = partial(_compute_batch, functions=functions, cache=cache)
    # (n, 0) until the first results tell shape and dtype.
    outputs: list[NDArray[Any]] = [np.empty((n, 0)) for _ in functions]
    # At its end, also on an interrupt, the batches under way end and are cached.
    with pool_of_single_threads() as pool:
        computed = chain.from_iterable(pool.map(compute, batches))  # in their order
        shown = tqdm(computed, progress, n, unit="image", disable=not progress)
        for row, results in enumerate(shown):
            if isinstance(results, UnreadableImage):
                if errors is None:
                    raise results
                # Without the traceback, which would keep images in memory.
                errors[row] = UnreadableImage(sources[row], results.reason)
                continue
            for number, result in enumerate(results):
                if not outputs[number].size:
                    outputs[number] = np.zeros((n, *result.shape), result.dtype)
                outputs[number][row] = result
    return outputs


def _compute_batch(
    sources: Sequence[ImageSource],
    functions: Sequence[ImageFunction],
    cache: ResultCache | None,
) -> list[list[NDArray[Any]] | UnreadableImage]:
    """Compute functions of a batch of images, or look their results up in the cache.

    Returned is of each image the result of each function, or why it cannot be read.
    All files are read, for the cache's keys; only images of which a result is missing
    are decoded. What is computed is stored in the cache.
    """
    image_by_digest: dict[str, Image.Image] = {}  # equal files once
    digest_of_row: dict[int, str] = {}
    error_of_row: dict[int, UnreadableImage] = {}
    result_by_key: dict[str, NDArray[Any]] = {}
    for row, source in enumerate(sources):
        try:
            content = image_bytes(source)
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            keys = {function.key(digest) for function in functions}
            if cache is not None:
                result_by_key |= cache.get(keys)
            if not keys <= result_by_key.keys():
                image_by_digest[digest] = load_image(source, content)
            digest_of_row[row] = digest
        except UnreadableImage as error:
            error_of_row[row] = error
    for function in functions:
        result_by_key |= _missing_results(
            function, image_by_digest, result_by_key.keys(), cache
        )
    results_of_row = {
        row: [result_by_key[function.key(digest)] for function in functions]
        for row, digest in digest_of_row.items()
    }
    answer_of_row = results_of_row | error_of_row
    return [answer_of_row[row] for row in range(len(sources))]


def _missing_results(
    function: ImageFunction,
    image_by_digest: Mapping[str, Image.Image],
    known_keys: Collection[str],
    cache: ResultCache | None,
) -> dict[str, NDArray[Any]]:
    """Compute a function of those images whose result is not known, by key; store it.

    `image_by_digest` holds images by the digest of their file.
    """
    image_by_key = {
        function.key(digest): image for digest, image in image_by_digest.items()
    }
    missing = {
        key: image for key, image in image_by_key.items() if key not in known_keys
    }
    if not missing:
        return {}
    results = function.function(list(missing.values()))
    computed = dict(zip(missing, results, strict=True))
    if cache is not None:
        cache.put(computed)
    return computed
