"""Images from any source, listed in one form.

A source is a folder, a table of files, a data set of the library ``datasets``, or a
data set of the hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import datasets
import numpy as np
import pandas as pd

from cliplib.data.declared_groups import declared_groups
from cliplib.data.folder import USUAL_SPLIT, ListedImage, list_images
from cliplib.data.hub import (
    DownloadError,
    ask_hub,
    explained,
    first_sentence,
    not_there,
)
from cliplib.data.text_table import read_text_table
from cliplib.data.wording import check_printable

# Prefix of the name of a data set of the hub.
HUB = "hf://datasets/"
# Errors of the library ``datasets`` that hide their cause.
LIBRARY_ERRORS = (datasets.exceptions.DatasetsError, FileNotFoundError)
# Suffixes of the files that are taken for tables of files.
TABLES = (".csv", ".tsv", ".txt")

# The types of source that `load_dataset` takes.
Source: TypeAlias = (
    str | os.PathLike[str] | pd.DataFrame | datasets.Dataset | datasets.DatasetDict
)


def load_dataset(
    source: Source,
    *,
    groups: str | os.PathLike[str] | None = None,
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
        them; a table of files, with the columns file and label, and optionally group
        and split, as a DataFrame or as a CSV file, to whose folder paths are relative;
        a ``datasets.Dataset`` or ``DatasetDict``; or a data set of the hub,
        "hf://datasets/OWNER/NAME".
    groups
        Which images must never be separated: a CSV file or a regular expression, as for
        `declared_groups`; by default the groups that the source names.
    image_column, label_column
        Names of the columns of images (or files) and of labels, if they are others.
    split
        The only split to take.
    revision
        Branch, tag or commit of a data set of the hub.

    Returns
    -------
    datasets.Dataset
        Columns ``image`` (``{"path", "bytes"}``), ``label``, ``id`` (unique), ``split``
        ("train", "val", "test" or "") and ``group`` ("" if unknown). A folder's images
        are sorted by id, others keep their order.

    Raises
    ------
    OSError
        If the source does not exist, or cannot be downloaded.
    ValueError
        If the source has no image, no such column or split, an image without a label,
        or splits other than train, val and test of which none is chosen; or if `groups`
        do not cover all images.
    TypeError
        If the source is of another type.
    """
    is_of_hub = isinstance(source, str) and source.startswith(HUB)
    if revision and not is_of_hub:
        raise ValueError("Only a data set of the hub has a revision: leave it out.")
    if is_of_hub:
        source = _load_from_hub(str(source).removeprefix(HUB), revision)
    listed = _list_source(source, image_column, label_column)
    if split:
        listed = _select_split(listed, split)
    if groups is not None:
        declared = declared_groups(listed.metadata["id"].tolist(), groups)
        listed = listed._replace(metadata=listed.metadata.assign(group=declared))
    return _as_dataset(listed)


class _Listed(NamedTuple):
    """The images of a source, and what the source says about them.

    `images` has one column, image. `metadata` has the columns id, label, split and
    group, all texts, and a row for each image. `title` and `source_type` become the
    data set's ``info.dataset_name`` and ``info.builder_name``.
    """

    images: datasets.Dataset
    metadata: pd.DataFrame
    title: str
    source_type: str


def _list_source(source: Source, image_column: str, label_column: str) -> _Listed:
    """List the images of a source by its type; TypeError for any other type."""
    if isinstance(source, str | os.PathLike):
        return _list_path(os.fspath(source), image_column, label_column)
    if isinstance(source, pd.DataFrame):
        return _list_table(source, Path("table"), image_column, label_column)
    if isinstance(source, datasets.Dataset):
        return _list_splits({"": source}, image_column, label_column)
    if isinstance(source, Mapping):
        return _list_splits(source, image_column, label_column)
    raise TypeError(
        f"Images cannot come from a {type(source).__name__}: give a folder, a CSV "
        "file or DataFrame of files and labels, a datasets.Dataset, or "
        "hf://datasets/…."
    )


def _list_path(name: str, image_column: str, label_column: str) -> _Listed:
    """List the images of a CSV file or a folder."""
    if name.lower().endswith(TABLES) and os.path.isfile(name):
        table = read_text_table(Path(name))
        return _list_table(table, Path(name), image_column, label_column)
    root = Path(name).absolute()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{str(root)!r} is no folder: name one with a folder for each class, or a "
            f"data set of the hub as {HUB}OWNER/NAME."
        )
    if image_column or label_column:
        raise ValueError(
            f"{name} is a folder, which has no columns: leave image_column and "
            "label_column out (--image-column, --label-column)."
        )
    listed_images = pd.DataFrame(list_images(root), columns=ListedImage._fields)
    images = _undecoded(listed_images["path"])
    metadata = listed_images.assign(group="")
    return _Listed(images, metadata, root.resolve().name, "folder")


# --- A table of files


def _list_table(
    table: pd.DataFrame, path: Path, image_column: str, label_column: str
) -> _Listed:
    """List the images of a table; its files are relative to the folder of `path`."""
    file_column = image_column or "file"
    label_column = label_column or "label"
    for name in (file_column, label_column):
        if name not in table:
            raise ValueError(
                f"The table {path.name} has no column {name!r}, but "
                f"{', '.join(map(str, table.columns))}: name those of files and labels."
            )
    metadata = pd.DataFrame(
        {
            "id": table[file_column],
            "label": table[label_column],
            "split": table.get("split", ""),
            "group": table.get("group", ""),
        }
    ).map(_as_text)
    rows_without_file = np.flatnonzero(metadata["id"] == "")
    if len(rows_without_file):
        raise ValueError(
            f"The table {path.name} names no file in its row "
            f"{rows_without_file[0] + 1}: give one, or leave the row out."
        )
    files = [path.parent / name for name in metadata["id"]]
    return _Listed(_undecoded(files), metadata, path.name, "table")


def _as_text(value: Any) -> str:
    """Return a value as a text, "" for a missing value."""
    return "" if pd.isna(value) else str(value)


# --- A data set of the library ``datasets``, or of the hub


def _load_from_hub(name: str, revision: str) -> Any:
    """Return the splits of a data set of the hub, downloaded if they are not cached."""
    try:
        return datasets.load_dataset(name, revision=revision or None)
    except ValueError:  # about configurations or files; its text says what to do
        raise
    except Exception as error:  # the library raises errors of many types
        try:
            with explained(f"datasets/{name}", revision):
                ask_hub(name, revision or None, kind="dataset")
                _raise_cause(error, name, revision)
        except DownloadError as reason:
            raise OSError(f"Cannot load {HUB}{name}: {reason}.") from None


def _raise_cause(error: BaseException, name: str, revision: str) -> NoReturn:
    """Raise the error that made the library ``datasets`` fail although the hub answers.

    It is a DownloadError, unless `explained` has a better sentence for it.
    """
    # Raised as well for a data set that the user may not read.
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        raise DownloadError(not_there(f"datasets/{name}", revision))
    while isinstance(error, LIBRARY_ERRORS) and error.__cause__:
        error = error.__cause__
    if isinstance(error, datasets.exceptions.DatasetGenerationCastError):
        # The first paragraph only says that an error occurred, the second says which.
        error = ValueError(str(error).split("\n\n")[1])
    if isinstance(error, (*LIBRARY_ERRORS, RuntimeError, ValueError, ImportError)):
        raise DownloadError(first_sentence(error))
    raise error


def _list_splits(
    splits: Mapping[Any, datasets.Dataset], image_column: str, label_column: str
) -> _Listed:
    """List the images of a data set, given as one data set for each split."""
    if not splits:
        raise ValueError("The data set has no split: give one with images.")
    images = [_images_of(part, image_column) for part in splits.values()]
    metadata_by_split = {
        str(name): _metadata(part, str(name), label_column)
        for name, part in splits.items()
    }
    metadata = pd.concat(metadata_by_split)
    if len(splits) > 1 and metadata["id"].duplicated().any():
        # The same ids occur in several splits.
        metadata["id"] = metadata.index.get_level_values(0) + "/" + metadata["id"]
    info = next(iter(splits.values())).info
    return _Listed(
        datasets.concatenate_datasets(images),
        metadata.reset_index(drop=True),
        info.dataset_name or "dataset",
        info.builder_name or "datasets",
    )


def _images_of(part: datasets.Dataset, image_column: str) -> datasets.Dataset:
    """Return the images of a data set, undecoded, as its only column, "image"."""
    column = _column_of(part, image_column, datasets.Image, "image")
    # The cast comes first: after the selection it fails for a data set on the disk to
    # which another column was added in memory.
    undecoded = part.cast_column(column, datasets.Image(decode=False))
    return undecoded.select_columns([column]).rename_columns({column: "image"})


def _column_of(part: datasets.Dataset, requested: str, kind: type, default: str) -> str:
    """Return the name of the column of images or of labels.

    It is the requested column; else the only one whose features are of a kind; else the
    only one with a default name, "image" or "label", or its plural. ValueError if there
    is no such column, or if there are several.
    """
    names: list[str] = part.column_names
    if requested in names:
        return requested
    of_kind = [name for name in names if isinstance(part.features[name], kind)]
    candidates = of_kind or [name for name in names if name in (default, f"{default}s")]
    if not requested and len(candidates) == 1:
        return candidates[0]
    raise ValueError(
        f"Which column holds the {default}s is not clear among "
        f"{', '.join(names)}: name it by {default}_column (--{default}-column)."
    )


def _metadata(part: datasets.Dataset, split: str, label_column: str) -> pd.DataFrame:
    """Return id, label, split and group of a data set's images, as texts.

    Without a column "id" they are numbered; a column "split" replaces the name `split`.
    """
    column = _column_of(part, label_column, datasets.ClassLabel, "label")
    labels: list[Any] = part[column][:]
    if isinstance(part.features[column], datasets.ClassLabel):
        names = part.features[column].names
        # A missing label is None or -1.
        labels = [None if label in (None, -1) else names[label] for label in labels]
    prefix = f"{split}/" if split else ""
    metadata = pd.DataFrame({"id": [f"{prefix}{row:06}" for row in range(len(part))]})
    metadata = metadata.assign(label=labels, split=split, group="")
    for name in ("id", "split", "group"):
        if name in part.column_names:
            metadata[name] = part[name][:]
    return metadata.map(_as_text)


# --- What all sources become


def _undecoded(paths: Iterable[Path]) -> datasets.Dataset:
    """Return image files as a data set with one column, "image"."""
    rows = [{"path": str(path), "bytes": None} for path in paths]
    features = datasets.Features(image=datasets.Image(decode=False))
    return datasets.Dataset.from_dict({"image": rows}, features=features)


def _select_split(listed: _Listed, split: str) -> _Listed:
    """Keep the images of one split; ValueError if there is none.

    A split may be asked for by any of its usual names, as "validation" for "val". If it
    is none of train, val and test, its images get no split.
    """
    splits = listed.metadata["split"]
    is_selected = splits.map(_usual_name) == _usual_name(split)
    if not is_selected.any():
        names = ", ".join(sorted(set(splits) - {""})) or "none"
        raise ValueError(f"{listed.title} has no split {split!r}, but {names}.")
    images = listed.images.select(np.flatnonzero(is_selected))
    usual_name = USUAL_SPLIT.get(split.lower(), "")
    metadata = listed.metadata[is_selected].assign(split=usual_name)
    return listed._replace(images=images, metadata=metadata)


def _usual_name(split: str) -> str:
    """Return "train", "val" or "test" for a name of this split, any other unchanged."""
    return USUAL_SPLIT.get(split.lower(), split)


def _as_dataset(listed: _Listed) -> datasets.Dataset:
    """Return images and their metadata as one data set, after checks."""
    _check_metadata(listed.metadata, listed.title)
    text = datasets.Value("string")
    label = datasets.ClassLabel(names=sorted(set(listed.metadata["label"])))
    features = datasets.Features(label=label, id=text, split=text, group=text)
    columns = listed.metadata[[*features]].to_dict("list")
    columns["split"] = [_usual_name(split) for split in columns["split"]]
    metadata = datasets.Dataset.from_dict(columns, features)
    joined = datasets.concatenate_datasets([listed.images, metadata], axis=1)
    joined.info.dataset_name = listed.title
    joined.info.builder_name = listed.source_type
    return joined


def _check_metadata(metadata: pd.DataFrame, title: str) -> None:
    """Raise ValueError if a source's metadata cannot become a data set.

    There must be an image. Each needs an id of its own and a label, and a group if
    another one has a group. Splits must have a usual name, and all names must be
    printable.
    """
    if metadata.empty:
        raise ValueError(f"{title} holds no image: name files and their labels in it.")
    ids = metadata["id"]
    check_printable([*ids, *metadata["label"], *metadata["group"]])
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise ValueError(f"{title} names {repeated.iloc[0]} twice: leave one out.")
    unlabelled = ids[metadata["label"] == ""]
    if len(unlabelled):
        raise ValueError(
            f"{unlabelled.iloc[0]} of {title} has no label: leave it out, or name a "
            "split whose images have labels."
        )
    ungrouped = ids[metadata["group"] == ""]
    if 0 < len(ungrouped) < len(metadata):
        raise ValueError(
            f"{len(ungrouped)} of {len(metadata)} images of {title} have no group, such"
            f" as {ungrouped.iloc[0]}: give each of them one of its own, or leave the "
            "column out."
        )
    splits = sorted(set(metadata["split"]) - {""})
    unusual = [name for name in splits if name.lower() not in USUAL_SPLIT]
    if unusual:
        raise ValueError(
            f"{title} has a split {unusual[0]!r}, which is none of "
            f"{', '.join(USUAL_SPLIT)}: rename it, or name the only split to take."
        )
