"""The verdict on one folder of images: a word, a sentence, a table of five rows.

All rules, and all thresholds that they use, stand here and in `data_warnings`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import betabinom

from cliplib.evaluation.intervals import NORMAL_QUANTILE, Estimate
from cliplib.evaluation.metrics import Evaluation
from cliplib.inspection.shortcuts import strongest
from cliplib.reports.data_warnings import (
    FAIR_ACCURACY,
    DataWarning,
    find_warnings,
)
from cliplib.reports.findings import Findings, Grouping
from cliplib.reports.methods import LARGEST, ZERO_SHOT, MethodComparison
from cliplib.reports.templates import TEMPLATES, filled, read_texts

# From the word that claims least to the one that claims most.
WORDS = (
    "Cannot be said",
    "No",
    "Not shown",
    "Perhaps",
    "Only in part",
    "Mostly",
    "Probably",
    "Yes",
)
# Images are sorted well where the lower end of the accuracy's interval reaches it.
GOOD_ACCURACY = 0.9
# Over chance: unless it is excluded, the answer is not "No".
USEFUL_GAIN = 0.1
# Groups of each class without which the word is not "Yes".
ENOUGH_OF_A_CLASS = 20
# Of the interval of a class's sensitivity, ten points to each side.
WANTED_HALF_WIDTH = 0.1


@dataclass(frozen=True, eq=False)
class Verdict:
    """A word, what limits it, one sentence, a table of five rows, and what to do next.

    Attributes
    ----------
    word
        One of `WORDS`.
    warnings
        The most severe first.
    sentence
        What new images can expect, and on what condition.
    compared
        By method accuracy and balanced accuracy, as `Estimate`s: of the best probe, the
        largest class, the strongest shortcut, the names of the classes, and in another
        folder if one is named.
    steps
        What to do next, each with text and command, which is "" where none does it.
    """

    word: str
    warnings: Sequence[DataWarning]
    sentence: str
    compared: pd.DataFrame
    steps: Sequence[Mapping[str, str]]

    def fails(self, threshold: str) -> bool:
        """Tell whether a warning has this id, or is so severe; never at "never"."""
        return any(threshold in warning.thresholds for warning in self.warnings)

    def __str__(self) -> str:
        """Return all of it as text, 88 wide; a command, to be copied, is one line."""
        return TEMPLATES.get_template("verdict.txt").render(vars(self)).rstrip()


def verdict(findings: Findings) -> Verdict:
    """Judge what was found out about a folder of images, by fixed rules."""
    results = findings.results
    warnings = find_warnings(findings)
    groups_per_class = findings.images.groups_per_class
    allowed = [word_by_accuracy(results, min(groups_per_class.values()))]
    allowed += [warning.strongest_word for warning in warnings]
    word = min(allowed, key=WORDS.index)
    return Verdict(
        word=word,
        warnings=warnings,
        sentence=sentence(word, results, warnings, findings.grouping),
        compared=compared(findings),
        steps=next_steps(findings, word),
    )


def word_by_accuracy(results: MethodComparison, fewest_groups: int) -> str:
    """Return the word that the accuracy allows, whatever else limits it.

    The lower of accuracy and balanced accuracy counts, so that a large class cannot
    carry the others. `fewest_groups` is the number of groups of the rarest class.
    """
    balanced = results.evaluation.estimate("balanced_accuracy")
    if not beats_chance(results):
        useful = 1 / len(results.table.classes) + USEFUL_GAIN
        return "Not shown" if balanced.high >= useful else "No"
    accuracy = min(results.evaluation.estimate("accuracy"), balanced)
    if accuracy.value < FAIR_ACCURACY:
        return "Only in part"
    if accuracy.value < GOOD_ACCURACY:
        return "Mostly"
    is_sure = accuracy.low >= GOOD_ACCURACY and fewest_groups >= ENOUGH_OF_A_CLASS
    return "Yes" if is_sure else "Probably"


def beats_chance(results: MethodComparison) -> bool:
    """Tell whether the best probe is shown to do better than chance.

    By balanced accuracy, whose chance is 1 / k of k classes, or by the area under the
    ROC curve, whose chance is a half: neither rewards naming a large class.
    """
    balanced = results.evaluation.estimate("balanced_accuracy")
    area = results.evaluation.estimate("auroc")
    return balanced.low > 1 / len(results.table.classes) or area.low > 0.5


def sentence(
    word: str,
    results: MethodComparison,
    warnings: Sequence[DataWarning],
    grouping: Grouping,
) -> str:
    """Say in one sentence what new images can expect, and on what condition."""
    metric = "balanced_accuracy" if word in ("No", "Not shown") else "accuracy"
    share = results.evaluation.estimate(metric)
    low, high = right_of_new(share, 100)
    conditions = [warning.condition for warning in warnings if warning.condition]
    return filled(
        read_texts("verdict.toml")["sentence"],
        word=word,
        share=share.value,
        low=low,
        high=high,
        chance=1 / len(results.table.classes),
        conditions=conditions,
        declared=grouping.declared,
    )


def right_of_new(share: Estimate, n: int) -> tuple[int, int]:
    """Return how many of n new images come out right in 95% of such samples.

    Beside what is not known of the share, n images vary by chance: their number is
    beta-binomial where a beta distribution has the middle and the width of the share's
    interval (Meeker, Hahn and Escobar, Statistical Intervals, 2nd ed. 2017, chapter 6).
    """
    mean = (share.low + share.high) / 2
    # Where every group has the same share right, the interval has no width.
    deviation = max((share.high - share.low) / (2 * NORMAL_QUANTILE), 1e-4)
    # The parameters of a beta distribution add up to mean (1 - mean) / variance - 1: to
    # about the number of independent images that would tell as much.
    effective_n = mean * (1 - mean) / deviation**2 - 1
    n_right = betabinom(n, mean * effective_n, (1 - mean) * effective_n)
    low, high = n_right.interval(0.95)
    return int(low), int(high)


def compared(findings: Findings) -> pd.DataFrame:
    """Return the verdict's table: the best probe, and what to compare it with."""
    results = findings.results
    rows = {
        f"this classifier ({results.best})": _accuracies(results.evaluation),
        "always the largest class": _accuracies(results.evaluations[LARGEST]),
    }
    shortcut = strongest(findings.shortcuts)
    if shortcut is not None:
        rows[f"no object: {shortcut.name}"] = [shortcut.accuracy, shortcut.balanced]
    by_names = results.evaluations[ZERO_SHOT]
    rows["the names of the classes alone"] = _accuracies(by_names)
    if findings.external is not None:
        external = findings.external
        rows[f"elsewhere: {external.name}"] = _accuracies(external.evaluation)
    columns = ["accuracy", "balanced"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _accuracies(evaluation: Evaluation) -> list[Estimate]:
    return [evaluation.estimate("accuracy"), evaluation.estimate("balanced_accuracy")]


def next_steps(findings: Findings, word: str) -> list[dict[str, str]]:
    """Return what to do next: declare groups, try a larger CLIP, collect images.

    What to collect is of the class that is found least, unless that is found well: as
    many groups more as it takes to know the share that is found to ten points.
    """
    name = findings.results.least_found
    found = findings.results.sensitivity[name]
    n_groups = findings.images.groups_per_class[name]
    # By the normal approximation of the binomial, 1.96² p (1 - p) / 0.1².
    variance = found.value * (1 - found.value)
    wanted = NORMAL_QUANTILE**2 * variance / WANTED_HALF_WIDTH**2
    n_more = math.ceil(wanted) - n_groups
    if word == "No" or found.value >= GOOD_ACCURACY:
        n_more = 0
    values = {"f": findings, "name": name, "found": found}
    values |= {"n_groups": n_groups, "n_more": n_more}
    steps = []
    for step in read_texts("verdict.toml")["steps"]:
        text = filled(step["text"], **values)
        command = TEMPLATES.from_string(step.get("command", ""))
        if text:
            steps.append({"text": text, "command": command.render(values)})
    return steps
