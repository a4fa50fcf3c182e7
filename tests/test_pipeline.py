"""The pipeline by itself: order, equal pictures, errors, how far it reads ahead, and how it stops."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliplib.data.images import decode
from cliplib.encoder.hardware import Plan
from cliplib.encoder.pipeline import Extraction, Run, upright_rgb
from cliplib.errors import CliplibError, ImageError
from cliplib.store import FeatureStore


def grey(level: int) -> bytes:
    """A PNG file of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(file, "PNG")
    return file.getvalue()


class Counter:
    """Stands in for a model: a picture's feature is its level; counts what it computes."""

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []
        self.sizes: set[int] = set()
        self.lock = threading.Lock()

    def forward(self, pixels: np.ndarray) -> np.ndarray:
        with self.lock:
            self.sizes.add(len(pixels))
            self.chunks.append([int(value) for value in pixels[:, 0, 0, 0] if value])  # the last chunk is filled with 0
        return pixels[:, 0, 0, :1].copy()

    def levels(self) -> list[int]:
        return [level for chunk in self.chunks for level in chunk]

    def steps(self, store: FeatureStore | None = None, **plan: int) -> Extraction:
        sizes = {"chunk": 3, "workers": 2, "threads": 1, **plan}
        return Extraction(
            preprocess=lambda image: np.asarray(image, dtype=np.float32).transpose(2, 0, 1), forward=self.forward,
            turn=nullcontext(), plan=Plan(**sizes), store=store, fingerprint="f", run=Run(),
        )  # fmt: skip


def collect(steps: Extraction, images: Sequence[Any]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for rows, result in steps.results(images):
        for row in rows:
            assert row not in found
            found[row] = result if isinstance(result, ImageError) else float(result[0])
    return found


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 50])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_position_once(n: int, workers: int) -> None:
    counter = Counter()
    found = collect(counter.steps(workers=workers), [grey(i + 1) for i in range(n)])
    assert found == {i: i + 1 for i in range(n)}
    assert counter.sizes <= {3}  # one shape for all, so that rounding is the same for all


def test_equal_pictures_are_computed_once_with_a_store(tmp_path: Path) -> None:
    levels = [5, 6, 5, 7, 5, 6, 8, 8, 8, 5]
    with FeatureStore(tmp_path / "f.sqlite") as store:
        counter = Counter()
        steps = counter.steps(store)
        assert collect(steps, [grey(level) for level in levels]) == dict(enumerate(levels))
        assert sorted(counter.levels()) == [5, 6, 7, 8]
        assert steps.run.computed == len(store) == 4
        again = Counter()
        assert collect(again.steps(store), [grey(9), *(grey(level) for level in levels)])[0] == 9
        assert again.chunks == [[9]]


def test_digest_and_pixels_are_of_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "changes.png"
    file.write_bytes(grey(1))

    class Changing(Sequence[Any]):  # the file changes as soon as it was read
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: Any) -> Any:
            raise IndexError

        def __iter__(self) -> Iterator[Any]:
            yield file
            yield file

    with FeatureStore(tmp_path / "f.sqlite") as store:
        numbered = iter(Changing())
        steps = Counter().steps(store, chunk=1, workers=1)
        results = steps.results([next(numbered)])
        (_, first) = next(results)
        file.write_bytes(grey(2))
        results.close()
        assert float(first[0]) == 1
        assert collect(Counter().steps(store), [file, grey(1)]) == {0: 2, 1: 1}


def test_unreadable_pictures_have_their_place(tmp_path: Path) -> None:
    empty = {"path": "x.jpg", "bytes": b""}
    images: list[Any] = [grey(0), b"no picture", grey(2), tmp_path / "missing.png", None, empty]
    for store in (None, FeatureStore(tmp_path / "f.sqlite")):
        found = collect(Counter().steps(store), images)
        assert (found[0], found[2]) == (0, 2)
        assert {row for row, result in found.items() if isinstance(result, ImageError)} == {1, 3, 4, 5}
        assert found[1].path == "<image 1>"
        assert found[3].path == str(tmp_path / "missing.png")
        assert "not NoneType" in found[4].reason
        assert found[5].path == "x.jpg"


def test_a_row_of_the_whole_data_set_is_refused() -> None:
    with pytest.raises(CliplibError, match="give the image column"):
        collect(Counter().steps(), [{"image": {"path": "x", "bytes": None}, "label": 1}])


def test_reads_only_a_little_ahead() -> None:
    read, done, most = 0, 0, 0

    class Many(Sequence[Any]):
        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: Any) -> Any:
            raise IndexError

        def __iter__(self) -> Iterator[Any]:
            nonlocal read
            for i in range(200):
                read += 1
                yield grey(i)

    for rows, _ in Counter().steps(chunk=3, workers=2).results(Many()):
        most = max(most, read - done)
        done += len(rows)
    assert done == 200
    assert most <= (2 + 3 + 2) * 3  # two chunks computed, two waiting, one being filled, two being read


def test_stops_at_once_and_restores_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    counter = Counter()
    with FeatureStore(tmp_path / "f.sqlite") as store:
        results = counter.steps(store).results([grey(i + 1) for i in range(200)])
        next(results)
        results.close()
        computed = counter.levels()
        assert len(computed) < 60
        assert len(store) == len(computed)  # what was computed is kept
    assert torch.get_num_threads() == before


def test_a_batch_is_moved_before_its_turn() -> None:
    holder: list[int] = []

    class Turn(threading.local):
        def __enter__(self) -> None:
            lock.acquire()
            holder.append(threading.get_ident())

        def __exit__(self, *_: object) -> None:
            holder.pop()
            lock.release()

    lock, moved = threading.Lock(), []

    def move(pixels: np.ndarray) -> np.ndarray:
        moved.append(threading.get_ident() not in holder)
        return pixels

    steps = replace(Counter().steps(), turn=Turn(), move=move)
    assert len(collect(steps, [grey(i) for i in range(30)])) == 30
    assert moved == [True] * 10


def test_an_error_of_the_model_reaches_the_caller() -> None:
    class Broken(Counter):
        def forward(self, pixels: np.ndarray) -> np.ndarray:
            raise CliplibError("no.")

    with pytest.raises(CliplibError, match=r"^no\.$"):
        collect(Broken().steps(), [grey(i) for i in range(20)])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_pil_images_equal_their_files(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    image = rgb.convert("L").convert(mode) if mode in ("I;16", "F", "LA", "PA") else rgb.convert(mode)
    suffix = "tif" if mode in ("CMYK", "YCbCr", "I;16", "F", "LA") else "png"
    if mode == "PA":
        image, suffix = image.convert("P"), "png"
    exif = Image.Exif()
    exif[0x0112] = 6
    # Compressed, because Pillow 13 forgets to turn an uncompressed TIFF that it opens by its path.
    packed = {"compression": "tiff_lzw"} if suffix == "tif" else {}
    image.save(tmp_path / f"x.{suffix}", exif=exif, **packed)
    with Image.open(tmp_path / f"x.{suffix}") as lazy:
        ours = upright_rgb(lazy, "x")
    assert ours.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(decode(tmp_path / f"x.{suffix}")))


def test_damaged_pil_image_names_its_file(tmp_path: Path) -> None:
    file = tmp_path / "cut.png"
    file.write_bytes(grey(3)[:-25])
    with Image.open(file) as lazy, pytest.raises(ImageError, match=r"cut\.png': it is damaged"):
        upright_rgb(lazy, "x")


def test_run_says_where_time_goes() -> None:
    steps = Counter().steps()
    collect(steps, [grey(i) for i in range(9)])
    assert set(steps.run.seconds) == {"read", "decode", "preprocess", "forward"}
    assert "9 computed, 0 unreadable (read 0." in str(steps.run)
