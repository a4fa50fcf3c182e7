"""The verdict on one folder of images: from numbers to sentences, by rules.

All rules, and all thresholds that they use, stand here. No sentence says more than its
interval allows; where the images are too few, the verdict says that it cannot say.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import fill
from typing import NamedTuple

from cliplib.data.wording import (
    counted,
    listing,
    percent,
    points,
    whole_percent,
)
from cliplib.evaluation.intervals import Share

FEW_GROUPS = 10
"""With fewer groups altogether nothing is decided: they say little of others."""
FEW_OF_A_CLASS = 5
"""With fewer groups of a class neither: they cannot be tested in five folds."""
GOOD_ACCURACY = 0.9
"""Images are sorted well where the lower end of the accuracy's interval reaches it."""
FAIR_ACCURACY = 0.7
"""They are sorted with errors where the accuracy itself reaches it."""
NEGLIGIBLE_GAIN = 0.02
"""Two points: nobody would label more images for that."""
USEFUL_GAIN = 0.1
"""Over the largest class: unless it is excluded, the answer is not "no"."""
WANTED_HALF_WIDTH = 0.1
"""Of the interval of a class's sensitivity, ten points to each side."""
WEAK_CLASS_GAP = 0.1
"""A class is weak whose sensitivity is this much below the accuracy."""
RISK = 0.05
"""Share of errors among the answers that the decision aid aims at."""
MOST_FILES = 4
"""So many files are named within a sentence."""
LARGEST = "always the largest class"
ZERO_SHOT = "zero-shot"
TRACES = "file traces"
BRIGHTNESS = "brightness"
"""Names of the methods that read no features of the images, or no labels."""
TRACE_NAMES = {
    "size": "the size",
    "colour mode": "format and colour mode",
    "quantisation": "JPEG's quantisation",
    "texture": "bytes a pixel, which texture raises as well",
    "border": "brightness of the border",
    "brightness": "brightness",
}
"""What sentences call the kinds of `cliplib.inspection.traces.TRACE_COLUMNS`."""
OPENAI = "openai/clip-vit-base-patch32"
"""The CLIP to set beside the small embedded one: 150 million parameters."""


class ElsewhereNumbers(NamedTuple):
    """How the best classifier fares on images of another folder, of this name."""

    name: str
    n_images: int
    left_out: Mapping[str, int]
    """By reason, how many files of the folder were not judged."""
    accuracy: Share
    balanced: Share
    """Mean sensitivity of the classes that occur there."""
    balanced_here: Share
    """The same, of the same classes, on the images here."""
    answered: Share
    """Share of the images that the decision aid answers."""
    wrong: Share
    """Share of its answers that are wrong."""


class AidNumbers(NamedTuple):
    """How the decision aid fares on the images on which its rule was chosen."""

    n_images: int
    n_answered: int
    n_wrong: int
    """Of the answers."""
    highest_risk: float | None
    """Share of errors at the upper end of its 95% interval; None without answers."""


class ErasedNumbers(NamedTuple):
    """How the best classifier fares on images whose object is erased."""

    n_images: int
    accuracy: Share
    loss: Share
    """Accuracy on the whole images less this one."""
    control_loss: Share | None
    """The same where as much of the other side is erased; None if it never can be."""


@dataclass(frozen=True)
class Measured:
    """What the verdict rests on.

    Attributes
    ----------
    encoder
        The CLIP's name; "mini" is the embedded one.
    command
        What measured all this, for the next steps to add an option to.
    n_images
        How many were measured.
    n_groups
        How many groups these are, such as photographs, patients, objects.
    groups_per_class
        By class, in how many groups it occurs.
    groups_declared
        Whether somebody has declared groups; else they are near-duplicates.
    groups_kept_apart
        Whether no group was in training and test at once; False where a class has too
        few groups for that, and near-duplicates alone were kept apart.
    series_pattern
        The pattern that file names suggest; "" where they suggest none.
    example_series
        Names of files that this pattern would keep together, for an example.
    strongest_trace
        The trace of the files by which alone the accuracy is highest: a key of
        `TRACE_NAMES`.
    best
        The best of the trained classifiers.
    simplest
        The simplest of those classifiers that read the same features as the best, a
        linear probe; it may be the best itself.
    largest_class
        The largest class.
    accuracy
        By method, on groups not trained on: the trained ones, "zero-shot",
        "file traces" and "always the largest class".
    gains
        By other method: accuracy of the best less that of the other, on the same
        images. By other encoder: accuracy of the linear probe on CLIP's pooled features
        less that of the linear probe on the other's.
    gain_by_leakage
        Accuracy of the best where images of a group are in training and test at once,
        less its accuracy by group; None where each image is its own group.
    sensitivity
        By class, the share of it that the best finds.
    gain_by_doubling
        Accuracy with all labelled groups less that with half; None if not measured.
    target, growth_factor
        An accuracy beyond today's (1 if there is none to aim at), and the factor by
        which today's groups have to grow for it; None where that cannot be said.
    suspects
        Names of the images whose labels look wrong, the worst first.
    n_label_conflicts
        How many pairs of copies bear two labels.
    n_unreadable
        How many files could not be read.
    n_merged_groups
        How many pairs of declared groups are joined by copies.
    coverage
        Share of the images that can be answered with at most 5% errors; 0 if none.
    aid
        Numbers of the decision aid.
    other_encoders
        Names of the encoders beside CLIP, as `accuracy` and `gains` have them.
    elsewhere
        Numbers of another folder; None if none is named.
    erased
        Numbers of images without their object; None if there are no boxes.
    """

    encoder: str
    command: str
    n_images: int
    n_groups: int
    groups_per_class: Mapping[str, int]
    groups_declared: bool
    groups_kept_apart: bool
    series_pattern: str
    example_series: Sequence[str]
    strongest_trace: str
    best: str
    simplest: str
    largest_class: str
    accuracy: Mapping[str, Share]
    gains: Mapping[str, Share]
    gain_by_leakage: Share | None
    sensitivity: Mapping[str, Share]
    gain_by_doubling: Share | None
    target: float
    growth_factor: Share | None
    suspects: Sequence[str]
    n_label_conflicts: int
    n_unreadable: int
    n_merged_groups: int
    coverage: float
    aid: AidNumbers
    other_encoders: Sequence[str] = ()
    elsewhere: ElsewhereNumbers | None = None
    erased: ErasedNumbers | None = None


class Step(NamedTuple):
    """What to do next, and the command that does it, "" where there is none."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Verdict:
    """An answer in a few words, a paragraph that gives reasons, and what to do next."""

    answer: str
    reasons: Sequence[str]
    steps: Sequence[Step]

    def __str__(self) -> str:
        """Return all of it as text, 88 wide; a command, to be copied, is one line."""
        lines = [fill(f"{self.answer} {' '.join(self.reasons)}", 88)]
        if self.steps:
            lines += ["", "What to do next:"]
        for step in self.steps:
            lines.append(fill(f"- {step.text}", 88, subsequent_indent="  "))
            if step.command:
                lines.append(f"      {step.command}")
        return "\n".join(lines)


def verdict(measured: Measured) -> Verdict:
    """Turn numbers into an answer, its reasons and next steps, by fixed rules.

    A sentence that does not apply is "", and a step None: both are left out. Where no
    gain over the largest class is shown, the only reasons are the accuracy and what
    divided groups would add to it, and the only steps are a larger encoder, more images
    if these may have been too few, and a look at what is wrong with the files.
    """
    reasons: list[str] = [*reasons_undecided(measured), accuracy_sentence(measured)]
    steps: list[Step | None] = []
    if sorts_nothing(measured):
        without_suspects = replace(measured, suspects=[])  # its doubts mean nothing
        reasons.append(leakage_sentence(measured))
        steps = [suggest_larger_encoder(measured), check_labels(without_suspects)]
        if may_gain(measured):
            steps.insert(1, suggest_more_images(measured))
    else:
        reasons += [
            file_traces_sentence(measured),
            brightness_sentence(measured),
            zero_shot_sentence(measured),
            leakage_sentence(measured),
            more_labels_sentence(measured),
            abstention_sentence(measured),
            aid_sentence(measured),
            elsewhere_sentence(measured),
            erasing_sentence(measured),
        ]
        steps = [
            declare_groups(measured),
            recommend_classifier(measured),
            recommend_encoder(measured),
            suggest_larger_encoder(measured),
            suggest_more_images(measured),
            check_labels(measured),
        ]
    return Verdict(
        short_answer(measured),
        [reason for reason in reasons if reason],
        [step for step in steps if step],
    )


def name_encoder(measured: Measured) -> str:
    """Name the encoder in a sentence; the embedded one is called small."""
    if measured.encoder == "mini":
        return "the small CLIP inside (mini)"
    return f"the CLIP {measured.encoder}"


def sorts_nothing(measured: Measured) -> bool:
    """Tell whether CLIP is not shown to beat a constant answer, the largest class.

    False where images are too few to decide.
    """
    gain = measured.gains[LARGEST]
    return gain.low <= 0 and not reasons_undecided(measured)


def may_gain(measured: Measured) -> bool:
    """Tell whether a useful gain over the largest class is not excluded."""
    return measured.gains[LARGEST].high >= USEFUL_GAIN


def short_answer(measured: Measured) -> str:
    """Say in one sentence whether a frozen CLIP sorts these images.

    The first rule that applies counts: too few groups, no gain over the largest class
    or over file traces, file names like series with a fair accuracy, a class that is
    mostly missed, and then accuracy.
    """
    accuracy = measured.accuracy[measured.best]
    gain_over_traces = measured.gains[TRACES]
    name = name_encoder(measured)
    if reasons_undecided(measured):
        return f"It cannot be said yet whether {name}, frozen, sorts these images."
    if sorts_nothing(measured):
        return answer_without_gain(measured)
    if gain_over_traces.low <= 0:
        how_well = "may sort them as well"
        if gain_over_traces.high < 0:
            how_well = "sort them better"
        return (
            f"Perhaps: {name}, frozen, sorts these images, but traces in their files "
            f"{how_well}."
        )
    if measured.series_pattern and accuracy.value >= FAIR_ACCURACY:
        return (
            f"Perhaps: {name}, frozen, sorts these images, but their names look like "
            "series, and each series may show one object, place or patient."
        )
    return answer_by_accuracy(measured)


def answer_without_gain(measured: Measured) -> str:
    """Say that no gain over the largest class is shown, or that it is small at best."""
    name = name_encoder(measured)
    if not may_gain(measured):
        return (
            f"No: {name}, frozen, does not sort these images better than always naming "
            "the largest class."
        )
    return (
        f"Not shown: these images do not tell whether {name}, frozen, sorts them "
        "better than always naming the largest class."
    )


def answer_by_accuracy(measured: Measured) -> str:
    """Say how well images are sorted, by the accuracy and the class missed most."""
    name = name_encoder(measured)
    accuracy = measured.accuracy[measured.best]
    missed = most_missed_class(measured)
    found = measured.sensitivity[missed]
    if accuracy.value >= GOOD_ACCURACY and found.value < FAIR_ACCURACY:
        return (
            f"Mostly: {name}, frozen, sorts these images, but finds only "
            f"{percent(found)} of {missed}."
        )
    if accuracy.low >= GOOD_ACCURACY:
        return f"Yes: {name}, frozen, sorts these images well."
    if accuracy.value >= GOOD_ACCURACY:
        return (
            f"Probably: {name}, frozen, sorts these images well, but they are too few "
            "to be sure."
        )
    if accuracy.value >= FAIR_ACCURACY:
        return f"Mostly: {name}, frozen, sorts these images, with errors."
    return f"Only in part: {name}, frozen, does better than guessing, and errs often."


def most_missed_class(measured: Measured) -> str:
    """Return the name of the class of lowest sensitivity."""
    return min(measured.sensitivity, key=lambda name: measured.sensitivity[name].value)


def reasons_undecided(measured: Measured) -> list[str]:
    """Say in sentences why images cannot show if CLIP sorts them; [] if they can."""
    reasons = []
    scarce = {
        name: count
        for name, count in measured.groups_per_class.items()
        if count < FEW_OF_A_CLASS
    }
    if scarce:
        listed = listing([f"{name} ({count})" for name, count in scarce.items()])
        reasons.append(
            f"Too few groups show {listed}: {FEW_OF_A_CLASS} of each class are the "
            "least that can be learned from and tested on in turn."
        )
    if measured.n_groups < FEW_GROUPS:
        reasons.append(
            f"{counted(measured.n_groups, 'group')} altogether: that says little of "
            "images of others."
        )
    if not measured.groups_kept_apart:
        reasons.append(
            "What follows is measured on images whose own groups may have been trained "
            "on: it says nothing of new ones."
        )
    return reasons


def accuracy_sentence(measured: Measured) -> str:
    """Say how accurate the best classifier is, and two that do not see the pictures.

    One always names the largest class, the other reads traces of the files alone.
    """
    asked = "images of groups that it was not trained on"
    if not measured.groups_kept_apart:
        asked = "images of groups that it may have been trained on"
    elif not measured.groups_declared:
        asked = "images of which it was trained on no copy"
    accuracy = measured.accuracy[measured.best]
    interval = f"{100 * accuracy.low:.0f} to {100 * accuracy.high:.0f}"
    images = counted(measured.n_images, "image")
    groups = counted(measured.n_groups, "group")
    return (
        f"Asked for {asked}, the {measured.best} is right for "
        f"{whole_percent(accuracy.value)} (95% interval {interval}; {images} in "
        f"{groups}). Always naming {measured.largest_class}, the largest class, is "
        f"right for {whole_percent(measured.accuracy[LARGEST].value)}, and file traces "
        "(size, format, compression) without a look at the picture for "
        f"{percent(measured.accuracy[TRACES])}."
    )


def file_traces_sentence(measured: Measured) -> str:
    """Say how much more accurate CLIP is than file traces, and warn if it is not."""
    gain = measured.gains[TRACES]
    if gain.low > 0:
        return f"That is {points(gain)} more than these traces."
    trace = TRACE_NAMES[measured.strongest_trace]
    look = (
        f"The strongest of them is {trace}: find out whether the classes were "
        "photographed or saved differently."
    )
    if gain.high < 0:
        return f"CLIP is worse than the traces, by {points(-gain)}. {look}"
    return (
        "These images do not show that CLIP is better than the traces "
        f"({points(gain)}). {look}"
    )


def brightness_sentence(measured: Measured) -> str:
    """Warn where CLIP is not shown to be better than brightness alone; else ""."""
    if measured.gains[BRIGHTNESS].low > 0:
        return ""
    share = percent(measured.accuracy[BRIGHTNESS])
    return (
        f"Brightness alone, which is of the picture and not of the file, is right for "
        f"{share}: CLIP may see no more than that."
    )


def zero_shot_sentence(measured: Measured) -> str:
    """Say whether the names of the classes, without labels, are enough."""
    accuracy = measured.accuracy[ZERO_SHOT]
    gain = measured.gains[ZERO_SHOT]
    largest = measured.accuracy[LARGEST].value
    if gain.high < NEGLIGIBLE_GAIN:
        return (
            f"Words are enough: the names of the folders alone reach "
            f"{percent(accuracy)}."
        )
    if gain.low <= 0:
        return (
            f"Words may be enough: the names of the folders alone reach "
            f"{percent(accuracy)}, and these images do not tell whether labels do "
            f"better ({points(gain)})."
        )
    if accuracy.low > largest:
        return (
            f"Words help but are not enough: the names of the folders alone reach "
            f"{percent(accuracy)}; labels add {points(gain)}."
        )
    than_largest = "worse" if accuracy.high < largest else "no better"
    return (
        f"Words are not enough: the names of the folders alone reach "
        f"{percent(accuracy)}, {than_largest} than the largest class."
    )


def leakage_sentence(measured: Measured) -> str:
    """Say how much accuracy leakage adds: groups in training and test at once.

    "" where it was not measured; where groups cannot be kept apart; and where none are
    declared, and near-duplicates make no difference that can be shown.
    """
    gain = measured.gain_by_leakage
    if gain is None or not measured.groups_kept_apart:
        return ""
    if gain.low > 0:
        return (
            f"With groups divided between training and test it would have looked "
            f"{points(gain)} better than it is."
        )
    if gain.high < 0:
        return (
            f"With groups divided between training and test it is {points(-gain)} "
            "worse. Images of one group may bear different labels here."
        )
    if measured.groups_declared:
        return (
            f"Groups divided between training and test would have made no difference "
            f"that can be shown ({points(gain)})."
        )
    return ""


def more_labels_sentence(measured: Measured) -> str:
    """Say how much accuracy the last doubling of the labels brought.

    Where they pay, also how many groups a target accuracy needs.
    """
    gain = measured.gain_by_doubling
    if gain is None:
        return "Whether more labels would pay cannot be said: there are too few groups."
    if gain.low > 0:
        brought = f"More labels pay: the last doubling brought {points(gain)}."
        return f"{brought} {extrapolation_sentence(measured)}".strip()
    if gain.high < 0:
        cost = points(-gain)
        return f"More labels do not pay: the last doubling cost {cost}."
    if gain.high < NEGLIGIBLE_GAIN:
        return f"More labels hardly pay: the last doubling brought {points(gain)}."
    return (
        f"Whether more labels would pay cannot be told from these images: the last "
        f"doubling brought {points(gain)}."
    )


def extrapolation_sentence(measured: Measured) -> str:
    """Say how many groups the target accuracy needs, or that it cannot be said.

    "" where no target below 100% is left to aim at.
    """
    if measured.target == 1:
        return ""
    target = whole_percent(measured.target)
    if measured.growth_factor is None:
        return f"How many more {target} would need cannot be said from this curve."
    value, low, high = (
        _two_digits(measured.n_groups * factor) for factor in measured.growth_factor
    )
    return (
        f"If the curve goes on as it is, {target} needs about {value} groups in all "
        f"({low} to {high}), of which there are {measured.n_groups:,}."
    )


def _two_digits(count: float) -> str:
    """Write a number rounded to its first two digits: "1,200" for 1234.5."""
    rounded = float(f"{count:.2g}")
    return f"{rounded:,.0f}"


def abstention_sentence(measured: Measured) -> str:
    """Say what share of images can be answered with at most 5% of answers wrong."""
    if not measured.coverage > 0:  # 0, or NaN
        return "Even where it is surest, it errs in more than 5% of its answers."
    if measured.coverage == 1:
        return "Of all its answers at most 5% are wrong."
    share = whole_percent(measured.coverage)
    return (
        f"Allowed to abstain, it can answer up to {share} of the images with at most "
        "5% errors."
    )


def aid_sentence(measured: Measured) -> str:
    """Say how many images the decision aid answers, and how sure its error rate is."""
    aid = measured.aid
    images = counted(aid.n_images, "image")
    rule = f"The rule of the decision aid was chosen on {images} held out: it answers"
    if aid.highest_risk is None:
        return f"{rule} none of them."
    n_wrong = f"{aid.n_wrong:,}" if aid.n_wrong else "none"
    text = f"{rule} {aid.n_answered:,} of them, {n_wrong} wrongly."
    if aid.highest_risk <= RISK:
        return text
    return (
        f"{text} So few promise little: on new images, up to "
        f"{whole_percent(aid.highest_risk)} of its answers may be wrong."
    )


def elsewhere_sentence(measured: Measured) -> str:
    """Say how accuracy on another folder differs from that here; "" without a folder.

    Also say what share of its images the decision aid answers, and how often wrongly.
    """
    away = measured.elsewhere
    if away is None:
        return ""
    # Here less there, which are different images, in another mixture of classes.
    loss = away.balanced_here.minus(away.balanced)
    than_here = f"no difference from here is shown ({points(loss)})"
    if loss.low > 0:
        than_here = f"that is {points(loss)} less than here"
    elif loss.high < 0:
        than_here = f"that is {points(-loss)} more than here"
    aid = f"The decision aid answers {whole_percent(away.answered.value)} of them"
    if away.answered.value > 0:
        aid += f", and {percent(away.wrong)} of its answers are wrong"
    images = counted(away.n_images, "image")
    reasons = [f"{reason} ({count})" for reason, count in away.left_out.items()]
    left_out = f" Left out are those that {' or '.join(reasons)}." if reasons else ""
    return (
        f"Of {images} from elsewhere, {away.name}, the {measured.best} names "
        f"{percent(away.accuracy)} rightly. With all of their classes counting alike, "
        f"{than_here}. {aid}.{left_out}"
    )


def erasing_sentence(measured: Measured) -> str:
    """Say how much accuracy erasing the object costs; "" without boxes.

    Also say what the control costs: erasing as much on the other side of the image.
    """
    erased = measured.erased
    if erased is None:
        return ""
    images = counted(erased.n_images, "image")
    text = (
        f"With the object erased, {percent(erased.accuracy)} of {images} are still "
        f"named rightly"
    )
    if erased.loss.low > 0:
        text += f", {points(erased.loss)} fewer"
    else:
        text += f": that costs nothing that can be shown ({points(erased.loss)})"
    if erased.control_loss is not None:
        text += (
            f"; erasing as much on the other side of the image costs "
            f"{points(erased.control_loss)}"
        )
    return f"{text}."


def declare_groups(measured: Measured) -> Step | None:
    """Ask to declare groups; None if they are declared.

    Where file names suggest groups, the step has the command that declares them.
    """
    if measured.groups_declared:
        return None
    if not measured.series_pattern:
        return Step(
            "If several images show one object, place or patient, all of this may be "
            "too good: declare which belong together (--groups) and measure again."
        )
    together = ""
    if measured.example_series:
        some = listing(measured.example_series[:MOST_FILES])
        together = f" {some}, for example, would be kept together."
    return Step(
        "If a series of files shows one object, place or patient, all of this may be "
        f"too good.{together} If so, measure again with the following command; if not, "
        "say so with --groups '(.+)'.",
        f"{measured.command} --groups {shlex.quote(measured.series_pattern)}",
    )


def recommend_classifier(measured: Measured) -> Step | None:
    """Recommend the best classifier, or the simplest if it is not shown to be worse.

    None where the images are too few to decide.
    """
    if reasons_undecided(measured):
        return None
    if measured.best == measured.simplest:
        return Step(f"Use the {measured.best}: no other probe is better here.")
    gain = measured.gains[measured.simplest]
    if gain.low > 0:
        return Step(
            f"Use the {measured.best}: it is {points(gain)} better than the "
            f"{measured.simplest}."
        )
    return Step(
        f"Use the {measured.best}, or the {measured.simplest}, which is simpler: these "
        f"images do not show which is better ({points(gain)})."
    )


def recommend_encoder(measured: Measured) -> Step | None:
    """Recommend the best encoder that is shown to be better than CLIP, or else CLIP.

    Encoders are compared by a linear probe on pooled features. None where no other was
    asked for.
    """
    if not measured.other_encoders:
        return None
    # By other encoder, CLIP's accuracy less that with it: below 0 it is better.
    gains = {name: measured.gains[name] for name in measured.other_encoders}
    shown_better = [name for name, gain in gains.items() if gain.high < 0]
    best_other = min(shown_better or gains, key=lambda name: gains[name].value)
    difference = gains[best_other]
    same = "by the same probe, a linear one on pooled features"
    if shown_better:
        return Step(
            f"Consider {best_other} in place of {measured.encoder}: {same}, it is "
            f"{points(-difference)} better. The decision aid is made of "
            f"{measured.encoder} all the same."
        )
    if all(gain.low > 0 for gain in gains.values()):
        return Step(
            f"Stay with {measured.encoder}: {same}, {best_other} is "
            f"{points(difference)} worse."
        )
    return Step(
        f"Stay with {measured.encoder}: {same}, these images do not show that "
        f"{' or '.join(gains)} would do better."
    )


def suggest_larger_encoder(measured: Measured) -> Step | None:
    """Give the command that compares OpenAI's CLIP with the small embedded one.

    None where the encoder is another one, or is compared with others already.
    """
    if measured.encoder != "mini" or measured.other_encoders:
        return None
    return Step(
        "All of this is about a small CLIP. This sets OpenAI's beside it, which is "
        "downloaded first (600 MB):",
        f"{measured.command} --others {OPENAI}",
    )


def suggest_more_images(measured: Measured) -> Step | None:
    """Say of the class of lowest sensitivity how many more groups to collect.

    As many as it takes to know its sensitivity (`_groups_to_know`), but twice today's
    at least where it is a weak class and more labels may pay. None where there are
    enough.
    """
    name = most_missed_class(measured)
    found = measured.sensitivity[name]
    n_groups = measured.groups_per_class[name]
    n_wanted = _groups_to_know(found.value)
    accuracy = measured.accuracy[measured.best].value
    is_weak = found.value < accuracy - WEAK_CLASS_GAP
    gain = measured.gain_by_doubling
    may_pay = gain is None or gain.high >= NEGLIGIBLE_GAIN
    if is_weak and may_pay:
        n_wanted = max(n_wanted, 2 * n_groups)
    n_more = n_wanted - n_groups
    if n_more <= 0:
        return None
    kind = "the class that is missed most" if is_weak else "the least sure class"
    return Step(
        f"Collect {name}, {kind}: {percent(found)} of it found, in "
        f"{counted(n_groups, 'group')}. With about {counted(n_more, 'more group')} of "
        "it, one would know that share to ten points."
    )


def _groups_to_know(share: float) -> int:
    """Return how many groups it takes to know a share p to ten points on each side.

    By the normal approximation of the binomial, 1.96² p (1 - p) / 0.1². The variance
    p (1 - p) is at least that of 90%: a few images, all found, prove little.
    """
    variance = max(share * (1 - share), GOOD_ACCURACY * (1 - GOOD_ACCURACY))
    return math.ceil(1.96**2 * variance / WANTED_HALF_WIDTH**2)


def check_labels(measured: Measured) -> Step | None:
    """Ask to check labels, groups and files that may be wrong; None without any.

    These are copies with two labels, declared groups with copies of each other, labels
    that look wrong, and files that cannot be read.
    """
    parts = []
    if measured.n_label_conflicts:
        pairs = "pair of copies bears"
        if measured.n_label_conflicts > 1:
            pairs = "pairs of copies bear"
        parts.append(f"{measured.n_label_conflicts} {pairs} two labels")
    if measured.n_merged_groups:
        pairs = "pair of groups that you declared apart holds"
        if measured.n_merged_groups > 1:
            pairs = "pairs of groups that you declared apart hold"
        parts.append(f"{measured.n_merged_groups} {pairs} copies of each other")
    if measured.suspects:
        parts.append(_labels_in_doubt(measured))
    if measured.n_unreadable:
        parts.append(f"{counted(measured.n_unreadable, 'file')} could not be read")
    return Step(f"Check: {'; '.join(parts)}.") if parts else None


def _labels_in_doubt(measured: Measured) -> str:
    """Return a clause that counts the images whose labels look wrong, and names four.

    It adds that most labels may be right where the classifier, which contradicts them,
    errs often. There must be one such image at least.
    """
    count = len(measured.suspects)
    labels = "label looks" if count == 1 else "labels look"
    first = listing(measured.suspects[:MOST_FILES])
    of_all = "" if count <= MOST_FILES else " first of all"
    text = f"{count} {labels} wrong, {first}{of_all}"
    if measured.accuracy[measured.best].value < GOOD_ACCURACY:
        text += " (where so many answers are wrong, most of these are hard images)"
    return text
