"""Results for the report, each saved under an id, and the plots that no library draws.

Captions and alternative texts stand in ``figures/captions.toml``; ``**values`` fill their places,
such as ``{repeats}``. A file for each notebook, beside its results, says how they were made. For
None what an earlier run saved is shown.
"""

import base64
import importlib.metadata
import io
import json
import logging
import math
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from functools import reduce
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

import font_source_sans_pro
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so
from IPython import get_ipython
from IPython.display import display
from matplotlib import font_manager
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from cliplib.data import DATASETS
from cliplib.images import load_image

TEXT_WIDTH = (
    6.22  # inches of the report's column: a figure this wide is printed at its own size
)
COMMITTED = Path(__file__).resolve().parents[1] / "figures"
PACKAGES = ("datasets", "matplotlib", "numpy", "scikit-learn", "torch", "transformers")
JSON: Any = {"indent": 1, "sort_keys": True, "ensure_ascii": False, "allow_nan": False}
_run: dict[str, Any] = {}


def begin_notebook(name: str, encoder: Any = None, **parameters: Any) -> None:
    """Set the style, and note whose results follow, with which encoder and parameters.

    Results go to the folder ``CLIPLIB_FIGURES``, set by the report's build, or ``build/scratch``.
    """
    for face in Path(font_source_sans_pro.__file__).parent.glob("files/*.ttf"):
        font_manager.fontManager.addfont(face)
    plt.style.use("cliplib.figures")
    folder = Path(
        os.environ.get("CLIPLIB_FIGURES") or COMMITTED.parent / "build" / "scratch"
    )
    given = {
        k: v.split("/")[-1] if isinstance(v, str) else v for k, v in parameters.items()
    }
    made = {
        "parameters": _plain(given)
    }  # of paths, which are this machine's, the last part
    if encoder is not None:
        own = (
            encoder.name.split("/")[-1] if os.path.isabs(encoder.name) else encoder.name
        )
        made |= {"encoder": own, "fingerprint": encoder.fingerprint}
    _run.update(name=name, folder=folder, made=made, earlier={}, results={})
    for sidecar in (COMMITTED / f"{name}.json", folder / f"{name}.json"):
        if sidecar.exists():
            _run["earlier"] |= json.loads(sidecar.read_text("utf-8"))["results"]
    if get_ipython():
        stream = (
            sys.stderr if "CLIPLIB_FIGURES" in os.environ else sys.stdout
        )  # stderr is red
        library = logging.getLogger("cliplib")
        library.handlers, library.propagate = [logging.StreamHandler(stream)], False
        library.setLevel(logging.INFO)
    logging.getLogger(__name__).info("Results go to %s.", folder)


def save_figure(figure: Any, id: str, *, height: float = 2.8, **values: Any) -> None:
    """Save a matplotlib figure, or a `seaborn.objects` plot at this height in inches, as SVG."""
    text = None
    if isinstance(figure, so.Plot):
        plot, figure = figure, plt.figure(figsize=(TEXT_WIDTH, height))
        plot.theme(dict(plt.rcParams)).on(figure).plot()
        for legend in figure.legends[:1]:  # one for all panels, above them
            figure.legends.clear()
            labels, place = (
                [text.get_text() for text in legend.texts],
                "outside upper center",
            )
            figure.legend(legend.legend_handles, labels, loc=place, ncols=5)
    if figure is not None:
        figure.savefig(svg := io.StringIO(), format="svg", metadata={"Date": None})
        plt.close(figure)
        text = re.sub(r"data:image/png;base64,\s*([^\"]+)", _as_jpeg, svg.getvalue())
    _save("figure", f"{id}.svg", text, values)


def save_table(table: pd.DataFrame | None, id: str, **values: Any) -> None:
    """Save a table as CSV; show ``x``, ``x_low`` and ``x_high`` as one column "x [low, high]"."""
    if table is not None:
        counts = isinstance(table.index, pd.RangeIndex) and table.index.name is None
        table = (table if counts else table.reset_index()).map(_plain)
    text = None if table is None else table.to_csv(index=False, lineterminator="\n")
    _save("table", f"{id}.csv", text, values)


def save_numbers(numbers: Any, id: str, **values: Any) -> None:
    """Save numbers as JSON under ``lower_case`` names: nested, or with keys (name, below, ...)."""
    text = None if numbers is None else json.dumps(_plain(numbers), **JSON) + "\n"
    _save("numbers", f"{id}.json", text, values)


def _save(kind: str, file: str, text: str | None, values: dict[str, Any]) -> None:
    """Write a result and its entry, or find the earlier ones; show the result."""
    id, path, note = Path(file).stem, _run["folder"] / file, ""
    if text is None:
        entry = _run["earlier"].get(id, {"kind": kind, "caption": "Never saved."})
        note = " (From an earlier run: no images on this machine.)"
        path = path if path.exists() else COMMITTED / file
    else:
        own = _run["folder"] / "captions.toml"
        captions = tomllib.loads(
            (own if own.exists() else COMMITTED / own.name).read_text("utf-8")
        )
        try:
            names = ("caption", "alt") if kind == "figure" else ("caption",)
            words = {name: captions[id][name].format(**values) for name in names}
        except KeyError as error:
            place = f"[{id}] in figures/captions.toml"
            raise ValueError(
                f"Write {error} into {place}, or give its value on saving."
            ) from None
        entry = {"kind": kind, **words, **_run["made"]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    if path.parent == _run["folder"] and path.exists():
        _run["results"][id] = entry
        versions = {
            package: importlib.metadata.version(package) for package in PACKAGES
        }
        sidecar = {"versions": versions, "results": _run["results"]}
        text = json.dumps(sidecar, **JSON) + "\n"
        path.with_name(f"{_run['name']}.json").write_text(text, "utf-8")
    if get_ipython():
        _show(path, entry["caption"] + note, entry.get("alt", ""))


def _show(path: Path, caption: str, alt: str) -> None:
    """Show a saved result with its caption; of numbers, their names."""
    text, words = path.read_text("utf-8") if path.exists() else "", escape(caption)
    data = {"text/plain": f"{path.stem}: {caption}"}
    if path.suffix == ".svg" and text:
        data["image/svg+xml"] = text
        source = f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"
        image = f'<img alt="{escape(alt)}" src="{source}">'
        data["text/html"] = f"<figure>{image}<figcaption>{words}</figcaption></figure>"
    elif path.suffix == ".csv" and text:
        table = pd.read_csv(path)
        table = table.map(
            lambda x: f"{x:.3f}" if isinstance(x, float) and x * x > 1e-6 else str(x)
        )
        for name in list(table):
            if f"{name}_low" in table and f"{name}_high" in table:
                low, high = table.pop(f"{name}_low"), table.pop(f"{name}_high")
                table[name] += (" [" + low + ", " + high + "]").replace(
                    " [nan, nan]", ""
                )
        table = table.replace("nan", "").rename(
            columns=lambda name: name.replace("_", " ")
        )
        head = f"<caption>{words}</caption><thead>"
        data["text/html"] = table.to_html(index=False).replace("<thead>", head, 1)
    elif text:
        data["text/plain"] += f" ({', '.join(json.loads(text))})"
    display(data, metadata={"caption": caption, "alt": alt}, raw=True)  # type: ignore[no-untyped-call]


def _as_jpeg(found: re.Match[str]) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGBA")
    if image.getchannel("A").getextrema() != (
        255,
        255,
    ):  # a drawing, partly transparent
        return found[0]
    image.convert("RGB").save(data := io.BytesIO(), "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _plain(value: Any) -> Any:
    """Return plain Python values; floats with six significant digits, None where undefined."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("index")
    if isinstance(value, Mapping | pd.Series):
        nested: dict[str, Any] = {}
        for name, item in value.items():
            keys = [
                str(key).lower()
                for key in (name if isinstance(name, tuple) else [name])
            ]
            *path, last = [
                re.sub(r"\W+", "_", key.replace("@", "_at_")).strip("_") for key in keys
            ]
            place = reduce(lambda outer, word: outer.setdefault(word, {}), path, nested)
            place[last] = _plain(item)
        return nested
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def as_table(
    found: Mapping[Any, Any], *levels: str, titles: Mapping[str, str] | None = None
) -> pd.DataFrame | None:
    """Return nested numbers as a table, columns x, x_low and x_high for x of value, low and high.

    Keys become the index, its `levels` so named, its entries renamed by `titles`, data sets by
    their own. None for no numbers.
    """
    if not found:
        return None
    rows = [
        of.to_dict("index") if isinstance(of, pd.DataFrame) else of
        for of in found.values()
    ]
    table = (
        pd.json_normalize(rows, sep="_")
        .set_axis(pd.Index([*found]))
        .rename_axis(levels)
    )
    names = {name: spec.title for name, spec in DATASETS.items()} | dict(titles or {})
    return table.rename(names).rename(columns=lambda name: name.removesuffix("_value"))


def image_grid(
    images: Sequence[Any],
    titles: Sequence[str] = (),
    right: Sequence[Any] = (),
    columns: int = 8,
) -> Figure:
    """Draw images, or pairs of an image (or None) and a text below it; mark what is right."""

    def wrap(text: str | None) -> str:
        return "\n".join(
            textwrap.fill(line, 120 // columns) for line in (text or "").splitlines()
        )

    starts, titles = range(0, max(1, len(images)), columns), list(map(wrap, titles))
    lines = [
        max((t.count("\n") + 1 for t in titles[i : i + columns]), default=0)
        for i in starts
    ]
    size = (TEXT_WIDTH, len(starts) * TEXT_WIDTH / columns + 0.13 * sum(lines))
    figure, axes = plt.subplots(len(starts), columns, squeeze=False, figsize=size)
    looks = {True: ("✓ ", "C0", "-"), False: ("× ", "C2", "--")}
    for ax, cell, title, hit in zip_longest(axes.flat, images, titles, right):
        source, text = cell if isinstance(cell, tuple) else (cell, "")
        sign, colour, line = looks.get(hit, ("", "C4", "-"))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(edgecolor=colour, linestyle=line, visible=source is not None)
        ax.set_title(
            "" if source is None else f"{sign}{title or ''}", fontsize=7.5, pad=2
        )
        if source is None:
            ax.text(0.5, 0.5, wrap(text), ha="center", va="center", fontsize=7.5)
        else:
            (image := load_image(source)).thumbnail((160, 160))
            ax.imshow(image)
            ax.set_xlabel(wrap(text), fontsize=7.5)
    figure.draw_without_rendering()  # a first layout may cut titles off
    return figure


def result_grid(
    queries: Sequence[Any],
    images: Sequence[Any],
    titles: Sequence[Any],
    right: Sequence[Any] = (),
) -> Figure:
    """Draw each query, a sentence, an image or (image, sentence), and beside it what it found."""
    columns, cells = 1 + max(map(len, images)), []
    for query, *found in zip_longest(queries, images, titles, right, fillvalue=()):
        first = (None, query) if isinstance(query, str) else query
        cells += [(first, "", None), *zip_longest(*found)]
        cells += [(None, "", None)] * (-len(cells) % columns)
    sources, names, marks = zip(*cells, strict=True)
    return image_grid(sources, names, marks, columns)


def confusion_heatmap(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw a (k, k) confusion matrix, true classes as rows: counts, shaded by share of the row."""
    counts = pd.DataFrame(
        np.asarray(confusion), pd.Index(classes, name="true"), list(classes)
    )
    shares = counts.div(counts.sum(axis=1), axis=0).rename_axis(columns="predicted")
    figure, ax = plt.subplots(figsize=(3.4, 2.9))
    sns.heatmap(shares, annot=counts, fmt="d", vmin=0, vmax=1, cmap="Blues", cbar=False)
    ax.tick_params("y", rotation=0)
    return figure


def interval_plot(table: pd.DataFrame, x: str, y: str, **columns: str) -> so.Plot:
    """Plot dots with intervals x_low to x_high in a row for each `y`; `columns` such as color."""
    plot = so.Plot(table, x=x, y=y, **columns).add(
        so.Dot(), so.Dodge(gap=0.3)
    )  # all, ends or not
    return plot.add(
        so.Range(), so.Dodge(gap=0.3), legend=False, xmin=f"{x}_low", xmax=f"{x}_high"
    )
