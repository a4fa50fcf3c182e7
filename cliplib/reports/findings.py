"""The findings on a folder of images, as values.

`cliplib.reports.measure` makes them; verdict, page, PDF and report.json only read them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cliplib.aids.decision_aid import DecisionAid
from cliplib.aids.external import ExternalTest
from cliplib.data.arrays import Bools
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.audit import Audit
from cliplib.features.encode import EncodedImages
from cliplib.inspection.erase import Erased
from cliplib.inspection.lookalikes import LookAlikes
from cliplib.inspection.published_split import PublishedSplit
from cliplib.inspection.shortcuts import Shortcut
from cliplib.inspection.subgroups import Subgroup
from cliplib.probes.base import Probe
from cliplib.reports.methods import MethodComparison


@dataclass(frozen=True, eq=False)
class Grouping:
    """Which groups are declared, or else suggested by file names.

    Attributes
    ----------
    declared
        The number of declared groups; 0 where only near-duplicates are groups.
    pattern
        Where no groups are declared, the pattern that file names suggest; "" for none.
    series
        The groups of some files that this pattern would join with others, by file name.
    merged
        Pairs of declared groups that hold copies of each other: group_a, group_b,
        image_a and image_b.
    """

    declared: int
    pattern: str
    series: Mapping[str, str]
    merged: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Findings:
    """All that is found out about a folder of images.

    Attributes
    ----------
    options
        The options of `measure`, "folder" among them; empty or 0 means the default.
    title
        The title of page and PDF.
    names
        The name of each image, (n,): its id, or a number if anonymous.
    unreadable
        Files that cannot be read, each with the reason; if anonymous, reasons, each
        with its number of files.
    groups
        The CSV file or pattern that declares groups; "" for none.
    encoder
        The frozen CLIP.
    images, grouping
        The images of the folder, encoded, and what groups them.
    audit
        All pairs of copies among the images, and whether their labels agree.
    results
        The results of probes and baselines, out of fold.
    shortcuts
        Probes that see no object, the strongest first.
    one_class_values
        Values of a field of the files that belong to one class.
    look_alikes
        How similar images of different groups are.
    subgroups
        Parts of a class that differ from the rest in accuracy or origin.
    suspects
        Labels that look wrong: row, given and likely class, and margin.
    errors
        Rows of the surest errors of the best probe, the surest first.
    fitted
        The best probe, fitted to all images.
    aid
        The decision aid, made of the best probe.
    training_overlap
        Whether the encoder was trained on each image, (n,); None where the training
        images are unknown, as of all encoders but the embedded one.
    published_split
        How the best probe does on the folder's own split; None where there is none, or
        none that a probe can be trained on.
    external
        How the best probe and the aid do on images of another folder; None without one.
    erased
        How the best probe does on images without their object; None without boxes.
    """

    options: Mapping[str, Any]
    title: str
    names: Sequence[str]
    unreadable: pd.DataFrame
    groups: str
    encoder: ClipEncoder
    images: EncodedImages
    grouping: Grouping
    audit: Audit
    results: MethodComparison
    shortcuts: Sequence[Shortcut]
    one_class_values: pd.DataFrame
    look_alikes: LookAlikes
    subgroups: Sequence[Subgroup]
    suspects: pd.DataFrame
    errors: Sequence[int]
    fitted: Probe
    aid: DecisionAid
    training_overlap: Bools | None = None
    published_split: PublishedSplit | None = None
    external: ExternalTest | None = None
    erased: Erased | None = None

    @property
    def command(self) -> str:
        """The command that makes the report on these findings again."""
        return command_of(self.options)


def command_of(options: Mapping[str, Any]) -> str:
    """Return the command that makes a report with these options of `measure`.

    It lacks --fail-on, which sets the exit status and does not change the report.
    """
    words = ["cliplib", "report", _as_argument(options["folder"])]
    for name, value in options.items():
        if name == "folder" or not value:
            continue
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [flag, *map(_as_argument, value)]
        elif str(value).startswith("-"):  # after a space, it would be another option
            words.append(f"{flag}={value}")
        else:
            words += [flag, str(value)]
    return shlex.join(words)


def _as_argument(path: Any) -> str:
    """Return a path that cannot be taken for an option: "./-a" for "-a"."""
    return f"./{path}" if str(path).startswith("-") else str(path)
