"""Licences of everything that requirements.txt installs, as the packages themselves state them.

python report/licences.py        writes report/supplement/licences.csv

Only what lets anyone use, change and pass on a package, also beneath a project under MIT, is accepted: a permissive
licence, or one whose copyleft ends at the package's own files. Another, and none at all, end it with one sentence.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NAMED = ROOT / "requirements.txt"
LIST = ROOT / "report" / "supplement" / "licences.csv"

FREE = frozenset(
    "0BSD Apache-2.0 BSD BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 CNRI-Python ISC MIT MIT-0 MIT-CMU MPL-2.0 OFL-1.1 "
    "PSF-2.0 Unlicense Zlib".split()
) | {"Apache-2.0 WITH LLVM-exception"}  # fmt: skip
"""SPDX names, and "BSD" for packages that do not say which one of that family."""

# Ways of writing the names above, in the older fields License and Classifier; in lower case, without "license".
_MEANT = {
    "apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache software": "Apache-2.0",
    "apache, version 2.0": "Apache-2.0", "bsd 2-clause": "BSD-2-Clause", "2-clause bsd": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause", "isc (iscl)": "ISC", "mozilla public 2.0 (mpl 2.0)": "MPL-2.0", "psfl": "PSF-2.0",
    "python software foundation": "PSF-2.0", "sil ofl 1.1": "OFL-1.1", "sil open font 1.1 (ofl-1.1)": "OFL-1.1",
} | {name.lower(): name for name in FREE}  # fmt: skip

# NVIDIA's libraries are not free; a CUDA build of torch brings them, a CPU build, and so the lock file, does not.
CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")


class LicenceError(Exception):
    """One sentence about a package whose licence is unknown or not free."""


def tree(requirements: Path = NAMED) -> dict[str, Distribution]:
    """What is installed because of a requirements file, by canonical name; what only CUDA needs is left out."""
    todo = [(wanted, frozenset[str]()) for wanted in named_in(requirements)]
    found: dict[str, Distribution] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted, extras = todo.pop()
        name, own = canonicalize_name(wanted.name), frozenset(wanted.extras)
        needed = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if not needed or (name, own) in done or CUDA.fullmatch(name):
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise LicenceError(f"The package {name} is not installed: install requirements.txt first.") from None
        done.add((name, own))
        todo += [(Requirement(text), own) for text in found[name].requires or ()]
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """The licence of a package by its metadata: License-Expression, else a License of one line, else its classifiers.

    Raises
    ------
    LicenceError
        It states none, or one that is not in `FREE`.
    """
    about = package.metadata
    classes = [text.split(" :: ")[-1] for text in about.get_all("Classifier") or () if text.startswith("License ::")]
    line = about["License"] or ""
    line = "" if "\n" in line or line == "UNKNOWN" else line  # several lines are the licence itself
    if not (stated := about["License-Expression"] or line or " AND ".join(classes)):
        raise LicenceError(f"The package {about['Name']} does not state its licence: look it up, or do without it.")
    parts = re.split(r" (AND|OR) ", stated)
    for i in range(0, len(parts), 2):
        name = re.sub(r"\blicense\b", "", parts[i].lower())
        parts[i] = _MEANT.get(" ".join(name.replace(" ,", ",").split()), "")
        if not parts[i]:
            raise LicenceError(f"The package {about['Name']} is under {stated!r}, which is not known to be free here.")
    return " ".join(parts)


def listed() -> str:
    """The list as a CSV: name, version by the lock file (torch, which it leaves out: the range), and licence."""
    lock = versions(ROOT / "requirements.lock")
    ranges = {wanted.name: ", ".join(sorted(map(str, wanted.specifier), reverse=True)) for wanted in named_in(NAMED)}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "version", "licence"])
    for name, package in tree().items():
        if not (version := lock.get(name) or ranges.get(name)):
            raise LicenceError(f"The package {name} is not in requirements.lock: bring that up to date first.")
        writer.writerow([name, version, licence(package)])
    return out.getvalue()


def named_in(requirements: Path) -> list[Requirement]:
    """The lines of a requirements file."""
    lines = [line.partition(" #")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def versions(lock: Path) -> dict[str, str]:
    """Exact version by canonical name."""
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in named_in(lock)}


if __name__ == "__main__":
    try:
        LIST.write_text(listed(), encoding="utf-8")
    except LicenceError as error:
        sys.exit(str(error))
