"""Folders with a known truth, built from collections whose groups are known.

Each is built twice: the folder to be reported on, with what is planted in it, and
independent images of the same classes, of other groups and without what is planted.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from planted import (
    SIDE,
    TRAPS,
    Picture,
    Plant,
    Rng,
    archive,
    copied,
    named,
    noise,
    resized,
    shuffled_labels,
    trap,
    views,
    wrong_labels,
)
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("development", "confirmation")
EACH_NEW = 6
"""Independent images of a group at most."""


@dataclass(frozen=True)
class Entry:
    """An image of a collection, not read yet."""

    read: Callable[[], Image.Image]
    label: str
    group: str


# --- Collections


def _of_part(group: str, part: str) -> bool:
    """Divide the groups of a collection between development and confirmation.

    Where classes of the two differ, `part` is "", and all groups are used.
    """
    if not part:
        return True
    return zlib.crc32(group.encode()) % 2 == PARTS.index(part)


def _entries(folder: Path, files: Iterable[str], groups: Iterable[str]) -> list[Entry]:
    """Return the images of a folder, whose classes are the names of their folders."""

    def reader(path: Path) -> Callable[[], Image.Image]:
        return lambda: Image.open(path).convert("RGB")

    return [
        Entry(reader(folder / file), file.split("/")[0], group)
        for file, group in zip(files, groups, strict=True)
        if (folder / file).is_file()
    ]


@cache
def trashnet(data: Path) -> list[Entry]:
    """Return photographs of waste; the object of each is known."""
    (listed,) = ROOT.glob("notebooks/**/trashnet_objects.csv")
    table = pd.read_csv(listed, dtype=str)
    objects = "object" + table["group"]
    return _entries(data / "trashnet" / "images", table["file"], objects)


@cache
def slices(data: Path) -> list[Entry]:
    """Return Cheng's originals: brain tumours, by patient."""
    folder = data / "external" / "brain_tumor_figshare"
    table = pd.read_csv(folder / "patients.csv", dtype=str)
    return _entries(folder, table["file"], "patient" + table["patient"])


@cache
def litter(data: Path) -> list[Entry]:
    """Return waste outdoors, of another collection than `trashnet`."""
    folder = data / "external" / "waste_aquatrash"
    files = sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*"))
    return _entries(folder, files, files)


@cache
def digits(data: Path) -> list[Entry]:
    """Return scikit-learn's digits of 8 x 8 pixels."""
    bunch = load_digits()
    pixels = (255 - bunch.images * 15.9).astype(np.uint8)

    def reader(row: int) -> Callable[[], Image.Image]:
        return lambda: Image.fromarray(pixels[row]).convert("RGB")

    return [
        Entry(reader(row), f"digit {label}", f"digit{row}")
        for row, label in enumerate(bunch.target)
    ]


def corpus(name: str) -> Callable[[Path], list[Entry]]:
    """Return a collection of data/pretrain, on which the encoder was trained.

    Images are cut to squares: proportions would tell some of the classes.
    """

    def reader(content: bytes) -> Callable[[], Image.Image]:
        opened = io.BytesIO(content)
        return lambda: ImageOps.fit(Image.open(opened).convert("RGB"), (SIDE, SIDE))

    @cache
    def entries(data: Path) -> list[Entry]:
        table = pd.read_parquet(data / "pretrain" / f"{name}.parquet")
        return [
            Entry(reader(row.image["bytes"]), row.label.replace("/", " "), row.id)
            for row in table.itertuples()
        ]

    return entries


@dataclass(frozen=True)
class Base:
    """Some classes of a collection, and the part of its groups that is used."""

    collection: Callable[[Path], list[Entry]]
    classes: tuple[str, ...]
    part: str

    def draw(
        self, data: Path, n: Mapping[str, int], n_new: int, each: int
    ) -> tuple[list[Picture], list[Picture]]:
        """Draw images for a folder, and independent ones of other groups.

        `n` and `n_new` count images of a class; in the folder, `each` are of a group at
        most. Groups of a class have one order in all folders: from its start come
        those of the folder, from its end the independent ones.
        """
        home: list[Picture] = []
        away: list[Picture] = []
        for label in self.classes:
            by_group: dict[str, list[Entry]] = {}
            for entry in self.collection(data):
                if entry.label == label and _of_part(entry.group, self.part):
                    by_group.setdefault(entry.group, []).append(entry)
            groups = [by_group[key] for key in sorted(by_group)]
            order = np.random.default_rng(0).permutation(len(groups)).tolist()
            groups = [groups[place] for place in order]
            home += _take(groups, n[label], each)
            away += _take(groups[::-1], n_new, EACH_NEW)
        return home, away


def _take(groups: list[list[Entry]], n: int, each: int) -> list[Picture]:
    """Read n images of the first groups of a list, and remove these from it."""
    taken: list[Picture] = []
    while groups and len(taken) < n:
        members = groups.pop(0)
        # Spread over the group: neighbouring slices are alike.
        places = np.linspace(0, len(members) - 1, min(each, len(members)))
        for place in np.unique(places.round().astype(int)):
            entry = members[place]
            taken.append(Picture(resized(entry.read()), entry.label, entry.group))
    return taken[:n]


@dataclass(frozen=True)
class Folder:
    """What is built, and what a report should say of it.

    Attributes
    ----------
    kind
        Such as "clean", "trap in the picture".
    detail
        What is planted, in words.
    base
        Classes of a collection.
    n, n_new
        Images of a class in the folder before planting, and independent ones.
    each
        Images of a group at most, as drawn.
    plants, plants_new
        What is done to the folder, and to the independent images.
    elsewhere
        What is planted in a third set of images; None without one.
    groups
        The pattern that declares groups; "" without.
    names
        Names by which a report tells the trap.
    counts
        Images of single classes, where they differ from n.
    """

    kind: str
    detail: str
    base: Base
    n: int = 60
    n_new: int = 40
    each: int = 1
    plants: tuple[Plant, ...] = ()
    plants_new: tuple[Plant, ...] = ()
    elsewhere: tuple[Plant, ...] | None = None
    groups: str = ""
    names: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """A name for the folder, of kind, detail and classes."""
        text = f"{self.kind} {self.detail} {' '.join(self.base.classes)}"
        return "".join(c if c.isalnum() else "-" for c in text)

    def build(self, data: Path, place: Path) -> None:
        """Write the folder, independent images and those elsewhere below a place."""
        done = place / "done.json"
        if done.exists():
            return
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        n = {label: self.counts.get(label, self.n) for label in self.base.classes}
        n_away = self.n_new * (1 if self.elsewhere is None else 2)
        home, away = self.base.draw(data, n, n_away, self.each)
        new = away
        if self.elsewhere is not None:
            _write(_planted(away[1::2], self.elsewhere, rng), place / "elsewhere", rng)
            new = away[::2]
        _write(_planted(home, self.plants, rng), place / "home", rng)
        _write(_planted(new, self.plants_new, rng), place / "new", rng)
        done.write_text(json.dumps({"id": self.id}))


def _planted(
    pictures: list[Picture], plants: Sequence[Plant], rng: Rng
) -> list[Picture]:
    for plant in plants:
        pictures = plant(pictures, rng)
    return pictures


def _write(pictures: Sequence[Picture], folder: Path, rng: Rng) -> None:
    for picture in pictures:
        name = picture.name or f"{rng.integers(16**8):08x}"
        suffix = {"JPEG": "jpg", "PNG": "png"}[picture.format]
        path = folder / picture.label / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {}
        if picture.format == "JPEG":
            options["quality"] = picture.quality
        if picture.camera:
            exif = Image.Exif()
            exif[271], exif[272] = "Maker", picture.camera
            options["exif"] = exif
        picture.image.save(path, picture.format, **options)


def folders(part: str, data: Path) -> Iterator[Folder]:
    """Yield the folders of development or of confirmation: no image is in both."""
    is_first = part == PARTS[0]

    def base(collection: Callable[[Path], list[Entry]], *pairs: str) -> Base:
        """Take the first classes, named "a|b", for development, the others else."""
        chosen = pairs[0] if is_first else pairs[-1]
        divided = part if collection in (trashnet, slices) else ""
        return Base(collection, tuple(chosen.split("|")), divided)

    waste = base(trashnet, "glass|paper", "plastic|paper")
    metal = base(trashnet, "cardboard|metal", "glass|metal")
    scans = base(slices, "meningioma|pituitary")
    three = base(slices, "glioma|meningioma|pituitary")
    style = base(corpus("pacs"), "photo dog|photo horse", "cartoon dog|cartoon horse")
    shop = base(corpus("grocery"), "banana|carrots", "kiwi|watermelon")
    things = base(corpus("caltech101"), "umbrella|menorah", "bonsai|gramophone")
    texture = base(corpus("dtd10"), "banded|cracked", "bumpy|braided")
    number = base(digits, "digit 3|digit 5|digit 8", "digit 1|digit 4|digit 9")
    bottle = base(trashnet, "cardboard|glass|plastic", "cardboard|metal|paper")
    declared = named("p{:03d}_{:03d}")
    yield from (
        Folder("clean", "two kinds of waste", waste, n=80, n_new=90),
        Folder("clean", "two kinds of waste", metal, n=80, n_new=90),
        Folder("clean", "three kinds of waste", bottle, n=60, n_new=60),
        Folder("clean", "digits", number, n=45, n_new=40),
        Folder("clean", "one slice a patient", scans, n=20, n_new=60),
        Folder("clean", "animals, seen in training", style, n=40, n_new=40),
        Folder("clean", "textures, seen in training", texture, n=30, n_new=25),
        Folder(
            "declared", "patients", three, n=100, n_new=120, each=8,
            plants=(declared,), groups=r"(p\d+)_",
        ),
        Folder(
            "declared", "views", waste, n=24, n_new=90,
            plants=(views(5), declared), groups=r"(p\d+)_",
        ),
        Folder(
            "declared", "views", metal, n=24, n_new=90,
            plants=(views(5), declared), groups=r"(p\d+)_",
        ),
        Folder("hopeless", "labels dealt anew", waste, plants=(shuffled_labels,),
               plants_new=(shuffled_labels,)),
        Folder("hopeless", "noise", metal, plants=(noise,), plants_new=(noise,)),
        Folder(
            "hopeless", "groups alone", shop, n=12,
            plants=(shuffled_labels, views(6)), plants_new=(shuffled_labels,),
        ),
    )  # fmt: skip
    bases = (waste, shop, metal, style, things, waste, texture)
    bases += (metal, scans, waste, shop, things, bottle, style)
    full = dict(zip(TRAPS, bases, strict=True))
    for name, of in full.items():
        n = {scans: 20, things: 26, shop: 30}.get(of, 60)
        yield Folder(
            f"trap in the {TRAPS[name][0]}", f"{name}, 100%", of, n=n,
            n_new=min(40, n), plants=(trap(name),), names=TRAPS[name][2],
        )  # fmt: skip
    for name, strength, of in (
        ("border", 0.6, waste), ("timestamp", 0.8, metal), ("logo", 0.95, waste),
        ("quality", 0.6, metal), ("brightness", 0.95, style), ("grain", 0.8, waste),
    ):  # fmt: skip
        yield Folder(
            "partial trap", f"{name}, {strength:.0%}", of,
            plants=(trap(name, strength),), names=TRAPS[name][2],
        )  # fmt: skip
    yield from (
        Folder("groups in names", "views", waste, n=12, n_new=60,
               plants=(views(6), named("obj{:03d}_{:02d}"))),
        Folder("groups in names", "patients", scans, n=80, n_new=60, each=8,
               plants=(named("S{:03d}_006_{:05d}"),)),
        Folder("groups in names", "frames", metal, n=10, n_new=60,
               plants=(views(8), named("vid{:02d}_{:04d}"))),
        Folder("groups in names", "products", shop, n=10, n_new=20,
               plants=(views(6), named("{:04d}-{}"))),
        Folder("undeclared groups", "views", waste, n=11, n_new=60, plants=(views(7),)),
        Folder("undeclared groups", "patients", three, n=60, n_new=60, each=10),
        Folder("undeclared groups", "frames", metal, n=8, n_new=60, plants=(views(9),)),
        Folder("archive", "names", waste,
               plants=(archive(litter(data), waste.classes[0], "names"),),
               names=("form of name",)),
        Folder("archive", "camera", metal,
               plants=(archive(litter(data), "metal", "camera"),),
               names=("camera", "form of name")),
        Folder("copies", "eight kinds", waste, n=80, plants=(copied,)),
        Folder("copies", "eight kinds", scans, n=60, n_new=20, each=3,
               plants=(copied,)),
        Folder("label noise", "10%", waste, plants=(wrong_labels(0.1),)),
        Folder("label noise", "20%", number, n=40, plants=(wrong_labels(0.2),)),
        Folder("few", "four a class", waste, n=4),
        Folder("few", "eight a class", metal, n=8),
        Folder("imbalance", "12 against 160", waste,
               counts={waste.classes[0]: 12, waste.classes[1]: 160}),
        Folder("elsewhere reversed", "timestamp", metal, plants=(trap("timestamp"),),
               elsewhere=(trap("timestamp", reverse=True),)),
        Folder("elsewhere reversed", "logo", waste, plants=(trap("logo"),),
               elsewhere=(trap("logo", reverse=True),)),
    )  # fmt: skip
