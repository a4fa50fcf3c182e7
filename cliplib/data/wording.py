"""How numbers and lists are written in sentences and tables."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Sequence

# Control characters, ends of lines, what turns the direction of letters, bytes that are
# not UTF-8, and what is no character at all.
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Spell out what cannot be shown, or would have the rest shown as another text.

    An escape becomes four characters, a backslash and x1b. Names of files and classes
    may come from untrusted files, and reach terminals, pages and plots.
    """
    return UNPRINTABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def check_printable(names: Iterable[str]) -> None:
    """Raise ValueError for a name of a class or an image that is not `printable`."""
    for name in names:
        if printable(name) != name:
            raise ValueError(
                f"The name '{printable(name)}' is not in UTF-8, or holds characters "
                "that are not shown: rename it."
            )


def number(value: object) -> str:
    """Write a whole number with commas for thousands, another with three decimals.

    NaN is written as "", None as "none", and text as it is.
    """
    if value is None:
        return "none"
    if not isinstance(value, numbers.Real):
        return str(value)
    if math.isnan(value):
        return ""
    digits = f"{value:,}" if isinstance(value, numbers.Integral) else f"{value:.3f}"
    return digits.replace("-", "−")


def counted(count: int, name: str) -> str:
    """Write a number of things: "1 image", "2,527 images"."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def listing(names: Sequence[str]) -> str:
    """Join one or more names: "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
