"""The report's claims fall when the numbers contradict them.

A claim's condition stands in ``report/claims.toml``. Here it is evaluated in Python, on
the committed numbers and on copies in which one number is contradicted.
"""

from __future__ import annotations

import copy
import csv
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
FILE = tomllib.loads((ROOT / "report" / "claims.toml").read_text("utf-8"))
ALIASES = FILE.pop("names")
CELL = r'cell\((?:"[^"]*"|[^)"])*\)'
# As in report/theme/results.typ: a string, a cell of a table, or a path.
TERM = re.compile(rf'"[^"]*"|{CELL}(?:\.\w+)*|[a-z]\w*(?:\.\w+)+')
ENDS = ("value", "low", "high")


@cache
def numbers() -> dict[str, Any]:
    """Return what the notebooks saved as numbers, by id without "_numbers"."""
    saved = {}
    for sidecar in FIGURES.glob("[0-9][0-9]_*.json"):
        results = json.loads(sidecar.read_text("utf-8"))["results"]
        for name, entry in results.items():
            if entry["kind"] == "numbers":
                text = (FIGURES / f"{name}.json").read_text("utf-8")
                saved[name.replace("_numbers", "")] = json.loads(text)
    return saved


@cache
def rows(table: str) -> list[dict[str, str]]:
    with (FIGURES / f"{table}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cell(table: str, column: str, *words: str) -> dict[str, float]:
    """Return the metric in a column of the first row that holds these words."""
    found = (r for r in rows(table) if all(word in r.values() for word in words))
    row = next(found, None)
    if row is None:
        raise KeyError(f"{table} has no row with {words}")
    own = {"value": column, "low": f"{column}_low", "high": f"{column}_high"}
    if own["low"] not in row:
        own |= {"low": "low", "high": "high"}
    return {end: float(row[name]) for end, name in own.items() if row.get(name)}


def look_up(path: str) -> Any:
    """Return the value at a path of claims.toml, or raise KeyError."""
    if call := re.match(CELL, path):
        value: Any = cell(*re.findall(r'"([^"]*)"', call[0]))
        keys = path[call.end() :].split(".")[1:]
    else:
        first, _, rest = path.partition(".")
        value, keys = numbers(), f"{ALIASES.get(first, first)}.{rest}".split(".")
    for key in keys:
        value = value[key]
    return value


class Metric(dict[str, float]):
    """A dictionary whose ends are attributes, as typst has them."""

    __getattr__ = dict.__getitem__


def above(a: Metric, b: Metric) -> bool:
    return a.low > b.high


def inside(m: Metric, low: float, high: float) -> bool:
    return m.low >= low and m.high <= high


def positive(m: Metric, by: float = 0) -> bool:
    return m.low > by


def negative(m: Metric, by: float = 0) -> bool:
    return m.high < -by


HELPERS = {"above": above, "inside": inside, "positive": positive, "negative": negative}


def paths_of(condition: str) -> list[str]:
    """Return the paths that a condition names, each once."""
    terms = (term[0] for term in TERM.finditer(condition))
    return list(dict.fromkeys(term for term in terms if term[0] != '"'))


def values_of(condition: str) -> dict[str, Any]:
    return {path: look_up(path) for path in paths_of(condition)}


def holds(condition: str, values: dict[str, Any], embedded: bool = True) -> bool:
    """Return whether a condition holds for these values of its paths."""
    names = {path: f"_{i}" for i, path in enumerate(values)}

    def renamed(term: re.Match[str]) -> str:
        return names.get(term[0], term[0])

    code = TERM.sub(renamed, condition).replace("by:", "by=")
    scope: dict[str, Any] = {**HELPERS, "embedded": embedded}
    for path, value in values.items():
        is_metric = isinstance(value, dict)
        scope[names[path]] = Metric(value) if is_metric else value
    return bool(eval(code, {"__builtins__": {}}, scope))


def contradicted(value: Any) -> Iterator[Any]:
    """Yield what a value might have been instead."""
    if isinstance(value, dict):
        yield {"value": -value["value"], "low": -value["high"], "high": -value["low"]}
        width = (value["high"] - value["low"]) / 2
        yield {"value": 0.0, "low": -width, "high": width}
        for shift in (-1.0, 1.0):
            yield {end: value[end] + shift for end in ENDS}
    elif isinstance(value, str):
        yield f"not {value}"
    else:
        yield from (0, value + 1.0, value - 1.0, 100 * value + 1)


def measured(claim: str) -> dict[str, Any]:
    """Return the values of a claim that holds; skip one that does not."""
    values = values_of(FILE[claim]["holds_if"])
    if None in values.values() or not holds(FILE[claim]["holds_if"], values):
        pytest.skip("does not hold for the committed numbers, and says so")
    return values


@pytest.mark.parametrize("claim", FILE)
def test_claim_falls_with_each_of_its_numbers(claim: str) -> None:
    values = measured(claim)
    for path, value in values.items():
        worlds = ({**values, path: other} for other in contradicted(value))
        fell = (not holds(FILE[claim]["holds_if"], world) for world in worlds)
        assert any(fell), f"{claim} stands whatever {path} is"


def metric(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


NOTHING = metric(0, -0.01, 0.01)
FALL = "brain.differences.kernel_probe.published_minus_by_patient"
OPPOSITE = "series.archive.mr.opposite_side.balanced_accuracy"
ERASED = "tumour_used.tumour_erased.all.accuracy.low"
CROPPED = "series.results.cropped.all.balanced_without_mr"
# What a sentence must not survive, by hand: its plain contrary, or too little of it.
CONTRARY = {
    "cover-patients": (FALL, NOTHING),
    "cover-series": (OPPOSITE, metric(0.64, 0.6, 0.68)),
    "cover-crop": (CROPPED, metric(0.72, 0.66, 0.78)),
    "0-answer": (ERASED, 0.55),
    "0-patients": (FALL, metric(0.025, 0.015, 0.035)),
    "0-sources": ("sequence.gap.all", NOTHING),
    "0-series": (OPPOSITE, metric(0.64, 0.6, 0.68)),
    "0-crop": (CROPPED, metric(0.72, 0.66, 0.78)),
    "0-waste": (
        "erased_objects.differences.kernel_probe"
        ".used_erased_less_as_much_erased_elsewhere.points",
        NOTHING,
    ),
    "0-elsewhere": ("new_tumours.sensitivity.value", 0.8),
    "4-fall": (FALL, NOTHING),
    "4-memory": ("patients.test_patient_in_training", 787),
    "4-patients-beyond-copies": (
        "brain.differences.kernel_probe.without_copies_minus_by_patient",
        NOTHING,
    ),
    "4-sequence": ("sequence.gap.t1.low", 0.01),
    "4-opposite": (OPPOSITE, metric(0.64, 0.6, 0.68)),
    "4-short-series": (OPPOSITE, metric(0.64, 0.6, 0.68)),
    "4-plane": ("plane.apart.matched.opposite_side", NOTHING),
    "4-tumour-tells": (
        "series.archive.plain.tumour_with_a_margin.less_the_whole_slice",
        NOTHING,
    ),
    "4-crop": (CROPPED, metric(0.72, 0.66, 0.78)),
    "4-without-tumour": (
        'cell("hidden_and_shown", "meningioma", "erased in training and test").value',
        0.63,
    ),
    "4-header": (
        'cell("series_methods", "balanced, mixed series", "forest on the header",'
        ' "whole", "all").low',
        0.35,
    ),
    "4-files-needed": (
        'cell("series_originals", "balanced, mixed series", "fold", "whole",'
        ' "all").low',
        0.5,
    ),
    "4-short": ("crop.erased.used.meningioma", NOTHING),
    "4-place": (
        'cell("series_methods", "balanced, mixed series", "forest on the box",'
        ' "whole", "all").low',
        0.4,
    ),
    "4-files-own": (
        'cell("series_originals", "balanced, mixed series", "fold",'
        ' "file and brightness", "all")',
        metric(0.72, 0.66, 0.78),
    ),
    "4-own-files": (
        'cell("series_originals", "balanced, mixed series", "fold", "cropped", "all")',
        metric(0.72, 0.66, 0.78),
    ),
    "4-only-tumour": (
        "crop.erased.only_the_tumour_less_whole.balanced_mixed_series",
        NOTHING,
    ),
    "4-without-mr": (
        "series.results.whole.without_mr.mr_glioma.high",
        0.5,
    ),
    "4-margin-zero": (
        'cell("crop_states", "balanced, mixed series", "mini", "margin 0").low',
        0.7,
    ),
    "4-margin": (
        "crop.gaps.mini.margin_2_less_margin_0_5.balanced_mixed_series",
        NOTHING,
    ),
    "4-crop-other": (
        "crop.gaps.efficientnet_lite0.crop_less_whole.balanced_mixed_series",
        NOTHING,
    ),
    "4-crop-erased": (
        "crop.gaps.mini.crop_less_crop_tumour_erased.balanced_mixed_series",
        NOTHING,
    ),
    "4-crop-place": (
        "crop.gaps.mini.crop_less_mirrored_place.balanced_mixed_series",
        NOTHING,
    ),
    "4-erased-all": (ERASED, 0.55),
    "4-grey-used": ("grey_levels.used.meningioma", NOTHING),
    "4-grey-not-series": (
        "grey_levels.differences.gliomas_of_the_mixed_series.meningioma",
        NOTHING,
    ),
    "4-erased": ("crop.erased.used.meningioma", NOTHING),
    "4-rests": (ERASED, 0.55),
    "4-type-pituitary": ("crop.erased.used.pituitary", metric(-0.2, -0.3, -0.1)),
    "4-type-mr": (OPPOSITE, metric(0.64, 0.6, 0.68)),
    "4-type-meningioma": ("crop.erased.used.meningioma", NOTHING),
    "4-type-mixed": (
        'cell("hidden_and_shown", "glioma, mixed series", "whole slice")',
        metric(0.8, 0.75, 0.85),
    ),
    "4-rests-grey": (
        "grey_levels.differences.all_tumour_as_it_was.meningioma",
        NOTHING,
    ),
    "4-new-errors": (
        'cell("protocols_by_class", "by patient, published test images",'
        ' "Brain Tumor MRI Dataset", "kernel probe", "glioma").value',
        0.95,
    ),
    "4-shown-waste": (ERASED, 0.55),
    "4-shown-elsewhere": ("new_tumours.sensitivity.high", 0.98),
    "4-rests-memory": (FALL, NOTHING),
    "4-rests-crop": (CROPPED, metric(0.72, 0.66, 0.78)),
    "4-objects": (
        "waste.differences.nearest_neighbour.without_copies_minus_by_object",
        NOTHING,
    ),
    "4-strict": (
        "series.archive_strict.mr.opposite_side.balanced_accuracy",
        metric(0.64, 0.6, 0.68),
    ),
    "4-waste-used": (
        "erased_objects.differences.kernel_probe"
        ".used_erased_less_as_much_erased_elsewhere.points",
        NOTHING,
    ),
    "4-rests-mixed": (
        'cell("hidden_and_shown", "glioma, mixed series", "tumour erased")',
        metric(0.8, 0.75, 0.85),
    ),
    "4-shown-crop": ("series.results.cropped.all.meningioma.low", 0.7),
    "4-random-groups": ("objects.likeness.judged_same_less_not.loss", NOTHING),
    "4-supported": (
        "brain.differences.mlp_probe.published_minus_by_patient",
        metric(0.02, 0.01, 0.03),
    ),
    "4-supported-origin": ("sequence.gap.all", NOTHING),
    "4-outdoors": ("aquatrash.elsewhere.kernel_probe.auroc.low", 0.55),
    "4-local": ("navoneel.local_labels.new_probe_s_gain.10", NOTHING),
    "4-elsewhere": ("new_tumours.sensitivity.high", 0.98),
    "4-encoder-part": (
        "aquatrash.efficientnet_minus_encoder.deep.elsewhere.kernel_probe.accuracy",
        metric(0.04, 0.02, 0.06),
    ),
    "4-ppv": ("triage.sensitivity_99.at_0_01.ppv.high", 0.9),
    "4-seen": ("seen.flickr8k_recall_at_10.text_to_image.seen_less_held_out", NOTHING),
    "6-patients": (FALL, NOTHING),
    "6-erased": (ERASED, 0.55),
    "6-sources": ("sequence.gap.all", NOTHING),
    "6-series": (OPPOSITE, metric(0.64, 0.6, 0.68)),
    "6-tumour": ("crop.erased.used.meningioma", NOTHING),
    "6-crop": (CROPPED, metric(0.72, 0.66, 0.78)),
    "6-elsewhere": ("new_tumours.sensitivity.high", 0.98),
}


@pytest.mark.parametrize("claim", CONTRARY)
def test_claim_does_not_survive_its_contrary(claim: str) -> None:
    values = measured(claim)
    path, contrary = CONTRARY[claim]
    assert path in values, f"{claim} does not look at {path}"
    assert not holds(FILE[claim]["holds_if"], {**values, path: contrary})


def test_words_instead_name_what_was_measured() -> None:
    absent = []
    for claim, entry in FILE.items():
        places = re.findall(r'\{((?:"[^"]*"|[^}:"])+)(?::[^}]+)?\}', entry["otherwise"])
        for path in [*places, *paths_of(entry["holds_if"])]:
            try:
                look_up(path)
            except (KeyError, StopIteration):
                absent.append((claim, path))
    assert not absent


def test_every_claim_stands_in_the_text_once() -> None:
    text = "".join(
        path.read_text("utf-8") for path in (ROOT / "report" / "sections").glob("*.typ")
    )
    used = re.findall(r'#claim\("([^"]+)"\)', text)
    assert sorted(used) == sorted(FILE)


def test_typst_comes_to_the_same_as_python() -> None:
    """figures/claims.csv is written by the build, from what typst says."""
    if not (FIGURES / "claims.csv").is_file():
        pytest.skip("no report has been built here")
    with (FIGURES / "claims.csv").open(encoding="utf-8") as file:
        told = {row["id"]: row for row in csv.DictReader(file)}
    for claim, entry in FILE.items():
        assert told[claim]["condition"] == entry["holds_if"]
        held = holds(entry["holds_if"], values_of(entry["holds_if"]))
        assert told[claim]["held"] == str(held).lower(), claim


def test_contradiction_leaves_the_numbers_alone() -> None:
    before = copy.deepcopy(numbers())
    for value in (metric(0.1, 0, 0.2), 5, "word"):
        assert value not in contradicted(value)
    assert numbers() == before
