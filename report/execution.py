"""Execute notebooks: as many at a time as cores and memory allow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import joblib
import papermill
import psutil
import yaml
from tqdm import tqdm

from kernels import fork_kernels
from places import Places, without_paths
from surroundings import SETTINGS

SUMMARY = "26_summary"
"""The notebook that computes nothing and reads what the others saved: it runs last."""
FIRST = ("13_protocols", "09_decision_aid", "24_planes")
"""Long ones, so that none ends alone. Others ask again for answers of the first."""
MOST_JOBS = 6


@dataclass(frozen=True)
class Failure:
    """A notebook that was not executed to its end."""

    notebook: str
    reason: str
    where: str = ""
    """The cell, and the file to look at."""
    lacks_images: bool = False
    """Whether nothing is wrong but that images are not here."""

    def __str__(self) -> str:
        """Say it in one line for a terminal."""
        return f"{self.notebook}.ipynb failed{self.where}: {self.reason}"

    @property
    def note(self) -> str:
        """A sentence for the cover of the report."""
        number = self.notebook.split("_")[0]
        return f"Notebook {number} is left out: {self.reason.rstrip('.')}."


def execute(
    places: Places,
    given: dict[str, str],
    jobs: int | None = None,
    only: Collection[str] = (),
) -> list[Failure]:
    """Execute the notebooks that have changed, or all if images or a model are named.

    In a build of one's own, a notebook that fails is left out. The committed report has
    to be whole: there, the process ends with a sentence.

    Parameters
    ----------
    places
        Where executed notebooks and their results go.
    given
        Parameters as texts; each notebook gets those that it has.
    jobs
        Notebooks at a time; None for what cores and memory allow.
    only
        Names of the notebooks that are looked at; none for all.

    Returns
    -------
    list of Failure
        What is left out of this build.
    """
    notebooks = [path for path in places.notebooks() if not only or path.stem in only]
    tasks = tasks_of(places, notebooks, given)
    if jobs is None:
        model = os.environ.get("CLIPLIB_MODEL", "")
        jobs = jobs_here(joblib.cpu_count(), memory(), model)
    print(f"{len(tasks)} of {len(notebooks)} notebooks to execute, {jobs} at a time")
    if tasks:
        fork_kernels()
    left_out = []
    for part in others_before_summary([*tasks]):
        failures = run_all(places, {path: tasks[path] for path in part}, jobs)
        if failures and not places.name:
            sys.exit("\n".join(map(str, failures)))
        for failure in failures:
            leave_out(places, failure)
            print(failure.note)
        left_out += failures
    return left_out


def tasks_of(
    places: Places, notebooks: list[Path], given: dict[str, str]
) -> dict[Path, dict[str, Any]]:
    """Return the notebooks that have to be executed, with those parameters they have.

    The summary is executed when any other is. What no notebook takes ends the process
    with a sentence.
    """
    parameters = {name: yaml.safe_load(value) for name, value in given.items()}
    taken_by = {path: papermill.inspect_notebook(str(path)) for path in notebooks}
    refuse_unknown(parameters, {name for own in taken_by.values() for name in own})
    may_differ = any(os.environ.get(name) for name in SETTINGS)  # images, or a model
    tasks: dict[Path, dict[str, Any]] = {}
    for path in sorted(notebooks, key=lambda path: path.stem == SUMMARY):
        own = {name: parameters[name] for name in parameters if name in taken_by[path]}
        stamp = places.stamp(path)
        known = stamp.read_text() if stamp.exists() else ""
        is_current = known == fingerprint(places, path, own)
        reads_new_results = path.stem == SUMMARY and tasks
        if may_differ or reads_new_results or not is_current:
            tasks[path] = own
    return tasks


def refuse_unknown(parameters: Collection[str], known: Collection[str]) -> None:
    """End the process where no notebook has a parameter of a name."""
    for name in parameters:
        if name not in known:
            names = ", ".join(sorted(known))
            sys.exit(f"No notebook has a parameter {name!r}; there are: {names}.")


def others_before_summary(notebooks: list[Path]) -> list[list[Path]]:
    """Return all notebooks but the summary, the longest first, and then the summary."""
    summary = [path for path in notebooks if path.stem == SUMMARY]
    first = [path for name in FIRST for path in notebooks if path.stem == name]
    others = [path for path in notebooks if path not in first + summary]
    return [first + others, summary]


def memory() -> float:
    """Return the free memory in gigabytes, within a container's limit."""
    free: float = psutil.virtual_memory().available / 1e9
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # "max", or no such file
        free = min(free, (int(limit.read_text()) - int(used.read_text())) / 1e9)
    return free


def jobs_here(cores: int, gigabytes: float, model: str) -> int:
    """Return how many notebooks at a time cores and free gigabytes allow: one or more.

    Together they use at most 80% of the memory. A kernel takes 2 GB, with another
    model than the embedded one 4.
    """
    each = 4.0 if model else 2.0
    return max(1, min(cores, MOST_JOBS, int(0.8 * gigabytes / each)))


def run_all(
    places: Places, tasks: dict[Path, dict[str, Any]], jobs: int
) -> list[Failure]:
    """Execute the tasks, `jobs` at a time; return what failed, in their order."""
    # Threads do, since the work is done by the kernels, which are processes. They share
    # a working directory, which papermill would change and change back.
    with contextlib.chdir(places.root), ThreadPoolExecutor(jobs) as pool:
        outcomes = pool.map(partial(run, places), tasks, tasks.values())
        bar = tqdm(outcomes, total=len(tasks), unit="notebook")
        try:
            return [failure for failure in bar if failure]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for kernel in psutil.Process().children(recursive=True):
                kernel.kill()
            sys.exit("Interrupted: what was executed is kept for the next build.")


def run(places: Places, notebook: Path, parameters: dict[str, Any]) -> Failure | None:
    """Execute one notebook into ``executed``; return how it failed, or None.

    A stamp beside it says what it was executed from.
    """
    out = places.work / "executed" / notebook.name
    stamp = places.stamp(notebook)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    stamp.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(out),
            parameters,
            cwd=str(places.root),
            kernel_name="python3",
            progress_bar=False,
            # Once, at the end: before and after each cell took 20 seconds together.
            request_save_on_cell_execute=False,
            # Not its errors: ending a kernel interrupts it, which it would report.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        where = f" in cell [{error.exec_count}] (see {out.parent})"
        lacks_images = error.ename == "MissingImages"
        name = "" if lacks_images else f"{error.ename}: "
        reason = f"{name}{error.evalue}".splitlines()[0]
        return Failure(notebook.stem, reason, where, lacks_images)
    except RuntimeError as error:  # the kernel died: out of memory, or killed
        return Failure(notebook.stem, str(error))
    scrub(out)
    stamp.write_text(fingerprint(places, notebook, parameters))
    return None


def leave_out(places: Places, failure: Failure) -> None:
    """Drop the results of a notebook that failed; its title and a sentence are left.

    If it failed in a cell, it stays beside that, as far as it was executed, as
    ``NAME.failed.ipynb``.
    """
    (places.figures / f"{failure.notebook}.json").unlink(missing_ok=True)
    out = places.work / "executed" / f"{failure.notebook}.ipynb"
    if out.exists():
        out.replace(out.with_suffix(".failed.ipynb"))
    source = places.root / "notebooks" / out.name
    notebook = json.loads(source.read_text("utf-8"))
    first_cell = notebook["cells"][0]
    title = "".join(first_cell["source"]).split("\n")[0]
    first_cell["source"] = [title, f"\n\n{without_paths(failure.note)}"]
    notebook["cells"] = [first_cell]
    out.write_text(json.dumps(notebook), "utf-8")


def scrub(path: Path) -> None:
    """Drop times and ids, which differ between two runs, from an executed notebook."""
    notebook = json.loads(path.read_text("utf-8"))
    notebook["metadata"] = {"kernelspec": notebook["metadata"]["kernelspec"]}
    for i, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{i:03d}"
        cell["metadata"] = {"tags": cell["metadata"].get("tags", [])}
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text, "utf-8")


def fingerprint(places: Places, notebook: Path, parameters: dict[str, Any]) -> str:
    """Return a digest of what a notebook depends on, and of what it has saved.

    It changes with the notebook, its parameters, the captions, the library and the
    packages; and where results, or the executed notebook, are no longer as they were.
    """
    entries = places.figures / f"{notebook.stem}.json"
    executed = places.work / "executed" / notebook.name
    captions = places.root / "figures" / "captions.toml"
    files = [notebook, executed, captions, entries]
    if entries.exists():
        for id in sorted(json.loads(entries.read_text("utf-8"))["results"]):
            files += sorted(places.figures.glob(f"{id}.*"))
    digest = hashlib.sha256(json.dumps([parameters, code(places.root)]).encode())
    for path in files:
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def code(root: Path) -> str:
    """Return a digest of installed packages, and of the library's and study's files.

    Among these is the embedded model.
    """
    versions = {f"{package.name} {package.version}" for package in distributions()}
    digest = hashlib.sha256("\n".join(sorted(versions)).encode())
    folders = (root / "cliplib", root / "notebooks" / "study")
    for path in sorted(path for folder in folders for path in folder.rglob("*.*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    return digest.hexdigest()
