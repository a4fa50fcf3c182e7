"""Figures, tables and numbers, each kept under an id with what is needed to trust it.

A notebook calls `start` once, then `save_figure`, `save_table`, `save_numbers`, or `keep` where it lacks the pixels to
draw. Each writes its files and one entry of ``manifest.json``; the report reads nothing else. Files hold no date and no
path, floats are rounded to six significant digits, so that an unchanged result is an unchanged file.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from filelock import FileLock
from IPython import get_ipython
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

from cliplib.errors import CliplibError
from cliplib.figures.plots import TEXT_WIDTH as TEXT_WIDTH
from cliplib.figures.plots import confusion_heatmap as confusion_heatmap
from cliplib.figures.plots import image_grid as image_grid
from cliplib.figures.plots import palette as palette
from cliplib.figures.plots import reliability_plot as reliability_plot
from cliplib.figures.plots import use_style

logger = logging.getLogger(__name__)

PACKAGES = ("datasets", "matplotlib", "numpy", "scikit-learn", "torch", "transformers")
_run: dict[str, Any] = {}


@dataclass(frozen=True)
class Shown:
    """What a notebook displays: data by MIME type, and caption and alternative text as metadata of the output."""

    data: Mapping[str, str]
    metadata: Mapping[str, str]

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, str]]:
        return dict(self.data), dict(self.metadata)


def start(notebook: str, **parameters: object) -> None:
    """Set the house style and say whose results follow.

    Parameters
    ----------
    notebook : str
        Its name without folder and extension, such as ``"01_brain_tumor_mri"``.
    **parameters : str, int, float or bool
        The notebook's parameters, for the manifest; of a path only the last part is kept.
    """
    _run.clear()
    _run.update(notebook=notebook, parameters={key: _portable(value) for key, value in parameters.items()}, ids={})
    use_style()
    pd.set_option("display.precision", 4)
    if get_ipython():
        set_matplotlib_formats("svg")
        library = logging.getLogger("cliplib")
        library.setLevel(logging.INFO)
        if not library.handlers:
            library.addHandler(logging.StreamHandler())


def save_figure(fig: Figure, id: str, *, caption: str, alt: str, provenance: Mapping[str, str] | None = None) -> Shown:
    """Save a figure as SVG and PNG under an id, close it, and return it for display.

    Parameters
    ----------
    fig : matplotlib Figure
        Drawn at the size at which it shall be printed, at most `TEXT_WIDTH` inches wide.
    id : str
        Lower-case letters, digits and underscores; no other result has it.
    caption : str
        Can be read without the text around it.
    alt : str
        Says what the figure shows to a reader who cannot see it.
    provenance : mapping, optional
        Such as `FeatureTable.provenance`.
    """
    if not alt.strip():
        raise CliplibError(f"The figure {id!r} needs an alternative text that says what it shows.")
    folder = _claim("figure", id, caption)
    drawn = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        fig.savefig(buffer := io.BytesIO(), format=kind, metadata=metadata)
        drawn[f"{id}.{kind}"] = buffer.getvalue()
    plt.close(fig)
    _register("figure", id, caption, provenance, drawn, alt=alt, width=round(72 * float(fig.get_figwidth()), 1))
    return _shown_figure(folder, id, caption, alt)


def save_table(df: pd.DataFrame, id: str, *, caption: str, provenance: Mapping[str, str] | None = None) -> Shown:
    """Save a DataFrame as CSV under an id and return it for display; an index becomes columns unless it only counts."""
    _claim("table", id, caption)
    if df.columns.nlevels > 1:
        raise CliplibError(f"The table {id!r} has columns of {df.columns.nlevels} levels: join their names first.")
    counts = isinstance(df.index, pd.RangeIndex) and df.index.name is None
    flat = (df if counts else df.reset_index()).map(_plain)
    text = flat.to_csv(index=False, lineterminator="\n")
    _register("table", id, caption, provenance, {f"{id}.csv": text.encode()})
    return _shown_table(df, id, caption, index=not counts)


def save_numbers(
    numbers: Mapping[str, Any], id: str, *, caption: str, provenance: Mapping[str, str] | None = None
) -> Shown:
    """Save nested numbers as JSON under an id; NumPy values become plain ones, undefined numbers null."""
    _claim("numbers", id, caption)
    _register("numbers", id, caption, provenance, {f"{id}.json": _json(_plain(numbers))})
    return Shown({"text/plain": f"{id}.json: {caption}"}, {"id": id})


def keep(id: str, reason: str) -> Shown:
    """Leave the result that is there as it is, because `reason` (such as no images); say so, and show it."""
    entry = _manifest(_folder()).get(id, {"kind": "result"})
    folder, there = _claim(entry["kind"], id, reason), "caption" in entry
    logger.warning("%s is %s: %s", id, "kept as it was" if there else "missing", reason)
    _record(id, entry["kind"], "kept" if there else "missing", reason)
    note = f"{entry.get('caption')} (Kept from an earlier run: {reason}.)"
    if entry["kind"] == "figure":
        return _shown_figure(folder, id, note, entry["alt"])
    if entry["kind"] == "table":
        return _shown_table(pd.read_csv(folder / f"{id}.csv"), id, note, index=False)
    return Shown({"text/plain": f"{id}.json: {note}" if there else f"Not made: {reason}."}, {"id": id})


def _claim(kind: str, id: str, caption: str) -> Path:
    """Check that the id may be used, before any file is touched; returns the folder of results."""
    if not _run:
        raise CliplibError("Call cliplib.figures.start(notebook) before saving results, so that they can be traced.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", id) or id == "manifest":
        raise CliplibError(f"The id {id!r} must consist of lower-case letters, digits and underscores, a letter first.")
    if not caption.strip():
        raise CliplibError(f"The result {id!r} needs a caption that can be read alone.")
    folder = _folder()
    old = _manifest(folder).get(id, {})
    if old.get("notebook", _run["notebook"]) != _run["notebook"]:
        raise CliplibError(f"The id {id!r} belongs to {old['notebook']}: choose another, or remove its manifest entry.")
    if kind != "result" and _run["ids"].setdefault(id, kind) != kind:
        raise CliplibError(f"The id {id!r} already names a {_run['ids'][id]} of this notebook: choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _register(
    kind: str, id: str, caption: str, provenance: Mapping[str, str] | None, files: Mapping[str, bytes], **more: object
) -> None:
    """Write the files that changed and the entry, and note for the build which it was."""
    folder = _claim(kind, id, caption)
    entry = {"kind": kind, "caption": caption, "files": sorted(files), **more}
    entry |= {"notebook": _run["notebook"], "parameters": _run["parameters"]}
    entry["provenance"] = {key: _portable(value) for key, value in (provenance or {}).items()}
    entry["versions"] = {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES}
    changed = [name for name, data in files.items() if _bytes(folder / name) != data]
    for name in changed:
        (folder / name).write_bytes(files[name])
    with FileLock(folder / ".lock"):
        entries = _manifest(folder)
        old = entries.get(id, {"files": []})
        # The versions are those that made the files: others that give the same bytes leave the entry as it is.
        if changed or {**old, "versions": 0} != {**entry, "versions": 0}:
            for stale in set(old["files"]) - set(files):
                (folder / stale).unlink(missing_ok=True)
            (folder / ".manifest").write_bytes(_json({**entries, id: entry}))
            os.replace(folder / ".manifest", folder / "manifest.json")  # a reader never sees half of it
    _record(id, kind, "rebuilt" if changed else "unchanged", "")


def _record(id: str, kind: str, status: str, reason: str) -> None:
    """Tell the build, which names a file for it, what differs from run to run and so is not in the manifest."""
    if path := os.environ.get("CLIPLIB_RECORD"):
        line = {"id": id, "kind": kind, "notebook": _run["notebook"], "status": status, "reason": reason}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _folder() -> Path:
    return Path(os.environ.get("CLIPLIB_FIGURES") or Path(__file__).resolve().parents[2] / "figures")


def _manifest(folder: Path) -> dict[str, Any]:
    data = _bytes(folder / "manifest.json")
    return dict(json.loads(data)) if data else {}


def _shown_figure(folder: Path, id: str, caption: str, alt: str) -> Shown:
    svg = (folder / f"{id}.svg").read_text(encoding="utf-8")
    drawn = svg[svg.index("<svg") :]
    page = f'<figure role="img" aria-label="{escape(alt)}">{drawn}<figcaption>{escape(caption)}</figcaption></figure>'
    data = {"image/svg+xml": svg, "text/html": page, "text/plain": f"{id}: {caption}"}
    return Shown(data, {"alt": alt, "caption": caption, "id": id})


def _shown_table(df: pd.DataFrame, id: str, caption: str, *, index: bool) -> Shown:
    data = {"text/html": df.to_html(index=index), "text/plain": df.to_string(index=index)}
    return Shown(data, {"caption": caption, "id": id})


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _portable(value: object) -> object:
    """A value for the manifest: of a path on this machine only the last part."""
    text = str(value)
    path = Path(text).expanduser()
    is_path = bool(text) and isinstance(value, str | Path) and (path.is_absolute() or path.exists())
    return path.resolve().name if is_path else _plain(value)


def _plain(value: Any) -> Any:
    """Plain Python values; floats to six significant digits, undefined ones None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
