"""Warnings: what limits the verdict on a folder, and what else a person should look at.

What warnings say, and what they weigh, stands in data_warnings.toml. Each function
yields warnings where there is a reason for them. None rests on a difference that does
not matter, or that is not shown.
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
# By stable name, for programs: severity, strongest word, and texts of a warning.
KINDS: dict[str, dict[str, str]] = read_texts("data_warnings.toml")
# By field of the files and value: how files that have it are told.
FILE_FIELDS: dict[str, dict[str, str]] = read_texts("file_fields.toml")

# With fewer groups altogether nothing is decided: they say little of others.
FEW_GROUPS = 10
# With fewer groups of a class neither: they cannot be tested in five folds.
FEW_OF_A_CLASS = 5

# What follows was chosen on the development folders of tests/benchmarks/verdict.py: no
# clean one reaches it.

# The share of CLIP's gain over chance from which on a shortcut may be all it sees.
MIN_GAIN = 0.75
# The same, at the lower end of its interval.
MIN_GAIN_LOW = 0.65
# The loss of probability from which on a probe uses what is swapped.
MIN_COST = 0.1
# The same at the lower end of its interval: enough where it may be all CLIP sees.
MIN_COST_LOW = 0.01
# A loss of balanced accuracy on external images that matters.
EXTERNAL_LOSS = 0.05
# A class of which less is found is mostly missed.
FAIR_ACCURACY = 0.7
# Share of the largest class from which on accuracy alone means little.
IMBALANCE = 0.8
# Fewer images that the encoder was trained on, and a smaller share, may be chance among
# products on white.
SEEN_IMAGES = 20
SEEN_SHARE = 0.05
# So many files are named within a sentence.
MOST_FILES = 4


@dataclass(frozen=True)
class DataWarning:
    """A reason to doubt the numbers, or to look at some files.

    Attributes
    ----------
    id, severity, strongest_word
        See data_warnings.toml.
    message
        A sentence or two.
    condition
        On what the verdict's sentence depends, as a clause after "if"; "" on nothing.
    evidence
        The numbers that it rests on.
    rows
        Some of the images that show it.
    files
        Files that show it and have no row, since they cannot be read.
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
        """Its id, its severity, and all that are lower: what --fail-on may name."""
        return (self.id, *SEVERITIES[SEVERITIES.index(self.severity) :])


def warning_of(
    kind: str,
    evidence: Mapping[str, Any],
    *,
    rows: Sequence[int] = (),
    files: Sequence[str] = (),
    **words: Any,
) -> DataWarning:
    """Return a warning of a kind, its texts filled in from `evidence` and `words`."""
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
    """Raise ValueError for what names no warning, no severity, and is not "never"."""
    allowed = ("never", *SEVERITIES, *KINDS)
    if fail_on not in allowed:
        raise ValueError(f"--fail-on {fail_on} is none of {', '.join(allowed)}.")


def find_warnings(findings: Findings) -> list[DataWarning]:
    """Return all warnings on a folder, the most severe first."""
    warnings = [warning for finder in FINDERS for warning in finder(findings)]
    return sorted(warnings, key=lambda warning: SEVERITIES.index(warning.severity))


def few_groups_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that a class has too few groups, or all classes together."""
    scarce = [
        f"{name} ({count})"
        for name, count in findings.images.groups_per_class.items()
        if count < FEW_OF_A_CLASS
    ]
    few = findings.results.n_groups < FEW_GROUPS
    if scarce or few:
        evidence = {"groups": findings.results.n_groups}
        yield warning_of(
            "too-few-groups", evidence, scarce=scarce, few=few, least=FEW_OF_A_CLASS
        )


def shortcut_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that the probe uses what shows no object, or that files tell the classes.

    Those whose swap costs most come first.
    """
    strong = strong_shortcuts(findings.shortcuts)
    # Where one may be all that CLIP sees, any cost that is shown is enough.
    min_cost = 0 if strong else MIN_COST
    used = used_shortcuts(findings.shortcuts, min_cost)
    # A file cannot be swapped: what it tells of the class is enough.
    in_files = [shortcut for shortcut in strong if shortcut.place == "in the file"]
    if not used and not in_files:
        return
    first = (used + in_files)[0]
    other_names = [s.name for s in used + strong if s is not first]
    evidence = {
        "name": first.name,
        "place": first.place,
        "accuracy": first.accuracy,
        "share_of_gain": first.relative_gain,
    }
    if used:
        evidence["cost"] = first.swap_cost
    yield warning_of(
        "shortcut",
        evidence,
        rows=first.examples,
        others=list(dict.fromkeys(other_names))[:MOST_FILES],  # once each
    )


def strong_shortcuts(shortcuts: Sequence[Shortcut]) -> list[Shortcut]:
    """Return those that may be all that CLIP sees; colours, often content, are none."""
    return [
        shortcut
        for shortcut in shortcuts
        if shortcut.relative_gain.value >= MIN_GAIN
        and shortcut.relative_gain.low >= MIN_GAIN_LOW
        and shortcut.name not in COLOURS
    ]


def used_shortcuts(shortcuts: Sequence[Shortcut], min_cost: float) -> list[Shortcut]:
    """Return those whose swap costs so much, and surely something, by falling cost."""
    used = [
        shortcut
        for shortcut in shortcuts
        if shortcut.swap_cost.value >= min_cost
        and shortcut.swap_cost.low >= MIN_COST_LOW
    ]
    return sorted(used, key=lambda shortcut: shortcut.swap_cost.value, reverse=True)


def one_class_value_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that a value of a field of the files belongs to one class."""
    for evidence in findings.one_class_values.to_dict("records"):
        rows = evidence.pop("rows")
        of_all = evidence.pop("of_all")
        value = evidence["value"]
        texts = FILE_FIELDS[evidence["field"]]
        such_files = "files " + filled(texts.get(value, texts["any"]), value=value)
        few = evidence["images"] < MIN_PURITY * of_all  # though they are many groups
        words = {"such_files": such_files, "of_all": of_all, "few": few}
        yield warning_of("one-class-value", evidence, rows=rows, **words)


def external_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that clearly less is right on the images of another folder."""
    if findings.external is None:
        return
    evaluation = findings.external.evaluation
    loss = external_loss(findings.external, findings.results)
    if loss.low > 0 and loss.value >= EXTERNAL_LOSS:
        evidence = {"accuracy": evaluation.estimate("accuracy"), "loss": loss}
        name = findings.external.name
        yield warning_of("worse-elsewhere", evidence, name=name, images=evaluation.n)


def external_loss(external: ExternalTest, results: MethodComparison) -> Estimate:
    """Return internal less external balanced accuracy, of the classes that occur there.

    Both are of different images.
    """
    support = external.evaluation.support
    occurring = support.index[support > 0]
    sensitivity = external.evaluation.by_class("sensitivity")
    internal = Estimate.mean([results.sensitivity[name] for name in occurring])
    external_mean = Estimate.mean([sensitivity[name] for name in occurring])
    return internal.minus(external_mean)


def series_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that file names look like series, which nobody has declared."""
    if findings.grouping.pattern:
        evidence = {"pattern": findings.grouping.pattern}
        series = findings.grouping.series
        examples = [f"{file} (group {group})" for file, group in series.items()]
        yield warning_of(
            "groups-in-names", evidence, files=list(series), series=examples
        )


def look_alike_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that the images look like views of fewer things.

    Where groups are declared, images of different groups are that alike.
    """
    alike = findings.look_alikes
    if not alike.looks_like_views:
        return
    evidence: dict[str, Any] = {
        "upper_quartile": alike.upper_quartile,
        "clusters": alike.n_clusters,
    }
    if alike.accuracy is not None:
        evidence["accuracy"] = alike.accuracy
    rows = [row for a, b, _ in alike.pairs for row in (a, b)]
    own = findings.results.evaluation.estimate("accuracy")
    warning = warning_of(
        "look-alikes", evidence, rows=rows, own=own, most_groups=MOST_GROUPS
    )
    if findings.grouping.declared:  # perhaps too narrowly
        warning = replace(
            warning, severity="medium", strongest_word="Probably", condition=""
        )
    yield warning


def training_overlap_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that the encoder was trained on some of these images."""
    if findings.training_overlap is None:
        return
    rows = np.flatnonzero(findings.training_overlap).tolist()
    share = len(rows) / len(findings.training_overlap)
    if len(rows) >= SEEN_IMAGES and share >= SEEN_SHARE:
        evidence = {"images": len(rows), "share": share}
        yield warning_of("seen-in-training", evidence, rows=rows)


def subgroup_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that a part of a class differs in accuracy, or came another way."""
    for subgroup in findings.subgroups:
        evidence = {
            "class": subgroup.class_name,
            "by": subgroup.by,
            "part": subgroup.accuracy,
            "rest": subgroup.accuracy_of_rest,
        }
        kind = "archive-inside-class"
        if subgroup.by == CLUSTER:
            kind = "cluster-inside-class"
        yield warning_of(
            kind,
            evidence,
            rows=subgroup.examples,
            name=subgroup.name,
            n=subgroup.n_images,
            only_here=subgroup.only_here,
        )


def published_split_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that the folder's own test images have copies or groups in training."""
    if findings.published_split is not None and len(findings.published_split.shared):
        by_protocol = findings.published_split.accuracy_by_protocol
        evidence = {
            "test": int(by_protocol.at[PUBLISHED, "images"]),
            "shared": len(findings.published_split.shared),
            "own_split": by_protocol.at[PUBLISHED, "right"],
            "by_group": by_protocol.at[BY_GROUP, "right"],
        }
        yield warning_of("own-split", evidence)


def missed_class_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that a class is mostly missed."""
    missed = findings.results.least_found
    found = findings.results.sensitivity[missed]
    if found.value < FAIR_ACCURACY:
        yield warning_of("class-missed", {"class": missed, "found": found})


def imbalance_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that one class is so large that accuracy alone means little."""
    counts = findings.results.evaluation.support
    share = float(counts.max() / counts.sum())
    if share >= IMBALANCE:
        yield warning_of("imbalance", {"class": str(counts.idxmax()), "share": share})


def merged_group_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that groups which were declared apart hold copies of each other."""
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
    """Say that copies of one image bear two labels."""
    pairs = findings.audit.pairs
    conflicts = pairs[~pairs["same_label"]]
    if len(conflicts):
        rows = conflicts[["index_a", "index_b"]].to_numpy().ravel().tolist()
        a = findings.names[rows[0]]
        b = findings.names[rows[1]]
        evidence = {"pairs": len(conflicts)}
        yield warning_of("label-conflicts", evidence, rows=rows, a=a, b=b)


def suspect_label_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that labels look wrong."""
    rows = findings.suspects["row"].tolist()
    if rows:
        first = [findings.names[row] for row in rows[:MOST_FILES]]
        count = {"labels": len(rows)}
        yield warning_of("labels-in-doubt", count, rows=rows, first=first)


def unreadable_file_warnings(findings: Findings) -> Iterator[DataWarning]:
    """Say that files could not be read, and which if they may be named."""
    n_unreadable = len(findings.images.errors)
    if n_unreadable:
        count = {"files": n_unreadable}
        files = list(findings.unreadable.get("file", []))
        yield warning_of("unreadable-files", count, files=files)


# What finds warnings; of equally severe ones, the first is shown first.
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
