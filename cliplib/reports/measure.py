"""Measure how far a frozen CLIP and light probes can sort one folder of images."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

import cliplib
from cliplib.aids.decision_aid import DecisionAid
from cliplib.aids.external import evaluate_external
from cliplib.data.datasets import Source, load_dataset
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.encoder import Encoder
from cliplib.encoders.vision import VisionEncoder
from cliplib.features.audit import audit_pairs
from cliplib.features.encode import EncodedImages, encode_dataset
from cliplib.features.groups import joined_files, joined_groups, suggested_pattern
from cliplib.inspection.erase import evaluate_erased, read_boxes
from cliplib.inspection.file_values import values_of_one_class
from cliplib.inspection.lookalikes import look_alikes
from cliplib.inspection.published_split import evaluate_published_split
from cliplib.inspection.shortcuts import probe_shortcuts
from cliplib.inspection.subgroups import find_subgroups
from cliplib.inspection.swaps import measure_swaps
from cliplib.inspection.training_overlap import FINGERPRINTS, find_training_overlap
from cliplib.inspection.zero_shot import zero_shot
from cliplib.probes.out_of_fold import Fit, fit_with_groups
from cliplib.reports.anonymous import anonymised
from cliplib.reports.findings import Findings, Grouping
from cliplib.reports.methods import (
    MethodComparison,
    compare_methods,
    number_of_folds,
    suspect_labels,
)

MOST_ERRORS = 6


def measure(
    folder: Source,
    *,
    model: str | os.PathLike[str] = "",
    groups: str | os.PathLike[str] | None = None,
    copies: str | float = "near",
    others: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    elsewhere: str | os.PathLike[str] = "",
    boxes: str | os.PathLike[str] = "",
    seed: int = 0,
    anonymous: bool = False,
    out: str | os.PathLike[str] = "OUT",
    title: str = "",
    **columns: str,
) -> Findings:
    """Measure how far a frozen CLIP and light probes can sort images.

    Parameters
    ----------
    folder, **columns
        A folder of class folders, or any other source of images, and which part of it
        is meant: see `load_dataset`.
    model
        Hub id or folder of a CLIP; "" for the setting ``CLIPLIB_MODEL``, else "mini".
    groups
        A CSV file (file, group), or a regular expression with the group in its
        parentheses: what belongs together. By default what the source says, if it does.
    copies
        Which images count as copies: "off", "exact", "near", or the smallest
        correlation of detail that makes one. Copies are kept together.
    others
        More vision models to set beside CLIP, or one, by hub id or folder.
    elsewhere
        Another folder of the same classes, from another camera or site, to be judged
        by a probe that is trained on all of this one. If it is no folder, its columns
        are called as those of the first source.
    boxes
        A CSV file (file, x_center, y_center, width, height as shares): where the object
        lies that is to be erased.
    seed
        Of everything random, from 0 on.
    anonymous
        Call images by numbers, models but "mini" by their fingerprint, and folders,
        files, groups and columns by no name; files of answers keep the images' ids.
    out
        Of a report on the findings, for the command that makes it again.
    title
        Of such a report; "" for the name of the folder, or for none if anonymous.

    Raises
    ------
    OSError
        If a folder or file is missing, or a model cannot be loaded.
    ImportError
        If there are boxes, and no scikit-image.
    ValueError
        If the folder does not hold two classes of four images each that can be read,
        or groups, boxes or the other folder do not fit it.
    """
    others = [others] if isinstance(others, str | os.PathLike) else others
    others = [other for other in others if other]  # "" is none, as for a model
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} must be from 0 to 2³² - 1.")
    options = {
        "folder": folder if isinstance(folder, str | os.PathLike) else "FOLDER",
        "out": out,
        "title": title,
        "anonymous": anonymous,
        "model": model,
        "groups": groups,
        "copies": "" if copies == "near" else copies,
        "others": others,
        "elsewhere": elsewhere,
        "boxes": boxes,
        "seed": seed,
        **columns,
    }
    # What can be refused before the encoding, which takes minutes, is refused first.
    dataset = load_dataset(folder, groups=groups, **columns)
    check_classes(dataset)
    external_dataset = load_external(elsewhere, dataset, columns) if elsewhere else None
    box_by_id = read_boxes(os.fspath(boxes), dataset["id"][:]) if boxes else {}
    other_encoders = [VisionEncoder(other) for other in others]
    encoder = ClipEncoder(model or None)
    images = encode_readable(dataset, encoder, copies)
    table = images.table
    folds: dict[str, Any] = {"n_splits": number_of_folds(table), "seed": seed}
    words = zero_shot(encoder, table)
    other_tables = {
        other.name: table.with_features(other.map(images.files, progress=other.name)[0])
        for other in other_encoders
    }
    results, fits = compare_methods(table, words, other_tables, **folds)
    fitted = fit_with_groups(results.probe, results.probe_table)
    aid = DecisionAid.fit(results.probe_table, encoder, probe=results.probe, seed=seed)
    made_by = f"cliplib {cliplib.__version__}, Python {platform.python_version()}"
    aid = replace(aid, about={**aid.about, "made by": made_by})
    external = None
    if external_dataset is not None:
        external_images = encode_readable(external_dataset, encoder, copies)
        external = evaluate_external(
            images, external_images, fitted, aid, copies=copies, seed=seed
        )
    erased = None
    if box_by_id:
        erased = evaluate_erased(
            fits, results.probe_table, encoder, images.files, box_by_id, seed=seed
        )
    findings = Findings(
        options=options,
        title=title or table.provenance["dataset"],
        names=table.ids.tolist(),
        unreadable=pd.DataFrame(images.unreadable.items(), columns=["file", "reason"]),
        groups=os.fspath(groups or ""),
        encoder=encoder,
        images=images,
        grouping=grouping_of(images),
        results=results,
        suspects=suspect_labels(table.labels, results.proba),
        errors=surest_errors(results),
        fitted=fitted,
        aid=aid,
        external=external,
        erased=erased,
        **_inspect(encoder, images, results, fits, folds),
    )
    return anonymised(findings, other_encoders) if anonymous else findings


def _inspect(
    encoder: ClipEncoder,
    images: EncodedImages,
    results: MethodComparison,
    fits: Sequence[Fit],
    folds: Mapping[str, Any],
) -> dict[str, Any]:
    """Return fields of `Findings`: what images, files and splits say of themselves.

    `folds` holds the number of folds and the seed.
    """
    table = images.table
    probe = results.probe
    probe_table = results.probe_table
    audit = audit_pairs(images.dataset, images.pairs)
    accuracy = results.evaluation.estimate("accuracy")
    accuracy_by_image = (results.by_image or results.evaluation).estimate("accuracy")
    balanced_accuracy = results.evaluation.estimate("balanced_accuracy")
    shortcuts = probe_shortcuts(
        table,
        images.files,
        audit.fields,
        balanced_accuracy,
        cache=encoder.cache,
        **folds,
    )
    training_overlap = None  # of another encoder nothing is known
    if encoder.fingerprint in FINGERPRINTS:
        training_overlap = find_training_overlap(images.hashes)
    return {
        "audit": audit,
        "shortcuts": measure_swaps(
            shortcuts, fits, probe_table, encoder, images.files, seed=folds["seed"]
        ),
        "one_class_values": values_of_one_class(audit.fields, table),
        "look_alikes": look_alikes(table.with_readout("deep"), probe, **folds),
        "subgroups": find_subgroups(
            table, results.predicted, audit.fields, seed=folds["seed"]
        ),
        "training_overlap": training_overlap,
        "published_split": evaluate_published_split(
            probe_table,
            probe,
            by_image=accuracy_by_image,
            by_group=accuracy,
            **folds,
        ),
    }


def check_classes(dataset: datasets.Dataset) -> None:
    """Raise ValueError for images of one class."""
    classes = dataset.features["label"].names
    if len(classes) < 2:
        raise ValueError(
            f"{dataset.info.dataset_name} needs images of two classes or more, each in "
            f"a folder of its own; there is only {classes[0]!r}."
        )


def load_external(
    elsewhere: str | os.PathLike[str],
    dataset: datasets.Dataset,
    columns: Mapping[str, str],
) -> datasets.Dataset:
    """List the images elsewhere; ValueError if they have no class of the data set's.

    Of the options `columns` only the names of columns count, and a folder has none.
    """
    named = {}
    if not Path(elsewhere).is_dir():
        named = {name: columns[name] for name in columns if name.endswith("_column")}
    external = load_dataset(elsewhere, **named)
    classes = dataset.features["label"].names
    theirs = external.features["label"].names
    if not set(theirs) & set(classes):
        raise ValueError(
            f"{elsewhere} has the classes {', '.join(theirs)}, and none of "
            f"{', '.join(classes)}: its folders must have the same names."
        )
    return external


def encode_readable(
    dataset: datasets.Dataset, encoder: Encoder, copies: str | float
) -> EncodedImages:
    """Encode the images that can be read; ValueError where none of a class can."""
    images = encode_dataset(dataset, encoder, copies=copies, errors={})
    for label, name in enumerate(images.table.classes):
        if label not in images.table.labels:
            error = next(iter(images.errors.values()), "")
            raise ValueError(f"No image of class {name!r} can be read. {error}")
    return images


def grouping_of(images: EncodedImages) -> Grouping:
    """Return what is declared or suggested to belong together, and what copies join."""
    ids = images.table.ids.tolist()
    declared = images.dataset["group"][:]  # "" for none
    if any(declared):
        merged = joined_groups(ids, declared, images.table.copies)
        return Grouping(len(set(declared)), "", {}, merged)
    pattern = suggested_pattern(ids)
    series = joined_files(ids, pattern) if pattern else {}
    return Grouping(0, pattern, series, pd.DataFrame())


def surest_errors(results: MethodComparison) -> list[int]:
    """Return the rows of the surest errors, six at most, one of each group.

    They are those of the best probe, out of fold; the surest comes first.
    """
    table = results.table
    sureness = results.proba.max(axis=1)
    answers = pd.DataFrame({"group": table.groups, "sureness": sureness})
    errors = answers[results.predicted != table.labels]
    surest_first = errors.sort_values("sureness", ascending=False, kind="stable")
    rows: list[int] = surest_first.drop_duplicates("group").index.tolist()
    return rows[:MOST_ERRORS]
