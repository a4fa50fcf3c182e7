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
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cliplib.data.files import UNFINISHED, check_writable, remove_old, replacing

MANIFEST = "decision_aid.json"
"""Names the folder of the parts; without it there is no aid."""
PARTS_NAME = re.compile("parts-[0-9a-f]{8}")


def check_aid_can_be_saved(folder: str | os.PathLike[str]) -> None:
    """Raise OSError where no decision aid can be saved to a folder.

    It may be missing or empty, or hold an older decision aid. It must be writable.
    """
    path = Path(folder).resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder.")
    if path.is_dir() and not (path / MANIFEST).is_file():
        for entry in path.iterdir():
            # A first save that was killed leaves parts without a manifest.
            is_leftover = entry.name.startswith(UNFINISHED)
            if not is_leftover and not PARTS_NAME.fullmatch(entry.name):
                raise FileExistsError(
                    f"The folder {folder} holds something else: choose another."
                )
    check_writable(folder)


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
    check_aid_can_be_saved(folder)
    target = Path(folder).resolve()
    with replacing(folder) as new:
        parts_name = f"parts-{uuid.uuid4().hex[:8]}"
        (new / parts_name).mkdir()
        manifest = {"parts": parts_name, **write_parts(new / parts_name)}
        text = json.dumps(manifest, indent=1)
        (new / MANIFEST).write_text(text, encoding="utf-8")
        old_parts = _parts_by_manifest(target)
    for old in old_parts:
        # Windows refuses while a file is open: a later save does it then.
        shutil.rmtree(old, ignore_errors=True)
    in_use = _parts_by_manifest(target)
    parts = [path for path in target.iterdir() if PARTS_NAME.fullmatch(path.name)]
    remove_old([path for path in parts if path not in in_use])


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
