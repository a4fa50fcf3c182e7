"""The embedded model against its own forward pass, and a second run against reading the files."""

from __future__ import annotations

import os

import numpy as np
from features import bare_forward
from measure import Options, Row, in_turn, pictures, ratios, sample, spread

from cliplib.encoder import ClipEncoder
from cliplib.store import FeatureStore

WORK = "images on disk to features, embedded model"
AGAIN = "second run, all features known"
READING = "reading the files' bytes"


def run(options: Options) -> list[Row]:
    """The rows about the embedded model."""
    found = pictures(options)
    encoder = ClipEncoder.from_pretrained("mini", device="cpu")
    files = sample(found, 2 * options.n)
    seconds = in_turn(
        {
            "ours": lambda: encoder.images(files, kind="projected", progress=False),
            "bare": bare_forward(encoder, files),
        },
        options.rounds,
    )
    rates = [len(files) / value for value in seconds["ours"]]
    row = Row(
        WORK,
        "its own bare forward pass, same dtype and threads",
        **ratios(seconds, "bare", "ours"),
        goal=0.8,
    )
    spent = encoder.last_run.seconds
    row.rates = {"ours (images/s)": float(np.median(rates))}
    row.rates |= {"peer (images/s)": len(files) / float(np.median(seconds["bare"]))}
    row.rates |= {
        f"share of {phase}": value / sum(spent.values()) for phase, value in spent.items()
    }
    row.note = f"in {encoder.dtype}"
    speed = Row(WORK, "none: images per second", **spread(rates), goal=150, unit="images/s")
    speed.note = f"the goal is for 2 cores; here {os.cpu_count()}"
    return [row, speed]


def run_again(options: Options) -> list[Row]:
    """The row about known features."""
    encoder, files = (
        ClipEncoder.from_pretrained("mini", device="cpu"),
        sample(pictures(options), 2000),
    )
    with FeatureStore(options.scratch / "known.sqlite") as store:
        encoder.images(files, store=store, progress=False)
        works = {
            "ours": lambda: encoder.images(files, store=store, progress=False),
            "reading": lambda: [path.read_bytes() for path in files],
        }
        seconds = in_turn(works, max(options.rounds, 7))
        assert encoder.last_run.computed == 0
    row = Row(AGAIN, READING, **ratios(seconds, "reading", "ours"), goal=0.5)
    row.rates = {name: len(files) / float(np.median(seconds[name])) for name in works}
    row.rates = {f"{name} (images/s)": value for name, value in row.rates.items()}
    row.note = "files in the system's cache; one thread reads"
    return [row]
