"""Measure how far a frozen CLIP and light probes can sort one folder of images.

`measure` returns all evidence: the command line prints it, `cliplib.reports` makes a
page and a PDF of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
from tqdm.auto import tqdm

from cliplib.data.datasets import check_classes, load_dataset
from cliplib.data.wording import counted
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.vision import VisionEncoder
from cliplib.features.extract import load_features
from cliplib.features.table import FeatureTable
from cliplib.inspection.erase import Box
from cliplib.reports.elsewhere import check_shared_classes
from cliplib.reports.erasing import read_boxes
from cliplib.reports.evidence import Evidence, Request
from cliplib.reports.questions import LEAST_GROUPS, plan_evaluation

PER_IMAGE_STEPS = ("file_traces", "features_of_others", "images_elsewhere")
"""Parts of `Evidence` that are computed first, image by image, each with a bar."""
STEPS = (
    "audit",
    "traces",
    "predicted",
    "predicted_by_image",
    "other_predictions",
    "curve",
    "errors",
    "aid",
    "elsewhere",
    "erased",
    "verdict",
)
"""Parts that are computed then, with one bar."""


def measure(
    folder: str | os.PathLike[str],
    *,
    model: str = "",
    groups: str = "",
    others: Sequence[str] = (),
    elsewhere: str = "",
    boxes: str = "",
    limit: int = 0,
    seed: int = 0,
    anonymous: bool = False,
    command: str = "",
) -> Evidence:
    """Measure how far a frozen CLIP and light probes can sort a folder of images.

    Parameters
    ----------
    folder
        Of class folders, with or without train, val and test folders above them.
    model
        Hub id or folder of a CLIP; "" for the setting ``CLIPLIB_MODEL``, else "mini".
    groups
        A CSV file (file, group), or a regular expression with the group in its
        parentheses: what belongs together. "" for near-duplicates only.
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
        Of everything random.
    anonymous
        Call images by numbers, and models in folders by their fingerprint, in the
        verdict, in errors and in the decision aid.
    command
        What measures this again, for the verdict's next steps.

    Raises
    ------
    OSError
        If a folder or file is missing, or a model cannot be loaded.
    ValueError
        If the folder does not hold two classes of four images each that can be read,
        or groups, boxes or the other folder do not fit it.
    """
    request = Request(
        os.fspath(folder),
        model=model,
        groups=groups,
        others=others,
        elsewhere=elsewhere,
        boxes=boxes,
        limit=limit,
        seed=seed,
        anonymous=anonymous,
        command=command,
    )
    evidence = encode_folder(request)
    for part in PER_IMAGE_STEPS:
        getattr(evidence, part)  # asking computes it, and keeps it
    with tqdm(STEPS, "measure", unit="step") as bar:
        for step in bar:
            bar.set_postfix_str(step)
            getattr(evidence, step)
    return evidence


def encode_folder(request: Request) -> Evidence:
    """Check a request, encode its folder, and return the evidence on it.

    Parts of the evidence that are not given here are computed when they are first asked
    for. What can be refused before the encoding, which takes minutes, is refused first,
    with an OSError or ValueError; after it, too few images that could be read are.
    """
    place = os.path.abspath(request.folder)
    check_classes(place)
    if request.elsewhere:
        check_shared_classes(request.elsewhere, place)
    dataset = load_dataset(place)
    assert dataset is not None  # only a named data set could be missing
    check_number_of_images(dataset, request.folder)
    boxes = read_boxes(request.boxes, dataset["id"][:]) if request.boxes else {}
    others = load_other_encoders(request.others, anonymous=request.anonymous)
    encoder = ClipEncoder(request.model or None)
    if request.anonymous:
        encoder.name = anonymous_name(encoder)
    errors_by_id: dict[str, str] = {}  # filled with why an image cannot be read
    table = load_features(
        place,
        encoder,
        groups=request.groups or None,
        limit=request.limit,
        seed=request.seed,
        errors=errors_by_id,
    )
    unreadable = {file: _reason(error) for file, error in errors_by_id.items()}
    check_readable(table, unreadable)
    check_groups(request, table, boxes)
    plan = plan_evaluation(table)
    return Evidence(
        request=request,
        dataset=dataset,
        encoder=encoder,
        other_encoders=others,
        table=table,
        evaluation_table=plan.table,
        n_splits=plan.n_splits,
        groups_kept_apart=plan.groups_kept_apart,
        unreadable=unreadable,
        boxes=boxes,
    )


def _reason(error: str) -> str:
    """Return REASON of the error text "Cannot read the image 'PATH': REASON"."""
    return error.rsplit("': ", 1)[-1]


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
