"""Images from elsewhere, such as another camera or site, judged by the same probe."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from cliplib.data.arrays import Bools
from cliplib.data.cache import FeatureCache, map_images
from cliplib.data.datasets import load_dataset
from cliplib.data.image import ImageSource
from cliplib.data.wording import counted, listing
from cliplib.encoders.encoder import Encoder
from cliplib.evaluation.intervals import Share, ratio_intervals
from cliplib.evaluation.metrics import Evaluation, evaluate
from cliplib.features.duplicates import find_near_duplicates
from cliplib.features.extract import encode
from cliplib.features.hashes import image_hash
from cliplib.features.table import FeatureTable
from cliplib.probes.saving import AnyProbe
from cliplib.reports.decision_aid import DecisionAid

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """How a probe and a decision aid fare on images from elsewhere.

    Home are the images that both were trained on.

    Attributes
    ----------
    name
        Of the folder.
    table
        The images that were judged, with the classes of home; none is a near-duplicate
        of an image at home.
    left_out
        By reason, how many files of the folder were not judged.
    evaluation
        Of the probe's answers.
    answered
        Share of images that the decision aid answers.
    wrong
        Share of these answers that are wrong.
    """

    name: str
    table: FeatureTable
    left_out: pd.Series
    evaluation: Evaluation
    answered: Share
    wrong: Share


def check_shared_classes(folder: str, home: datasets.Dataset) -> None:
    """Raise ValueError where a folder and images at home share no class."""
    theirs = load_dataset(folder).features["label"].names
    ours = home.features["label"].names
    if not set(theirs) & set(ours):
        raise ValueError(
            f"{folder} holds the classes {', '.join(theirs)}, and none of "
            f"{', '.join(ours)}: its folders must have the same names."
        )


class ImagesElsewhere(NamedTuple):
    """The images of another folder that can be judged, and what of it cannot be."""

    name: str
    table: FeatureTable
    left_out: pd.Series


def images_elsewhere(
    folder: str,
    home: FeatureTable,
    home_images: Sequence[ImageSource],
    encoder: Encoder,
) -> ImagesElsewhere:
    """Encode another folder, and choose its images that can be judged.

    Left out are files that cannot be read, which a warning names, images of classes
    that home does not have, and near-duplicates of images at home.

    Parameters
    ----------
    folder
        The other one, of class folders.
    home
        The table of the images here, whose classes count.
    home_images
        The files of its rows, (n,).
    encoder
        The one that made it.

    Raises
    ------
    ValueError
        If images of fewer than two groups are left.
    """
    place = os.path.abspath(folder)
    errors_by_id: dict[str, str] = {}  # filled with why an image cannot be read
    table = encode(place, encoder, errors=errors_by_id)
    for error in errors_by_id.values():
        logger.warning("%s It is left out of the images elsewhere.", error)
    dataset = load_dataset(place)  # all its files, also those that cannot be read
    file_of = dict(zip(dataset["id"], dataset["image"], strict=True))
    images = [file_of[image_id] for image_id in table.ids]
    is_copy = _are_copies(images, home_images, encoder.cache)
    class_names = np.array(table.classes)[table.labels]
    is_of_home_class = np.isin(class_names, home.classes)
    unknown = sorted(set(class_names[~is_of_home_class]))
    if unknown:  # named here alone: what is given away shall not tell them
        logger.warning(
            "Left out of the images elsewhere, since there is no such class here: %s.",
            listing(unknown),
        )
    left_out = pd.Series(
        {
            "cannot be read": len(errors_by_id),
            "are of a class that is not here": (~is_of_home_class).sum(),
            "are copies of images here": (is_of_home_class & is_copy).sum(),
        }
    )
    judged = table.select(is_of_home_class & ~is_copy)
    if len(set(judged.groups)) < 2:
        raise ValueError(
            f"Of {folder}, {counted(len(judged), 'image')} can be judged: two at least "
            "are needed that can be read, are of the same classes as those here, and "
            "are copies neither of these nor of each other."
        )
    return ImagesElsewhere(
        Path(place).name, _with_classes(judged, home.classes), left_out[left_out > 0]
    )


def judge_elsewhere(
    there: ImagesElsewhere,
    probe: AnyProbe,
    aid: DecisionAid,
    *,
    seed: int = 0,
) -> Elsewhere:
    """Test a probe and a decision aid on the images of another folder.

    Both were trained on the images here, in the same readout. The seed is that of the
    bootstrap draws.
    """
    table = there.table.with_readout(aid.training.readout)
    predicted = np.asarray(probe.predict(table.features))
    answered, wrong = _shares_of_aid(aid, table, seed)
    return Elsewhere(
        name=there.name,
        table=table,
        left_out=there.left_out,
        evaluation=evaluate(
            table.labels, predicted, table.classes, groups=table.groups, seed=seed
        ),
        answered=answered,
        wrong=wrong,
    )


def _are_copies(
    images: Sequence[ImageSource],
    home_images: Sequence[ImageSource],
    cache: FeatureCache | None,
) -> Bools:
    """Tell which images, (n,), are near-duplicates of one of the images at home."""
    (home_hashes,) = map_images(home_images, image_hash, cache=cache)
    (hashes,) = map_images(images, image_hash, cache=cache)
    # Pairs of a row of the first and a row of the second: index_a and index_b.
    pairs = find_near_duplicates(home_hashes, hashes)
    return np.isin(np.arange(len(images)), pairs["index_b"])


def _with_classes(table: FeatureTable, classes: tuple[str, ...]) -> FeatureTable:
    """Return a table whose labels are indices into other classes, by equal names."""
    labels = [classes.index(table.classes[label]) for label in table.labels]
    return replace(table, labels=np.array(labels, np.int64), classes=classes)


def _shares_of_aid(
    aid: DecisionAid, table: FeatureTable, seed: int
) -> tuple[Share, Share]:
    """Return two shares: of a table's images those answered, and of these those wrong.

    Each has its 95% interval; where the aid answers nothing, the second is NaN.
    """
    decisions = aid.decide(table.features)
    is_answered = ~decisions["abstained"].to_numpy(bool)
    class_names = np.array(table.classes)[table.labels]
    is_error = is_answered & (decisions["class"].to_numpy() != class_names)
    groups = table.groups
    answered = ratio_intervals({"share": is_answered}, groups=groups, seed=seed)
    # Divided by the number of answers, in each bootstrap draw as well.
    wrong = ratio_intervals({"share": is_error}, is_answered, groups=groups, seed=seed)
    return Share.of(answered.loc["share"]), Share.of(wrong.loc["share"])
