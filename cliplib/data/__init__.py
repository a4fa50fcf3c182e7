"""Data sets: short declarations, and loading from a folder, a public home, or a user's own folder of class folders.

Where images are looked for, in this order, and one log line says where they were found:

1. an explicit folder (the argument ``data``, or a path in the place of the name): it holds the set, or else an error;
2. the folder that the setting ``CLIPLIB_DATA`` names: it must exist, and may hold only some of the sets;
3. the public home, only on request: ``"hub"`` in the place of the folder in either. Never unasked, because a download
   that starts by itself would make results depend on whether there was a network;
4. nowhere: :func:`load_dataset` returns ``None``, and :func:`cliplib.packs.load_features` turns to the embedded pack.

The code that downloads is tested against imitations of the hubs only, not against the real ones.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import datasets

from cliplib.data import folders
from cliplib.data.images import decode, read
from cliplib.errors import CliplibError, ImageError, path_text

__all__ = ["DATASETS", "DatasetSpec", "HubSource", "dataset_fingerprint", "dataset_spec", "decode", "load_dataset"]

logger = logging.getLogger(__name__)

HUB = "hub"
"""The value of ``data`` or ``CLIPLIB_DATA`` that asks for a data set's public home."""


@dataclass(frozen=True)
class HubSource:
    """One archive of class folders in a data set repository of the Hugging Face hub."""

    repo: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set is called, what it holds, and where it comes from.

    Attributes
    ----------
    name, title : str
        Short name, as in file names; full name, as in prose.
    folder : str
        Its place in a data folder.
    classes : tuple of str
        Names of the class folders; their order is the order of the labels.
    phrases : mapping of str to tuple of str
        How a caption would put each class, to go into `templates`; the first is the default.
    templates : tuple of str
        Prompts with one ``{}``.
    layout : {"folders", "list"}
        Published splits: folders above the class folders (without them there are none), or else the
        list ``cliplib/packs/<name>_splits.txt``, lines ``class/file split``.
    n_images : int or None
        As published, to notice incomplete copies.
    hub, kaggle : HubSource or None, str or None
        Public homes; the hub is preferred.
    licence, citation, homepage : str
        Licence, key in ``references.bib``, address.
    """

    name: str
    title: str
    folder: str
    classes: tuple[str, ...]
    phrases: Mapping[str, tuple[str, ...]] = field(repr=False)
    templates: tuple[str, ...] = field(default=("a photo of {}.",), repr=False)
    layout: Literal["folders", "list"] = "folders"
    n_images: int | None = None
    hub: HubSource | None = None
    kaggle: str | None = None
    licence: str = ""
    citation: str = ""
    homepage: str = ""


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="brain_tumor_mri",
            title="Brain Tumor MRI Dataset",
            folder="brain_tumor_mri",
            classes=("glioma", "meningioma", "notumor", "pituitary"),
            phrases={
                "glioma": ("a brain with a glioma", "a glioma tumor", "a tumor within the brain tissue"),
                "meningioma": ("a brain with a meningioma", "a meningioma tumor", "a tumor of the brain's lining"),
                "notumor": ("a healthy brain", "a normal brain without a tumor", "a brain with no abnormality"),
                "pituitary": ("a brain with a pituitary tumor", "a pituitary adenoma", "a tumor below the brain"),
            },
            templates=("an MRI scan of {}.", "a brain MRI showing {}.", "a magnetic resonance image of {}.",
                       "an MRI slice of {}.", "a grayscale medical image of {}.", "a contrast-enhanced MRI of {}."),
            n_images=7023,
            kaggle="masoudnickparvar/brain-tumor-mri-dataset",
            licence="CC0-1.0",
            citation="nickparvar2021kaggle",
            homepage="https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset",
        ),
        DatasetSpec(
            name="trashnet",
            title="TrashNet",
            folder="trashnet",
            classes=("cardboard", "glass", "metal", "paper", "plastic", "trash"),
            phrases={
                "cardboard": ("cardboard", "a cardboard box", "a piece of cardboard"),
                "glass": ("glass", "a glass bottle", "a glass jar"),
                "metal": ("metal", "a metal can", "aluminum foil or a tin"),
                "paper": ("paper", "a sheet of paper", "a newspaper or magazine"),
                "plastic": ("plastic", "a plastic bottle", "plastic packaging"),
                "trash": ("trash", "garbage that cannot be recycled", "a food wrapper or used cup"),
            },
            templates=("a photo of {}.", "a photo of {} on a white background.", "a close-up photo of {}.",
                       "a photo of a piece of waste: {}.", "{}, thrown away."),
            layout="list",
            n_images=2527,
            # One archive of the repository by name: its other one holds every photo again, at full size.
            hub=HubSource("garythung/trashnet", "dataset-resized.zip"),
            licence="MIT",
            citation="yang2016trashnet",
            homepage="https://github.com/garythung/trashnet",
        ),
    )
}  # fmt: skip
"""The named data sets; a new one is one more entry."""


def dataset_spec(name_or_path: str | os.PathLike[str]) -> DatasetSpec:
    """Declaration of a named data set, or one drawn up from the names of a folder's class folders.

    Raises
    ------
    CliplibError
        Neither a known name nor a folder, or a folder without class folders.
    """
    name = path_text(name_or_path, "The name of a data set")
    if (spec := DATASETS.get(name)) is not None:
        return spec
    if not (folder := folders.real(name)).is_dir():
        raise CliplibError(f"{name!r} is neither a known data set ({', '.join(DATASETS)}) nor a folder.")
    classes = folders.class_names(folder)
    if not classes:
        raise CliplibError(f"The folder {str(folder)!r} holds no class folders: put each class's images into a folder.")
    phrases = {c: (" ".join(c.replace("_", " ").replace("-", " ").split()) or c,) for c in classes}
    return DatasetSpec(folder.name, folder.name, folder.name, classes, phrases)


def load_dataset(
    name_or_path: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None
) -> datasets.Dataset | None:
    """Load a data set's index: images stay undecoded files, so memory stays flat.

    Parameters
    ----------
    name_or_path : str or path
        A key of :data:`DATASETS`, or a folder of class folders, with or without train/val/test folders above them.
    data : str or path, optional
        A data folder that holds the set's folder, or that folder itself, or ``"hub"``. Empty or ``None``: the
        setting ``CLIPLIB_DATA``, which takes the same values.

    Returns
    -------
    datasets.Dataset or None
        Rows sorted by ``id``. Columns: ``image`` (``Image(decode=False)``: ``{"path", "bytes": None}``), ``label``
        (``ClassLabel``), ``id`` (POSIX path below the folder that holds the class or split folders, so the same
        for every copy of the set) and ``split`` ("train", "val", "test" or ""). ``info.dataset_name`` is the name,
        ``info.builder_name`` where the images came from, "folder" or "hub". ``None`` if there are no images anywhere.

    Raises
    ------
    CliplibError
        A named folder is missing, lacks the set, or is not a clean tree of class folders.
    """
    spec = dataset_spec(name_or_path)
    source, place = "folder", None
    if os.fspath(name_or_path) not in DATASETS:
        place = folders.real(os.fspath(name_or_path))
    elif (setting := path_text(data, "data") if data else os.environ.get("CLIPLIB_DATA", "")) == HUB:
        source, place = HUB, _public(spec)
    elif setting:
        place = _local(spec, setting, explicit=bool(data))
    if place is None:
        logger.info("%s: no images (no folder, and none from its public home)", spec.name)
        return None
    rows = _rows(home := folders.home(place), spec)
    published = f" of the published {spec.n_images:,}" if spec.n_images not in (None, len(rows)) else ""
    said = f"{len(rows):,}{published} images in {len(spec.classes)} classes from the {source} at {home}"
    logger.info("%s: %s", spec.name, said)
    features = datasets.Features(
        image=datasets.Image(decode=False),
        label=datasets.ClassLabel(names=list(spec.classes)),
        id=datasets.Value("string"),
        split=datasets.Value("string"),
    )
    info = datasets.DatasetInfo(
        description=f"{spec.title}: {said}", builder_name=source, dataset_name=spec.name, features=features,
        license=spec.licence, citation=spec.citation, homepage=spec.homepage,
    )  # fmt: skip
    ids, labels, splits = (list(column) for column in zip(*rows, strict=True))
    images = [{"path": str(home / name), "bytes": None} for name in ids]
    return datasets.Dataset.from_dict({"image": images, "label": labels, "id": ids, "split": splits}, info=info)


def dataset_fingerprint(dataset: datasets.Dataset, digests: Mapping[int, bytes] | None = None) -> str:
    """Digest of what a data set says and shows, 32 hexadecimal digits: the same whatever the machine and the folder.

    Covers the class names and, in the order of the ids, each row's id, label, split and the bytes of its file (two
    exports may agree in sizes and dates). A file that cannot be read counts as such: whoever decodes it reports it.
    `digests` spares reading files again: by row, the BLAKE2b digest (16 bytes) of each that has been read already.
    """
    total = hashlib.blake2b("\0".join(dataset.features["label"].names).encode(), digest_size=16)
    known, n = digests or {}, len(dataset)
    images = dataset["image"][:] if len(known) < n else [None] * n
    columns = (dataset["id"][:], dataset["label"][:], dataset["split"][:], images, range(n))
    for name, label, split, image, row in sorted(zip(*columns, strict=True), key=lambda row: row[0]):
        try:
            digest = known[row].hex() if row in known else _digest(image)
        except ImageError:
            digest = "unreadable"
        total.update(f"\n{name}\0{label}\0{split}\0{digest}".encode())
    return total.hexdigest()


def _digest(image: Mapping[str, Any]) -> str:
    content = image["bytes"] if image["bytes"] is not None else read(Path(image["path"]), image["path"])
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _public(spec: DatasetSpec) -> Path | None:
    """Download a set from its public home; ``None``, and a warning, where that fails."""
    try:
        if spec.hub is not None:
            import huggingface_hub

            archive = huggingface_hub.hf_hub_download(
                spec.hub.repo, spec.hub.file, repo_type="dataset", revision=spec.hub.revision
            )
            return Path(datasets.DownloadManager().extract(archive))
        if spec.kaggle is not None:
            import kagglehub

            return Path(kagglehub.dataset_download(spec.kaggle))
        logger.warning("%s: no public home is known", spec.name)
    except ModuleNotFoundError:
        logger.warning("%s: its home is Kaggle: pip install kagglehub, or download %s", spec.name, spec.homepage)
    except Exception as error:  # whatever the two clients raise without a network, an account or the file
        reason = " ".join(str(error).split())[:200]
        logger.warning("%s: its public home cannot be used (%s: %s)", spec.name, type(error).__name__, reason)
    return None


def _local(spec: DatasetSpec, setting: str, *, explicit: bool) -> Path | None:
    origin = "data" if explicit else "CLIPLIB_DATA"
    if not (root := folders.real(setting)).is_dir():
        raise CliplibError(f"The data folder {str(root)!r} (from {origin}) does not exist: name another, or none.")
    if (root / spec.folder).is_dir():
        return root / spec.folder
    if set(folders.class_names(root)) & set(spec.classes):
        return root
    lack = f"The data folder {str(root)!r} (from {origin}) holds neither {spec.folder}/ nor its class folders"
    if explicit:
        raise CliplibError(f"{lack} ({', '.join(spec.classes)}): name another, or none.")
    logger.info("%s", lack)
    return None


def _rows(place: Path, spec: DatasetSpec) -> list[tuple[str, int, str]]:
    """Sorted (id, label, split) of every picture."""
    index = {name: label for label, name in enumerate(spec.classes)}
    leaves = list(folders.leaves(place))
    if foreign := [leaf for leaf in leaves if leaf.folder.name not in index]:
        raise CliplibError(
            f"The folder {str(foreign[0].folder)!r} is no class of {spec.name}, which has {', '.join(spec.classes)}."
        )
    if missing := sorted(set(spec.classes) - {leaf.folder.name for leaf in leaves}):
        raise CliplibError(f"The folder {str(place)!r} lacks class folders of {spec.name}: {', '.join(missing)}.")
    listed: dict[str, str] = {}
    if spec.layout == "list":
        text = (Path(__file__).parents[1] / "packs" / f"{spec.name}_splits.txt").read_text(encoding="utf-8")
        listed = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    rows = []
    for leaf in leaves:
        for path in leaf.images:
            split = leaf.split or listed.get(f"{leaf.folder.name}/{path.name}", "")
            rows.append((path.relative_to(place).as_posix(), index[leaf.folder.name], split))
    if listed and (unlisted := sum(not split for _, _, split in rows)):
        logger.warning("%s: %d images are in no published split", spec.name, unlisted)
    return sorted(rows)
