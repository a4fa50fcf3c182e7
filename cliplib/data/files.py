"""Files that take the place of older ones whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

# How the name of a folder begins in which files are written. A run that is killed
# leaves it; it may be deleted.
UNFINISHED = ".unfinished-"


class NotWrittenError(OSError):
    """A folder cannot be written to."""


@contextmanager
def replacing(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a block an empty folder, whose files move into `folder` when it ends.

    There they take the place of older ones of the same names, each in one step, once
    all are written. If the block fails, if the process is killed, or if the disk is
    full, the older ones stay. Other files stay in any case. Folders must have new
    names; they are moved before files, which may then name them.

    Parameters
    ----------
    folder
        Made if it is missing.

    Raises
    ------
    NotWrittenError
        If `folder` cannot be written to; it says what to do. An OSError of the block
        that is not the system's, as of an image that cannot be read, stays as it is.
    """
    target = Path(folder).resolve()
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Within the target, and so on the same disk, where a move is one step.
        with TemporaryDirectory(prefix=UNFINISHED, dir=target) as temporary:
            new = Path(temporary)
            yield new
            _give_usual_mode(new)
            for entry in sorted(new.iterdir(), key=Path.is_file):
                os.replace(entry, target / entry.name)
    except (OSError, SafetensorError) as error:
        # Only the system's own errors have a number.
        if isinstance(error, OSError) and error.errno is None:
            raise
        raise NotWrittenError(
            f"Nothing was written to {folder} ({error}): if the disk is full, make "
            "room, or choose another folder. What was there is unchanged."
        ) from error


def _give_usual_mode(folder: Path) -> None:
    """Let all files below a folder be read by whom the user's settings allow.

    The package safetensors hides those that it writes itself.
    """
    usual_file = folder / UNFINISHED
    usual_file.touch()
    usual_mode = usual_file.stat().st_mode
    usual_file.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(usual_mode)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raise OSError where a folder, or the nearest above that exists, is read-only."""
    path = Path(folder).resolve()
    while not path.exists():
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise OSError(f"Nothing can be written to {path}: choose another folder.")
