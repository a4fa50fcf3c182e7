"""When a decision aid abstains: a threshold on confidence, and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.evaluation.calibration import risk_coverage
from cliplib.evaluation.intervals import clopper_pearson

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """How a decision aid fares on the images that set its rule.

    Attributes
    ----------
    images, answered, wrong
        How many there were, how many of these it answers, and how many answers are
        wrong.
    highest_risk
        The upper end of the exact interval of the share of wrong answers, each group
        being a trial; None where it answers nothing.
    """

    images: int = 0
    answered: int = 0
    wrong: int = 0
    highest_risk: float | None = None

    @classmethod
    def count(cls, is_answered: Bools, is_right: Bools, groups: Ints) -> HeldOut:
        """Count answers, (n,), and the groups that they are of, (n,)."""
        answered = int(is_answered.sum())
        wrong = int((is_answered & ~is_right).sum())
        highest_risk = None
        if answered:
            n_groups = len(set(groups[is_answered]))
            highest_risk = float(clopper_pearson(wrong / answered, n_groups)[1])
        return cls(len(is_answered), answered, wrong, highest_risk)

    def in_words(self) -> dict[str, float | None]:
        """Return the numbers by what a page calls them."""
        return {
            "held-out images, which set temperature and rule": self.images,
            "of these, answered": self.answered,
            "of the answers, wrong": self.wrong,
            "highest share of errors that so few answers allow": self.highest_risk,
        }


class Neighbours(NamedTuple):
    """Of n images the nearest training images: row numbers (n,) and cosines (n,)."""

    rows: Ints
    similarity: Floats


def choose_threshold(is_right: Bools, confidence: Floats, risk: float) -> float:
    """Choose the threshold on confidence that answers most images at an allowed risk.

    An image is answered if its `confidence` (n,) reaches the threshold; `is_right` (n,)
    says whether its answer is right. `risk` is the largest share of wrong answers, 0 to
    1. Where no threshold keeps to it, it is infinite, and a warning says so.
    """
    # A row for each different confidence: threshold, coverage and risk.
    curve = risk_coverage(is_right, confidence)
    allowed = curve[curve["risk"] <= risk]
    if allowed.empty:
        logger.warning(
            "The decision aid abstains on everything: give more images, or more risk."
        )
        return np.inf
    return float(allowed.loc[allowed["coverage"].idxmax(), "threshold"])


def abstention_reasons(is_uncertain: Bools, is_far: Bools) -> list[str]:
    """Return why the aid abstains on each of n images, "" where it does not."""
    is_so = {"uncertain": is_uncertain, "out-of-distribution": is_far}
    return [
        ", ".join(reason for reason in is_so if is_so[reason][row])
        for row in range(len(is_far))
    ]
