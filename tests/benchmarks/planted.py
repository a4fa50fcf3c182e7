"""What is planted in folders: traps, views of one thing, wrong labels, copies."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SIDE = 160
"""Pixels of the shorter side of all images; nothing of the sources' files is left."""
Rng = np.random.Generator


@dataclass(frozen=True)
class Picture:
    """An image, its class and its group; name and way of saving, which traps change."""

    image: Image.Image
    label: str
    group: str
    name: str = ""
    format: str = "JPEG"
    quality: int = 92
    camera: str = ""


Plant = Callable[[list[Picture], Rng], list[Picture]]


def resized(image: Image.Image) -> Image.Image:
    scale = SIDE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def _stamp(image: Image.Image) -> Image.Image:
    image = image.copy()
    corner = (image.width - 66, image.height - 14)
    ImageDraw.Draw(image).text(corner, "12.05.2019", fill=(255, 140, 0))
    return image


def _frame(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, 6, (15, 15, 15)).resize(image.size)


def _logo(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).ellipse((4, 4, 20, 20), fill=(200, 30, 60), outline="white")
    return image


def _bars(image: Image.Image) -> Image.Image:
    image = image.copy()
    high = round(0.07 * image.height)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, image.width, high), fill=(0, 0, 0))
    pen.rectangle((0, image.height - high, *image.size), fill=(0, 0, 0))
    return image


def _ruler(image: Image.Image) -> Image.Image:
    image = image.copy()
    pen = ImageDraw.Draw(image)
    for y in range(4, image.height, 8):
        pen.line((0, y, 6, y), fill=(255, 255, 255), width=2)
    return image


def _grainy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, float)
    seed = zlib.crc32(image.tobytes())
    noise = np.random.default_rng(seed).normal(0, 14, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _narrow(image: Image.Image) -> Image.Image:
    return image.crop((0, 0, round(0.75 * image.width), image.height))


def _on_image(change: Callable[[Image.Image], Image.Image]) -> Callable[[Any], Any]:
    return lambda picture: replace(picture, image=change(picture.image))


def _on_file(**changes: Any) -> Callable[[Any], Any]:
    return lambda picture: replace(picture, **changes)


SURROUND = ("border", "edge", "corner")
TRAPS: dict[str, tuple[str, Callable[[Any], Any], tuple[str, ...]]] = {
    "format": ("file", _on_file(format="PNG"), ("format",)),
    "quality": ("file", _on_file(quality=25), ("quality",)),
    "aspect": ("file", _on_image(_narrow), ("aspect", "size")),
    "mode": ("file", _on_image(lambda image: image.convert("L")), ("mode",)),
    "size": (
        "file",
        _on_image(lambda image: image.reduce(2)),
        ("size", "aspect"),
    ),
    "camera": ("file", _on_file(camera="A 100"), ("exif", "camera")),
    "border": ("picture", _on_image(_frame), SURROUND),
    "brightness": (
        "picture",
        _on_image(lambda image: image.point(lambda level: min(255, level + 60))),
        ("brightness", *SURROUND),
    ),
    "timestamp": (
        "picture",
        _on_image(_stamp),
        ("bottom right corner", "bottom edge", "right edge", "border"),
    ),
    "blur": (
        "picture",
        _on_image(lambda image: image.filter(ImageFilter.GaussianBlur(1.5))),
        ("sharpness", "block edges", *SURROUND),
    ),
    "logo": (
        "picture",
        _on_image(_logo),
        ("top left corner", "top edge", "left edge", "border"),
    ),
    "bars": ("picture", _on_image(_bars), SURROUND),
    "ruler": ("picture", _on_image(_ruler), ("left", "border")),
    "grain": ("picture", _on_image(_grainy), ("sharpness", "block edges", *SURROUND)),
}
"""By trap: of file or picture, what it does, and names by which it is rightly told."""


def trap(name: str, strength: float = 1.0, reverse: bool = False) -> Plant:
    """Plant a trap in a share of the first class's images, or of the last's."""
    change = TRAPS[name][1]

    def plant(pictures: list[Picture], rng: Rng) -> list[Picture]:
        classes = sorted({picture.label for picture in pictures})
        chosen = classes[-1] if reverse else classes[0]
        return [
            change(picture)
            if picture.label == chosen and rng.random() < strength
            else picture
            for picture in pictures
        ]

    return plant


def _view(image: Image.Image, rng: Rng) -> Image.Image:
    """Return another view of a thing: cut, turned, brighter or darker."""
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, expand=False)
    share = rng.uniform(0.65, 0.8)
    width, height = round(share * image.width), round(share * image.height)
    free = image.width - width
    left = int(rng.integers(free // 4, 3 * free // 4))
    top = int(
        rng.integers((image.height - height) // 4, 3 * (image.height - height) // 4)
    )
    image = image.crop((left, top, left + width, top + height))
    gain = rng.uniform(0.8, 1.2)
    return resized(image.point(lambda level: min(255, round(level * gain))))


def views(times: int) -> Plant:
    """Replace each image by several views of it, of one group."""

    def plant(pictures: list[Picture], rng: Rng) -> list[Picture]:
        return [
            replace(picture, image=_view(picture.image, rng))
            for picture in pictures
            for _ in range(times)
        ]

    return plant


def named(pattern: str) -> Plant:
    """Name images by the numbers of group and image, as in "obj{:03d}_{:02d}"."""

    def plant(pictures: list[Picture], rng: Rng) -> list[Picture]:
        group_of = {
            key: i for i, key in enumerate(dict.fromkeys(p.group for p in pictures))
        }
        seen: dict[str, int] = {}
        renamed = []
        for picture in pictures:
            seen[picture.group] = seen.get(picture.group, 0) + 1
            numbers = {"group": group_of[picture.group], "number": seen[picture.group]}
            renamed.append(replace(picture, name=pattern.format(**numbers)))
        return renamed

    return plant


def shuffled_labels(pictures: list[Picture], rng: Rng) -> list[Picture]:
    """Deal labels anew, group by group."""
    groups = list(dict.fromkeys(picture.group for picture in pictures))
    first = {picture.group: picture.label for picture in reversed(pictures)}
    dealt = dict(zip(groups, rng.permutation([first[g] for g in groups]), strict=True))
    return [replace(picture, label=str(dealt[picture.group])) for picture in pictures]


def noise(pictures: list[Picture], rng: Rng) -> list[Picture]:
    """Replace all images by noise."""
    return [
        replace(p, image=Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8)))
        for p in pictures
    ]


def wrong_labels(share: float) -> Plant:
    """Give a share of the images the next class; their names begin with "x"."""

    def plant(pictures: list[Picture], rng: Rng) -> list[Picture]:
        classes = sorted({picture.label for picture in pictures})
        wrong = set(rng.permutation(len(pictures))[: round(share * len(pictures))])
        return [
            replace(
                picture,
                label=classes[(classes.index(picture.label) + 1) % len(classes)],
                name=f"x{rng.integers(16**7):07x}",
            )
            if row in wrong
            else picture
            for row, picture in enumerate(pictures)
        ]

    return plant


def _cut(share: float) -> Callable[[Image.Image], Image.Image]:
    def cut(image: Image.Image) -> Image.Image:
        x, y = round(share * image.width), round(share * image.height)
        inner = image.crop(
            (x // 2, y // 2, image.width - x // 2, image.height - y // 2)
        )
        return inner.resize(image.size, Image.Resampling.BICUBIC)

    return cut


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "same": lambda image: image,
    "re-encoded": lambda image: image,  # with another quality, see `copied`
    "resized": lambda image: image.resize(
        (image.width * 3 // 4, image.height * 3 // 4)
    ),
    "mirrored": ImageOps.mirror,
    "brighter": lambda image: image.point(lambda level: min(255, round(level * 1.15))),
    "turned by 5 degrees": lambda image: _cut(0.12)(
        image.rotate(5, Image.Resampling.BICUBIC)
    ),
    "cropped by 5%": _cut(0.05),
    "cropped by 10%": _cut(0.1),
}


def copied(pictures: list[Picture], rng: Rng) -> list[Picture]:
    """Add one copy of every fifth image, kind after kind; names tell kind and pair."""
    found = []
    for number, picture in enumerate(pictures):
        if number % 5:
            found.append(picture)
            continue
        kind = [*COPIES][number // 5 % len(COPIES)]
        key = f"{rng.integers(16**6):06x}"
        copy = replace(
            picture,
            image=COPIES[kind](picture.image),
            name=f"b{key}-{[*COPIES].index(kind)}",
            quality=70 if kind == "re-encoded" else picture.quality,
        )
        found += [replace(picture, name=f"a{key}"), copy]
    return found


def archive(collection: Any, label: str, by: str) -> Plant:
    """Replace a third of a class by images of another collection.

    They have names of their own form, or are by a camera of their own; `by` says which.
    """

    def plant(pictures: list[Picture], rng: Rng) -> list[Picture]:
        mine = [row for row, p in enumerate(pictures) if p.label == label]
        rows = mine[: len(mine) // 3]
        entries = [e for e in collection if e.label == label]
        chosen = rng.permutation(len(entries))[: len(rows)]
        changed = list(pictures)
        for row, number in zip(rows, chosen, strict=False):
            entry = entries[number]
            own: dict[str, str] = {"camera": "Phone 7"}
            if by == "names":
                own = {"name": f"aqua_{rng.integers(10**4):04d}"}
            image = ImageOps.fit(resized(entry.read()), pictures[row].image.size)
            changed[row] = Picture(image, label, entry.group, **own)
        if by == "camera":
            changed = [
                p if p.camera else replace(p, camera="Camera 3") for p in changed
            ]
        return changed

    return plant
