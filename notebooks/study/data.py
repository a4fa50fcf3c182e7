"""The named data sets of the study: what is known of them, and where they lie.

None is downloaded unasked. Images and features of a named set are asked for here, those
of any other source in `cliplib`.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cliplib import load_dataset as load_any
from cliplib.data.hub import DownloadError
from cliplib.data.warn import warn_once
from cliplib.data.wording import counted
from study.archives import fetch_archive, fetch_from_kaggle

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger("cliplib.study.data")

SETTING = "CLIPLIB_DATA"
HERE = Path(__file__).resolve().parent
PRECOMPUTED = HERE / "precomputed"
"""Where features and groups of the named data sets are."""


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set holds and where it comes from, as in ``datasets.toml``.

    Attributes
    ----------
    name
        Its key in `DATASETS`, or the name of its folder.
    title
        What a reader calls it.
    phrases
        Of each class, in the order of the labels, the phrases that may describe it;
        the first one is the default.
    templates
        Sentences with a ``{}`` for a phrase.
    hub
        Its ``repo``, ``file`` and ``sha256`` on the Hugging Face hub, if it is there.
    kaggle
        Its name and version on Kaggle, or "".
    homepage
        Where people find it.
    groups
        A regular expression, searched in the images' ids, whose first parentheses hold
        the name of the group, such as the photograph; "" where ids do not tell groups.
    """

    name: str
    title: str
    phrases: Mapping[str, Sequence[str]] = field(repr=False)
    templates: Sequence[str] = field(default=("a photo of {}.",), repr=False)
    hub: Mapping[str, str] | None = None
    kaggle: str = ""
    homepage: str = ""
    groups: str = ""


_DECLARED = tomllib.loads((HERE / "datasets.toml").read_text("utf-8"))

DATASETS = {name: DatasetSpec(name=name, **entry) for name, entry in _DECLARED.items()}


def dataset_spec(name_or_path: str | os.PathLike[str]) -> DatasetSpec:
    """Return the classes and other facts of a data set, by its name or its folder.

    For a key of `DATASETS` they are declared there. Otherwise the names of the class
    folders, sorted, are the classes; with spaces for "_" and "-" they are the phrases
    that describe them. An OSError or ValueError names what is wrong with a folder.
    """
    name = os.fspath(name_or_path)
    if name in DATASETS:
        return DATASETS[name]
    classes = load_any(name).features["label"].names
    phrases = {c: [re.sub("[_-]", " ", c)] for c in classes}
    title = Path(name).resolve().name
    return DatasetSpec(name=title, title=title, phrases=phrases)


def load_dataset(
    name_or_path: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None
) -> datasets.Dataset | None:
    """List the images of a data set, undecoded, sorted by id.

    Parameters
    ----------
    name_or_path
        A key of `DATASETS`, or a folder of class folders, with or without train, val
        and test folders above them.
    data
        Where a named set is: a folder that holds the set's folder, the set's folder
        itself, or ``"hub"``, to download it; by default the setting ``CLIPLIB_DATA``,
        which takes the same values.

    Returns
    -------
    datasets.Dataset or None
        Columns ``image`` (``{"path", "bytes"}``), ``label``, ``id`` (split, class and
        file) and ``split`` ("train", "val", "test" or ""). None where a named set has
        no images on this machine, or neither the hub nor Kaggle has it.

    Raises
    ------
    OSError
        If a folder is not there, or a download fails.
    ValueError
        If a folder holds no images in class folders, or `data` holds another set.
    """
    name = os.fspath(name_or_path)
    if name not in DATASETS:
        return load_any(name)
    if data:
        return _load_named(name, os.fspath(data), must_be_there=True)
    setting = os.environ.get(SETTING, "")
    try:
        return _load_named(name, setting, must_be_there=False)
    except (FileNotFoundError, ValueError) as error:
        # The same kind of error, which names the setting that is at fault as well.
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(f"{error} (The setting {SETTING} is {setting!r}.)") from error


def _load_named(
    name: str, setting: str, *, must_be_there: bool
) -> datasets.Dataset | None:
    """Return the images of a named set as a data set; None where none are found.

    `setting` is a folder, "hub" to download them, or "" for nowhere. If
    `must_be_there`, a folder without the set's classes raises ValueError.
    """
    dataset = _find_named(name, setting, must_be_there=must_be_there)
    if dataset is None:
        return None
    ids = dataset["id"][:]
    if different := difference_from_report(name, ids):
        warn_once(different)
    published = _published_splits(name)
    splits = [
        split or published.get(image_id, "")
        for image_id, split in zip(ids, dataset["split"][:], strict=True)
    ]
    dataset = dataset.remove_columns("split").add_column("split", splits)
    dataset.info.dataset_name = name
    dataset.info.builder_name = "hub" if setting == "hub" else "folder"
    return dataset


def _find_named(
    name: str, setting: str, *, must_be_there: bool
) -> datasets.Dataset | None:
    """Return the images of a named set, sorted by id; None where none are found.

    `setting` says where they are: a folder, "hub" to download them, or "" for nowhere.
    For a folder whose classes are not the set's it is None as well, but ValueError is
    raised if `must_be_there`, or if the folder bears the set's name.
    """
    root = _root_of_named(name, setting)
    if root is None and setting == "hub":
        logger.info("%s: no home to download it from", name)
        return None
    present: set[str] = set()
    if root is not None:
        try:
            dataset = load_any(root)
        except ValueError as error:
            raise ValueError(
                f"{error} Or name a folder that holds the folder {name!r}."
            ) from error
        present = set(dataset.features["label"].names)
        if present == set(DATASETS[name].phrases):  # phrases by class
            logger.info("%s: %s from %s", name, counted(len(dataset), "image"), root)
            return dataset
    bears_the_name = root is not None and root.name == name
    if must_be_there or bears_the_name:
        raise ValueError(_difference_from_set(name, root or Path(setting), present))
    logger.info("%s: no images on this machine", name)
    return None


def _root_of_named(name: str, setting: str) -> Path | None:
    """Return the folder where a named set's class folders should be; None if nowhere.

    `setting` is "" for nowhere, "hub" to download the set, or a folder: the set itself,
    or one that holds a folder for each of several sets, some of them below its
    subfolder ``external``.
    """
    if setting == "":
        return None
    if setting == "hub":
        return fetch_dataset(name)
    folder = Path(setting).expanduser().absolute()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{str(folder)!r} is no folder: name one that holds the folder {name!r}."
        )
    parents = [folder, folder / "external"]  # the first one that holds the set counts
    for parent in parents:
        if (parent / name).is_dir():
            return parent / name
    holds_other_sets = any(
        (parent / other).is_dir() for parent in parents for other in DATASETS
    )
    return None if holds_other_sets else folder


def _difference_from_set(name: str, folder: Path, present: set[str]) -> str:
    """Return a sentence on how a folder differs from the named set `name`.

    The folder's classes, `present`, are not those of the set.
    """
    expected = set(DATASETS[name].phrases)
    what = f"{folder} is no copy of {name}"
    if not present:
        return f"{what}: that set's folder is not in it."
    if not present & expected:
        others = ", ".join(sorted(present)[:5])
        return (
            f"{what}: its classes are {others}. For images of your own, give their "
            "folder in place of the set's name."
        )
    differences = []
    if missing := sorted(expected - present):
        differences.append(f"it lacks the classes {', '.join(missing[:5])}")
    if odd := sorted(present - expected):
        differences.append(f"that set has no classes {', '.join(odd[:5])}")
    return f"{what}: {'; '.join(differences)}."


def _published_splits(name: str) -> dict[str, str]:
    """Return the split that a named set's authors published, by id of the image.

    It is in a file of this package; what is not listed there has no split.
    """
    path = PRECOMPUTED / f"{name}_splits.txt"
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8").splitlines()
    entries = [line for line in lines if not line.startswith("#")]  # "id split"
    return dict(entry.rsplit(" ", 1) for entry in entries)


def fetch_dataset(name: str) -> Path | None:
    """Return the folder of a named set on the hub or on Kaggle; None if on neither.

    It is downloaded if it was not before.

    Raises
    ------
    OSError
        If the download fails.
    """
    spec = DATASETS[name]
    try:
        if spec.hub:
            archive = spec.hub
            return fetch_archive(
                archive["repo"], archive["file"], archive.get("sha256", "")
            )
        return fetch_from_kaggle(spec.kaggle) if spec.kaggle else None
    except DownloadError as error:
        raise OSError(
            f"Cannot download {spec.title}: {error}; or name a folder with its images, "
            f"which are at {spec.homepage}."
        ) from error


def difference_from_report(name: str, ids: Collection[str]) -> str:
    """Return a sentence on how images of a named set differ from those of the report.

    `ids` are those of the images that are here. The ids of the images that cliplib's
    own report measured are in a file of this package. The sentence is "" if both are
    the same, or if the report has no images of that set.
    """
    path = PRECOMPUTED / f"{name}_groups.csv"
    if not path.is_file():
        return ""
    rows = path.read_text("utf-8").splitlines()[1:]  # id,group below a header
    in_report = {row.rsplit(",", 1)[0] for row in rows}
    here = set(ids)
    if here == in_report:
        return ""
    parts = [f"{counted(len(here), 'image')}, {len(in_report):,} in the report"]
    if new := len(here - in_report):
        parts.append(f"{new:,} of them {'is' if new == 1 else 'are'} not in it")
    if lost := len(in_report - here):
        parts.append(f"{lost:,} of the report {'is' if lost == 1 else 'are'} missing")
    return f"{DATASETS[name].title}: {'; '.join(parts)}."
