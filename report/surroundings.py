"""The variables that make two executions equal, and a try of images and model."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from places import EMBEDDED, Places

REPORT = Path(__file__).resolve().parent
SETTINGS = ("CLIPLIB_DATA", "CLIPLIB_MODEL")
FIXED = tomllib.loads((REPORT / "environment.toml").read_text("utf-8"))


def setting(name: str, given: str | None) -> str:
    """Return what is given, or else what the environment has; of a folder, its path."""
    value = given or os.environ.get(name, "")
    return str(Path(value).resolve()) if value and Path(value).is_dir() else value


def prepare(
    places: Places, data: str, model: str, given: dict[str, str] | None = None
) -> list[str]:
    """Set the variables of this build, and fetch and try its images and its model.

    What cannot work ends the process with one sentence.

    Returns
    -------
    list of str
        Sentences on what is missing or not as in the report.
    """
    given = given or {}
    dtype = given.get("dtype", "")
    if not data and (dtype or model not in EMBEDDED):
        what = f"encode in {dtype}" if dtype else f"measure {model}"
        sys.exit(f"To {what}, name a folder of images (--data), or hub.")
    set_variables(places, data, dtype)
    try:
        os.environ["CLIPLIB_DATA"], notes = find_images(places, data, model)
        os.environ["CLIPLIB_MODEL"] = model
        try_models(model, yaml.safe_load(given.get("others", "[]")))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(str(error))
    os.environ.update(FIXED["notebooks"])
    return notes


def set_variables(places: Places, data: str, dtype: str) -> None:
    """Set environment variables that make executions equal and say where results go."""
    os.environ["CLIPLIB_DTYPE"] = dtype
    os.environ.update(FIXED["always"])
    # All processors then use the same instructions; a precision that is asked for is
    # to use the fastest.
    if has_avx2() and not dtype:
        os.environ.update(FIXED["avx2"])
    # The user's own cache may hold features that other instructions computed.
    if not data:
        os.environ["CLIPLIB_CACHE"] = str(places.work / "cache")
    os.environ["CLIPLIB_FIGURES"] = str(places.figures)
    # Where kernels find `study`, and the process that they are forked from `kernels`.
    paths = f"{REPORT.parent / 'notebooks'}{os.pathsep}{REPORT}{os.pathsep}"
    os.environ["PYTHONPATH"] = paths + os.environ.get("PYTHONPATH", "")
    os.environ["SOURCE_DATE_EPOCH"] = str(places.epoch())
    os.environ.pop("MPLBACKEND", None)  # the kernel's own


def has_avx2() -> bool:
    """Return whether this processor has AVX2, as x86 has since 2013."""
    config: Any = np.show_config(mode="dicts")
    return bool({"AVX2", "X86_V3"} & set(config["SIMD Extensions"]["found"]))


def find_images(places: Places, data: str, model: str) -> tuple[str, list[str]]:
    """Return the folder of the images, and sentences on what is not as in the report.

    Parameters
    ----------
    places
        Of this build; images of the hub are linked to in its folder.
    data
        A folder, "hub", or "" for none.
    model
        Another model than the embedded one has no committed features of what is
        missing.

    Raises
    ------
    OSError
        If the hub gives nothing, or the folder is not there.
    ValueError
        If it holds none of the named data sets.
    """
    if not data:
        return "", []
    from study.data import DATASETS, difference_from_report, load_dataset

    folder, notes = fetch_images(places) if data == "hub" else (data, [])
    os.environ["CLIPLIB_DATA"] = folder
    found = {name: load_dataset(name) for name in DATASETS}
    if all(dataset is None for dataset in found.values()):
        raise ValueError(f"{data} holds none of the data sets {', '.join(DATASETS)}.")
    missing = [DATASETS[name].title for name in DATASETS if found[name] is None]
    if missing and model not in EMBEDDED:
        notes.append(f"No images here of: {', '.join(missing)}.")
    for name, dataset in found.items():
        if dataset is not None:
            notes.append(difference_from_report(name, dataset["id"][:]))
    return folder, [note for note in notes if note]


def fetch_images(places: Places) -> tuple[str, list[str]]:
    """Fetch the data sets that have a public home.

    Returns a folder that holds them, and a sentence for each that could not be fetched;
    an OSError is raised if none could.
    """
    from study.data import DATASETS, fetch_dataset

    folder = places.work / "images"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    failures = []
    for name in DATASETS:
        try:
            home = fetch_dataset(name)
        except OSError as error:
            failures.append(str(error))
            continue
        if home is not None:  # None: it has no public home
            (folder / name).symlink_to(home.resolve(), target_is_directory=True)
    if not any(folder.iterdir()):
        raise OSError(failures[0])
    return str(folder), failures


def try_models(model: str, others: list[str]) -> None:
    """Load the model, and look for the others that it is compared with.

    They are fetched from the hub if need be. OSError where one cannot be had.
    """
    if model in EMBEDDED and not others:
        return
    from cliplib.encoders.checkpoint import find_checkpoint, loading
    from cliplib.encoders.clip import ClipEncoder

    for name in others:
        with loading(name, "a folder with a vision model"):  # one sentence if it fails
            find_checkpoint(name)
    if model not in EMBEDDED:
        ClipEncoder(model, cache=None)
