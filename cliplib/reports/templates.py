"""Templates of reports, in files beside this module, and how they are filled in."""

from __future__ import annotations

import base64
import math
import shlex
import tomllib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from cliplib.data.wording import counted, listing, number
from cliplib.evaluation.intervals import Estimate

FOLDER = Path(__file__).parent
# First bytes of every JPEG file.
JPEG_START = b"\xff\xd8"


def data_uri(content: bytes) -> str:
    """Return a JPEG or SVG file as a data URI, which a page can contain."""
    kind = "jpeg" if content.startswith(JPEG_START) else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def whole_percent(share: float) -> str:
    """Write a share, 0 to 1, in whole per cent: "54%"."""
    return f"{_hundredths(share)}%"


def percent(share: Estimate) -> str:
    """Write a share with its 95% interval: "54% (46 to 62)"; a dash if it is NaN."""
    value, low, high = share
    if math.isnan(value):
        return "–"
    return f"{whole_percent(value)} ({_hundredths(low)} to {_hundredths(high)})"


def points(difference: Estimate) -> str:
    """Write a difference of shares and its interval: "8 points (2 to 14)"."""
    value, low, high = map(_hundredths, difference)
    unit = "point" if value == "1" else "points"
    return f"{value} {unit} ({low} to {high})"


def _hundredths(share: float) -> str:
    """Write a share in whole hundredths, with a true minus sign, and none before 0."""
    return f"{100 * share:z.0f}".replace("-", "−")


TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=select_autoescape(default_for_string=False),  # only in HTML files
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
for function in (counted, data_uri, listing, number, percent, points, whole_percent):
    TEMPLATES.filters[function.__name__] = function
TEMPLATES.filters["quote"] = shlex.quote


def read_texts(name: str) -> Any:
    """Read one of the TOML files beside this module, such as "data_warnings.toml"."""
    return tomllib.loads((FOLDER / name).read_text("utf-8"))


def filled(template: str, **values: Any) -> str:
    """Fill in a template; line breaks and indents of the text become single spaces."""
    return " ".join(TEMPLATES.from_string(template).render(values).split())
