"""A result that agrees to the printed digits stays as it was saved."""

from __future__ import annotations

import pytest

from study.agreement import agrees


@pytest.mark.parametrize(
    ("new", "saved"),
    [
        ('{"accuracy": 0.912341, "n": 7019}', '{"accuracy": 0.912339, "n": 7019}'),
        ('{"difference": -1.2e-17}', '{"difference": 0.0}'),
        ("mini,0.5,1.0\n", "mini,0.50001,0.999996\n"),
        ('<path d="M 71.99999 10.5L-3 4"/>', '<path d="M 72 10.500001L-3 4"/>'),
    ],
)
def test_last_digits_of_fractions_do_not_count(new: str, saved: str) -> None:
    assert agrees(new, saved) and agrees(saved, new)


@pytest.mark.parametrize(
    ("new", "saved"),
    [
        ('{"accuracy": 0.9124}', '{"accuracy": 0.9118}'),  # one image of 1,600
        ('{"n": 7019}', '{"n": 7018}'),
        ('{"low": 0.5}', '{"low": null}'),
        ('{"accuracy": 0.5}', '{"recall": 0.5}'),
        ("a,0.5\nb,0.5\n", "a,0.5\n"),
        ('<path style="stroke: #0b3c5d"/>', '<path style="stroke: #0b3c5e"/>'),
        ("iVBORw0KGgo1e5AAAA", "iVBORw0KGgo1e4AAAA"),  # pixels
    ],
)
def test_what_is_printed_or_counted_does(new: str, saved: str) -> None:
    assert not agrees(new, saved)
