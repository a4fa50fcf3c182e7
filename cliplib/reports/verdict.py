"""The verdict on one folder of images: a word, a sentence, a table of five rows.

All its rules and thresholds are here and in `data_warnings`.
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
from cliplib.reports.data_warnings import FAIR_ACCURACY, DataWarning, find_warnings
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
# Smallest good accuracy; for "Yes", the lower end of the interval must reach it.
GOOD_ACCURACY = 0.9
# Smallest useful gain in accuracy over chance; "No" if the interval excludes it.
USEFUL_GAIN = 0.1
# Fewest groups of each class for "Yes".
ENOUGH_OF_A_CLASS = 20
# Half the width that the interval of a class's sensitivity should have: ten points.
WANTED_HALF_WIDTH = 0.1


@dataclass(frozen=True, eq=False)
class Verdict:
    """A word, the warnings that limit it, a sentence, a table and what to do next.

    Attributes
    ----------
    word
        One of `WORDS`.
    warnings
        All warnings, the most severe first.
    sentence
        How many new images should come out right, and on what condition.
    compared
        "accuracy" and "balanced" accuracy, `Estimate`s, of up to five methods: the best
        probe, always the largest class, the strongest shortcut, the names of the
        classes, and the best probe on images of another folder.
    steps
        What to do next: "text", and the "command" that does it, "" for none.
    """

    word: str
    warnings: Sequence[DataWarning]
    sentence: str
    compared: pd.DataFrame
    steps: Sequence[Mapping[str, str]]

    def fails(self, threshold: str) -> bool:
        """Tell whether any warning reaches this threshold; none reaches "never"."""
        return any(threshold in warning.thresholds for warning in self.warnings)

    def __str__(self) -> str:
        """Return the verdict as text, 88 wide; commands, to be copied, are one line."""
        return TEMPLATES.get_template("verdict.txt").render(vars(self)).rstrip()


def verdict(findings: Findings) -> Verdict:
    """Judge the findings on a folder of images by fixed rules."""
    results = findings.results
    warnings = find_warnings(findings)
    fewest_groups = min(findings.images.groups_per_class.values())
    allowed_words = [word_by_accuracy(results, fewest_groups)]
    allowed_words += [warning.strongest_word for warning in warnings]
    word = min(allowed_words, key=WORDS.index)  # the one that claims least
    return Verdict(
        word=word,
        warnings=warnings,
        sentence=sentence(word, results, warnings, findings.grouping),
        compared=compared(findings),
        steps=next_steps(findings, word),
    )


def word_by_accuracy(results: MethodComparison, fewest_groups: int) -> str:
    """Return the strongest word that the accuracy allows, without any warnings.

    The lower of accuracy and balanced accuracy counts, so that a large class cannot
    hide errors in the others. `fewest_groups` is the number of groups of the rarest
    class.
    """
    balanced = results.evaluation.estimate("balanced_accuracy")
    if not beats_chance(results):
        useful_accuracy = 1 / len(results.table.classes) + USEFUL_GAIN
        return "Not shown" if balanced.high >= useful_accuracy else "No"
    accuracy = min(results.evaluation.estimate("accuracy"), balanced)
    if accuracy.value < FAIR_ACCURACY:
        return "Only in part"
    if accuracy.value < GOOD_ACCURACY:
        return "Mostly"
    is_sure = accuracy.low >= GOOD_ACCURACY and fewest_groups >= ENOUGH_OF_A_CLASS
    return "Yes" if is_sure else "Probably"


def beats_chance(results: MethodComparison) -> bool:
    """Tell whether the best probe does better than chance, beyond doubt.

    Either the balanced accuracy must exceed its chance level, 1 / k for k classes, or
    the area under the ROC curve must exceed 0.5. Neither rewards naming a large class.
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
    """Say how many new images should come out right, and under which conditions."""
    metric = "balanced_accuracy" if word in ("No", "Not shown") else "accuracy"
    accuracy = results.evaluation.estimate(metric)
    low, high = right_of_new(accuracy, 100)
    conditions = [warning.condition for warning in warnings if warning.condition]
    return filled(
        read_texts("verdict.toml")["sentence"],
        word=word,
        share=accuracy.value,
        low=low,
        high=high,
        chance=1 / len(results.table.classes),
        conditions=conditions,
        declared=grouping.declared,
    )


def right_of_new(share: Estimate, n: int) -> tuple[int, int]:
    """Return a 95% prediction interval for the number of right answers of n new images.

    The number is beta-binomial: binomial for a given share of right answers, and this
    share has a beta distribution with the centre and width of the interval of `share`
    (Meeker, Hahn and Escobar, Statistical Intervals, 2nd ed. 2017, chapter 6).
    """
    mean = (share.low + share.high) / 2
    # The interval has no width where all groups have the same share of right answers.
    deviation = max((share.high - share.low) / (2 * NORMAL_QUANTILE), 1e-4)
    # The sum of the beta distribution's parameters, which follows from its mean and
    # variance: about the number of independent images that give such an interval.
    effective_n = mean * (1 - mean) / deviation**2 - 1
    n_right = betabinom(n, mean * effective_n, (1 - mean) * effective_n)
    low, high = n_right.interval(0.95)
    return int(low), int(high)


def compared(findings: Findings) -> pd.DataFrame:
    """Return the accuracy of the best probe, and of what to compare it with."""
    results = findings.results
    rows = {
        f"this classifier ({results.best})": _accuracies(results.evaluation),
        "always the largest class": _accuracies(results.evaluations[LARGEST]),
    }
    shortcut = strongest(findings.shortcuts)
    if shortcut is not None:
        rows[f"no object: {shortcut.name}"] = [shortcut.accuracy, shortcut.balanced]
    zero_shot = results.evaluations[ZERO_SHOT]
    rows["the names of the classes alone"] = _accuracies(zero_shot)
    external = findings.external
    if external is not None:
        rows[f"elsewhere: {external.name}"] = _accuracies(external.evaluation)
    columns = ["accuracy", "balanced"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _accuracies(evaluation: Evaluation) -> list[Estimate]:
    """Return accuracy and balanced accuracy."""
    return [evaluation.estimate("accuracy"), evaluation.estimate("balanced_accuracy")]


def next_steps(findings: Findings, word: str) -> list[dict[str, str]]:
    """Return what to do next: declare groups, try a larger CLIP, collect images.

    More groups are needed of the class with the lowest sensitivity, unless that is
    good: as many as make its interval ten points wide to each side.
    """
    name = findings.results.least_found
    sensitivity = findings.results.sensitivity[name]
    n_groups = findings.images.groups_per_class[name]
    # By the normal approximation of the binomial, 1.96² p (1 - p) / 0.1².
    variance = sensitivity.value * (1 - sensitivity.value)
    n_needed = NORMAL_QUANTILE**2 * variance / WANTED_HALF_WIDTH**2
    n_more = math.ceil(n_needed) - n_groups
    if word == "No" or sensitivity.value >= GOOD_ACCURACY:
        n_more = 0
    variables = {"f": findings, "name": name, "found": sensitivity}
    variables |= {"n_groups": n_groups, "n_more": n_more}
    steps = []
    for step in read_texts("verdict.toml")["steps"]:
        text = filled(step["text"], **variables)
        command = TEMPLATES.from_string(step.get("command", ""))
        if text:
            steps.append({"text": text, "command": command.render(variables)})
    return steps
