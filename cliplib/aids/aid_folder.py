"""The folder of a decision aid, which is replaced completely or not at all.

A manifest names the subfolder of the aid's parts. The parts of a new aid are written to
a new subfolder. At the end its manifest replaces the old one in a single step. So at
any moment there is one manifest, old or new, and all parts that belong to it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cliplib.data.files import UNFINISHED, check_writable, replacing

# File that names the subfolder of the parts; a folder without it is not an aid.
MANIFEST = "decision_aid.json"
PARTS_NAME = re.compile("parts-[0-9a-f]{8}")


def check_aid_can_be_saved(folder: str | os.PathLike[str]) -> None:
    """Raise OSError if a decision aid cannot be saved to a folder.

    The folder must be writable, and be missing, empty, or hold an older decision aid.
    """
    path = Path(folder).resolve()
    if path.is_dir() and not (path / MANIFEST).is_file():
        for entry in path.iterdir():
            # If the first save was killed, there may be parts, but no manifest.
            is_leftover = entry.name.startswith(UNFINISHED)
            if not is_leftover and not PARTS_NAME.fullmatch(entry.name):
                raise FileExistsError(f"{folder} holds something else: choose another.")
    check_writable(folder)


@contextmanager
def new_parts(
    folder: str | os.PathLike[str], manifest: Mapping[str, Any]
) -> Iterator[Path]:
    """Provide a folder for the parts of a new aid, which replaces the old one at exit.

    If the process is killed, or the disk is full, the old aid stays as it was. Other
    files in the folder are kept.

    Parameters
    ----------
    folder
        The aid's folder; it is created if it is missing.
    manifest
        Content of the manifest, beside the name of the parts; it must suit JSON.

    Raises
    ------
    OSError
        If the folder holds something other than an aid, or cannot be written.
    """
    check_aid_can_be_saved(folder)
    name = f"parts-{uuid.uuid4().hex[:8]}"
    with replacing(folder) as new:
        (new / name).mkdir()
        yield new / name
        text = json.dumps({"parts": name, **manifest}, indent=1)
        (new / MANIFEST).write_text(text, encoding="utf-8")
    for entry in Path(folder).iterdir():
        if entry.name != name and PARTS_NAME.fullmatch(entry.name):
            # Windows keeps the old parts while a file is open; a later save deletes
            # them.
            shutil.rmtree(entry, ignore_errors=True)


def read_manifest(folder: Path) -> Any:
    """Return the manifest of an aid's folder, which names the subfolder of its parts.

    A missing or altered manifest may raise an error of almost any type. A ValueError is
    raised if the name of the parts could lead out of the aid's folder.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not PARTS_NAME.fullmatch(manifest["parts"]):
        raise ValueError(f"it has parts in {manifest['parts']!r}")
    return manifest
