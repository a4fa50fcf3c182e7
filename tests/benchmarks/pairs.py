"""How often is a folder alarmed in which nothing was planted? Pairs of classes.

``python tests/benchmarks/pairs.py --data DATA`` draws pairs of classes of each of six
collections, none of a class that `verdict.py` confirms with, and writes what
``cliplib report`` says of each pair; of the second draw also how alike images are where
few things of each class are shown in several views. The rule for shortcuts was chosen
with the first draw of three collections in view, that for look-alikes with the first
draw of all. What was measured is kept, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import numpy as np
import pandas as pd
from folders import HALVED, Folder, collection, folders, write
from verdict import most_used

from cliplib import LinearProbe
from cliplib.features.encode import encode
from cliplib.inspection.lookalikes import look_alikes
from cliplib.inspection.shortcuts import strongest
from cliplib.reports.measure import measure
from cliplib.reports.verdict import verdict

N_DRAWS = 3
WITH_VIEWS = 2
"""The draw of which views are tested, too: to search them for copies takes long."""
COLLECTIONS = ("trashnet", "dtd10", "caltech101", "pacs", "grocery", "fashion_products")
N_PAIRS = 10
N_IMAGES = 60
"""Of a class, at most; each of another group."""
FEWEST = 30
"""Classes of fewer groups are left out."""


def drawn_pairs(name: str, data: Path, draw: int) -> list[Folder]:
    """Draw pairs of classes of a collection, as folders in which nothing is planted.

    Draws count from 0, and share no pair.
    """
    table = collection(name, data, "development")
    confirmed = [f.classes for f in folders("confirmation") if f.collection == name]
    shown = set() if name in HALVED else set(", ".join(confirmed).split(", "))
    n_groups = table.groupby("label")["group"].nunique()
    classes = [c for c in n_groups.index if n_groups[c] >= FEWEST and c not in shown]
    pairs = [*combinations(classes, 2)]
    np.random.default_rng(1).shuffle(pairs)
    return [
        Folder("development", "clean", name, ", ".join(pair), str(N_IMAGES), 1, 0, "")
        for pair in pairs[draw * N_PAIRS : (draw + 1) * N_PAIRS]
    ]


def measured_row(folder: Folder, place: Path) -> dict[str, Any]:
    """Report on a folder: its word, warnings, strongest and most used shortcut."""
    findings = measure(place)
    said = verdict(findings)
    stated = findings.results.evaluation.estimate("accuracy")
    shortcut = strongest(findings.shortcuts)
    return {
        "collection": folder.collection,
        "classes": folder.classes,
        "n": len(findings.images.table),
        "word": said.word,
        "stated": stated.value,
        "warnings": " ".join(dict.fromkeys(warning.id for warning in said.warnings)),
        "shortcut": shortcut.name,
        "shortcut_share": shortcut.relative_gain.value,
        "shortcut_low": shortcut.relative_gain.low,
        **most_used(findings.shortcuts),
        "alike": findings.look_alikes.upper_quartile,
    }


def alike_in_views(folder: Folder, data: Path, place: Path) -> float:
    """Return how alike images are where twelve things of a class have five views each.

    Nobody declares them; those that are found to be copies are kept together.
    """
    replace(folder, n="12", planted="views 5").build(data, place)
    table = encode(place / "home").with_readout("deep")
    return look_alikes(table, LinearProbe()).upper_quartile


def main() -> None:
    """Build, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("CLIPLIB_DATA"))
    parser.add_argument("--out", default="build/pairs")
    parser.add_argument("--collections", default="", help="a pattern; by default all")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    data = Path(given.data)
    out = Path(given.out)
    rows = []
    drawn = [
        (draw, folder)
        for draw in range(N_DRAWS)
        for name in COLLECTIONS
        if re.search(given.collections, name)
        for folder in drawn_pairs(name, data, draw)
    ]
    for draw, folder in drawn:
        place = out / re.sub(r"\W+", "-", f"{folder.collection} {folder.classes}")
        kept = place.with_suffix(".json")
        if not kept.exists():
            pictures, _ = folder.draw(data)
            write(pictures, place, np.random.default_rng(0))
            row = {"draw": draw + 1, **measured_row(folder, place)}
            if row["draw"] == WITH_VIEWS:
                views = Path(f"{place}-views")
                row["alike_in_views"] = alike_in_views(folder, data, views)
            kept.write_text(json.dumps(row, default=float))
        rows.append(json.loads(kept.read_text()))
        print(kept.read_text(), flush=True)
    table = pd.DataFrame(rows)
    print(
        table.groupby(["draw", "collection"], sort=False)["word"]
        .value_counts()
        .to_string()
    )
    table.round(3).to_csv(out / "verdict_pairs.csv", index=False)


if __name__ == "__main__":
    main()
