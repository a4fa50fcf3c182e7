"""How names, numbers and lists are written in sentences and tables."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Sequence

# Control characters, line separators, marks that change the direction of writing,
# surrogates (which stand for bytes that are not UTF-8) and code points without a
# character.
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    r"""Replace each unprintable character by its escape sequence.

    The control character ESC becomes the four characters ``\x1b``. Names of files and
    classes may come from untrusted sources, and are shown in terminals, pages and
    plots.
    """
    return UNPRINTABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def check_printable(names: Iterable[str]) -> None:
    """Raise ValueError if a class's or image's name has unprintable characters."""
    for name in names:
        if printable(name) != name:
            raise ValueError(
                f"The name '{printable(name)}' is not in UTF-8, or holds characters "
                "that are not shown: rename it."
            )


def number(value: object) -> str:
    """Write an integer with commas for thousands, another number with three decimals.

    NaN gives "", None gives "none", and text is returned unchanged.
    """
    if value is None:
        return "none"
    if isinstance(value, numbers.Integral):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, numbers.Real):
        return "" if math.isnan(value) else f"{value:.3f}".replace("-", "−")
    return str(value)


def counted(count: int, name: str) -> str:
    """Write a count before its noun: "1 image", "2,527 images"."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def listing(names: Sequence[str]) -> str:
    """Join one or more names: "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
