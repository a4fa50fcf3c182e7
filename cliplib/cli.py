"""Does a frozen CLIP sort my images? The command line.

``python -m cliplib FOLDER --out AID`` audits a folder of class folders, measures what a probe makes
of it, and saves a decision aid; ``python -m cliplib classify AID FOLDER_OR_FILES`` uses that;
``python -m cliplib encode INPUT OUTPUT`` computes features on several machines, and the same call
again only what is missing (pip install -e ".[scale]").
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cliplib.aid.decision_aid import DecisionAid
from cliplib.aid.sheet import write_csv, write_html
from cliplib.audit import audit_dataset
from cliplib.data import dataset_spec, load_dataset
from cliplib.encoder import ClipEncoder
from cliplib.evaluation import evaluate
from cliplib.extract import load_features
from cliplib.probes import KernelProbe, LinearProbe
from cliplib.scale import encode
from cliplib.splits import out_of_fold_proba
from cliplib.zeroshot import zero_shot


def show(title: str, lines: pd.Series) -> None:
    """Print how many lines there are, and the first ten of them."""
    print(f"{title}: {len(lines)}", *("    " + lines.head(10)), sep="\n")


def train(folder: str, out: str, model: str) -> None:
    """Audit a folder, measure what a probe makes of it, and save a decision aid."""
    if (
        os.path.exists(out)
        and os.listdir(out)
        and "classifier.json" not in os.listdir(out)
    ):
        raise FileExistsError(f"The folder {out} holds something else: choose another.")
    folder = (
        os.path.abspath(folder) if os.path.isdir(folder) else folder
    )  # before a known name
    encoder, dataset, spec = (
        ClipEncoder(model),
        load_dataset(folder),
        dataset_spec(folder),
    )
    table = load_features(folder, encoder, errors={})
    if dataset is not None:
        found = audit_dataset(dataset, cache=encoder.cache)
        print(
            found.images["label"].value_counts(sort=False).to_string(),
            found,
            sep="\n\n",
        )
        show("Unreadable, left out", found.images["error"][found.images["error"] != ""])
        both = found.conflicts["id_a"] + " and " + found.conflicts["id_b"]
        show("Near-duplicates in two classes", both)
        show("Near-duplicates of training images among val and test", found.leaks["id"])
    y, classes, often = table.labels, table.classes, np.bincount(table.labels).argmax()
    if len(set(y)) < max(2, len(classes)):
        raise ValueError(
            f"{folder} needs images that can be read in each of two classes or more."
        )
    predicted: dict[str, Any] = {f"always {classes[often]!r}": np.full(len(y), often)}
    predicted["zero-shot"] = zero_shot(encoder, table, spec)
    linear = {f"linear probe, {readout}": readout for readout in ("pooled", "deep")}
    for name, readout in linear.items():
        predicted[name] = out_of_fold_proba(
            LinearProbe(), table.with_readout(readout), n_repeats=1
        )
    predicted["kernel probe, deep"] = out_of_fold_proba(
        KernelProbe(), table, n_repeats=1
    )
    results = {
        name: evaluate(y, p, classes, groups=table.groups)
        for name, p in predicted.items()
    }
    best = max(linear, key=lambda name: results[name].accuracy)
    line = "    {:<33}{:.3f} [{:.3f}, {:.3f}]".format
    print(
        "",
        encoder,
        "Accuracy by 5-fold cross-validation, with 95 % intervals",
        sep="\n",
    )
    for name, result in results.items():
        print(line(name, *result.metrics.loc["accuracy"]))
    print(f"Share of each class that the {best}, finds")
    for name, row in results[best].per_class.filter(like="sensitivity").iterrows():
        print(line(name, *row))
    aid = DecisionAid.fit(table.with_readout(linear[best]), encoder)
    aid.save(out)
    print(f"Decision aid saved: python -m cliplib classify {out} FOLDER_OR_FILES")
    print(pd.Series(dict(aid.about)).to_string(float_format="{:.3f}".format))


def classify(aid: str, files: Sequence[str], prefix: str) -> None:
    """Write what a decision aid says of a folder or of files."""
    folder = len(files) == 1 and os.path.isdir(files[0])
    if wrong := [] if folder else [file for file in files if not os.path.isfile(file)]:
        raise ValueError(
            f"{wrong[0]!r} is no file: name one folder, or files that exist."
        )
    os.makedirs(os.path.dirname(prefix) or ".", exist_ok=True)
    classifier, given = DecisionAid.load(aid), files[0] if folder else files
    rows = classifier.classify(given)
    if np.isinf(classifier.min_probability):
        print(
            "This decision aid abstains on everything: no probability made its answers reliable."
        )
    said = rows["class"].where(~rows["abstained"], "no answer, " + rows["reason"])
    show("Files", rows["file"] + ": " + said)
    show("Unreadable", rows["error"][rows["error"] != ""])
    write_html(
        rows, f"{prefix}.html", classifier, given
    )  # lists the folder: no new file there yet
    write_csv(rows, f"{prefix}.csv")
    print(f"Written: {prefix}.csv, {prefix}.html")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    logging.getLogger("cliplib.images").setLevel(
        logging.ERROR
    )  # unreadable files are named below
    parser = argparse.ArgumentParser("python -m cliplib", description=__doc__)
    command: Any = {"classify": classify, "encode": encode}.get(
        "".join(arguments[:1]), train
    )
    if command is classify:
        parser.add_argument("aid", metavar="AID")
        parser.add_argument("files", nargs="+", metavar="FOLDER_OR_FILES")
        parser.add_argument("--out-prefix", dest="prefix", default="answers")
    elif command is encode:
        parser.add_argument("source", metavar="INPUT")
        parser.add_argument("output", metavar="OUTPUT")
        parser.add_argument("--readout", default="pooled")
        parser.add_argument("--actors", type=int, default=2)
    else:
        parser.add_argument("folder", metavar="FOLDER")
        parser.add_argument("--out", required=True, metavar="AID")
    if command is not classify:
        parser.add_argument(
            "--model", default="", help="hub id or folder (default: mini)"
        )
    given = parser.parse_args(arguments if command is train else arguments[1:])
    try:
        command(**vars(given))
    except (ValueError, OSError, ImportError, KeyboardInterrupt) as error:
        sys.stderr.write(
            f"{str(error) or 'Stopped; features computed so far are kept.'}\n"
        )
        return 1
    return 0
