"""Measure how well light probes on a frozen CLIP classify one folder of images."""

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
from cliplib.probes.out_of_fold import fit_with_groups
from cliplib.reports.anonymous import anonymised
from cliplib.reports.findings import Findings, Grouping
from cliplib.reports.methods import (
    MethodComparison,
    compare_methods,
    number_of_folds,
    suspect_labels,
)

# Most errors that are shown.
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
    """Measure how well light probes on a frozen CLIP classify images.

    Parameters
    ----------
    folder, **columns
        A folder of class folders, or any other source of images, and the part of it
        that is meant: see `load_dataset`.
    model
        Hub id or folder of a CLIP; "" for the setting ``CLIPLIB_MODEL``, else "mini".
    groups
        A CSV file (file, group), or a regular expression with the group in its
        parentheses; by default the groups that the source declares, if any.
    copies
        Which images count as copies: "off", "exact", "near", or the smallest
        correlation of their detail. Copies are kept together.
    others
        Other vision models to compare with CLIP, or one, by hub id or folder.
    elsewhere
        Another folder of the same classes, from another camera or site, to test the
        best probe on. If it is no folder, its columns have the names of the first
        source's.
    boxes
        A CSV file (file, x_center, y_center, width, height as shares) of the objects to
        erase.
    seed
        Seed of everything random, from 0 to 2³² - 1.
    anonymous
        Name no file, folder, group or column; call images by numbers, and models by
        their fingerprint, except "mini". Tables of answers keep the ids of images.
    out
        Folder of a report on the findings, for the command that makes it again.
    title
        Title of this report; "" for the name of the folder, or for none if anonymous.

    Raises
    ------
    OSError
        If a folder or file is missing, or a model cannot be loaded.
    ImportError
        If there are boxes, but scikit-image is missing.
    ValueError
        If there are fewer than two classes or fewer than four groups of readable images
        of a class, or if groups, boxes or the other folder do not fit the images.
    """
    other_models = [others] if isinstance(others, str | os.PathLike) else others
    other_models = [name for name in other_models if name]  # "" means no model
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
        "others": other_models,
        "elsewhere": elsewhere,
        "boxes": boxes,
        "seed": seed,
        **columns,
    }
    # What can be refused is refused before the encoding, which takes minutes.
    dataset = load_dataset(folder, groups=groups, **columns)
    check_classes(dataset)
    external_dataset = load_external(elsewhere, dataset, columns) if elsewhere else None
    box_by_id = read_boxes(os.fspath(boxes), dataset["id"][:]) if boxes else {}
    other_encoders = [VisionEncoder(name) for name in other_models]
    encoder = ClipEncoder(model or None)

    # Encode the images, and compare probes and baselines out of fold.
    images = encode_readable(dataset, encoder, copies)
    table = images.table
    folds: dict[str, Any] = {"n_splits": number_of_folds(table), "seed": seed}
    zero_shot_proba = zero_shot(encoder, table)
    other_tables = {}
    for other in other_encoders:
        (features,) = other.map(images.files, progress=other.name)
        other_tables[other.name] = table.with_features(features)
    results, fits = compare_methods(table, zero_shot_proba, other_tables, **folds)
    probe_table = results.probe_table

    # Fit the best probe to all images, and make the decision aid of it.
    fitted = fit_with_groups(results.probe, probe_table)
    aid = DecisionAid.fit(probe_table, encoder, probe=results.probe, seed=seed)
    made_by = f"cliplib {cliplib.__version__}, Python {platform.python_version()}"
    aid = replace(aid, about={**aid.about, "made by": made_by})

    # Test them on images from elsewhere, and the probe without the objects.
    external = None
    if external_dataset is not None:
        external_images = encode_readable(external_dataset, encoder, copies)
        external = evaluate_external(
            images, external_images, fitted, aid, copies=copies, seed=seed
        )
    erased = None
    if box_by_id:
        erased = evaluate_erased(
            fits, probe_table, encoder, images.files, box_by_id, seed=seed
        )

    # Look for reasons to doubt the accuracy.
    audit = audit_pairs(images.dataset, images.pairs)
    by_group = results.evaluation.estimate("accuracy")
    # Both are the same where each image is its own group.
    by_image = (results.by_image or results.evaluation).estimate("accuracy")
    shortcuts = probe_shortcuts(
        table,
        images.files,
        audit.fields,
        results.evaluation.estimate("balanced_accuracy"),
        cache=encoder.cache,
        **folds,
    )
    training_overlap = None  # other encoders were trained on unknown images
    if encoder.fingerprint in FINGERPRINTS:
        training_overlap = find_training_overlap(images.hashes)
    findings = Findings(
        options=options,
        title=title or table.provenance["dataset"],
        names=table.ids.tolist(),
        unreadable=pd.DataFrame(images.unreadable.items(), columns=["file", "reason"]),
        groups=os.fspath(groups or ""),
        encoder=encoder,
        images=images,
        grouping=grouping_of(images),
        audit=audit,
        results=results,
        shortcuts=measure_swaps(
            shortcuts, fits, probe_table, encoder, images.files, seed=seed
        ),
        one_class_values=values_of_one_class(audit.fields, table),
        look_alikes=look_alikes(table.with_readout("deep"), results.probe, **folds),
        subgroups=find_subgroups(table, results.predicted, audit.fields, seed=seed),
        suspects=suspect_labels(table.labels, results.proba),
        errors=surest_errors(results),
        fitted=fitted,
        aid=aid,
        training_overlap=training_overlap,
        published_split=evaluate_published_split(
            probe_table, results.probe, by_image=by_image, by_group=by_group, **folds
        ),
        external=external,
        erased=erased,
    )
    return anonymised(findings, other_encoders) if anonymous else findings


def check_classes(dataset: datasets.Dataset) -> None:
    """Raise ValueError if there is only one class."""
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
    """Load the images elsewhere; ValueError if no class of theirs is in `dataset`.

    `columns` are options of `load_dataset` for the first source. Those that name a
    column hold here as well, unless the images are in a folder, which has no columns.
    """
    column_names = {}
    if not Path(elsewhere).is_dir():
        column_names = {k: v for k, v in columns.items() if k.endswith("_column")}
    external = load_dataset(elsewhere, **column_names)
    classes = dataset.features["label"].names
    external_classes = external.features["label"].names
    if not set(external_classes) & set(classes):
        raise ValueError(
            f"{elsewhere} has the classes {', '.join(external_classes)}, and none of "
            f"{', '.join(classes)}: its folders must have the same names."
        )
    return external


def encode_readable(
    dataset: datasets.Dataset, encoder: Encoder, copies: str | float
) -> EncodedImages:
    """Encode all readable images; ValueError if a class has none."""
    images = encode_dataset(dataset, encoder, copies=copies, errors={})
    for label, name in enumerate(images.table.classes):
        if label not in images.table.labels:
            error = next(iter(images.errors.values()), "")
            raise ValueError(f"No image of class {name!r} can be read. {error}")
    return images


def grouping_of(images: EncodedImages) -> Grouping:
    """Return how many groups are declared, and which of them copies join.

    If none are declared, return the groups that the names of the files suggest.
    """
    ids = images.table.ids.tolist()
    groups = images.dataset["group"][:]  # all "" where none are declared
    if any(groups):
        merged = joined_groups(ids, groups, images.table.copies)
        return Grouping(len(set(groups)), "", {}, merged)
    pattern = suggested_pattern(ids)
    series = joined_files(ids, pattern) if pattern else {}
    return Grouping(0, pattern, series, pd.DataFrame())


def surest_errors(results: MethodComparison) -> list[int]:
    """Return the rows of the best probe's surest errors out of fold, surest first.

    They are six at most, each of another group.
    """
    table = results.table
    confidence = results.proba.max(axis=1)
    answers = pd.DataFrame({"group": table.groups, "confidence": confidence})
    errors = answers[results.predicted != table.labels]
    surest_first = errors.sort_values("confidence", ascending=False, kind="stable")
    rows: list[int] = surest_first.drop_duplicates("group").index.tolist()
    return rows[:MOST_ERRORS]
