"""The pictures that are to be classified, as people have them: in folders, under all kinds of names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from PIL import Image

from cliplib.encoder import ImageSource
from cliplib.errors import CliplibError

Files: TypeAlias = str | os.PathLike[str] | Sequence[ImageSource]
"""A folder, one file, or a list of paths, bytes, PIL images or rows of a data set."""


class File(NamedTuple):
    """What to show, and what to read."""

    name: str
    source: ImageSource


def printable(text: str) -> str:
    r"""One line of text that can be shown, written and encoded, whatever a file's or a class's name holds.

    Line breaks, control characters, those that turn the direction of writing, and bytes of a file name that are not
    valid UTF-8 become escapes such as ``\n``.
    """
    valid = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in valid)


def list_files(files: Files) -> list[File]:
    """Every file of a folder and of the folders in it, sorted; or what a list holds, in its order.

    Files that are no pictures are listed too, and so are links that lead nowhere or to a folder (which are not
    followed) and folders that cannot be opened: whoever reads them says what is wrong, and nothing goes missing.

    Parameters
    ----------
    files : path, or sequence of paths, bytes, PIL images or rows of a data set
        Names are relative to a folder, as given in a list, and ``"<image 3>"`` for what has none.

    Raises
    ------
    CliplibError
        There is no such folder or file.
    """
    if not isinstance(files, str | os.PathLike):
        return [File(_name(item, position), item) for position, item in enumerate(files)]
    path = Path(files)
    if not os.path.lexists(path):
        raise CliplibError(f"There is no folder and no file {printable(os.fspath(path))!r}: check its name.")
    if not path.is_dir():
        return [File(printable(path.name), path)]
    closed: list[OSError] = []
    found: list[Path] = []
    for parent, folders, names in os.walk(path, onerror=closed.append):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [Path(parent, name) for name in names + links]
    found += [Path(error.filename) for error in closed]
    return [File(printable(p.relative_to(path).as_posix()), p) for p in sorted(found)]


def _name(item: ImageSource, position: int) -> str:
    named = item.get("path") if isinstance(item, Mapping) else item
    named = getattr(named, "filename", "") if isinstance(named, Image.Image) else named
    return printable(os.fspath(named)) if named and isinstance(named, str | os.PathLike) else f"<image {position}>"
