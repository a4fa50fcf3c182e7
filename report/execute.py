"""Executes notebooks with papermill, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import papermill
from nbconvert.filters.ansi import strip_ansi
from nbtypst.outputs import scrub
from project import BuildError, Project
from reuse import inputs, remember, remembered

AVX2 = {  # instructions of 2013; newer ones add numbers up in another order
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


def environment(project: Project, threads: int) -> dict[str, str]:
    """The variables that make two executions equal: dates, hashes, threads, instructions, no progress bars."""
    fixed = {
        "CLIPLIB_FIGURES": str(project.root / "figures"),  # where the report reads
        "CLIPLIB_RECORD": str(project.record),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": str(project.epoch),
        "TQDM_DISABLE": "1",
    }
    # Sums come out in another order with another number of threads.
    fixed |= {f"{name}_NUM_THREADS": str(threads) for name in ("MKL", "OMP", "OPENBLAS")}
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    fixed |= AVX2 if {"AVX2", "X86_V3"} & {*found} else {}  # else an ARM processor, or one from before
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # the kernel's own
    return {**inherited, **fixed}


def parameters_of(notebook: Path) -> set[str]:
    """The names in the notebook's parameters cell."""
    return set(papermill.inspect_notebook(str(notebook)))


def check_parameters(notebooks: list[Path], parameters: Mapping[str, Any]) -> None:
    """Refuse a parameter that none of the notebooks has; papermill would only warn."""
    known = set().union(*(parameters_of(notebook) for notebook in notebooks))
    for name in parameters:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise BuildError(f"No notebook has a parameter {name!r}; there are: {names}.")


def execute(
    project: Project,
    notebooks: list[Path],
    parameters: Mapping[str, Any],
    *,
    jobs: int = 2,
    threads: int = 1,
    fresh: bool = False,
) -> dict[str, float]:
    """Execute notebooks into ``build/executed``, `jobs` at a time; each gets those of the parameters that it has.

    One whose inputs are unchanged since it was executed last is not executed again, unless all shall be `fresh`: see
    `reuse`.

    Returns
    -------
    dict
        Seconds by notebook, of those that were executed.

    Raises
    ------
    BuildError
        When a parameter is unknown or a cell fails; the other notebooks are finished first.
    """
    check_parameters(notebooks, parameters)
    project.executed.mkdir(parents=True, exist_ok=True)
    project.record.write_bytes(b"")
    env = environment(project, threads)
    given = {path: {k: v for k, v in parameters.items() if k in parameters_of(path)} for path in notebooks}
    keys = {path: inputs(project, path, given[path], env) for path in notebooks}
    last = {} if fresh else {path: remembered(project, path, keys[path]) for path in notebooks}
    chosen = [path for path in notebooks if last.get(path) is None]

    def run(notebook: Path) -> tuple[float, str]:
        return _execute_one(project, notebook, given[notebook], env)

    with ThreadPoolExecutor(jobs) as pool:
        results = dict(zip((notebook.stem for notebook in chosen), pool.map(run, chosen), strict=True))
    for path in chosen:
        if not results[path.stem][1]:
            remember(project, path, keys[path])
    with project.record.open("a", encoding="utf-8") as record:
        record.writelines(f"{line}\n" for lines in last.values() for line in lines or ())
    if failures := [failure for _, failure in results.values() if failure]:
        raise BuildError(_told_once(failures))
    return {name: seconds for name, (seconds, _) in results.items()}


def _execute_one(project: Project, notebook: Path, given: Mapping[str, Any], env: dict[str, str]) -> tuple[float, str]:
    """Seconds, and a sentence when the notebook failed."""
    out, begin = project.executed / notebook.name, time.perf_counter()
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "papermill", str(notebook), str(out), "--no-progress-bar", "--kernel", "python3"]
    command += ["--cwd", str(project.root), *(["--parameters_yaml", json.dumps(given)] if given else [])]
    with out.with_suffix(".log").open("w+", encoding="utf-8") as log:
        code = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
        log.seek(0)
        last = (log.read().strip().splitlines() or [f"papermill ended with {code}"])[-1]
    if code:
        where = f"; what it got to is in {out.relative_to(project.root)}" if out.exists() else ""
        return time.perf_counter() - begin, f"{notebook.name} failed: {_first_error(out) or last}{where}."
    scrub(out)
    return time.perf_counter() - begin, ""


def _told_once(failures: list[str]) -> str:
    """One line for each cause: a missing model stops every notebook with the same words."""
    causes: dict[str, list[str]] = {}
    for failure in failures:
        cause = failure.partition(" raised ")[2].partition("; what it got to")[0]
        causes.setdefault(cause or failure, []).append(failure)
    return "\n".join(
        alike[0] if len(alike) == 1 else f"{len(alike)} notebooks failed alike: {cause}."
        for cause, alike in causes.items()
    )


def _first_error(out: Path) -> str:
    """Which cell failed, with what."""
    cells = json.loads(out.read_text(encoding="utf-8"))["cells"] if out.exists() else []
    for i, cell in enumerate(cells):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                message = strip_ansi(output["evalue"]).strip().splitlines() or [""]
                return f"cell {i} [{cell.get('execution_count')}] raised {output['ename']}: {message[0].rstrip('.')}"
    return ""
