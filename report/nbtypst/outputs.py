"""What of an executed notebook is worth printing, and is the same in two equal runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nbconvert.filters.ansi import strip_ansi
from nbconvert.preprocessors import Preprocessor
from traitlets import Bool

from nbtypst.tables import is_table
from nbtypst.text import steady

WIDGET = "application/vnd.jupyter.widget-view+json"


def scrub(path: Path) -> None:
    """Drop from an executed notebook what differs between two equal runs: times, random ids, live widgets."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"] = {k: v for k, v in notebook["metadata"].items() if k in ("kernelspec", "language_info")}
    for i, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{i:03d}"
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k in ("tags", "alt", "caption")}
        if "outputs" in cell:
            cell["outputs"] = [out for out in cell["outputs"] if WIDGET not in out.get("data", {})]
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


class PrepareOutputs(Preprocessor):
    """Choose what of each output is worth printing."""

    enabled = True
    show_stderr = Bool(False, help="Print what cells wrote to stderr (log lines, warnings, progress bars).").tag(
        config=True
    )

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        if cell.cell_type == "code":
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell.source = re.sub(r"^# Parameters\s*\n", "", cell.source)
            cell.outputs = [out for out in cell.get("outputs", []) if self._prepare(out)]
        return cell, resources

    def _prepare(self, out: Any) -> bool:
        """Tidy one output in place; says whether to print it."""
        if out.output_type == "stream":
            out.text = steady(strip_ansi(out.text))
            return bool(out.text.strip()) and (out.name == "stdout" or self.show_stderr)
        data = out.get("data", {})
        if WIDGET in data:  # a live widget has no printed form
            return False
        plain = data.get("text/plain", "")
        if plain:
            data["text/plain"] = steady(plain)
        html = data.get("text/html", "")
        if html and not is_table(html) and not plain.startswith("<IPython.core.display.HTML"):
            del data["text/html"]  # such as the diagram of a scikit-learn estimator
        if "image/svg+xml" in data:
            data["image/svg+xml"] = re.sub(r"<metadata>.*?</metadata>", "", data["image/svg+xml"], flags=re.DOTALL)
        return True
