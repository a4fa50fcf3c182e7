"""The folder of a decision aid, which is replaced whole or not at all.

The manifest names the folder of the parts. A new aid's parts get a name of their own,
and its manifest takes the place of the old one at the end, in one step: at any moment
the manifest is the old or the new one, and its parts are there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError

MANIFEST = "decision_aid.json"
"""Names the folder of the parts; without it there is no aid."""
PARTS_NAME = re.compile("parts-[0-9a-f]{8}")
UNFINISHED = ".{}.unfinished-"
"""How the name of the temporary folder begins, beside the aid's own of this name."""
LEFTOVER_AGE = 3600.0
"""Seconds after which a save that has not ended was killed."""


def check_aid_can_be_saved(folder: str | os.PathLike[str]) -> None:
    """Raise OSError where no decision aid can be saved to a folder.

    It may be missing or empty, or hold an older decision aid. The folder above it must
    be writable, for a new aid is first written there.
    """
    _check_content(folder)
    check_writable(Path(folder).resolve().parent)


def _check_content(folder: str | os.PathLike[str]) -> None:
    """Raise OSError for a file, and for a folder that holds files but no decision aid.

    A folder that is missing or empty may be used.
    """
    path = Path(folder).resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder.")
    if not path.is_dir() or (path / MANIFEST).is_file():
        return
    # A first save that was killed leaves parts without a manifest.
    if not all(PARTS_NAME.fullmatch(entry.name) for entry in path.iterdir()):
        raise FileExistsError(
            f"The folder {folder} holds something else: choose another."
        )


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raise OSError where a folder, or the nearest above that exists, is read-only.

    A temporary folder is made in it, and deleted, to try.
    """
    path = Path(folder).resolve()
    while not path.exists():
        path = path.parent
    try:
        with TemporaryDirectory(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"Nothing can be written to {path} ({reason}): choose another folder."
        ) from error


def replace_aid(
    folder: str | os.PathLike[str], write_parts: Callable[[Path], dict[str, Any]]
) -> None:
    """Write a decision aid, in the place of an older one if there is one.

    Where it is killed, or the disk is full, the old aid stays as it was. Of several
    processes that save at the same time the last one wins. In the end, what saves that
    were killed have left is deleted, if it is more than an hour old.

    Parameters
    ----------
    folder
        Of the aid; it is made if it is missing. Other files in it stay.
    write_parts
        A function that writes the parts into a folder, new and empty, and returns what
        the manifest says of them, for JSON.

    Raises
    ------
    OSError
        If the folder holds something else, or cannot be written.
    """
    _check_content(folder)
    target = Path(folder).resolve()
    prefix = UNFINISHED.format(target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the aid, and so on the same disk, where files can be moved in one step.
        with TemporaryDirectory(prefix=prefix, dir=target.parent) as temporary:
            new = Path(temporary)
            parts = f"parts-{uuid.uuid4().hex[:8]}"
            (new / parts).mkdir()
            document = {"parts": parts, **write_parts(new / parts)}
            text = json.dumps(document, indent=1)
            (new / MANIFEST).write_text(text, encoding="utf-8")
            _write_to_disk(new)
            _put_in_place(new, target, parts)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Cannot save the decision aid to {folder} ({error}): make room, or "
            "choose another folder. What was there is unchanged."
        ) from error
    _clear_leftovers(target)


def read_manifest(folder: Path) -> tuple[Any, Path]:
    """Return the manifest in an aid's folder, and the folder of the parts it names.

    Raises
    ------
    FileNotFoundError
        If there is no manifest. One that somebody has changed may raise an error of
        nearly any kind.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"it has no {MANIFEST}")
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return document, folder / _parts_named_by(document)


def _parts_named_by(document: Any) -> str:
    """Return the name of the folder of parts that a manifest names.

    It is "." for an aid of older versions, whose parts are beside the manifest, which
    names no folder. A name of another form could lead out of the aid's folder: it
    raises ValueError.
    """
    parts = document.get("parts", ".")
    if parts != "." and not PARTS_NAME.fullmatch(parts):
        raise ValueError(f"it has parts in {parts!r}")
    return str(parts)


def _write_to_disk(folder: Path) -> None:
    """Wait until all files of a folder, however deep, are on the disk.

    Else a manifest could outlive a power cut in which its parts were lost.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:  # Windows flushes writable files only
                os.fsync(file)


_REPLACING = threading.Lock()
"""Of two threads that save, the second one must see the first one's parts as old."""


def _put_in_place(new: Path, target: Path, parts: str) -> None:
    """Move manifest and parts from a new folder to a target; delete its older parts.

    `parts` is the name of the folder of the new parts. Where the manifest cannot be
    replaced, they are deleted, and the error is raised.
    """
    target.mkdir(exist_ok=True)
    (new / parts).rename(target / parts)
    try:
        with _REPLACING:
            old_parts = _parts_in(target)
            os.replace(new / MANIFEST, target / MANIFEST)
    except BaseException:
        shutil.rmtree(target / parts, ignore_errors=True)
        raise
    for part in old_parts:
        # Files that are open on Windows cannot be deleted: a later save does it.
        shutil.rmtree(part, ignore_errors=True)


def _parts_in(folder: Path) -> list[Path]:
    """Return the folders of parts of the aid in a folder; [] if none, or damaged."""
    try:
        _, parts = read_manifest(folder)
    except (OSError, ValueError, AttributeError, TypeError):
        return []  # there is none, or a damaged one
    if parts == folder:  # of an older version: all else in the folder stays
        return [folder / name for name in ("encoder", "probe", "training")]
    return [parts]


def _clear_leftovers(folder: Path) -> None:
    """Delete what saves that were killed left in an aid's folder and beside it.

    What is less than an hour old may belong to a save that goes on: it stays.
    """
    in_use = _parts_in(folder)
    prefix = UNFINISHED.format(folder.name)
    within = [path for path in folder.iterdir() if PARTS_NAME.fullmatch(path.name)]
    beside = [path for path in folder.parent.iterdir() if path.name.startswith(prefix)]
    for path in [*within, *beside]:
        with suppress(OSError):  # another process may have deleted it
            age = time.time() - path.stat().st_mtime
            if path not in in_use and age > LEFTOVER_AGE:
                shutil.rmtree(path)
