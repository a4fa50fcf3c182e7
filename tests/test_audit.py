"""Planted copies are found, and nothing else; what a table says is what was planted."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter

from cliplib.features.audit import Audit, audit_dataset
from cliplib.features.duplicates import (
    MAX_DISTANCE,
    MIN_CORRELATION,
    find_near_duplicates,
    near_duplicate_groups,
)
from cliplib.features.hamming import close_hashes
from cliplib.features.hashes import (
    HASH_RECORD,
    ORIENTATIONS,
    hash_records,
    image_hash,
    quantised_detail,
)
from study.leaks import summary_by_level

CLASSES = ["cat", "dog"]
TURN = Image.Transpose


@cache
def blobs(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Blobs of several sizes and colours, as different from each other as photos."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((size[1], size[0], 3))
    field = np.sum(
        [gaussian_filter(noise, (s, s, 0)) * s for s in (2, 5, 12, 30)], axis=0
    )
    field = (field - field.min()) / (field.max() - field.min())
    return Image.fromarray((30 + 190 * field).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=quality)
    return buffer.getvalue()


def folder(root: Path, files: Sequence[tuple[str, bytes, str]]) -> datasets.Dataset:
    """Make a data set of (id, content, split); the class is the folder."""
    for name, content, _ in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    columns = {
        "image": [{"path": str(root / name), "bytes": None} for name, _, _ in files],
        "label": [CLASSES.index(name.split("/")[0]) for name, _, _ in files],
        "id": [name for name, _, _ in files],
        "split": [split for _, _, split in files],
    }
    features = datasets.Features(
        image=datasets.Image(decode=False),
        label=datasets.ClassLabel(names=CLASSES),
        id=datasets.Value("string"),
        split=datasets.Value("string"),
    )
    return datasets.Dataset.from_dict(columns, features=features)


def hashes(*images: Image.Image) -> NDArray[np.uint8]:
    return image_hash.function(list(images))


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = (round(side * share / 2) for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


PLANTS: dict[str, Callable[[Image.Image], bytes]] = {
    "bytes": encoded,
    "pixels": lambda image: encoded(Image.open(io.BytesIO(encoded(image))), "PNG"),
    "mirrored": lambda image: encoded(ImageOps.mirror(image)),
    "flipped": lambda image: encoded(ImageOps.flip(image)),
    "turned 180°": lambda image: encoded(image.transpose(TURN.ROTATE_180)),
    "turned 90° left": lambda image: encoded(image.transpose(TURN.ROTATE_90)),
    "turned 90° right": lambda image: encoded(image.transpose(TURN.ROTATE_270)),
    "transposed": lambda image: encoded(image.transpose(TURN.TRANSPOSE)),
    "transversed": lambda image: encoded(image.transpose(TURN.TRANSVERSE)),
    "brightened": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.2)),
    "contrasted": lambda image: encoded(ImageEnhance.Contrast(image).enhance(1.3)),
    "sharpened": lambda image: encoded(image.filter(ImageFilter.UnsharpMask(2, 80, 0))),
    "reencoded": lambda image: encoded(image, quality=50),
    "resized": lambda image: encoded(image.resize((112, 84))),
    "squashed": lambda image: encoded(image.resize((96, 96))),
    "cropped": lambda image: encoded(cropped(image, 0.01)),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Four originals with every kind of copy, and forty images without one."""
    files = []
    for k in range(4):
        files.append((f"cat/original{k}.jpg", encoded(blobs(k)), "train"))
        for kind, plant in PLANTS.items():
            files.append((f"cat/{kind}{k}.jpg", plant(blobs(k)), "train"))
    files += [
        (f"dog/single{k}.jpg", encoded(blobs(100 + k)), "train") for k in range(40)
    ]
    return audit_dataset(folder(tmp_path_factory.mktemp("planted"), files))


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_copy_is_paired_with_its_original(planted: Audit, kind: str) -> None:
    pairs = planted.pairs.set_index(["id_a", "id_b"])
    for k in range(4):
        row = pairs.loc[(f"cat/original{k}.jpg", f"cat/{kind}{k}.jpg")]
        assert row["kind"] == ("exact" if kind in ("bytes", "pixels") else "near")
        assert row["orientation"] == (kind if kind in ORIENTATIONS else "")


def test_nothing_else_is_paired(planted: Audit) -> None:
    cats = planted.images[planted.images["label"] == "cat"]
    assert (cats["group"].groupby(cats["id"].str[-5]).nunique() == 1).all()
    counts = planted.summary["count"]
    assert counts["groups"] == 4 + 40
    assert counts["groups_of_several"] == 4
    assert counts["byte_copies"] == 4
    assert counts["exact_copies"] == 8
    near = planted.pairs[planted.pairs["kind"] == "near"]
    by_orientation = near["orientation"].value_counts()
    assert counts["near_pairs"] == by_orientation[""]
    assert counts["mirrored_pairs"] == by_orientation["mirrored"]
    assert counts["turned_pairs"] == by_orientation.drop(["", "mirrored"]).sum()
    assert (
        counts["unreadable"] == counts["label_conflicts"] == counts["test_leaks"] == 0
    )


def test_the_hash_is_that_of_imagehash() -> None:
    image = blobs(3, (64, 64))
    stored = np.unpackbits(hashes(image)[0, 16 : 16 + 256]).reshape(8, 16, 16)
    by_orientation = dict(zip(ORIENTATIONS, stored.astype(bool), strict=True))
    turned = {
        "": image,
        "mirrored": ImageOps.mirror(image),
        "turned 180°": image.transpose(TURN.ROTATE_180),
        "turned 90° left": image.transpose(TURN.ROTATE_90),
    }
    for orientation, other in turned.items():
        expected = imagehash.phash(other, hash_size=16).hash
        assert np.array_equal(by_orientation[orientation], expected), orientation


def test_the_detail_is_the_image_without_light_and_local_contrast() -> None:
    """Hashes are kept by the name of what made them: it has to go on making these."""
    image = blobs(3, (300, 200))
    small = image.convert("L").resize((64, 64), Image.Resampling.LANCZOS)
    grey = np.asarray(small, float)
    fine = grey - gaussian_filter(grey, 1)
    fine /= np.sqrt(gaussian_filter(fine**2, 1)) + 16
    expected = np.rint(127 * fine / np.abs(fine).max())
    record = hash_records(hashes(image))
    assert image_hash.name == "image_hash_3"
    assert np.abs(record["grey"][0].astype(float) - grey).max() <= 4
    assert (quantised_detail(record["grey"])[0] == expected).mean() > 0.9


@pytest.mark.parametrize("noise", [1, 40])
def test_the_correlation_that_makes_a_copy_is_held_from_both_sides(noise: int) -> None:
    """Noise is added to the grey levels: a little leaves the detail, much does not."""
    rng = np.random.default_rng(0)
    rows = hashes(blobs(0), blobs(0))
    records = hash_records(rows)
    records["digest"][1] = b"other pixels"  # so that the copy is not exact
    noisy = records["grey"][1] + noise * rng.standard_normal((64, 64))
    records["grey"][1] = np.clip(noisy, 0, 255)
    detail = quantised_detail(records["grey"]).reshape(2, -1)
    correlation = np.corrcoef(detail)[0, 1]
    pairs = find_near_duplicates(rows, cropped=False)
    assert len(pairs) == (correlation > MIN_CORRELATION) == (noise == 1)


def test_a_pair_that_just_reaches_the_correlation_is_one() -> None:
    rows = hashes(blobs(0), blobs(0).resize((90, 70)))
    least = float(find_near_duplicates(rows)["correlation"].iloc[0])
    assert least < 1
    assert len(find_near_duplicates(rows, copies=least)) == 1
    above = float(np.nextafter(np.float32(least), np.float32(1)))
    assert len(find_near_duplicates(rows, copies=above)) == 0


@pytest.mark.parametrize("distance", [72, 73])
def test_the_distance_that_proposes_a_copy_is_held_from_both_sides(
    distance: int,
) -> None:
    rows = hashes(blobs(0), blobs(0))
    rows[1, :16] += 1
    bits = np.unpackbits(rows[1, 16:272].reshape(8, 32), axis=1)
    bits[:, :distance] ^= 1
    rows[1, 16:272] = np.packbits(bits, axis=1).ravel()
    pairs = find_near_duplicates(rows, cropped=False)
    assert len(pairs) == (distance <= 72)


def test_images_alike_in_layout_only_are_no_copies() -> None:
    """As slices through one head are: hashes are close, but the detail differs."""
    alike = []
    for seed in (2, 3):
        noise = np.random.default_rng(seed).standard_normal((120, 160, 1))
        fine = gaussian_filter(noise, (1.5, 1.5, 0)) - gaussian_filter(noise, (3, 3, 0))
        alike.append(
            Image.fromarray(np.clip(blobs(1) + 40 * fine, 0, 255).astype(np.uint8))
        )
    assert near_duplicate_groups(hashes(*alike)).tolist() == [0, 1]


def test_blank_images_are_copies_of_their_equals_only() -> None:
    blanks = [
        Image.new("RGB", (50, 40), c) for c in ("black", "white", "black", "grey")
    ]
    pairs = find_near_duplicates(hashes(*blanks))
    assert pairs[["index_a", "index_b", "kind"]].to_numpy().tolist() == [
        [0, 2, "exact"]
    ]


def test_a_symmetric_image_and_its_copy_make_one_pair() -> None:
    half = np.asarray(blobs(1, (80, 120)))
    whole = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    copy = Image.open(io.BytesIO(encoded(whole)))
    assert len(find_near_duplicates(hashes(whole, copy))) == 1
    assert len(find_near_duplicates(hashes(whole), hashes(copy, whole))) == 2


def test_the_first_of_equal_images_stands_for_all() -> None:
    a, b = blobs(0), ImageOps.mirror(blobs(0)).resize((150, 110))
    pairs = find_near_duplicates(hashes(a, a, b, a, b))
    found = pairs[["index_a", "index_b", "kind", "orientation"]].to_numpy().tolist()
    exact, near = ["exact", ""], ["near", "mirrored"]
    assert found == [[0, 1, *exact], [0, 2, *near], [0, 3, *exact], [2, 4, *exact]]
    assert list(pairs.index) == [0, 1, 2, 3]


def test_unreadable_images_match_nothing() -> None:
    rows = hashes(blobs(0), blobs(1), blobs(0))
    rows = np.concatenate([np.zeros((2, rows.shape[1]), np.uint8), rows])
    assert near_duplicate_groups(rows).tolist() == [0, 1, 2, 3, 2]
    assert (
        len(find_near_duplicates(rows[:2]))
        == len(find_near_duplicates(rows[:2], rows))
        == 0
    )


def test_no_images_have_no_copies() -> None:
    assert find_near_duplicates([]).empty
    assert find_near_duplicates(hashes(blobs(0)), []).empty


def test_a_quarter_turn_is_named_from_the_first_collection_to_the_second() -> None:
    image = blobs(7)
    left = image.transpose(TURN.ROTATE_90)
    pairs = find_near_duplicates(hashes(image), hashes(left))
    assert pairs["orientation"].tolist() == ["turned 90° left"]
    back = find_near_duplicates(hashes(left), hashes(image))
    assert back["orientation"].tolist() == ["turned 90° right"]


def test_near_duplicates_between_two_collections() -> None:
    images = [blobs(k) for k in range(6)]
    corpus = hashes(images[0], images[1], images[2], images[0], images[5])
    flipped, small = ImageOps.mirror(images[1]), images[2].resize((90, 70))
    evaluation = hashes(images[0], flipped, small, images[3])
    pairs = find_near_duplicates(corpus, evaluation)
    columns = ["index_a", "index_b", "kind", "orientation"]
    assert pairs[columns].to_numpy().tolist() == [
        [0, 0, "exact", ""],
        [1, 1, "near", "mirrored"],
        [2, 2, "near", ""],
        [3, 0, "exact", ""],
    ]
    none = find_near_duplicates(corpus, evaluation[3:])
    assert len(none) == 0 and (none.dtypes == pairs.dtypes).all()


def every_pair_compared(a: NDArray[Any], b: NDArray[Any] | None) -> list[list[Any]]:
    """The search as it is defined: all distances, in all orientations, by brute force.

    Returns index_a, index_b, orientation and correlation, of images of other pixels.
    """
    ours = np.ascontiguousarray(a).view(HASH_RECORD)[:, 0]
    theirs = ours if b is None else np.ascontiguousarray(b).view(HASH_RECORD)[:, 0]
    detail = quantised_detail(ours["grey"])
    other_detail = quantised_detail(theirs["grey"])
    best: dict[tuple[int, int], tuple[float, str]] = {}
    for number, (name, orient) in enumerate(ORIENTATIONS.items()):
        bits_a = np.unpackbits(ours["bits"][:, number].copy().view(np.uint8), axis=1)
        bits_b = np.unpackbits(theirs["bits"][:, 0].copy().view(np.uint8), axis=1)
        for i, bits in enumerate(bits_a):
            distance = (bits != bits_b).sum(axis=1)
            for j in np.flatnonzero(distance <= MAX_DISTANCE):
                if ours["digest"][i] == theirs["digest"][j] or (b is None and j <= i):
                    continue
                pixels = [orient(detail[i]), other_detail[j]]
                with np.errstate(invalid="ignore"):  # of flat images
                    correlation = np.corrcoef(*(p.ravel() for p in pixels))
                found = correlation[0, 1], name
                if found[0] >= MIN_CORRELATION and found[0] > best.get((i, j), (0,))[0]:
                    best[i, j] = found
    return [[*pair, name, value] for pair, (value, name) in sorted(best.items())]


def test_the_search_finds_what_comparing_every_pair_finds() -> None:
    rng = np.random.default_rng(0)
    images = [blobs(seed) for seed in range(60)]
    for _ in range(60):  # copies, lighter, a little turned, in any orientation
        image = images[rng.integers(60)].transpose(TURN(int(rng.integers(7))))
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.4))
        images.append(image.rotate(rng.uniform(-1.5, 1.5), Image.Resampling.BICUBIC))
    flat = [Image.new("RGB", (80, 60), (k, k, k)) for k in (0, 128)]  # odd medians
    lines = Image.fromarray(np.tile(np.arange(160, dtype=np.uint8), (120, 1)))
    images += [*flat, lines.convert("RGB"), lines.transpose(TURN.ROTATE_90)]
    hashes = image_hash.function([image.convert("RGB") for image in images])
    for other in (None, hashes[90:]):
        mine = hashes if other is None else hashes[:100]
        expected = every_pair_compared(mine, other)
        pairs = find_near_duplicates(mine, other, cropped=False)
        near = pairs[pairs["kind"] == "near"]
        columns = ["index_a", "index_b", "orientation"]
        assert near[columns].to_numpy().tolist() == [row[:3] for row in expected]
        found = near["correlation"].to_numpy()
        np.testing.assert_allclose(found, [row[3] for row in expected], atol=1e-5)
    assert near["orientation"].nunique() > 4


def test_a_correlation_does_not_depend_on_the_images_beside_it() -> None:
    images = [blobs(k) for k in range(80)]
    smaller = [image.resize((90, 70)) for image in images]
    rows = hashes(*images, *smaller)
    together = find_near_duplicates(rows).set_index(["index_a", "index_b"])
    for k in (0, 41):
        alone = find_near_duplicates(rows[[k, k + 80]])
        assert alone["correlation"].tolist() == [together["correlation"][k, k + 80]]


def test_look_alikes_are_yielded_in_pieces() -> None:
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.integers(0, 2**63, (1, 8, 4), dtype=np.uint64), 700, axis=0)
    alike[:, :, 0] ^= np.uint64(1) << rng.integers(0, 64, (700, 1), dtype=np.uint64)
    found = list(close_hashes(alike, alike[:, 0], MAX_DISTANCE, within=True))
    assert max(len(rows_a) for rows_a, *_ in found) < 100_000
    rows = np.concatenate([np.array(part[:2]).T for part in found])
    pairs = np.unique(rows, axis=0)
    assert len(rows) == len(pairs) == 700 * 699 / 2
    assert (pairs[:, 0] < pairs[:, 1]).all()


def test_many_images_are_compared_in_pieces() -> None:
    rng = np.random.default_rng(0)
    small = [
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(180)
    ]
    darker = [ImageEnhance.Brightness(image).enhance(0.9) for image in small]
    rows = hashes(*small, *darker, *map(ImageOps.mirror, small))
    pairs = find_near_duplicates(rows)
    expected = {
        (k + i, k + j) for k in range(180) for i, j in ((0, 180), (0, 360), (180, 360))
    }
    assert set(zip(pairs["index_a"], pairs["index_b"], strict=True)) == expected
    across = find_near_duplicates(rows[:180], rows[180:])
    assert across["orientation"].value_counts().to_dict() == {"": 180, "mirrored": 180}


def test_label_conflicts_and_leaks(tmp_path: Path) -> None:
    images = [blobs(k) for k in range(6)]
    files = [
        ("cat/0.jpg", encoded(images[0]), "train"),
        ("cat/1.jpg", encoded(images[1]), "train"),
        ("cat/2.jpg", encoded(images[2]), "test"),
        ("cat/3.jpg", encoded(images[3]), "val"),
        ("cat/4.jpg", encoded(images[4]), ""),
        (
            "dog/0.jpg",
            encoded(images[0]),
            "test",
        ),  # same file, other label, other split
        ("dog/1.jpg", encoded(ImageOps.mirror(images[1])), "test"),
        ("dog/2.jpg", encoded(images[2], quality=60), "test"),  # same split: no leak
        ("dog/3.jpg", encoded(images[3], quality=60), "test"),  # from val into test
        (
            "dog/4.jpg",
            encoded(images[4], quality=60),
            "test",
        ),  # its copy is in no split
        ("dog/5.jpg", encoded(images[5]), "test"),
    ]
    found = audit_dataset(folder(tmp_path, files))
    conflicts = found.pairs[~found.pairs["same_label"]]
    assert conflicts["id_a"].tolist() == [f"cat/{k}.jpg" for k in range(5)]
    assert conflicts["id_b"].tolist() == [f"dog/{k}.jpg" for k in range(5)]
    counts = found.summary["count"]
    assert counts["label_conflicts"] == 5
    assert counts["test_leaks"] == 3  # of the files dog/0.jpg, dog/1.jpg and dog/3.jpg
    by_level = summary_by_level(found)
    levels = ["bytes", "exact", "near", "reoriented"]
    assert [by_level[f"test_leaks_{level}"] for level in levels] == [1, 1, 2, 3]
    assert by_level.index.name == counts.index.name and "test_leaks" not in by_level


def test_a_leak_is_seen_though_the_first_copy_is_in_the_test_split(
    tmp_path: Path,
) -> None:
    same = encoded(blobs(0))
    files = [
        ("cat/0.jpg", same, "test"),
        ("cat/1.jpg", same, "train"),
        ("dog/2.jpg", same, "test"),
    ]
    found = audit_dataset(folder(tmp_path, files))
    assert found.summary.at["test_leaks", "count"] == 2
    assert summary_by_level(found)["test_leaks_bytes"] == 2


def test_equal_files_leak_though_no_copies_are_sought(tmp_path: Path) -> None:
    same = encoded(blobs(0))
    files = [
        ("cat/0.jpg", same, "train"),
        ("cat/1.jpg", same, "test"),
        ("cat/2.jpg", encoded(blobs(0), quality=60), "test"),  # other bytes
        ("dog/3.jpg", b"", "train"),
        ("dog/4.jpg", b"", "test"),  # no more readable than the one before
    ]
    dataset = folder(tmp_path, files)
    for copies, n_leaks in {"off": 1, "near": 2}.items():
        found = audit_dataset(dataset, copies=copies)
        assert found.summary.at["test_leaks", "count"] == n_leaks


def test_unreadable_files_stay_in_the_table(tmp_path: Path) -> None:
    good = encoded(blobs(0))
    files = [
        ("cat/good.jpg", good, "train"),
        ("cat/cut.jpg", good[: len(good) // 2], "train"),
        ("dog/none.jpg", b"", "test"),
        ("dog/text.png", b"no image", "test"),
        (
            "dog/png.jpg",
            encoded(blobs(1), "PNG"),
            "test",
        ),  # what a file is decides, not its name
    ]
    dataset = folder(tmp_path, files)
    found = audit_dataset(dataset)
    assert (found.images["error"] != "").tolist() == [False, True, True, True, False]
    assert "cut.jpg" in found.images["error"][1]
    assert found.images["format"].tolist()[::4] == ["JPEG", "PNG"]
    assert found.summary["count"]["unreadable"] == 3
    assert found.images["group"].tolist() == [0, 1, 2, 3, 4]
    assert summary_by_level(found)["test_leaks_bytes"] == 0
    with pytest.raises(ValueError, match=r"No image can be read.*text\.png"):
        audit_dataset(dataset.select([3]))


def test_a_validation_image_leaks_from_training_and_a_test_image_from_both(
    tmp_path: Path, photo: Image.Image
) -> None:
    content = encoded(photo)
    other = encoded(photo.rotate(7).crop((80, 60, 320, 240)))
    files = [
        ("cat/0.jpg", content, "val"),
        ("cat/1.jpg", content, "train"),
        ("cat/2.jpg", other, "val"),
        ("cat/3.jpg", other, "test"),
        ("cat/4.jpg", other, ""),
        ("dog/5.jpg", content, ""),
    ]
    found = audit_dataset(folder(tmp_path, files))
    assert found.summary.at["val_leaks", "count"] == 1  # the file cat/0.jpg
    assert found.summary.at["test_leaks", "count"] == 1  # the file cat/3.jpg


def test_fields_do_not_depend_on_the_order_of_what_files_say(planted: Audit) -> None:
    turned = planted.images[planted.images.columns[::-1]]
    fields = Audit(turned, planted.pairs, planted.summary).fields
    assert sorted(fields) == sorted(planted.fields)
    assert "mode" in fields and "bytes" not in fields
