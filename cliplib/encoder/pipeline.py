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
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from datasets.arrow_dataset import Column
from numpy.typing import NDArray
from PIL import Image

from cliplib.data import images as pictures
from cliplib.encoder.hardware import Plan
from cliplib.errors import CliplibError, ImageError
from cliplib.store import FeatureStore

Features: TypeAlias = NDArray[np.float32]
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | Mapping[str, Any]

_LAZY = threading.Lock()  # a lazy PIL image may occur twice, and only one thread may load it


@dataclass
class Run:
    """What one call of :meth:`cliplib.encoder.ClipEncoder.images` did.

    Attributes
    ----------
    images, computed : int
        Images given; distinct images that went through the model. The others were known, or could not be read.
    errors : dict of int to ImageError
        Position of each unreadable image, and why.
    digests : dict of int to bytes
        With a store, the BLAKE2b digest (16 bytes) of each image that was read, by its position.
    seconds : dict of str to float
        Time spent in "read", "lookup", "decode", "preprocess", "forward" and "store", summed over threads.
    """

    images: int = 0
    computed: int = 0
    errors: dict[int, ImageError] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict, repr=False)
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
        What `move` made of (b, 3, height, width) float32 to (b, d) float32.
    turn : context manager
        Held while computing and keeping: a lock where only one forward pass should run at a time.
    move : callable
        Pixel values to where `forward` wants them; before the turn, so that a copy overlaps another's forward pass.
    plan : Plan
        Threads and sizes.
    store, fingerprint
        Where results are kept, if anywhere, and under which encoder's name.
    run : Run
        Where counts and times are added.
    """

    preprocess: Callable[[Image.Image], Features]
    forward: Callable[[Any], Features]
    turn: AbstractContextManager[Any]
    plan: Plan
    store: FeatureStore | None
    fingerprint: str
    run: Run
    move: Callable[[Features], Any] = lambda pixels: pixels

    def results(self, images: Sequence[ImageSource]) -> Generator[tuple[list[int], Features | ImageError], None, None]:
        """Positions of equal images and their feature vector or error, as they come; every position exactly once.

        At most ``plan.workers`` chunks are being computed at a time, two more wait, and two are being read, so memory
        does not grow with the number of images. A finished chunk is in the store before the next one starts.
        """
        waiting: dict[bytes, list[tuple[int, str]]] = {}  # the positions that a job will answer, and their names
        pending: deque[Future[list[tuple[bytes, Features | ImageError]]]] = deque()
        chunk: list[_Job] = []
        threads = torch.get_num_threads()
        if isinstance(images, Column):  # in slices, because it takes long to give its rows one by one
            numbered = enumerate(chain.from_iterable(images[i : i + 256] for i in range(0, len(images), 256)))
        else:
            numbered = enumerate(images)
        pool = ThreadPoolExecutor(
            self.plan.workers, "cliplib", initializer=torch.set_num_threads, initargs=(self.plan.threads,)
        )
        ahead: deque[Future[dict[int, _Job | ImageError]]] = deque()
        try:
            while True:
                while len(ahead) < 2 and (group := list(islice(numbered, self.plan.chunk))):
                    ahead.append(pool.submit(self._read, group))
                if not ahead:
                    break
                read = ahead.popleft().result()
                known = self._lookup([job.key for job in read.values() if isinstance(job, _Job)])
                for row, job in read.items():
                    if isinstance(job, ImageError):
                        yield [row], job
                    elif job.key in known:
                        yield [row], known[job.key]
                    elif job.key in waiting:  # the same picture again
                        waiting[job.key].append((row, job.name))
                    else:
                        waiting[job.key] = [(row, job.name)]
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

    def _read(self, group: list[tuple[int, ImageSource]]) -> dict[int, _Job | ImageError]:
        """The pictures' sources by position, and with a store their digests; in a thread."""
        found: dict[int, _Job | ImageError] = {}
        with self.run.clock("read"):
            for row, item in group:
                try:
                    found[row] = job = _job(row, item, hashed=self.store is not None)
                    if self.store is not None:
                        self.run.digests[row] = job.key
                except ImageError as error:
                    found[row] = error
        return found

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
            moved = self.move(batch)
            with self.turn:
                with self.run.clock("forward"):
                    vectors = self.forward(moved)[: len(pixels)]
                if self.store is not None:
                    with self.run.clock("store"):
                        self.store.put(self.fingerprint, keys, vectors)
            results.extend(zip(keys, vectors, strict=True))
        return results

    def _finished(
        self, future: Future[list[tuple[bytes, Features | ImageError]]], waiting: dict[bytes, list[tuple[int, str]]]
    ) -> Iterator[tuple[list[int], Features | ImageError]]:
        results = future.result()
        self.run.computed += sum(not isinstance(result, ImageError) for _, result in results)
        for key, result in results:
            alike = waiting.pop(key)
            if isinstance(result, ImageError):  # each by its own name
                yield from (([row], ImageError(name, result.reason)) for row, name in alike)
            else:
                yield [row for row, _ in alike], result


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
        with _LAZY:
            source = upright_rgb(source, name)
        content = b"%d %d" % source.size + source.tobytes() if hashed else b""
    elif not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise ImageError(name, f"a path, bytes or a PIL image is needed, not {type(source).__name__}")
    elif hashed:
        ispath = isinstance(source, (str, os.PathLike))
        source = content = pictures.read(Path(name), name) if ispath else bytes(cast(bytes, source))
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
