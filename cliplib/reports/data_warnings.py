"""Warnings: what limits the verdict on a folder, and what else a person should look at.

data_warnings.toml holds the texts of all warnings and what they weigh. Each function
yields the warnings of one kind that the findings give a reason for. No warning rests on
a difference that does not matter, or that may be chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cliplib.aids.external import ExternalTest
from cliplib.evaluation.intervals import Estimate
from cliplib.inspection.file_values import MIN_PURITY
from cliplib.inspection.lookalikes import MOST_GROUPS
from cliplib.inspection.published_split import BY_GROUP, PUBLISHED
from cliplib.inspection.shortcuts import COLOURS, Shortcut
from cliplib.inspection.subgroups import CLUSTER
from cliplib.reports.findings import Findings
from cliplib.reports.methods import MethodComparison
from cliplib.reports.templates import filled, read_texts

SEVERITIES = ("high", "medium", "low")  # from the most severe to the least
# Severity, strongest word and texts of each kind of warning, by its id.
KINDS: dict[str, dict[str, str]] = read_texts("data_warnings.toml")
# Descriptions of files with a certain value, by field of the files and value.
FILE_FIELDS: dict[str, dict[str, str]] = read_texts("file_fields.toml")

# Fewest groups that allow a verdict: fewer say little about others.
FEW_GROUPS = 10
# Fewest groups of a class that allow a verdict: one for each of five folds.
FEW_OF_A_CLASS = 5

# The thresholds below were chosen on the development folders of
# tests/benchmarks/verdict.py: no clean folder reaches them.

# Smallest share of CLIP's gain over chance at which a shortcut counts as strong: it may
# be all that CLIP sees.
MIN_GAIN = 0.75
# Smallest lower end of this share's interval.
MIN_GAIN_LOW = 0.65
# Smallest loss of probability after a swap at which a shortcut counts as used.
MIN_COST = 0.1
# Smallest lower end of this loss's interval.
MIN_COST_LOW = 0.01
# Smallest loss of balanced accuracy on external images that matters.
EXTERNAL_LOSS = 0.05
# Smallest sensitivity of a class that is not mostly missed.
FAIR_ACCURACY = 0.7
# Smallest share of the largest class at which accuracy alone means little.
IMBALANCE = 0.8
# Fewest images, and smallest share of all, that the encoder must have seen in training:
# fewer may be chance, as products on a white background look alike.
SEEN_IMAGES = 20
SEEN_SHARE = 0.05
# Most files, groups or shortcuts that a message names.
MOST_FILES = 4


@dataclass(frozen=True)
class DataWarning:
    """A reason to doubt the numbers, or to look at some files.

    Attributes
    ----------
    id, severity, strongest_word
        See data_warnings.toml.
    message
        One or two sentences.
    condition
        The condition of the verdict's sentence, as a clause after "if"; "" for none.
    evidence
        The numbers that the warning rests on, by name.
    rows
        Rows of some images that show what the warning says.
    files
        Names of files that show it, where the warning names files instead of rows.
    """

    id: str
    severity: str
    message: str
    strongest_word: str = "Yes"
    condition: str = ""
    evidence: Mapping[str, Estimate | float | int | str] = field(default_factory=dict)
    rows: Sequence[int] = ()
    files: Sequence[str] = ()

    @property
    def thresholds(self) -> tuple[str, ...]:
        """The values of --fail-on that it reaches: its id, its severity, all lower."""
        return (self.id, *SEVERITIES[SEVERITIES.index(self.severity) :])


def warning_of(
    kind: str,
    evidence: Mapping[str, Any],
    *,
    rows: Sequence[int] = (),
    files: Sequence[str] = (),
    **words: Any,
) -> DataWarning:
    """Return a warning of this kind; `evidence` and `words` fill in its texts."""
    texts = KINDS[kind]
    values = {**evidence, **words}
    return DataWarning(
        id=kind,
        severity=texts["severity"],
        message=filled(texts["message"], **values),
        strongest_word=texts["strongest_word"],
        condition=filled(texts.get("condition", ""), **values),
        evidence=evidence,
        rows=rows,
        files=files,
    )


def check_threshold(fail_on: str) -> None:
    """Raise ValueError unless this is "never", a severity, or the id of a warning."""
    allowed = ("never", *SEVERITIES, *KINDS)
    if fail_on not in allowed:
        raise ValueError(f"--fail-on {fail_on} is none of {', '.join(allowed)}.")


def find_warnings(findings: Findings) -> list[DataWarning]:
    """Return all warnings on a folder, the most severe first."""
    warnings = [warning for finder in FINDERS for warning in finder(findings)]
    return sorted(warnings, key=lambda warning: SEVERITIES.index(warning.severity))


def few_groups_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn of too few groups of a class, or of all classes together."""
    scarce = [
        f"{name} ({count})"
        for name, count in findings.images.groups_per_class.items()
        if count < FEW_OF_A_CLASS
    ]
    evidence = {"groups": findings.results.n_groups}
    few = findings.results.n_groups < FEW_GROUPS
    if scarce or few:
        yield warning_of(
            "too-few-groups", evidence, scarce=scarce, few=few, least=FEW_OF_A_CLASS
        )


def shortcut_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that the probe uses a shortcut, or that the files tell the classes apart.

    The warning is about the shortcut whose swap costs most; if none is used, about the
    strongest one of the files.
    """
    strong = strong_shortcuts(findings.shortcuts)
    # Where a shortcut may be all that CLIP sees, any cost that is not chance suffices.
    min_cost = 0 if strong else MIN_COST
    used = used_shortcuts(findings.shortcuts, min_cost)
    # Files cannot be swapped: it suffices that they tell the classes apart.
    in_files = [shortcut for shortcut in strong if shortcut.place == "in the file"]
    reasons = used + in_files
    if not reasons:
        return
    worst = reasons[0]
    evidence = {
        "name": worst.name,
        "place": worst.place,
        "accuracy": worst.accuracy,
        "share_of_gain": worst.relative_gain,
    }
    if used:
        evidence["cost"] = worst.swap_cost
    other_names = [s.name for s in used + strong if s is not worst]
    distinct_names = list(dict.fromkeys(other_names))  # some are both used and strong
    yield warning_of(
        "shortcut", evidence, rows=worst.examples, others=distinct_names[:MOST_FILES]
    )


def strong_shortcuts(shortcuts: Sequence[Shortcut]) -> list[Shortcut]:
    """Return the shortcuts that may be all that CLIP sees.

    Colours are left out, since they are often content.
    """
    return [
        shortcut
        for shortcut in shortcuts
        if shortcut.relative_gain.value >= MIN_GAIN
        and shortcut.relative_gain.low >= MIN_GAIN_LOW
        and shortcut.name not in COLOURS
    ]


def used_shortcuts(shortcuts: Sequence[Shortcut], min_cost: float) -> list[Shortcut]:
    """Return the shortcuts whose swap costs at least `min_cost`, by falling cost.

    Shortcuts whose cost may be chance are left out.
    """
    used = [
        shortcut
        for shortcut in shortcuts
        if shortcut.swap_cost.value >= min_cost
        and shortcut.swap_cost.low >= MIN_COST_LOW
    ]
    return sorted(used, key=lambda shortcut: shortcut.swap_cost.value, reverse=True)


def one_class_value_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn of each value of a field of the files that belongs to one class."""
    for evidence in findings.one_class_values.to_dict("records"):
        rows = evidence.pop("rows")
        n_with_value = evidence.pop("of_all")
        value = evidence["value"]
        texts = FILE_FIELDS[evidence["field"]]
        such_files = "files " + filled(texts.get(value, texts["any"]), value=value)
        # The class has nearly all groups with the value, but fewer of the images.
        by_group = evidence["images"] < MIN_PURITY * n_with_value
        words = {"such_files": such_files, "of_all": n_with_value, "by_group": by_group}
        yield warning_of("one-class-value", evidence, rows=rows, **words)


def external_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that clearly fewer images of another folder are classified correctly."""
    if findings.external is None:
        return
    name = findings.external.name
    evaluation = findings.external.evaluation
    loss = external_loss(findings.external, findings.results)
    if loss.low > 0 and loss.value >= EXTERNAL_LOSS:
        evidence = {"accuracy": evaluation.estimate("accuracy"), "loss": loss}
        yield warning_of("worse-elsewhere", evidence, name=name, images=evaluation.n)


def external_loss(external: ExternalTest, results: MethodComparison) -> Estimate:
    """Return internal less external balanced accuracy, over the external classes.

    The two are independent estimates, as their images differ.
    """
    support = external.evaluation.support
    external_classes = support.index[support > 0]
    sensitivity = external.evaluation.by_class("sensitivity")
    internal = Estimate.mean([results.sensitivity[name] for name in external_classes])
    external_mean = Estimate.mean([sensitivity[name] for name in external_classes])
    return internal.minus(external_mean)


def series_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that file names suggest groups, where none are declared."""
    pattern = findings.grouping.pattern
    if pattern:
        series = findings.grouping.series
        examples = [f"{file} (group {group})" for file, group in series.items()]
        yield warning_of(
            "groups-in-names", {"pattern": pattern}, files=list(series), series=examples
        )


def look_alike_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that the images look like views of fewer things.

    The warning is milder where groups are declared: they may be too narrow.
    """
    look_alikes = findings.look_alikes
    if not look_alikes.looks_like_views:
        return
    evidence: dict[str, Any] = {
        "upper_quartile": look_alikes.upper_quartile,
        "clusters": look_alikes.n_clusters,
    }
    if look_alikes.accuracy is not None:
        evidence["accuracy"] = look_alikes.accuracy
    rows = [row for a, b, _ in look_alikes.pairs for row in (a, b)]
    own = findings.results.evaluation.estimate("accuracy")
    warning = warning_of(
        "look-alikes", evidence, rows=rows, own=own, most_groups=MOST_GROUPS
    )
    if findings.grouping.declared:
        warning = replace(
            warning, severity="medium", strongest_word="Probably", condition=""
        )
    yield warning


def training_overlap_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that the encoder was trained on some of these images."""
    was_seen = findings.training_overlap
    if was_seen is None:
        return
    rows = np.flatnonzero(was_seen).tolist()
    share = len(rows) / len(was_seen)
    if len(rows) >= SEEN_IMAGES and share >= SEEN_SHARE:
        evidence = {"images": len(rows), "share": share}
        yield warning_of("seen-in-training", evidence, rows=rows)


def subgroup_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn of each part of a class that differs in accuracy or in origin."""
    for subgroup in findings.subgroups:
        is_cluster = subgroup.by == CLUSTER
        evidence = {
            "class": subgroup.class_name,
            "by": subgroup.by,
            "part": subgroup.accuracy,
            "rest": subgroup.accuracy_of_rest,
        }
        yield warning_of(
            "cluster-inside-class" if is_cluster else "archive-inside-class",
            evidence,
            rows=subgroup.examples,
            name=subgroup.name,
            n=subgroup.n_images,
            only_here=subgroup.only_here,
        )


def published_split_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that test images of the folder's own split have a copy or group in training.

    The evidence holds the accuracy on that split, and in folds by group.
    """
    split = findings.published_split
    if split is not None and len(split.shared):
        by_protocol = split.accuracy_by_protocol
        evidence = {
            "test": int(by_protocol.at[PUBLISHED, "images"]),
            "shared": len(split.shared),
            "own_split": by_protocol.at[PUBLISHED, "right"],
            "by_group": by_protocol.at[BY_GROUP, "right"],
        }
        yield warning_of("own-split", evidence)


def missed_class_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that a class is mostly missed."""
    name = findings.results.least_found
    sensitivity = findings.results.sensitivity[name]
    if sensitivity.value < FAIR_ACCURACY:
        yield warning_of("class-missed", {"class": name, "found": sensitivity})


def imbalance_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that one class is so large that accuracy alone means little."""
    counts = findings.results.evaluation.support
    share = float(counts.max() / counts.sum())
    if share >= IMBALANCE:
        yield warning_of("imbalance", {"class": str(counts.idxmax()), "share": share})


def merged_group_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that groups which were declared apart hold copies of each other."""
    merged = findings.grouping.merged
    if len(merged):
        evidence = {
            "pairs": len(merged),
            "declared": findings.grouping.declared,
            "groups": findings.results.n_groups,
        }
        pairs = (merged["group_a"] + " and " + merged["group_b"]).unique().tolist()
        yield warning_of("groups-merged", evidence, first=pairs[:MOST_FILES])


def label_conflict_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that copies of one image have different labels."""
    pairs = findings.audit.pairs
    conflicts = pairs[~pairs["same_label"]]
    if len(conflicts):
        rows = conflicts[["index_a", "index_b"]].to_numpy().ravel().tolist()
        evidence = {"pairs": len(conflicts)}
        first_pair = [findings.names[row] for row in rows[:2]]
        yield warning_of("label-conflicts", evidence, rows=rows, first=first_pair)


def suspect_label_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that labels look wrong."""
    rows = findings.suspects["row"].tolist()
    if rows:
        evidence = {"labels": len(rows)}
        first = [findings.names[row] for row in rows[:MOST_FILES]]
        yield warning_of("labels-in-doubt", evidence, rows=rows, first=first)


def unreadable_file_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Warn that files cannot be read; name them unless the findings are anonymous."""
    n_unreadable = len(findings.images.errors)
    if n_unreadable:
        files = list(findings.unreadable.get("file", []))  # no such column if anonymous
        yield warning_of("unreadable-files", {"files": n_unreadable}, files=files)


# All functions that find warnings; equally severe warnings are shown in this order.
FINDERS = (
    few_groups_warnings,
    shortcut_warnings,
    external_warnings,
    series_warnings,
    look_alike_warnings,
    training_overlap_warnings,
    subgroup_warnings,
    published_split_warnings,
    one_class_value_warnings,
    missed_class_warnings,
    imbalance_warnings,
    merged_group_warnings,
    label_conflict_warnings,
    suspect_label_warnings,
    unreadable_file_warnings,
)
