"""Cautions: what limits the verdict on a folder, and what else a person should look at.

Each function returns a caution, or None where there is no reason for it. What cautions
say, and what they weigh, stands in cautions.toml. None rests on a difference that does
not matter, or that is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from cliplib.evaluation.intervals import Share
from cliplib.inspection.archives import CLUSTER, Archive
from cliplib.inspection.file_values import OneClassValue
from cliplib.inspection.lookalikes import LookAlikes
from cliplib.inspection.own_split import BY_GROUP, OWN_SPLIT, OwnSplit
from cliplib.inspection.seen import Seen
from cliplib.inspection.shortcuts import Shortcut
from cliplib.reports.caution import SEVERITIES, Caution, caution_of
from cliplib.reports.elsewhere import Elsewhere
from cliplib.reports.findings import Belonging, Findings
from cliplib.reports.methods import Methods

FEW_GROUPS = 10
"""With fewer groups altogether nothing is decided: they say little of others."""
FEW_OF_A_CLASS = 5
"""With fewer groups of a class neither: they cannot be tested in five folds."""
# This and `lookalikes.MANY` were chosen on the development folders of
# tests/benchmarks/verdict.py: no clean one reaches them.
SHORTCUT = 0.75
"""The share of CLIP's gain over chance from which on a shortcut may be all it sees."""
SHORTCUT_LOW = 0.65
"""The same, at the lower end of its interval."""
LOSS_ELSEWHERE = 0.05
"""A loss of balanced accuracy elsewhere that matters."""
FAIR_ACCURACY = 0.7
"""A class of which less is found is mostly missed."""
IMBALANCE = 0.8
"""Share of the largest class from which on accuracy alone means little."""
MOST_FILES = 4
"""So many files are named within a sentence."""


def find_cautions(findings: Findings) -> list[Caution]:
    """Return all cautions on a folder, the most severe first."""
    names = findings.images.names
    methods = findings.methods
    found = [
        of_too_few(findings.images.groups_per_class, methods),
        of_shortcuts(findings.shortcuts),
        of_elsewhere(findings.elsewhere, methods),
        of_series(findings.belonging),
        of_look_alikes(findings.look_alikes, findings.belonging, methods),
        of_seen(findings.seen),
        *map(of_archive, findings.archives),
        of_own_split(findings.own_split),
        *map(of_one_class_value, findings.one_class_values),
        of_missed_class(methods),
        of_imbalance(methods),
        of_merged_groups(findings.belonging, methods),
        of_label_conflicts(findings.copies, names),
        of_suspects(findings.suspects, names),
        of_unreadable(findings.images.unreadable, findings.request.anonymous),
    ]
    cautions = [caution for caution in found if caution]
    return sorted(cautions, key=lambda caution: SEVERITIES.index(caution.severity))


def of_too_few(groups_per_class: Mapping[str, int], methods: Methods) -> Caution | None:
    """Say that a class has too few groups, or all classes together."""
    scarce = [
        f"{name} ({count})"
        for name, count in groups_per_class.items()
        if count < FEW_OF_A_CLASS
    ]
    few = methods.n_groups < FEW_GROUPS
    if not scarce and not few and methods.groups_kept_apart:
        return None
    return caution_of(
        "too-few-groups",
        {"groups": methods.n_groups},
        scarce=scarce,
        few=few,
        fewest=FEW_OF_A_CLASS,
        kept_apart=methods.groups_kept_apart,
    )


def of_shortcuts(shortcuts: Sequence[Shortcut]) -> Caution | None:
    """Say that something which shows no object tells the classes nearly as CLIP does.

    `shortcuts` are sorted, the strongest first.
    """
    strong = [shortcut for shortcut in shortcuts if is_strong(shortcut)]
    if not strong:
        return None
    first, *others = strong
    evidence = {
        "name": first.name,
        "place": first.place,
        "accuracy": first.accuracy,
        "share_of_gain": first.share_of_gain,
    }
    return caution_of(
        "shortcut",
        evidence,
        rows=[row for rows in first.examples.values() for row in rows],
        others=[shortcut.name for shortcut in others[:MOST_FILES]],
    )


def is_strong(shortcut: Shortcut) -> bool:
    """Tell whether a shortcut may be all that CLIP sees; colour, often content, not."""
    reached = shortcut.share_of_gain
    return (
        shortcut.decides and reached.value >= SHORTCUT and reached.low >= SHORTCUT_LOW
    )


def of_one_class_value(value: OneClassValue) -> Caution:
    """Say that a value of a field of the files belongs to one class."""
    evidence = {
        "field": value.field,
        "value": value.value,
        "class": value.class_name,
        "images": value.n_images,
        "p": value.p,
    }
    return caution_of("one-class-value", evidence, rows=[*value.rows, *value.others])


def of_elsewhere(away: Elsewhere | None, methods: Methods) -> Caution | None:
    """Say that clearly less is right on the images of another folder."""
    if away is None:
        return None
    loss = loss_elsewhere(away, methods)
    if loss.low <= 0 or loss.value < LOSS_ELSEWHERE:
        return None
    accuracy = away.evaluation.share("accuracy")
    return caution_of(
        "worse-elsewhere",
        {"accuracy": accuracy, "loss": loss},
        name=away.name,
        images=away.evaluation.n,
    )


def loss_elsewhere(away: Elsewhere, methods: Methods) -> Share:
    """Return balanced accuracy here less that elsewhere, of the classes that are there.

    Both are of different images.
    """
    per_class = away.evaluation.per_class
    occurring = [str(name) for name in per_class.index[per_class["support"] > 0]]
    there = away.evaluation.by_class("sensitivity")
    here = methods.sensitivity
    mean_there = Share.mean([there[name] for name in occurring])
    return Share.mean([here[name] for name in occurring]).minus(mean_there)


def of_series(belonging: Belonging) -> Caution | None:
    """Say that file names look like series, which nobody has declared."""
    if belonging.declared or not belonging.pattern:
        return None
    return caution_of(
        "groups-in-names",
        {"pattern": belonging.pattern},
        files=list(belonging.series),
        series=belonging.series[:MOST_FILES],
    )


def of_look_alikes(
    alike: LookAlikes, belonging: Belonging, methods: Methods
) -> Caution | None:
    """Say that the images look like views of fewer things.

    Where groups are declared, images of different groups are that alike.
    """
    if not alike.many:
        return None
    evidence: dict[str, Any] = {
        "median_cosine": alike.median_cosine,
        "clusters": alike.n_clusters,
    }
    if alike.accuracy is not None:
        evidence["accuracy"] = alike.accuracy
    caution = caution_of(
        "look-alikes",
        evidence,
        rows=[row for a, b, _ in alike.pairs for row in (a, b)],
        own=methods.share("accuracy"),
    )
    if belonging.declared:  # perhaps too narrowly
        return replace(caution, severity="medium", at_most="Probably", condition="")
    return caution


def of_seen(seen: Seen | None) -> Caution | None:
    """Say that the encoder was trained on some of these images."""
    if seen is None or not seen.notable:
        return None
    evidence = {"images": len(seen.rows), "share": seen.share}
    return caution_of("seen-in-training", evidence, rows=seen.rows.tolist())


def of_archive(archive: Archive) -> Caution:
    """Say that a part of a class fares otherwise, or came another way."""
    part, rest = archive.part, archive.rest
    is_cluster = archive.by == CLUSTER
    evidence = {
        "class": archive.class_name,
        "by": archive.by,
        "part": part.accuracy,
        "rest": rest.accuracy,
    }
    return caution_of(
        "cluster-inside-class" if is_cluster else "archive-inside-class",
        evidence,
        rows=[*part.examples, *rest.examples],
        name=repr(part.name),
        n=part.n_images,
        only_here=archive.only_here,
    )


def of_own_split(split: OwnSplit | None) -> Caution | None:
    """Say that the folder's own test images have copies or groups in training."""
    if split is None or split.shared.empty:
        return None
    evidence = {
        "test": int(split.ladder.at[OWN_SPLIT, "images"]),
        "shared": len(split.shared),
        "own_split": Share.of(split.ladder.loc[OWN_SPLIT]),
        "by_group": Share.of(split.ladder.loc[BY_GROUP]),
    }
    return caution_of("own-split", evidence)


def of_missed_class(methods: Methods) -> Caution | None:
    """Say that a class is mostly missed."""
    found = methods.sensitivity
    missed = min(found, key=lambda name: found[name].value)
    if found[missed].value >= FAIR_ACCURACY:
        return None
    return caution_of("class-missed", {"class": missed, "found": found[missed]})


def of_imbalance(methods: Methods) -> Caution | None:
    """Say that one class is so large that accuracy alone means little."""
    counts = methods.evaluations[methods.best].per_class["support"]
    share = float(counts.max() / counts.sum())
    if share < IMBALANCE:
        return None
    return caution_of("imbalance", {"class": str(counts.idxmax()), "share": share})


def of_merged_groups(belonging: Belonging, methods: Methods) -> Caution | None:
    """Say that groups which were declared apart hold copies of each other."""
    merged = belonging.merged
    if merged.empty:
        return None
    evidence = {
        "pairs": len(merged),
        "declared": belonging.declared,
        "groups": methods.n_groups,
    }
    pairs = (merged["group_a"] + " and " + merged["group_b"]).unique().tolist()
    return caution_of("groups-merged", evidence, first=pairs[:MOST_FILES])


def of_label_conflicts(pairs: pd.DataFrame, names: Sequence[str]) -> Caution | None:
    """Say that copies of one image bear two labels.

    `pairs` has the columns row_a, row_b and same_label.
    """
    conflicts = pairs[~pairs["same_label"].astype(bool)]
    if conflicts.empty:
        return None
    rows = [int(row) for row in conflicts[["row_a", "row_b"]].to_numpy().ravel()]
    evidence = {"pairs": len(conflicts)}
    a, b = names[rows[0]], names[rows[1]]
    return caution_of("label-conflicts", evidence, rows=rows, a=a, b=b)


def of_suspects(suspects: pd.DataFrame, names: Sequence[str]) -> Caution | None:
    """Say that labels look wrong."""
    if suspects.empty:
        return None
    rows = suspects["row"].tolist()
    first = [names[row] for row in rows[:MOST_FILES]]
    return caution_of("labels-in-doubt", {"labels": len(rows)}, rows=rows, first=first)


def of_unreadable(unreadable: Mapping[str, str], anonymous: bool) -> Caution | None:
    """Say that files could not be read; if anonymous, without their names."""
    if not unreadable:
        return None
    files = [] if anonymous else list(unreadable)
    return caution_of("unreadable-files", {"files": len(unreadable)}, files=files)
