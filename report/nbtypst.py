"""Turn executed notebooks into Typst, by nbconvert and pandoc.

The template in ``theme/typst`` puts the cells in order.
"""

from __future__ import annotations

import re
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import pypandoc
from bs4 import BeautifulSoup
from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters.ansi import strip_ansi
from nbconvert.preprocessors import Preprocessor
from traitlets.config import Config

THEME = Path(__file__).parent / "theme"
# A photograph that is at hand as both is smaller as JPEG.
IMAGE_TYPES = ("image/svg+xml", "image/jpeg", "image/png")
NUMBER = re.compile(
    r"[-+−<]?\s?[\d.,]+(e[-+]?\d+)?\s*%?(\s\[.*\])?|nan|none|-?inf|", re.IGNORECASE
)
MENDED = {
    # Symbols that pandoc writes as Typst no longer takes them.
    r"\b(dot|times|plus|minus|div)\.circle\b": r"\1.o",
    # Links such as [x](#anchor): the report has no such labels.
    r"#link\(<[^>]*>\)": "",
    # Images that would have to be downloaded.
    r'#box\(image\("https?://[^"]*"[^)]*\)\)': "",
}
"""What to replace in pandoc's Typst, and by what."""
TWO_LINES = 220
"""Letters, about: what is longer is a paragraph of its own."""
RESULT = re.compile(r'<figure|<table [^>]*(class="dataframe|id="T_)')
"""Of a figure, a DataFrame, a Styler; not of an estimator, whose HTML has a table."""


class PrintableOutputs(Preprocessor):
    """Leave out what a page cannot show: stderr, widgets, diagrams of estimators."""

    enabled = True

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Keep the outputs that can be printed."""
        cell.outputs = [out for out in cell.get("outputs", []) if self._printable(out)]
        return cell, resources

    def _printable(self, out: Any) -> bool:
        """Say whether an output can be printed; drop HTML that is no result from it."""
        data = out.get("data", {})
        plain = data.get("text/plain", "")
        is_html = plain.startswith("<IPython.core.display.HTML")
        if not is_html and not RESULT.search(data.get("text/html", "")):
            data.pop("text/html", None)
        widget = "application/vnd.jupyter.widget-view+json"
        return widget not in data and out.get("name") != "stderr"


class MainCells(Preprocessor):
    """Print of a notebook what computes its results.

    Left are its title and question, and the cells tagged "main", or all cells of code
    where none is tagged, each with the sentence before it. A cell that saves a figure
    only draws: it is left out. A notebook with the resource ``in_full`` stays whole.
    """

    enabled = True

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Leave out all but the cells that compute."""
        if resources.get("in_full", True):
            return nb, resources
        cells = nb.cells
        is_tagged = any("main" in tags_of(cell) for cell in cells)
        first = cells[0]
        first.source = "\n\n".join(first.source.split("\n\n")[:2])
        nb.cells = [first]
        for before, cell in pairwise(cells):
            is_main = "main" in tags_of(cell) or not is_tagged
            draws = "save_figure(" in cell.source
            if cell.cell_type != "code" or draws or not is_main:
                continue
            if before.cell_type == "markdown" and before is not first:
                before.source = without_headings(before.source)
                nb.cells.append(before)
            cell.outputs = []
            nb.cells.append(cell)
        return nb, resources


def tags_of(cell: Any) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def without_headings(text: str) -> str:
    """Return Markdown without its headings."""
    return re.sub(r"(?m)^#+ .*\n+", "", text)


def typst_exporter(*, everything: bool = False) -> TemplateExporter:
    """Return an exporter to Typst.

    Parameters
    ----------
    everything
        Whether all notebooks are printed in full, and cells tagged "plumbing" or
        "remove-cell", inputs tagged "hide-input" and outputs tagged "hide-output", too.

    Returns
    -------
    TemplateExporter
        Its resource ``heading_shift`` lowers a notebook's headings; ``in_full`` prints
        all its cells.
    """
    steps: dict[str, dict[str, Any]] = {
        "NbConvertBase": {
            "display_data_priority": [*IMAGE_TYPES, "text/html", "text/plain"]
        },
        "ExtractOutputPreprocessor": {
            "enabled": True,
            "extract_output_types": set(IMAGE_TYPES),
        },
        "CoalesceStreamsPreprocessor": {"enabled": True},
        "TagRemovePreprocessor": {
            "enabled": not everything,
            "remove_cell_tags": {"plumbing", "remove-cell"},
            "remove_input_tags": {"hide-input"},
            "remove_all_outputs_tags": {"hide-output"},
        },
    }
    filters = (typst_string, markdown_to_typst, html_to_typst)
    return TemplateExporter(
        config=Config(steps),
        preprocessors=[PrintableOutputs, MainCells],
        filters={filter.__name__: filter for filter in filters},
        template_name="typst",
        template_extension=".typ.j2",
        file_extension=".typ",
        extra_template_basedirs=[str(THEME)],
    )


def typst_string(text: str) -> str:
    """Return what a cell prints as a string of Typst: nothing is read as markup.

    Colours and control characters are left out; addresses in memory become "0x…".
    """
    text = re.sub(r"\b0x[0-9a-f]{6,16}\b", "0x…", strip_ansi(text).rstrip())
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text).replace("\t", "    ")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def markdown_to_typst(text: str, shift: int = 1) -> str:
    """Convert a Markdown cell to Typst, its headings `shift` levels lower.

    A sentence that leads on to the code below stays on one page with it. Each formula
    gets its TeX source as alternative text.
    """
    options = (
        f"--shift-heading-level-by={shift}",
        f"--lua-filter={THEME}/typst/math.lua",
    )
    typst = markdown(text, "typst", options)
    for pattern, replacement in MENDED.items():
        typst = re.sub(pattern, replacement, typst)
    return with_last_sentence_kept(typst)


def with_last_sentence_kept(typst: str) -> str:
    """Keep the last paragraph on one page with the code below, if it leads on to that.

    It does if it is a notebook's question, or a sentence of two lines at most.
    """
    above, gap, last = typst.rpartition("\n")  # each paragraph is one line
    is_question_or_sentence = re.fullmatch(r"#strong\[.*|[^\s=+#|/-].*[.?:]", last)
    is_paragraph = not above.endswith("\\")  # which breaks a line
    if is_question_or_sentence and is_paragraph and len(last) <= TWO_LINES:
        return f"{above}{gap}#nb-sentence[{last}]"
    return typst


def markdown(
    text: str, target: str = "html", options: tuple[str, ...] = ("--mathml",)
) -> str:
    """Convert a Markdown cell to HTML, or another format of pandoc's."""
    # Formulas without dollar signs, which pandoc would drop.
    bare = r"(?<!\$)(\\begin\{(align|equation|gather)(\*?)\}.*?\\end\{\2\3\})"
    text = re.sub(bare, r"$$\1$$", text, flags=re.DOTALL)
    return pandoc(text, "gfm+tex_math_dollars-gfm_auto_identifiers", target, options)


def html_to_typst(html: str) -> str:
    """Convert HTML without images and scripts to Typst; numbers are right-aligned."""
    soup = BeautifulSoup(html, "html.parser")
    for unprintable in soup(["script", "style", "img", "svg", "iframe"]):
        unprintable.decompose()
    for table in soup("table"):
        raise_index_names(table)
        align_numbers(table)
    return pandoc(str(soup), "html-native_divs-native_spans-auto_identifiers", "typst")


def align_numbers(table: Any) -> None:
    """Align columns of numbers in `table` to the right, and their headings with them.

    Cells of the index do not count as numbers.
    """
    # Columns are counted from the right: a cell over several rows, which stands left,
    # is missing below. Rows whose headings are over several columns are left out.
    rows = [cells_of(row)[::-1] for row in table("tr") if not row.find(colspan=True)]
    for column in zip_longest(*rows):
        cells = [cell for cell in column if cell is not None]
        texts = [text_of(cell) for cell in cells if cell.name == "td"]
        if texts and all(NUMBER.fullmatch(text) for text in texts):
            for cell in cells:
                cell["align"] = "right"


def raise_index_names(table: Any) -> None:
    """Join a table's two lines of headings: pandas writes index names in the second.

    `table` is changed; another table stays as it is.
    """
    rows = table.thead("tr") if table.thead else []
    if len(rows) < 2:
        return
    headings = cells_of(rows[-2])
    index_names = [text_of(cell) for cell in cells_of(rows[-1])]
    has_columns = "" in index_names  # for which the second line says nothing
    fits = len(index_names) == len(headings)
    if not (has_columns and any(index_names) and fits):
        return
    for cell, name in zip(headings, index_names, strict=True):
        heading = text_of(cell)  # pandas may have the columns' name there
        if name:
            cell.string = name if heading in ("", name) else f"{name} / {heading}"
    rows[-1].decompose()


def cells_of(row: Any) -> list[Any]:
    """Return the cells of a row, headings among them."""
    return list(row(["th", "td"]))


def text_of(cell: Any) -> str:
    """Return the text of a cell."""
    return str(cell.get_text(strip=True))


def pandoc(text: str, source: str, target: str, options: tuple[str, ...] = ()) -> str:
    """Convert a text from one format to another by the wheel ``pypandoc_binary``.

    `source` and `target` are formats with extensions, as pandoc names them.
    """
    made: str = pypandoc.convert_text(
        text,
        target,
        format=source,
        extra_args=["--wrap=none", *options],
        verify_format=False,  # which asks pandoc each time
    )
    return made.strip()
