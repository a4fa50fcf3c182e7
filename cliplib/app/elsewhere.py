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
from cliplib.images.cache import map_images
from cliplib.images.data import dataset_spec, load_dataset
from cliplib.images.image import ImageSource
from cliplib.judge.evaluation import Evaluation, evaluate
from cliplib.judge.intervals import Share, ratio_intervals
from cliplib.probes.saving import AnyProbe
from cliplib.tables.audit import find_near_duplicates, image_hash
from cliplib.tables.features import FeatureTable


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What a probe that was trained at home makes of images from elsewhere.

    Attributes
    ----------
    name
        Of the folder.
    table
        The images that were judged, none a near-duplicate of one at home.
    left_out
        By reason, how many were not judged.
    found
        Accuracy and what is found of each class.
    answered
        Share of images that the decision aid answers.
    wrong
        Share of these answers that are wrong.
    """

    name: str
    table: FeatureTable
    left_out: pd.Series
    found: Evaluation
    answered: Share
    wrong: Share


def check_shared_classes(folder: str, home: str) -> None:
    """Raise ValueError for a folder without images of any class of another one."""
    theirs = [*dataset_spec(os.path.abspath(folder)).phrases]
    ours = [*dataset_spec(os.path.abspath(home)).phrases]
    if not set(theirs) & set(ours):
        raise ValueError(
            f"{folder} holds the classes {', '.join(theirs)}, and none of "
            f"{', '.join(ours)}: its folders must have the same names."
        )


def judge_elsewhere(
    folder: str,
    everything: FeatureTable,
    home: FeatureTable,
    home_images: Sequence[ImageSource],
    probe: AnyProbe,
    aid: DecisionAid,
    *,
    seed: int = 0,
) -> Elsewhere:
    """Judge the images of another folder by what was trained on this one.

    Parameters
    ----------
    folder
        Of class folders.
    everything
        Its images that can be read; those of classes that home does not know are left
        out.
    home
        The images that the probe was trained on, in its readout.
    home_images
        Their files, (n,): near-duplicates of these are left out.
    probe
        Fitted on all of `home`.
    aid
        A decision aid of this encoder and readout.
    seed
        Of the intervals.

    Raises
    ------
    ValueError
        If nothing is left to judge.
    """
    place = os.path.abspath(folder)
    dataset = load_dataset(place)
    assert dataset is not None  # it is a folder
    classes = np.array(everything.classes)[everything.labels]
    is_known = np.isin(classes, home.classes)
    files = dict(zip(dataset["id"], dataset["image"], strict=True))
    images = [files[name] for name in everything.ids]
    is_copy = _are_copies(images, home_images, aid)
    left_out = {
        "cannot be read": len(dataset) - len(everything),
        "are of a class that is not here": (~is_known).sum(),
        "are copies of images here": (is_known & is_copy).sum(),
    }
    away = everything.select(np.flatnonzero(is_known & ~is_copy))
    if not len(away):
        raise ValueError(f"Nothing of {folder} can be judged: all images are copies.")
    away = away.with_readout(home.readout)
    labels = [home.classes.index(away.classes[label]) for label in away.labels]
    return _judged(
        Path(place).name,
        replace(away, labels=np.array(labels, np.int64), classes=home.classes),
        pd.Series(left_out),
        probe,
        aid,
        seed,
    )


def _are_copies(
    images: Sequence[ImageSource], home_images: Sequence[ImageSource], aid: DecisionAid
) -> Bools:
    """Say which images are near-duplicates of one at home, (n,)."""
    cache = aid.encoder.cache
    (ours,) = map_images(home_images, image_hash, cache=cache)
    (theirs,) = map_images(images, image_hash, cache=cache)
    pairs = find_near_duplicates(ours, theirs)
    return np.isin(np.arange(len(images)), pairs["index_b"])


def _judged(
    name: str,
    away: FeatureTable,
    left_out: pd.Series,
    probe: AnyProbe,
    aid: DecisionAid,
    seed: int,
) -> Elsewhere:
    said = np.asarray(probe.predict(away.features))
    answered = ~aid.decide(away.features)["abstained"].to_numpy(bool)
    wrong = answered & (aid.predict_proba(away.features).argmax(axis=1) != away.labels)
    shares = ratio_intervals({"answered": answered}, groups=away.groups, seed=seed)
    errors = ratio_intervals({"wrong": wrong}, answered, groups=away.groups, seed=seed)
    return Elsewhere(
        name=name,
        table=away,
        left_out=left_out[left_out > 0],
        found=evaluate(away.labels, said, away.classes, groups=away.groups, seed=seed),
        answered=Share.of(shares.loc["answered"]),
        wrong=Share.of(errors.loc["wrong"]),
    )
