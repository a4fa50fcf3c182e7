"""How often is the verdict right? A diagnostic test on folders with a known truth.

``python tests/benchmarks/verdict.py development --data DATA`` builds the folders of
`folders`, measures each as ``cliplib report`` does, asks the classifier and the
decision aid for independent images, and writes a table. The cuts of
`cliplib.reports.cautions` come from an earlier test on other folders. New ones are to
be chosen on ``development`` alone; ``confirmation`` was run once.
With ``--peers PYTHON``, an interpreter that has cleanvision and cleanlab, both look at
the same folders. What was measured is kept, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import pandas as pd
from folders import PARTS, Folder, folders
from planted import COPIES

from cliplib.evaluation.intervals import clopper_pearson
from cliplib.features.extract import load_features
from cliplib.probes.out_of_fold import fit_with_groups
from cliplib.reports import measure as module
from cliplib.reports.findings import Findings
from cliplib.reports.verdict import WORDS, Verdict, verdict

HELD_BACK = WORDS[: WORDS.index("Perhaps") + 1]
"""Words that promise nothing."""
INFORMATION = (
    "labels-in-doubt",
    "unreadable-files",
    "imbalance",
    "seen-in-training",
    "cluster-inside-class",
    "class-missed",
)
"""Cautions that are no alarm on a clean folder."""


def measured_row(folder: Folder, place: Path) -> dict[str, Any]:
    """Report on a folder that is built, and compare with independent images.

    Columns: what the folder is; word and accuracy that are stated; accuracy on `n_new`
    independent images, what the aid answers of them, and how much of that is wrong;
    cautions, whether the report is right, the strongest shortcut, how alike images are,
    and what was found of planted copies and wrong labels.
    """
    start = time.process_time()
    elsewhere = place / "elsewhere"
    # No word depends on the learning curve and on heat maps, which take half the time.
    with patch.multiple(module, measure_curve=Mock(), explain_errors=Mock()):
        findings = module.measure(
            place / "home",
            groups=folder.groups,
            elsewhere=str(elsewhere) if elsewhere.exists() else "",
        )
    said = verdict(findings)
    seconds = time.process_time() - start
    methods = findings.methods
    table = methods.method.table
    probe = fit_with_groups(
        methods.method.estimator, table.features, table.labels, table.groups
    )
    new = load_features(place / "new", findings.encoder).with_readout(table.readout)
    answers = findings.aid.decide(new.features)
    truth = np.array(new.classes)[new.labels]
    predicted = probe.predict(new.features)
    names = np.array(table.classes)[np.asarray(predicted)]
    is_answered = ~answers["abstained"].to_numpy(bool)
    is_wrong = is_answered & (answers["class"].to_numpy() != truth)
    strongest = next(
        (s for s in findings.shortcuts if s.decides), findings.shortcuts[0]
    )
    row = {
        "kind": folder.kind,
        "detail": folder.detail,
        "classes": ", ".join(folder.base.classes),
        "n": said.n,
        "groups": said.groups,
        "word": said.word,
        "stated": said.accuracy.value,
        "low": said.accuracy.low,
        "high": said.accuracy.high,
        "n_new": len(new),
        "true": float((names == truth).mean()),
        "answered": float(is_answered.mean()),
        "wrong": float(is_wrong.sum() / max(1, is_answered.sum())),
        "cautions": " ".join(dict.fromkeys(caution.id for caution in said.cautions)),
        "right": is_right(folder, said, findings, float((names == truth).mean())),
        "shortcut": strongest.name,
        "shortcut_share": strongest.share_of_gain.value,
        "shortcut_low": strongest.share_of_gain.low,
        "alike": findings.look_alikes.median_cosine,
        "found": what_was_found(folder, findings),
        "seconds": seconds,
    }
    save_for_peers(findings, place)
    return row


def is_right(folder: Folder, said: Verdict, findings: Findings, true: float) -> bool:
    """Tell whether the report says what it should of a folder of this kind."""
    ids = {caution.id for caution in said.cautions}
    is_held_back = said.word in HELD_BACK
    if folder.kind in ("clean", "declared"):
        return not alarms(ids) and not is_held_back
    if folder.kind.startswith("trap") or folder.kind == "partial trap":
        return names_trap(folder, said) and (
            is_held_back or folder.kind == "partial trap"
        )
    expected = {
        "groups in names": "groups-in-names" in ids,
        "undeclared groups": is_held_back or "look-alikes" in ids,
        "archive": bool(ids & {"archive-inside-class", "one-class-value"}),
        "hopeless": is_held_back,
        "elsewhere reversed": is_held_back and "worse-elsewhere" in ids,
        "few": is_held_back or said.accuracy.low <= true <= said.accuracy.high,
        "imbalance": said.word not in ("No", "Not shown"),
        "label noise": "labels-in-doubt" in ids,
        "copies": len(findings.copies.rows) > 0,
    }
    return expected[folder.kind]


def alarms(ids: set[str]) -> set[str]:
    """Return the cautions that would be false alarms on a clean folder."""
    return ids - set(INFORMATION)


def names_trap(folder: Folder, said: Verdict) -> bool:
    """Tell whether a caution names what was planted, or where it lies."""
    about = [c for c in said.cautions if c.id in ("shortcut", "one-class-value")]
    return any(name in c.message for c in about for name in folder.names)


def what_was_found(folder: Folder, findings: Findings) -> str:
    """Return how many planted copies or wrong labels were found, in words."""
    ids = findings.images.table.ids
    stems = [Path(str(image)).stem for image in ids]
    if folder.kind == "label noise":
        planted = {row for row, stem in enumerate(stems) if stem.startswith("x")}
        named = set(findings.suspects["row"].tolist())
        return f"{len(planted & named)} of {len(planted)} in {len(named)} named"
    if folder.kind != "copies":
        return ""
    rows = findings.copies.rows
    pairs = {
        frozenset((stems[a], stems[b]))
        for a, b in zip(rows["row_a"], rows["row_b"], strict=True)
    }
    counts = dict.fromkeys(COPIES, 0)
    planted = [stem for stem in stems if stem.startswith("b") and "-" in stem]
    for stem in planted:
        key, kind = stem[1:].split("-")
        counts[[*COPIES][int(kind)]] += frozenset((stem, f"a{key}")) in pairs
    found = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return (
        f"of {len(planted)} pairs: {found}; others {len(pairs) - sum(counts.values())}"
    )


# --- Peers


def save_for_peers(findings: Findings, place: Path) -> None:
    """Keep what Datalab needs: probabilities, features and labels, by file."""
    table = findings.images.table.with_readout("pooled")
    np.savez_compressed(
        place / "peers.npz",
        features=table.features,
        labels=table.labels,
        proba=findings.methods.proba,
        ids=table.ids,
    )


def ask_peers(python: str, places: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run `peers.py` under another interpreter; return its answers by folder."""
    program = str(Path(__file__).with_name("peers.py"))
    ran = subprocess.run(
        [python, program, *places], capture_output=True, text=True, check=True
    )
    answers: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return answers


# --- Tables


def summary(table: pd.DataFrame) -> str:
    """Write sensitivity by kind, specificity, and how often intervals hold."""
    lines = ["kind                  right of  stated  true"]
    for kind, rows in table.groupby("kind", sort=False):
        lines.append(
            f"{kind:<22}{rows['right'].sum():>3} {len(rows):>3}"
            f"{100 * rows['stated'].mean():>9.0f}{100 * rows['true'].mean():>6.0f}"
        )
    honest = table[table["kind"].isin(["clean", "declared"])]
    inside = honest["true"].between(honest["low"], honest["high"])
    lines.append(
        f"clean or declared: true accuracy in the stated interval {inside.sum()} of "
        f"{len(honest)}, its own interval reaching into it {honest['holds'].sum()}"
    )
    for word, rows in table.groupby("word", sort=False):
        lines.append(
            f"{word:<16}{len(rows):>3} stated {100 * rows['stated'].mean():.0f}"
            f", true {100 * rows['true'].mean():.0f}"
        )
    for peer in ("cleanvision", "datalab"):
        if peer in table:
            traps = table[table["kind"].str.contains("trap")]
            lines.append(
                f"{peer}: traps named {int(traps[peer].sum())} of {len(traps)}, "
                f"alarms {int(honest[peer].sum())} of {len(honest)}"
            )
    return "\n".join(lines)


def holds(row: pd.Series) -> bool:
    """Tell whether the accuracy on independent images lies in the stated interval.

    The truth is known by so many images: its own interval may reach into the stated.
    """
    low, high = clopper_pearson([row["true"]], [row["n_new"]])[:, 0]
    return bool(low <= row["high"] and high >= row["low"])


def main() -> None:
    """Build, measure, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", default=os.environ.get("CLIPLIB_DATA"))
    parser.add_argument("--out", default="build/verdict")
    parser.add_argument("--table", default="")
    parser.add_argument("--peers", default="")
    parser.add_argument("--kinds", nargs="*", default=[])
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    data = Path(given.data)
    rows = {}
    for folder in folders(given.part, data):
        if not given.kinds or folder.kind in given.kinds:
            place = Path(given.out) / given.part / folder.id
            folder.build(data, place)
            rows[str(place)] = kept_row(folder, place)
            print(json.dumps(rows[str(place)]), flush=True)
    table = pd.DataFrame([*rows.values()])
    table["holds"] = table.apply(holds, axis=1)
    if given.peers:
        answers = pd.DataFrame(ask_peers(given.peers, [*rows])).T
        table = table.join(answers.loc[[*rows]].reset_index(drop=True))
    print(summary(table))
    if given.table:
        table.drop(columns="seconds").round(3).to_csv(given.table, index=False)


def kept_row(folder: Folder, place: Path) -> dict[str, Any]:
    """Return the row of a folder, measured now or in a run before."""
    kept = place / "row.json"
    if not kept.exists():
        kept.write_text(json.dumps(measured_row(folder, place)))
    row: dict[str, Any] = json.loads(kept.read_text())
    return row


if __name__ == "__main__":
    main()
