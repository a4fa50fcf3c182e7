"""Check what is asked for, and encode its images: the first step of `measure`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from cliplib.data.datasets import (
    check_classes,
    load_dataset,
)
from cliplib.data.image import ImageSource, UnreadableImage, load_image
from cliplib.data.wording import counted
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.vision import VisionEncoder
from cliplib.features.extract import encode
from cliplib.features.table import FeatureTable
from cliplib.inspection.erase import Box, read_boxes
from cliplib.reports.elsewhere import (
    check_shared_classes,
)
from cliplib.reports.findings import (
    Request,
)
from cliplib.reports.methods import (
    LEAST_GROUPS,
)


@dataclass(frozen=True, eq=False)
class Encoded:
    """A folder that was checked and encoded: what everything else is measured on."""

    request: Request
    dataset: datasets.Dataset
    encoder: ClipEncoder
    other_encoders: Mapping[str, VisionEncoder]
    table: FeatureTable
    unreadable: Mapping[str, str]
    boxes: Mapping[str, Box]

    @property
    def files(self) -> list[Any]:
        """The file of each row of the table, as `load_image` takes it."""
        file_of = dict(zip(self.dataset["id"], self.dataset["image"], strict=True))
        return [file_of[file_id] for file_id in self.table.ids]


def encode_folder(request: Request) -> Encoded:
    """Check a request, and encode its folder.

    What can be refused before the encoding, which takes minutes, is refused first, with
    an OSError or ValueError; after it, too few images that could be read are.
    """
    dataset = load_dataset(request.folder, **request.columns)
    check_classes(dataset, request.place)
    if request.elsewhere:
        check_shared_classes(request.elsewhere, dataset)
    check_number_of_images(dataset, request.place)
    boxes = read_boxes(request.boxes, dataset["id"][:]) if request.boxes else {}
    others = load_other_encoders(request.others, anonymous=request.anonymous)
    encoder = ClipEncoder(request.model or None)
    if request.anonymous:
        encoder.name = anonymous_name(encoder)
    errors_by_id: dict[str, str] = {}  # filled with why an image cannot be read
    table = encode(
        dataset,
        encoder,
        groups=request.groups or None,
        copies=request.copies,
        limit=request.limit,
        seed=request.seed,
        errors=errors_by_id,
    )
    file_of = dict(zip(dataset["id"], dataset["image"], strict=True))
    unreadable = {name: why_unreadable(file_of[name]) for name in errors_by_id}
    check_readable(table, unreadable)
    check_groups(request, table, boxes)
    return Encoded(request, dataset, encoder, others, table, unreadable, boxes)


def why_unreadable(file: ImageSource) -> str:
    """Return why an image cannot be read, without its name; "" if it can be by now."""
    try:
        load_image(file)
    except UnreadableImage as error:
        return f"{error.reason}."
    return ""


def check_readable(table: FeatureTable, unreadable: Mapping[str, str]) -> None:
    """Raise ValueError for a class none of whose images is in the table.

    `unreadable` has the reason of each file that is left out, by id. The error names
    the class, and one of its files with the reason.
    """
    for label, name in enumerate(table.classes):
        if label in table.labels:
            continue
        for file, reason in unreadable.items():
            if Path(file).parent.name == name:
                raise ValueError(
                    f"No image of class {name!r} can be read; {file}: {reason}"
                )


def check_number_of_images(dataset: datasets.Dataset, folder: str) -> None:
    """Raise ValueError where a class has fewer files than its evaluation needs."""
    n_files = Counter(dataset.features["label"].int2str(dataset["label"][:]))
    for name, count in n_files.items():
        if count < LEAST_GROUPS:
            raise ValueError(
                f"Class {name!r} of {folder} has {counted(count, 'image')}: it needs "
                f"{LEAST_GROUPS} at least."
            )


def check_groups(
    request: Request, table: FeatureTable, boxes: Mapping[str, Box]
) -> None:
    """Raise ValueError where declared groups, or boxes, leave a single group."""
    if request.groups and len(set(table.groups)) < 2:
        raise ValueError(f"{request.groups!r} puts all images into one group.")
    has_box = np.isin(table.ids, list(boxes))
    if boxes and len(set(table.groups[has_box])) < 2:
        raise ValueError(
            f"{request.boxes!r} has boxes of {counted(int(has_box.sum()), 'image')} of "
            "one group: images of two groups at least are needed."
        )


def anonymous_name(encoder: ClipEncoder | VisionEncoder) -> str:
    """Return the name of an encoder, or for a folder "model" and its fingerprint."""
    if os.path.isdir(encoder.name):
        return f"model {encoder.fingerprint[:8]}"
    return encoder.name


def load_other_encoders(
    names: Sequence[str], *, anonymous: bool = False
) -> dict[str, VisionEncoder]:
    """Load vision models by hub id or folder; the keys are the last parts of these.

    If anonymous, folders are called by `anonymous_name`. Raises ValueError where two
    last parts are the same, and OSError for what is no vision model.
    """
    ends = [Path(name).name for name in names]
    if len(set(ends)) < len(ends):
        raise ValueError(
            f"The other encoders {', '.join(names)} need names that end differently: "
            "they are called by their ends."
        )
    encoders = {end: VisionEncoder(name) for end, name in zip(ends, names, strict=True)}
    if not anonymous:
        return encoders
    return {Path(anonymous_name(e)).name: e for e in encoders.values()}
