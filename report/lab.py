"""Copies of the notebooks to play with: saving them leaves the repository as it is."""

from __future__ import annotations

import shutil
from pathlib import Path


def copies(root: Path) -> Path:
    """Copy notebooks to ``build/lab``, and return it; a newer copy there stays."""
    folder = root / "build" / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        copy = folder / path.name
        if not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime:
            shutil.copy(path, copy)
    return folder
