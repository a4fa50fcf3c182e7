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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cliplib.data.files import UNFINISHED, check_writable, replacing

# Names the folder of the parts; without it there is no aid.
MANIFEST = "decision_aid.json"
PARTS_NAME = re.compile("parts-[0-9a-f]{8}")


def check_aid_can_be_saved(folder: str | os.PathLike[str]) -> None:
    """Raise OSError where no decision aid can be saved to a folder.

    It may be missing or empty, or hold an older decision aid. It must be writable.
    """
    path = Path(folder).resolve()
    if path.is_dir() and not (path / MANIFEST).is_file():
        for entry in path.iterdir():
            # A first save that was killed leaves parts without a manifest.
            is_leftover = entry.name.startswith(UNFINISHED)
            if not is_leftover and not PARTS_NAME.fullmatch(entry.name):
                raise FileExistsError(f"{folder} holds something else: choose another.")
    check_writable(folder)


@contextmanager
def new_parts(
    folder: str | os.PathLike[str], manifest: Mapping[str, Any]
) -> Iterator[Path]:
    """Give a folder for the parts of an aid, which replaces an older one at the end.

    If the process is killed, or the disk is full, the old aid stays as it was. Other
    files in the folder stay.

    Parameters
    ----------
    folder
        The aid's folder, made if it is missing.
    manifest
        What is written beside the parts, as JSON can hold it.

    Raises
    ------
    OSError
        If the folder holds something else, or cannot be written.
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
            # Windows refuses while a file is open: a later save does it then.
            shutil.rmtree(entry, ignore_errors=True)


def read_manifest(folder: Path) -> Any:
    """Return the manifest in an aid's folder, which names the folder of its parts.

    One that is missing, or that somebody has changed, may raise an error of nearly any
    kind. So does a name of parts that could lead out of the aid's folder.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not PARTS_NAME.fullmatch(manifest["parts"]):
        raise ValueError(f"it has parts in {manifest['parts']!r}")
    return manifest
