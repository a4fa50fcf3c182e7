"""From images to features in flat memory: read, look up, decode, preprocess, compute and keep, in a few threads."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cliplib.data import images as pictures
from cliplib.encoder.hardware import Plan
from cliplib.errors import CliplibError, ImageError
from cliplib.store import FeatureStore

Features: TypeAlias = NDArray[np.float32]
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | Mapping[str, Any]


@dataclass
class Run:
    """What one call of :meth:`cliplib.encoder.ClipEncoder.images` did.

    Attributes
    ----------
    images, computed : int
        Images given; distinct images that went through the model. The others were known, or could not be read.
    errors : dict of int to ImageError
        Position of each unreadable image, and why.
    seconds : dict of str to float
        Time spent in "read", "lookup", "decode", "preprocess", "forward" and "store", summed over threads.
    """

    images: int = 0
    computed: int = 0
    errors: dict[int, ImageError] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __str__(self) -> str:
        phases = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in self.seconds.items())
        return f"{self.images} images, {self.computed} computed, {len(self.errors)} unreadable ({phases})"

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the time that a block takes to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Extraction:
    """The steps that an encoder lends to the pipeline.

    Attributes
    ----------
    preprocess : callable
        RGB image to (3, height, width) float32.
    forward : callable
        (b, 3, height, width) float32 to (b, d) float32.
    turn : context manager
        Held while computing and keeping: a lock where only one forward pass should run at a time.
    plan : Plan
        Threads and sizes.
    store, fingerprint
        Where results are kept, if anywhere, and under which encoder's name.
    run : Run
        Where counts and times are added.
    """

    preprocess: Callable[[Image.Image], Features]
    forward: Callable[[Features], Features]
    turn: AbstractContextManager[Any]
    plan: Plan
    store: FeatureStore | None
    fingerprint: str
    run: Run

    def results(self, images: Sequence[ImageSource]) -> Generator[tuple[list[int], Features | ImageError], None, None]:
        """Positions of equal images and their feature vector or error, as they come; every position exactly once.

        At most ``plan.workers`` chunks are being computed at a time, and two more wait, so memory does not grow with
        the number of images. A finished chunk is in the store before the next one starts.
        """
        waiting: dict[bytes, list[int]] = {}  # the positions that a job will answer
        pending: deque[Future[list[tuple[bytes, Features | ImageError]]]] = deque()
        chunk: list[_Job] = []
        numbered, threads = enumerate(images), torch.get_num_threads()
        pool = ThreadPoolExecutor(
            self.plan.workers, "cliplib", initializer=torch.set_num_threads, initargs=(self.plan.threads,)
        )
        try:
            while group := list(islice(numbered, self.plan.chunk)):
                read: dict[int, _Job | ImageError] = {row: self._read(row, item) for row, item in group}
                known = self._lookup([job.key for job in read.values() if isinstance(job, _Job)])
                for row, job in read.items():
                    if isinstance(job, ImageError):
                        yield [row], job
                    elif job.key in known:
                        yield [row], known[job.key]
                    elif job.key in waiting:  # the same picture again
                        waiting[job.key].append(row)
                    else:
                        waiting[job.key] = [row]
                        chunk.append(job)
                if len(chunk) >= self.plan.chunk:
                    pending.append(pool.submit(self._compute, chunk[: self.plan.chunk]))
                    chunk = chunk[self.plan.chunk :]
                while len(pending) > self.plan.workers + 1:
                    yield from self._finished(pending.popleft(), waiting)
            if chunk:
                pending.append(pool.submit(self._compute, chunk))
            while pending:
                yield from self._finished(pending.popleft(), waiting)
        finally:  # on an error or Ctrl-C as well: what is being computed ends and is kept, the rest is dropped
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)

    def _read(self, row: int, item: ImageSource) -> _Job | ImageError:
        """The picture's source, and with a store its digest."""
        with self.run.clock("read"):
            try:
                return _job(row, item, hashed=self.store is not None)
            except ImageError as error:
                return error

    def _lookup(self, keys: list[bytes]) -> dict[bytes, Features]:
        if self.store is None:
            return {}
        with self.run.clock("lookup"):
            return self.store.get(self.fingerprint, keys)

    def _compute(self, jobs: list[_Job]) -> list[tuple[bytes, Features | ImageError]]:
        """One chunk, in a thread: decode, preprocess, forward, keep."""
        results: list[tuple[bytes, Features | ImageError]] = []
        keys, pixels = [], []
        for job in jobs:
            try:
                with self.run.clock("decode"):
                    isimage = isinstance(job.source, Image.Image)
                    image = job.source if isimage else pictures.decode(job.source, job.name)
                with self.run.clock("preprocess"):
                    pixels.append(self.preprocess(image))
                keys.append(job.key)
            except ImageError as error:
                results.append((job.key, error))
        if keys:
            # The last chunk is filled up: matrix products of another shape may round otherwise, so a picture's features
            # would depend on how much an earlier, interrupted run had left to do.
            batch = np.zeros((self.plan.chunk, *pixels[0].shape), np.float32)
            np.stack(pixels, out=batch[: len(pixels)])
            with self.turn:
                with self.run.clock("forward"):
                    vectors = self.forward(batch)[: len(pixels)]
                if self.store is not None:
                    with self.run.clock("store"):
                        self.store.put(self.fingerprint, keys, vectors)
            results.extend(zip(keys, vectors, strict=True))
        return results

    def _finished(
        self, future: Future[list[tuple[bytes, Features | ImageError]]], waiting: dict[bytes, list[int]]
    ) -> Iterator[tuple[list[int], Features | ImageError]]:
        results = future.result()
        self.run.computed += sum(not isinstance(result, ImageError) for _, result in results)
        for key, result in results:
            yield waiting.pop(key), result


@dataclass(frozen=True)
class _Job:
    key: bytes  # digest of the content; without a store, the position
    source: Any
    name: str


def _job(row: int, item: ImageSource, *, hashed: bool) -> _Job:
    """An item in a form that threads can work on; with `hashed`, read now, so that digest and pixels agree."""
    name, source = f"<image {row}>", item
    if isinstance(item, Mapping):
        if "bytes" not in item and "path" not in item:
            raise CliplibError("An image row has the keys 'path' and 'bytes': give the image column, dataset['image'].")
        name = item.get("path") or name
        source = item["path"] if item.get("bytes") is None else item["bytes"]
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
    if isinstance(source, Image.Image):
        source = upright_rgb(source, name)  # here, not in a thread: a lazy image may occur twice
        content = b"%d %d" % source.size + source.tobytes() if hashed else b""
    elif not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise ImageError(name, f"a path, bytes or a PIL image is needed, not {type(source).__name__}")
    elif hashed:
        ispath = isinstance(source, (str, os.PathLike))
        source = content = pictures._read(Path(name), name) if ispath else bytes(cast(bytes, source))
    return _Job(blake2b(content, digest_size=16).digest() if hashed else b"%d" % row, source, name)


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """A PIL image as :func:`cliplib.data.images.decode` gives it: EXIF orientation applied, RGB, loaded."""
    name = getattr(image, "filename", "") or name
    try:
        image.load()  # before its orientation is asked for: Pillow turns a TIFF upright by itself when it loads it
        return pictures._to_rgb(pictures._upright(image, name), name)
    except ImageError:
        raise
    except Exception as error:  # a lazy image is decoded only now
        raise ImageError(name, f"it is damaged or cut short ({error})") from None
