"""The checklists of appendix B: complete, honest in form, and every place that they point to exists."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUPPLEMENT = ROOT / "report" / "supplement"
NOT_HERE = ("Not done: ", "Not applicable: ")
UNLABELLED = ("Cover: ", "Executive summary: ", "README of the repository: ")
RESULT = {"fig": "figure", "tab": "table"}


def read(name: str) -> list[dict[str, str]]:
    with (SUPPLEMENT / f"{name}.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def targets(row: Mapping[str, str]) -> list[str]:
    return [target for target in row["targets"].split(";") if target]


def sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "report").rglob("*.typ")))


def missing(wanted: Iterable[str], text: str, manifest: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Of the labels `wanted`, those that are neither written in `text` nor of a result that it prints."""
    labels = set(re.findall(r"<([a-z]+:\w+)>", text)) | set(re.findall(r'"((?:tab|fig):\w+)"\)', text))
    printed = set(re.findall(r'[\w-]+\(\s*"(\w+)"', text))  # also by a wrapper: results-table("mri_results")
    made = {f"{kind}:{id}" for id in printed & set(manifest) for kind in RESULT if manifest[id]["kind"] == RESULT[kind]}
    return sorted(set(wanted) - labels - made)


@pytest.mark.parametrize("name", ["reforms", "claim"])
def test_every_target_exists(name: str) -> None:
    manifest = json.loads((ROOT / "figures" / "manifest.json").read_text(encoding="utf-8"))
    assert missing((target for row in read(name) for target in targets(row)), sources(), manifest) == []


def test_a_target_that_is_nowhere_is_found() -> None:
    text = '= There <sec:there>\n#results-table("made")\n#fig("made")\n#numbers("counts")\n#tab("unmade")'
    manifest = {"made": {"kind": "table"}, "counts": {"kind": "numbers"}, "unprinted": {"kind": "table"}}
    wanted = ["sec:there", "tab:made", "sec:gone", "fig:made", "tab:counts", "tab:unmade", "tab:unprinted"]
    assert missing(wanted, text, manifest) == ["fig:made", "sec:gone", "tab:counts", "tab:unmade", "tab:unprinted"]


def test_no_item_of_a_checklist_is_left_out() -> None:
    reforms, claim = read("reforms"), read("claim")
    parts = (3, 5, 7, 3, 6, 3, 3, 2)
    assert [row["number"] for row in reforms] == [
        f"{i}{'abcdefg'[j]}" for i, n in enumerate(parts, 1) for j in range(n)
    ]
    assert len(dict.fromkeys(row["module"] for row in reforms)) == len(parts) == 8
    assert [row["number"] for row in claim] == [str(i) for i in range(1, 45)]


@pytest.mark.parametrize("name", ["reforms", "claim"])
def test_every_answer_says_where_or_why_not(name: str) -> None:
    for row in read(name):
        assert all(row[column].strip() for column in ("module", "number", "item", "answer")), row
        assert targets(row) or row["answer"].startswith((*NOT_HERE, *UNLABELLED)), row
        if row["answer"].startswith(NOT_HERE):
            assert len(row["answer"].split(": ", 1)[1].split()) >= 3, f"no reason: {row}"


def test_each_result_is_printed_once() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "report" / "sections").glob("*.typ")))
    text += "\n".join(path.read_text(encoding="utf-8") for path in sorted(SUPPLEMENT.glob("*.typ")))
    calls = re.findall(r'(?<![\w-])(?:fig|tab|listing|sweep|comparisons|per-class|results-table)\("(\w+)"', text)
    assert calls and sorted(calls) == sorted(set(calls))


def test_no_share_is_typed_into_the_supplement() -> None:
    for path in sorted(SUPPLEMENT.iterdir()):
        assert not re.search(r"\d\.\d+ ?%", path.read_text(encoding="utf-8")), path.name
