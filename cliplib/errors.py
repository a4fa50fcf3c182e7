"""What goes wrong in a way that the user can mend: one sentence that names the thing and the remedy."""

from __future__ import annotations

import os


class CliplibError(Exception):
    """Base of every error that cliplib raises on purpose; its text is one sentence for the user."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback (IPython asks for it): the sentence says all that helps."""
        return [f"{type(self).__name__}: {self}"]


class ArgumentError(CliplibError, ValueError):
    """An unusable argument of an estimator: a `ValueError` too, as scikit-learn's conventions want it."""


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


def path_text(value: object, what: str) -> str:
    """The text of an argument that names a file, folder, data set or model.

    Parameters
    ----------
    value : str or path
        The argument.
    what : str
        What an error calls it.

    Raises
    ------
    CliplibError
        It is something else, empty, or holds a NUL character, which no file system takes.
    """
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        if isinstance(text, str) and text and "\0" not in text:
            return text
    raise CliplibError(f"{what} must be a str or a path, not {value!r}.")


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: file names of other bytes, and careless JSON, hold lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
