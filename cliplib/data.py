"""Data sets: what is known about them, and where their images lie; none is downloaded unasked."""

from __future__ import annotations

import glob
import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets

from cliplib.images import ImageSource, image_list, image_name

logger = logging.getLogger(__name__)


SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
)


SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation"), "val")


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set holds and where it comes from; fields as in ``datasets.toml``."""

    name: str
    title: str
    phrases: Mapping[str, Sequence[str]] = field(
        repr=False
    )  # of each class, in the labels' order
    templates: Sequence[str] = field(default=("a photo of {}.",), repr=False)
    hub: Mapping[str, str] | None = None
    kaggle: str = ""
    homepage: str = ""


_DECLARED = tomllib.loads(
    (files("cliplib") / "datasets.toml").read_text(encoding="utf-8")
)


DATASETS = {name: DatasetSpec(name=name, **entry) for name, entry in _DECLARED.items()}


def dataset_spec(name_or_path: str | os.PathLike[str]) -> DatasetSpec:
    """Return the declaration of a named data set, or make one from a folder's class folders."""
    name = os.fspath(name_or_path)
    if name in DATASETS:
        return DATASETS[name]
    root = Path(name).expanduser().resolve()
    classes = sorted({row["class"] for row in _list(root)})
    phrases = {c: [c.replace("_", " ").replace("-", " ")] for c in classes}
    return DatasetSpec(name=root.name, title=root.name, phrases=phrases)


def load_dataset(
    name_or_path: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None
) -> datasets.Dataset | None:
    """List the images of a data set, undecoded, sorted by id; None where there are none.

    `name_or_path` is a key of `DATASETS`, or a folder of class folders, with or without train, val
    and test folders above them. `data` is the folder that holds a named set's folder, or that one
    itself, or ``"hub"``; by default the setting ``CLIPLIB_DATA``, which takes the same values.
    Columns: ``image`` (``{"path", "bytes"}``), ``label``, ``id`` (split, class and file), and
    ``split`` ("train", "val", "test" or "").
    """
    name, setting = (
        os.fspath(name_or_path),
        os.fspath(data or os.environ.get("CLIPLIB_DATA") or ""),
    )
    root = _find(name, setting)
    rows = _list(root) if root else []
    found = {row["class"] for row in rows}
    classes = list(DATASETS[name].phrases) if name in DATASETS else sorted(found)
    if (data or (root and root.name == name)) and found != set(classes):
        odd = ", ".join(sorted(found.symmetric_difference(classes))[:5])
        raise ValueError(
            f"{root or setting} is no copy of {name}: look at its folders {odd}."
        )
    if root is None or found != set(classes):
        logger.info("%s: no images on this machine", name)
        return None
    lists = files("cliplib") / "precomputed" / f"{name}_splits.txt"
    lines = (
        lists.read_text("utf-8").splitlines()
        if name in DATASETS and lists.is_file()
        else []
    )
    published = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    for row in rows:
        row["split"] = row["split"] or published.get(row["id"], "")
        row["label"] = classes.index(row.pop("class"))
    logger.info("%s: %d images from %s", name, len(rows), root)
    label, image = datasets.ClassLabel(names=classes), datasets.Image(decode=False)
    text = datasets.Value("string")
    features = datasets.Features(image=image, label=label, id=text, split=text)
    title = name if name in DATASETS else root.resolve().name
    source = "hub" if name in DATASETS and setting == "hub" else "folder"
    info = datasets.DatasetInfo(
        dataset_name=title, builder_name=source, features=features
    )
    return datasets.Dataset.from_list(rows, info=info)


def _find(name: str, setting: str) -> Path | None:
    """Return the folder in which to look for a data set, if any is named."""
    if name in DATASETS and setting in ("", "hub"):
        return _download(DATASETS[name]) if setting else None
    root = Path(setting if name in DATASETS else name).expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{str(root)!r} is neither a folder nor one of {[*DATASETS]}."
        )
    inner = [home / known for known in DATASETS for home in (root / "external", root)]
    homes = {folder.name: folder for folder in inner if folder.is_dir()}
    return homes.get(name) if homes and name in DATASETS else root


def _list(root: Path) -> list[dict[str, Any]]:
    """Return image, class, id and split of each image in class folders, sorted by id."""
    rows, others, places = [], [], set[Path]()
    for name in glob.iglob(
        "**/*", root_dir=root, recursive=True
    ):  # no hidden ones; links, too
        path, (*above, kind, file) = root / name, ("", "", *Path(name).parts)
        if path.is_dir() or "__MACOSX" in (*above, kind):
            continue
        if path.suffix.lower() not in SUFFIXES:
            others += [path] if kind else []  # beside the class folders lie notes
            continue
        if not kind:
            raise ValueError(
                f"The image {path} lies outside the class folders: move it into one."
            )
        if image_name(path) != str(path):
            raise ValueError(
                f"The name {image_name(path)!r} is not in UTF-8: rename it."
            )
        split = SPLITS.get(above[-1].lower(), "")
        below = f"{above[-1]}/{kind}/{file}" if split else f"{kind}/{file}"
        image = {"path": str(path), "bytes": None}
        rows.append({"image": image, "class": kind, "id": below, "split": split})
        places.add(root.joinpath(*above[:-1]) if split else root.joinpath(*above))
    if others:
        logger.warning(
            "Left out %d files of other kinds, such as %s", len(others), min(others)
        )
    if len(places) > 1:
        one, other = sorted(places)[:2]
        raise ValueError(
            f"Class folders lie in {one} and in {other}: put all in one place."
        )
    if len({bool(row["split"]) for row in rows}) != 1:
        what = "images in and outside train and test folders" if rows else "no image"
        raise ValueError(
            f"{root} holds {what}: give each class a folder, within a split or not."
        )
    return sorted(rows, key=lambda row: row["id"])


def _download(spec: DatasetSpec) -> Path:
    try:
        if spec.hub:
            from huggingface_hub import hf_hub_download

            archive = hf_hub_download(
                spec.hub["repo"], spec.hub["file"], repo_type="dataset"
            )
            return Path(datasets.DownloadManager().extract(archive))
        import kagglehub

        return Path(kagglehub.dataset_download(spec.kaggle))
    except Exception as error:  # the clients raise nearly anything without a network
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        where = f"name a folder with its images, or get them from {spec.homepage}"
        raise OSError(f"Cannot download {spec.title} ({reason}): {where}.") from error


def list_files(files: Any) -> tuple[list[str], list[ImageSource]]:
    """Return names and sources of all files in a folder, however deep, or of one or more images."""
    if not isinstance(files, str | os.PathLike) or not Path(files).is_dir():
        sources = image_list(files)
        return [image_name(source) for source in sources], sources
    below = glob.iglob(
        "**", root_dir=files, recursive=True, include_hidden=True
    )  # links, too
    found = sorted(
        path for path in map(Path(files).joinpath, below) if not path.is_dir()
    )
    return [image_name(path.relative_to(files)) for path in found], list(found)
