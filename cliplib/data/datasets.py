"""Images from any source, listed as one kind of data set.

A folder, a table of files, a data set of the library ``datasets``, or one of the hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import datasets
import numpy as np
import pandas as pd
from datasets.exceptions import (
    DatasetGenerationCastError,
    DatasetNotFoundError,
    DatasetsError,
)

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

HUB = "hf://datasets/"
# Errors by which the library ``datasets`` hides what failed.
LIBRARY_ERRORS = (DatasetsError, FileNotFoundError)
# Suffixes of tables of files.
TABLES = (".csv", ".tsv", ".txt")

# The kinds of source that `load_dataset` takes.
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
        them; a table of files, as a DataFrame or a CSV file beside which its paths
        begin, with the columns file and label, and group and split where they are
        known; a ``datasets.Dataset`` or ``DatasetDict``; or a data set of the hub,
        "hf://datasets/OWNER/NAME".
    groups
        What must never be separated: a CSV file (file, group) or a regular expression,
        for `declared_groups`; by default what the source says.
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
        If it has no image, no such column or split, or an image without a label; if all
        of it is taken, and has splits of other names than train, val and test; or if
        `groups` do not cover all images.
    TypeError
        If it is something else.
    """
    is_of_hub = isinstance(source, str) and source.startswith(HUB)
    if revision and not is_of_hub:
        raise ValueError("Only a data set of the hub has a revision: leave it out.")
    if is_of_hub:
        source = _load_from_hub(str(source).removeprefix(HUB), revision)
    listed = _list(source, image_column, label_column)
    if split:
        listed = _only_split(listed, split)
    if groups is not None:
        declared = declared_groups(listed.known["id"].tolist(), groups)
        listed = listed._replace(known=listed.known.assign(group=declared))
    return _as_one(listed)


class _Listed(NamedTuple):
    """The images of a source, and what it says of them.

    `images` has the column image alone, `known` the texts id, label, split and group of
    each. `title` and `source` become ``info.dataset_name`` and ``info.builder_name``.
    """

    images: datasets.Dataset
    known: pd.DataFrame
    title: str
    source: str


def _list(source: Source, image_column: str, label_column: str) -> _Listed:
    """List the images of a source by its kind; TypeError for what is none."""
    if isinstance(source, str | os.PathLike):
        return _of_path(os.fspath(source), image_column, label_column)
    if isinstance(source, pd.DataFrame):
        return _of_table(source, Path("table"), image_column, label_column)
    if isinstance(source, datasets.Dataset):
        return _of_splits({"": source}, image_column, label_column)
    if isinstance(source, Mapping):
        return _of_splits(source, image_column, label_column)
    raise TypeError(
        f"Images cannot come from a {type(source).__name__}: give a folder, a CSV "
        "file or DataFrame of files and labels, a datasets.Dataset, or "
        "hf://datasets/…."
    )


def _of_path(name: str, image_column: str, label_column: str) -> _Listed:
    """List the images of a CSV file or a folder."""
    if name.lower().endswith(TABLES) and os.path.isfile(name):
        table = read_text_table(Path(name))
        return _of_table(table, Path(name), image_column, label_column)
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
    # What is known of image files is what their paths say.
    known = pd.DataFrame(list_images(root), columns=ListedImage._fields)
    images = _undecoded(known["path"])
    return _Listed(images, known.assign(group=""), root.resolve().name, "folder")


# --- A table of files


def _of_table(
    table: pd.DataFrame, place: Path, image_column: str, label_column: str
) -> _Listed:
    """List the images of a table of files and labels; paths begin beside `place`."""
    file = image_column or "file"
    label = label_column or "label"
    for name in (file, label):
        if name not in table:
            raise ValueError(
                f"The table {place.name} has no column {name!r}, but "
                f"{', '.join(map(str, table.columns))}: name those of files and labels."
            )
    known = pd.DataFrame(
        {
            "id": table[file],
            "label": table[label],
            "split": table.get("split", ""),
            "group": table.get("group", ""),
        }
    )
    known = known.map(_text)
    unnamed = np.flatnonzero(known["id"] == "")
    if len(unnamed):
        raise ValueError(
            f"The table {place.name} names no file in its row {unnamed[0] + 1}: give "
            "one, or leave the row out."
        )
    paths = [place.parent / name for name in known["id"]]
    return _Listed(_undecoded(paths), known, place.name, "table")


def _text(value: Any) -> str:
    """Return a value as a text, "" for a missing one."""
    return "" if pd.isna(value) else str(value)


# --- A data set of the library ``datasets``, or of the hub


def _load_from_hub(name: str, revision: str) -> Any:
    """Return a data set of the hub by its splits, downloaded if it is not cached."""
    try:
        return datasets.load_dataset(name, revision=revision or None)
    except ValueError:  # of its configurations, or its files
        raise
    except Exception as error:  # the library raises nearly anything
        try:
            with explained(f"datasets/{name}", revision):
                ask_hub(name, revision or None, kind="dataset")
                _raise_cause(error, name, revision)
        except DownloadError as reason:
            raise OSError(f"Cannot load {HUB}{name}: {reason}.") from None


def _raise_cause(error: BaseException, name: str, revision: str) -> NoReturn:
    """Raise what made the library ``datasets`` fail, though the hub answers."""
    if isinstance(error, DatasetNotFoundError):  # or one that is not for the user
        raise DownloadError(not_there(f"datasets/{name}", revision))
    while isinstance(error, LIBRARY_ERRORS) and error.__cause__:
        error = error.__cause__
    if isinstance(error, DatasetGenerationCastError):
        # Its first paragraph only says that an error occurred, its second says which.
        error = DatasetsError(str(error).split("\n\n")[1])
    if isinstance(error, (*LIBRARY_ERRORS, RuntimeError, ValueError, ImportError)):
        raise DownloadError(first_sentence(error) or type(error).__name__)
    raise error


def _of_splits(
    parts: Mapping[Any, datasets.Dataset], image_column: str, label_column: str
) -> _Listed:
    """List the images of one data set, by the names of its splits."""
    if not parts:
        raise ValueError("The data set has no split: give one with images.")
    images = [_images_of(part, image_column) for part in parts.values()]
    known_by_split = {
        str(name): _known_of(part, str(name), label_column)
        for name, part in parts.items()
    }
    known = pd.concat(known_by_split)
    if len(parts) > 1 and known["id"].duplicated().any():  # each split counts anew
        known["id"] = known.index.get_level_values(0) + "/" + known["id"]
    about = next(iter(parts.values())).info
    return _Listed(
        datasets.concatenate_datasets(images),
        known.reset_index(drop=True),
        about.dataset_name or "dataset",
        about.builder_name or "datasets",
    )


def _images_of(part: datasets.Dataset, wanted: str) -> datasets.Dataset:
    """Return the column of images of a data set alone, as "image", undecoded."""
    column = _column(part, wanted, datasets.Image, "image")
    # In this order: a cast after the selection fails for data on the disk of which some
    # other column was added in memory.
    undecoded = part.cast_column(column, datasets.Image(decode=False))
    return undecoded.select_columns([column]).rename_columns({column: "image"})


def _column(part: datasets.Dataset, wanted: str, kind: type, what: str) -> str:
    """Return the column of images or labels: the one wanted, or the only one that fits.

    That is one of a kind of feature, or else one called `what`, such as "label".
    ValueError if there is none, or if there are several.
    """
    if wanted in part.column_names:
        return wanted
    names: list[str] = part.column_names
    of_kind = [name for name in names if isinstance(part.features[name], kind)]
    fitting = of_kind or [name for name in names if name in (what, f"{what}s")]
    if not wanted and len(fitting) == 1:
        return fitting[0]
    raise ValueError(
        f"Which column holds the {what}s is not clear among "
        f"{', '.join(part.column_names)}: name it by {what}_column "
        f"(--{what}-column)."
    )


def _known_of(part: datasets.Dataset, split: str, wanted: str) -> pd.DataFrame:
    """Return what a data set knows of its images, as texts: id, label, split, group.

    `split` is the name of the whole; a column "split" goes before it.
    """
    column = _column(part, wanted, datasets.ClassLabel, "label")
    labels: list[Any] = part[column][:]
    if isinstance(part.features[column], datasets.ClassLabel):
        names = part.features[column].names
        labels = [None if label in (None, -1) else names[label] for label in labels]
    prefix = f"{split}/" if split else ""
    known = pd.DataFrame({"id": [f"{prefix}{row:06}" for row in range(len(part))]})
    known = known.assign(label=labels, split=split, group="")
    for name in ("id", "split", "group"):
        if name in part.column_names:
            known[name] = part[name][:]
    return known.map(_text)


# --- What all sources become


def _undecoded(paths: Iterable[Path]) -> datasets.Dataset:
    """Return files as a data set of one column, "image"."""
    rows = [{"path": str(path), "bytes": None} for path in paths]
    features = datasets.Features(image=datasets.Image(decode=False))
    return datasets.Dataset.from_dict({"image": rows}, features=features)


def _only_split(listed: _Listed, split: str) -> _Listed:
    """Keep the images of one split, called by its own name or a usual one.

    They are of no split if it is another than train, val and test.
    """
    splits = listed.known["split"]
    is_asked = splits.map(_usual_name) == _usual_name(split)
    if not is_asked.any():
        names = ", ".join(sorted(set(splits) - {""})) or "none"
        raise ValueError(f"{listed.title} has no split {split!r}, but {names}.")
    images = listed.images.select(np.flatnonzero(is_asked))
    known = listed.known[is_asked].assign(split=USUAL_SPLIT.get(split.lower(), ""))
    return listed._replace(images=images, known=known)


def _usual_name(split: str) -> str:
    """Return "train", "val" or "test" for another name of these splits; else itself."""
    return USUAL_SPLIT.get(split.lower(), split)


def _as_one(listed: _Listed) -> datasets.Dataset:
    """Return images, with what is known of them, as one data set."""
    _check_known(listed.known, listed.title)
    text = datasets.Value("string")
    label = datasets.ClassLabel(names=sorted(set(listed.known["label"])))
    features = datasets.Features(label=label, id=text, split=text, group=text)
    known = listed.known.assign(split=listed.known["split"].map(_usual_name))
    columns = datasets.Dataset.from_dict(known[[*features]].to_dict("list"), features)
    joined = datasets.concatenate_datasets([listed.images, columns], axis=1)
    joined.info.dataset_name = listed.title
    joined.info.builder_name = listed.source
    return joined


def _check_known(known: pd.DataFrame, title: str) -> None:
    """Raise ValueError if no data set can be made of images and what is known of them.

    Each image needs a name of its own and a label; a group where others have one; and
    no split, or one of the usual. All names must be such as can be shown.
    """
    if known.empty:
        raise ValueError(f"{title} holds no image: name files and their labels in it.")
    ids = known["id"]
    check_printable([*ids, *known["label"], *known["group"]])
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise ValueError(f"{title} names {repeated.iloc[0]} twice: leave one out.")
    unlabelled = ids[known["label"] == ""]
    if len(unlabelled):
        raise ValueError(
            f"{unlabelled.iloc[0]} of {title} has no label: leave it out, or name a "
            "split whose images have labels."
        )
    ungrouped = ids[known["group"] == ""]
    if 0 < len(ungrouped) < len(known):
        raise ValueError(
            f"{len(ungrouped)} of {len(known)} images of {title} have no group, such as"
            f" {ungrouped.iloc[0]}: give each of them one of its own, or leave the "
            "column out."
        )
    splits = sorted(set(known["split"]) - {""})
    others = [name for name in splits if name.lower() not in USUAL_SPLIT]
    if others:
        raise ValueError(
            f"{title} has a split {others[0]!r}, which is none of "
            f"{', '.join(USUAL_SPLIT)}: rename it, or name the only split to take."
        )
