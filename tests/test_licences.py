"""Everything that requirements.txt installs is free, and the list in the appendix is complete."""

from __future__ import annotations

import csv
import sys
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import licences  # noqa: E402


class Package:
    """Stands in for an installed package: nothing but its metadata."""

    def __init__(self, **fields: str | list[str]) -> None:
        self.metadata = Message()
        self.metadata["Name"] = "toy"
        for name, values in fields.items():
            for value in [values] if isinstance(values, str) else values:
                self.metadata[name.replace("_", "-")] = value


def licence(**fields: Any) -> str:
    package: Any = Package(**fields)
    return licences.licence(package)


@pytest.fixture(scope="module")
def tree() -> dict[str, Distribution]:
    return licences.tree()


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    with licences.LIST.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_every_installed_package_is_listed_with_its_licence(
    tree: dict[str, Distribution], rows: dict[str, dict[str, str]]
) -> None:
    assert len(tree) > 100  # the tree, not only what requirements.txt names
    lock = licences.versions(ROOT / "requirements.lock")
    if any(lock.get(name, package.version) != package.version for name, package in tree.items()):
        pytest.skip("other versions than the lock file's are installed, which may need and state other things")
    stated = {name: licences.licence(package) for name, package in tree.items()}  # raises for what is not free
    assert set(tree) - set(rows) == set(), "run: python report/licences.py"
    del stated["torch"]  # its builds for CPU and for CUDA say it differently
    assert stated == {name: rows[name]["licence"] for name in stated}


def test_every_licence_in_the_list_is_free(rows: dict[str, dict[str, str]]) -> None:
    for row in rows.values():
        parts = row["licence"].replace(" OR ", " AND ").split(" AND ")
        assert row["version"] and set(parts) <= licences.FREE, row


def test_versions_are_those_of_the_lock_file(rows: dict[str, dict[str, str]]) -> None:
    lock = licences.versions(ROOT / "requirements.lock")
    stale = {name: row["version"] for name, row in rows.items() if lock.get(name, row["version"]) != row["version"]}
    assert stale == {}, "run: python report/licences.py"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT"}, "MIT"),
        ({"License_Expression": "Apache-2.0 OR BSD-3-Clause"}, "Apache-2.0 OR BSD-3-Clause"),
        ({"License": "Apache License, Version 2.0"}, "Apache-2.0"),
        ({"Classifier": ["License :: OSI Approved :: MIT License", "Topic :: Text"]}, "MIT"),
    ],
)
def test_ways_of_stating_a_licence(fields: dict[str, Any], expected: str) -> None:
    assert licence(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "The package toy does not state its licence: look it up, or do without it."),
        ({"License": "UNKNOWN"}, "The package toy does not state its licence: look it up, or do without it."),
        (
            {"License_Expression": "AGPL-3.0"},
            "The package toy is under 'AGPL-3.0', which is not known to be free here.",
        ),
        ({"License": "Proprietary"}, "The package toy is under 'Proprietary', which is not known to be free here."),
    ],
)
def test_unknown_and_unfree_licences_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(licences.LicenceError) as caught:
        licence(**fields)
    assert str(caught.value) == sentence


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("no-such-package-at-all>=1  # why\n", encoding="utf-8")
    with pytest.raises(licences.LicenceError, match=r"^The package no-such-package-at-all is not installed: "):
        licences.tree(tmp_path / "r.txt")
