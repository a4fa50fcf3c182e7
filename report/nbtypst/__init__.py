"""nbconvert exporter: one executed notebook to one Typst file and its pictures.

    jupyter nbconvert --to nbtypst.TypstExporter notebook.ipynb

`text` turns words into Typst, `tables` turns DataFrames, `outputs` chooses what of a cell's outputs is printed;
``templates/typst/index.typ.j2`` puts the pieces in order and ``report/theme/notebook.typ`` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters.ansi import strip_ansi
from traitlets import default
from traitlets.config import Config

from nbtypst.outputs import PrepareOutputs
from nbtypst.tables import is_table, table_to_typst
from nbtypst.text import html_to_typst, markdown_to_typst, typst_string

__all__ = ["TypstExporter"]

PRIORITY = ["svg+xml", "png", "jpeg"]


class TypstExporter(TemplateExporter):
    """Executed notebook to Typst; resource ``heading_shift`` (default 1) lowers the notebook's headings."""

    export_from_notebook = "Typst"
    output_mimetype = "text/vnd.typst"
    preprocessors = [PrepareOutputs]  # noqa: RUF012  (a traitlet of the base class)

    @default("file_extension")
    def _file_extension(self) -> str:
        return ".typ"

    @default("template_extension")
    def _template_extension(self) -> str:
        return ".typ.j2"

    @default("template_name")
    def _template_name(self) -> str:
        return "typst"

    @property
    def extra_template_basedirs(self) -> list[str]:
        return [str(Path(__file__).parent / "templates"), *super()._default_extra_template_basedirs()]

    @property
    def default_config(self) -> Config:
        config = super().default_config.copy()
        images = [f"image/{kind}" for kind in PRIORITY]
        config.merge(
            Config(
                {
                    "NbConvertBase": {
                        "display_data_priority": [*images, "text/html", "text/markdown", "text/latex", "text/plain"]
                    },
                    "ExtractOutputPreprocessor": {"enabled": True, "extract_output_types": set(images)},
                    "ExtractAttachmentsPreprocessor": {"enabled": True},
                    "CoalesceStreamsPreprocessor": {"enabled": True},
                    "HighlightMagicsPreprocessor": {"enabled": False},
                    "TagRemovePreprocessor": {
                        "enabled": True,
                        "remove_cell_tags": {"remove-cell", "papermill-error-cell-tag"},
                        "remove_input_tags": {"hide-input", "remove-input"},
                        "remove_all_outputs_tags": {"hide-output", "remove-output"},
                    },
                }
            )
        )
        return config

    def default_filters(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        yield from super().default_filters()
        yield "typst_string", typst_string
        yield "markdown_to_typst", markdown_to_typst
        yield "html_to_typst", html_to_typst
        yield "table_to_typst", table_to_typst
        yield "is_table", is_table
        yield "strip_ansi", strip_ansi
