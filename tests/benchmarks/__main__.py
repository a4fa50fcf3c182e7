"""How fast cliplib is beside what else there is: ``python tests/benchmarks --data FOLDER``, in about 25 minutes.

Peer and ours run in turn in one process, so that other work on the machine slows both, and what counts is the ratio.
Rows go to ``figures/benchmark.json``; those of another run that this one does not measure stay. Peers that cliplib does
not need are in ``tests/benchmarks/requirements.txt``: without them, their rows say so.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import importlib
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import transformers
from measure import ROOT, Options, machine

PARTS = {  # name: module and function
    "features": ("features", "run"),
    "embedded": ("embedded", "run"),
    "again": ("embedded", "run_again"),
    "sweep": ("sweep", "run"),
    "bootstrap": ("intervals", "run"),
    "audit": ("duplicates", "run"),
    "growth": ("growth", "run"),
    "report": ("warm", "run"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of pictures, at any depth (default: pictures made on the spot)",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "figures" / "benchmark.json", help="default: %(default)s"
    )
    parser.add_argument(
        "--only", action="append", choices=list(PARTS), help="this part; may be repeated"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each runs (default: %(default)s)"
    )
    parser.add_argument(
        "--n", type=int, default=320, help="pictures for the features (default: %(default)s)"
    )
    parser.add_argument(
        "--most",
        type=int,
        default=50_000,
        help="pictures in growth and audit (default: %(default)s)",
    )
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CLIPLIB_CACHE"] = scratch
        options = Options(
            given.data, given.n, max(1, given.rounds), Path(scratch), max(1000, given.most)
        )
        for part in given.only or PARTS:
            module, function = PARTS[part]
            begin = time.perf_counter()
            found = [
                row.settle() for row in getattr(importlib.import_module(module), function)(options)
            ]
            show(part, found, time.perf_counter() - begin)
            rows += [{"part": part, **row, "machine": machine()} for row in found]
            write(
                given.out,
                rows,
                done=[name for name in PARTS if name in {row["part"] for row in rows}],
            )


def show(part: str, rows: list[dict[str, Any]], seconds: float) -> None:
    """Print a part's rows."""
    out = [f"{part} ({seconds:.0f} s)"]
    for row in rows:
        ratio = (
            row["note"]
            if row["ratio"] is None
            else "{ratio:g} {unit} [{low:g}, {high:g}]".format(**row)
        )
        goal = {None: "", True: ", met", False: ", MISSED"}[row["met"]]
        goal = f"   goal: {row['sense']} {row['goal']:g}{goal}" if row["goal"] is not None else ""
        out.append(f"  {row['work']} | {row['peer']}\n    {ratio}{goal}   {row['rates'] or ''}")
    sys.stdout.write("\n".join(out) + "\n")
    sys.stdout.flush()


def write(path: Path, rows: list[dict[str, Any]], done: list[str]) -> None:
    """Put the rows of the parts that were done into the file, in the order of the parts."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    both = [row for row in kept if row["part"] not in done] + rows
    both.sort(key=lambda row: list(PARTS).index(row["part"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(both, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
