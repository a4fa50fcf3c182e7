"""Functions of images, and a cache that keeps their results by the files' content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Return the folder of features and images that are kept between runs.

    It is the environment variable ``CLIPLIB_CACHE``, or else the platform's folder for
    caches. It need not exist yet.
    """
    return Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib"))


class ResultCache:
    """Arrays by key, each in a file of its own; threads and processes may share them.

    Files may be deleted at any time. One warning is given if they cannot be written.

    Parameters
    ----------
    folder
        The folder of the files, which is made if it is missing; by default a folder
        below `cache_folder`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """The folder of the files, by the current value of ``CLIPLIB_CACHE``."""
        return Path(self._folder or cache_folder() / "results")

    def _file_of(self, key: str) -> Path:
        """Return the path of the file for a key."""
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.npz"

    def get(self, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the cached arrays among `keys`, by key.

        Damaged arrays are left out, so that they are computed and stored again. NPZ
        files hold checksums, by which damage is found.
        """
        arrays = {}
        for key in keys:
            # A missing file raises an OSError, a damaged one errors of many types.
            with suppress(Exception), np.load(self._file_of(key)) as file:
                arrays[key] = file[key]
        return arrays

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays of numbers by key, in place of older ones."""
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


# The cache in the default folder, which encoders use unless told otherwise.
DEFAULT_CACHE = ResultCache()


@dataclass(frozen=True)
class ImageFunction:
    """A function of images, with a name for the cache.

    Attributes
    ----------
    name
        Part of the keys in the cache: it must change when the results change.
    function
        From n RGB images to an array (n, ...), one row for each image.
    """

    name: str
    function: Callable[[list[Image.Image]], NDArray[Any]]

    def key(self, digest: str) -> str:
        """Return the cache's key for the result of an image whose file has a digest."""
        return f"{self.name}:{digest}"


def map_images(
    images: Images,
    *functions: ImageFunction,
    cache: ResultCache | None = None,
    errors: dict[int, UnreadableImage] | None = None,
    batch_size: int = 16,
    progress: str = "",
) -> list[NDArray[Any]]:
    """Compute several functions of n images, which are read and decoded only once.

    Each thread processes a batch at a time, from files to results, on one core. Results
    are cached after each batch, so an interruption loses at most the current batches.

    Parameters
    ----------
    images
        One image or several, as for `image_list`.
    *functions
        The functions to compute.
    cache
        Keeps results between runs; None keeps none.
    errors
        Filled with the errors of unreadable images, by row, from 0. The results of
        these rows are 0.
    batch_size
        Largest number of images that a function is called with.
    progress
        Title of a progress bar; "" shows none.

    Returns
    -------
    list of arrays
        For each function an array (n, ...), in the order of the images; (n, 0) if no
        image can be read.

    Raises
    ------
    UnreadableImage
        If an image cannot be read, and `errors` is None.
    """
    # Imported here, since it imports torch, which takes seconds.
    from cliplib.data.threads import pool_of_single_threads

    sources = image_list(images)
    n = len(sources)
    batches = [sources[batch] for batch in row_batches(n, batch_size)]
    compute = partial(_compute_batch, functions=functions, cache=cache)
    # (n, 0) until the first results show their shape and dtype.
    outputs: list[NDArray[Any]] = [np.empty((n, 0)) for _ in functions]
    # When the block ends, even by an interrupt, current batches are still cached.
    with pool_of_single_threads() as pool:
        answers = chain.from_iterable(pool.map(compute, batches))  # in order of images
        with_bar = tqdm(answers, progress, n, unit="image", disable=not progress)
        for row, answer in enumerate(with_bar):
            if isinstance(answer, UnreadableImage):
                if errors is None:
                    raise answer
                # A new error, since the traceback of this one keeps images in memory.
                errors[row] = UnreadableImage(sources[row], answer.reason)
                continue
            for i, result in enumerate(answer):
                if not outputs[i].size:
                    outputs[i] = np.zeros((n, *result.shape), result.dtype)
                outputs[i][row] = result
    return outputs


def _compute_batch(
    sources: Sequence[ImageSource],
    functions: Sequence[ImageFunction],
    cache: ResultCache | None,
) -> list[list[NDArray[Any]] | UnreadableImage]:
    """Return for each image of a batch each function's result, or why it is unreadable.

    All files are read, since the cache's keys depend on their content. An image is
    decoded only if one of its results is not cached. New results are cached.
    """
    digests_or_errors: list[str | UnreadableImage] = []
    images_to_compute: dict[str, Image.Image] = {}  # by digest: equal files once
    result_by_key: dict[str, NDArray[Any]] = {}
    for source in sources:
        try:
            content = image_bytes(source)
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            keys = {function.key(digest) for function in functions}
            if cache is not None:
                result_by_key |= cache.get(keys)
            if not keys <= result_by_key.keys():
                images_to_compute[digest] = load_image(source, content)
            digests_or_errors.append(digest)
        except UnreadableImage as error:
            digests_or_errors.append(error)
    for function in functions:
        new_results = _missing_results(function, images_to_compute, result_by_key)
        if cache is not None:
            cache.put(new_results)
        result_by_key |= new_results
    return [
        answer
        if isinstance(answer, UnreadableImage)
        else [result_by_key[function.key(answer)] for function in functions]
        for answer in digests_or_errors
    ]


def _missing_results(
    function: ImageFunction,
    image_by_digest: Mapping[str, Image.Image],
    result_by_key: Mapping[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """Return a function's results for those images that have none yet, by key."""
    image_by_key = {
        function.key(digest): image for digest, image in image_by_digest.items()
    }
    missing = {
        key: image for key, image in image_by_key.items() if key not in result_by_key
    }
    if not missing:
        return {}
    results = function.function(list(missing.values()))
    return dict(zip(missing, results, strict=True))
