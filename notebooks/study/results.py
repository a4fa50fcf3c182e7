"""Results of a notebook for the report, each saved under an id and shown.

A notebook begins with a `Study` and saves its results through it. Captions and
alternative texts stand in ``figures/captions.toml``; ``**values`` fill their places,
such as ``{repeats}``. A JSON file for each notebook, beside its results, says how they
were made. In place of a result that needs images, where there are none, a notebook
saves None: what an earlier run saved is shown, if the same encoder made it.
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
from collections.abc import Iterable, Mapping, Sequence
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
from sklearn.base import clone

import cliplib
from cliplib.data.arrays import Floats
from study.agreement import agrees
from study.data import DATASETS
from study.figures import draw_plot, svg, use_style
from study.folds import out_of_fold_proba

logger = logging.getLogger(f"cliplib.{__name__}")

SUFFIXES = {"figure": ".svg", "table": ".csv", "numbers": ".json"}
PACKAGES = ("datasets", "matplotlib", "numpy", "scikit-learn", "torch", "transformers")
SUMMED_BY = ("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY")
"""Settings with which sums come out in another order, and so in other last digits."""
JSON: Any = {"indent": 1, "sort_keys": True, "ensure_ascii": False, "allow_nan": False}
CHECKOUT = Path(__file__).resolve().parents[2]
BUILD_SETTING = "CLIPLIB_FIGURES"
EARLIER = " (From an earlier run: no images on this machine.)"

Entry = dict[str, Any]
"""What is noted of a result: its kind, its caption, and how it was made."""


class Saved(NamedTuple):
    """A result as an earlier run saved it: its folder, its entry, its file's text."""

    folder: Path
    entry: Entry
    text: str


def _is_building() -> bool:
    """Say whether the report's build runs this notebook."""
    return bool(os.environ.get(BUILD_SETTING))


def _results_folder() -> Path:
    """Return where results go: the folder of the build, or ``build/scratch``."""
    if _is_building():
        return Path(os.environ[BUILD_SETTING])
    return CHECKOUT / "build" / "scratch"


def _set_up_notebook() -> None:
    """Draw in the report's style, and show the library's log lines below the cell.

    While the report is built, log lines go to stderr, which the build does not print.
    """
    use_style()
    shell = get_ipython()
    if not shell:
        return
    refuse_unknown_parameters(shell.user_ns["In"])
    stream = sys.stderr if _is_building() else sys.stdout
    library = logging.getLogger("cliplib")
    library.handlers = [logging.StreamHandler(stream)]  # one, for the last study
    library.propagate = False
    library.setLevel(logging.INFO)


def committed_folder() -> Path:
    """Return the folder ``figures`` of the checkout that holds this package."""
    return CHECKOUT / "figures"


def refuse_unknown_parameters(cells: Sequence[str]) -> None:
    """Stop where papermill was given a parameter that the notebook does not have.

    `cells` are those that were executed. Papermill adds one, which begins with its own
    comment, below the notebook's parameters. ValueError for a name that no cell above
    sets.
    """
    known: set[str] = set()
    for cell in cells:
        names = re.findall(r"(?m)^(\w+) *=", cell)
        unknown = [name for name in names if name not in known]
        if cell.startswith("# Parameters\n") and unknown:
            raise ValueError(
                f"This notebook has no parameter {unknown[0]!r}; "
                f"there are: {', '.join(sorted(known))}."
            )
        known |= {*names}


class Study:
    """The results of one notebook, which begins with it: it saves and shows them.

    They go to the folder that ``CLIPLIB_FIGURES`` names, which the report's build sets;
    otherwise to ``build/scratch`` of the checkout that holds this package.

    Making one also sets up the notebook: from then on, figures have the report's style,
    and the library's log lines are shown below the cell. It raises ValueError where
    papermill was given a parameter that the notebook does not have.

    Parameters
    ----------
    name
        Of the notebook, such as "01_brain_tumor_mri".
    encoder
        The `ClipEncoder` that the results rest on; None where there is none.
    **parameters
        What to note beside each result. Of a path, the last part is noted.

    Attributes
    ----------
    folder
        Where results go.
    fingerprint
        Of the encoder; results of an earlier run with another one are not shown.
    """

    def __init__(self, name: str, encoder: Any = None, **parameters: Any) -> None:
        self.name = name
        self.folder = _results_folder()
        self.fingerprint: str | None = encoder.fingerprint if encoder else None
        self._how_made = _how_made(encoder, parameters)
        self._entries: dict[str, Entry] = {}  # of this run, by id
        self._earlier_entries = _read_entries(self.folder, name)
        _set_up_notebook()
        logger.info("Results go to %s.", self.folder)

    @cached_property
    def memory(self) -> joblib.Memory:
        """A cache on disk that all notebooks share, for ``memory.cache(function)``.

        It lies in ``build/predictions``. What other code, versions of packages or
        numbers of threads computed is deleted.
        """
        caches = CHECKOUT / "build" / "predictions"
        current = caches / _digest_of_code()
        for cache in caches.glob("*"):
            if cache != current:
                shutil.rmtree(cache, ignore_errors=True)
        return joblib.Memory(current, verbose=0)

    def out_of_fold_proba(
        self, estimator: Any, table: cliplib.FeatureTable, **options: Any
    ) -> Floats:
        """Return `out_of_fold_proba` of `study.folds`, kept for all notebooks."""
        predict = self.memory.cache(out_of_fold_proba)
        proba: Floats = predict(clone(estimator), table, **options)
        return proba

    def save_figure(
        self, figure: Any, id: str, *, height: float = 2.8, **values: Any
    ) -> None:
        """Save a figure as SVG, and show it.

        Parameters
        ----------
        figure
            Of matplotlib; or a `seaborn.objects` plot, drawn as wide as the text. For
            None, the one of an earlier run is shown.
        id
            Its name in the report and in ``figures/captions.toml``.
        height
            Of a `seaborn.objects` plot, in inches.
        **values
            What stands in places of its caption, such as ``{n}``.

        Raises
        ------
        ValueError
            Where the caption is missing, or a value for a place in it.
        """
        if isinstance(figure, so.Plot):
            figure = draw_plot(figure, height)
        text = None if figure is None else svg(figure)
        self._save("figure", id, text, values)

    def save_table(self, table: pd.DataFrame | None, id: str, **values: Any) -> None:
        """Save a table as CSV; x, x_low and x_high are shown as one, "x [low, high]".

        The index becomes columns, unless it only numbers the rows. For None, the table
        of an earlier run is shown. Raises ValueError where the caption is missing, or a
        value for a place in it.
        """
        text = None
        if table is not None:
            index = table.index
            only_numbers_rows = isinstance(index, pd.RangeIndex) and index.name is None
            if not only_numbers_rows:
                table = table.reset_index()
            text = table.map(_plain).to_csv(index=False, lineterminator="\n")
        self._save("table", id, text, values)

    def save_numbers(self, numbers: Any, id: str, **values: Any) -> None:
        """Save numbers as JSON: nested dictionaries, where a tuple of names is a path.

        Names become ``lower_case``. For None, the numbers of an earlier run stay.
        Raises ValueError where two names become one, or the caption is missing.
        """
        text = None if numbers is None else json.dumps(_plain(numbers), **JSON) + "\n"
        self._save("numbers", id, text, values)

    def _save(
        self, kind: str, id: str, text: str | None, values: Mapping[str, Any]
    ) -> None:
        """Save a result, given as the text of its file, and show it with its caption.

        For None, that of an earlier run is shown. `kind` is a key of `SUFFIXES`, and
        `values` fill places of the caption.
        """
        if text is None:
            self._show_earlier(kind, id)
            return
        entry = {
            "kind": kind,
            **self._caption_and_alt(kind, id, values),
            **self._how_made,
        }
        if values:
            entry["values"] = _plain(values)
        text = self._write_result(id, entry, text)
        _show(id, entry, text)

    def _show_earlier(self, kind: str, id: str) -> None:
        """Show what an earlier run saved, or say below the cell why there is nothing.

        Its caption, which may have been rewritten since then, is read anew and filled
        with the values of that run. If the report is being built, or the result lies in
        this run's folder already, it is saved again, to be among this run's entries.
        """
        try:
            saved = self._find_earlier(id)
        except LookupError as reason:
            _show(id, {"kind": kind, "caption": f"{id}: {reason}, needs images."}, "")
            return
        values = saved.entry.get("values", {})
        entry = saved.entry | self._caption_and_alt(saved.entry["kind"], id, values)
        if _is_building() or saved.folder == self.folder:
            self._write_result(id, entry, saved.text)
        _show(id, entry, saved.text, note=EARLIER)

    def _find_earlier(self, id: str) -> Saved:
        """Return the result that an earlier run with the same encoder saved.

        It is looked for in `folder`, then among the committed ones. LookupError, with
        the reason in words, where neither holds it.
        """
        # Of one id, this run's entry counts.
        places = [(self.folder, self._earlier_entries | self._entries)]
        committed = committed_folder()
        places.append((committed, _read_entries(committed, self.name)))
        reason = "never saved"
        for folder, entries in places:
            entry = entries.get(id)
            if entry is None:
                continue
            if entry.get("fingerprint") != self.fingerprint:
                reason = "not computed for this model"
                continue
            path = folder / f"{id}{SUFFIXES[entry['kind']]}"
            if path.is_file():
                return Saved(folder, entry, path.read_text("utf-8"))
        raise LookupError(reason)

    def _write_result(self, id: str, entry: Entry, text: str) -> str:
        """Write a result's text, and its entry into the JSON file of this notebook.

        Both lie in `folder`, which is made if missing. Returns the text that is there.
        """
        self._entries[id] = entry
        of_notebook = {"versions": package_versions(), "results": self._entries}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.name}.json"
        _write_unless_it_agrees(path, json.dumps(of_notebook, **JSON) + "\n")
        path = self.folder / f"{id}{SUFFIXES[entry['kind']]}"
        return _write_unless_it_agrees(path, text)

    def _caption_and_alt(
        self, kind: str, id: str, values: Mapping[str, Any]
    ) -> dict[str, str]:
        """Return "caption" and, of a figure, "alt", with `values` in their places.

        ValueError where ``captions.toml`` lacks the text, or `values` a value.
        """
        wanted = ("caption", "alt") if kind == "figure" else ("caption",)
        try:
            return {name: self._captions[id][name].format(**values) for name in wanted}
        except KeyError as error:  # of the id, of "alt", or of a place in the text
            raise ValueError(
                f"Write {error} into [{id}] in figures/captions.toml, "
                "or give its value on saving."
            ) from None

    @cached_property
    def _captions(self) -> dict[str, dict[str, str]]:
        """Caption and alternative text of each id."""
        # A build of the report has a copy of them in its folder.
        path = self.folder / "captions.toml"
        if not path.is_file():
            path = committed_folder() / "captions.toml"
        return tomllib.loads(path.read_text("utf-8"))


def _how_made(encoder: Any, parameters: Mapping[str, Any]) -> Entry:
    """Return what an entry notes of parameters and of an encoder, if there is one.

    Of a path, which names folders of this machine, only the last part is noted.
    """
    noted = dict(parameters)
    for name, value in parameters.items():
        if isinstance(value, str):
            noted[name] = re.split(r"[/\\]", value)[-1]
    made: Entry = {"parameters": _plain(noted)}
    if encoder is not None:
        made["encoder"] = encoder.name
        if os.path.isabs(encoder.name):  # a hub id, "openai/clip", stays whole
            made["encoder"] = Path(encoder.name).name
        made["fingerprint"] = encoder.fingerprint
    return made


def _read_entries(folder: Path, notebook: str) -> dict[str, Entry]:
    """Return the entries, by id, of what a notebook saved in a folder; or {}."""
    path = folder / f"{notebook}.json"
    if not path.is_file():
        return {}
    entries: dict[str, Entry] = json.loads(path.read_text("utf-8"))["results"]
    return entries


def package_versions() -> dict[str, str]:
    """Return the versions of `PACKAGES`, by name.

    They are without "+cpu" and the like, which name a build of the same version.
    """
    return {
        package: importlib.metadata.version(package).split("+")[0]
        for package in PACKAGES
    }


def _digest_of_code() -> str:
    """Return a digest of the library's modules, of `PACKAGES` and of `SUMMED_BY`."""
    packages = [Path(cliplib.__file__).parent, Path(__file__).parent]
    modules = sorted(m for package in packages for m in package.rglob("*.py"))
    code = b"".join(module.read_bytes() for module in modules)
    about = [*package_versions().values()]
    about += [os.environ.get(name, "") for name in SUMMED_BY]
    return hashlib.sha256(code + json.dumps(about).encode()).hexdigest()[:16]


def _write_unless_it_agrees(path: Path, text: str) -> str:
    r"""Write a text as UTF-8 with line ends "\n", unless a file agrees with it.

    Returns the text that is there.
    """
    if path.is_file():
        saved = path.read_text("utf-8")
        if agrees(text, saved):
            return saved
    path.write_bytes(text.encode("utf-8"))
    return text


def _show(id: str, entry: Entry, text: str, note: str = "") -> None:
    """Show a result below the cell, with its caption; of numbers, their names alone.

    The report's build reads SVG, texts and metadata; a notebook shows the HTML. `text`
    is that of its file, "" if there is none; `note` follows the caption. Outside
    of a notebook nothing is shown.
    """
    if not get_ipython():
        return
    caption = entry["caption"] + note
    alt = entry.get("alt", "")
    # By media type: the notebook shows the richest one that it can.
    data = {"text/plain": f"{id}: {caption}" if text else caption}
    if text and entry["kind"] == "figure":
        data["image/svg+xml"] = text
        data["text/html"] = _figure_as_html(text, caption, alt)
    elif text and entry["kind"] == "table":
        data["text/html"] = _table_as_html(text, caption)
    elif text:
        data["text/plain"] += f" ({', '.join(json.loads(text))})"
    words = {"caption": caption, "alt": alt}  # which the report's build reads
    display(data, metadata=words, raw=True)  # type: ignore[no-untyped-call]


def _figure_as_html(svg: str, caption: str, alt: str) -> str:
    """Return a figure, given as SVG, as HTML with its caption below."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    image = f'<img alt="{escape(alt)}" src="{source}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _table_as_html(csv: str, caption: str) -> str:
    """Return a table, given as CSV, as HTML with its caption above.

    Columns x, x_low and x_high become one: "x [low, high]", or "x" without an interval.
    """
    table = pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False)
    table = table.map(_short_number)
    space = "\N{NO-BREAK SPACE}"  # no line breaks inside an interval, nor before it
    for name in list(table):
        if f"{name}_low" in table and f"{name}_high" in table:
            low = table.pop(f"{name}_low")
            high = table.pop(f"{name}_high")
            interval = space + "[" + low + "," + space + high + "]"
            has_interval = (low != "") | (high != "")
            table[name] += interval.where(has_interval, "")
    table = table.rename(columns=lambda name: name.replace("_", " "))
    head = f"<caption>{escape(caption)}</caption><thead>"
    html: str = table.to_html(index=False)
    return html.replace("<thead>", head, 1)


def _short_number(cell: str) -> str:
    """Shorten a fraction: "0.12345" to "0.123"; text and whole numbers stay.

    From 1,000 on, ".0" is left out; below 0.0005 the notation is scientific.
    """
    is_number = re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", cell)
    if not is_number or not ("." in cell or "e" in cell):
        return cell
    number = float(cell)
    if number.is_integer() and abs(number) >= 1000:
        return f"{number:.0f}"
    if 0 < abs(number) < 0.0005:
        return f"{number:.2e}"
    return f"{number:.3f}"


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: dicts, lists, numbers, texts and None.

    A DataFrame becomes dicts by row, then by column. Fractions are rounded to six
    significant digits; NaN and infinity become None.
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
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _rounded(value: float) -> float | None:
    """Round to six significant digits, whole numbers not at all; None if not finite."""
    if not math.isfinite(value):
        return None
    return value if value.is_integer() else float(f"{value:.6g}")


def _nested(items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return names and values as nested dicts; a tuple of names is a path into them.

    {("Mini", "Recall@1"): 0.5} becomes {"mini": {"recall_at_1": 0.5}}. ValueError, with
    both names, where two of them would become one key.
    """
    tree: dict[str, Any] = {}
    name_at: dict[tuple[str, ...], Any] = {}
    for name, value in items:
        path = name if isinstance(name, tuple) else (name,)
        keys = tuple(_json_key(part) for part in path)
        _note_names(name_at, path, keys)
        branch = _plain(value)
        for key in reversed(keys):  # from the inside to the outside
            branch = {key: branch}
        _merge(tree, branch, name)
    return tree


def _note_names(
    name_at: dict[tuple[str, ...], Any], path: tuple[Any, ...], keys: tuple[str, ...]
) -> None:
    """Note in `name_at` the names on a path, each by the keys that lead to it.

    ValueError where another name is noted there already.
    """
    for depth, name in enumerate(path, 1):
        earlier = name_at.setdefault(keys[:depth], name)
        if earlier != name:
            raise ValueError(
                f"{earlier!r} and {name!r} would both be saved as "
                f"{keys[depth - 1]!r}: rename one of them."
            )


def _json_key(name: Any) -> str:
    """Return a name in ``lower_case``: "recall_at_10" for "Recall@10"."""
    words = str(name).lower().replace("@", "_at_")
    return re.sub(r"\W+", "_", words).strip("_")


def _merge(tree: dict[str, Any], branch: dict[str, Any], name: Any) -> None:
    """Add `branch` to `tree`, in place; dicts under the same key are merged.

    ValueError, with the `name` that the branch is of, if it would overwrite a value.
    """
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
    """Return nested numbers as a table, one row for each key, in the same order.

    {"a": {"x": {"value": 3, "low": 2, "high": 5}}} becomes a row "a" with the columns
    x, x_low and x_high.

    Parameters
    ----------
    results
        By key, a name or a tuple of names: numbers by name, or metrics, that is, dicts
        of value, low and high; or a DataFrame of metrics in its rows.
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
    # A nested name is joined to the one above it: x_value, x_low, x_high.
    table = pd.json_normalize(rows, sep="_")
    table = table.rename(columns=lambda name: name.removesuffix("_value"))
    table.index = pd.Index([*results])
    title_of = {name: spec.title for name, spec in DATASETS.items()}
    title_of |= titles or {}
    return table.rename_axis(levels).rename(title_of)
