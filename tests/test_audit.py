"""Planted copies are found, and nothing else; what a table says is what was planted (audit and twins)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter

from cliplib.audit import LEVELS, Audit, audit, find_twins, sequence_groups, twins
from cliplib.errors import CliplibError

CLASSES = ("cat", "dog")
PAIR_COLUMNS = ["id_a", "id_b", "kind", "mirrored", "same_bytes", "correlation", "hash_distance", "label_a", "label_b",
                "label_conflict", "split_a", "split_b", "split_leak", "group"]  # fmt: skip
LEAK_COLUMNS = ["id", "label", "split", "level", "twin_id", "twin_label", "twin_split", "group"]


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Blobs of several sizes and colours: as different from each other as photos are, and no flatter."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((size[1], size[0], 3))
    field = sum(gaussian_filter(noise, (s, s, 0)) * s for s in (2, 5, 12, 30))
    assert isinstance(field, np.ndarray)
    field = (field - field.min()) / (field.max() - field.min())
    return Image.fromarray((30 + 190 * field).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, files: list[tuple[str, bytes, str]]) -> datasets.Dataset:
    """Data set of (id, content, split); the class is the folder."""
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
        label=datasets.ClassLabel(names=list(CLASSES)),
        id=datasets.Value("string"),
        split=datasets.Value("string"),
    )
    return datasets.Dataset.from_dict(columns, features=features)


def look(dataset: datasets.Dataset, **settings: object) -> Audit:
    return audit(dataset, progress=False, n_jobs=2, **settings)  # type: ignore[arg-type]


PLANTS: dict[str, Callable[[Image.Image], bytes]] = {
    "bytes": lambda image: jpeg(image),
    "pixels": lambda image: png(Image.open(io.BytesIO(jpeg(image)))),
    "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
    "brightened": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.2)),
    "darkened": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.7)),
    "contrasted": lambda image: jpeg(ImageEnhance.Contrast(image).enhance(1.3)),
    "sharpened": lambda image: jpeg(image.filter(ImageFilter.UnsharpMask(2, 80, 0))),
    "reencoded": lambda image: jpeg(image, quality=50),
    "resized": lambda image: jpeg(image.resize((112, 84))),
    "squashed": lambda image: jpeg(image.resize((96, 96))),
    "grey": lambda image: jpeg(image.convert("L")),
    "mirrored_bright": lambda image: jpeg(ImageEnhance.Brightness(ImageOps.mirror(image)).enhance(1.15), quality=70),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[datasets.Dataset, Audit]:
    """Four originals with every kind of copy, and forty pictures without one."""
    files = []
    for k in range(4):
        image = picture(k)
        files.append((f"cat/original{k}.jpg", jpeg(image), "train"))
        files.extend((f"cat/{kind}{k}.jpg", plant(image), "train") for kind, plant in PLANTS.items())
    files.extend((f"dog/single{k}.jpg", jpeg(picture(100 + k)), "train") for k in range(40))
    dataset = folder(tmp_path_factory.mktemp("planted"), files)
    return dataset, look(dataset)


def test_every_planted_copy_is_found_and_nothing_else(planted: tuple[datasets.Dataset, Audit]) -> None:
    dataset, found = planted
    groups = dict(zip(dataset["id"], found.groups, strict=True))
    for k in range(4):
        family = [name for name in groups if name.startswith("cat/") and name.endswith(f"{k}.jpg")]
        assert {groups[name] for name in family} == {groups[f"cat/original{k}.jpg"]}
    assert len(set(found.groups)) == 4 + 40
    assert found.summary["count"]["groups"] == 44
    assert found.summary["count"]["groups_of_several"] == 4
    assert found.summary["count"]["largest_group"] == 1 + len(PLANTS)


@pytest.mark.parametrize("kind", PLANTS)
def test_each_copy_is_tied_to_its_original_directly(planted: tuple[datasets.Dataset, Audit], kind: str) -> None:
    pairs = planted[1].pairs
    for k in range(4):
        pair = pairs[(pairs["id_a"] == f"cat/original{k}.jpg") & (pairs["id_b"] == f"cat/{kind}{k}.jpg")]
        assert len(pair) == 1
        row = pair.iloc[0]
        assert row["kind"] == ("exact" if kind in ("bytes", "pixels") else "near")
        assert row["same_bytes"] == (kind == "bytes")
        assert row["mirrored"] == kind.startswith("mirrored")
        assert row["correlation"] >= twins.MIN_CORRELATION
        assert not row["label_conflict"] and not row["split_leak"]


def test_counts_of_copies(planted: tuple[datasets.Dataset, Audit]) -> None:
    count = planted[1].summary["count"]
    assert count["byte_copies"] == 4
    assert count["exact_copies"] == 8
    assert count["extension_lies"] == 4  # the PNG under the name of a JPEG
    assert count["modes"] == 2
    assert count["unreadable"] == count["label_conflicts"] == count["test_leaks_mirrored"] == 0


def test_without_near_only_exact_copies_remain(planted: tuple[datasets.Dataset, Audit]) -> None:
    found = look(planted[0], near=False)
    assert set(found.pairs["kind"]) == {"exact"}
    assert len(found.pairs) == found.summary["count"]["exact_copies"] == 8
    assert list(found.pairs.columns) == PAIR_COLUMNS


def test_the_number_of_threads_changes_nothing(planted: tuple[datasets.Dataset, Audit]) -> None:
    alone = audit(planted[0], progress=False, n_jobs=1)
    pd.testing.assert_frame_equal(alone.pairs, planted[1].pairs)
    pd.testing.assert_frame_equal(alone.images, planted[1].images)


def test_a_symmetric_picture_and_its_mirrored_copy_make_one_pair(tmp_path: Path) -> None:
    half = np.asarray(picture(1, (80, 120)))
    whole = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    files = [("cat/a.png", png(whole), ""), ("cat/b.jpg", jpeg(whole), ""), ("cat/c.png", png(picture(2)), "")]
    found = look(folder(tmp_path, files))
    assert found.pairs[["id_a", "id_b"]].to_numpy().tolist() == [["cat/a.png", "cat/b.jpg"]]


def test_pictures_alike_in_layout_only_are_no_copies() -> None:
    """As slices through one head are: the hashes are close, but the detail differs."""
    layout = np.asarray(picture(1)).astype(int)
    alike = []
    for seed in (2, 3):
        noise = np.random.default_rng(seed).standard_normal((120, 160, 1))
        fine = gaussian_filter(noise, (1.5, 1.5, 0)) - gaussian_filter(noise, (3, 3, 0))
        alike.append(Image.fromarray(np.clip(layout + 40 * fine, 0, 255).astype(np.uint8)))
    prints = twins.take_prints(alike, progress=False, n_jobs=1)
    assert len(twins.near_pairs(prints, min_correlation=-1.0)) == 1
    assert len(twins.near_pairs(prints)) == 0


def test_blank_pictures_are_copies_only_of_their_equals(tmp_path: Path) -> None:
    blanks = [("a", "black"), ("b", "white"), ("c", "black"), ("d", "grey")]
    found = look(folder(tmp_path, [(f"cat/{k}.png", png(Image.new("RGB", (50, 40), c)), "") for k, c in blanks]))
    assert found.pairs[["id_a", "id_b", "kind"]].to_numpy().tolist() == [["cat/a.png", "cat/c.png", "exact"]]


def test_label_conflicts_and_leaks(tmp_path: Path) -> None:
    images = [picture(k) for k in range(6)]
    mirrored = ImageOps.mirror(images[1])
    found = look(
        folder(
            tmp_path,
            [
                ("cat/0.jpg", jpeg(images[0]), "train"),
                ("cat/1.jpg", jpeg(images[1]), "train"),
                ("cat/2.jpg", jpeg(images[2]), "test"),
                ("cat/3.jpg", jpeg(images[3]), "val"),
                ("cat/4.jpg", jpeg(images[4]), ""),
                ("dog/0.jpg", jpeg(images[0]), "test"),  # same file, other label, other split
                ("dog/1.jpg", jpeg(mirrored), "test"),
                ("dog/2.jpg", jpeg(images[2], 60), "test"),  # same split: a conflict, no leak
                ("dog/3.jpg", jpeg(images[3], 60), "test"),  # from val into test
                ("dog/4.jpg", jpeg(images[4], 60), "test"),  # its twin is in no split
                ("dog/5.jpg", jpeg(images[5]), "test"),
            ],
        )
    )
    assert found.conflicts["id_a"].tolist() == [f"cat/{k}.jpg" for k in range(5)]
    assert found.conflicts["id_b"].tolist() == [f"dog/{k}.jpg" for k in range(5)]
    assert found.conflicts["label_a"].unique().tolist() == ["cat"]
    assert found.conflicts["split_leak"].tolist() == [True, True, False, True, False]
    assert found.leaks[["id", "level", "twin_id", "twin_split"]].to_numpy().tolist() == [
        ["dog/0.jpg", "bytes", "cat/0.jpg", "train"],
        ["dog/1.jpg", "mirrored", "cat/1.jpg", "train"],
        ["dog/3.jpg", "near", "cat/3.jpg", "val"],
    ]
    count = found.summary["count"]
    assert [count[f"test_leaks_{level}"] for level in LEVELS] == [1, 1, 2, 3, 3]
    assert count["label_conflicts"] == count["groups_in_conflict"] == 5
    assert count["test_images"] == 7 and count["val_images"] == 1
    assert not any(count[f"val_leaks_{level}"] for level in LEVELS)


def test_a_leak_is_seen_though_the_first_copy_stands_in_the_test_split(tmp_path: Path) -> None:
    same = jpeg(picture(0))
    found = look(
        folder(tmp_path, [("cat/0.jpg", same, "test"), ("cat/1.jpg", same, "train"), ("dog/2.jpg", same, "test")])
    )
    assert found.leaks["id"].tolist() == ["cat/0.jpg", "dog/2.jpg"]
    assert found.leaks["twin_id"].tolist() == ["cat/1.jpg"] * 2
    assert len(found.pairs) == 2  # three copies: as many rows as tie them together


def test_unreadable_files_are_rows(tmp_path: Path) -> None:
    good = jpeg(picture(0))
    files = [
        ("cat/cut.jpg", good[: len(good) // 2], "train"),
        ("cat/good.jpg", good, "train"),
        ("cat/lost.jpg", good, "train"),
        ("dog/none.jpg", b"", "test"),
        ("dog/text.png", b"no picture", "test"),
    ]
    dataset = folder(tmp_path, files)
    (tmp_path / "cat/lost.jpg").unlink()
    found = look(dataset)
    assert found.images["id"].tolist() == dataset["id"][:]
    error = found.images.set_index("id")["error"]
    assert error["cat/good.jpg"] == ""
    assert error["cat/lost.jpg"] == "there is no such file"
    assert all(error.drop("cat/good.jpg"))
    assert found.summary["count"]["unreadable"] == 4
    assert found.images["width"].tolist() == [160, 160, 0, 0, 0]  # the cut one still states its size
    assert len(set(found.groups)) == 5 and len(found.pairs) == 0


def test_an_extension_that_lies(tmp_path: Path) -> None:
    image = picture(0)
    files = [("cat/a.jpg", jpeg(image), ""), ("cat/b.JPEG", jpeg(image), ""), ("cat/c.jpg", png(image), ""),
             ("dog/d.png", jpeg(image), ""), ("dog/e", png(image), "")]  # fmt: skip
    found = look(folder(tmp_path, files), near=False)
    assert found.images["extension_lies"].tolist() == [False, False, True, True, False]
    assert found.images["format"].tolist() == ["JPEG", "JPEG", "PNG", "JPEG", "PNG"]


def test_columns_are_the_same_when_nothing_is_found(tmp_path: Path, planted: tuple[datasets.Dataset, Audit]) -> None:
    one = look(folder(tmp_path, [("cat/a.jpg", jpeg(picture(0)), "train")]), features=np.zeros((1, 2)))
    none = look(planted[0].select([]))
    for found in (one, none):
        assert len(found.pairs) == len(found.conflicts) == len(found.leaks) == 0
        for name in ("images", "pairs", "conflicts", "leaks", "summary"):
            expected, got = getattr(planted[1], name), getattr(found, name)
            assert got.dtypes.to_dict() == expected.dtypes.to_dict(), name
            assert list(got.columns) == list(expected.columns)
        assert list(found.summary.index) == list(planted[1].summary.index)
    assert list(planted[1].pairs.columns) == PAIR_COLUMNS
    assert list(planted[1].leaks.columns) == LEAK_COLUMNS
    assert none.groups.shape == (0,) and none.groups.dtype == np.int64


def test_a_missing_column_is_named(planted: tuple[datasets.Dataset, Audit]) -> None:
    with pytest.raises(CliplibError, match="lacks the column 'split'"):
        look(planted[0].remove_columns("split"))


def test_memory_is_cut_into_pieces_without_changing_the_pairs(
    planted: tuple[datasets.Dataset, Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = twins.take_prints(planted[0]["image"], progress=False, n_jobs=1)
    other = twins.take_prints(planted[0].select(range(10))["image"], progress=False, n_jobs=1)
    whole = twins.near_pairs(prints), twins.near_pairs(prints, other)
    assert len(whole[0]) and len(whole[1])
    for cells, rows in ((1, 1), (200, 7), (777, 3)):
        monkeypatch.setattr(twins, "_CELLS", cells)
        monkeypatch.setattr(twins, "_ROWS", rows)
        pd.testing.assert_frame_equal(twins.near_pairs(prints), whole[0])
        pd.testing.assert_frame_equal(twins.near_pairs(prints, other, n_jobs=1), whole[1])


def test_copies_of_a_picture_take_no_room() -> None:
    prints = twins.take_prints([jpeg(picture(0))] * 100 + [jpeg(picture(1))], progress=False, n_jobs=1)
    assert prints.details.shape == (2, 64, 64) and prints.hashes.shape == (2, 2, 4)
    assert prints.first.tolist() == [0, 100]
    assert prints.distinct.tolist() == [0] * 100 + [1]


def test_hash_is_that_of_the_library() -> None:
    import imagehash

    image = picture(3, (64, 64))
    for side, picture_ in enumerate((image, ImageOps.mirror(image))):
        bits = np.unpackbits(twins.take_prints([image], progress=False, n_jobs=1).hashes[0, side].view(np.uint8))
        assert np.array_equal(bits.reshape(16, 16).astype(bool), imagehash.phash(picture_, hash_size=16).hash)


def test_twins_between_two_collections(tmp_path: Path) -> None:
    images = [picture(k) for k in range(6)]
    (tmp_path / "a.jpg").write_bytes(jpeg(images[0]))
    corpus = (item for item in [tmp_path / "a.jpg", jpeg(images[1]), images[2], b"broken", jpeg(images[0]), images[5]])
    evaluation = [
        {"path": None, "bytes": jpeg(images[0])},
        jpeg(ImageOps.mirror(images[1]), 70),
        images[2].resize((90, 70)),
        images[3],
        str(tmp_path / "lost.jpg"),
    ]
    found = find_twins(corpus, evaluation, progress=False, n_jobs=1)
    assert list(found.columns) == list(twins.TWIN_COLUMNS)
    assert found[["index_a", "index_b", "kind", "mirrored"]].to_numpy().tolist() == [
        [0, 0, "exact", False],
        [1, 1, "near", True],
        [2, 2, "near", False],
        [4, 0, "exact", False],
    ]
    none = find_twins([images[3]], [], progress=False, n_jobs=1)
    assert none.dtypes.to_dict() == found.dtypes.to_dict() and len(none) == 0


def test_sequences_within_the_audit(tmp_path: Path) -> None:
    splits = ["train", "test", "test"]
    dataset = folder(tmp_path, [(f"cat/cat{k}.jpg", jpeg(picture(k)), splits[k]) for k in range(3)])
    found = look(dataset, features=np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 3.0]]), min_similarity=0.9)
    assert found.groups.tolist() == [0, 0, 1]
    assert found.pairs[["id_a", "id_b", "kind"]].to_numpy().tolist() == [["cat/cat0.jpg", "cat/cat1.jpg", "sequence"]]
    assert found.leaks[["id", "level"]].to_numpy().tolist() == [["cat/cat1.jpg", "sequence"]]
    assert np.array_equal(
        found.groups, sequence_groups(dataset["id"][:], np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 3.0]]), range(3),
                                      similarity=0.9)
    )  # fmt: skip
