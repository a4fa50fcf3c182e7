"""Measure how far a frozen CLIP and light probes can sort one folder of images."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cliplib.data.cache import map_images
from cliplib.data.datasets import Source, default_phrases
from cliplib.encoders.clip import ClipEncoder
from cliplib.evaluation.calibration import quantile_reliability, risk_coverage
from cliplib.features.audit import Audit, audit_dataset
from cliplib.features.groups import declared_groups, joined_files, suggested_pattern
from cliplib.features.table import FeatureTable
from cliplib.inspection.archives import archives_inside
from cliplib.inspection.erase import evaluate_erased
from cliplib.inspection.file_values import file_fields, values_of_one_class
from cliplib.inspection.lookalikes import look_alikes
from cliplib.inspection.maps import heat_maps
from cliplib.inspection.own_split import corrected_splits, own_split
from cliplib.inspection.seen import seen_in_training
from cliplib.inspection.shortcuts import probe_shortcuts
from cliplib.inspection.words import zero_shot
from cliplib.probes.linear import LinearProbe
from cliplib.probes.out_of_fold import fit_with_groups
from cliplib.probes.saving import AnyProbe
from cliplib.reports.decision_aid import RISK, DecisionAid
from cliplib.reports.elsewhere import judge_elsewhere
from cliplib.reports.encoding import Encoded, encode_folder
from cliplib.reports.findings import Belonging, Error, Findings, Images, Request
from cliplib.reports.methods import (
    POOLED,
    EvaluationPlan,
    Method,
    Methods,
    OtherEncoder,
    groups_per_class,
    measure_methods,
    plan_evaluation,
)
from cliplib.reports.questions import measure_curve, suspect_labels

MOST_ERRORS = 6


def measure(
    folder: Source,
    *,
    model: str = "",
    groups: str = "",
    copies: str | float = "near",
    others: Sequence[str] = (),
    elsewhere: str = "",
    boxes: str = "",
    limit: int = 0,
    seed: int = 0,
    anonymous: bool = False,
    command: str = "",
    **columns: str,
) -> Findings:
    """Measure how far a frozen CLIP and light probes can sort images.

    Parameters
    ----------
    folder, **columns
        Of class folders, or any other source of images: see `load_dataset`.
    model
        Hub id or folder of a CLIP; "" for the setting ``CLIPLIB_MODEL``, else "mini".
    groups
        A CSV file (file, group), or a regular expression with the group in its
        parentheses: what belongs together. "" for near-duplicates only.
    copies
        Which images count as copies: "off", "exact", "near", or the smallest
        correlation of detail that makes one. Copies are kept together.
    others
        More vision models to set beside CLIP, by hub id or folder.
    elsewhere
        Another folder of the same classes, from another camera or site, to be judged
        by a probe that is trained on all of this one.
    boxes
        A CSV file (file, x_center, y_center, width, height as shares): where the object
        lies that is to be erased.
    limit
        Draw about so many images, by class and split; 0 takes all.
    seed
        Of everything random.
    anonymous
        Call images by numbers, and models in folders by their fingerprint, in the
        verdict, in errors and in the decision aid.
    command
        What measures this again, for the verdict's next steps.

    Raises
    ------
    OSError
        If a folder or file is missing, or a model cannot be loaded.
    ValueError
        If the folder does not hold two classes of four images each that can be read,
        or groups, boxes or the other folder do not fit it, or the seed is negative.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is no whole number from 0 to 2³² - 1.")
    request = Request(
        folder,
        model=model,
        groups=groups,
        copies=copies,
        others=others,
        elsewhere=elsewhere,
        boxes=boxes,
        limit=limit,
        seed=seed,
        anonymous=anonymous,
        command=command,
        columns=columns,
    )
    encoded = encode_folder(request)
    return find_out(encoded)


def find_out(encoded: Encoded) -> Findings:
    """Measure all there is to find out about an encoded folder, step by step."""
    request = encoded.request
    encoder = encoded.encoder
    cache = encoder.cache
    table = encoded.table
    files = encoded.files
    plan = plan_evaluation(table, seed=request.seed)
    draws: Any = {"n_splits": plan.n_splits, "seed": plan.seed}
    with tqdm(desc="measure", total=11, unit="step") as bar:

        def step(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        step("copies")
        audit = audit_dataset(
            encoded.dataset, copies=request.copies, table=table, cache=cache
        )
        images = describe_images(encoded)
        step("methods")
        words = zero_shot(encoder, table, default_phrases(table.classes))
        methods = measure_methods(plan, words)
        probe, probe_table = methods.method
        step("shortcuts")
        shortcuts = probe_shortcuts(
            plan.table, files, methods.predicted, cache=cache, **draws
        )
        step("look-alikes")
        alike = look_alikes(plan.table.with_readout("deep"), probe, **draws)
        # Which images other encoders were trained on is not known.
        is_mini = encoder.name == "mini"
        seen = seen_in_training(files, cache=cache) if is_mini else None
        step("own split")
        split = own_split(probe_table, probe, methods.predicted, **draws)
        can_split = split is not None and plan.groups_kept_apart
        step("other encoders")
        others = measure_others(encoded, plan, methods)
        step("learning curve")
        curve = measure_curve(plan, methods)
        fitted = fit_with_groups(
            probe, probe_table.features, methods.labels, methods.groups
        )
        step("errors")
        errors = explain_errors(encoder, fitted, images, methods)
        step("decision aid")
        aid = make_aid(encoded, images.names, methods)
        step("elsewhere")
        elsewhere = None
        if request.elsewhere:
            elsewhere = judge_elsewhere(
                request.elsewhere, table, files, fitted, aid, seed=request.seed
            )
            if request.anonymous:
                elsewhere = replace(elsewhere, name="the other folder")
        step("erased")
        erased = None
        if encoded.boxes:
            erased = evaluate_erased(
                probe, probe_table, encoder, files, encoded.boxes, **draws
            )
    is_right = methods.predicted == table.labels
    return Findings(
        request=request,
        encoder=encoder,
        images=images,
        belonging=who_belongs_together(encoded, images),
        audit=audit,
        copies=rows_of_pairs(audit, table),
        methods=methods,
        shortcuts=shortcuts,
        one_class_values=values_of_one_class(images.facts, table),
        look_alikes=alike,
        archives=archives_inside(
            plan.table, methods.predicted, images.facts, seed=plan.seed
        ),
        other_encoders=others,
        suspects=suspect_labels(table.labels, methods.proba),
        curve=curve,
        reliability=quantile_reliability(
            table.labels, methods.proba, plan.table.groups, seed=plan.seed
        ),
        risk_coverage=risk_coverage(is_right, methods.proba.max(axis=1)),
        errors=errors,
        aid=aid,
        seen=seen,
        own_split=split,
        splits=corrected_splits(plan.table, **draws) if can_split else None,
        elsewhere=elsewhere,
        erased=erased,
    )


def describe_images(encoded: Encoded) -> Images:
    """Return the images of a folder that can be read, and what of it cannot be."""
    table = encoded.table
    names = [str(file_id) for file_id in table.ids]
    if encoded.request.anonymous:
        names = [f"image {row}" for row in range(1, len(table) + 1)]
    return Images(
        table=table,
        files=encoded.files,
        names=names,
        counts=count_images(table),
        unreadable=encoded.unreadable,
        facts=file_fields(encoded.files),
    )


def count_images(table: FeatureTable) -> pd.DataFrame:
    """Count by class images, the same with copies counted once, and groups.

    Images have a column for each published split, or else a single one, "images".
    """
    labels = [table.classes[label] for label in table.labels]
    splits = np.where(table.splits == "", "images", table.splits)
    counts = pd.crosstab(pd.Series(labels, name="class"), splits)
    # Both are (k,), in the order of the classes: sorted, as the crosstab's rows.
    counts["without copies"] = groups_per_class(table, table.copies)
    counts["groups"] = groups_per_class(table)
    return counts


def rows_of_pairs(audit: Audit, table: FeatureTable) -> pd.DataFrame:
    """Return row_a and row_b of each pair of copies, those with two labels first.

    Then come those in two splits.
    """
    row_of = {file_id: row for row, file_id in enumerate(table.ids.tolist())}
    pairs = audit.pairs  # with id, label and split of both images
    # With a `limit` the table has not all files, but the audit has.
    pairs = pairs[pairs["id_a"].isin(row_of) & pairs["id_b"].isin(row_of)]
    pairs = pairs.assign(
        row_a=pairs["id_a"].map(row_of).astype(np.int64),
        row_b=pairs["id_b"].map(row_of).astype(np.int64),
        same_label=pairs["label_a"] == pairs["label_b"],
        same_split=pairs["split_a"] == pairs["split_b"],
    )
    # False comes before True.
    pairs = pairs.sort_values(["same_label", "same_split"], kind="stable")
    return pairs[["row_a", "row_b", "same_label"]].reset_index(drop=True)


def who_belongs_together(encoded: Encoded, images: Images) -> Belonging:
    """Return what is declared or suggested to belong together, and what copies join."""
    request = encoded.request
    ids = images.table.ids.tolist()
    group_of = dict(zip(encoded.dataset["id"], encoded.dataset["group"], strict=True))
    declared = [group_of[file_id] for file_id in ids]  # by the source: "" for none
    if request.groups:
        declared = list(declared_groups(ids, request.groups))
    if any(declared):
        merged = images.table.groups_joined_by_copies(declared)
        if request.copies == "off":
            merged = merged.iloc[:0]
        if request.anonymous:  # a group may be called as a person is
            merged[["group_a", "group_b"]] = "a declared group"
        return Belonging(len(set(declared)), "", [], merged)
    pattern = suggested_pattern(ids)
    series = []
    if pattern:
        name_of = dict(zip(ids, images.names, strict=True))
        series = [name_of[file_id] for file_id in joined_files(ids, pattern)]
    return Belonging(0, pattern, series, pd.DataFrame())


def measure_others(
    encoded: Encoded, plan: EvaluationPlan, methods: Methods
) -> list[OtherEncoder]:
    """Test a linear probe on pooled features of each other encoder."""
    found = []
    for name, encoder in encoded.other_encoders.items():
        # One result for the one function.
        (features,) = map_images(
            encoded.files,
            encoder.image_function,
            cache=encoded.encoder.cache,
            progress=name,
        )
        method = Method(LinearProbe(seed=plan.seed), plan.table.with_features(features))
        predicted = plan.proba(method).argmax(axis=1)
        accuracy = plan.evaluate(predicted).share("accuracy")
        gain = plan.gain(methods.answers[POOLED], predicted)
        found.append(OtherEncoder(name, accuracy, gain))
    return found


def explain_errors(
    encoder: ClipEncoder, fitted: AnyProbe, images: Images, methods: Methods
) -> list[Error]:
    """Return the errors of which the best probe was surest, six at most, surest first.

    There is one of a group at most. Answers are out of fold; heat maps, of what speaks
    for the wrong answer, are by the probe that is fitted to all images.
    """
    answers = pd.DataFrame(
        {"probability": methods.proba.max(axis=1), "group": methods.groups}
    )
    wrong = answers[methods.predicted != methods.labels]  # its index has the rows
    surest_last = wrong.sort_values("probability", kind="stable")
    one_of_a_group = surest_last.drop_duplicates("group", keep="last")
    rows = one_of_a_group.index[::-1][:MOST_ERRORS]
    if not len(rows):
        return []
    files = [images.files[row] for row in rows]
    readout = methods.method.table.readout
    maps = heat_maps(encoder, fitted, files, methods.predicted[rows], readout)
    return [Error(int(row), heat) for row, heat in zip(rows, maps, strict=True)]


def make_aid(encoded: Encoded, names: Sequence[str], methods: Methods) -> DecisionAid:
    """Make a classifier that abstains when unsure of the best probe.

    If anonymous, images are called by numbers, and the data set is not named.
    """
    probe, table = methods.method
    provenance = dict(table.provenance)
    if encoded.request.anonymous:
        provenance["dataset"] = ""
    # The aid keeps ids and provenance with its training images.
    named = replace(table, ids=np.array(names), provenance=provenance)
    seed = encoded.request.seed
    aid = DecisionAid.fit(named, encoded.encoder, probe=probe, risk=RISK, seed=seed)
    made_by = f"cliplib {version('cliplib')}, Python {platform.python_version()}"
    return replace(aid, about={**aid.about, "made by": made_by})
