"""Numbers and lists are written as people read them."""

from __future__ import annotations

import numpy as np

from cliplib.data.wording import counted, listing, number
from cliplib.evaluation.intervals import Estimate
from cliplib.reports.templates import percent, points, whole_percent


def test_shares_are_written_with_their_intervals() -> None:
    assert percent(Estimate(0.5, 0.404, 0.596)) == "50% (40 to 60)"
    assert percent(Estimate(*[float("nan")] * 3)) == "–"
    assert points(Estimate(0.01, -0.03, 0.05)) == "1 point (−3 to 5)"
    assert points(Estimate(-0.001, -0.2, 0.0)) == "0 points (−20 to 0)"
    assert percent(Estimate(-0.1, -0.2, -0.001)) == "−10% (−20 to 0)"
    assert whole_percent(-0.001) == "0%"


def test_numbers_have_separators_or_three_decimals() -> None:
    values = (1.0, 1536, np.int64(90), np.float32(0.12345), float("nan"), None, "a-b")
    written = [number(value) for value in values]
    assert written == ["1.000", "1,536", "90", "0.123", "", "none", "a-b"]
    assert [number(value) for value in (-1536, -0.5)] == ["−1,536", "−0.500"]


def test_one_thing_is_not_several_and_lists_end_in_and() -> None:
    assert [counted(n, "image") for n in (0, 1, 2527)] == [
        "0 images",
        "1 image",
        "2,527 images",
    ]
    assert [listing(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
