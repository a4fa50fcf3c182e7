"""What is found out about a folder of images, as values.

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
    """Which images belong together, and who says so.

    Attributes
    ----------
    declared
        How many groups somebody has declared; 0 for none: they are near-duplicates.
    pattern
        The pattern of groups that file names suggest, where none are declared; or "".
    series
        Names of some files that this pattern would keep with others, each with its
        group.
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
        Folder, place of the report, and options of `measure`; what is empty or 0 is the
        default.
    title
        Of page and PDF.
    names
        What each image is called, (n,): its id, or if anonymous a number.
    unreadable
        Files that cannot be read, and the reason of each; if anonymous, reasons, and
        the number of files of each.
    groups
        The CSV file or the pattern by which groups were declared; or "".
    encoder
        The frozen CLIP.
    images, grouping
        What the folder holds.
    audit
        All pairs of copies among these images, and whether both have one label.
    results
        How well probes and baselines do.
    shortcuts
        Probes that see no object, the strongest first.
    one_class_values
        Values of a field of the files that belong to one class.
    look_alikes
        How alike images of different groups are.
    subgroups
        Parts of a class that differ in accuracy, or came another way.
    suspects
        Labels that look wrong: row, given and likely class, and margin.
    errors
        Rows that were classified wrongly, surest first.
    fitted
        The best probe, fitted to all images.
    aid
        A classifier that abstains when unsure, made of the best probe.
    training_overlap
        Whether the encoder was trained on each image, (n,); None for any but the
        embedded one, of which nothing is known.
    published_split
        What the folder's own split says; None where it has none.
    external
        How the images of another folder fare; None if none is named.
    erased
        Images without their object; None without boxes.
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
        """The command that makes a report of all this again."""
        return command_of(self.options)


def command_of(options: Mapping[str, Any]) -> str:
    """Return the command that makes a report with these options of `measure`."""
    folder = str(options["folder"])
    words = ["cliplib", "report", f"./{folder}" if folder.startswith("-") else folder]
    for name, value in options.items():
        if name == "folder" or not value:
            continue
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        elif str(value).startswith("-"):  # else it would be an option of its own
            words.append(f"{flag}={value}")
        else:
            words += [flag, str(value)]
    return shlex.join(words)
