"""Results of a notebook for the report, each saved under an id and shown.

A notebook begins with a `Study` and saves its results through it. Captions and
alternative texts stand in ``figures/captions.toml``; ``**values`` fill their places,
such as ``{repeats}``. A file for each notebook, beside its results, says how they were
made. For None, what an earlier run saved is shown, if the same encoder made it.
"""

import base64
import hashlib
import importlib.metadata
import io
import json
import logging
import math
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import seaborn.objects as so
from IPython import get_ipython
from IPython.display import display

from cliplib.images.data import DATASETS
from cliplib.press.figures import draw_plot, svg, use_style

logger = logging.getLogger(__name__)

SUFFIXES = {"figure": ".svg", "table": ".csv", "numbers": ".json"}
PACKAGES = ("datasets", "matplotlib", "numpy", "scikit-learn", "torch", "transformers")
JSON: Any = {"indent": 1, "sort_keys": True, "ensure_ascii": False, "allow_nan": False}
BUILD_SETTING = "CLIPLIB_FIGURES"
EARLIER = " (From an earlier run: no images on this machine.)"

Entry = dict[str, Any]


class Saved(NamedTuple):
    """A result that was saved before: where, how it was made, and its content."""

    folder: Path
    entry: Entry
    text: str


def _checkout() -> Path | None:
    """Return the checkout that the working directory is in, if it is in one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "figures" / "captions.toml").is_file():
            return folder
    return None


def _is_building() -> bool:
    """Say whether the report's build runs this notebook."""
    return bool(os.environ.get(BUILD_SETTING))


def _build_folder(checkout: Path | None) -> Path:
    """Return the folder of what is made again: within a checkout, or else here."""
    return checkout / "build" if checkout else Path.cwd() / "figures-out"


def _folder_for_results(checkout: Path | None) -> Path:
    """Return the folder of results: see `Study`."""
    if _is_building():
        return Path(os.environ[BUILD_SETTING])
    folder = _build_folder(checkout)
    return folder / "scratch" if checkout else folder


def _set_up_notebook() -> None:
    """Draw in the report's style, and show log lines below the cell."""
    use_style()
    if get_ipython():
        _log_plainly(to_stderr=_is_building())


def committed_folder() -> Path:
    """Return the folder ``figures`` of the checkout that the working directory is in.

    Raises
    ------
    FileNotFoundError
        Where neither the working directory nor a folder above it holds one.
    """
    checkout = _checkout()
    if checkout is None:
        raise FileNotFoundError(
            f"There is no figures/captions.toml in {Path.cwd()} or above it: "
            "work inside a checkout of the repository."
        )
    return checkout / "figures"


class Study:
    """The results of one notebook: where they go, and how they were made.

    They go to the folder that ``CLIPLIB_FIGURES`` names, which the report's build sets;
    otherwise to ``build/scratch`` of the checkout that the working directory is in;
    outside of a checkout, to ``figures-out``.

    Parameters
    ----------
    name
        Of the notebook, such as "01_brain_tumor_mri".
    encoder
        The `ClipEncoder` that the results rest on; None where there is none.
    **parameters
        What to note beside each result. Of a path, the last part is noted.
    """

    def __init__(self, name: str, encoder: Any = None, **parameters: Any) -> None:
        self.name = name
        self.fingerprint: str | None = encoder.fingerprint if encoder else None
        checkout = _checkout()
        self.folder = _folder_for_results(checkout)
        self._build = _build_folder(checkout)
        self._committed = checkout / "figures" if checkout else None
        self._made = _how_made(encoder, parameters)
        self._results: dict[str, Entry] = {}
        self._before = _results_in(self.folder, name)
        _set_up_notebook()
        logger.info("Results go to %s.", self.folder)

    @cached_property
    def memory(self) -> joblib.Memory:
        """Answers kept between notebooks, for as long as code and packages stay.

        What is kept lies in ``build/predictions``; answers of other code are deleted.
        """
        kept = self._build / "predictions"
        folder = kept / _digest_of_code()
        for other in kept.glob("*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        return joblib.Memory(folder, verbose=0)

    def save_figure(
        self, figure: Any, id: str, *, height: float = 2.8, **values: Any
    ) -> None:
        """Save a figure as SVG, and show it.

        Parameters
        ----------
        figure
            Of matplotlib; or a `seaborn.objects` plot, drawn as wide as the text. None
            shows the one saved before.
        id
            Its name in the report and in ``figures/captions.toml``.
        height
            Of a `seaborn.objects` plot, in inches.
        **values
            What stands in places of its caption, such as ``{n}``.

        Raises
        ------
        ValueError
            Where the caption is missing, or a value of it.
        """
        if isinstance(figure, so.Plot):
            figure = draw_plot(figure, height)
        text = None if figure is None else svg(figure)
        self._save("figure", id, text, values)

    def save_table(self, table: pd.DataFrame | None, id: str, **values: Any) -> None:
        """Save a table as CSV; x, x_low and x_high are shown as one, "x [low, high]".

        For None, the one saved before is shown. Raises ValueError where the caption is
        missing, or a value of it.
        """
        text = None
        if table is not None:
            unnamed = table.index.name is None
            if not (unnamed and isinstance(table.index, pd.RangeIndex)):
                table = table.reset_index()
            text = table.map(_plain).to_csv(index=False, lineterminator="\n")
        self._save("table", id, text, values)

    def save_numbers(self, numbers: Any, id: str, **values: Any) -> None:
        """Save numbers as JSON: nested, or with keys of several parts (name, below, …).

        Names become ``lower_case``. For None, what was saved before stays. Raises
        ValueError where two names become one, or the caption is missing.
        """
        text = None if numbers is None else json.dumps(_plain(numbers), **JSON) + "\n"
        self._save("numbers", id, text, values)

    def _save(
        self, kind: str, id: str, text: str | None, values: Mapping[str, Any]
    ) -> None:
        if text is None:
            self._show_earlier(kind, id)
            return
        entry = {"kind": kind, **self._words(kind, id, values), **self._made}
        if values:
            entry["values"] = _plain(values)
        self._keep(id, entry, text)
        _show(id, entry, text)

    def _show_earlier(self, kind: str, id: str) -> None:
        """Show what an earlier run saved, if the same encoder made it, and keep it.

        Its caption may have been written anew since then: it is made again, with the
        values of that run.
        """
        found = self._find_earlier(id)
        if isinstance(found, str):
            _show(id, {"kind": kind, "caption": f"{id}: {found}, needs images."}, "")
            return
        values = found.entry.get("values", {})
        entry = found.entry | self._words(found.entry["kind"], id, values)
        if _is_building() or found.folder == self.folder:
            self._keep(id, entry, found.text)
        _show(id, entry, found.text, note=EARLIER)

    def _find_earlier(self, id: str) -> Saved | str:
        """Return what an earlier run saved, or say in words why there is nothing."""
        places = [(self.folder, self._before | self._results)]
        if self._committed:
            places.append((self._committed, _results_in(self._committed, self.name)))
        reason = "never saved"
        for folder, results in places:
            entry = results.get(id)
            if entry is None:
                continue
            if entry.get("fingerprint") != self.fingerprint:
                reason = "not computed for this model"
                continue
            path = folder / f"{id}{SUFFIXES[entry['kind']]}"
            if path.is_file():
                return Saved(folder, entry, path.read_text("utf-8"))
        return reason

    def _keep(self, id: str, entry: Entry, text: str) -> None:
        """Write a result, and the file that says how this notebook's were made."""
        self._results[id] = entry
        of_notebook = {"versions": package_versions(), "results": self._results}
        made = json.dumps(of_notebook, **JSON)
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / f"{id}{SUFFIXES[entry['kind']]}", text)
        _write(self.folder / f"{self.name}.json", made + "\n")

    def _words(self, kind: str, id: str, values: Mapping[str, Any]) -> dict[str, str]:
        """Return caption and, of a figure, alternative text, with their values."""
        wanted = ("caption", "alt") if kind == "figure" else ("caption",)
        captions = self._captions
        if captions is None:  # outside of a checkout the name has to do
            return dict.fromkeys(wanted, id.replace("_", " ").capitalize() + ".")
        try:
            return {name: captions[id][name].format(**values) for name in wanted}
        except KeyError as error:
            raise ValueError(
                f"Write {error} into [{id}] in figures/captions.toml, "
                "or give its value on saving."
            ) from None

    @cached_property
    def _captions(self) -> dict[str, dict[str, str]] | None:
        for folder in (self.folder, self._committed):
            if folder and (folder / "captions.toml").is_file():
                return tomllib.loads((folder / "captions.toml").read_text("utf-8"))
        return None


def _how_made(encoder: Any, parameters: Mapping[str, Any]) -> Entry:
    """Return what is noted beside a result: no path of this machine, only its end."""
    noted = {
        name: re.split(r"[/\\]", value)[-1] if isinstance(value, str) else value
        for name, value in parameters.items()
    }
    made: Entry = {"parameters": _plain(noted)}
    if encoder is not None:
        is_path = os.path.isabs(encoder.name)
        made["encoder"] = Path(encoder.name).name if is_path else encoder.name
        made["fingerprint"] = encoder.fingerprint
    return made


def _results_in(folder: Path, name: str) -> dict[str, Entry]:
    path = folder / f"{name}.json"
    if not path.is_file():
        return {}
    results: dict[str, Entry] = json.loads(path.read_text("utf-8"))["results"]
    return results


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that compute, by name.

    They are without "+cpu" and the like, which name a build of the same version.
    """
    return {
        package: importlib.metadata.version(package).split("+")[0]
        for package in PACKAGES
    }


def _digest_of_code() -> str:
    """Return a digest of the library's modules and of the packages that compute."""
    package = Path(__file__).parents[1]
    modules = sorted(package.rglob("*.py"))
    code = b"".join(module.read_bytes() for module in modules)
    versions = [*package_versions().values()]
    return hashlib.sha256(code + json.dumps(versions).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    """Write a text with the same line ends anywhere; leave an equal file untouched."""
    data = text.encode("utf-8")
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)


def _log_plainly(*, to_stderr: bool) -> None:
    """Show the library's log lines once; on stderr they are red, and not printed."""
    library = logging.getLogger("cliplib")
    stream = sys.stderr if to_stderr else sys.stdout
    library.handlers = [logging.StreamHandler(stream)]
    library.propagate = False
    library.setLevel(logging.INFO)


def _show(id: str, entry: Entry, text: str, note: str = "") -> None:
    """Show a saved result in a notebook with its caption; of numbers, their names."""
    if not get_ipython():
        return
    caption = entry["caption"] + note
    alt = entry.get("alt", "")
    data = {"text/plain": f"{id}: {caption}" if text else caption}
    if text and entry["kind"] == "figure":
        data["image/svg+xml"] = text
        data["text/html"] = _figure_as_html(text, caption, alt)
    elif text and entry["kind"] == "table":
        data["text/html"] = _table_as_html(text, caption)
    elif text:
        data["text/plain"] += f" ({', '.join(json.loads(text))})"
    words = {"caption": caption, "alt": alt}
    display(data, metadata=words, raw=True)  # type: ignore[no-untyped-call]


def _figure_as_html(svg: str, caption: str, alt: str) -> str:
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    image = f'<img alt="{escape(alt)}" src="{source}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _table_as_html(csv: str, caption: str) -> str:
    table = pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False)
    table = table.map(_shown)
    for name in list(table):
        if f"{name}_low" in table and f"{name}_high" in table:
            low = table.pop(f"{name}_low")
            high = table.pop(f"{name}_high")
            # No line breaks inside an interval, nor before it.
            interval = "\N{NO-BREAK SPACE}[" + low + ",\N{NO-BREAK SPACE}" + high + "]"
            table[name] += interval.where((low != "") | (high != ""), "")
    table = table.rename(columns=lambda name: name.replace("_", " "))
    head = f"<caption>{escape(caption)}</caption><thead>"
    html: str = table.to_html(index=False)
    return html.replace("<thead>", head, 1)


def _shown(cell: str) -> str:
    """Write a fraction with three decimals; text and whole numbers stay as they are.

    Whole thousands lose their decimals; below 0.0005 the notation is scientific.
    """
    if not re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", cell) or cell.isdecimal():
        return cell
    number = float(cell)
    if number.is_integer() and abs(number) >= 1000:
        return f"{number:.0f}"
    if 0 < abs(number) < 0.0005:
        return f"{number:.2e}"
    return f"{number:.3f}" if "." in cell or "e" in cell else cell


def _plain(value: Any) -> Any:
    """Return plain Python values; None for a float where it is undefined.

    A fraction is rounded to six significant digits; a whole number keeps its value.
    """
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("index")
    if isinstance(value, Mapping | pd.Series):
        return _nested(value.items())
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return _rounded(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _rounded(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return value if value.is_integer() else float(f"{value:.6g}")


def _nested(items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return a tree of plain values; a key of several parts is a path into it.

    Raises ValueError, with both names, where two of them would become one.
    """
    tree: dict[str, Any] = {}
    names: dict[tuple[str, ...], Any] = {}
    for name, value in items:
        parts = name if isinstance(name, tuple) else (name,)
        path = tuple(map(_key, parts))
        for depth, part in enumerate(parts, 1):
            known_as = names.setdefault(path[:depth], part)
            if known_as != part:
                raise ValueError(
                    f"{known_as!r} and {part!r} would both be saved as "
                    f"{path[depth - 1]!r}: rename one of them."
                )
        branch = _plain(value)
        for key in reversed(path):
            branch = {key: branch}
        _merge(tree, branch, name)
    return tree


def _key(name: Any) -> str:
    words = str(name).lower().replace("@", "_at_")
    return re.sub(r"\W+", "_", words).strip("_")


def _merge(tree: dict[str, Any], branch: dict[str, Any], name: Any) -> None:
    for key, value in branch.items():
        if key not in tree:
            tree[key] = value
        elif isinstance(tree[key], dict) and isinstance(value, dict):
            _merge(tree[key], value, name)
        else:
            raise ValueError(
                f"{name!r} would overwrite {key!r}, which another name has saved: "
                "rename one of them."
            )


def as_table(
    results: Mapping[Any, Any], *levels: str, titles: Mapping[str, str] | None = None
) -> pd.DataFrame | None:
    """Return nested numbers as a table, one row for each key.

    Parameters
    ----------
    results
        For each key, a name or several of them, a dictionary or a DataFrame. A metric
        {"value", "low", "high"} named x gives the columns x, x_low and x_high.
    *levels
        Names of the index, as many as a key has parts.
    titles
        What to write for a part of a key; data sets have titles of their own.

    Returns
    -------
    pandas.DataFrame or None
        None where there are no results.
    """
    if not results:
        return None
    rows = [
        row.to_dict("index") if isinstance(row, pd.DataFrame) else row
        for row in results.values()
    ]
    table = pd.json_normalize(rows, sep="_").set_axis(pd.Index([*results]))
    names = {name: spec.title for name, spec in DATASETS.items()} | dict(titles or {})
    table = table.rename_axis(levels).rename(names)
    return table.rename(columns=lambda name: name.removesuffix("_value"))
