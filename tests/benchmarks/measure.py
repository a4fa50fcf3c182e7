"""What the benchmarks share: peer and ours in turn, rows of the table of results, pictures to work on."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cliplib.data.images import SUFFIXES
from cliplib.encoder.hardware import versions

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """What was asked for.

    `data`: a folder of pictures, or None; `n`: pictures for the features; `rounds`; `scratch`: a folder to fill;
    `most`: pictures at most, in the parts about many pictures.
    """

    data: Path | None
    n: int
    rounds: int
    scratch: Path
    most: int = 50_000


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    work, peer : str
        What is done, and by what else: together the row's name.
    ratio, low, high : float or None
        In `unit`: the median over the rounds, and its lowest and highest value. "x": the peer's time by ours.
    goal : float or None
        What `ratio` should reach, or with sense "at most" not exceed.
    met : bool or None
        None where nothing was measured, or there is no goal.
    rates : dict of str to float
        What else was measured, by name, such as images per second of either.
    note : str
        Conditions of this row, or why nothing was measured.
    """

    work: str
    peer: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    met: bool | None = None
    unit: str = "x"
    sense: str = "at least"
    rates: dict[str, float] | None = None
    note: str = ""

    def settle(self) -> dict[str, Any]:
        """The row for JSON, `met` decided."""
        if self.ratio is not None and self.goal is not None and self.met is None:
            self.met = (
                self.ratio <= self.goal if self.sense == "at most" else self.ratio >= self.goal
            )
        found = asdict(self)
        found["rates"] = {name: float(f"{value:.4g}") for name, value in (self.rates or {}).items()}
        for name in ("ratio", "low", "high"):
            found[name] = None if found[name] is None else float(f"{found[name]:.4g}")
        return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest, by the names that a `Row` has for them."""
    return {"ratio": statistics.median(values), "low": min(values), "high": max(values)}


def in_turn(
    works: Mapping[str, Callable[[], Any]], rounds: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds that each of several works takes, in every round once, in an order that is drawn anew.

    Other work on the machine slows them all, so their ratio within a round says more than the seconds do.

    Parameters
    ----------
    works : mapping of str to callable
    rounds : int
    warm : bool
        Call each once before, unmeasured: files in the system's cache, threads and memory made.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    order = random.Random(0)
    if warm:
        for work in works.values():
            work()
    for _ in range(rounds):
        for name in order.sample(list(works), len(works)):
            start = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], peer: str, ours: str) -> dict[str, float]:
    """How many times faster `ours` is than `peer`, round by round."""
    return spread([theirs / our for theirs, our in zip(seconds[peer], seconds[ours], strict=True)])


def absent(work: str, peer: str, goal: float | None, error: BaseException, **more: Any) -> Row:
    """The row of a peer that could not run here."""
    if isinstance(error, ModuleNotFoundError):
        reason = f"not measured: {error.name} is not installed"
    else:
        reason = f"not measured: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return Row(work, peer, goal=goal, note=reason, **more)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    if (cpus := Path("/proc/cpuinfo")).is_file():
        named = [
            line.split(":")[1].strip()
            for line in cpus.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = named[0] if named else name
    found = {"processor": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return found | versions("torch", "transformers", "scikit-learn", "scipy", "pillow")


def pictures(options: Options) -> list[Path]:
    """The picture files below ``options.data``, sorted; without it, 512 made on the spot, as large as TrashNet's."""
    if options.data is not None:
        found = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise SystemExit(
                f"There are no pictures in {options.data}: name another folder with --data."
            )
        return found
    folder = options.scratch / "made"
    if not folder.exists():
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number in range(512):
            coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            fine = np.asarray(
                Image.fromarray(coarse).resize((341, 256), Image.Resampling.BICUBIC), np.int16
            )
            noisy = fine + rng.integers(-12, 13, fine.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(
                folder / f"{number:03d}.jpg", quality=90
            )
    return sorted(folder.iterdir())


def sample(files: list[Path], n: int) -> list[Path]:
    """`n` of the files, evenly spaced; all where they are fewer."""
    return files if n >= len(files) else [files[i * len(files) // n] for i in range(n)]
