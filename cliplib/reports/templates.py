"""The texts of a report: templates beside this module, and how they are filled in."""

from __future__ import annotations

import base64
import shlex
import tomllib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from cliplib.data.wording import (
    counted,
    listing,
    number,
    percent,
    points,
    whole_percent,
)

FOLDER = Path(__file__).parent
JPEG_START = b"\xff\xd8"


def data_uri(content: bytes) -> str:
    """Return a JPEG or SVG file as a data URI, so that a page need not load it."""
    kind = "jpeg" if content.startswith(JPEG_START) else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=select_autoescape(default_for_string=False),  # in pages alone
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
    """Fill in a text; its line breaks and indents become single spaces."""
    return " ".join(TEMPLATES.from_string(template).render(values).split())
