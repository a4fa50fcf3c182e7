"""Where things lie, and the one error that ends a build."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path


class BuildError(Exception):
    """What stopped the build, in one sentence for the terminal."""


@dataclass(frozen=True)
class Project:
    """The folders of one report."""

    root: Path

    @property
    def build(self) -> Path:
        """Everything that may be deleted: executed notebooks, the appendix, fonts, records."""
        return self.root / "build"

    @property
    def executed(self) -> Path:
        return self.build / "executed"

    @property
    def record(self) -> Path:
        """What `cliplib.figures` did in this run, one JSON line per result."""
        return self.build / "record.jsonl"

    @property
    def notebooks(self) -> list[Path]:
        """The numbered notebooks, in order."""
        return sorted((self.root / "notebooks").glob("[0-9][0-9]_*.ipynb"))

    @property
    def epoch(self) -> int:
        """The report's date in seconds: every date that a build writes, so that equal input gives equal bytes."""
        day = tomllib.loads((self.root / "report" / "meta.toml").read_text(encoding="utf-8"))["date"]
        return int(datetime.combine(day, time(0), UTC).timestamp())
