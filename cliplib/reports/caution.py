"""A caution: a reason to doubt the numbers of a report, or to look at files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

SEVERITIES = ("high", "medium", "low")
KINDS = {
    "too-few-groups": ("high", "Cannot be said"),
    "shortcut": ("high", "Perhaps"),
    "worse-elsewhere": ("high", "Perhaps"),
    "groups-in-names": ("high", "Perhaps"),
    "look-alikes": ("high", "Perhaps"),
    "seen-in-training": ("medium", "Probably"),
    "archive-inside-class": ("medium", "Probably"),
    "own-split": ("medium", "Yes"),
    "one-class-value": ("medium", "Yes"),
    "class-missed": ("medium", "Mostly"),
    "imbalance": ("low", "Yes"),
    "groups-merged": ("medium", "Yes"),
    "label-conflicts": ("medium", "Yes"),
    "cluster-inside-class": ("low", "Yes"),
    "labels-in-doubt": ("low", "Yes"),
    "unreadable-files": ("low", "Yes"),
}
"""By stable name, for programs: severity, and the most that the verdict's word may say.

A severity is "high" if the numbers may mean something else than they seem to; "medium"
if they may be too good; "low" for what a person should look at.
"""


@dataclass(frozen=True)
class Caution:
    """A reason to doubt the numbers, or to look at some files.

    Attributes
    ----------
    id, severity, at_most
        See `KINDS`.
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
    at_most: str = "Yes"
    condition: str = ""
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)
    rows: Sequence[int] = ()
    files: Sequence[str] = ()

    @classmethod
    def of_kind(cls, name: str, message: str, **more: Any) -> Self:
        """Return a caution of a kind, with the severity and limit that it has there."""
        severity, at_most = KINDS[name]
        return cls(name, severity, message, at_most, **more)


def check_threshold(fail_on: str) -> None:
    """Raise ValueError for what names no caution, no severity, and is not "never"."""
    allowed = ("never", *SEVERITIES, *KINDS)
    if fail_on not in allowed:
        raise ValueError(f"--fail-on {fail_on} is none of {', '.join(allowed)}.")
