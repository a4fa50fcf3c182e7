"""Tests of a probe and a decision aid on external images, as from another camera."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cliplib.aids.decision_aid import DecisionAid
from cliplib.data.wording import counted
from cliplib.evaluation.intervals import Estimate, ratio_intervals, share_with_interval
from cliplib.evaluation.metrics import Evaluation, evaluate
from cliplib.features.duplicates import find_near_duplicates
from cliplib.features.encode import EncodedImages
from cliplib.probes.base import Probe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ExternalTest:
    """How accurate a probe and a decision aid are on external images.

    Attributes
    ----------
    name
        Name of the folder.
    left_out
        Number of files of the folder that were not judged, by reason.
    evaluation
        Evaluation of the probe's predictions.
    answered
        Share of images that the decision aid answers.
    wrong
        Share of these answers that are wrong.
    """

    name: str
    left_out: pd.Series
    evaluation: Evaluation
    answered: Estimate
    wrong: Estimate


def evaluate_external(
    internal: EncodedImages,
    external: EncodedImages,
    probe: Probe,
    aid: DecisionAid,
    *,
    copies: str | float = "near",
    seed: int = 0,
) -> ExternalTest:
    """Test a probe and a decision aid on the images of another folder.

    Unreadable files are left out, and named by a warning. Images of classes that have
    no internal images, and near-duplicates of internal images, are left out, too.

    Parameters
    ----------
    internal, external
        The training images, of whose classes alone images are tested; and the images of
        the other folder.
    probe, aid
        A probe and a decision aid, trained on the internal images in the same readout.
    copies
        Which pairs count as near-duplicates: see `find_near_duplicates`.
    seed
        Random seed of the bootstrap draws.

    Raises
    ------
    ValueError
        If images of fewer than two groups are left.
    """
    name = external.table.provenance["dataset"]
    for file, reason in external.unreadable.items():
        logger.warning("%s is left out of the images elsewhere: %s", file, reason)
    # Pairs of an internal row, index_a, and an external row, index_b.
    pairs = find_near_duplicates(internal.hashes, external.hashes, copies=copies)
    classes = internal.table.classes
    is_copy = np.isin(np.arange(len(external.table)), pairs["index_b"])
    is_of_known_class = np.isin(external.table.label_names, classes)
    left_out = pd.Series(
        {
            "cannot be read": len(external.unreadable),
            "are of a class that is not here": (~is_of_known_class).sum(),
            "are copies of images here": (is_of_known_class & is_copy).sum(),
        }
    )
    judged = external.table.select(is_of_known_class & ~is_copy)
    if len(set(judged.groups)) < 2:
        raise ValueError(
            f"Of {name}, {counted(len(judged), 'image')} can be judged: two at least "
            "must be of classes here, and no copies of images here or of each other."
        )
    labels = np.array([classes.index(name) for name in judged.label_names])
    features = judged.with_readout(aid.training.readout).features
    groups = judged.groups
    decisions = aid.decide(features)
    is_answered = ~decisions["abstained"].to_numpy(bool)
    is_error = is_answered & (decisions["class"].to_numpy() != judged.label_names)
    # Errors divided by answers, also in each bootstrap draw; NaN without answers.
    wrong = ratio_intervals({"share": is_error}, is_answered, groups=groups, seed=seed)
    return ExternalTest(
        name=name,
        left_out=left_out[left_out > 0],
        evaluation=evaluate(
            labels, probe.predict(features), classes, groups=groups, seed=seed
        ),
        answered=share_with_interval(is_answered, groups=groups, seed=seed),
        wrong=Estimate.of(wrong.loc["share"]),
    )
