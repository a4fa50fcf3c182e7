"""The verdict's word and its warnings follow from values, by rules."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import betabinom, binom

from cliplib import FeatureTable, evaluate
from cliplib.aids.external import ExternalTest
from cliplib.data.arrays import Floats, Ints
from cliplib.data.image import file_facts
from cliplib.evaluation.intervals import Estimate, clopper_pearson
from cliplib.inspection.lookalikes import MOST_GROUPS, LookAlikes
from cliplib.inspection.published_split import PublishedSplit
from cliplib.inspection.shortcuts import NOT_MEASURED, Shortcut
from cliplib.inspection.subgroups import Subgroup
from cliplib.reports import data_warnings
from cliplib.reports.data_warnings import (
    KINDS,
    SEVERITIES,
    DataWarning,
    check_threshold,
)
from cliplib.reports.findings import Grouping
from cliplib.reports.methods import LARGEST, LINEAR, MethodComparison
from cliplib.reports.verdict import (
    WORDS,
    Verdict,
    next_steps,
    right_of_new,
    sentence,
    word_by_accuracy,
)

CLASSES = ("glass", "metal")
UNDECLARED = Grouping(0, "", {}, pd.DataFrame())
DECLARED = Grouping(9, "", {}, pd.DataFrame())
SERIES = {"a_1.jpg": "a", "a_2.jpg": "a", "b_1.jpg": "b"}
IN_NAMES = Grouping(0, r"(.+)_\d+", SERIES, pd.DataFrame())


def answered(counts: tuple[int, int], wrong: tuple[int, int]) -> tuple[Ints, Floats]:
    """Return labels and probabilities: of each class so many images, so many wrong."""
    labels = np.repeat([0, 1], counts)
    predicted = labels.copy()
    for label, n_wrong in enumerate(wrong):
        rows = np.flatnonzero(labels == label)[:n_wrong]
        predicted[rows] = 1 - label
    proba = np.where(predicted[:, None] == [0, 1], 0.8, 0.2)
    return labels, proba


@cache
def results(
    counts: tuple[int, int] = (200, 200), wrong: tuple[int, int] = (4, 4)
) -> MethodComparison:
    """Return the numbers of one probe that errs so often, each image its own group."""
    labels, proba = answered(counts, wrong)
    largest = np.zeros((len(labels), 2))
    largest[:, np.bincount(labels).argmax()] = 1
    proba_by_method = {LARGEST: largest, LINEAR: proba}
    table = FeatureTable.from_arrays(
        np.zeros((len(labels), 1)), labels, classes=CLASSES
    )
    return MethodComparison(
        table=table,
        n_splits=5,
        seed=0,
        proba_by_method=proba_by_method,
        evaluations={
            name: evaluate(labels, of_method, CLASSES)
            for name, of_method in proba_by_method.items()
        },
        best=LINEAR,
        probe=None,
        probe_table=table,
    )


def shortcut(
    reached: Estimate, name: str = "camera", cost: Estimate = NOT_MEASURED
) -> Shortcut:
    """Return a probe that sees no object and reaches this part of CLIP's gain.

    `cost` is what CLIP's probe loses when it is swapped.
    """
    return Shortcut(
        name=name,
        accuracy=Estimate(0.9, 0.85, 0.94),
        balanced=Estimate(0.9, 0.85, 0.94),
        relative_gain=reached,
        most_separable_class=0,
        auroc=0.9,
        examples=[0, 1, 2, 3],
        swap_cost=cost,
    )


@cache
def elsewhere(wrong: tuple[int, int]) -> ExternalTest:
    """Return 50 images a class from elsewhere, of which so many are wrong."""
    labels, proba = answered((50, 50), wrong)
    return ExternalTest(
        name="site b",
        left_out=pd.Series(dtype=int),
        evaluation=evaluate(labels, proba, CLASSES),
        answered=Estimate(0, 0, 0),
        wrong=Estimate(0, 0, 0),
    )


def one(
    of_kind: Callable[[Any], Iterator[DataWarning]], **parts: Any
) -> DataWarning | None:
    """Return the warning that a function finds in parts of the findings, or None."""
    return next(of_kind(findings(**parts)), None)


def word_of(
    found: MethodComparison,
    *reasons: DataWarning | None,
    fewest_groups: int = 200,
) -> str:
    """Return the word by the numbers, limited by warnings."""
    word = word_by_accuracy(found, fewest_groups)
    limits = [reason.strongest_word for reason in reasons if reason]
    return min([word, *limits], key=WORDS.index)


# --- The word


@pytest.mark.parametrize(
    ("counts", "wrong", "word"),
    [
        ((200, 200), (4, 4), "Yes"),
        ((40, 40), (3, 3), "Probably"),  # the interval goes below 90%
        ((200, 200), (36, 36), "Mostly"),
        ((200, 200), (70, 70), "Only in part"),
        ((200, 200), (100, 100), "No"),
        ((20, 20), (9, 9), "Not shown"),
        ((240, 12), (0, 12), "Not shown"),  # the largest class, always
        ((240, 12), (5, 4), "Mostly"),  # 96% right, and a third of metal missed
        ((240, 12), (5, 2), "Probably"),
    ],
)
def test_the_word_follows_accuracy_in_which_classes_count_alike(
    counts: tuple[int, int], wrong: tuple[int, int], word: str
) -> None:
    assert word_of(results(counts, wrong)) == word


def test_a_rare_class_that_is_ranked_first_is_no_no() -> None:
    labels = np.repeat([0, 1], (240, 12))
    rng = np.random.default_rng(0)
    score = np.where(labels == 1, 0.4, 0.1) + rng.uniform(-0.05, 0.05, len(labels))
    proba = np.column_stack([1 - score, score])  # always glass, yet in the right order
    found = results((240, 12), (0, 12))
    area = evaluate(labels, proba, CLASSES)
    found = replace(found, evaluations={LINEAR: area})
    assert found.evaluation.estimate("balanced_accuracy").value == 0.5
    assert word_of(found) == "Only in part"


def test_yes_needs_twenty_groups_of_each_class() -> None:
    assert word_of(results()) == "Yes"
    assert word_of(results(), fewest_groups=19) == "Probably"
    assert word_of(results(), fewest_groups=20) == "Yes"


def test_a_warning_never_raises_the_word() -> None:
    limit = DataWarning("x", "high", "", strongest_word="Perhaps")
    assert word_of(results((200, 200), (100, 100)), limit) == "No"
    assert word_of(results(), limit) == "Perhaps"
    assert WORDS.index("Perhaps") < WORDS.index("Only in part")


def test_each_kind_of_warning_weighs_what_there_is() -> None:
    assert {kind["severity"] for kind in KINDS.values()} <= {*SEVERITIES}
    assert {kind["strongest_word"] for kind in KINDS.values()} <= {*WORDS}


# --- What stops it


@pytest.mark.parametrize(
    ("reached", "name", "stops"),
    [
        (Estimate(1.0, 0.95, 1.05), "size", True),
        (Estimate(0.93, 0.85, 1.0), "camera", True),  # 90% where CLIP has 93
        (Estimate(0.75, 0.65, 0.9), "camera", True),
        (Estimate(0.74, 0.7, 0.9), "camera", False),
        (Estimate(0.85, 0.64, 1.0), "camera", False),  # too few images to say so
        (Estimate(1.0, 0.95, 1.05), "border", False),  # nobody knows if it is used
        (Estimate(1.0, 0.95, 1.05), "thumbnail", False),  # colour is often content
        (Estimate(float("nan"), float("nan"), float("nan")), "camera", False),
    ],
)
def test_a_field_of_files_stops_the_word_where_it_reaches_clips_gain(
    reached: Estimate, name: str, stops: bool
) -> None:
    warning = one(data_warnings.shortcut_warnings, shortcuts=[shortcut(reached, name)])
    assert (warning is not None) == stops
    assert word_of(results(), warning) == ("Perhaps" if stops else "Yes")


@pytest.mark.parametrize(
    ("reached", "cost", "stops"),
    [
        (0.5, Estimate(0.1, 0.01, 0.19), True),
        (0.5, Estimate(0.09, 0.03, 0.15), False),  # neither strong nor much used
        (0.5, Estimate(0.2, 0.0, 0.4), False),  # too few images to say so
        (0.8, Estimate(0.03, 0.01, 0.05), True),  # it may be all that CLIP sees
        (1.0, Estimate(0.01, -0.01, 0.03), False),  # it only goes with the classes
    ],
)
def test_a_swap_that_costs_something_stops_the_word(
    reached: float, cost: Estimate, stops: bool
) -> None:
    edge = shortcut(Estimate(reached, reached - 0.1, 1), "left edge", cost)
    warning = one(data_warnings.shortcut_warnings, shortcuts=[edge])
    assert (warning is not None) == stops
    assert word_of(results(), warning) == ("Perhaps" if stops else "Yes")


def test_the_most_used_shortcut_is_named_in_message_and_sentence() -> None:
    share = Estimate(1, 0.9, 1.1)
    three = [
        shortcut(share, "format"),
        shortcut(share, "top edge", Estimate(0.1, 0.05, 0.15)),
        shortcut(share, "brightness", Estimate(0.3, 0.2, 0.4)),
    ]
    warning = one(data_warnings.shortcut_warnings, shortcuts=three)
    assert warning is not None and warning.severity == "high"
    assert warning.evidence["name"] == "brightness" and warning.rows == [0, 1, 2, 3]
    assert "uses the brightness (in the whole picture)" in warning.message
    assert "falls by 30 points (20 to 40)" in warning.message
    assert "also differ by top edge and format" in warning.message
    assert warning.evidence["cost"].low == 0.2
    said = sentence("Perhaps", results(), [warning], DECLARED)
    assert "if the brightness gives their classes away" in said


@pytest.mark.parametrize(
    ("wrong", "stops"),
    [((50, 50), True), ((25, 25), True), ((8, 8), True), ((2, 2), False)],
)
def test_images_elsewhere_stop_the_word_where_clearly_less_is_right(
    wrong: tuple[int, int], stops: bool
) -> None:
    warning = one(data_warnings.external_warnings, external=elsewhere(wrong))
    assert word_of(results(), warning) == ("Perhaps" if stops else "Yes")
    if warning:
        said = sentence("Perhaps", results(), [warning], DECLARED)
        assert "and not from site b" in said


def test_a_loss_elsewhere_that_is_shown_but_small_is_none() -> None:
    many = results((2000, 2000), (40, 40))
    away = elsewhere((2, 2))
    assert data_warnings.external_loss(away, many).value == pytest.approx(0.02)
    assert one(data_warnings.external_warnings, external=away, results=many) is None


def test_series_in_names_stop_the_word_unless_groups_are_declared() -> None:
    warning = one(data_warnings.series_warnings, grouping=IN_NAMES)
    assert word_of(results(), warning) == "Perhaps"
    assert warning is not None and warning.files == [*SERIES]
    shown = "a_1.jpg (group a), a_2.jpg (group a) and b_1.jpg (group b)"
    assert shown in warning.message
    assert one(data_warnings.series_warnings, grouping=DECLARED) is None
    step, *_ = next_steps(findings(grouping=IN_NAMES), "Perhaps")
    assert step["command"] == r"cliplib report f --out o --groups '(.+)_\d+'"


@pytest.mark.parametrize(
    ("cosine", "grouping", "word"),
    [
        (0.79, UNDECLARED, "Yes"),
        (0.8, UNDECLARED, "Perhaps"),
        (0.8, DECLARED, "Probably"),  # the groups may be declared too narrowly
    ],
)
def test_images_that_look_like_views_of_fewer_things_limit_the_word(
    cosine: float, grouping: Grouping, word: str
) -> None:
    alike = LookAlikes(cosine, [(0, 5, 0.9)], 9, Estimate(0.6, 0.5, 0.7))
    warning = one(
        data_warnings.look_alike_warnings, look_alikes=alike, grouping=grouping
    )
    assert word_of(results(), warning) == word
    if warning:
        assert warning.rows == [0, 5] and warning.evidence["accuracy"].value == 0.6


@pytest.mark.parametrize(
    ("n_clusters", "accuracy", "said"),
    [
        (9, Estimate(0.6, 0.5, 0.7), "With 9 clusters of look-alikes kept whole, 60%"),
        (3, None, "They form 3 clusters of look-alikes, too few"),
        (1, None, "They form 1 cluster of look-alikes, too few"),
        (MOST_GROUPS + 1, None, "They are too many to form clusters"),
    ],
)
def test_the_accuracy_by_clusters_of_look_alikes_is_told_or_why_not(
    n_clusters: int, accuracy: Estimate | None, said: str
) -> None:
    alike = LookAlikes(0.8, [(0, 5, 0.9)], n_clusters, accuracy)
    warning = one(
        data_warnings.look_alike_warnings, look_alikes=alike, grouping=UNDECLARED
    )
    assert warning is not None and said in warning.message


def test_images_that_the_encoder_has_seen_limit_the_word() -> None:
    assert one(data_warnings.training_overlap_warnings, training_overlap=None) is None
    assert (
        one(
            data_warnings.training_overlap_warnings,
            training_overlap=np.arange(100) < 19,
        )
        is None
    )  # may be chance
    warning = one(
        data_warnings.training_overlap_warnings,
        training_overlap=np.arange(100) < 40,
    )
    assert warning is not None and warning.evidence["images"] == 40
    assert word_of(results(), warning) == "Probably"
    assert "40%" in sentence("Probably", results(), [warning], DECLARED)


@pytest.mark.parametrize(
    ("by", "name", "word"),
    [
        ("form of name", "archive-inside-class", "Probably"),
        ("cluster", "cluster-inside-class", "Yes"),
    ],
)
def test_an_archive_inside_a_class_is_told_with_both_parts(
    by: str, name: str, word: str
) -> None:
    both = Estimate(0.97, 0.9, 1), Estimate(0.41, 0.3, 0.5)
    archive = Subgroup(by, "glass", "mr#", 60, *both, [1, 2, 3, 4], only_here=False)
    warning = one(data_warnings.subgroup_warnings, subgroups=[archive])
    assert warning is not None and warning.id == name and warning.rows == [1, 2, 3, 4]
    assert "97%" in warning.message and "41%" in warning.message
    assert word_of(results(), warning) == word
    nameless = replace(archive, name="")
    hidden = one(data_warnings.subgroup_warnings, subgroups=[nameless])
    assert hidden is not None and "mr#" not in hidden.message
    assert ("mr#" in warning.message) == (by == "form of name")


def test_a_split_that_leaks_is_told_with_what_it_hides() -> None:
    right = {"own split": Estimate(0.97, 0.9, 1), "by group": Estimate(0.8, 0.7, 0.9)}
    by_protocol = pd.DataFrame(
        {"images": {"own split": 50, "by group": 200}, "right": right}
    )
    shared = pd.DataFrame({"file": ["a.png"]})
    warning = one(
        data_warnings.published_split_warnings,
        published_split=PublishedSplit(by_protocol, shared),
    )
    assert warning is not None and "splits.csv" in warning.message
    assert warning.evidence["test"] == 50 and warning.evidence["shared"] == 1
    clean = PublishedSplit(by_protocol, shared[:0])
    assert one(data_warnings.published_split_warnings, published_split=clean) is None


def test_a_missed_class_limits_the_word() -> None:
    found = results((400, 40), (4, 14))
    warning = one(data_warnings.missed_class_warnings, results=found)
    assert warning is not None and warning.evidence["class"] == "metal"
    assert warning.strongest_word == "Mostly"
    assert one(data_warnings.missed_class_warnings) is None


@pytest.mark.parametrize(("fewest", "is_few"), [(200, False), (4, True), (5, False)])
def test_too_few_groups_decide_nothing(fewest: int, is_few: bool) -> None:
    images = SimpleNamespace(groups_per_class={"glass": 200, "metal": fewest})
    warning = one(data_warnings.few_groups_warnings, images=images)
    assert (word_of(results(), warning) == "Cannot be said") == is_few


def test_nine_groups_altogether_decide_nothing() -> None:
    found = results()
    for n_groups, is_few in ((9, True), (10, False)):
        groups = np.arange(400) % n_groups
        fewer = replace(found, table=replace(found.table, groups=groups))
        images = SimpleNamespace(groups_per_class={"glass": n_groups})
        warning = one(data_warnings.few_groups_warnings, images=images, results=fewer)
        assert (warning is not None) == is_few


def value_warning(field: str, value: str, of_all: int = 40) -> DataWarning:
    """Return the warning of a value that 40 images of metal have, of `of_all`."""
    found = {"field": field, "value": value, "class": "metal", "images": 40, "p": 1e-9}
    values = pd.DataFrame([{**found, "of_all": of_all, "rows": [0, 1]}])
    warning = one(data_warnings.one_class_value_warnings, one_class_values=values)
    assert warning is not None and warning.evidence == found
    return warning


def test_a_value_of_one_class_is_told_but_no_word_is_changed() -> None:
    warning = value_warning("format", "PNG")
    assert warning.severity == "medium" and warning.rows == [0, 1]
    assert word_of(results(), warning) == "Yes"


@pytest.mark.parametrize(
    ("field", "value", "files"),
    [
        ("format", "PNG", "with the format PNG"),
        ("exif", "", "without EXIF data"),
        ("exif", "271 272", "with the EXIF entries 271 272"),
        ("exif", "damaged", "with damaged EXIF data"),
        ("progressive", "", "without progressive JPEG coding"),
        ("progressive", "yes", "with progressive JPEG coding"),
        ("quality", "0.0", "without JPEG compression"),
        ("quality", "9.5", "with the JPEG quantisation 9.5"),
        ("profile", "560", "with a colour profile of 560 bytes"),
        ("camera", "any", "with the camera any"),
        ("software", "{{ x }}", "with the software {{ x }}"),
    ],
)
def test_files_with_a_value_and_without_one_are_told_plainly(
    field: str, value: str, files: str
) -> None:
    said = value_warning(field, value).message
    assert said.startswith(f"Only metal has files {files} (40 images): somebody made")


def test_each_field_of_the_files_has_its_words() -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    fields = [*pd.DataFrame([file_facts(file.getvalue())]).loc[:, "format":"software"]]
    assert [*data_warnings.FILE_FIELDS] == fields


def test_only_one_class_is_said_where_no_other_has_the_value() -> None:
    nearly = value_warning("format", "PNG", of_all=41).message
    assert nearly.startswith("Nearly all files with the format PNG are of metal (40 of")
    assert "(40 of 41): somebody" in nearly
    # A group of another class may hold many of them.
    by_group = value_warning("format", "PNG", of_all=1400).message
    assert by_group.startswith("By group, nearly all files with the format PNG are of")
    assert "(40 of 1,400): somebody" in by_group


# --- What else a person should look at


def test_imbalance_is_told() -> None:
    assert one(data_warnings.imbalance_warnings) is None
    warning = one(data_warnings.imbalance_warnings, results=results((240, 12), (0, 0)))
    assert warning is not None and warning.evidence["class"] == "glass"


def test_labels_files_and_groups_to_look_at_are_named() -> None:
    names = [f"{number}.jpg" for number in range(9)]
    pairs = pd.DataFrame(
        {"index_a": [0, 2], "index_b": [1, 3], "same_label": [False, True]}
    )
    finder = data_warnings.label_conflict_warnings
    conflict = one(finder, audit=SimpleNamespace(pairs=pairs), names=names)
    assert conflict is not None and conflict.rows == [0, 1]
    assert conflict.evidence == {"pairs": 1}
    agreeing = SimpleNamespace(pairs=pairs[1:])
    assert one(finder, audit=agreeing, names=names) is None
    suspects = pd.DataFrame({"row": [5, 4], "given": [0, 1], "likely": [1, 0]})
    doubt = one(data_warnings.suspect_label_warnings, suspects=suspects, names=names)
    assert doubt is not None and doubt.rows == [5, 4]
    assert "hard" in doubt.message and "most of these" not in doubt.message
    bad = SimpleNamespace(errors={"bad.png": "empty"})
    named = pd.DataFrame({"file": ["bad.png"], "reason": ["empty"]})
    finder = data_warnings.unreadable_file_warnings
    unread = one(finder, images=bad, unreadable=named)
    assert unread is not None and unread.files == ["bad.png"]
    hidden = one(finder, images=bad, unreadable=named[["reason"]])
    assert hidden is not None and hidden.files == [] and "bad" not in hidden.message
    joined = pd.DataFrame({"group_a": ["p1"], "group_b": ["p2"]})
    grouping = Grouping(401, "", {}, joined)
    merged = one(data_warnings.merged_group_warnings, grouping=grouping)
    assert merged is not None and "401 groups become 400" in merged.message


# --- The sentence, and what programs read


def test_the_sentence_says_what_could_not_be_checked() -> None:
    said = sentence("Probably", results(), [], UNDECLARED)
    assert said.startswith("Of 100 new images of this kind, about 98 should come out")
    assert said.endswith(
        "if no two images here show the same object: we could not check that."
    )
    assert " if " not in sentence("Yes", results(), [], DECLARED)
    nothing = sentence("No", results((200, 200), (100, 100)), [], DECLARED)
    assert "no more than the 50 of guessing" in nothing


def test_the_range_for_new_images_holds_in_95_of_100_samples() -> None:
    n, counts = 80, np.arange(81)
    low, high = clopper_pearson(counts / n, n)
    ranges = [
        right_of_new(Estimate(*numbers), 100)
        for numbers in zip(counts / n, low, high, strict=True)
    ]
    lowest, highest = np.transpose(ranges)
    for share in (0.5, 0.75, 0.9, 0.97):
        of_new = binom(100, share)
        is_inside = of_new.cdf(highest) - of_new.cdf(lowest - 1)
        assert 0.93 < binom(n, share).pmf(counts) @ is_inside < 0.99


def test_the_range_deviates_as_the_interval_of_the_share_does() -> None:
    half = 1.959964 * 0.25  # the deviation of a beta distribution of 1.5 and 1.5
    found = right_of_new(Estimate(0.5, 0.5 - half, 0.5 + half), 100)
    assert found == betabinom(100, 1.5, 1.5).interval(0.95)


def test_a_share_that_is_the_same_in_every_group_has_a_range() -> None:
    assert right_of_new(Estimate(0.75, 0.75, 0.75), 100) == binom(100, 0.75).interval(
        0.95
    )


def test_as_good_as_all_are_nearly_all() -> None:
    said = sentence("Yes", results((200, 200), (0, 0)), [], DECLARED)
    assert "nearly all should come out right (98 to 100)" in said


def judged(*found: DataWarning) -> Verdict:
    return Verdict("Perhaps", found, "One sentence.", pd.DataFrame(), [])


def test_warnings_stand_before_the_sentence() -> None:
    text = str(judged(DataWarning("x", "high", "Look at this first.")))
    assert text.index("Perhaps.") < text.index("Look at this") < text.index("One sen")
    assert max(map(len, text.splitlines())) <= 88


@pytest.mark.parametrize(
    ("fail_on", "fails"),
    [
        ("never", False),
        ("high", False),
        ("medium", True),
        ("low", True),
        ("class-missed", True),
        ("shortcut", False),
    ],
)
def test_a_program_is_told_by_severity_or_id(fail_on: str, fails: bool) -> None:
    assert judged(DataWarning("class-missed", "medium", "")).fails(fail_on) == fails


def test_what_names_no_warning_is_refused() -> None:
    for threshold in ("never", "medium", *KINDS):
        check_threshold(threshold)
    with pytest.raises(ValueError, match="--fail-on leak is none of never, high, "):
        check_threshold("leak")


# --- What to do next


def findings(**parts: Any) -> Any:
    """Return as much of the findings as warnings and the next steps read."""
    images = SimpleNamespace(groups_per_class={"glass": 20, "metal": 20})
    defaults = {"images": images, "training_overlap": None}
    defaults |= {"grouping": DECLARED, "command": "cliplib report f --out o"}
    return SimpleNamespace(**{**defaults, "results": results(), **parts})


def test_the_least_sure_class_gets_as_many_groups_as_make_it_sure() -> None:
    worse = results((200, 200), (0, 40))
    (step,) = next_steps(findings(results=worse), "Mostly")
    assert "With about 42 more groups" in step["text"] and not step["command"]
    images = SimpleNamespace(groups_per_class={"glass": 62, "metal": 62})
    assert next_steps(findings(results=worse, images=images), "Mostly") == []
    assert next_steps(findings(results=worse), "No") == []
    assert next_steps(findings(), "Yes") == []  # it is found well


def test_openais_clip_is_a_command_away_from_the_small_one() -> None:
    not_seen = np.zeros(400, bool)
    (step,) = next_steps(findings(training_overlap=not_seen), "Yes")
    assert step["command"].endswith("--others openai/clip-vit-base-patch32")
    proba_by_method = {**results().proba_by_method, "dino": results().proba}
    beside = replace(results(), proba_by_method=proba_by_method)
    assert next_steps(findings(training_overlap=not_seen, results=beside), "Yes") == []


def test_groups_are_to_be_declared_where_no_names_suggest_them() -> None:
    (step,) = next_steps(findings(grouping=UNDECLARED), "Yes")
    assert step["text"].startswith("Declare which images") and not step["command"]
