"""Copies that are cropped or turned a little are found; simple images stay apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from cliplib.features.duplicates import find_near_duplicates, near_duplicate_groups
from cliplib.features.groups import joined_groups
from cliplib.features.hashes import are_drawings, are_simple, hash_records, image_hash
from cliplib.features.registration import register
from cliplib.features.table import FeatureTable


def picture(seed: int) -> Image.Image:
    """Blobs of several sizes and colours, as different from each other as photos."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((120, 160, 3))
    field = np.sum([gaussian_filter(noise, (s, s, 0)) * s for s in (2, 5, 12)], axis=0)
    levels = (field - field.min()) / (field.max() - field.min())
    return Image.fromarray((30 + 190 * levels).astype(np.uint8))


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = (round(side * share / 2) for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


def resaved(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped by 5 %": lambda image: cropped(image, 0.05),
    "cropped by 10 %": lambda image: cropped(image, 0.10),
    "cropped and mirrored": lambda image: ImageOps.mirror(cropped(image, 0.1)),
    "turned by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
    "turned and cropped": lambda image: cropped(
        image.rotate(5, Image.Resampling.BICUBIC), 0.12
    ),
}
ORIGINALS = [picture(seed) for seed in range(20)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_cropped_or_turned_copy_is_found_and_nothing_else(change: str) -> None:
    copies = [resaved(CHANGES[change](image)) for image in ORIGINALS]
    hashes = image_hash.function(ORIGINALS + copies)
    pairs = find_near_duplicates(hashes)
    right = pairs["index_b"] - pairs["index_a"] == 20
    assert right.all() and len(pairs) >= (17 if change == "turned and cropped" else 19)
    assert set(pairs["kind"]) == {"cropped"}
    expected = "mirrored" if "mirrored" in change else ""
    assert set(pairs["orientation"]) == {expected}
    assert len(find_near_duplicates(hashes, cropped=False)) == 0
    across = find_near_duplicates(hashes[:20], hashes[20:])
    assert across["index_a"].tolist() == across["index_b"].tolist()
    assert len(across) == len(pairs)


@pytest.mark.parametrize("box", [(0, 0, 144, 108), (0, 9, 136, 111)])
def test_like_features_propose_a_crop_beside_the_centre(
    box: tuple[int, int, int, int],
) -> None:
    image = ORIGINALS[0]
    part = resaved(image.crop(box))
    hashes = image_hash.function([image, part, *ORIGINALS[1:]])
    features = np.random.default_rng(0).standard_normal((21, 8)).astype(np.float32)
    features[1] = features[0]
    pairs = find_near_duplicates(hashes, features=features)
    assert pairs[["index_a", "index_b"]].to_numpy().tolist() == [[0, 1]]
    assert len(find_near_duplicates(hashes)) == 0
    everything_alike = np.ones((21, 8), np.float32)
    everything_alike[::2, 0] = 2
    with pytest.raises(ValueError, match="of one collection"):
        find_near_duplicates(hashes, hashes, features=everything_alike)
    pairs = find_near_duplicates(hashes, features=everything_alike)
    assert len(pairs) <= 1


def test_a_smaller_part_is_another_image() -> None:
    halves = [image.crop((0, 0, 80, 120)) for image in ORIGINALS]
    hashes = image_hash.function(ORIGINALS + halves)
    features = np.tile(np.eye(20, dtype=np.float32), (2, 1))
    assert len(find_near_duplicates(hashes, features=features)) == 0


@pytest.mark.parametrize("side", range(4))
def test_pictures_that_differ_along_one_side_do_not_show_the_same(side: int) -> None:
    one, other = (
        np.asarray(image.convert("L").resize((64, 64))) for image in ORIGINALS[:2]
    )
    changed = np.rot90(one, side).copy()
    changed[:8] = np.rot90(other, side)[:8]
    grey = np.stack([one, np.rot90(changed, -side), one])
    found = register(grey, np.array([0, 0]), np.array([1, 2]))
    assert found["correlation"].tolist() == pytest.approx([0, 1], abs=1e-4)


def test_handwritten_digits_stay_apart() -> None:
    """Of 500, other rules made 360 groups: detail that an image lacks shows nothing."""
    levels = (load_digits().images[:300] * 255 / 16).astype(np.uint8)
    digits = [
        Image.fromarray(digit).resize((64, 64), resampling).convert("RGB")
        for digit, resampling in zip(levels, [0, 3] * 150, strict=True)
    ]
    hashes = image_hash.function(digits)
    assert are_simple(hash_records(hashes)["grey"]).all()
    assert len(np.unique(near_duplicate_groups(hashes))) == 300
    larger = [digit.resize((224, 224)) for digit in digits[:50]]
    copies = image_hash.function(digits[:50] + larger)
    groups = near_duplicate_groups(copies)
    assert (groups[:50] == groups[50:]).mean() > 0.9


def icon(colour: str, shape: str) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    getattr(ImageDraw.Draw(image), shape)((12, 12, 52, 52), fill=colour)
    return image


def test_icons_are_told_apart_by_colour_and_shape() -> None:
    icons = [
        icon(colour, shape) for colour in ("red", "blue") for shape in ("ellipse",)
    ]
    icons += [icon("red", "rectangle"), icon("red", "ellipse").resize((128, 128))]
    assert near_duplicate_groups(image_hash.function(icons)).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("copies", "expected"),
    [("off", [0, 1, 2, 3]), ("exact", [0, 0, 1, 2]), ("near", [0, 0, 0, 0])],
)
def test_how_strict_copies_are_can_be_chosen(copies: str, expected: list[int]) -> None:
    image = ORIGINALS[0]
    changed = [image, image, resaved(image), cropped(image, 0.05)]
    hashes = image_hash.function(changed)
    assert near_duplicate_groups(hashes, copies=copies).tolist() == expected


def test_a_threshold_takes_the_place_of_ours() -> None:
    hashes = image_hash.function([ORIGINALS[0], ORIGINALS[0].resize((100, 75))])
    (correlation,) = find_near_duplicates(hashes)["correlation"]
    assert near_duplicate_groups(hashes, copies=correlation - 0.01).tolist() == [0, 0]
    assert near_duplicate_groups(hashes, copies=correlation + 0.001).tolist() == [0, 1]
    for wrong in ("nearly", 0, 1.5, None):
        with pytest.raises(ValueError, match=r"none of off, exact and near"):
            near_duplicate_groups(hashes, copies=wrong)


def test_what_is_no_hash_or_of_an_older_release_is_refused() -> None:
    for wrong in (np.zeros((2, 4368), np.uint8), np.zeros((2, 4416))):
        with pytest.raises(ValueError, match="what image_hash makes of them"):
            near_duplicate_groups(wrong)


def test_declared_groups_are_joined_with_a_warning_or_left_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The pair that is blamed shows the same; images of a declared group need not."""
    rng = np.random.default_rng(0)
    table = FeatureTable.from_arrays(
        rng.standard_normal((6, 3)), list("ababab"), ids=[f"{k}.jpg" for k in range(6)]
    )
    table = replace(table, copies=np.array([0, 1, 2, 3, 4, 1]))
    declared = ["x", "x", "y", "y", "z", "z"]
    joined = table.with_groups(declared)
    assert joined.groups.tolist() == [0, 0, 1, 1, 0, 0]
    (message,) = caplog.messages
    assert "join declared groups: 3 become 2." in message
    assert "1.jpg of x and 5.jpg of z show the same" in message
    listed = joined_groups(table.ids.tolist(), declared, table.copies)
    assert listed[["image_a", "image_b"]].to_numpy().tolist() == [["1.jpg", "5.jpg"]]
    apart = replace(table, copies=np.arange(6)).with_groups(declared)  # --copies off
    assert apart.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(caplog.messages) == 1


def flag(colours: list[str]) -> Image.Image:
    """Three stripes, shaded and with a grain, as detailed as a photograph."""
    image = Image.new("RGB", (96, 96))
    for place, colour in enumerate(colours):
        image.paste(colour, (0, 32 * place, 96, 32 * place + 32))
    grain = np.random.default_rng(0).normal(0, 25, (96, 96, 1))
    return Image.fromarray(np.clip(np.array(image) + grain, 0, 255).astype(np.uint8))


def test_one_shape_in_other_colours_is_another_image_and_a_grey_copy_none() -> None:
    first = flag(["#a03030", "#b0b0b0", "#3030a0"])
    other = flag(["#a03030", "#b0b0b0", "#205070"])
    grey, darker = ImageOps.grayscale(first), first.point(lambda level: 0.8 * level)
    images = [first, other, grey.convert("RGB"), darker, resaved(first)]
    hashes = image_hash.function(images)
    assert not are_simple(hash_records(hashes)["grey"]).any()
    assert near_duplicate_groups(hashes[:2]).tolist() == [0, 1]
    pairs = find_near_duplicates(hashes[[0, 2, 3, 4]])
    assert {2, 3, 1} <= set(pairs["index_b"][pairs["index_a"] == 0])


def window(sign: str, colour: str = "black") -> Image.Image:
    """A window with lines of text, as wide as the picture, and a sign in its middle."""
    image = Image.new("RGB", (128, 128), "white")
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((8, 8, 120, 120), 12, outline=colour, width=8)
    for y in (26, 42, 98):
        pen.line((24, y, 104, y), fill=colour, width=6)
    pen.line((50, 70, 78, 70), fill=colour, width=8)
    if sign == "+":
        pen.line((64, 56, 64, 84), fill=colour, width=8)
    return image


@pytest.mark.parametrize("shade", [0.0, 0.3])
def test_icons_that_differ_in_one_place_stay_apart_and_their_copies_do_not(
    shade: float,
) -> None:
    grey = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    plus, minus = (Image.blend(window(sign), grey, shade) for sign in "+-")
    images = [plus, minus, resaved(plus), plus.resize((72, 72)), plus.rotate(90)]
    hashes = image_hash.function(images)
    levels = hash_records(hashes)["grey"]
    assert are_drawings(levels).all() == (shade == 0)
    assert not are_simple(levels).any()
    assert near_duplicate_groups(hashes).tolist() == [0, 1, 0, 0, 0]


def test_a_part_of_an_icon_with_another_sign_is_no_copy() -> None:
    grey = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    plus, minus = (Image.blend(window(sign), grey, 0.3) for sign in "+-")
    hashes = image_hash.function([plus, cropped(plus, 0.06), cropped(minus, 0.06)])
    pairs = find_near_duplicates(hashes)
    assert pairs[["index_a", "index_b"]].to_numpy().tolist() == [[0, 1]]


def test_an_icon_in_another_colour_or_another_grey_is_another_icon() -> None:
    images = [window("+", colour) for colour in ("#c02020", "#c08020", "#606060")]
    hashes = image_hash.function([*images, resaved(images[0])])
    assert near_duplicate_groups(hashes).tolist() == [0, 1, 2, 0]
    in_grey = ImageOps.grayscale(images[0]).convert("RGB")
    pair = image_hash.function([images[0], in_grey])
    assert near_duplicate_groups(pair).tolist() == [0, 0]
