"""Warnings, each given once."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger("cliplib")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, unless this process has given the same one.

    A thousand like images give one warning, and a cell of a notebook that is run again
    gives none.
    """
    logger.warning("%s", message)
