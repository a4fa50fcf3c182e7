"""What is found out about a folder of images, as values.

`cliplib.reports.measure` makes them; verdict, page, PDF and report.json only read them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from PIL import Image

from cliplib.data.datasets import Source
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.encoder import Encoder
from cliplib.features.audit import Audit
from cliplib.features.table import FeatureTable
from cliplib.inspection.erase import Erased
from cliplib.inspection.lookalikes import LookAlikes
from cliplib.inspection.published_split import PublishedSplit
from cliplib.inspection.shortcuts import Shortcut
from cliplib.inspection.subgroups import Subgroup
from cliplib.inspection.training_overlap import TrainingOverlap
from cliplib.reports.decision_aid import DecisionAid
from cliplib.reports.external import ExternalTest
from cliplib.reports.methods import OtherEncoder, Results


@dataclass(frozen=True)
class Request:
    """What is asked of `measure`.

    Attributes
    ----------
    folder
        Of class folders, or any other source of images: see `load_dataset`.
    model
        Hub id or folder of a CLIP; "" for the setting ``CLIPLIB_MODEL``, else "mini".
    groups
        A CSV file (file, group), or a regular expression with the group in its
        parentheses: what belongs together. "" for near-duplicates only.
    copies
        Which images count as copies: "off", "exact", "near", or the smallest
        correlation of detail that makes one. Copies are kept together.
    others
        More vision models to set beside CLIP, by hub id or folder.
    elsewhere
        Another folder of the same classes, from another camera or site, to be judged
        by a probe that is trained on all of this one.
    boxes
        A CSV file (file, x_center, y_center, width, height as shares): where the object
        lies that is to be erased.
    limit
        Draw about so many images, by class and split; 0 takes all.
    seed
        Of everything random, from 0 on.
    anonymous
        Call images by numbers, and models in folders by their fingerprint, in the
        verdict, in errors and in the decision aid.
    command
        What measures this again, for the page and the verdict's next steps.
    image_column, label_column, split, revision
        Options of `load_dataset`.
    """

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
    command: str = "cliplib report FOLDER --out OUT"
    image_column: str = ""
    label_column: str = ""
    split: str = ""
    revision: str = ""

    @property
    def place(self) -> str:
        """The folder, file or hub id of the images; "images" for what has none."""
        is_place = isinstance(self.folder, str | os.PathLike)
        return os.fspath(self.folder) if is_place else "images"

    def name_of(self, encoder: Encoder) -> str:
        """Return a hub id or folder; if anonymous, no folder but its fingerprint."""
        if self.anonymous and os.path.isdir(encoder.name):
            return f"model {encoder.fingerprint[:8]}"
        return encoder.name


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
        return [str(name) for name in self.table.label_names]

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
        Names of some files that this pattern would keep with others, each with its
        group; if anonymous, groups are numbered.
    merged
        Pairs of declared groups that hold copies of each other: group_a, group_b,
        image_a and image_b (ids).
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
        two labels come first.
    results
        How well probes and baselines do.
    shortcuts
        Probes that see no object, the strongest first.
    one_class_values
        Values of a field of the files that belong to one class.
    look_alikes
        How alike images of different groups are.
    subgroups
        Parts of a class that fare otherwise, or came another way.
    other_encoders
        Vision models beside CLIP.
    suspects
        Labels that look wrong: row, given and likely class, and margin.
    errors
        Rows that were classified wrongly, each with an image of what spoke for the
        answer.
    aid
        A classifier that abstains when unsure, made of the best probe.
    training_overlap
        Images that the encoder was trained on; None where nothing is known of that, as
        of any but the embedded one.
    published_split
        What the folder's own split says; None where it has none.
    external
        How the images of another folder fare; None if none is named.
    erased
        Images without their object; None without boxes.
    """

    request: Request
    encoder: ClipEncoder
    images: Images
    belonging: Belonging
    audit: Audit
    copies: pd.DataFrame
    results: Results
    shortcuts: Sequence[Shortcut]
    one_class_values: pd.DataFrame
    look_alikes: LookAlikes
    subgroups: Sequence[Subgroup]
    other_encoders: Sequence[OtherEncoder]
    suspects: pd.DataFrame
    errors: Sequence[tuple[int, Image.Image]]
    aid: DecisionAid
    training_overlap: TrainingOverlap | None = None
    published_split: PublishedSplit | None = None
    external: ExternalTest | None = None
    erased: Erased | None = None

    @property
    def command(self) -> str:
        """The command that measures all this again; if anonymous, without names."""
        if self.request.anonymous:
            return "cliplib report FOLDER --out OUT --anonymous"
        return self.request.command
