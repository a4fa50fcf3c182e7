"""The cache: an image is decoded once, and results come back as they were."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from cliplib.data import cache as cache_module
from cliplib.data.cache import ImageFunction, ResultCache, map_images
from cliplib.data.image import UnreadableImage, load_image

MEAN = ImageFunction(
    "mean", lambda batch: np.array([[np.mean(image)] for image in batch])
)


@pytest.fixture
def many(tmp_path):
    rng = np.random.default_rng(1)
    paths = []
    for i in range(41):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
        paths.append(path)
    return paths


def test_results_come_in_the_order_of_the_images(many):
    (found,) = map_images(many, MEAN)
    expected = [np.mean(load_image(path)) for path in many]
    np.testing.assert_allclose(found[:, 0], expected)


def test_an_image_is_decoded_once_for_all_functions_and_not_again(many, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        cache_module, "load_image", lambda *a: decoded.append(1) or load_image(*a)
    )
    size = ImageFunction(
        "size", lambda batch: np.array([image.size for image in batch])
    )
    cache = ResultCache()
    first = map_images(many, MEAN, size, cache=cache)
    assert len(decoded) == len(many)
    second = map_images(many, MEAN, size, cache=cache)
    assert len(decoded) == len(many)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()


def test_calls_of_several_threads_leave_torch_as_it_was(many):
    def slow(images):
        time.sleep(0.1)
        return np.zeros((len(images), 1))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(map_images, many[:16], ImageFunction("a", slow))
            time.sleep(0.05)
            second = pool.submit(map_images, many, ImageFunction("b", slow))
            first.result()
            second.result()
        with ThreadPoolExecutor(1) as pool:  # whose thread has no number of its own
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_a_function_may_map_images_itself(many):
    def nested(images):
        (means,) = map_images(images, MEAN)
        return means

    result = []
    call = threading.Thread(
        target=lambda: result.append(map_images(many[:4], ImageFunction("n", nested))),
        daemon=True,  # where it waits for ever, the tests end all the same
    )
    call.start()
    call.join(60)
    assert result and np.array_equal(result[0][0], map_images(many[:4], MEAN)[0])


def test_a_file_that_changed_is_computed_anew(many):
    cache = ResultCache()
    before = map_images(many, MEAN, cache=cache)[0]
    Image.new("RGB", (8, 8), "white").save(many[3])
    after = map_images(many, MEAN, cache=cache)[0]
    assert after[3, 0] == 255
    assert (np.delete(after, 3) == np.delete(before, 3)).all()


def test_an_unreadable_image_stops_the_run_or_is_noted(many):
    many[7].write_bytes(b"broken")
    with pytest.raises(OSError, match=r"7\.png"):
        map_images(many, MEAN)
    errors: dict[int, UnreadableImage] = {}
    (found,) = map_images(many, MEAN, errors=errors)
    assert list(errors) == [7]
    assert "7.png" in str(errors[7])
    assert errors[7].__traceback__ is None  # it would keep images in memory
    assert len(found) == len(many)


def test_an_interruption_keeps_the_batches_that_were_done(many):
    cache, calls = ResultCache(), []

    def interrupted(batch):
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.zeros((len(batch), 1))

    with pytest.raises(KeyboardInterrupt):
        map_images(many, ImageFunction("f", interrupted), cache=cache, batch_size=8)
    done = sum(calls[:2])
    seen = []
    rest = ImageFunction(
        "f", lambda batch: seen.append(len(batch)) or np.zeros((len(batch), 1))
    )
    map_images(many, rest, cache=cache, batch_size=8)
    assert sum(seen) <= len(many) - done


def test_two_processes_may_share_the_cache(tmp_path):
    one, two = ResultCache(tmp_path / "c"), ResultCache(tmp_path / "c")
    one.put({"a": np.array([1.0, 2.0], np.float32)})
    assert two.get(["a", "b"])["a"].tolist() == [1.0, 2.0]


def test_a_cache_that_cannot_be_written_says_what_to_do_and_is_done_without(
    many, tmp_path, caplog
):
    (tmp_path / "c").write_bytes(b"x" * 5000)
    cache, errors = ResultCache(tmp_path / "c"), dict[int, UnreadableImage]()
    (found,) = map_images(many, MEAN, cache=cache, errors=errors, batch_size=2)
    assert not errors
    assert np.array_equal(found, map_images(many, MEAN)[0])
    assert re.search(r"c \(.*set CLIPLIB_CACHE, or make room", caplog.text)
    assert caplog.text.count("everything is computed anew") == 1


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (1, 2, 2)])
def test_arrays_come_back_in_their_shape_and_type(shape):
    cache = ResultCache()
    array = np.arange(np.prod(shape), dtype=np.float16).reshape(shape)
    cache.put({"a": array})
    back = cache.get(["a"])["a"]
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    assert (back == array).all()


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_a_half_cached_run_gives_what_a_fresh_one_does(many, shape):
    def colours(batch):
        means = [np.mean(image) for image in batch]
        return np.array([np.full(shape, mean) for mean in means])

    function, cache = ImageFunction("colours", colours), ResultCache()
    map_images(many[:10], function, cache=cache)
    (half,) = map_images(many, function, cache=cache)
    (fresh,) = map_images(many, function)
    assert half.shape == (len(many), *shape)
    assert (half == fresh).all()


def test_a_function_that_is_new_is_computed_beside_a_cached_one(many):
    size = ImageFunction(
        "size", lambda batch: np.array([image.size for image in batch])
    )
    cache = ResultCache()
    (means,) = map_images(many, MEAN, cache=cache)
    same_means, sizes = map_images(many, MEAN, size, cache=cache)
    assert (same_means == means).all()
    assert sizes.tolist() == [[8, 8]] * len(many)


def test_a_key_is_the_function_and_the_content(many):
    keys = []

    class Spy(ResultCache):
        def put(self, arrays):
            keys.extend(arrays)

    map_images(many[:1], MEAN, cache=Spy())
    digest = hashlib.blake2b(many[0].read_bytes(), digest_size=16).hexdigest()
    assert keys == [f"mean:{digest}"]


def test_errors_are_noted_in_the_order_of_the_images(many):
    for row in (30, 3, 17):
        many[row].write_bytes(b"broken")
    errors: dict[int, UnreadableImage] = {}
    map_images(many, MEAN, errors=errors, batch_size=2)
    assert list(errors) == [3, 17, 30]


def test_an_image_that_cannot_be_read_leaves_zeros_and_the_others_alone(many):
    many[7].write_bytes(b"broken")
    (found,) = map_images(many, MEAN, errors={})
    assert found[7, 0] == 0
    expected = [np.mean(load_image(path)) for path in np.delete(many, 7)]
    np.testing.assert_allclose(np.delete(found[:, 0], 7), expected)


def test_equal_images_are_computed_once(many):
    sizes = []

    def count(batch):
        sizes.append(len(batch))
        return np.zeros((len(batch), 1))

    map_images([many[0]] * 8, ImageFunction("count", count))
    assert sizes == [1]


def test_the_threads_are_given_back(many):
    before = torch.get_num_threads()
    map_images(many, MEAN)
    assert torch.get_num_threads() == before


def test_a_damaged_entry_is_computed_anew_and_healed(many):
    cache = ResultCache()
    (whole,) = map_images(many, MEAN, cache=cache)
    files = sorted(cache.folder.rglob("*.npz"))
    assert len(files) == len(many)
    other = files[-1].read_bytes()
    for number, file in enumerate(files[:-1]):
        content = bytearray(file.read_bytes())
        content[7 * number % len(content)] ^= 255  # a byte flips, here or there
        cuts = {0: b"", 1: content[: len(content) // 2], 2: other}
        file.write_bytes(cuts.get(number, content))
    for _ in range(2):
        (again,) = map_images(many, MEAN, cache=cache)
        assert (again == whole).all()
    keys = [
        MEAN.key(hashlib.blake2b(p.read_bytes(), digest_size=16).hexdigest())
        for p in many
    ]
    assert len(cache.get(keys)) == len(many)


def test_no_flipped_byte_of_an_entry_is_taken_for_the_result(tmp_path):
    cache, array = ResultCache(tmp_path), np.arange(3, dtype=np.float32)
    cache.put({"a": array})
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 129
        file.write_bytes(damaged)
        found = cache.get(["a"]).get("a", array)
        assert found.dtype == array.dtype and (found == array).all()
