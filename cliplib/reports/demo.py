"""Three folders of images with planted faults, to see what a report says about them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from cliplib.data.arrays import Ints

# Photographs in scikit-image, of which crops are taken.
KINDS = ("brick", "grass", "gravel")
# Images of each class.
N_IMAGES = 30
# Side of an image, in pixels.
SIDE = 96


def make_demo(out: str | os.PathLike[str]) -> dict[Path, str]:
    """Make three folders of class folders, each with a planted fault.

    Returns
    -------
    dict
        The fault of each folder, in words.

    Raises
    ------
    FileExistsError
        If `out` is not empty.
    """
    parent = Path(out)
    if parent.exists() and any(parent.iterdir()):
        raise FileExistsError(f"{out} is not empty: name a new folder.")
    rng = np.random.default_rng(0)
    _make_shortcut(parent / "shortcut", rng)
    _make_copies(parent / "copies", rng)
    _make_series(parent / "series", rng)
    faults = {
        "shortcut": "images of one class bear a white mark in the bottom left corner",
        "copies": "ten images lie in a second class as well, five of them mirrored",
        "series": "their names say that three images each show one object",
    }
    return {parent / name: fault for name, fault in faults.items()}


def _make_shortcut(folder: Path, rng: np.random.Generator) -> None:
    """Make two classes of noise, with a white mark in each image of the second."""
    for name in ("plain", "marked"):
        for number in range(N_IMAGES):
            image = Image.fromarray(rng.integers(0, 200, (SIDE, SIDE, 3), np.uint8))
            if name == "marked":
                mark = (2, SIDE - 12, 10, SIDE - 4)
                ImageDraw.Draw(image).rectangle(mark, fill="white")
            _save(image, folder / name / f"{number:02}.png")


def _make_copies(folder: Path, rng: np.random.Generator) -> None:
    """Make a class of crops of each photograph; ten of the first are in the second too.

    Five of these ten are mirrored.
    """
    for name in KINDS:
        for number in range(N_IMAGES):
            image = _crop(name, rng.integers(0, 512 - SIDE, 2))
            _save(image, folder / name / f"{number:02}.png")
            if name == KINDS[0] and number < 10:
                if number % 2:
                    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                _save(image, folder / KINDS[1] / f"extra{number:02}.png")


def _make_series(folder: Path, rng: np.random.Generator) -> None:
    """Make a class of crops of each photograph, three of about the same place each.

    Crops are named by place and number, such as "brick03_1.png".
    """
    for name in KINDS:
        for place in range(N_IMAGES // 3):
            corner = rng.integers(0, 512 - SIDE - 24, 2)
            for number in range(3):
                image = _crop(name, corner + rng.integers(0, 24, 2))
                _save(image, folder / name / f"{name}{place:02}_{number}.png")


def _crop(name: str, corner: Ints) -> Image.Image:
    """Return a square of a photograph with its top left corner at (x, y)."""
    photo = Image.fromarray(getattr(data, name)())
    x, y = corner.tolist()
    return photo.crop((x, y, x + SIDE, y + SIDE))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
