"""Turn executed notebooks into Typst, by nbconvert and pandoc; theme/typst orders the cells."""

from __future__ import annotations

import re
import subprocess
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pypandoc
from bs4 import BeautifulSoup
from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters.ansi import strip_ansi
from nbconvert.preprocessors import Preprocessor
from traitlets.config import Config

THEME = Path(__file__).parent / "theme"
IMAGES = ("image/svg+xml", "image/png", "image/jpeg")
NUMBER = re.compile(
    r"[-+−<]?\s?[\d.,]+(e[-+]?\d+)?\s*%?( \[.*\])?|nan|none|-?inf|", re.IGNORECASE
)


class PrintableOutputs(Preprocessor):
    """Leave out what a page cannot show: stderr, widgets, diagrams of estimators."""

    enabled = True

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        cell.outputs = [out for out in cell.get("outputs", []) if self._printable(out)]
        return cell, resources

    def _printable(self, out: Any) -> bool:
        data = out.get("data", {})
        html, plain = data.get("text/html", ""), data.get("text/plain", "")
        shown = r'<figure|<table [^>]*(class="dataframe|id="T_)'  # an estimator's is a table, too
        if not plain.startswith("<IPython.core.display.HTML") and not re.search(
            shown, html
        ):
            data.pop("text/html", None)
        widget = "application/vnd.jupyter.widget-view+json"
        return widget not in data and out.get("name") != "stderr"


def typst_exporter() -> TemplateExporter:
    """Return an exporter to Typst; its resource ``heading_shift`` lowers a notebook's headings."""
    steps: dict[str, dict[str, Any]] = {
        "NbConvertBase": {
            "display_data_priority": [*IMAGES, "text/html", "text/plain"]
        },
        "ExtractOutputPreprocessor": {
            "enabled": True,
            "extract_output_types": set(IMAGES),
        },
        "CoalesceStreamsPreprocessor": {"enabled": True},
    }
    return TemplateExporter(
        config=Config(steps),
        preprocessors=[PrintableOutputs],
        filters={
            f.__name__: f for f in (typst_string, markdown_to_typst, html_to_typst)
        },
        template_name="typst",
        template_extension=".typ.j2",
        file_extension=".typ",
        extra_template_basedirs=[str(THEME)],
    )


def typst_string(text: str) -> str:
    """Quote a text, so that nothing that a cell prints is read as markup; mask addresses."""
    text = re.sub(r"\b0x[0-9a-f]{6,16}\b", "0x…", strip_ansi(text).rstrip())
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text).replace("\t", "    ")
    return (
        '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    )


def markdown_to_typst(text: str, shift: int = 1) -> str:
    """Convert a Markdown cell; each formula gets its TeX source as alternative text."""
    options = (
        f"--shift-heading-level-by={shift}",
        f"--lua-filter={THEME}/typst/math.lua",
    )
    typst = markdown(text, "typst", options)
    typst = re.sub(
        r"\b(dot|times|plus|minus|div)\.circle\b", r"\1.o", typst
    )  # refused by typst
    typst = re.sub(
        r"#link\(<[^>]*>\)", "", typst
    )  # [x](#anchor): no such label in the report
    return re.sub(r'#box\(image\("https?://[^"]*"[^)]*\)\)', "", typst)


def markdown(
    text: str, target: str = "html", options: tuple[str, ...] = ("--mathml",)
) -> str:
    bare = r"(?<!\$)(\\begin\{(align|equation|gather)(\*?)\}.*?\\end\{\2\3\})"  # pandoc drops it
    text = re.sub(bare, r"$$\1$$", text, flags=re.DOTALL)
    return pandoc(text, "gfm+tex_math_dollars-gfm_auto_identifiers", target, options)


def html_to_typst(html: str) -> str:
    """Convert what a cell shows as HTML, without images and scripts; numbers stand to the right."""
    soup = BeautifulSoup(html, "html.parser")
    for unprintable in soup(["script", "style", "img", "svg", "iframe"]):
        unprintable.decompose()
    for table in soup("table"):
        raise_index_names(table)
        rows = [
            row(["th", "td"])[::-1] for row in table("tr") if not row.find(colspan=True)
        ]
        for column in zip_longest(
            *rows
        ):  # from the right: cells over several rows stand left
            cells = [cell for cell in column if cell is not None]
            texts = [cell.get_text(strip=True) for cell in cells if cell.name == "td"]
            if texts and all(NUMBER.fullmatch(text) for text in texts):
                for cell in cells:
                    cell["align"] = "right"
    return pandoc(str(soup), "html-native_divs-native_spans-auto_identifiers", "typst")


def raise_index_names(table: Any) -> None:
    """Pull the index names up: pandas writes them below the names of the columns."""
    rows = table.thead("tr") if table.thead else []
    above, last = (
        (row(["th", "td"]) for row in rows[-2:]) if len(rows) > 1 else ([], [])
    )
    texts = [cell.get_text(strip=True) for cell in last]
    if "" in texts and len(above) == len(last) and any(texts):
        for cell, text in zip(above, texts, strict=True):
            if text:
                cell.string = " / ".join(
                    {text: 0, cell.get_text(strip=True) or text: 0}
                )
        rows[-1].decompose()


def pandoc(text: str, source: str, target: str, options: tuple[str, ...] = ()) -> str:
    """Convert with the pandoc of the ``pypandoc_binary`` wheel."""
    command = [
        pypandoc.get_pandoc_path(),
        "--wrap=none",
        f"--from={source}",
        f"--to={target}",
    ]
    return subprocess.check_output(
        [*command, *options], input=text, encoding="utf-8"
    ).strip()
