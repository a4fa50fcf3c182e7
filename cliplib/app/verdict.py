"""The verdict on one folder of images: from numbers to sentences, by rules.

All rules, and all thresholds that they use, stand here. No sentence says more than its
interval allows; where the images are too few, the verdict says that it cannot say.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, NamedTuple

from cliplib.judge.intervals import Share

FEW_GROUPS = 10
"""Fewer groups altogether say little of others."""
FEW_OF_A_CLASS = 5
"""Fewer groups of a class cannot be tested in five folds."""
WELL = 0.9
"""Of accuracy, by the lower end of its interval."""
MOSTLY = 0.7
"""Of accuracy, by its value."""
SMALL = 0.02
"""A difference of two points that nobody would label more images for."""
WIDTH = 0.1
"""Half the width of an interval that one would like to have."""
WEAK = 0.1
"""A class this much below the whole is a weak one."""
MOST_FILES = 4
"""Of a list of files that stands within a sentence."""
LARGEST = "always the largest class"
WORDS = "zero-shot"
TRACES = "file traces"
BRIGHTNESS = "brightness"
"""Names of methods that are not trained on features."""
TRACE_NAMES = {
    "size": "the size",
    "colour mode": "format and colour mode",
    "quantisation": "JPEG's quantisation",
    "texture": "bytes a pixel, which texture raises as well",
    "border": "brightness of the border",
    "brightness": "brightness",
}
"""What kinds of `cliplib.tools.traces.SHORTCUTS` are called."""
OPENAI = "openai/clip-vit-base-patch32"
"""The CLIP to set beside the small embedded one: 150 million parameters."""


class Away(NamedTuple):
    """What the best classifier makes of images from elsewhere."""

    name: str
    images: int
    accuracy: Share
    answered: Share
    """What the decision aid answers."""
    wrong: Share
    """Of its answers."""


class Erasing(NamedTuple):
    """What the best classifier makes of images whose object is erased."""

    images: int
    accuracy: Share
    loss: Share
    control: Share | None
    """What erasing as much of the other side costs."""


@dataclass(frozen=True)
class Measured:
    """What the verdict rests on.

    Attributes
    ----------
    encoder
        The CLIP's name; "mini" is the embedded one.
    command
        What measured all this, for the next steps to add an option to.
    images
        How many were measured.
    groups
        How many groups these are, such as photographs, patients, objects.
    groups_of_class
        By class, in how many groups it stands.
    declared
        Whether somebody has declared groups; else they are near-duplicates.
    kept_apart
        Whether no group was ever on both sides; False where a class has too few.
    series
        The pattern that file names suggest; "" where they suggest none.
    joined
        Files that this pattern would keep together, for an example.
    trace
        The trace of the files that by itself gives the class away most often.
    best
        The best of the trained classifiers.
    simplest
        The simplest of those that read the same readout; it may be the best.
    largest
        The largest class.
    accuracy
        By method, on groups not trained on: the trained ones, "zero-shot",
        "file traces" and "always the largest class".
    gains
        Accuracy of the best less that of each other method, on the same images. Of
        another encoder: that of the linear probe on CLIP's pooled features less that of
        the linear probe on the other's.
    relatedness
        Accuracy of the best by image less that by group; None where they are the same.
    sensitivity
        Share of each class that the best finds.
    doubling
        Accuracy with all labelled groups less that with half; None if not measured.
    target, times
        An accuracy beyond today's, and how many times today's groups reach it; None
        where that cannot be said.
    suspects
        Images whose labels look wrong, the worst first.
    conflicts
        Pairs of copies that bear two labels.
    unreadable
        Files that could not be read.
    merged
        How many pairs of declared groups copies join.
    answered
        Share of the images that can be answered with at most 5% errors; 0 if none.
    others
        Encoders beside CLIP, which are among the methods by these names.
    elsewhere
        What the best makes of another folder.
    erased
        What it makes of images without their object.
    """

    encoder: str
    command: str
    images: int
    groups: int
    groups_of_class: Mapping[str, int]
    declared: bool
    kept_apart: bool
    series: str
    joined: Sequence[str]
    trace: str
    best: str
    simplest: str
    largest: str
    accuracy: Mapping[str, Share]
    gains: Mapping[str, Share]
    relatedness: Share | None
    sensitivity: Mapping[str, Share]
    doubling: Share | None
    target: float
    times: Share | None
    suspects: Sequence[str]
    conflicts: int
    unreadable: int
    merged: int
    answered: float
    others: Sequence[str] = ()
    elsewhere: Away | None = None
    erased: Erasing | None = None


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
        """Return all of it as plain text; a command, to be copied, has its own line."""
        lines = [fill(f"{self.answer} {' '.join(self.reasons)}", 88)]
        if self.steps:
            lines += ["", "What to do next:"]
        for step in self.steps:
            lines.append(fill(f"- {step.text}", 88, subsequent_indent="  "))
            if step.command:
                lines.append(f"      {step.command}")
        return "\n".join(lines)


def verdict(measured: Measured) -> Verdict:
    """Return what the numbers say, and no more."""
    reasons: list[str] = [*cannot_say(measured), how_well(measured)]
    steps: list[Step | None] = []
    if sorts_nothing(measured):
        steps = [larger_encoder(measured)]
    else:
        reasons += [
            file_traces(measured),
            brightness(measured),
            words(measured),
            related(measured),
            more_labels(measured),
            abstaining(measured),
            from_elsewhere(measured),
            without_object(measured),
        ]
        steps = [
            declare_groups(measured),
            which_classifier(measured),
            which_encoder(measured),
            larger_encoder(measured),
            more_images(measured),
            check_labels(measured),
        ]
    return Verdict(
        answer(measured),
        [reason for reason in reasons if reason],
        [step for step in steps if step],
    )


def clip(measured: Measured) -> str:
    """Name the encoder, and that the embedded one is small."""
    if measured.encoder == "mini":
        return "the small CLIP inside (mini)"
    return f"the CLIP {measured.encoder}"


def sorts_nothing(measured: Measured) -> bool:
    """Say whether the best classifier is not shown to beat the largest class."""
    gain = measured.gains[LARGEST]
    return gain.low <= 0 and not cannot_say(measured)


def answer(measured: Measured) -> str:
    """Say in a few words whether a frozen CLIP sorts these images."""
    accuracy = measured.accuracy[measured.best]
    traces = measured.gains[TRACES]
    name = clip(measured)
    if cannot_say(measured):
        return f"It cannot be said yet whether {name}, frozen, sorts these images."
    if sorts_nothing(measured):
        return (
            f"No: {name}, frozen, does not sort these images better than always naming "
            "the largest class."
        )
    if traces.low <= 0:
        better = "sorts them better" if traces.high < 0 else "may sort them as well"
        return (
            f"Perhaps: {name}, frozen, sorts these images, but what their files betray "
            f"{better}."
        )
    if measured.series and accuracy.value >= MOSTLY:
        return (
            f"Perhaps: {name}, frozen, sorts these images, but their names look like "
            "series, and each series may show one object, place or patient."
        )
    if accuracy.low >= WELL:
        return f"Yes: {name}, frozen, sorts these images well."
    if accuracy.value >= MOSTLY:
        return f"Mostly: {name}, frozen, sorts these images, with errors."
    return f"Only in part: {name}, frozen, does better than guessing, and errs often."


def cannot_say(measured: Measured) -> list[str]:
    """Give the reasons why these images cannot answer the question."""
    reasons = []
    scarce = {
        name: count
        for name, count in measured.groups_of_class.items()
        if count < FEW_OF_A_CLASS
    }
    if scarce:
        listed = listing([f"{name} ({count})" for name, count in scarce.items()])
        reasons.append(
            f"Too few groups show {listed}: {FEW_OF_A_CLASS} of each class are the "
            "least that can be learned from and tested on in turn."
        )
    if measured.groups < FEW_GROUPS:
        reasons.append(
            f"{counted(measured.groups, 'group')} altogether: that says little of "
            "images of others."
        )
    if not measured.kept_apart:
        reasons.append(
            "What follows is measured on images whose own groups were trained on: it "
            "says nothing of new ones."
        )
    return reasons


def how_well(measured: Measured) -> str:
    """Set accuracy beside the largest class and the files' traces."""
    asked = "images of groups that it was not trained on"
    if not measured.kept_apart:
        asked = "images of groups that it was trained on"
    elif not measured.declared:
        asked = "images of which it was trained on no copy"
    largest = measured.accuracy[LARGEST].value
    traces = measured.accuracy[TRACES]
    low, high = (100 * end for end in measured.accuracy[measured.best][1:])
    images = counted(measured.images, "image")
    size = f"{images} in {counted(measured.groups, 'group')}"
    return (
        f"Asked for {asked}, the {measured.best} is right for "
        f"{whole(measured.accuracy[measured.best].value)} (95% interval {low:.0f} to "
        f"{high:.0f}; {size}). Always naming {measured.largest}, the largest class, is "
        f"right for {whole(largest)}, and what the files betray without a look at the "
        f"picture (size, format, compression) for {percent(traces)}."
    )


def file_traces(measured: Measured) -> str:
    """Warn where the files' traces are not shown to be worse than CLIP."""
    gain = measured.gains[TRACES]
    if gain.low > 0:
        return f"That is {points(gain)} more than these traces."
    look = (
        f"The strongest of them is {TRACE_NAMES[measured.trace]}: find out whether the "
        "classes were photographed or saved differently."
    )
    if gain.high < 0:
        return f"CLIP is worse than the traces, by {points(reverse(gain))}. {look}"
    return (
        "These images do not show that CLIP is better than the traces "
        f"({points(gain)}). {look}"
    )


def brightness(measured: Measured) -> str:
    """Say where brightness, which is the picture, may do as well as CLIP."""
    if measured.gains[BRIGHTNESS].low > 0:
        return ""
    share = percent(measured.accuracy[BRIGHTNESS])
    return (
        f"Brightness alone, which is of the picture and not of the file, is right for "
        f"{share}: CLIP may see no more than that."
    )


def words(measured: Measured) -> str:
    """Say whether the names of the classes are enough."""
    accuracy = measured.accuracy[WORDS]
    gain = measured.gains[WORDS]
    largest = measured.accuracy[LARGEST].value
    if gain.high < SMALL:
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


def related(measured: Measured) -> str:
    """Say what relatives on both sides of a split would have added."""
    gain = measured.relatedness
    if gain is None or not measured.kept_apart:
        return ""
    if gain.low > 0:
        return (
            f"Had relatives been on both sides of the split, it would have looked "
            f"{points(gain)} better than it is."
        )
    if gain.high < 0:
        return (
            f"With relatives on both sides of the split it is {points(reverse(gain))} "
            "worse: relatives here bear different labels."
        )
    if measured.declared:
        return (
            f"Relatives on both sides of the split would have made no difference that "
            f"can be shown ({points(gain)})."
        )
    return ""


def more_labels(measured: Measured) -> str:
    """Read the slope of the learning curve, and the curve forward where it climbs."""
    gain = measured.doubling
    if gain is None:
        return "Whether more labels would pay cannot be said: there are too few groups."
    if gain.low > 0:
        brought = f"More labels pay: the last doubling brought {points(gain)}."
        return f"{brought} {read_forward(measured)}".strip()
    if gain.high < 0:
        cost = points(reverse(gain))
        return f"More labels do not pay: the last doubling cost {cost}."
    if gain.high < SMALL:
        return f"More labels hardly pay: the last doubling brought {points(gain)}."
    return (
        f"Whether more labels would pay cannot be told from these images: the last "
        f"doubling brought {points(gain)}."
    )


def read_forward(measured: Measured) -> str:
    """Say how many more groups reach the target, or that it cannot be said."""
    target = whole(measured.target)
    if measured.target == 1:
        return ""
    if measured.times is None:
        return f"How many more {target} would need cannot be said from this curve."
    groups = [measured.groups * times for times in measured.times]
    value, low, high = (f"{float(f'{count:.2g}'):,.0f}" for count in groups)
    return (
        f"If the curve goes on as it is, {target} needs about {value} groups in all "
        f"({low} to {high}), of which there are {measured.groups:,}."
    )


def abstaining(measured: Measured) -> str:
    """Say how much can be answered with few errors."""
    if not measured.answered > 0:
        return "Even where it is surest, it errs in more than 5% of its answers."
    if measured.answered == 1:
        return "Of all its answers at most 5% are wrong."
    return (
        f"Allowed to abstain, it can answer {whole(measured.answered)} of the images "
        "with at most 5% errors."
    )


def from_elsewhere(measured: Measured) -> str:
    """Set another folder beside this one."""
    away = measured.elsewhere
    if away is None:
        return ""
    loss = measured.accuracy[measured.best].less(away.accuracy)
    than_here = f"not shown to differ from here ({points(loss)})"
    if loss.low > 0:
        than_here = f"{points(loss)} less than here"
    elif loss.high < 0:
        than_here = f"{points(reverse(loss))} more than here"
    aid = f"The decision aid answers {whole(away.answered.value)} of them"
    if away.answered.value > 0:
        aid += f", and {percent(away.wrong)} of its answers are wrong"
    images = counted(away.images, "image")
    return (
        f"Of {images} from elsewhere, {away.name}, the {measured.best} names "
        f"{percent(away.accuracy)} rightly: {than_here}. {aid}."
    )


def without_object(measured: Measured) -> str:
    """Say whether the object is needed."""
    erased = measured.erased
    if erased is None:
        return ""
    images = counted(erased.images, "image")
    text = (
        f"With the object erased, {percent(erased.accuracy)} of {images} are still "
        f"named rightly"
    )
    if erased.loss.low > 0:
        text += f", {points(erased.loss)} fewer"
    else:
        text += f": that costs nothing that can be shown ({points(erased.loss)})"
    if erased.control is not None:
        text += (
            f"; erasing as much on the other side of the image costs "
            f"{points(erased.control)}"
        )
    return f"{text}."


def declare_groups(measured: Measured) -> Step | None:
    """Ask for groups where none were declared."""
    if measured.declared:
        return None
    if not measured.series:
        return Step(
            "If several images show one object, place or patient, all of this may be "
            "too good: declare which belong together (--groups) and measure again."
        )
    together = ""
    if measured.joined:
        some = listing(measured.joined[:MOST_FILES])
        together = f" {some}, for example, would be kept together."
    return Step(
        "If a series of files shows one object, place or patient, all of this may be "
        f"too good.{together} If so, measure again with the following command; if not, "
        "say so with --groups '(.+)'.",
        f"{measured.command} --groups {shlex.quote(measured.series)}",
    )


def which_classifier(measured: Measured) -> Step | None:
    """Recommend the simplest classifier that is not shown to be worse."""
    if cannot_say(measured):
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


def which_encoder(measured: Measured) -> Step | None:
    """Name an encoder that is shown to be better than CLIP; the best, if several."""
    if not measured.others:
        return None
    gains = {name: measured.gains[name] for name in measured.others}
    name = min(gains, key=lambda key: gains[key].value)
    gain = gains[name]
    same = "by the same probe, a linear one on pooled features"
    if gain.high < 0:
        return Step(
            f"Consider {name} in place of {measured.encoder}: {same}, it is "
            f"{points(reverse(gain))} better. The decision aid is made of "
            f"{measured.encoder} all the same."
        )
    if gain.low > 0:
        return Step(
            f"Stay with {measured.encoder}: {same}, {name} is {points(gain)} worse."
        )
    return Step(
        f"Stay with {measured.encoder}: {same}, these images do not show that "
        f"{' or '.join(gains)} would do better."
    )


def larger_encoder(measured: Measured) -> Step | None:
    """Give the command that sets OpenAI's CLIP beside the small embedded one."""
    if measured.encoder != "mini" or measured.others:
        return None
    return Step(
        "All of this is about a small CLIP. This sets OpenAI's beside it, which is "
        "downloaded first (600 MB):",
        f"{measured.command} --others {OPENAI}",
    )


def more_images(measured: Measured) -> Step | None:
    """Say of which class more groups are needed, and how many.

    A class that is often missed is doubled while more labels may pay; and until it has
    so many groups that the share found is known to ten points (normal approximation of
    the binomial).
    """
    accuracy = measured.accuracy[measured.best].value
    name = min(measured.sensitivity, key=lambda key: measured.sensitivity[key].value)
    found = measured.sensitivity[name]
    count = measured.groups_of_class[name]
    spread = max(found.value * (1 - found.value), WELL * (1 - WELL))
    wanted = max(math.ceil(1.96**2 * spread / WIDTH**2), FEW_OF_A_CLASS)
    is_weak = found.value < accuracy - WEAK
    may_pay = measured.doubling is None or measured.doubling.high >= SMALL
    if is_weak and may_pay:
        wanted = max(wanted, 2 * count)
    more = wanted - count
    if more <= 0:
        return None
    so_far = f"{percent(found)} of it found, in {counted(count, 'group')}"
    if is_weak:
        why = f"the class that is missed most: {so_far}"
    else:
        why = f"the least sure class: {so_far}"
    return Step(
        f"Collect {name}, {why}. With about {counted(more, 'more group')} of it, one "
        "would know that share to ten points."
    )


def check_labels(measured: Measured) -> Step | None:
    """Name the labels to look at first."""
    parts = []
    if measured.conflicts:
        pairs = "pair of copies bears"
        if measured.conflicts > 1:
            pairs = "pairs of copies bear"
        parts.append(f"{measured.conflicts} {pairs} two labels")
    if measured.merged:
        pairs = "pair of groups that you declared apart holds"
        if measured.merged > 1:
            pairs = "pairs of groups that you declared apart hold"
        parts.append(f"{measured.merged} {pairs} copies of each other")
    if measured.suspects:
        parts.append(_labels_in_doubt(measured))
    if measured.unreadable:
        parts.append(f"{counted(measured.unreadable, 'file')} could not be read")
    return Step(f"Check: {'; '.join(parts)}.") if parts else None


def _labels_in_doubt(measured: Measured) -> str:
    """Name the first ones; a classifier that errs often contradicts right labels."""
    count = len(measured.suspects)
    labels = "label looks" if count == 1 else "labels look"
    first = listing(measured.suspects[:MOST_FILES])
    of_all = "" if count <= MOST_FILES else " first of all"
    text = f"{count} {labels} wrong, {first}{of_all}"
    if measured.accuracy[measured.best].value < WELL:
        text += " (where so many answers are wrong, most of these are hard images)"
    return text


def whole(share: float) -> str:
    """Write a share as a whole number of per cent."""
    return f"{100 * share:.0f}%"


def percent(share: Share) -> str:
    """Write a share with its interval: "54% (46 to 62)"; a dash if undefined."""
    if math.isnan(share.value):
        return "–"
    low, high = 100 * share.low, 100 * share.high
    return f"{whole(share.value)} ({low:.0f} to {high:.0f})"


def points(gain: Share) -> str:
    """Write a difference of shares with its interval: "8 points (2 to 14)"."""
    value, low, high = (_whole_points(number) for number in gain)
    return f"{value} point{'' if value == '1' else 's'} ({low} to {high})"


def reverse(gain: Share) -> Share:
    """Return a difference seen from the other side: 2 − 5 for 5 − 2."""
    return Share(-gain.value, -gain.high, -gain.low)


def counted(number: int, name: str) -> str:
    """Write a number of things: "1 image", "2,527 images"."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _whole_points(number: float) -> str:
    text = f"{100 * number:.0f}"
    return "0" if text == "-0" else text.replace("-", "−")


def read_share(row: Mapping[str, Any], name: str) -> Share:
    """Read a share from columns name, name_low and name_high."""
    return Share(*(float(row[key]) for key in (name, f"{name}_low", f"{name}_high")))


def listing(names: Sequence[str]) -> str:
    """Join names: "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
