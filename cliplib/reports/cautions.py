"""Cautions: what limits the verdict on a folder, and what else a person should look at.

Each function returns a caution, or None where there is no reason for it. No caution
rests on a difference that does not matter, or that is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from cliplib.data.wording import counted, listing, percent, points, whole_percent
from cliplib.evaluation.intervals import Share
from cliplib.inspection.archives import CLUSTER, FORM, Archive
from cliplib.inspection.file_values import OneClassValue
from cliplib.inspection.lookalikes import LookAlikes
from cliplib.inspection.own_split import BY_GROUP, OWN_SPLIT, OwnSplit
from cliplib.inspection.seen import Seen
from cliplib.inspection.shortcuts import Shortcut
from cliplib.reports.caution import SEVERITIES, Caution
from cliplib.reports.elsewhere import Elsewhere
from cliplib.reports.findings import Belonging, Findings
from cliplib.reports.methods import Methods, sensitivities

FEW_GROUPS = 10
"""With fewer groups altogether nothing is decided: they say little of others."""
FEW_OF_A_CLASS = 5
"""With fewer groups of a class neither: they cannot be tested in five folds."""
SHORTCUT = 0.8
"""The share of CLIP's gain over chance from which on a shortcut may be all it sees."""
SHORTCUT_LOW = 0.7
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
        of_label_conflicts(findings.copies.rows, names),
        of_suspects(findings.suspects, names),
        of_unreadable(findings.images.unreadable, findings.request.anonymous),
    ]
    cautions = [caution for caution in found if caution]
    return sorted(cautions, key=lambda caution: SEVERITIES.index(caution.severity))


def of_too_few(groups_per_class: Mapping[str, int], methods: Methods) -> Caution | None:
    """Say that a class has too few groups, or all classes together."""
    n_groups = len(set(methods.groups.tolist()))
    scarce = [
        f"{name} ({count})"
        for name, count in groups_per_class.items()
        if count < FEW_OF_A_CLASS
    ]
    reasons = []
    if scarce:
        reasons.append(
            f"Too few groups show {listing(scarce)}: {FEW_OF_A_CLASS} of each class "
            "are the least that can be learned from and tested on in turn."
        )
    if n_groups < FEW_GROUPS:
        reasons.append(
            f"{counted(n_groups, 'group')} altogether: that says little of others."
        )
    if not methods.groups_kept_apart:
        reasons.append(
            "All numbers are of images whose own groups may have been trained on: they "
            "say nothing of new ones."
        )
    if not reasons:
        return None
    return Caution.of_kind(
        "too-few-groups",
        " ".join(reasons),
        evidence={"groups": n_groups},
    )


def of_shortcuts(shortcuts: Sequence[Shortcut]) -> Caution | None:
    """Say that something which shows no object tells the classes nearly as CLIP does.

    `shortcuts` are sorted, the strongest first.
    """
    strong = [shortcut for shortcut in shortcuts if is_strong(shortcut)]
    if not strong:
        return None
    first = strong[0]
    also = ""
    if len(strong) > 1:
        others = [shortcut.name for shortcut in strong[1 : 1 + MOST_FILES]]
        also = f" So {'do' if len(others) > 1 else 'does'} {listing(others)}."
    reached = whole_percent(min(first.share_of_gain.value, 1))
    where = "" if first.name in first.place else f" ({first.place})"
    return Caution.of_kind(
        "shortcut",
        f"Without a look at any object, the {first.name}{where} tells the "
        f"class of {percent(first.accuracy)} of the images: {reached} of what CLIP "
        "gains over chance. CLIP may see no more than that. Find out whether the "
        f"classes were photographed or saved differently.{also}",
        condition=f"the {first.name} gives their classes away as it does here",
        evidence={
            "name": first.name,
            "place": first.place,
            **_numbers("accuracy", first.accuracy),
            **_numbers("share_of_gain", first.share_of_gain),
        },
        rows=[row for rows in first.examples.values() for row in rows],
    )


def is_strong(shortcut: Shortcut) -> bool:
    """Tell whether a shortcut may be all that CLIP sees; colour, often content, not."""
    reached = shortcut.share_of_gain
    return (
        shortcut.decides and reached.value >= SHORTCUT and reached.low >= SHORTCUT_LOW
    )


def of_one_class_value(value: OneClassValue) -> Caution:
    """Say that a value of a field of the files belongs to one class."""
    images = counted(value.n_images, "image")
    return Caution.of_kind(
        "one-class-value",
        f"Only {value.class_name} has files with the {value.field} {value.value} "
        f"({images}): somebody made or saved these differently.",
        evidence={
            "field": value.field,
            "value": value.value,
            "class": value.class_name,
            "images": value.n_images,
            "p": value.p,
        },
        rows=[*value.rows, *value.others],
    )


def of_elsewhere(away: Elsewhere | None, methods: Methods) -> Caution | None:
    """Say that clearly less is right on the images of another folder."""
    if away is None:
        return None
    loss = loss_elsewhere(away, methods)
    if loss.low <= 0 or loss.value < LOSS_ELSEWHERE:
        return None
    accuracy = Share.of(away.evaluation.metrics.loc["accuracy"])
    images = counted(away.evaluation.n, "image")
    return Caution.of_kind(
        "worse-elsewhere",
        f"Of {images} from elsewhere ({away.name}), {percent(accuracy)} are right. "
        f"With all classes counting alike, that is {points(loss)} less than here.",
        condition=f"they come from where these do, and not from {away.name}",
        evidence={**_numbers("accuracy", accuracy), **_numbers("loss", loss)},
    )


def loss_elsewhere(away: Elsewhere, methods: Methods) -> Share:
    """Return balanced accuracy here less that elsewhere, of the classes that are there.

    Both are of different images.
    """
    per_class = away.evaluation.per_class
    occurring = [str(name) for name in per_class.index[per_class["support"] > 0]]
    there = sensitivities(away.evaluation)
    here = methods.sensitivity
    mean_there = Share.mean([there[name] for name in occurring])
    return Share.mean([here[name] for name in occurring]).minus(mean_there)


def of_series(belonging: Belonging) -> Caution | None:
    """Say that file names look like series, which nobody has declared."""
    if belonging.declared or not belonging.pattern:
        return None
    example = ""
    if belonging.series:
        example = f" One would be {listing(belonging.series[:MOST_FILES])}."
    return Caution.of_kind(
        "groups-in-names",
        "The names of the files look like series, and each may show one object, place "
        f"or patient.{example} If so, all numbers are too good: declare them.",
        condition="no two images here show the same object, though their names look as "
        "if many did",
        evidence={"pattern": belonging.pattern},
        files=list(belonging.series),
    )


def of_look_alikes(
    alike: LookAlikes, belonging: Belonging, methods: Methods
) -> Caution | None:
    """Say that the images look like views of fewer things.

    Where groups are declared, images of different groups are that alike.
    """
    if not alike.many:
        return None
    bound = ""
    if alike.accuracy is not None:
        bound = (
            f" With {alike.n_clusters} clusters of look-alikes kept whole, "
            f"{percent(alike.accuracy)} come out right: a lower bound, as "
            f"{percent(methods.share('accuracy'))} may be too good."
        )
    caution = Caution.of_kind(
        "look-alikes",
        "The images look like views of fewer things, as pairs of them show "
        f"(median cosine {alike.median_cosine:.2f}).{bound}",
        condition="no two images here show the same object, though they look as if "
        "many did",
        evidence={
            "median_cosine": alike.median_cosine,
            "clusters": alike.n_clusters,
            **(_numbers("accuracy", alike.accuracy) if alike.accuracy else {}),
        },
        rows=[row for a, b, _ in alike.pairs for row in (a, b)],
    )
    if belonging.declared:  # then groups are declared too narrowly, at worst
        return replace(caution, severity="medium", at_most="Probably", condition="")
    return caution


def of_seen(seen: Seen | None) -> Caution | None:
    """Say that the encoder was trained on some of these images."""
    if seen is None or not seen.notable:
        return None
    share = whole_percent(seen.share)
    return Caution.of_kind(
        "seen-in-training",
        f"The encoder was trained on {counted(len(seen.rows), 'image')} of these "
        f"({share}): it may know them better than new ones.",
        condition=f"the encoder, which has seen {share} of these, knows them as well",
        evidence={"images": len(seen.rows), "share": seen.share},
        rows=seen.rows.tolist(),
    )


def of_archive(archive: Archive) -> Caution:
    """Say that a part of a class fares otherwise, or came another way."""
    part, rest = archive.part, archive.rest
    which = f"of the {archive.by} {part.name!r}"
    if archive.by == FORM:
        which = f"with names like {part.name!r}"
    elif archive.by == CLUSTER:
        which = "of one cluster of its features"
    message = (
        f"Of {archive.class_name}, {percent(part.accuracy)} of the images {which} come "
        f"out right ({part.n_images:,}), and {percent(rest.accuracy)} of the others."
    )
    if archive.only_here:
        message += " No other class has such names: they may be of another archive."
    is_cluster = archive.by == CLUSTER
    return Caution.of_kind(
        "cluster-inside-class" if is_cluster else "archive-inside-class",
        message,
        evidence={
            "class": archive.class_name,
            "by": archive.by,
            "part": part.name,
            **_numbers("part", part.accuracy),
            **_numbers("rest", rest.accuracy),
        },
        rows=[*part.examples, *rest.examples],
    )


def of_own_split(split: OwnSplit | None) -> Caution | None:
    """Say that the folder's own test images have copies or groups in training."""
    if split is None or split.shared.empty:
        return None
    own = Share.of(split.ladder.loc[OWN_SPLIT])
    by_group = Share.of(split.ladder.loc[BY_GROUP])
    n_test = int(split.ladder.at[OWN_SPLIT, "images"])
    return Caution.of_kind(
        "own-split",
        f"Of the {counted(n_test, 'test image')} of the folder's own split, "
        f"{len(split.shared):,} have a copy or their group in training. There, "
        f"{percent(own)} come out right; by group {percent(by_group)}. splits.csv has "
        "a split that keeps groups whole.",
        evidence={
            "test": n_test,
            "shared": len(split.shared),
            **_numbers("own_split", own),
            **_numbers("by_group", by_group),
        },
    )


def of_missed_class(methods: Methods) -> Caution | None:
    """Say that a class is mostly missed."""
    found = methods.sensitivity
    missed = min(found, key=lambda name: found[name].value)
    if found[missed].value >= FAIR_ACCURACY:
        return None
    return Caution.of_kind(
        "class-missed",
        f"Only {percent(found[missed])} of {missed} is found.",
        evidence={"class": missed, **_numbers("found", found[missed])},
    )


def of_imbalance(methods: Methods) -> Caution | None:
    """Say that one class is so large that accuracy alone means little."""
    counts = methods.evaluations[methods.best].per_class["support"]
    share = float(counts.max() / counts.sum())
    if share < IMBALANCE:
        return None
    name = str(counts.idxmax())
    return Caution.of_kind(
        "imbalance",
        f"{whole_percent(share)} of the images are {name}: look at the share in which "
        "all classes count alike.",
        evidence={"class": name, "share": share},
    )


def of_merged_groups(belonging: Belonging, methods: Methods) -> Caution | None:
    """Say that groups which were declared apart hold copies of each other."""
    merged = belonging.merged
    if merged.empty:
        return None
    n_groups = len(set(methods.groups.tolist()))
    pairs = (merged["group_a"] + " and " + merged["group_b"]).unique().tolist()
    return Caution.of_kind(
        "groups-merged",
        f"{counted(len(merged), 'pair')} of declared groups hold copies of each other: "
        f"{belonging.declared:,} groups become {n_groups:,}. They are "
        f"{'; '.join(pairs[:MOST_FILES])}.",
        evidence={
            "pairs": len(merged),
            "declared": belonging.declared,
            "groups": n_groups,
        },
    )


def of_label_conflicts(pairs: pd.DataFrame, names: Sequence[str]) -> Caution | None:
    """Say that copies of one image bear two labels.

    `pairs` has the columns row_a, row_b and same_label.
    """
    conflicts = pairs[~pairs["same_label"].astype(bool)]
    if conflicts.empty:
        return None
    rows = [int(row) for row in conflicts[["row_a", "row_b"]].to_numpy().ravel()]
    return Caution.of_kind(
        "label-conflicts",
        f"{counted(len(conflicts), 'pair')} of copies with two labels: "
        f"{names[rows[0]]} and {names[rows[1]]}"
        f"{' first of all' if len(conflicts) > 1 else ''}.",
        evidence={"pairs": len(conflicts)},
        rows=rows,
    )


def of_suspects(suspects: pd.DataFrame, names: Sequence[str]) -> Caution | None:
    """Say that labels look wrong."""
    if suspects.empty:
        return None
    rows = suspects["row"].tolist()
    first = listing([names[row] for row in rows[:MOST_FILES]])
    return Caution.of_kind(
        "labels-in-doubt",
        f"{counted(len(rows), 'label')} in doubt, above all {first}. Look at them: "
        "some may be wrong, some images may be hard.",
        evidence={"labels": len(rows)},
        rows=rows,
    )


def of_unreadable(unreadable: Mapping[str, str], anonymous: bool) -> Caution | None:
    """Say that files could not be read; if anonymous, without their names."""
    if not unreadable:
        return None
    return Caution.of_kind(
        "unreadable-files",
        f"{counted(len(unreadable), 'file')} could not be read, and count for nothing.",
        evidence={"files": len(unreadable)},
        files=[] if anonymous else list(unreadable),
    )


def _numbers(name: str, share: Share) -> dict[str, float]:
    """Return a share as three numbers: NAME, NAME_low and NAME_high."""
    return {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
