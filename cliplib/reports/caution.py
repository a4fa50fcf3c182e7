"""A caution: a reason to doubt the numbers of a report, or to look at files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SEVERITIES = ("high", "medium", "low")
IDS = (
    "too-few-groups",
    "shortcut",
    "worse-elsewhere",
    "groups-in-names",
    "look-alikes",
    "seen-in-training",
    "archive-inside-class",
    "own-split",
    "one-class-value",
    "class-missed",
    "imbalance",
    "groups-merged",
    "label-conflicts",
    "cluster-inside-class",
    "labels-in-doubt",
    "unreadable-files",
)
"""Stable names of all cautions, for programs."""


@dataclass(frozen=True)
class Caution:
    """A reason to doubt the numbers, or to look at some files.

    Attributes
    ----------
    id
        A stable name, for programs.
    severity
        "high" if the numbers may mean something else than they seem to; "medium" if
        they may be too good; "low" for what a person should look at.
    message
        A sentence or two.
    at_most
        The most that the verdict's word may say, one of `verdict.WORDS`.
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
    at_most: str = "Yes"
    condition: str = ""
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)
    rows: Sequence[int] = ()
    files: Sequence[str] = ()


def check_threshold(fail_on: str) -> None:
    """Raise ValueError for what names no caution, no severity, and is not "never"."""
    allowed = ("never", *SEVERITIES, *IDS)
    if fail_on not in allowed:
        raise ValueError(f"--fail-on {fail_on} is none of {', '.join(allowed)}.")
