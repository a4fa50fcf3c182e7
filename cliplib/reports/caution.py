"""A caution: a reason to doubt the numbers of a report, or to look at files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cliplib.evaluation.intervals import Share
from cliplib.reports.templates import filled, read_texts

SEVERITIES = ("high", "medium", "low")
KINDS: dict[str, dict[str, str]] = read_texts("cautions.toml")
"""By stable name, for programs: severity, at_most, and the texts of a caution."""


@dataclass(frozen=True)
class Caution:
    """A reason to doubt the numbers, or to look at some files.

    Attributes
    ----------
    id, severity, at_most
        See cautions.toml.
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


def caution_of(
    kind: str,
    evidence: Mapping[str, Any],
    *,
    rows: Sequence[int] = (),
    files: Sequence[str] = (),
    **said: Any,
) -> Caution:
    """Return a caution of a kind, its texts filled in from `evidence` and from `said`.

    A `Share` in the evidence becomes three numbers: NAME, NAME_low and NAME_high.
    """
    texts = KINDS[kind]
    values = {**evidence, **said}
    numbers: dict[str, float | int | str] = {}
    for name, value in evidence.items():
        if isinstance(value, Share):
            ends = {f"{name}_low": value.low, f"{name}_high": value.high}
            numbers |= {name: value.value, **ends}
        else:
            numbers[name] = value
    return Caution(
        id=kind,
        severity=texts["severity"],
        message=filled(texts["message"], **values),
        at_most=texts["at_most"],
        condition=filled(texts.get("condition", ""), **values),
        evidence=numbers,
        rows=rows,
        files=files,
    )


def check_threshold(fail_on: str) -> None:
    """Raise ValueError for what names no caution, no severity, and is not "never"."""
    allowed = ("never", *SEVERITIES, *KINDS)
    if fail_on not in allowed:
        raise ValueError(f"--fail-on {fail_on} is none of {', '.join(allowed)}.")
