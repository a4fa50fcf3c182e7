"""Small notebooks, executed from the committed features, give what is committed."""

import csv
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from study.results import package_versions

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "figures"

LAST_DIGITS = 5e-3
"""Another processor may move single images to another class, and a share with them."""
COUNTS = 3
"""So many images may move."""


@pytest.mark.parametrize("name", ["00_clip_at_a_glance", "02_trashnet"])
def test_executed_notebook_equals_the_committed_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare every number that a notebook saves with the one that is committed."""
    papermill = pytest.importorskip("papermill")
    made = json.loads((FIGURES / f"{name}.json").read_text("utf-8"))
    if made["versions"] != package_versions():
        pytest.skip("the committed results were made with other versions")
    monkeypatch.syspath_prepend(str(ROOT / "report"))
    import places
    import surroundings

    shutil.copy(FIGURES / "captions.toml", tmp_path)
    with mock.patch.dict(os.environ):
        surroundings.prepare(places.Places(ROOT), "", "")
        os.environ["CLIPLIB_FIGURES"] = str(tmp_path)
        papermill.execute_notebook(
            str(ROOT / "notebooks" / f"{name}.ipynb"),
            str(tmp_path / "executed.ipynb"),
            cwd=str(ROOT),
            kernel_name="python3",
            progress_bar=False,
        )
    results = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))["results"]
    assert results.keys() == made["results"].keys()
    compared = 0
    for id, entry in results.items():
        if entry["kind"] == "figure":  # drawn from the same numbers
            continue
        suffix = ".csv" if entry["kind"] == "table" else ".json"
        now = leaves(tmp_path / f"{id}{suffix}")
        before = leaves(FIGURES / f"{id}{suffix}")
        for value, known in itertools.zip_longest(now, before):
            assert same(value, known), f"{id}: {value} is not {known}"
            compared += isinstance(number(value), float)
    assert compared > 10


def leaves(path: Path) -> Iterator[Any]:
    """Yield the cells of a CSV file, or keys and values of a JSON file, in order."""
    text = path.read_text("utf-8")
    if path.suffix == ".csv":
        yield from itertools.chain.from_iterable(csv.reader(text.splitlines()))
        return
    yield from leaves_of(json.loads(text))


def leaves_of(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield key
            yield from leaves_of(below)
    elif isinstance(value, list):
        for below in value:
            yield from leaves_of(below)
    else:
        yield value


def number(value: Any) -> Any:
    """Return what is a number as a float; anything else as it is."""
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


def same(value: Any, known: Any) -> bool:
    """Return whether two leaves are equal, numbers to the last digits."""
    first = number(value)
    second = number(known)
    if not (isinstance(first, float) and isinstance(second, float)):
        return bool(value == known)
    whole = first.is_integer() and second.is_integer()
    return abs(first - second) <= (COUNTS if whole else LAST_DIGITS)
