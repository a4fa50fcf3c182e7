"""Files that replace older ones completely, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

# Prefix of the temporary folder that files are written to. A run that is killed leaves
# this folder behind; it may be deleted.
UNFINISHED = ".unfinished-"


class NotWrittenError(OSError):
    """A folder cannot be written to."""


@contextmanager
def replacing(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Let a block write into an empty folder, then move what it wrote into `folder`.

    Each file is moved in one step, and replaces an older file of the same name. If the
    block fails, the process is killed or the disk is full, nothing is replaced. Folders
    that the block makes need names that are new in `folder`. They are moved first,
    since the files may refer to them.

    Parameters
    ----------
    folder
        Made if it is missing.

    Raises
    ------
    NotWrittenError
        If `folder` cannot be written to. Other errors of the block are passed on, such
        as that an image cannot be read.
    """
    target = Path(folder).resolve()
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Inside the target, so that both are on one disk and a move is a single step.
        with TemporaryDirectory(prefix=UNFINISHED, dir=target) as temporary:
            new = Path(temporary)
            yield new
            _give_default_permissions(new)
            for entry in sorted(new.iterdir(), key=Path.is_file):  # folders first
                os.replace(entry, target / entry.name)
    except (OSError, SafetensorError) as error:
        # Only errors of the operating system have a number.
        if isinstance(error, OSError) and error.errno is None:
            raise
        raise NotWrittenError(
            f"Nothing was written to {folder} ({error}): if the disk is full, make "
            "room, or choose another folder. What was there is unchanged."
        ) from error


def _give_default_permissions(folder: Path) -> None:
    """Give all files below a folder the permissions of a file that Python makes.

    The package safetensors lets only the owner read the files that it writes.
    """
    new_file = folder / UNFINISHED
    new_file.touch()
    default_mode = new_file.stat().st_mode
    new_file.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(default_mode)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raise OSError if a folder, which need not exist yet, cannot be written to."""
    nearest = Path(folder).resolve()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OSError(f"Nothing can be written to {nearest}: choose another folder.")
