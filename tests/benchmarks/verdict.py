"""How often is the verdict right? A diagnostic test on folders with a known truth.

``python tests/benchmarks/verdict.py --part development --data DATA`` builds the folders
of `folders`, measures each as ``cliplib report`` does, asks the classifier and the
decision aid for independent images, and writes a table. Thresholds are chosen on
``development``; rules were revised after runs on ``confirmation``, so that ``unseen``
was added and run once. ``--peers`` asks cleanvision and cleanlab about the same
folders: see requirements.txt. What was measured is kept, so a run that was stopped goes
on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import numpy as np
import pandas as pd
from folders import COPIES, PARTS, TRAPS, Folder, folders

from cliplib.features.encode import encode
from cliplib.inspection.shortcuts import Shortcut, strongest
from cliplib.reports.data_warnings import external_loss
from cliplib.reports.findings import Findings
from cliplib.reports.measure import measure
from cliplib.reports.templates import percent, points
from cliplib.reports.verdict import WORDS, Verdict, right_of_new, verdict

HONEST = ("clean", "declared")
INFORMATION = re.compile(
    "labels-in-doubt|imbalance|seen-in-training|cluster-inside-class|class-missed"
)
"""Warnings that are no alarm on a folder without a fault."""


def measured_row(folder: Folder, place: Path, peers: bool) -> dict[str, Any]:
    """Report on a folder that is built, and compare with independent images.

    Columns: what the folder is; word and accuracy that are stated; accuracy on `n_new`
    independent images, whether it lies in the stated interval, and how many are right
    in the sentence's range; what the aid answers, and how much of that is wrong;
    warnings, whether the report is right, the strongest shortcut, what costs most when
    it is swapped, how alike images are, what was found of planted copies and wrong
    labels, or elsewhere; whether each peer names a trap.
    """
    elsewhere = place / "elsewhere"
    findings = measure(
        place / "home",
        groups=r"(p\d+)_" if folder.kind == "declared" else None,
        elsewhere=str(elsewhere) if elsewhere.exists() else "",
    )
    said = verdict(findings)
    table = findings.results.probe_table
    probe = findings.fitted
    new = encode(place / "new", findings.encoder).with_readout(table.readout)
    truth = np.array(new.classes)[new.labels]
    is_true = np.array(table.classes)[probe.predict(new.features)] == truth
    answers = findings.aid.decide(new.features)
    answered = ~answers["abstained"].to_numpy(bool)
    is_wrong = answers["class"].to_numpy()[answered] != truth[answered]
    stated = findings.results.evaluation.estimate("accuracy")
    low, high = stated.low, stated.high
    fewest, most = right_of_new(stated, len(new))
    range_holds = bool(fewest <= is_true.sum() <= most)
    shortcut = strongest(findings.shortcuts)
    row = {
        "kind": folder.kind,
        "detail": folder.planted,
        "classes": ", ".join(table.classes),
        "n": len(table),
        "groups": findings.results.n_groups,
        "word": said.word,
        "stated": stated.value,
        "low": low,
        "high": high,
        "n_new": len(new),
        "true": is_true.mean(),
        "interval_holds": bool(low <= is_true.mean() <= high),
        "range_holds": range_holds,
        "answered": answered.mean(),
        "wrong": is_wrong.mean() if answered.any() else 0.0,
        "warnings": " ".join(dict.fromkeys(warning.id for warning in said.warnings)),
        "right": is_right(folder, said, findings, range_holds),
        "shortcut": shortcut.name,
        "shortcut_share": shortcut.relative_gain.value,
        "shortcut_low": shortcut.relative_gain.low,
        **most_used(findings.shortcuts),
        "alike": findings.look_alikes.upper_quartile,
        "found": what_was_found(folder, findings),
    }
    can_tell = folder.kind in HONEST or "trap" in folder.kind
    return row | (peers_name(findings, place) if peers and can_tell else {})


def most_used(shortcuts: Sequence[Shortcut]) -> dict[str, Any]:
    """Return the shortcut whose swap costs most, and what it costs."""
    measured = [s for s in shortcuts if not np.isnan(s.swap_cost.value)]
    most = max(measured, key=lambda s: s.swap_cost.value, default=None)
    if most is None:
        return {"swapped": "", "cost": np.nan, "cost_low": np.nan}
    cost = most.swap_cost
    return {"swapped": most.name, "cost": cost.value, "cost_low": cost.low}


def is_right(folder: Folder, said: Verdict, findings: Findings, holds: bool) -> bool:
    """Tell whether the report says what it should of a folder of this kind."""
    ids = {warning.id for warning in said.warnings}
    promises = WORDS.index(said.word) > WORDS.index("Perhaps")
    if folder.kind in HONEST:
        return promises and all(map(INFORMATION.fullmatch, ids))
    if "trap" in folder.kind:
        name = TRAPS[folder.planted.split()[1]][1]
        about = [c for c in said.warnings if c.id in ("shortcut", "one-class-value")]
        is_named = any(re.search(name, warning.message) for warning in about)
        return is_named and (folder.kind == "partial trap" or not promises)
    expected = {
        "hopeless": not promises,
        "groups in names": "groups-in-names" in ids,
        "undeclared groups": not promises or "look-alikes" in ids or holds,
        "archive": bool(ids & {"archive-inside-class", "one-class-value"}),
        "copies": len(findings.audit.pairs) > 0,
        "label noise": "labels-in-doubt" in ids,
        "few": not promises or holds,
        "imbalance": said.word not in ("No", "Not shown"),
        "elsewhere reversed": not promises and "worse-elsewhere" in ids,
    }
    return expected[folder.kind]


def what_was_found(folder: Folder, findings: Findings) -> str:
    """Return in words what was found of copies and wrong labels, or elsewhere."""
    if findings.external is not None:
        right = findings.external.evaluation.estimate("accuracy")
        loss = external_loss(findings.external, findings.results)
        return f"elsewhere {percent(right)} right, a loss of {points(loss)}"
    stems = [Path(image).stem for image in findings.images.table.ids]
    if folder.kind == "label noise":
        named = [stems[row].startswith("x") for row in findings.suspects["row"]]
        n_wrong = sum(stem.startswith("x") for stem in stems)
        return f"{sum(named)} of {n_wrong} in {len(named)} named"
    if folder.kind != "copies":
        return ""
    rows = findings.audit.pairs[["index_a", "index_b"]].to_numpy()
    pairs = {tuple(sorted((stems[a], stems[b]))) for a, b in rows}
    copies = [stem for stem in stems if re.match(r"b\d{4}-", stem)]
    found = Counter(
        [*COPIES][int(copy[-1])] for copy in copies if (f"a{copy[1:5]}", copy) in pairs
    )
    counts = ", ".join(f"{kind} {found[kind]}" for kind in COPIES)
    others = len(pairs) - found.total()
    return f"of {len(copies)} pairs: {counts}; others {others}"


def peers_name(findings: Findings, place: Path) -> dict[str, bool]:
    """Tell whether cleanvision names a fault of one class, and Datalab a correlation.

    Of cleanvision's, copies aside, one that is flagged in 30% of a class, and in a
    third of that elsewhere; of Datalab's, a score below its own threshold of 0.3.
    """
    from cleanlab import Datalab
    from cleanvision import Imagelab
    from datasets import Dataset, Image

    table = findings.images.table.with_readout("pooled")
    paths = [str((place / "home" / name).resolve()) for name in table.ids]
    vision = Imagelab(filepaths=paths)
    vision.find_issues(verbose=False)
    flags = vision.issues.loc[paths].filter(regex="^is_(?!.*duplicates)")
    share = flags.groupby(table.labels).mean()
    of_one = (share.max() >= 0.3) & (share.min() <= share.max() / 3)
    data = Dataset.from_dict({"image": paths, "label": table.labels.tolist()})
    lab = Datalab(
        data.cast_column("image", Image()), label_name="label", image_key="image"
    )
    lab.find_issues(pred_probs=findings.results.proba, features=table.features)
    scores = lab.get_info("spurious_correlations")["correlations_df"]["score"]
    return {"cleanvision": bool(of_one.any()), "datalab": bool((scores < 0.3).any())}


def main() -> None:
    """Build, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--data", default=os.environ.get("CLIPLIB_DATA"))
    parser.add_argument("--out", default="build/verdict")
    parser.add_argument("--kinds", default="", help="a pattern; by default all")
    parser.add_argument("--peers", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    for folder in folders(given.part):
        if not re.match(given.kinds, folder.kind):
            continue
        name = re.sub(r"\W+", "-", " ".join(map(str, astuple(folder))))
        place = Path(given.out) / name
        folder.build(Path(given.data), place)
        kept = place / "row.json"
        if not kept.exists():
            row = measured_row(folder, place, given.peers)
            kept.write_text(json.dumps(row, default=float))
        rows.append(json.loads(kept.read_text()))
        print(kept.read_text(), flush=True)
    table = pd.DataFrame(rows)
    for by in ("kind", "word"):
        means = table.groupby(by, sort=False).mean(numeric_only=True)
        print(means.round(2).to_string())
    table.round(3).to_csv(Path(given.out) / f"verdict_{given.part}.csv", index=False)


if __name__ == "__main__":
    main()
