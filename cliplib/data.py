"""Data sets: what is known about them, and where their images lie.

Images are looked for in this order, and one log line says where they were found: an
explicit folder, the folder that the setting ``CLIPLIB_DATA`` names, the data set's public home if
that is asked for (``"hub"``). Nothing is downloaded unasked.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import datasets

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
    root = Path(name).expanduser()
    if not root.is_dir():
        known = ", ".join(DATASETS)
        raise ValueError(f"{name!r} is neither a folder nor a known data set ({known}).")
    classes = sorted({folder.name for _, folder in _class_folders(root)})
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
        Columns ``image`` (``{"path", "bytes"}``), ``label``, ``id`` (POSIX path below the set's
        folder) and ``split`` ("train", "val", "test" or ""). ``None`` without any images.

    Raises
    ------
    ValueError, OSError
        The folder is missing, lacks the set or is no tree of class folders; no network for "hub".
    """
    spec = dataset_spec(name_or_path)
    root, source = _find(spec, os.fspath(name_or_path), data)
    if root is None:
        logger.info("%s: no images on this machine", spec.name)
        return None
    listed = _published_split(spec.name)
    rows: list[tuple[str, int, str]] = []
    for split, folder in _class_folders(root):
        if folder.name not in spec.classes:
            known = ", ".join(spec.classes)
            raise ValueError(f"The folder {folder} is no class of {spec.name} ({known}): move it.")
        label = spec.classes.index(folder.name)
        images = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
        if not images:
            raise ValueError(f"The class folder {folder} holds no images: fill it or remove it.")
        for path in images:
            published = split or listed.get(f"{folder.name}/{path.name}", "")
            rows.append((path.relative_to(root).as_posix(), label, published))
    rows.sort()
    published = (
        f" of the published {spec.n_images}" if spec.n_images not in (None, len(rows)) else ""
    )
    logger.info("%s: %d%s images from %s", spec.name, len(rows), published, root)
    ids, labels, splits = (list(column) for column in zip(*rows, strict=True))
    features = datasets.Features(
        image=datasets.Image(decode=False),
        label=datasets.ClassLabel(names=list(spec.classes)),
        id=datasets.Value("string"),
        split=datasets.Value("string"),
    )
    columns = {
        "image": [{"path": str(root / name), "bytes": None} for name in ids],
        "label": labels,
        "id": ids,
        "split": splits,
    }
    info = datasets.DatasetInfo(dataset_name=spec.name, builder_name=source, features=features)
    return datasets.Dataset.from_dict(columns, info=info)


def _find(
    spec: DatasetSpec, name: str, data: str | os.PathLike[str] | None
) -> tuple[Path | None, str]:
    """Return the folder of a data set's classes or splits, if there is one, and its source."""
    if name not in DATASETS:
        return _home(Path(name).expanduser()), "folder"
    setting = os.fspath(data or os.environ.get("CLIPLIB_DATA") or "")
    if not setting:
        return None, "folder"
    if setting == "hub":
        return _home(_download(spec)), "hub"
    root = Path(setting).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"The data folder {setting!r} does not exist: name another, or none."
        )
    inner = [root / spec.name, root / "external" / spec.name]
    found = next((_home(folder) for folder in inner if folder.is_dir()), _home(root))
    if set(spec.classes) <= {folder.name for _, folder in _class_folders(found)}:
        return found, "folder"
    if data:
        raise ValueError(
            f"The data folder {setting!r} holds no {spec.name}: name another, or none."
        )
    return None, "folder"


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


def _subfolders(folder: Path) -> list[Path]:
    inner = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    return sorted(inner)


def _home(folder: Path) -> Path:
    """Follow single folders, such as images/, down to where class or split folders lie."""
    inner = _subfolders(folder)
    while len(inner) == 1 and inner[0].name.lower() not in SPLITS and _subfolders(inner[0]):
        folder = inner[0]
        inner = _subfolders(folder)
    return folder


def _class_folders(root: Path) -> list[tuple[str, Path]]:
    """Return pairs of split ("" without) and class folder."""
    home = _home(root)
    inner = _subfolders(home)
    splits = [folder for folder in inner if folder.name.lower() in SPLITS]
    if not splits:
        found = [("", folder) for folder in inner]
    elif len(splits) < len(inner):
        raise ValueError(f"The folder {home} mixes splits ({splits[0].name}) and other folders.")
    else:
        found = [(SPLITS[s.name.lower()], folder) for s in splits for folder in _subfolders(s)]
    if not found:
        raise ValueError(f"The folder {root} holds no class folders: put each class into one.")
    return found


def _published_split(name: str) -> dict[str, str]:
    """Return the split of each ``class/file`` where it is published as a list."""
    path = files("cliplib") / "precomputed" / f"{name}_splits.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
