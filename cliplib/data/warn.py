"""Warnings that are logged once each."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger("cliplib")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, unless this process has already logged the same one.

    So a thousand images with one fault cause one warning, and a notebook cell that is
    run again causes none.
    """
    logger.warning("%s", message)
