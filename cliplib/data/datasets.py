"""One door for images from anywhere: what comes in leaves it as one kind of data set.

A folder, a table of files, a data set of the library ``datasets``, or one of the hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import pandas as pd

from cliplib.data.arrays import Bools
from cliplib.data.folder import SPLITS, ListedImage, existing_folder, list_images
from cliplib.data.text_table import read_text_table

if TYPE_CHECKING:
    import datasets

HUB = "hf://datasets/"
TABLES = (".csv", ".tsv", ".txt")  # suffixes of tables of files

SOURCE_OPTIONS = ("image_column", "label_column", "split", "revision")
"""What `load_dataset` may be told of a source."""

Source: TypeAlias = Union[
    str, os.PathLike[str], pd.DataFrame, "datasets.Dataset", "datasets.DatasetDict"
]
"""What `load_dataset` takes."""


@dataclass(frozen=True)
class Columns:
    """Which part of a source is meant; "" is what the source itself says.

    Attributes
    ----------
    image, label
        The columns of images and labels, of a data set; or of files and labels, of a
        table.
    split
        The only split to take, such as "train".
    revision
        Branch, tag or commit of a data set of the hub.
    """

    image: str = ""
    label: str = ""
    split: str = ""
    revision: str = ""


def load_dataset(
    source: Source,
    *,
    image_column: str = "",
    label_column: str = "",
    split: str = "",
    revision: str = "",
) -> datasets.Dataset:
    """List the images of any source, undecoded.

    Parameters
    ----------
    source
        A folder of class folders, with or without train, val and test folders above
        them; a table of files, as a DataFrame or a CSV file beside which its paths
        begin, with the columns file and label, and group and split where they are
        known; a ``datasets.Dataset`` or ``DatasetDict``; or a data set of the hub,
        "hf://datasets/OWNER/NAME".
    image_column, label_column
        Other names of the columns of images (or of files) and of labels.
    split
        The only split to take.
    revision
        Of a data set of the hub: a branch, a tag or a commit.

    Returns
    -------
    datasets.Dataset
        Columns ``image`` (``{"path", "bytes"}``), ``label``, ``id`` (unique), ``split``
        ("train", "val", "test" or "") and ``group`` ("" where it is not known). A
        folder's images are sorted by id, others keep their order.

    Raises
    ------
    OSError
        If the source is not there, or the hub does not give it.
    ValueError
        If it has no such column or split, or an image without a label.
    TypeError
        If it is something else.
    """
    columns = Columns(image_column, label_column, split, revision)
    if isinstance(source, pd.DataFrame):
        return _of_table(source, Path(), "table", columns)
    if isinstance(source, str | os.PathLike):
        return _of_place(os.fspath(source), columns)
    import datasets

    if isinstance(source, datasets.DatasetDict):
        return _of_splits(source, columns)
    if isinstance(source, datasets.Dataset):
        return _of_splits({columns.split: source}, columns)
    raise TypeError(
        f"Images cannot come from a {type(source).__name__}: give a folder, a CSV file "
        "or DataFrame of files and labels, a datasets.Dataset, or hf://datasets/…."
    )


def _of_place(name: str, columns: Columns) -> datasets.Dataset:
    """Return the images of a folder, a CSV file or a data set of the hub."""
    if name.startswith(HUB):
        return _of_splits(_load_from_hub(name.removeprefix(HUB), columns), columns)
    if name.lower().endswith(TABLES) and os.path.isfile(name):
        table = read_text_table(Path(name))
        return _of_table(table, Path(name).parent, Path(name).name, columns)
    _refuse(columns, f"The folder {name}", "image", "label", "revision")
    root = existing_folder(name)
    images = [
        image
        for image in list_images(root)
        if columns.split in ("", image.split, Path(image.id).parts[0])
    ]
    if not images:
        raise ValueError(f"The folder {name} has no images of a split {columns.split}.")
    return as_dataset(images, root.resolve().name, "folder")


def _refuse(columns: Columns, what: str, *names: str) -> None:
    """Raise ValueError if a setting is given that a source, `what`, does not have."""
    for name in names:
        if value := getattr(columns, name):
            raise ValueError(f"{what} has no {name} {value!r}: leave it out.")


def check_classes(dataset: datasets.Dataset, name: str) -> None:
    """Raise ValueError for images of fewer than two classes; `name` is their source."""
    classes = dataset.features["label"].names
    if len(classes) < 2:
        raise ValueError(
            f"{name} needs images of two classes or more, each in a folder of its "
            f"own; there is only {classes[0]!r}."
        )


def default_phrases(classes: Sequence[str]) -> dict[str, str]:
    """Return a phrase for each class: its name, with spaces for "_" and "-"."""
    return {name: name.replace("_", " ").replace("-", " ") for name in classes}


# --- A table of files


def _of_table(
    table: pd.DataFrame, folder: Path, title: str, columns: Columns
) -> datasets.Dataset:
    """Return the images of a table of files and labels; paths begin at `folder`."""
    _refuse(columns, f"The table {title}", "revision")
    file = columns.image or "file"
    label = columns.label or "label"
    for name in (file, label):
        if name not in table:
            raise ValueError(
                f"The table {title} has no column {name!r}, but "
                f"{', '.join(map(str, table.columns))}: name those of files and labels."
            )
    missing = np.flatnonzero(table[file].isna())
    if len(missing):
        raise ValueError(
            f"The table {title} names no {file} in row {missing[0] + 1}: fill it in, "
            "or leave the row out."
        )
    known = pd.DataFrame(
        {
            "path": [folder / name for name in table[file]],
            "id": [Path(name).as_posix() for name in table[file]],
            "label": _texts(table[label]),
            "split": _split_names(table["split"]) if "split" in table else "",
            "group": _texts(table["group"]) if "group" in table else "",
        }
    )
    if columns.split:
        known = known[_is_of_split(table, columns.split)]
        if known.empty:
            raise ValueError(f"The table {title} has no split {columns.split!r}.")
    for path in known["path"]:
        if not path.is_file():
            raise FileNotFoundError(f"{path}, which {title} names, is no file.")
    return _with_known(_undecoded(known["path"]), known, title, "table")


def _is_of_split(table: pd.DataFrame, split: str) -> Bools:
    """Return which rows, (n,), are of a split, by its own name or a usual one."""
    written = _texts(table["split"]) if "split" in table else [""] * len(table)
    usual = _split_name(split)

    def is_asked(name: str) -> bool:
        return name == split or (usual != "" and _split_name(name) == usual)

    return np.array([is_asked(name) for name in written], bool)


def _texts(values: Sequence[Any] | pd.Series) -> list[str]:
    """Return values as texts, "" for a missing one."""
    return ["" if pd.isna(value) else str(value) for value in values]


def _split_name(name: str) -> str:
    """Return "train", "val", "test", or "" for a split that is none of them."""
    return SPLITS.get(name.lower(), "")


def _split_names(values: pd.Series) -> list[str]:
    return [_split_name(name) for name in _texts(values)]


# --- A data set of the library ``datasets``, or of the hub


def _load_from_hub(name: str, columns: Columns) -> Mapping[str, datasets.Dataset]:
    """Return a data set of the hub by its splits, downloaded if it is not cached."""
    import datasets

    from cliplib.data.hub import explained, first_sentence  # slow as well

    try:
        with explained(f"datasets/{name}", columns.revision):
            try:
                loaded: Mapping[str, datasets.Dataset] = datasets.load_dataset(
                    name, revision=columns.revision or None
                )
                return loaded
            except ValueError as error:
                if type(error) is not ValueError:  # of the name, or an answer
                    raise
                fault = first_sentence(error)  # of its configurations, or its files
    except OSError as error:
        raise OSError(f"Cannot load {HUB}{name}: {error}.") from None
    raise ValueError(
        f"{HUB}{name}: {fault}. In Python, give what datasets.load_dataset returns."
    )


def _of_splits(
    splits: Mapping[str, datasets.Dataset], columns: Columns
) -> datasets.Dataset:
    """Return the images of one data set, by the names of its splits, as one."""
    import datasets

    if columns.split:
        if columns.split not in splits:
            raise ValueError(
                f"There is no split {columns.split!r}, but {', '.join(splits)}."
            )
        splits = {columns.split: splits[columns.split]}
    images = [_images_of(part, columns) for part in splits.values()]
    known = [_known_of(part, name, columns) for name, part in splits.items()]
    about = next(iter(splits.values())).info
    return _with_known(
        datasets.concatenate_datasets(images),
        pd.concat(known, ignore_index=True),
        about.dataset_name or "dataset",
        about.builder_name or "datasets",
    )


def _images_of(part: datasets.Dataset, columns: Columns) -> datasets.Dataset:
    """Return the column of images of a data set alone, as "image", undecoded."""
    import datasets

    of_images = _columns_of(part, datasets.Image)
    column = _chosen(part, columns.image, of_images, "image")
    images = part.select_columns([column])
    if column != "image":
        images = images.rename_column(column, "image")
    return images.cast_column("image", datasets.Image(decode=False))


def _columns_of(part: datasets.Dataset, kind: type) -> list[str]:
    """Return the names of the columns of a kind."""
    return [
        name for name, feature in part.features.items() if isinstance(feature, kind)
    ]


def _chosen(
    part: datasets.Dataset, wanted: str, candidates: Sequence[str], what: str
) -> str:
    """Return the column of images or labels: the one wanted, or the only candidate.

    ValueError if there is no such column, or if there are several candidates.
    """
    if wanted in part.column_names:
        return wanted
    if not wanted and len(candidates) == 1:
        return candidates[0]
    raise ValueError(
        f"Which column holds the {what}s is not clear among "
        f"{', '.join(part.column_names)}: name it by {what}_column "
        f"(--{what}-column)."
    )


def _known_of(part: datasets.Dataset, split: str, columns: Columns) -> pd.DataFrame:
    """Return what a data set knows of its images, as texts: id, label, split, group.

    `split` is the name of the whole; a column "split" goes before it.
    """
    import datasets

    of_labels = _columns_of(part, datasets.ClassLabel) or [
        name for name in ("label", "labels") if name in part.column_names
    ]
    column = _chosen(part, columns.label, of_labels, "label")
    labels: list[Any] = part[column][:]
    if isinstance(part.features[column], datasets.ClassLabel):
        names = part.features[column].names
        labels = [None if label in (None, -1) else names[label] for label in labels]
    prefix = f"{split}/" if split else ""
    known = {
        "id": [f"{prefix}{row:06}" for row in range(len(part))],
        "label": _texts(labels),
        "split": [split] * len(part),
        "group": [""] * len(part),
    }
    for name in ("id", "split", "group"):
        if name in part.column_names:
            known[name] = _texts(part[name][:])
    return pd.DataFrame({**known, "split": _split_names(known["split"])}, dtype=str)


# --- What leaves the door


def as_dataset(
    images: Sequence[ListedImage],
    title: str,
    source: str,
    classes: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Return image files as a data set; the rest is as for `_with_known`."""
    known = pd.DataFrame(images, columns=ListedImage._fields).assign(group="")
    return _with_known(_undecoded(known["path"]), known, title, source, classes)


def _undecoded(paths: Iterable[Path]) -> datasets.Dataset:
    """Return files as a data set of one column, "image"."""
    import datasets  # takes seconds, which a folder without images shall not cost

    rows = [{"path": str(path), "bytes": None} for path in paths]
    features = datasets.Features(image=datasets.Image(decode=False))
    return datasets.Dataset.from_dict({"image": rows}, features=features)


def _with_known(
    images: datasets.Dataset,
    known: pd.DataFrame,
    title: str,
    source: str,
    classes: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Return a data set of the column image with what is known of its n images.

    Parameters
    ----------
    known
        The texts id, label, split and group of each image.
    title, source
        Become ``info.dataset_name`` and ``info.builder_name``.
    classes
        All classes; by default those of the labels, sorted.
    """
    import datasets

    repeated = known["id"][known["id"].duplicated()]
    if len(repeated):
        raise ValueError(f"{title} names {repeated.iloc[0]} twice: leave one out.")
    unlabelled = known["id"][known["label"] == ""]
    if len(unlabelled):
        raise ValueError(
            f"{unlabelled.iloc[0]} of {title} has no label: leave it out, or name a "
            "split whose images have labels."
        )
    names = list(classes or sorted(set(known["label"])))
    numbers = known["label"].map({name: index for index, name in enumerate(names)})
    listed = images.add_column(
        "label", numbers.to_numpy(np.int64), feature=datasets.ClassLabel(names=names)
    )
    for column in ("id", "split", "group"):
        text = datasets.Value("string")
        listed = listed.add_column(column, list(known[column]), feature=text)
    listed.info.dataset_name = title
    listed.info.builder_name = source
    return listed
