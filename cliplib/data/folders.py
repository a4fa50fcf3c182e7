"""Trees of class folders, as people and archives lay them out: with splits above the classes, or without."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cliplib.data.images import SUFFIXES
from cliplib.errors import CliplibError, ImageError, is_unicode

logger = logging.getLogger(__name__)

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "testing": "test"}  # fmt: skip
"""Folder names (lower case) that are splits, not classes."""


class Leaf(NamedTuple):
    """A class folder: the published split it stands in ("" without), itself, and its pictures."""

    split: str
    folder: Path
    images: list[Path]


def real(text: str) -> Path:
    """The folder that a text names; unlike with Path's own methods, a loop of links or an unknown user is no error."""
    return Path(os.path.realpath(os.path.expanduser(text)))


def home(folder: Path) -> Path:
    """Follow single folders of folders, such as images/ or an archive's top, to where classes or splits lie."""
    while len(inner := _subfolders(folder)) == 1 and inner[0].name.lower() not in SPLITS and _subfolders(inner[0]):
        folder = inner[0]
    return folder


def class_names(folder: Path) -> tuple[str, ...]:
    """Sorted names of the class folders in a tree; none where there are none."""
    return tuple(sorted({c.name for _, parent in _parents(home(folder)) for c in _subfolders(parent)}))


def leaves(folder: Path) -> Iterator[Leaf]:
    """Walk the class folders below a :func:`home`.

    Files that are no pictures by their name are skipped, with one line in the log.

    Raises
    ------
    CliplibError
        Folders where none belong, pictures outside class folders, class folders without pictures.
    ImageError
        A picture's name is not valid UTF-8, so no table can hold it.
    """
    skipped: list[Path] = []
    parents = _parents(folder)
    for parent in {folder, *(parent for _, parent in parents)}:
        if loose := _images(parent, skipped):
            raise CliplibError(f"The image {str(loose[0])!r} lies outside the class folders: move it into one.")
    for split, parent in parents:
        for leaf in _subfolders(parent):
            if deeper := _subfolders(leaf):
                raise CliplibError(
                    f"The class folder {str(leaf)!r} holds the folder {deeper[0].name!r}: put its images right into it."
                )
            if not (images := _images(leaf, skipped)):
                raise CliplibError(f"The class folder {str(leaf)!r} holds no images: fill it, or remove it.")
            yield Leaf(split, leaf, images)
    if skipped:
        logger.warning("Skipped %d files that are no images by their names, such as %s", len(skipped), min(skipped))


def _subfolders(folder: Path) -> list[Path]:
    """Folders that may be classes: neither hidden, nor a Mac's __MACOSX, nor a folder that is named like a picture."""
    found = [p for p in _entries(folder)
             if not p.name.startswith((".", "__")) and p.suffix.lower() not in SUFFIXES and p.is_dir()]  # fmt: skip
    if odd := [p for p in found if not is_unicode(str(p))]:
        raise CliplibError(f"The name of the folder {_shown(odd[0])!r} is not valid UTF-8: rename it.")
    return found


def _parents(folder: Path) -> list[tuple[str, Path]]:
    """Pairs of split ("" without) and the folder that holds its class folders."""
    inner = _subfolders(folder)
    splits = [p for p in inner if p.name.lower() in SPLITS]
    if splits and len(splits) < len(inner):
        other = next(p.name for p in inner if p not in splits)
        raise CliplibError(
            f"The folder {str(folder)!r} mixes splits ({splits[0].name}) and other folders ({other}): "
            "have either class folders, or split folders that hold class folders."
        )
    return [(SPLITS[p.name.lower()], p) for p in splits] or [("", folder)]


def _images(folder: Path, skipped: list[Path]) -> list[Path]:
    images = []
    for path in _entries(folder):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if not is_unicode(str(path)):
                raise ImageError(_shown(path), "its name is not valid UTF-8, so rename it")
            images.append(path)
        elif not path.is_dir():
            skipped.append(path)
    return images


def _shown(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise CliplibError(f"Cannot list the folder {str(folder)!r}: {error.strerror}.") from None
