"""Where a build writes: the committed report in its place, any other below build/."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EMBEDDED = ("", "mini")
IMAGE_SOURCES = {"": "committed features", "hub": "images of the hub"}


@dataclass(frozen=True)
class Places:
    """The folders of one build, which writes below ``build/`` alone.

    A build with another model, other images or other parameters happens in
    ``build/NAME``, which gets a copy of the report's text. The committed report's
    results go to ``build/figures``, and from there to ``figures`` by `publish`.
    """

    root: Path
    name: str = ""
    """Of a build of one's own; empty for the committed report."""
    model: str = ""
    """The name of another model than the embedded one."""
    changes: str = ""
    """What else is not as in the committed report, in words, for its cover."""
    publishes: bool = False
    """Whether results go to ``figures``, and the PDF to ``report``."""

    @property
    def banner(self) -> str:
        """The model and all else that is not as in the committed report, in words."""
        parts = [f"model {self.model}"] if self.model else []
        return ", ".join([*parts, self.changes])

    @property
    def notes(self) -> list[str]:
        """What else a reader must know of this build, in sentences that were kept."""
        kept = self._notes.read_text("utf-8") if self._notes.is_file() else "[]"
        return list(json.loads(kept))

    def keep_notes(self, notes: list[str]) -> None:
        """Keep sentences for the cover, each absolute path cut to its last part."""
        self.work.mkdir(parents=True, exist_ok=True)
        self._notes.write_text(json.dumps([*map(without_paths, notes)]), "utf-8")

    @property
    def _notes(self) -> Path:
        """The file of the notes."""
        return self.work / "notes.json"

    @property
    def project(self) -> Path:
        """The folder whose ``report`` this build uses."""
        return self.root / "build" / self.name if self.name else self.root

    @property
    def figures(self) -> Path:
        """Where notebooks save their results."""
        return self.root / "build" / self.name / "figures"

    @property
    def work(self) -> Path:
        """Where executed notebooks and the generated appendix lie."""
        return self.project / "build"

    @property
    def web(self) -> Path:
        """Where web pages go."""
        suffix = f"-{self.name}" if self.name else ""
        return self.root / "build" / f"web{suffix}"

    def pdf(self, source: str = "report") -> Path:
        """Return where the PDF of ``report/SOURCE.typ`` goes by default."""
        if self.publishes:
            return self.root / "report" / "report.pdf"
        suffix = f"-{self.name}" if self.name else ""
        return self.root / "build" / f"{source}{suffix}.pdf"

    def notebooks(self) -> list[Path]:
        """Return the numbered notebooks, in order."""
        return sorted((self.root / "notebooks").glob("[0-9][0-9]_*.ipynb"))

    def executed(self) -> list[Path]:
        """Return where each notebook goes once it is executed."""
        return [self.work / "executed" / path.name for path in self.notebooks()]

    def stamp(self, notebook: Path) -> Path:
        """Return the file that says what a notebook was executed from."""
        return self.work / "executed" / f"{notebook.stem}.stamp"

    @property
    def meta(self) -> dict[str, Any]:
        """What ``report/meta.toml`` says of the report."""
        return tomllib.loads((self.root / "report" / "meta.toml").read_text("utf-8"))

    def epoch(self) -> int:
        """Return the report's date in seconds since 1970; a build writes no other."""
        day = self.meta["date"]
        return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())

    def stage(self) -> None:
        """Copy what the report reads and no notebook writes.

        That is, for the committed report, the results of earlier runs. A build of one's
        own gets the report's text, and the committed results, which it sets beside its
        own, in ``committed``.
        """
        if not self.name:
            shutil.rmtree(self.figures, ignore_errors=True)
            shutil.copytree(self.root / "figures", self.figures)
            return
        unread = shutil.ignore_patterns("*.pdf", "*.safetensors", "__pycache__")
        copies = {"report": "report", "figures": "committed", "cliplib": "cliplib"}
        copies["notebooks/study"] = "notebooks/study"  # whose phrases are printed
        for source, copy in copies.items():
            shutil.rmtree(self.project / copy, ignore_errors=True)
            if (self.root / source).is_dir():
                shutil.copytree(self.root / source, self.project / copy, ignore=unread)
        self.figures.mkdir(exist_ok=True)
        parts = ("development", "confirmation", "unseen", "pairs")
        verdicts = [f"verdict_{part}.csv" for part in parts]
        for name in ("captions.toml", "benchmark.json", "growth.svg", *verdicts):
            if (self.root / "figures" / name).is_file():
                shutil.copy(self.root / "figures" / name, self.figures)

    def publish(self) -> None:
        """Copy the results to ``figures``, if that is asked for."""
        if self.publishes:
            shutil.copytree(self.figures, self.root / "figures", dirs_exist_ok=True)


def places_of(
    root: Path, model: str, data: str, parameters: dict[str, str], *, commit: bool
) -> Places:
    """Return where the build of a model, images and parameters writes.

    Parameters
    ----------
    model, data
        As given by the command or by the environment; empty for none.
    parameters
        Of the notebooks, as given by the command.
    commit
        Whether results of images go into ``figures``, as maintainers want.
    """
    other_model = "" if model in EMBEDDED else last_part(model)
    parts = [other_model, "" if commit else last_part(data)]
    parts += [f"{name}-{last_part(parameters[name])}" for name in sorted(parameters)]
    build = "_".join(part for part in parts if part)
    build = re.sub(r"[^\w.=-]+", "-", build).strip("-.")
    if not build:
        return Places(root)
    changes = [parameter_in_words(name, value) for name, value in parameters.items()]
    changes.append(IMAGE_SOURCES.get(data, "images of a folder"))
    return Places(root, build, other_model, ", ".join(changes))


def parameter_in_words(parameter: str, value: str) -> str:
    """Return what a parameter of the notebooks changes, as the report's cover says."""
    if parameter == "limit" and value != "0":
        return f"{value} images a set"
    if parameter == "others":
        return f"beside {', '.join(map(last_part, value.strip('[]').split(',')))}"
    return f"{parameter} {last_part(value)}"


def last_part(value: str) -> str:
    """Return the end of a path or of a hub id: no build prints a path."""
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def without_paths(text: str) -> str:
    """Return a text in which each absolute path is cut to its last part.

    "/home/me/photos is empty" becomes "photos is empty".
    """
    folders = r"(?<![\w./:])(?:[A-Za-z]:|~)?(?:[/\\][^\s/\\'\":,;]+)+[/\\]"
    return re.sub(folders, "", text)
