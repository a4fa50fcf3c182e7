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
    be writable: `replace_aid` first writes there.
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
    """Write a decision aid into a folder; an older one there is replaced in one step.

    If the process is killed, or the disk is full, the old aid stays as it was. If
    several processes save at once, the last one's aid stays. Files that killed saves
    left more than an hour ago are deleted at the end.

    Parameters
    ----------
    folder
        The aid's folder, made if it is missing. Other files in it stay.
    write_parts
        A function that writes the parts into the empty folder it is given, and returns
        the manifest's entries about them, as JSON can hold them.

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
            parts_name = f"parts-{uuid.uuid4().hex[:8]}"
            (new / parts_name).mkdir()
            manifest = {"parts": parts_name, **write_parts(new / parts_name)}
            text = json.dumps(manifest, indent=1)
            (new / MANIFEST).write_text(text, encoding="utf-8")
            _flush_to_disk(new)
            _put_in_place(new, target, parts_name)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Cannot save the decision aid to {folder} ({error}): make room, or "
            "choose another folder. What was there is unchanged."
        ) from error
    _clear_leftovers(target)


def read_manifest(folder: Path) -> tuple[Any, Path]:
    """Return the manifest in an aid's folder, and the path of the folder of its parts.

    Raises
    ------
    FileNotFoundError
        If there is no manifest. One that somebody has changed may raise an error of
        nearly any kind.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"it has no {MANIFEST}")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return manifest, folder / _parts_name(manifest)


def _parts_name(manifest: Any) -> str:
    """Return the name of the folder of parts, such as "parts-0a1b2c3d".

    It is "." for a manifest of older versions, which names none: the parts lie beside
    it. A name of another form could lead out of the aid's folder, and raises
    ValueError.
    """
    parts_name = manifest.get("parts", ".")
    if parts_name != "." and not PARTS_NAME.fullmatch(parts_name):
        raise ValueError(f"it has parts in {parts_name!r}")
    return str(parts_name)


def _flush_to_disk(folder: Path) -> None:
    """Have the operating system write all files of a folder, however deep, to the disk.

    Else a manifest could outlive a power cut in which its parts were lost.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:  # Windows flushes writable files only
                os.fsync(file)


_REPLACING = threading.Lock()
"""Held by the thread that replaces a manifest."""


def _put_in_place(new: Path, target: Path, parts_name: str) -> None:
    """Move manifest and parts from the folder `new` to an aid's; delete its old parts.

    If the manifest cannot be replaced, the new parts are deleted, the old ones stay,
    and the error is raised.
    """
    target.mkdir(exist_ok=True)
    new_parts = target / parts_name
    (new / parts_name).rename(new_parts)
    try:
        # Of two threads that save, the second must see the first one's parts as old.
        with _REPLACING:
            old_parts = _parts_by_manifest(target)
            os.replace(new / MANIFEST, target / MANIFEST)
    except BaseException:
        # An interrupt may come when the new manifest is there already.
        if _parts_by_manifest(target) != [new_parts]:
            shutil.rmtree(new_parts, ignore_errors=True)
        raise
    for old in old_parts:
        # Windows refuses while a file is open: `_clear_leftovers` of a later save does
        # it then.
        shutil.rmtree(old, ignore_errors=True)


def _parts_by_manifest(folder: Path) -> list[Path]:
    """Return the folders in which an aid's parts lie, as its manifest says.

    [] if there is no manifest, or it is damaged.
    """
    try:
        _, parts = read_manifest(folder)
    except (OSError, ValueError, AttributeError, TypeError):
        return []
    if parts == folder:  # an aid of older versions: other files lie beside its parts
        return [folder / name for name in ("encoder", "probe", "training")]
    return [parts]


def _clear_leftovers(folder: Path) -> None:
    """Delete what killed saves left in an aid's folder, and in the one above it.

    What is less than an hour old may belong to a save that goes on: it stays.
    """
    in_use = _parts_by_manifest(folder)
    prefix = UNFINISHED.format(folder.name)
    within = [path for path in folder.iterdir() if PARTS_NAME.fullmatch(path.name)]
    beside = [path for path in folder.parent.iterdir() if path.name.startswith(prefix)]
    for path in [*within, *beside]:
        with suppress(OSError):  # another process may have deleted it
            age = time.time() - path.stat().st_mtime
            if path not in in_use and age > LEFTOVER_AGE:
                shutil.rmtree(path)
