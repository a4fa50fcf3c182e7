"""Paired comparison: McNemar by hand, the bootstrap beside it, Holm's correction."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cliplib.errors import CliplibError
from cliplib.evaluation.comparison import compare, compare_all, holm


def predictions(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, only_a, only_b, neither], axis=0)
    y = np.zeros(len(right), dtype=int)
    return y, 1 - right[:, 0], 1 - right[:, 1]


def test_mcnemar_by_hand() -> None:
    """Of 10 rows that one gets right, a gets 8: p = 2 (1 + 10 + 45) / 2^10."""
    y, a, b = predictions(50, 8, 2, 5)
    found = compare(y, a, b, n_boot=500)
    assert found.p_mcnemar == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert (found.only_a, found.only_b, found.n) == (8, 2, 65)
    assert found.difference == pytest.approx(6 / 65) == found.accuracy_a - found.accuracy_b
    assert found.low < found.difference < found.high
    assert json.loads(json.dumps(found.numbers()))["only_a"] == 8


def test_equal_classifiers_do_not_differ() -> None:
    y, a, _ = predictions(10, 5, 0, 5)
    found = compare(y, a, a, n_boot=200)
    assert (found.difference, found.p_mcnemar, found.p_bootstrap) == (0, 1, 1)


def test_sides_swap() -> None:
    y, a, b = predictions(50, 12, 4, 5)
    one, two = compare(y, a, b, n_boot=500), compare(y, b, a, n_boot=500)
    assert [two.difference, two.low, two.high] == pytest.approx([-one.difference, -one.high, -one.low])
    assert (two.p_mcnemar, two.p_bootstrap) == (one.p_mcnemar, one.p_bootstrap)


def test_probabilities_stand_for_their_highest_class() -> None:
    y, a, b = predictions(20, 6, 2, 3)
    proba = np.where(np.eye(2)[a] == 1, 0.7, 0.3)
    assert compare(y, proba, b, n_boot=100) == compare(y, a, b, n_boot=100)


def test_bootstrap_p_resembles_mcnemar_on_independent_rows_and_not_on_copies() -> None:
    y, a, b = predictions(300, 40, 22, 38)
    apart = compare(y, a, b, n_boot=4000)
    assert apart.p_bootstrap == pytest.approx(apart.p_mcnemar, abs=0.015)
    y9, a9, b9 = (np.repeat(v, 9) for v in (y, a, b))
    copied = compare(y9, a9, b9, groups=np.repeat(np.arange(len(y)), 9), n_boot=4000)
    assert copied.p_mcnemar < 1e-6  # fooled by copies
    assert copied.p_bootstrap == apart.p_bootstrap


def test_p_bootstrap_is_uniform_enough_when_nothing_differs() -> None:
    """Under the null the share of p below 0.1 is about 0.1 (standard error over 200 runs: 0.02)."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    small = 0
    for seed in range(200):
        a, b = ((rng.random(60) < 0.3)[groups].astype(int) for _ in range(2))
        small += compare(np.zeros(240, dtype=int), a, b, groups=groups, n_boot=300, seed=seed).p_bootstrap <= 0.1
    assert 0.03 <= small / 200 <= 0.18


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1, 1])


def test_all_pairs() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 120)
    given = {
        name: np.where(rng.random(120) < share, y, (y + 1) % 3) for name, share in [("x", 0.9), ("y", 0.7), ("z", 0.5)]
    }
    table = compare_all(y, given, groups=np.arange(120) // 2, n_boot=300)
    assert table[["a", "b"]].to_numpy().tolist() == [["x", "y"], ["x", "z"], ["y", "z"]]
    for p in ("p_mcnemar", "p_bootstrap"):
        assert table[f"{p}_holm"].tolist() == pytest.approx(holm(table[p]).tolist())
        assert (table[f"{p}_holm"] >= table[p]).all()
    single = compare(y, given["x"], given["z"], groups=np.arange(120) // 2, n_boot=300)
    assert table.loc[1, "low"] == single.low


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare([0, 1, 0], [0, 1], [0, 1, 1]), "Predictions a hold 2 rows, but y_true 3"),
        (lambda: compare([0, 1, 0], [0, 1, 1], [[0.5, 0.5]]), r"shape \(3, k\)"),
        (lambda: compare([0, 1], [0, 1], [0, 1], groups=[1]), "one group per row"),
        (lambda: compare_all([0, 1], {"one": [0, 1]}), "at least two classifiers"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call: object, message: str) -> None:
    with pytest.raises(CliplibError, match=message):
        call()  # type: ignore[operator]
