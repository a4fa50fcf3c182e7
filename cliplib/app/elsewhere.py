"""Images from elsewhere, such as another camera or site, judged by the same probe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cliplib.app.decision_aid import DecisionAid
from cliplib.images.arrays import Bools
from cliplib.images.cache import FeatureCache, map_images
from cliplib.images.data import dataset_spec, load_dataset
from cliplib.images.image import ImageSource
from cliplib.judge.evaluation import Evaluation, evaluate
from cliplib.judge.intervals import Share, ratio_intervals
from cliplib.probes.saving import AnyProbe
from cliplib.tables.audit import find_near_duplicates, image_hash
from cliplib.tables.features import FeatureTable


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


def check_shared_classes(folder: str, home: str) -> None:
    """Raise ValueError where two folders have no class folder of the same name."""
    theirs = [*dataset_spec(os.path.abspath(folder)).phrases]
    ours = [*dataset_spec(os.path.abspath(home)).phrases]
    if not set(theirs) & set(ours):
        raise ValueError(
            f"{folder} holds the classes {', '.join(theirs)}, and none of "
            f"{', '.join(ours)}: its folders must have the same names."
        )


def judge_elsewhere(
    folder: str,
    table: FeatureTable,
    home: FeatureTable,
    home_images: Sequence[ImageSource],
    probe: AnyProbe,
    aid: DecisionAid,
    *,
    seed: int = 0,
) -> Elsewhere:
    """Test a probe and a decision aid on the images of another folder.

    Home are the n images that both were trained on. Images of classes that home does
    not have are left out, and near-duplicates of images at home.

    Parameters
    ----------
    folder
        The other one, of class folders.
    table
        Deep features of its images that can be read.
    home
        Features at home, in the readout that the probe reads.
    home_images
        The files at home, (n,).
    probe
        Fitted on all of `home`.
    aid
        A decision aid of the same encoder and readout.
    seed
        Of the bootstrap draws.

    Raises
    ------
    ValueError
        If nothing is left to judge.
    """
    place = os.path.abspath(folder)
    dataset = load_dataset(place)
    assert dataset is not None  # only a named data set could be missing
    class_names = np.array(table.classes)[table.labels]
    is_of_home_class = np.isin(class_names, home.classes)
    file_of = dict(zip(dataset["id"], dataset["image"], strict=True))
    images = [file_of[image_id] for image_id in table.ids]
    is_copy = _are_copies(images, home_images, aid.encoder.cache)
    left_out = pd.Series(
        {
            "cannot be read": len(dataset) - len(table),
            "are of a class that is not here": (~is_of_home_class).sum(),
            "are copies of images here": (is_of_home_class & is_copy).sum(),
        }
    )
    judged = table.select(is_of_home_class & ~is_copy).with_readout(home.readout)
    if not len(judged):
        raise ValueError(f"Nothing of {folder} can be judged: all images are copies.")
    # Each folder numbers its own classes: labels become numbers of those at home.
    labels = [home.classes.index(judged.classes[label]) for label in judged.labels]
    judged = replace(judged, labels=np.array(labels, np.int64), classes=home.classes)
    answered, wrong = _shares_of_aid(aid, judged, seed)
    return Elsewhere(
        name=Path(place).name,
        table=judged,
        left_out=left_out[left_out > 0],
        evaluation=evaluate(
            judged.labels,
            np.asarray(probe.predict(judged.features)),
            judged.classes,
            groups=judged.groups,
            seed=seed,
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
    pairs = find_near_duplicates(home_hashes, hashes)
    return np.isin(np.arange(len(images)), pairs["index_b"])


def _shares_of_aid(
    aid: DecisionAid, table: FeatureTable, seed: int
) -> tuple[Share, Share]:
    """Return the share of a table's images that an aid answers, and that of its errors.

    The latter is the share of the answers that are wrong.
    """
    decisions = aid.decide(table.features)
    is_answered = ~decisions["abstained"].to_numpy(bool)
    is_wrong = decisions["class"].to_numpy() != np.array(table.classes)[table.labels]
    answered = ratio_intervals(
        {"answered": is_answered}, groups=table.groups, seed=seed
    )
    wrong = ratio_intervals(
        {"wrong": is_answered & is_wrong}, is_answered, groups=table.groups, seed=seed
    )
    return Share.of(answered.loc["answered"]), Share.of(wrong.loc["wrong"])
