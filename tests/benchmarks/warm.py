"""Seconds of ``make report`` on the embedded features, where nothing has to be installed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from measure import ROOT, Options, Row, spread

GOAL = 45  # seconds on 2 cores


def run(options: Options) -> list[Row]:
    """The rows about the report: every notebook executed, then again with nothing changed."""
    free = {key: value for key, value in os.environ.items() if not key.startswith("CLIPLIB_")}

    def build(*more: str) -> float:
        command = [
            sys.executable,
            "report/build.py",
            "--out",
            str(options.scratch / "report.pdf"),
            *more,
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=free)
        return time.perf_counter() - start

    def row(peer: str, work: Callable[[], list[float]], goal: float | None) -> Row:
        line = Row(
            "make report, packs, 2 notebooks at a time", peer, goal=goal, unit="s", sense="at most"
        )
        try:
            for name, value in spread(work()).items():
                setattr(line, name, value)
        except subprocess.CalledProcessError as error:
            line.note = (
                f"not measured: {(error.stderr or b'').decode(errors='replace').strip()[-300:]}"
            )
        return line

    fresh = row("none: seconds, every notebook executed", lambda: [build("--fresh")], None)
    again = row(
        "none: seconds, nothing changed", lambda: [build() for _ in range(options.rounds)], GOAL
    )
    return [fresh, again]
