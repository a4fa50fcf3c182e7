"""The verdict's rules, and what they rest on: labels that look wrong, more labels."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from cliplib import FeatureTable
from cliplib.evaluation.intervals import Share
from cliplib.reports.questions import (
    groups_needed,
    groups_per_class,
    learning_curve,
    plan_evaluation,
    suspect_labels,
)
from cliplib.reports.verdict import (
    AidNumbers,
    ElsewhereNumbers,
    ErasedNumbers,
    Measured,
    Step,
    Verdict,
    verdict,
)

GOOD = Measured(
    encoder="some/clip",
    command="cliplib report 'my photos' --out mine",
    n_images=120,
    n_groups=40,
    groups_per_class={"glass": 20, "metal": 20},
    groups_declared=True,
    groups_kept_apart=True,
    series_pattern="",
    example_series=[],
    strongest_trace="size",
    best="kernel probe",
    simplest="linear probe",
    largest_class="glass",
    accuracy={
        "kernel probe": Share(0.95, 0.92, 0.98),
        "linear probe": Share(0.9, 0.86, 0.94),
        "zero-shot": Share(0.5, 0.4, 0.6),
        "file traces": Share(0.6, 0.5, 0.7),
        "brightness": Share(0.6, 0.5, 0.7),
        "always the largest class": Share(0.5, 0.4, 0.6),
    },
    gains={
        "linear probe": Share(0.05, 0.01, 0.09),
        "zero-shot": Share(0.45, 0.3, 0.6),
        "file traces": Share(0.35, 0.2, 0.5),
        "brightness": Share(0.35, 0.2, 0.5),
        "always the largest class": Share(0.45, 0.3, 0.6),
    },
    gain_by_leakage=Share(0.04, 0.01, 0.07),
    sensitivity={"glass": Share(0.97, 0.9, 1), "metal": Share(0.93, 0.8, 1)},
    gain_by_doubling=Share(0.04, 0.01, 0.07),
    target=0.98,
    growth_factor=Share(3.04, 2, 6),
    suspects=["metal/3.jpg"],
    n_label_conflicts=0,
    n_unreadable=0,
    n_merged_groups=0,
    coverage=0.8,
    aid=AidNumbers(n_images=40, n_answered=28, n_wrong=1, highest_risk=0.18),
)


def text(**changes: Any) -> str:
    """Return the verdict on the good case with some changes, on one line."""
    return " ".join(str(verdict(replace(GOOD, **changes))).split())


def with_gain(method: str, gain: Share) -> dict[str, Any]:
    return {"gains": {**GOOD.gains, method: gain}}


def with_accuracy(method: str, accuracy: Share) -> dict[str, Any]:
    return {"accuracy": {**GOOD.accuracy, method: accuracy}}


def test_good_numbers_are_told_with_their_intervals() -> None:
    said = text()
    assert said.startswith("Yes: the CLIP some/clip, frozen, sorts these images well.")
    assert "right for 95% (95% interval 92 to 98; 120 images in 40 groups)" in said
    assert "glass, the largest class, is right for 50%" in said
    assert "35 points (20 to 50) more than these traces" in said
    assert "4 points (1 to 7) better than it is" in said


def test_steps_stand_in_a_list() -> None:
    steps = str(verdict(GOOD)).partition("What to do next:\n")[2].splitlines()
    assert len(steps) > 3 and steps[0].startswith("- ")
    assert all(line.startswith(("- ", "  ")) and len(line) <= 88 for line in steps)


NOTHING = Share(0.0, -0.05, 0.05)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        (with_gain("always the largest class", NOTHING), "No:"),
        (with_gain("file traces", NOTHING), "Perhaps:"),
        (with_accuracy("kernel probe", Share(0.92, 0.89, 0.96)), "Probably:"),
        (with_accuracy("kernel probe", Share(0.89, 0.85, 0.93)), "Mostly:"),
        (
            {"sensitivity": {"glass": Share(1, 0.9, 1), "metal": Share(0.6, 0.2, 0.9)}},
            "Mostly: the CLIP some/clip, frozen, sorts these images, but finds only "
            "60% (20 to 90) of metal.",
        ),
        (
            {"sensitivity": {"glass": Share(1, 0.9, 1), "metal": Share(0.7, 0.5, 0.9)}},
            "Yes:",
        ),
        (
            with_gain("always the largest class", Share(0.2, -0.1, 0.5)),
            "Not shown: these images do not tell",
        ),
        (
            with_gain("always the largest class", Share(0.02, -0.06, 0.1)),
            "Not shown:",
        ),
        (with_accuracy("kernel probe", Share(0.69, 0.65, 0.73)), "Only in part:"),
        (with_accuracy("kernel probe", Share(0.92, 0.9, 0.96)), "Yes:"),
        (with_accuracy("kernel probe", Share(0.7, 0.6, 0.85)), "Mostly:"),
        ({"n_groups": 9}, "It cannot be said yet"),
        ({"n_groups": 10}, "Yes:"),
        ({"groups_per_class": {"glass": 20, "metal": 4}}, "It cannot be said yet"),
        ({"groups_per_class": {"glass": 20, "metal": 5}}, "Yes:"),
        ({"groups_declared": False, "series_pattern": "(a)_b"}, "Perhaps:"),
        (
            {
                "groups_declared": False,
                "series_pattern": "(a)_b",
                **with_accuracy("kernel probe", Share(0.7, 0.6, 0.8)),
            },
            "Perhaps:",
        ),
        ({"groups_kept_apart": False}, "It cannot be said yet"),
        (
            with_gain("file traces", Share(-0.2, -0.3, -0.1)),
            "Perhaps: the CLIP some/clip, frozen, sorts these images, but traces in "
            "their files sort them better.",
        ),
    ],
)
def test_the_answer_follows_the_intervals(changes: Any, answer: str) -> None:
    assert text(**changes).startswith(answer)


def test_a_class_of_one_photograph_is_named() -> None:
    said = text(groups_per_class={"glass": 20, "metal": 1}, groups_kept_apart=False)
    assert "Too few groups show metal (1)" in said
    assert "says nothing of new ones" in said
    assert "Asked for images of groups that it may have been trained on" in said


@pytest.mark.parametrize(
    ("accuracy", "gain", "said"),
    [
        (Share(0.95, 0.9, 1), Share(0.0, -0.01, 0.01), "Words are enough"),
        (Share(0.93, 0.9, 1), Share(0.02, -0.02, 0.06), "Words may be enough"),
        (Share(0.8, 0.7, 0.9), Share(0.15, 0.1, 0.2), "Words help"),
        (Share(0.5, 0.4, 0.6), Share(0.45, 0.3, 0.6), "Words are not enough"),
    ],
)
def test_words(accuracy: Share, gain: Share, said: str) -> None:
    changes = with_accuracy("zero-shot", accuracy) | with_gain("zero-shot", gain)
    assert said in text(**changes)


@pytest.mark.parametrize(
    ("doubling", "said"),
    [
        (Share(0.04, 0.01, 0.07), "More labels pay"),
        (Share(0.0, -0.01, 0.01), "More labels hardly pay"),
        (Share(0.02, -0.03, 0.07), "cannot be told"),
        (None, "too few groups"),
    ],
)
def test_more_labels_follow_the_slope(doubling: Share | None, said: str) -> None:
    assert said in text(gain_by_doubling=doubling)


FROM_ZERO, TO_ZERO = Share(0.03, 0, 0.06), Share(-0.03, -0.06, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (with_gain("always the largest class", FROM_ZERO), "No: "),
        (with_gain("file traces", FROM_ZERO), "may sort them as well"),
        (with_gain("file traces", TO_ZERO), "may sort them as well"),
        (with_gain("file traces", FROM_ZERO), "do not show that CLIP is better"),
        (with_gain("file traces", TO_ZERO), "do not show that CLIP is better"),
        (with_gain("brightness", FROM_ZERO), "CLIP may see no more than that"),
        (with_gain("zero-shot", FROM_ZERO), "Words may be enough"),
        (with_gain("linear probe", FROM_ZERO), "do not show which is better"),
        ({"gain_by_leakage": FROM_ZERO}, "made no difference that can be shown"),
        ({"gain_by_leakage": TO_ZERO}, "made no difference that can be shown"),
        ({"gain_by_doubling": FROM_ZERO}, "cannot be told from these images"),
        ({"gain_by_doubling": TO_ZERO}, "More labels hardly pay"),
        (
            {"other_encoders": ["dino"], **with_gain("dino", FROM_ZERO)},
            "do not show that dino would do better",
        ),
        (
            {"other_encoders": ["dino"], **with_gain("dino", TO_ZERO)},
            "do not show that dino would do better",
        ),
        (
            {"erased": ErasedNumbers(70, Share(0.85, 0.8, 0.9), FROM_ZERO, None)},
            "costs nothing that can be shown",
        ),
    ],
)
def test_an_interval_that_ends_at_zero_shows_nothing(changes: Any, said: str) -> None:
    assert said in text(**changes)


def test_two_points_that_labels_may_bring_are_worth_them() -> None:
    up_to_two = Share(0.01, -0.005, 0.02)
    assert "Words may be enough" in text(**with_gain("zero-shot", up_to_two))
    assert "cannot be told from these images" in text(gain_by_doubling=up_to_two)
    up_to_less = Share(0.01, -0.005, 0.019)
    assert "Words are enough" in text(**with_gain("zero-shot", up_to_less))
    assert "More labels hardly pay" in text(gain_by_doubling=up_to_less)


@pytest.mark.parametrize("words", [Share(0.6, 0.5, 0.7), Share(0.4, 0.3, 0.5)])
def test_words_that_may_be_as_good_as_the_largest_class_do_not_help(
    words: Share,
) -> None:
    said = text(**with_accuracy("zero-shot", words))
    assert "no better than the largest class" in said


def test_images_that_are_no_copies_are_not_called_unseen_groups() -> None:
    assert "Asked for images of groups that it was not trained on" in text()
    said = text(groups_declared=False)
    assert "Asked for images of which it was trained on no copy" in said
    assert "no difference" not in text(groups_declared=False, gain_by_leakage=NOTHING)


def test_nothing_is_said_of_leakage_where_none_was_measured() -> None:
    assert "divided between" not in text(gain_by_leakage=None)
    assert "divided between" not in text(groups_kept_apart=False)


def test_what_can_be_answered_is_a_share_or_all() -> None:
    assert "it can answer up to 80% of the images with at most 5% errors" in text()
    assert "chosen on 40 images held out: it answers 28 of them, 1 wrongly." in text()
    assert "on new images, up to 18% of its answers may be wrong" in text()
    sure = AidNumbers(n_images=900, n_answered=800, n_wrong=9, highest_risk=0.021)
    assert "800 of them, 9 wrongly." in text(aid=sure)
    assert "may be wrong" not in text(aid=sure)
    silent = AidNumbers(n_images=40, n_answered=0, n_wrong=0, highest_risk=None)
    assert "it answers none of them" in text(aid=silent)
    said = text(coverage=1)
    assert "Of all its answers at most 5% are wrong" in said and "abstain" not in said


def test_the_best_probe_is_used_alone_where_no_simpler_one_is_beside_it() -> None:
    said = text(simplest="kernel probe")
    assert "Use the kernel probe: no other probe is better here" in said
    assert "Use the" not in text(n_groups=9)


def test_a_paragraph_is_as_wide_as_a_terminal() -> None:
    longest = max(len(line) for line in str(verdict(GOOD)).splitlines())
    assert 80 < longest <= 88
    whole = str(Verdict("x" * 88, [], [Step("y" * 86)])).splitlines()
    assert "x" * 88 in whole and "- " + "y" * 86 in whole
    broken = str(Verdict("x" * 89, [], [Step("y" * 87)])).splitlines()
    assert all(len(line) <= 88 for line in broken)


def test_groups_are_asked_for_where_none_are_declared() -> None:
    assert "--groups" not in text()
    assert "may be too good: declare which belong" in text(groups_declared=False)


def test_a_command_stands_on_one_line_with_the_files_that_it_joins() -> None:
    pattern = rf"(.+ {'long' * 30})_\d"
    changes = {
        "groups_declared": False,
        "series_pattern": pattern,
        "example_series": ["a_1.jpg", "a_2.jpg"],
    }
    said = str(verdict(replace(GOOD, **changes)))
    command = f"      cliplib report 'my photos' --out mine --groups '{pattern}'"
    assert command in said.splitlines()
    assert "a_1.jpg and a_2.jpg, for example, would be kept together" in " ".join(
        said.split()
    )


def test_of_a_long_series_four_files_are_named() -> None:
    said = text(
        groups_declared=False,
        series_pattern=r"(a)_\d",
        example_series=[f"a_{number}.jpg" for number in range(5)],
    )
    assert "a_0.jpg, a_1.jpg, a_2.jpg and a_3.jpg, for example" in said


def test_the_embedded_encoder_is_called_small_and_openais_is_a_command_away() -> None:
    said = str(verdict(replace(GOOD, encoder="mini")))
    assert said.startswith("Yes: the small CLIP inside (mini), frozen, sorts")
    command = f"{GOOD.command} --others openai/clip-vit-base-patch32"
    assert f"      {command}" in said.splitlines()
    assert "openai" not in text()
    beside = {"other_encoders": ["dino"], **with_gain("dino", NOTHING)}
    assert "openai" not in text(encoder="mini", **beside)


def test_after_a_no_nothing_is_advised_but_a_larger_encoder() -> None:
    nothing = with_gain("always the largest class", NOTHING)
    assert verdict(replace(GOOD, **nothing)).steps == []
    said = verdict(replace(GOOD, encoder="mini", groups_declared=False, **nothing))
    assert len(said.steps) == 1 and "openai" in said.steps[0].command
    assert "Words" not in str(said) and "More labels" not in str(said)


def test_after_a_no_files_are_checked_and_labels_are_not_doubted() -> None:
    nothing = with_gain("always the largest class", NOTHING)
    (step,) = verdict(replace(GOOD, n_unreadable=1, **nothing)).steps
    assert step.text == "Check: 1 file could not be read."


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("file traces", "worse than the traces, by 46 points (39 to 54)"),
        ("zero-shot", "Words are enough"),
        ("always the largest class", "No:"),
    ],
)
def test_an_interval_below_zero_is_called_worse(method: str, said: str) -> None:
    assert said in text(**with_gain(method, Share(-0.46, -0.54, -0.39)))


def test_other_intervals_below_zero_are_called_worse() -> None:
    loss = Share(-0.07, -0.1, -0.04)
    assert "divided between training and test it is 7 points (4 to 10) worse" in text(
        gain_by_leakage=loss
    )
    assert "do not pay: the last doubling cost 7 points (4 to 10)" in text(
        gain_by_doubling=loss
    )
    poor = with_accuracy("zero-shot", Share(0.01, 0, 0.05))
    assert "1% (0 to 5), worse than the largest class" in text(**poor)


@pytest.mark.parametrize("answered", [0, float("nan")])
def test_where_nothing_can_be_answered_no_share_is_named(answered: float) -> None:
    said = text(coverage=answered)
    assert "errs in more than 5% of its answers" in said and "nan" not in said


def test_one_image_is_no_images() -> None:
    assert "1 image in 1 group)" in text(n_images=1, n_groups=1)
    assert "2,527 images in" in text(n_images=2527)


def test_the_simplest_classifier_that_is_not_worse_will_do() -> None:
    assert "5 points (1 to 9) better than the linear probe" in text()
    assert "or the linear probe" in text(**with_gain("linear probe", NOTHING))


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Share(-0.06, -0.1, -0.02), "Consider dino in place of some/clip: by the same"),
        (Share(-0.06, -0.1, 0.02), "do not show that dino would do better"),
        (Share(0.06, 0.02, 0.1), "dino is 6 points (2 to 10) worse"),
    ],
)
def test_another_encoder_is_named_where_it_is_better(gain: Share, said: str) -> None:
    assert "dino" not in text()
    assert said in text(other_encoders=["dino"], **with_gain("dino", gain))


def test_the_best_of_better_encoders_is_named_with_what_it_adds() -> None:
    gains = {"dino": Share(-0.06, -0.1, -0.02), "siglip": Share(-0.08, -0.1, -0.06)}
    said = text(other_encoders=[*gains], gains={**GOOD.gains, **gains})
    assert "Consider siglip" in said
    assert "it is 8 points (6 to 10) better" in said


def test_a_better_encoder_is_named_though_another_may_be_better_still() -> None:
    gains = {"dino": Share(-0.06, -0.1, -0.02), "siglip": Share(-0.08, -0.2, 0.04)}
    said = text(other_encoders=[*gains], gains={**GOOD.gains, **gains})
    assert "Consider dino" in said
    assert "it is 6 points (2 to 10) better" in said


def test_no_encoder_is_called_worse_for_all_where_one_may_be_better() -> None:
    gains = {"dino": Share(0.02, 0.01, 0.03), "siglip": Share(0.04, -0.02, 0.1)}
    said = text(other_encoders=[*gains], gains={**GOOD.gains, **gains})
    assert "do not show that dino or siglip would do better" in said
    both_worse = {**gains, "siglip": Share(0.04, 0.02, 0.06)}
    said = text(other_encoders=[*gains], gains={**GOOD.gains, **both_worse})
    assert "dino is 2 points (1 to 3) worse" in said


def test_the_class_that_is_missed_gets_a_number_of_groups() -> None:
    missed = {"glass": Share(0.97, 0.9, 1), "metal": Share(0.5, 0.3, 0.7)}
    assert "Collect metal, the class that is missed most" in text(sensitivity=missed)
    # 1.96² · 0.25 / 0.1² = 97 groups, of which 20 are there.
    assert "about 77 more groups" in text(sensitivity=missed)


def test_the_least_sure_class_gets_as_many_as_make_it_sure() -> None:
    # Of 93% found as of 90%, lest few promise certainty: 1.96² · 0.09 / 0.1² = 35.
    least_sure = "Collect metal, the least sure class: 93% (80 to 100) of it found"
    assert f"{least_sure}, in 20 groups. With about 15 more groups" in text()
    counts = {"glass": 40, "metal": 34}
    assert "With about 1 more group of it" in text(groups_per_class=counts)
    assert "Collect" not in text(groups_per_class={**counts, "metal": 35})


def test_a_class_that_is_missed_is_doubled_while_labels_may_pay() -> None:
    missed = {"glass": Share(0.97, 0.9, 1), "metal": Share(0.5, 0.4, 0.6)}
    many = {"sensitivity": missed, "groups_per_class": {"glass": 60, "metal": 60}}
    for doubling in (GOOD.gain_by_doubling, None, Share(0.01, -0.01, 0.02)):
        assert "about 60 more groups" in text(**many, gain_by_doubling=doubling)
    # Where they do not, it is known to ten points by 97 groups.
    flat = Share(0.0, -0.01, 0.01)
    assert "about 37 more groups" in text(**many, gain_by_doubling=flat)


@pytest.mark.parametrize(
    ("found", "why"), [(0.84, "is missed most"), (0.86, "least sure")]
)
def test_a_class_is_weak_ten_points_below_the_accuracy(found: float, why: str) -> None:
    metal = Share(found, found - 0.1, found + 0.1)
    assert why in text(sensitivity={"glass": Share(0.97, 0.9, 1), "metal": metal})


def test_labels_to_check_are_named() -> None:
    assert "1 label looks wrong, metal/3.jpg" in text()
    assert "Check" not in text(suspects=[])
    assert "hard images" not in text()
    errs = with_accuracy("kernel probe", Share(0.6, 0.5, 0.7))
    assert "most of these are hard images" in text(**errs)
    edge = with_accuracy("kernel probe", Share(0.9, 0.8, 1))
    assert "hard images" not in text(**edge)
    assert "1 pair of copies bears two labels" in text(n_label_conflicts=1)
    assert "2 pairs of copies bear two labels" in text(n_label_conflicts=2)
    assert "1 pair of groups that you declared apart holds copies" in text(
        n_merged_groups=1
    )
    assert "1 file could not be read" in text(n_unreadable=1)
    nothing = {
        "suspects": [],
        "n_label_conflicts": 0,
        "n_merged_groups": 0,
        "n_unreadable": 0,
    }
    assert "Check" not in text(**nothing)


def test_of_many_labels_to_check_four_are_named() -> None:
    four = [f"metal/{number}.jpg" for number in range(4)]
    named = "metal/0.jpg, metal/1.jpg, metal/2.jpg and metal/3.jpg"
    said = text(suspects=four)
    assert f"4 labels look wrong, {named}." in said
    said = text(suspects=[*four, "metal/4.jpg"])
    assert f"5 labels look wrong, {named} first of all" in said


def test_the_strongest_trace_is_named_where_traces_may_do() -> None:
    assert "strongest" not in text()
    said = text(strongest_trace="texture", **with_gain("file traces", NOTHING))
    assert "The strongest of them is bytes a pixel, which texture raises as" in said


def test_brightness_is_told_apart_from_the_files() -> None:
    assert "Brightness" not in text()
    said = text(**with_gain("brightness", NOTHING))
    assert "of the picture and not of the file" in said
    assert said.startswith("Yes")  # it is no trace of the file


def test_the_curve_is_read_forward_or_it_is_said_that_it_cannot_be() -> None:
    assert (
        "98% needs about 120 groups in all (80 to 240), of which there are 40" in text()
    )
    assert "How many more 98% would need cannot be said" in text(growth_factor=None)
    beyond = text(target=1.0, growth_factor=None)
    assert "needs about" not in beyond and "How many more" not in beyond
    assert "98%" not in text(gain_by_doubling=NOTHING)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Share(0.71, 0.63, 0.78), "that is 24 points (16 to 33) less than here"),
        (
            Share(0.94, 0.9, 0.97),
            "no difference from here is shown (1 point (−3 to 6))",
        ),
        (Share(0.999, 0.99, 1), "that is 5 points (2 to 8) more than here"),
    ],
)
def test_another_folder_is_set_beside_this_one(share: Share, said: str) -> None:
    away = ElsewhereNumbers(
        name="site B",
        n_images=84,
        left_out={"are of a class that is not here": 20},
        accuracy=Share(0.33, 0.2, 0.5),
        balanced=share,
        balanced_here=Share(0.95, 0.92, 0.98),
        answered=Share(0.6, 0.5, 0.7),
        wrong=Share(0.09, 0.03, 0.2),
    )
    told = text(elsewhere=away)
    assert "names 33% (20 to 50) rightly" in told
    assert "Left out are those that are of a class that is not here (20)." in told
    assert "Of 84 images from elsewhere, site B" in told and said in told
    assert "answers 60% of them, and 9% (3 to 20) of its answers are wrong" in told
    silent = away._replace(answered=Share(0, 0, 0.1), wrong=Share(*[float("nan")] * 3))
    told = text(elsewhere=silent)
    assert "answers 0% of them." in told and "nan" not in told


def test_an_erased_object_is_told_with_its_control() -> None:
    loss = Share(0.05, 0.02, 0.08)
    erased = ErasedNumbers(70, Share(0.85, 0.8, 0.9), loss, NOTHING)
    told = text(erased=erased)
    assert "85% (80 to 90) of 70 images are still named rightly, 5 points" in told
    assert "on the other side of the image costs 0 points (−5 to 5)" in told
    told = text(erased=erased._replace(loss=NOTHING, control_loss=None))
    assert "costs nothing that can be shown" in told and "other side" not in told


def test_joined_groups_are_to_be_checked() -> None:
    told = "2 pairs of groups that you declared apart hold copies of each other"
    assert told in text(n_merged_groups=2)


def test_a_wrong_label_is_found_and_a_hard_image_is_not() -> None:
    labels = np.repeat([0, 1], 10)
    proba = np.where(np.arange(2) == labels[:, None], 0.9, 0.1)
    proba[3] = [0.05, 0.95]  # surely of the other class
    proba[4] = [0.45, 0.55]  # wrongly classified, but without confidence
    proba[14] = [0.55, 0.45]
    suspects = suspect_labels(labels, proba)
    assert suspects["row"].tolist() == [3]
    assert suspects["likely"].tolist() == [1]
    assert suspects["margin"].tolist() == pytest.approx([0.9])


def test_thresholds_are_those_of_each_class() -> None:
    # Class 1 is never predicted with more than 0.6: 0.6 is confident there.
    labels = np.repeat([0, 1], 10)
    proba = np.where(labels[:, None] == 0, [0.95, 0.05], [0.4, 0.6])
    proba[0] = [0.4, 0.6]
    assert suspect_labels(labels, proba)["row"].tolist() == [0]


def test_a_probability_that_just_reaches_the_mean_is_confident() -> None:
    proba = np.array([[0.9, 0.1]] * 5 + [[0.2, 0.8]] * 2)
    # The one image of class 1 has 0.8; so has an image that is called class 0.
    assert suspect_labels([0] * 6 + [1], proba)["row"].tolist() == [5]


def test_a_label_that_is_the_most_probable_one_is_no_suspect() -> None:
    # 0.45 is confident for class 0, and 0.55 is not for class 1.
    proba = np.array([[0.4, 0.6]] * 5 + [[0.46, 0.54]] * 5 + [[0.05, 0.95]] * 9)
    proba = np.vstack([proba, [0.45, 0.55]])
    assert suspect_labels([0] * 10 + [1] * 10, proba).empty


def test_a_class_that_nothing_bears_is_not_suspected() -> None:
    proba = np.array([[0.8, 0.1, 0.1]] * 5 + [[0.1, 0.1, 0.8]] + [[0.1, 0.8, 0.1]] * 5)
    assert suspect_labels([0] * 6 + [1] * 5, proba).empty


def test_the_worst_label_comes_first() -> None:
    labels = np.repeat([0, 1], 10)
    proba = np.where(np.arange(2) == labels[:, None], 0.9, 0.1)
    proba[3], proba[5], proba[12] = [0.1, 0.9], [0.02, 0.98], [0.95, 0.05]
    assert suspect_labels(labels, proba)["row"].tolist() == [5, 12, 3]


def table(groups_of_a_class: int, images: int = 3) -> FeatureTable:
    """Return two classes that a line separates, in groups of some images."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], groups_of_a_class * images)
    features = rng.normal(size=(len(labels), 4)) + 4 * labels[:, None]
    groups = np.repeat(np.arange(2 * groups_of_a_class), images)
    return FeatureTable.from_arrays(features, labels, groups=groups, classes="ab")


def test_the_learning_curve_grows_by_groups() -> None:
    curve, proba = learning_curve(LogisticRegression(), table(20))
    assert curve["share"].tolist() == [0.125, 0.25, 0.5, 1.0]
    assert curve["groups"].tolist() == [4, 8, 16, 32]
    assert (curve["images"] == 3 * curve["groups"]).all()
    assert proba[-1].sum(axis=1) == pytest.approx(1)


class NotingFits(DummyClassifier):
    """Notes the images of each fit, by the numbers that are their features."""

    fits: list[set[int]] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any) -> NotingFits:
        self.fits.append(set(X[:, 0].astype(int)))
        super().fit(X, y)
        return self


def test_larger_shares_hold_the_smaller_ones_and_each_class_its_part() -> None:
    whole = table(20)
    numbered = np.arange(len(whole))[:, None]
    NotingFits.fits.clear()
    learning_curve(NotingFits(), whole.with_features(numbered))
    by_share = np.array(NotingFits.fits).reshape(4, 5)  # four shares, five folds
    for fold in range(5):
        for smaller, larger in pairwise(by_share[:, fold]):
            assert smaller < larger
        for images, n_groups in zip(by_share[:, fold], (2, 4, 8, 16), strict=True):
            trained = whole.select(sorted(images))
            assert groups_per_class(trained).tolist() == [n_groups] * 2
    NotingFits.fits.clear()
    learning_curve(NotingFits(), whole.with_features(numbered), seed=1)
    assert NotingFits.fits != by_share.ravel().tolist()


def power_law(
    slope: float, n: int = 4000
) -> tuple[pd.DataFrame, list[np.ndarray], FeatureTable]:
    """Return a curve of which the error is 0.4 at 50 groups, falling by a power."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    hard = rng.random(n)
    sizes = np.array([50, 100, 200, 400])
    answers = []
    for size in sizes:
        said = np.where(hard < 0.4 * (size / 50) ** -slope, 1 - labels, labels)
        answers.append(np.eye(2)[said])
    one = FeatureTable.from_arrays(np.zeros((n, 1)), labels, classes="ab")
    return pd.DataFrame({"groups": sizes}), answers, one


def test_a_curve_that_falls_by_a_power_is_read_forward() -> None:
    curve, answers, whole = power_law(0.5)
    # 0.4 · (n / 50)^−0.5 = 0.1 at n = 800, twice 400.
    times = groups_needed(curve, answers, whole, 0.9)
    assert times is not None
    assert times.value == pytest.approx(2, rel=0.1)
    # Its interval is that of lines fitted to images drawn anew.
    wrong = np.stack([proba.argmax(axis=1) != whole.labels for proba in answers], 1)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(500):
        errors = wrong[rng.integers(0, len(wrong), len(wrong))].mean(axis=0)
        slope, start = np.polyfit(np.log(curve["groups"]), np.log(errors), 1)
        drawn.append(np.exp((np.log(0.1) - start) / slope) / 400)
    expected = np.quantile(drawn, [0.025, 0.975])
    assert [times.low, times.high] == pytest.approx(expected, rel=0.05)


def test_a_curve_is_not_read_too_far_nor_where_it_is_flat() -> None:
    curve, answers, whole = power_law(0.5)
    assert groups_needed(curve, answers, whole, 0.99) is None  # 200 times as many
    assert groups_needed(curve[:2], answers[:2], whole, 0.9) is None
    curve, answers, whole = power_law(0.0)
    assert groups_needed(curve, answers, whole, 0.9) is None


def test_a_curve_is_read_up_to_ten_times_as_far() -> None:
    curve, answers, whole = power_law(0.5, n=400)
    targets = np.linspace(0.92, 0.926, 4)
    found = [groups_needed(curve, answers, whole, target) for target in targets]
    highest = max(times.high for times in found if times)
    assert 9.5 < highest <= 10
    assert None in found


def tripled(
    answers: list[np.ndarray], whole: FeatureTable
) -> tuple[list[np.ndarray], FeatureTable]:
    """Return answers and a table with each image three times, in a group of its own."""
    rows = np.repeat(np.arange(len(whole)), 3)
    copies = FeatureTable.from_arrays(
        whole.features[rows], whole.labels[rows], groups=rows, classes="ab"
    )
    return [proba[rows] for proba in answers], copies


def test_a_curve_that_ends_without_errors_has_half_a_one_there() -> None:
    n = 400
    labels = np.arange(n) % 2
    sizes, errors = np.array([50, 100, 200, 400]), np.array([160, 40, 10, 0])
    answers = [
        np.eye(2)[np.where(np.arange(n) < e, 1 - labels, labels)] for e in errors
    ]
    whole = FeatureTable.from_arrays(np.zeros((n, 1)), labels, classes="ab")
    curve = pd.DataFrame({"groups": sizes})
    times = groups_needed(curve, answers, whole, 0.998)
    shares = np.maximum(errors, 0.5) / n
    slope, start = np.polyfit(np.log(sizes), np.log(shares), 1)
    assert times is not None
    expected = np.exp((np.log(0.002) - start) / slope) / 400
    assert times.value == pytest.approx(expected)
    # Of groups: half a group, not half an image.
    found = groups_needed(curve, *tripled(answers, whole), 0.998)
    assert found == pytest.approx(times)


def test_images_of_one_group_are_one_on_the_curve() -> None:
    curve, answers, whole = power_law(0.5, n=400)
    alone = groups_needed(curve, answers, whole, 0.9)
    assert alone is not None
    found = groups_needed(curve, *tripled(answers, whole), 0.9)
    assert found == pytest.approx(alone)


def test_shares_of_too_few_groups_are_left_out() -> None:
    curve, proba = learning_curve(LogisticRegression(), table(5))
    assert curve["share"].tolist() == [0.5, 1.0]
    assert len(proba) == 2


def test_folds_are_those_that_the_groups_allow() -> None:
    assert plan_evaluation(table(20)).n_splits == 5
    assert plan_evaluation(table(4)).n_splits == 4


def test_a_class_in_one_group_is_measured_by_image_and_that_can_be_told() -> None:
    few = table(1, images=8)
    measured = plan_evaluation(few)
    assert (
        not measured.groups_kept_apart and plan_evaluation(table(20)).groups_kept_apart
    )
    assert measured.n_splits == 5
    assert groups_per_class(measured.table).tolist() == [8, 8]
    of_one_class = measured.table.select(np.flatnonzero(few.labels == 0))
    assert groups_per_class(of_one_class).tolist() == [8, 0]


def test_folds_by_image_are_no_more_than_the_images_allow() -> None:
    few = plan_evaluation(table(1, images=4))
    assert few.n_splits == 4 and not few.groups_kept_apart


def test_published_folds_are_dropped_where_groups_cannot_be_kept_apart() -> None:
    given = table(1, images=8)
    published = replace(given, folds=given.labels + 1)  # a fold for each group
    assert (plan_evaluation(published).table.folds == 0).all()


def test_a_class_of_three_images_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'a' has 3 images"):
        plan_evaluation(table(3, images=1))
