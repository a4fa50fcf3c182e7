"""Data sets: what is known about them, and where their images lie.

Images are looked for in an explicit folder, then in the one that the setting ``CLIPLIB_DATA``
names, or in the data set's public home where that is asked for by ``"hub"``; a log line says where
they were found. Nothing is downloaded unasked.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from cliplib.images import ImageSource, image_name

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation"), "val")


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set holds and where it comes from; fields as in ``datasets.toml``."""

    name: str
    title: str
    phrases: Mapping[str, Sequence[str]] = field(repr=False)
    templates: Sequence[str] = field(default=("a photo of {}.",), repr=False)
    n_images: int | None = None
    hub: Mapping[str, str] | None = None
    kaggle: str | None = None
    licence: str = ""
    citation: str = ""
    homepage: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders, in the order of the labels."""
        return tuple(self.phrases)


_DECLARED = tomllib.loads((files("cliplib") / "datasets.toml").read_text(encoding="utf-8"))
DATASETS = {name: DatasetSpec(name=name, **entry) for name, entry in _DECLARED.items()}


def dataset_spec(name_or_path: str | os.PathLike[str]) -> DatasetSpec:
    """Return the declaration of a named data set, or make one from a folder's class folders."""
    name = os.fspath(name_or_path)
    if name in DATASETS:
        return DATASETS[name]
    root, _ = _find(name, None)
    classes = sorted({row["class"] for row in _list(root)})
    phrases = {c: [c.replace("_", " ").replace("-", " ")] for c in classes}
    return DatasetSpec(name=root.resolve().name, title=root.resolve().name, phrases=phrases)


def load_dataset(
    name_or_path: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None
) -> datasets.Dataset | None:
    """List the images of a data set, undecoded, sorted by id.

    Parameters
    ----------
    name_or_path : str or path
        A key of `DATASETS`, or a folder of class folders, with or without train, val and test
        folders above them.
    data : str or path, optional
        A folder that holds the named set's folder, or that folder itself, or ``"hub"``. Default:
        the setting ``CLIPLIB_DATA``, which takes the same values.

    Returns
    -------
    datasets.Dataset or None
        Columns ``image`` (``{"path", "bytes"}``), ``label``, ``id`` (split, class and file) and
        ``split`` ("train", "val", "test" or ""). ``None`` without any images.
    """
    name = os.fspath(name_or_path)
    root, source = _find(name, data)
    rows = _list(root) if root else []
    found = {row["class"] for row in rows}
    classes = list(DATASETS[name].classes) if name in DATASETS else sorted(found)
    if root and data and found != set(classes):
        odd = ", ".join(sorted(found.symmetric_difference(classes))[:5])
        raise ValueError(
            f"The folder {root} is no copy of {name}: look at its class folders {odd}."
        )
    if found != set(classes):
        logger.info("%s: no images on this machine", name)
        return None
    listed = _published_split(name)
    for row in rows:
        row["split"] = row["split"] or listed.get(row["id"], "")
        row["label"] = classes.index(row.pop("class"))
    logger.info("%s: %d images from %s", name, len(rows), root)
    features = datasets.Features(
        image=datasets.Image(decode=False),
        label=datasets.ClassLabel(names=classes),
        id=datasets.Value("string"),
        split=datasets.Value("string"),
    )
    known = name if name in DATASETS else Path(name).resolve().name
    info = datasets.DatasetInfo(dataset_name=known, builder_name=source, features=features)
    return datasets.Dataset.from_list(rows, info=info)


def _find(name: str, data: str | os.PathLike[str] | None) -> tuple[Any, str]:
    """Return the folder in which to look for a data set, if there is one, and its source."""
    if name not in DATASETS:
        if not Path(name).expanduser().is_dir():
            known = ", ".join(DATASETS)
            raise ValueError(f"{name!r} is neither a folder nor a known data set ({known}).")
        return Path(name).expanduser(), "folder"
    setting = os.fspath(data or os.environ.get("CLIPLIB_DATA") or "")
    if setting in ("", "hub"):
        return (_download(DATASETS[name]) if setting else None), setting
    root = Path(setting).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"There is no data folder {setting!r}: name another, or none.")
    inner = [root / name, root / "external" / name]
    return next((folder for folder in inner if folder.is_dir()), root), "folder"


def _list(root: Path) -> list[dict[str, Any]]:
    """Return image, class, id and split of each image in class folders, sorted by id."""
    rows, others = [], []
    for path in root.rglob("*.*"):
        parts = path.relative_to(root).parts
        if any(part.startswith((".", "__")) for part in parts):
            continue
        if path.suffix.lower() not in SUFFIXES:
            others.append(path)
            continue
        if len(parts) < 2:
            raise ValueError(f"The image {path} lies outside the class folders: move it into one.")
        split = SPLITS.get(parts[-3].lower(), "") if len(parts) > 2 else ""
        below = "/".join(parts[-3:] if split else parts[-2:])
        image = {"path": str(path), "bytes": None}
        rows.append({"image": image, "class": parts[-2], "id": below, "split": split})
    if others:
        logger.info("Left out %d files of other kinds, such as %s", len(others), min(others))
    if not rows:
        raise ValueError(
            f"The folder {root} holds no images in class folders: put each class into one."
        )
    if len({bool(row["split"]) for row in rows}) == 2:
        raise ValueError(f"The folder {root} mixes images in and outside train and test folders.")
    return sorted(rows, key=lambda row: row["id"])


def _download(spec: DatasetSpec) -> Path:
    try:
        if spec.hub:
            from huggingface_hub import hf_hub_download

            archive = hf_hub_download(spec.hub["repo"], spec.hub["file"], repo_type="dataset")
            return Path(datasets.DownloadManager().extract(archive))
        import kagglehub

        return Path(kagglehub.dataset_download(spec.kaggle))
    except ImportError as error:
        raise ImportError(f"{spec.title} lives on Kaggle: pip install kagglehub.") from error
    except Exception as error:  # the clients raise nearly anything without a network
        raise OSError(
            f"The public home of {spec.title} cannot be reached ({type(error).__name__}): name a "
            f"folder with its images, or download {spec.homepage}."
        ) from error


def _published_split(name: str) -> dict[str, str]:
    """Return the split of each ``class/file`` where it is published as a list."""
    path = files("cliplib") / "precomputed" / f"{name}_splits.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def list_files(files: Any) -> tuple[list[str], list[ImageSource]]:
    """Return names and sources of all files in a folder, however deep, or of a list of images."""
    if isinstance(files, bytes | Image.Image | np.ndarray | Mapping):
        files = [files]
    if not isinstance(files, str | os.PathLike):
        return [image_name(source) for source in files], list(files)
    root = Path(files).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"There is no file and no folder {root}: check its name.")
    if root.is_file():
        return [image_name(root.name)], [root]
    found = sorted(path for path in root.rglob("*") if not path.is_dir())
    return [image_name(file.relative_to(root)) for file in found], list(found)
