"""DataFrames and Stylers, as pandas writes them in HTML, to Typst tables."""

from __future__ import annotations

import re
from typing import Any

from bs4 import BeautifulSoup

from nbtypst.text import typst_string

NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)?\s*%?( \[.*\])?|nan|none|-?inf|", re.IGNORECASE)
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


def is_table(html: str) -> bool:
    """Tell a DataFrame or a Styler from other HTML: an estimator's diagram holds a table as well."""
    table = BeautifulSoup(html, "html.parser").find("table")
    if table is None:
        return False
    return "dataframe" in (table.get("class") or []) or str(table.get("id", "")).startswith("T_")


def table_to_typst(html: str, caption: str = "") -> str:
    """Convert the first table of the HTML to a call of the theme's ``nb-table``."""
    soup = BeautifulSoup(html, "html.parser")
    table: Any = soup.find("table")
    raise_index_names(table)
    styles = _styles(soup)
    rows = table.find_all("tr")
    head: list[str] = []
    body: list[str] = []
    numeric: dict[int, bool] = {}
    taken: set[tuple[int, int]] = set()  # cells that an earlier one covers
    columns = 0
    for r, row in enumerate(rows):
        c = 0
        for cell in row.find_all(["th", "td"]):
            while (r, c) in taken:
                c += 1
            wide, high = int(cell.get("colspan", 1)), int(cell.get("rowspan", 1))
            taken |= {(r + i, c + j) for i in range(high) for j in range(wide)}
            if cell.name == "td":
                numeric[c] = numeric.get(c, True) and bool(NUMBER.fullmatch(_text(cell)))
            (head if row.find_parent("thead") else body).append(_cell(cell, wide, high, styles))
            c += wide
        columns = max(columns, c)
    index = max((len(row.find_all("th")) for row in rows if row.find("td")), default=0)
    align = ["right" if numeric.get(i, i >= index) else "left" for i in range(columns)]
    own = table.find("caption")
    title = typst_string(caption or (own.get_text().strip() if own else ""))
    return (
        f"#nb-table(columns: {columns}, align: ({_items(align)}), head: ({_items(head)}), body: ({_items(body)}), "
        f"caption: {title})"
    )


def _cell(cell: Any, wide: int, high: int, styles: dict[str, dict[str, str]]) -> str:
    style = styles.get(cell.get("id", ""), {})
    options = [f"colspan: {wide}", "align: center", "stroke: (bottom: .3pt)"] if wide > 1 else []
    options += [f"rowspan: {high}"] if high > 1 else []
    if COLOUR.fullmatch(style.get("background-color", "")):
        options.append(f'fill: rgb("{style["background-color"]}")')
    ink = f', colour: rgb("{style["color"]}")' if COLOUR.fullmatch(style.get("color", "")) else ""
    content = f"{cell.name}({typst_string(_text(cell))}{ink})"
    return f"table.cell({', '.join([*options, content])})" if options else content


def _styles(soup: Any) -> dict[str, dict[str, str]]:
    """The CSS of a Styler by cell id, from rules such as ``#T_x_row0_col1 { color: #fff }``."""
    found: dict[str, dict[str, str]] = {}
    for style in soup.find_all("style"):
        for selectors, rules in re.findall(r"([^{}]+)\{([^{}]*)\}", style.get_text()):
            properties = {k: v.strip() for k, v in re.findall(r"([\w-]+)\s*:\s*([^;]+)", rules)}
            found |= dict.fromkeys((s.strip().lstrip("#") for s in selectors.split(",")), properties)
    return found


def raise_index_names(table: Any) -> None:
    """Pull the index names up: pandas writes them in a row of their own below the names of the columns."""
    rows = table.thead.find_all("tr") if table.thead else []
    if len(rows) < 2:
        return
    above, last = rows[-2].find_all(["th", "td"]), rows[-1].find_all(["th", "td"])
    named = sum(1 for cell in last if _text(cell) and not cell.get("colspan"))
    if len(last) != len(above) or not 0 < named < len(last) or any(_text(cell) for cell in last[named:]):
        return
    for old, new in zip(above[:named], last[:named], strict=True):
        if _text(old) and _text(old) != _text(new):
            new.string = f"{_text(new)} / {_text(old)}"
        old.replace_with(new)
    rows[-1].decompose()


def _text(cell: Any) -> str:
    return " ".join(cell.get_text().split())


def _items(parts: list[str]) -> str:
    return ", ".join(parts) + ("," if parts else "")
