"""Execute notebooks: as many at a time as cores and memory allow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import papermill
import psutil
import yaml

import forecast
from forecast import Task
from forking import fork_kernels, forked
from places import Places, without_paths
from surroundings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
CODE = (ROOT / "cliplib", ROOT / "notebooks" / "study")
SUMMARY = "24_summary"
"""The notebook that computes nothing and reads what the others saved: it runs last."""
FIRST = ("18_like_with_like", "01_brain_tumor_mri")
"""Notebooks with answers that the longest, 13, asks for again.

It finds them kept, so that work which no second core could share is less.
"""
MOST_JOBS = 6
FEWEST_TO_FORK = 3
"""Notebooks; for fewer, importing everything once takes as long as it spares."""
MEASURED = Path(__file__).with_name("measured.json")
"""What notebooks needed on a core of 2024; replaced by what they need here.

A copy of what a build of the committed report leaves in ``build/measured``.
"""
SECONDS_PER_KILOBYTE = 2.4
"""Of a notebook that was never measured."""
GIGABYTES = 2.0
"""Of a kernel that was never measured, with the embedded model."""


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
    only: Collection[str] | None = None,
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
        Names of the notebooks that are looked at; None for all.

    Returns
    -------
    list of Failure
        What is left out of this build.
    """
    notebooks = [
        path for path in places.notebooks() if only is None or path.stem in only
    ]
    tasks = tasks_of(places, notebooks, given)
    data = os.environ.get("CLIPLIB_DATA", "")
    model = os.environ.get("CLIPLIB_MODEL", "")
    tasks = in_order(forecast.adapted(tasks, places, given, data, model))
    if jobs is None:
        jobs = jobs_here(tasks, cores(), memory())
    count = f"{len(tasks)} of {len(notebooks)} notebooks to execute"
    if not tasks:
        print(count)
        return []
    minutes = max(1, round(expected_seconds(tasks, jobs) / 60))
    gigabytes = sum(sorted(task.gigabytes for task in tasks)[-jobs:])
    print(
        f"{count}, {jobs} at a time: about {minutes} min "
        f"and {gigabytes:.1f} GB of memory here",
        flush=True,
    )
    if len(tasks) >= FEWEST_TO_FORK:
        fork_kernels()
    left_out = []
    for part in others_before_summary(tasks):
        failures = run_all(places, part, jobs)
        if failures and not places.name:
            sys.exit("\n".join(map(str, failures)))
        for failure in failures:
            leave_out(places, failure)
            print(failure.note)
        left_out += failures
    return left_out


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


def others_before_summary(tasks: list[Task]) -> list[list[Task]]:
    """Return all tasks but the summary, then the summary, which reads their results.

    A part without tasks is left out.
    """
    summary = [task for task in tasks if task.notebook.stem == SUMMARY]
    others = [task for task in tasks if task not in summary]
    return [part for part in (others, summary) if part]


def tasks_of(
    places: Places, notebooks: list[Path], given: dict[str, str]
) -> list[Task]:
    """Return what has to be executed of some notebooks.

    Each gets those of the `given` parameters that it has. The summary, which comes last
    among the notebooks, is executed when any other is.
    """
    parameters_of = {path: papermill.inspect_notebook(str(path)) for path in notebooks}
    names = sorted(set().union(*parameters_of.values()))
    unknown = set(given) - set(names)
    if unknown:
        sys.exit(
            f"No notebook has a parameter {min(unknown)!r}; "
            f"there are: {', '.join(names)}."
        )
    refuse_words_for_numbers(parameters_of, given)
    measured = measured_before(places)
    may_differ = any(os.environ.get(name) for name in SETTINGS)  # images, or a model
    tasks: list[Task] = []
    for path in notebooks:
        own = parameters_of[path]
        values = {name: value for name, value in given.items() if name in own}
        stamp = places.work / "executed" / f"{path.stem}.stamp"
        reads_new_results = path.stem == SUMMARY and tasks
        if (
            may_differ
            or reads_new_results
            or not stamp.exists()
            or stamp.read_text() != fingerprint(places, path, values)
        ):
            tasks.append(task_of(path, values, measured.get(path.stem, {})))
    return tasks


def in_order(tasks: list[Task]) -> list[Task]:
    """Return tasks as they are to begin: `FIRST`, then from the longest on."""
    return sorted(
        tasks, key=lambda task: (task.notebook.stem not in FIRST, -task.seconds)
    )


def refuse_words_for_numbers(
    parameters_of: dict[Path, dict[str, dict[str, str]]], given: dict[str, str]
) -> None:
    """End the process where a parameter that is a number is given as a word.

    `parameters_of` has for each notebook what papermill says of its parameters by name.
    """
    for parameters in parameters_of.values():
        for name, value in given.items():
            default = yaml.safe_load(parameters.get(name, {}).get("default", "''"))
            is_number = isinstance(default, (int, float))
            if is_number and not isinstance(yaml.safe_load(value), (int, float)):
                sys.exit(f"-p {name} takes a number such as {default}, not {value!r}.")


def task_of(path: Path, values: dict[str, str], measured: dict[str, float]) -> Task:
    """Return a notebook with these parameters as a task.

    `measured` has its "seconds" and "gigabytes"; what is missing there is estimated.
    """
    content = json.loads(path.read_text("utf-8"))["cells"]
    cells = sum(cell["cell_type"] == "code" for cell in content)
    cells += bool(values)  # papermill adds a cell of them
    guess = path.stat().st_size / 1000 * SECONDS_PER_KILOBYTE
    seconds = measured.get("seconds", guess)
    return Task(path, values, cells, seconds, measured.get("gigabytes", GIGABYTES))


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> float:
    """Return the free memory in gigabytes, within a container's limit."""
    free: float = psutil.virtual_memory().available / 1e9
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # "max", or no such file
        free = min(free, (int(limit.read_text()) - int(used.read_text())) / 1e9)
    return free


def jobs_here(tasks: list[Task], cores: int, gigabytes: float) -> int:
    """Return how many notebooks at a time cores and free gigabytes allow: one or more.

    The largest ones may run together, and use at most 80% of the memory.
    """
    largest = sorted((task.gigabytes for task in tasks), reverse=True)
    jobs = max(1, min(cores, MOST_JOBS, len(tasks)))
    while jobs > 1 and sum(largest[:jobs]) > 0.8 * gigabytes:
        jobs -= 1
    return jobs


def expected_seconds(tasks: list[Task], jobs: int) -> float:
    """Return how long tasks take, begun in this order, `jobs` of them at a time."""
    busy_until = [0.0] * jobs
    for task in tasks:
        first_free = busy_until.index(min(busy_until))
        busy_until[first_free] += task.seconds
    return max(busy_until)


def run_all(places: Places, tasks: list[Task], jobs: int) -> list[Failure]:
    """Execute the tasks, `jobs` at a time; return what failed, in their order."""
    # Threads do, since the work is done by the kernels, which are processes. They share
    # a working directory, which papermill would change and change back.
    progress = Progress(tasks)
    with (
        contextlib.chdir(places.root),
        KernelWatch() as watch,
        ThreadPoolExecutor(jobs) as pool,
    ):
        futures: list[Future[Failure | None]] = [
            pool.submit(run, places, task, progress, watch) for task in tasks
        ]
        try:
            failures = [future.result() for future in futures]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            watch.end_kernels()
            sys.exit("Interrupted: what was executed is kept for the next build.")
    minutes, seconds = divmod(round(progress.elapsed()), 60)
    print(f"Executed in {minutes}:{seconds:02}, peak {watch.peak:.1f} GB of memory")
    return [failure for failure in failures if failure]


def run(
    places: Places, task: Task, progress: Progress, watch: KernelWatch
) -> Failure | None:
    """Execute one notebook into ``executed``; return how it failed, or None.

    What it needed is noted, and a stamp beside it says what it was executed from.
    """
    path = task.notebook
    out = places.work / "executed" / path.name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    out.with_suffix(".stamp").unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(path),
            str(out),
            {name: yaml.safe_load(value) for name, value in task.parameters.items()},
            cwd=str(places.root),
            kernel_name="python3",
            progress_bar=False,
            # Once, at the end: before and after each cell took 20 seconds together.
            request_save_on_cell_execute=False,
            # Not its errors: ending a kernel interrupts it, which it would report.
            extra_arguments=["--log-level=CRITICAL", watch.mark(path.stem)],
            on_cell_executed=lambda **_: progress.step(path.stem),
        )
    except papermill.PapermillExecutionError as error:
        where = f" in cell [{error.exec_count}] (see {out.parent})"
        lacks_images = error.ename == "MissingImages"
        name = "" if lacks_images else f"{error.ename}: "
        reason = f"{name}{error.evalue}".splitlines()[0]
        return Failure(path.stem, reason, where, lacks_images)
    except RuntimeError as error:  # the kernel died: out of memory, or killed
        return Failure(path.stem, str(error))
    finally:
        progress.finish(path.stem)
    scrub(out)
    stamp = fingerprint(places, path, task.parameters)
    out.with_suffix(".stamp").write_text(stamp)
    note_measured(places, path.stem, watch)
    return None


class Progress:
    """One bar for all notebooks that run: of the seconds that they are known to take.

    A cell counts an equal share of its notebook's seconds. A line is printed when a
    notebook ends, and every ten seconds.
    """

    def __init__(self, tasks: list[Task], every: float = 10.0) -> None:
        self._tasks = {task.notebook.stem: task for task in tasks}
        self._done = dict.fromkeys(self._tasks, 0)
        self._every = every
        self._start = self._printed = time.monotonic()
        self._lock = threading.Lock()

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start

    def step(self, name: str) -> None:
        """Note that a cell of this notebook was executed."""
        with self._lock:
            self._done[name] += 1
            if time.monotonic() - self._printed >= self._every:
                self._print()

    def finish(self, name: str) -> None:
        """Note that this notebook has ended, wherever it stopped."""
        with self._lock:
            self._done[name] = max(1, self._tasks[name].cells)
            self._print()

    def _print(self) -> None:
        """Print the line; the caller holds the lock."""
        self._printed = time.monotonic()
        print(self.line(), flush=True)

    def line(self) -> str:
        """Return the line: a bar, the share that is done, time gone, and time left.

        Work is counted in the seconds that notebooks are known to take.
        """
        work = 0.0
        done = 0.0
        for name, task in self._tasks.items():
            share = min(1.0, self._done[name] / max(1, task.cells))
            work += task.seconds
            done += task.seconds * share
        share_done = done / work if work else 1.0
        left = work  # as measured before, until something is done here
        if share_done:
            left = self.elapsed() * (1 - share_done) / share_done
        filled = round(20 * share_done)
        bar = "#" * filled + "." * (20 - filled)
        return (
            f"[{bar}] {share_done:4.0%}, {clock(self.elapsed())} gone, "
            f"about {clock(left)} to go"
        )


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds: "2:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class KernelWatch:
    """Looks each second what kernels take, within a ``with`` block."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}  # gigabytes of each notebook's kernel
        # Of processor time, by notebook: other work on the machine does not count.
        self.seconds: dict[str, float] = {}
        self.peak = 0.0  # gigabytes of all kernels and this process together
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> KernelWatch:
        """Start a thread that looks."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread that looks."""
        self._stop.set()
        self._thread.join()

    def mark(self, name: str) -> str:
        """Return an argument that a notebook's kernel ignores, and is known by."""
        return f"--Study.name={name}"

    def end_kernels(self) -> None:
        """End the kernels that run."""
        for _, kernel in self._kernels():
            kernel.kill()

    def _kernels(self) -> Iterator[tuple[str, psutil.Process]]:
        """Yield the kernels that run, each after the name of its notebook."""
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                for argument in forked.get(child.pid) or child.cmdline():
                    if argument.startswith("--Study.name="):
                        yield argument.removeprefix("--Study.name="), child

    def _look(self) -> None:
        """Note what kernels take, each second, until `__exit__` ends it."""
        while not self._stop.wait(1):
            together = psutil.Process().memory_info().rss / 1e9
            for name, kernel in self._kernels():
                with contextlib.suppress(psutil.Error):
                    own = kernel.memory_info().rss / 1e9
                    together += own
                    self.peaks[name] = max(own, self.peaks.get(name, 0.0))
                    used = kernel.cpu_times()
                    self.seconds[name] = used.user + used.system
            self.peak = max(self.peak, together)


def measured_before(places: Places) -> dict[str, dict[str, float]]:
    """Return seconds and gigabytes by notebook: as measured here, or as committed."""
    measured: dict[str, dict[str, float]] = json.loads(MEASURED.read_text("utf-8"))
    for folder in (places.root / "build", places.work):
        for path in sorted((folder / "measured").glob("*.json")):
            measured[path.stem] = json.loads(path.read_text("utf-8"))
    return measured


def note_measured(places: Places, name: str, watch: KernelWatch) -> None:
    """Write what a notebook needed into ``measured``: seconds and gigabytes."""
    if name not in watch.seconds:  # it ended before anyone looked
        return
    noted = {
        "seconds": round(watch.seconds[name], 1),
        "gigabytes": round(watch.peaks[name], 2),
    }
    folder = places.work / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(noted), "utf-8")


def scrub(path: Path) -> None:
    """Drop times and ids, which differ between two runs, from an executed notebook."""
    notebook = json.loads(path.read_text("utf-8"))
    notebook["metadata"] = {"kernelspec": notebook["metadata"]["kernelspec"]}
    for i, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{i:03d}"
        cell["metadata"] = {"tags": cell["metadata"].get("tags", [])}
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text, "utf-8")


def fingerprint(places: Places, notebook: Path, parameters: dict[str, str]) -> str:
    """Return a digest of what a notebook depends on, and of what it has saved.

    It changes with the notebook, its parameters, the captions, the library and the
    packages; and where results, or the executed notebook, are no longer as they were.
    """
    entries_file = places.figures / f"{notebook.stem}.json"
    results = {}
    if entries_file.exists():
        results = json.loads(entries_file.read_text("utf-8"))["results"]
    files = [notebook, places.work / "executed" / notebook.name]
    files.append(places.root / "figures" / "captions.toml")
    for id in sorted(results):
        files += sorted(places.figures.glob(f"{id}.*"))
    facts = [parameters, packages(), library(), results]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for path in files:
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def library() -> str:
    """Return a digest of the files of the library and of the study, with the model."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in folder.rglob("*.*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def packages() -> list[str]:
    """Return name and version of each package that is installed, sorted.

    Not of cliplib: its files count, and it need not be installed.
    """
    versions = {f"{package.name} {package.version}" for package in distributions()}
    return sorted(line for line in versions if not line.startswith("cliplib "))
