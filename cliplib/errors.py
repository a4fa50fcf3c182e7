"""What goes wrong in a way that the user can mend: one sentence that names the thing and the remedy."""

from __future__ import annotations


class CliplibError(Exception):
    """Base of every error that cliplib raises on purpose; its text is one sentence for the user."""


class ImageError(CliplibError):
    """A picture that cannot be read.

    Parameters
    ----------
    path : str
        The file, or a description of where the bytes came from.
    reason : str
        What is wrong with it, without the file's name.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the exception survives a trip between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"Cannot read the image {self.path!r}: {self.reason}."
