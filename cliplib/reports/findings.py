"""What is found out about a folder of images, as values.

`cliplib.reports.measure` makes them; verdict, page, PDF and report.json only read them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from cliplib.data.datasets import Source
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.audit import Audit
from cliplib.features.table import FeatureTable
from cliplib.inspection.archives import Archive
from cliplib.inspection.erase import Erased
from cliplib.inspection.file_values import OneClassValue
from cliplib.inspection.lookalikes import LookAlikes
from cliplib.inspection.own_split import OwnSplit
from cliplib.inspection.seen import Seen
from cliplib.inspection.shortcuts import Shortcut
from cliplib.reports.decision_aid import DecisionAid
from cliplib.reports.elsewhere import Elsewhere
from cliplib.reports.methods import Methods, OtherEncoder
from cliplib.reports.questions import Curve


@dataclass(frozen=True)
class Request:
    """What is asked for: the arguments of `measure`."""

    folder: Source
    model: str = ""
    groups: str = ""
    copies: str | float = "near"
    others: Sequence[str] = ()
    elsewhere: str = ""
    boxes: str = ""
    limit: int = 0
    seed: int = 0
    anonymous: bool = False
    command: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The folder, file or hub id of the images; "images" for what has none."""
        is_place = isinstance(self.folder, str | os.PathLike)
        return os.fspath(self.folder) if is_place else "images"


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a folder.

    Attributes
    ----------
    table
        Deep features, labels and groups of the n images that can be read.
    files
        The file of each row, as `load_image` takes it.
    names
        What each row is called: its id, or "image 1" and so on if anonymous.
    counts
        By class: its images, the same with copies counted once, and its groups. Images
        have a column for each published split, or else a single one, "images".
    unreadable
        The reason why a file cannot be read, by id.
    facts
        Of each row's file: format, mode, width, height and the like.
    """

    table: FeatureTable
    files: Sequence[Any]
    names: Sequence[str]
    counts: pd.DataFrame
    unreadable: Mapping[str, str]
    facts: pd.DataFrame

    @property
    def labels(self) -> list[str]:
        """The name of each row's class."""
        return [self.table.classes[label] for label in self.table.labels]

    @property
    def groups_per_class(self) -> dict[str, int]:
        """By class, in how many groups it occurs."""
        return {str(name): int(n) for name, n in self.counts["groups"].items()}


@dataclass(frozen=True, eq=False)
class Belonging:
    """Which images belong together, and who says so.

    Attributes
    ----------
    declared
        How many groups somebody has declared; 0 for none: they are near-duplicates.
    pattern
        The pattern of groups that file names suggest, where none are declared; or "".
    series
        Names of files that this pattern would keep together, for an example.
    merged
        Pairs of declared groups that hold copies of each other: group_a, group_b,
        image_a and image_b (ids).
    """

    declared: int
    pattern: str
    series: Sequence[str]
    merged: pd.DataFrame


class Error(NamedTuple):
    """A row that was classified wrongly, and an image of what spoke for the answer."""

    row: int
    heat_map: Image.Image


@dataclass(frozen=True, eq=False)
class Findings:
    """All that is found out about a folder of images.

    Attributes
    ----------
    request
        What was asked for.
    encoder
        The frozen CLIP.
    images, belonging
        What the folder holds.
    audit
        All pairs of copies among its files, and the labels that they contradict.
    copies
        row_a and row_b, the rows of both images of a pair, and same_label; pairs with
        two labels come first, then those in two splits.
    methods
        Probes and baselines.
    shortcuts
        Probes that see no object, the strongest first.
    one_class_values
        Values of a field of the files that belong to one class.
    look_alikes
        How alike images of different groups are.
    archives
        Parts of a class that fare otherwise, or came another way.
    other_encoders
        Vision models beside CLIP.
    suspects
        Labels that look wrong: row, given and likely class, and margin.
    curve, errors
        Would more labels pay, and what goes wrong.
    reliability
        value, low and high of the best probe's accuracy, and confidence (the mean
        stated probability), by bin of it.
    risk_coverage
        threshold, coverage (share answered) and risk (share of these that are wrong).
    aid
        A classifier that abstains when unsure, made of the best probe.
    seen
        Images that the encoder was trained on; None where nothing is known of that.
    own_split, splits
        What the folder's own split says, and one that keeps groups whole; None where it
        has none, or groups cannot be kept whole.
    elsewhere
        The images of another folder; None if none is named.
    erased
        Images without their object; None without boxes.
    """

    request: Request
    encoder: ClipEncoder
    images: Images
    belonging: Belonging
    audit: Audit
    copies: pd.DataFrame
    methods: Methods
    shortcuts: Sequence[Shortcut]
    one_class_values: Sequence[OneClassValue]
    look_alikes: LookAlikes
    archives: Sequence[Archive]
    other_encoders: Sequence[OtherEncoder]
    suspects: pd.DataFrame
    curve: Curve
    reliability: pd.DataFrame
    risk_coverage: pd.DataFrame
    errors: Sequence[Error]
    aid: DecisionAid
    seen: Seen | None = None
    own_split: OwnSplit | None = None
    splits: pd.DataFrame | None = None
    elsewhere: Elsewhere | None = None
    erased: Erased | None = None

    @property
    def command(self) -> str:
        """The command that measures all this again; if anonymous, without names."""
        if self.request.anonymous:
            return "cliplib report FOLDER --out OUT --anonymous"
        if self.request.command:
            return self.request.command
        return f"cliplib report {shlex.quote(self.request.place)} --out OUT"

    @property
    def encoder_name(self) -> str:
        """What CLIP is called: a hub id, or the name of its folder without the path."""
        name = self.encoder.name
        return Path(name).name if os.path.isdir(name) else name

    @property
    def n_files(self) -> int:
        """How many files of the folder are images by their names."""
        return len(self.audit.images)
