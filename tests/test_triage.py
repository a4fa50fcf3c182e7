"""Triage: thresholds and refusal on hand-worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplib.errors import CliplibError
from cliplib.evaluation.triage import at_threshold, operating_point, risk_coverage, roc_points

Y = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1])
SCORE = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


@pytest.mark.parametrize(
    ("target", "threshold"),
    [
        ({"sensitivity": 1.0}, 0.4),
        ({"sensitivity": 0.8}, 0.6),
        ({"sensitivity": 0.61}, 0.6),
        ({"sensitivity": 0.6}, 0.7),
        ({"specificity": 1.0}, 0.6),
        ({"specificity": 0.8}, 0.4),
        ({"specificity": 0.2}, 0.1),
    ],
)
def test_operating_point_by_hand(target: dict[str, float], threshold: float) -> None:
    assert operating_point(Y, SCORE, **target) == threshold


def test_full_specificity_when_the_highest_score_is_negative() -> None:
    threshold = operating_point([1, 0], [0.2, 0.9], specificity=1.0)
    assert threshold > 0.9
    assert at_threshold([1, 0], [0.2, 0.9], threshold, n_boot=100).loc["specificity", "value"] == 1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=30),
    target=st.sampled_from([0.1, 0.5, 0.7, 0.95, 1.0]),
)
def test_target_is_reached_and_no_other_threshold_does_better(rows: list[tuple[bool, int]], target: float) -> None:
    y, s = np.array([[1, 0], *([int(a), b] for a, b in rows), [0, 0]]).T
    for name, other in (("sensitivity", "specificity"), ("specificity", "sensitivity")):

        def rates(threshold: float) -> dict[str, float]:
            return {"sensitivity": (s[y == 1] >= threshold).mean(), "specificity": (s[y == 0] < threshold).mean()}

        chosen = rates(operating_point(y, s, **{name: target}))
        assert chosen[name] >= target - 1e-12
        every = [rates(t) for t in [*np.unique(s), 99]]
        assert chosen[other] == max(r[other] for r in every if r[name] >= target - 1e-12)


def test_at_threshold_by_hand() -> None:
    table = at_threshold(Y, SCORE, 0.55, n_boot=500)
    expected = {"sensitivity": 0.8, "specificity": 1, "ppv": 1, "npv": 5 / 6, "flagged": 0.4, "spared": 0.6}
    assert table["value"].to_dict() == pytest.approx(expected)
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert table.loc["specificity"].tolist() == pytest.approx([1, 0.025 ** (1 / 5), 1])  # five of five
    assert table.loc["spared", ["low", "high"]].tolist() == pytest.approx(
        (1 - table.loc["flagged", ["high", "low"]]).tolist()
    )


def test_at_threshold_counts_groups_not_rows() -> None:
    many = at_threshold(np.repeat(Y, 6), np.repeat(SCORE, 6), 0.55, groups=np.repeat(np.arange(10), 6), n_boot=300)
    once = at_threshold(Y, SCORE, 0.55, n_boot=300)
    np.testing.assert_allclose(many, once)


def test_nothing_flagged_has_no_ppv() -> None:
    table = at_threshold(Y, SCORE, 2.0, n_boot=100)
    assert table.loc["ppv"].isna().all() and table.loc["flagged", "value"] == 0 and table.loc["flagged", "high"] > 0


def test_roc_points_start_strict_and_end_open() -> None:
    points = roc_points(Y, SCORE)
    assert points.iloc[0].tolist() == [np.inf, 0, 1]
    assert points.iloc[-1][["sensitivity", "specificity"]].tolist() == [1, 0]
    for t, sensitivity, specificity in points.itertuples(index=False):
        assert sensitivity == pytest.approx((SCORE[Y == 1] >= t).mean())
        assert specificity == pytest.approx((SCORE[Y == 0] < t).mean())


def test_risk_coverage_by_hand() -> None:
    """Confidences 0.9 right, 0.8 wrong, 0.7 right, 0.6 right: risks 0, 1/2, 1/3, 1/4."""
    y = [0, 1, 0, 1]
    proba = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]]
    curve, aurc = risk_coverage(y, proba)
    assert curve["threshold"].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1]
    assert curve["risk"].tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_rows_of_equal_confidence_are_answered_together() -> None:
    curve, aurc = risk_coverage([0, 1, 0], [[0.9, 0.1], [0.7, 0.3], [0.7, 0.3]])
    assert curve["coverage"].tolist() == pytest.approx([1 / 3, 1])
    assert aurc == pytest.approx(1 / 3 * 0 + 2 / 3 * 1 / 3)


def test_own_confidence() -> None:
    curve, _ = risk_coverage([0, 1], [[0.9, 0.1], [0.7, 0.3]], confidence=[1.0, 5.0])
    assert curve["risk"].tolist() == [1, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: operating_point(Y, SCORE), "exactly one target"),
        (lambda: operating_point(Y, SCORE, sensitivity=0.9, specificity=0.9), "exactly one target"),
        (lambda: operating_point(Y, SCORE, sensitivity=95), "between 0 and 1"),
        (lambda: operating_point([1, 1], [0.1, 0.2], sensitivity=0.9), "both 0 and 1 are needed"),
        (lambda: at_threshold([0, 2], [0.1, 0.2], 0.5), "0..1 are allowed"),
        (lambda: at_threshold(Y, SCORE[:3], 0.5), "one per label"),
        (lambda: risk_coverage([0, 1], [[0.5, 0.5]]), "2 labels"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call: object, message: str) -> None:
    with pytest.raises(CliplibError, match=message):
        call()  # type: ignore[operator]
