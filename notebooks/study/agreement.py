"""Whether a result says the same as the one that was saved before.

Another processor adds in another order, so that the last digits of a fraction differ.
A result whose printed digits agree stays as it was saved: a build then changes no
committed file.
"""

from __future__ import annotations

import math
import re

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
SHARE = 1e-4
"""By which a fraction may differ: of the digits that are printed it moves none but by
rounding, and in a drawing nothing that can be seen."""
LEAST = 1e-6
"""What is smaller counts as nothing: sums that would be zero without rounding."""


def agrees(new: str, saved: str) -> bool:
    """Return whether two texts differ in nothing but unprinted digits of fractions.

    The texts are JSON, CSV or SVG. Whole numbers, which count something, have to be
    equal, and so has everything that is no number.
    """
    if NUMBER.sub("0", new) != NUMBER.sub("0", saved):
        return False
    pairs = zip(NUMBER.findall(new), NUMBER.findall(saved), strict=True)
    return all(one == other or _is_near(one, other) for one, other in pairs)


def _is_near(one: str, other: str) -> bool:
    """Return whether two numbers are nearly equal; two whole ones never are."""
    if not re.search("[.e]", one + other):
        return False
    return math.isclose(float(one), float(other), rel_tol=SHARE, abs_tol=LEAST)
