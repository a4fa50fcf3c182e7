"""Folders with a known truth, built from collections whose groups are known.

Each is built twice: the folder to be reported on, with what is planted in it, and
independent images of the same classes, of other groups and without what is planted.
``folders.csv`` lists them: images of a class (`n`), of a group at most (`each`), and
independent ones of a class (`n_new`). Development and confirmation share no image: they
differ in classes or groups, and in the strength of what is planted. Rules were revised
after runs on both, so there is a third part, ``unseen``: its classes were drawn from
those that neither part and no pair of ``pairs.py`` had used, and its traps are others.
The embedded encoder was trained on nearly all of their images.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from sklearn.datasets import load_digits

PARTS = ("development", "confirmation", "unseen")
SIDE = 160
"""Pixels of the shorter side of all images; nothing of the sources' files is left."""
EACH_NEW = 6
"""Independent images of a group at most."""
HALVED = ("trashnet", "slices", "litter")
"""Collections whose groups are divided between both parts, as their classes are few."""
ROOT = Path(__file__).resolve().parents[2]
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


Pictures = list[Picture]


@cache
def collection(name: str, data: Path, part: str) -> pd.DataFrame:
    """Return the columns image (a path, bytes, or pixels), label and group."""
    if name == "digits":
        digits = load_digits(as_frame=True)
        pixels = [*(255 - 15.9 * digits.images).astype(np.uint8)]
        labels = "digit " + digits.target.astype(str)
        table = pd.DataFrame({"image": pixels, "label": labels})
        return table.assign(group=table.index.astype(str))
    if name not in HALVED:
        table = pd.read_parquet(data / "pretrain" / f"{name}.parquet")
        pixels = [image["bytes"] for image in table["image"]]
        # Chest X-rays are named by patient; elsewhere each image counts as a group.
        patients = table["id"].str.extract(r"(person\d+|IM-\d+)")[0]
        return table.assign(image=pixels, group=patients.fillna(table["id"]))
    if name == "trashnet":
        (listed,) = ROOT.glob("notebooks/**/trashnet_objects.csv")
        folder, table = data / "trashnet" / "images", pd.read_csv(listed, dtype=str)
        table["group"] = "object" + table["group"]
    elif name == "slices":
        folder = data / "external" / "brain_tumor_figshare"
        table = pd.read_csv(folder / "patients.csv", dtype=str)
        table["group"] = "patient" + table["patient"]
    else:
        folder = data / "external" / "waste_aquatrash"
        files = sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*"))
        table = pd.DataFrame({"file": files, "group": files})
    table["label"] = table["file"].str.split("/").str[0]
    table["image"] = [folder / file for file in table["file"]]
    half = table["group"].map(lambda group: zlib.crc32(group.encode()) % 2)
    is_there = table["image"].map(Path.is_file)
    return table[(half == PARTS.index(part)) & is_there]


def read(row: Any) -> Picture:
    """Read an image; those of Parquet files are cut to squares.

    Their proportions would tell some of the classes.
    """
    if isinstance(row.image, np.ndarray):
        image = Image.fromarray(row.image).convert("RGB")
    elif isinstance(row.image, bytes):
        image = Image.open(io.BytesIO(row.image)).convert("RGB")
        image = ImageOps.fit(image, (SIDE, SIDE))
    else:
        image = Image.open(row.image).convert("RGB")
    return Picture(resized(image), row.label.replace("/", " "), row.group)


def resized(image: Image.Image) -> Image.Image:
    scale = SIDE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def drawn(draw: Callable[..., None]) -> Callable[[Image.Image], Image.Image]:
    """Return what draws on a copy of an image; `draw` takes pen, width and height."""

    def change(image: Image.Image) -> Image.Image:
        image = image.copy()
        draw(ImageDraw.Draw(image), *image.size)
        return image

    return change


def stamp(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.text((width - 66, height - 14), "12.05.2019", "#ff8c00")


def logo(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.ellipse((4, 4, 20, 20), "#c81e3c", "white")


def bars(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    high = round(0.07 * height)
    pen.rectangle((0, 0, width, high), fill=(0, 0, 0))
    pen.rectangle((0, height - high, width, height), fill=(0, 0, 0))


def ruler(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    for y in range(4, height, 8):
        pen.line((0, y, 6, y), fill=(255, 255, 255), width=2)


def caption(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.rectangle((0, 0, 44, 12), fill="black")
    pen.text((3, 1), "CAM 02", "white")


def sticker(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.rectangle((width - 18, height - 18, width - 4, height - 4), fill="#2a63c4")


def side_bars(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    wide = round(0.06 * width)
    pen.rectangle((0, 0, wide, height), fill="white")
    pen.rectangle((width - wide, 0, width, height), fill="white")


def scale_bar(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.line((width // 3, height - 8, 2 * width // 3, height - 8), "white", width=3)


def speckled(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).copy()
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    pixels[rng.random(pixels.shape[:2]) < 0.03] = 255
    return Image.fromarray(pixels)


def coarse(image: Image.Image) -> Image.Image:
    return image.reduce(4).resize(image.size, Image.Resampling.BICUBIC)


def grainy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, float)
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    pixels = pixels + rng.normal(0, 14, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def brighter(image: Image.Image, gain: float = 1, more: int = 0) -> Image.Image:
    return image.point(lambda level: min(255, round(gain * level) + more))


AROUND = "border|edge|corner"
SIZE = "aspect|size"
SHARP = f"sharpness|block edges|{AROUND}"
BOTTOM_RIGHT = "bottom right corner|bottom edge|right edge|border"
TOP_LEFT = "top left corner|top edge|left edge|border"
BLUR = ImageFilter.GaussianBlur(1.5)
TRAPS: dict[str, tuple[Any, str]] = {
    "format": ({"format": "PNG"}, "format"),
    "quality": ({"quality": 25}, "quality|quantisation"),
    "camera": ({"camera": "A 100"}, "exif|camera"),
    "aspect": (lambda i: i.crop((0, 0, i.width * 3 // 4, i.height)), SIZE),
    "mode": (lambda image: image.convert("L"), "mode"),
    "size": (lambda image: image.reduce(2), SIZE),
    "border": (lambda i: ImageOps.expand(i, 6, (15,) * 3).resize(i.size), AROUND),
    "brightness": (lambda image: brighter(image, more=60), f"brightness|{AROUND}"),
    "timestamp": (drawn(stamp), BOTTOM_RIGHT),
    "blur": (lambda image: image.filter(BLUR), SHARP),
    "logo": (drawn(logo), TOP_LEFT),
    "bars": (drawn(bars), AROUND),
    "ruler": (drawn(ruler), "left|border"),
    "grain": (grainy, SHARP),
    # Those of the unseen part:
    "webp": ({"format": "WEBP"}, "format"),
    "low-quality": ({"quality": 45}, "quality|quantisation"),
    "software": ({"camera": "Scanner 7"}, "exif|camera"),
    "wide": (lambda i: i.crop((0, 0, i.width, i.height * 4 // 5)), SIZE),
    "cmyk": (lambda image: image.convert("CMYK"), "mode"),
    "large": (lambda i: i.resize((i.width * 3 // 2, i.height * 3 // 2)), SIZE),
    "frame": (lambda i: ImageOps.expand(i, 4, "white").resize(i.size), AROUND),
    "darkness": (lambda image: brighter(image, 0.7), f"brightness|{AROUND}"),
    "caption": (drawn(caption), TOP_LEFT),
    "coarse": (coarse, SHARP),
    "sticker": (drawn(sticker), BOTTOM_RIGHT),
    "side-bars": (drawn(side_bars), AROUND),
    "scale-bar": (drawn(scale_bar), "bottom|border"),
    "speckle": (speckled, SHARP),
}
"""By trap: what it does to the file or to the picture, and a pattern of right names."""


def trap(
    pictures: Pictures, rng: Rng, name: str, share: str = "1", which: Any = min
) -> Pictures:
    """Plant a trap in a share of the first class's images, or with max the last's."""
    chosen = which(picture.label for picture in pictures)
    change, _ = TRAPS[name]
    found = list(pictures)
    for row, p in enumerate(pictures):
        if p.label == chosen and rng.random() < float(share):
            of_file = isinstance(change, dict)
            found[row] = replace(p, **change if of_file else {"image": change(p.image)})
    return found


def view(image: Image.Image, rng: Rng) -> Image.Image:
    """Return another view of a thing: cut, turned, brighter or darker."""
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    share = rng.uniform(0.65, 0.8)
    width, height = round(share * image.width), round(share * image.height)
    left, top = (
        int(rng.integers(free // 4, 3 * free // 4))
        for free in (image.width - width, image.height - height)
    )
    image = image.crop((left, top, left + width, top + height))
    return resized(brighter(image, rng.uniform(0.8, 1.2)))


def views(pictures: Pictures, rng: Rng, times: str) -> Pictures:
    """Replace each image by several views of it, of one group."""
    return [
        replace(picture, image=view(picture.image, rng))
        for picture in pictures
        for _ in range(int(times))
    ]


def named(pictures: Pictures, rng: Rng, pattern: str) -> Pictures:
    """Name images by their group or its number, and their number within it."""
    table = pd.DataFrame({"key": [picture.group for picture in pictures]})
    group = pd.factorize(table["key"])[0]
    number = table.groupby("key").cumcount() + 1
    return [
        replace(p, name=pattern.format(key=p.group, group=g, number=n))
        for p, g, n in zip(pictures, group, number, strict=True)
    ]


def shuffled(pictures: Pictures, rng: Rng) -> Pictures:
    """Deal labels anew."""
    dealt = rng.permutation(len(pictures))
    return [
        replace(p, label=pictures[row].label)
        for p, row in zip(pictures, dealt, strict=True)
    ]


def noise(pictures: Pictures, rng: Rng) -> Pictures:
    """Replace all images by noise."""
    pixels = rng.integers(0, 256, (len(pictures), 96, 96, 3), np.uint8)
    return [
        replace(p, image=Image.fromarray(image))
        for p, image in zip(pictures, pixels, strict=True)
    ]


def wrong(pictures: Pictures, rng: Rng, share: str) -> Pictures:
    """Give a share of the images the next class; their names begin with "x"."""
    classes = sorted({picture.label for picture in pictures})
    after = dict(zip(classes, classes[1:] + classes[:1], strict=True))
    found = list(pictures)
    for row in rng.permutation(len(found))[: round(float(share) * len(found))]:
        name = f"x{rng.integers(16**7):07x}"
        found[row] = replace(found[row], label=after[found[row].label], name=name)
    return found


def cut(image: Image.Image, share: float) -> Image.Image:
    x, y = round(share * image.width / 2), round(share * image.height / 2)
    inner = image.crop((x, y, image.width - x, image.height - y))
    return inner.resize(image.size, Image.Resampling.BICUBIC)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "same": lambda image: image,
    "re-encoded": lambda image: image,  # with another quality, see `copied`
    "resized": lambda i: i.resize((i.width * 3 // 4, i.height * 3 // 4)),
    "mirrored": ImageOps.mirror,
    "brighter": lambda image: brighter(image, 1.15),
    "turned by 5 degrees": lambda i: cut(i.rotate(5, Image.Resampling.BICUBIC), 0.12),
    "cropped by 5%": lambda image: cut(image, 0.05),
    "cropped by 10%": lambda image: cut(image, 0.1),
}


def copied(pictures: Pictures, rng: Rng) -> Pictures:
    """Add one copy of every fifth image, kind after kind; names tell kind and pair."""
    found = list(pictures)
    for number, row in enumerate(range(0, len(pictures), 5)):
        kind = number % len(COPIES)
        first = found[row] = replace(pictures[row], name=f"a{row:04}")
        copy = replace(
            first, image=[*COPIES.values()][kind](first.image), name=f"b{row:04}-{kind}"
        )
        found.append(replace(copy, quality=70) if kind == 1 else copy)
    return found


def archive(pictures: Pictures, rng: Rng, by: str, other: pd.DataFrame) -> Pictures:
    """Replace a third of a class by images of another collection.

    They have names of their own form, or are by a camera of their own; `by` says which.
    """
    label = min({p.label for p in pictures} & set(other["label"]))
    rows = [row for row, p in enumerate(pictures) if p.label == label]
    others = map(read, other[other["label"] == label].itertuples())
    found = list(pictures)
    if by == "camera":
        found = [replace(p, camera="Camera 3") for p in found]
    for row, taken in zip(rows[: len(rows) // 3], others, strict=False):
        image = ImageOps.fit(taken.image, pictures[row].image.size)
        of_its_own = {"names": {"name": f"aqua_{row:04}"}, "camera": {"camera": "P 7"}}
        found[row] = replace(taken, image=image, **of_its_own[by])
    return found


PLANTS: dict[str, Callable[..., Pictures]] = {
    plant.__name__: plant
    for plant in (trap, views, named, shuffled, noise, wrong, copied, archive)
}


@dataclass(frozen=True)
class Folder:
    """What is built: a row of ``folders.csv``."""

    part: str
    kind: str
    collection: str
    classes: str
    n: str
    each: int
    n_new: int
    planted: str

    def build(self, data: Path, place: Path) -> None:
        """Write the folder, independent images and those elsewhere below a place."""
        if (place / "new").exists():  # which is written last
            return
        rng = np.random.default_rng(zlib.crc32(repr(self).encode()))
        plants = [plant.split() for plant in self.planted.split("; ") if plant]
        home, away = self.draw(data)
        for name, *arguments in plants:
            options = {}
            if name == "archive":
                source = "litter" if self.collection in HALVED else "caltech101"
                options["other"] = collection(source, data, self.part)
            home = PLANTS[name](home, rng, *arguments, **options)
        if self.kind == "elsewhere reversed":
            there, away = away[1::2], away[::2]
            there = trap(there, rng, plants[0][1], which=max)
            write(there, place / "elsewhere", rng)
        if self.kind == "hopeless":  # nothing is to be learned of the others, either
            away = PLANTS[plants[0][0]](away, rng)
        write(home, place / "home", rng)
        write(away, place / "new", rng)

    def draw(self, data: Path) -> tuple[Pictures, Pictures]:
        """Draw images for the folder, and independent ones of other groups.

        Groups of a class have one order in all folders: the folder's come from its
        start, independent ones from its end. So most are encoded once.
        """
        table = collection(self.collection, data, self.part)
        classes = self.classes.split(", ")
        counts = map(int, self.n.split("+") * len(classes))
        n_new = self.n_new * (2 if self.kind == "elsewhere reversed" else 1)
        home: Pictures = []
        away: Pictures = []
        for label, n in zip(classes, counts, strict=False):
            of_class = table[table["label"] == label]
            groups = [rows for _, rows in of_class.groupby("group")]
            order = np.random.default_rng(0).permutation(len(groups))
            groups = [groups[place] for place in order]
            home += take(groups, n, self.each)
            away += take(groups[::-1], n_new, EACH_NEW)
        return home, away


def take(groups: list[pd.DataFrame], n: int, each: int) -> Pictures:
    """Read n images of the first groups of a list, and remove these from it."""
    taken: Pictures = []
    while groups and len(taken) < n:
        members = groups.pop(0)
        # Spread over the group: neighbouring slices are alike.
        places = np.linspace(0, len(members) - 1, min(each, len(members)))
        rows = members.iloc[np.unique(places.round().astype(int))]
        taken += map(read, rows.itertuples())
    return taken[:n]


def write(pictures: Pictures, folder: Path, rng: Rng) -> None:
    for picture in pictures:
        name = picture.name or f"{rng.integers(16**8):08x}"
        suffix = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[picture.format]
        path = folder / picture.label / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[272] = picture.camera
        about = {"exif": exif} if picture.camera else {}
        picture.image.save(path, quality=picture.quality, **about)


def folders(part: str) -> list[Folder]:
    """Return the folders of a part."""
    listed = Path(__file__).with_name("folders.csv")
    table = pd.read_csv(listed, dtype={"n": str}, keep_default_na=False)
    return [Folder(*row) for row in table[table["part"] == part].to_numpy()]
