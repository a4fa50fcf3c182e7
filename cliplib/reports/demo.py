"""Three folders of images with planted faults, to see what a report says of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from cliplib.data.arrays import Ints

# Photographs that scikit-image brings along; their crops are the images.
KINDS = ("brick", "grass", "gravel")
N_IMAGES = 30
SIDE = 96


def make_demo(out: str | os.PathLike[str]) -> dict[Path, str]:
    """Make three folders of class folders, each with a fault that was planted.

    Returns
    -------
    dict
        By folder, what is wrong with it.

    Raises
    ------
    FileExistsError
        If `out` holds something.
    """
    place = Path(out)
    if place.exists() and any(place.iterdir()):
        raise FileExistsError(f"{out} is not empty: name a new folder.")
    rng = np.random.default_rng(0)
    _make_shortcut(place / "shortcut", rng)
    _make_copies(place / "copies", rng)
    _make_series(place / "series", rng)
    faults = {
        "shortcut": "images of one class bear a white mark in the bottom left corner",
        "copies": "ten images lie in a second class as well, five of them mirrored",
        "series": "their names say that three images each show one object",
    }
    return {place / name: fault for name, fault in faults.items()}


def _make_shortcut(folder: Path, rng: np.random.Generator) -> None:
    """Draw noise in two classes, a white mark in each image of the second."""
    for name in ("plain", "marked"):
        for number in range(N_IMAGES):
            image = Image.fromarray(rng.integers(0, 200, (SIDE, SIDE, 3), np.uint8))
            if name == "marked":
                mark = (2, SIDE - 12, 10, SIDE - 4)
                ImageDraw.Draw(image).rectangle(mark, fill="white")
            _save(image, folder / name / f"{number:02}.png")


def _make_copies(folder: Path, rng: np.random.Generator) -> None:
    """Cut crops of three photographs; put ten of the first kind in the second, too."""
    for name in KINDS:
        for number in range(N_IMAGES):
            image = _crop(name, rng.integers(0, 512 - SIDE, 2))
            _save(image, folder / name / f"{number:02}.png")
            if name == KINDS[0] and number < 10:
                if number % 2:
                    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                _save(image, folder / KINDS[1] / f"extra{number:02}.png")


def _make_series(folder: Path, rng: np.random.Generator) -> None:
    """Cut three crops of nearly the same place each, named by place and number."""
    for name in KINDS:
        for place in range(N_IMAGES // 3):
            corner = rng.integers(0, 512 - SIDE - 24, 2)
            for number in range(3):
                image = _crop(name, corner + rng.integers(0, 24, 2))
                _save(image, folder / name / f"{name}{place:02}_{number}.png")


def _crop(name: str, corner: Ints) -> Image.Image:
    """Return a square of one of the photographs, its corner at (x, y)."""
    photo = Image.fromarray(getattr(data, name)())
    x, y = corner.tolist()
    return photo.crop((x, y, x + SIDE, y + SIDE))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
