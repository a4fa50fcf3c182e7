"""Measure how far a frozen CLIP and light probes can sort one folder of images."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pandas as pd
from PIL import Image

import cliplib
from cliplib.data.datasets import SOURCE_OPTIONS, Source, default_phrases, load_dataset
from cliplib.data.image import ImageSource, UnreadableImage, load_image
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.vision import VisionEncoder
from cliplib.evaluation.intervals import share_with_interval
from cliplib.features.audit import Audit, audit_dataset
from cliplib.features.encode import encode
from cliplib.features.groups import (
    declared_groups,
    groups_joined_by_copies,
    joined_files,
    suggested_pattern,
)
from cliplib.features.table import FeatureTable
from cliplib.inspection.erase import evaluate_erased, read_boxes
from cliplib.inspection.file_values import file_fields, values_of_one_class
from cliplib.inspection.lookalikes import look_alikes
from cliplib.inspection.maps import heat_maps
from cliplib.inspection.published_split import evaluate_published_split
from cliplib.inspection.shortcuts import probe_shortcuts
from cliplib.inspection.subgroups import find_subgroups
from cliplib.inspection.swaps import measure_swaps
from cliplib.inspection.training_overlap import TrainingOverlap, find_training_overlap
from cliplib.inspection.zero_shot import zero_shot
from cliplib.probes.linear import LinearProbe
from cliplib.probes.out_of_fold import fit_with_groups, out_of_fold_proba
from cliplib.probes.saving import AnyProbe
from cliplib.reports.decision_aid import DecisionAid
from cliplib.reports.external import ExternalTest, evaluate_external
from cliplib.reports.findings import Belonging, Findings, Images, Request
from cliplib.reports.methods import (
    POOLED,
    OtherEncoder,
    Results,
    compare_methods,
    groups_per_class,
    number_of_folds,
    suspect_labels,
)

MOST_ERRORS = 6


def measure(folder: Source, **options: Any) -> Findings:
    """Measure how far a frozen CLIP and light probes can sort images.

    Parameters
    ----------
    folder
        Of class folders, or any other source of images: see `load_dataset`.
    options
        model, groups, copies, others, elsewhere, boxes, limit, seed, anonymous, command
        and the columns of `load_dataset`: see `cliplib.reports.findings.Request`.

    Raises
    ------
    OSError
        If a folder or file is missing, or a model cannot be loaded.
    ValueError
        If the folder does not hold two classes of four images each that can be read,
        or groups, boxes or the other folder do not fit it.
    """
    request = Request(folder, **options)
    # What can be refused before the encoding, which takes minutes, is refused first.
    dataset = checked_dataset(request)
    boxes = read_boxes(request.boxes, dataset["id"][:]) if request.boxes else {}
    other_encoders = [VisionEncoder(name) for name in request.others]
    encoder = ClipEncoder(request.model or None)
    images = encode_images(request, dataset, encoder)
    table = images.table
    folds: dict[str, Any] = {"n_splits": number_of_folds(table), "seed": request.seed}
    words = zero_shot(encoder, table, default_phrases(table.classes))
    results = compare_methods(table, words, **folds)
    probe = results.probe
    probe_table = results.probe_table
    fitted = fit_with_groups(probe, probe_table)
    cache = encoder.cache
    audit = audit_dataset(dataset, copies=request.copies, table=table, cache=cache)
    aid = make_aid(request, encoder, images.names, results)
    shortcuts = probe_shortcuts(
        table, images.files, results.predicted, cache=cache, **folds
    )
    erased = None
    if boxes:
        files = images.files
        erased = evaluate_erased(probe, probe_table, encoder, files, boxes, **folds)
    return Findings(
        request=request,
        encoder=encoder,
        images=images,
        belonging=who_belongs_together(request, dataset, images),
        audit=audit,
        copies=rows_of_pairs(audit, table),
        results=results,
        shortcuts=measure_swaps(
            shortcuts, probe, probe_table, encoder, images.files, **folds
        ),
        one_class_values=values_of_one_class(images.facts, table),
        look_alikes=look_alikes(table.with_readout("deep"), probe, **folds),
        subgroups=find_subgroups(
            table, results.predicted, images.facts, seed=request.seed
        ),
        other_encoders=[
            measure_other(request.name_of(other), other, images, results)
            for other in other_encoders
        ],
        suspects=suspect_labels(table.labels, results.proba),
        errors=explain_errors(encoder, fitted, images, results),
        aid=aid,
        training_overlap=overlap_with_training(encoder, images),
        published_split=evaluate_published_split(
            probe_table, probe, results.predicted, **folds
        ),
        external=evaluate_other_folder(request, images, fitted, aid),
        erased=erased,
    )


def checked_dataset(request: Request) -> datasets.Dataset:
    """Return the images that are asked for; ValueError where they cannot be measured.

    So it is where another folder shares no class with them, or the seed is no seed.
    """
    if not 0 <= request.seed < 2**32:
        raise ValueError(f"seed={request.seed} must be from 0 to 2³² - 1.")
    columns = {name: getattr(request, name) for name in SOURCE_OPTIONS}
    dataset = load_dataset(request.folder, **columns)
    classes = dataset.features["label"].names
    if len(classes) < 2:
        raise ValueError(
            f"{request.place} needs images of two classes or more, each in a folder of "
            f"its own; there is only {classes[0]!r}."
        )
    if request.elsewhere:
        theirs = load_dataset(request.elsewhere).features["label"].names
        if not set(theirs) & set(classes):
            raise ValueError(
                f"{request.elsewhere} has the classes {', '.join(theirs)}, and none of "
                f"{', '.join(classes)}: its folders must have the same names."
            )
    return dataset


def encode_images(
    request: Request, dataset: datasets.Dataset, encoder: ClipEncoder
) -> Images:
    """Encode the images of a request, and count them.

    ValueError where no image of a class can be read, or declared groups do not cover
    all images.
    """
    errors_by_id: dict[str, str] = {}  # filled with why an image cannot be read
    table = encode(
        dataset,
        encoder,
        groups=request.groups or None,
        copies=request.copies,
        limit=request.limit,
        seed=request.seed,
        errors=errors_by_id,
    )
    file_of = dict(zip(dataset["id"], dataset["image"], strict=True))
    unreadable = {name: why_unreadable(file_of[name]) for name in errors_by_id}
    for label, name in enumerate(table.classes):
        if label not in table.labels:
            error = next(iter(errors_by_id.values()), "")
            raise ValueError(f"No image of class {name!r} can be read. {error}")
    files = [file_of[file_id] for file_id in table.ids]
    names = [str(file_id) for file_id in table.ids]
    if request.anonymous:
        names = [f"image {row}" for row in range(1, len(table) + 1)]
    counts = count_images(table)
    return Images(table, files, names, counts, unreadable, file_fields(files))


def why_unreadable(file: ImageSource) -> str:
    """Return why an image cannot be read, without its name; "" if it can be by now."""
    try:
        load_image(file)
    except UnreadableImage as error:
        return f"{error.reason}."
    return ""


def count_images(table: FeatureTable) -> pd.DataFrame:
    """Count by class images, the same with copies counted once, and groups.

    Images have a column for each published split, or else a single one, "images".
    """
    splits = np.where(table.splits == "", "images", table.splits)
    counts = pd.crosstab(pd.Series(table.label_names, name="class"), splits)
    # Both are (k,), in the order of the classes: sorted, as the crosstab's rows.
    counts["without copies"] = groups_per_class(table, table.copies)
    counts["groups"] = groups_per_class(table)
    return counts


def who_belongs_together(
    request: Request, dataset: datasets.Dataset, images: Images
) -> Belonging:
    """Return what is declared or suggested to belong together, and what copies join."""
    ids = images.table.ids.tolist()
    group_of = dict(zip(dataset["id"], dataset["group"], strict=True))
    declared: list[Any] = [group_of[file_id] for file_id in ids]  # "" for none
    if request.groups:
        declared = declared_groups(ids, request.groups)
    if any(declared):
        merged = groups_joined_by_copies(ids, declared, images.table.copies)
        if request.anonymous:  # a group may be called as a person is
            merged[["group_a", "group_b"]] = "a declared group"
        return Belonging(len(set(declared)), "", {}, merged)
    pattern = suggested_pattern(ids)
    group_of = joined_files(ids, pattern) if pattern else {}
    if request.anonymous:
        numbers = pd.factorize(pd.Series(group_of))[0] + 1
        group_of = dict(zip(group_of, numbers.astype(str), strict=True))
    name_of = dict(zip(ids, images.names, strict=True))
    series = {name_of[file_id]: group for file_id, group in group_of.items()}
    return Belonging(0, pattern, series, pd.DataFrame())


def rows_of_pairs(audit: Audit, table: FeatureTable) -> pd.DataFrame:
    """Return row_a and row_b of each pair of copies, those with two labels first."""
    ids = pd.Index(table.ids)
    pairs = audit.pairs  # with id and label of both images
    rows = pd.DataFrame(
        {
            "row_a": ids.get_indexer(pairs["id_a"]),
            "row_b": ids.get_indexer(pairs["id_b"]),
            "same_label": pairs["label_a"] == pairs["label_b"],
        }
    )
    # With a `limit` the table has not all files, but the audit has.
    rows = rows[(rows["row_a"] >= 0) & (rows["row_b"] >= 0)]
    # False comes before True.
    return rows.sort_values("same_label", kind="stable", ignore_index=True)


def overlap_with_training(
    encoder: ClipEncoder, images: Images
) -> TrainingOverlap | None:
    """Find the images that the encoder was trained on; None where it is not "mini"."""
    if encoder.fingerprint != ClipEncoder("mini", cache=False).fingerprint:
        return None  # which images others were trained on is not known
    return find_training_overlap(images.files, cache=encoder.cache)


def evaluate_other_folder(
    request: Request, images: Images, probe: AnyProbe, aid: DecisionAid
) -> ExternalTest | None:
    """Judge the images of another folder, if one is named."""
    if not request.elsewhere:
        return None
    found = evaluate_external(
        request.elsewhere, images.table, images.files, probe, aid, seed=request.seed
    )
    return replace(found, name="the other folder") if request.anonymous else found


def measure_other(
    name: str, encoder: VisionEncoder, images: Images, results: Results
) -> OtherEncoder:
    """Test a linear probe on pooled features of another encoder."""
    (features,) = encoder.map(images.files, progress=name)
    table = results.table.with_features(features)
    probe = LinearProbe(seed=results.seed)
    proba = out_of_fold_proba(
        probe, table, n_splits=results.n_splits, seed=results.seed
    )
    answers = proba.argmax(axis=1)
    accuracy = share_with_interval(
        answers == table.labels, groups=table.groups, seed=results.seed
    )
    return OtherEncoder(name, accuracy, results.gain(POOLED, answers))


def explain_errors(
    encoder: ClipEncoder, fitted: AnyProbe, images: Images, results: Results
) -> list[tuple[int, Image.Image]]:
    """Return the errors of which the best probe was surest, six at most, surest first.

    There is one of a group at most. Answers are out of fold; heat maps, of what speaks
    for the wrong answer, are by the probe that is fitted to all images.
    """
    table = results.table
    sureness = results.proba.max(axis=1)
    answers = pd.DataFrame({"group": table.groups, "sureness": sureness})
    errors = answers[results.predicted != table.labels]
    surest_first = errors.sort_values("sureness", ascending=False, kind="stable")
    rows = surest_first.drop_duplicates("group").index[:MOST_ERRORS].tolist()
    if not rows:
        return []
    files = [images.files[row] for row in rows]
    readout = results.probe_table.readout
    maps = heat_maps(encoder, fitted, files, results.predicted[rows], readout)
    return list(zip(rows, maps, strict=True))


def make_aid(
    request: Request, encoder: ClipEncoder, names: Sequence[str], results: Results
) -> DecisionAid:
    """Make a classifier that abstains when unsure of the best probe.

    If anonymous, images are called by numbers, and data set and model are not named.
    """
    table = results.probe_table
    provenance = dict(table.provenance)
    if request.anonymous:
        provenance |= {"dataset": "", "encoder": request.name_of(encoder)}
    # The aid keeps ids and provenance with its training images.
    named = replace(table, ids=np.array(names), provenance=provenance)
    aid = DecisionAid.fit(named, encoder, probe=results.probe, seed=request.seed)
    made_by = f"cliplib {cliplib.__version__}, Python {platform.python_version()}"
    return replace(aid, about={**aid.about, "made by": made_by})
