"""From a data set to its feature table: precomputed, or made from its images."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cliplib.encode.clip import ClipEncoder
from cliplib.images.arrays import Features, Ints
from cliplib.images.data import DATASETS, load_dataset
from cliplib.tables.audit import image_hash, near_duplicate_groups
from cliplib.tables.features import FeatureTable
from cliplib.tables.groups import (
    declared_groups,
    merge_groups,
    number_groups,
    read_text_table,
    rows_of_images,
)
from cliplib.tables.splits import stratified_subset

logger = logging.getLogger(__name__)


class MissingImages(ValueError):
    """There are neither images nor precomputed features of a data set."""


def load_features(
    name_or_path: str | os.PathLike[str],
    encoder: ClipEncoder,
    *,
    data: str | os.PathLike[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    limit: int = 0,
    seed: int = 0,
    errors: dict[str, str] | None = None,
    precomputed: bool = True,
) -> FeatureTable:
    """Return a data set's feature table: precomputed features, or its images encoded.

    The precomputed features of a named set, which come with cliplib, are taken where
    they are the encoder's, even if its images are at hand: so numbers do not depend on
    the machine. Where only some of the images are at hand, the table has only these;
    where one is at hand that is not among the precomputed ones, all at hand are
    encoded.

    Parameters
    ----------
    name_or_path, data
        As in `cliplib.images.data.load_dataset`.
    encoder
        What encodes the images. The table holds its readout "deep".
    groups
        What must never be separated, as in `declared_groups`: a CSV file
        (file, group), or a regular expression. It is merged with near-duplicates.
    limit, seed
        About how many images to draw, as in `stratified_subset`; 0 takes all.
    errors
        A dict that receives why an image cannot be read, by id; it is left out.
    precomputed
        False encodes the images of a named set in any case.

    Raises
    ------
    OSError
        If an image cannot be read, and there is no `errors`.
    MissingImages
        If there are neither images nor precomputed features of this encoder.
    ValueError
        If `groups` does not cover all images.
    """
    name = os.fspath(name_or_path)
    dataset = load_dataset(name_or_path, data=data)  # None without images
    table = None
    if precomputed and _has_precomputed(name, encoder):
        table = _of_these_images(load_precomputed(name, encoder), dataset)
    if table is None and dataset is not None:
        return _encode_dataset(
            dataset, encoder, groups=groups, limit=limit, seed=seed, errors=errors
        )
    if not precomputed:
        raise MissingImages(f"There are no images of {name!r}: name their folder.")
    if table is None:
        # There are neither images nor such features: this raises what is missing.
        table = load_precomputed(name, encoder)
    if groups is not None:
        table = table.with_groups(declared_groups(table.ids.tolist(), groups))
    rows = stratified_subset(table.labels, table.splits, limit, seed=seed)
    return table.select(rows)


def load_available(
    names: Sequence[str], encoder: ClipEncoder, **options: Any
) -> dict[str, FeatureTable]:
    """Return the feature tables of data sets, by name, without those that are missing.

    A data set is missing if there are neither images nor precomputed features of it; a
    warning names each.

    Parameters
    ----------
    names
        Names or folders of the data sets.
    encoder, **options
        Passed to `load_features` for each data set.

    Raises
    ------
    MissingImages
        If all are missing.
    """
    tables: dict[str, FeatureTable] = {}
    for name in names:
        try:
            tables[name] = load_features(name, encoder, **options)
        except MissingImages as error:
            logger.warning("Without %s: %s", name, error)
    if not tables:
        raise MissingImages(f"There are no images of {', '.join(names)}.")
    return tables


def _of_these_images(
    table: FeatureTable, dataset: datasets.Dataset | None
) -> FeatureTable | None:
    """Return the table's rows of a data set's images; None if an image has no row.

    With None for the data set, the whole table is returned.
    """
    if dataset is None:
        return table
    is_here = np.isin(table.ids, dataset["id"][:])
    every_image_has_a_row = is_here.sum() == len(dataset)
    return table.select(is_here) if every_image_has_a_row else None


def _encode_dataset(
    dataset: datasets.Dataset,
    encoder: ClipEncoder,
    *,
    groups: str | os.PathLike[str] | None,
    limit: int,
    seed: int,
    errors: dict[str, str] | None,
) -> FeatureTable:
    """Encode about `limit` of a data set's images, or all for 0, into a feature table.

    Its groups are near-duplicates merged with those that `groups` declares, or that are
    known of a named set. Unreadable images are left out and noted in `errors`, by id;
    if it is None, the first one raises an OSError.
    """
    # Before the images are encoded, which takes long, and for all of them, so that a
    # limit does not hide which images lack a group.
    declared = _declared(dataset["id"][:], groups)
    labels = dataset["label"][:]
    drawn_rows = stratified_subset(labels, dataset["split"][:], limit, seed=seed)
    dataset = dataset.select(drawn_rows)
    name = dataset.info.dataset_name
    errors_by_row: dict[int, str] | None = None if errors is None else {}
    features, hashes = encoder.map(
        dataset["image"], image_hash, errors=errors_by_row, progress=name
    )
    if errors_by_row and len(errors_by_row) == len(dataset):
        raise ValueError(f"None of the {len(dataset)} images of {name!r} can be read.")
    copies = near_duplicate_groups(hashes, cache=encoder.cache)
    table = _as_table(dataset, encoder, features, copies)
    if declared is not None:
        table = table.with_groups(declared[drawn_rows])
    elif name in DATASETS:
        table = _with_known_groups(table, name)
    if errors is None or not errors_by_row:
        return table
    errors |= {str(table.ids[row]): error for row, error in errors_by_row.items()}
    # Only now, because `declared` has a group for every image drawn.
    is_readable = np.full(len(table), True)
    is_readable[list(errors_by_row)] = False
    return table.select(is_readable)


def _as_table(
    dataset: datasets.Dataset, encoder: ClipEncoder, features: Features, copies: Ints
) -> FeatureTable:
    """Return the table of a data set from features (n, d), of the readout "deep".

    Its groups are the `copies`, groups of near-duplicates (n,); it has no folds.
    """
    return FeatureTable(
        features=features,
        labels=np.array(dataset["label"][:], np.int64),
        classes=tuple(dataset.features["label"].names),
        ids=np.array(dataset["id"][:], np.str_),
        splits=np.array(dataset["split"][:], np.str_),
        copies=copies,
        groups=copies,
        folds=np.zeros(len(dataset), np.int64),
        provenance={
            "encoder": encoder.name,
            "model_fingerprint": encoder.fingerprint,
            "readout": "deep",
            "width": str(encoder.width),
            "blocks": str(encoder.blocks),
            "dataset": dataset.info.dataset_name,
            "source": dataset.info.builder_name,
        },
    )


def _declared(
    ids: list[str], groups: str | os.PathLike[str] | None
) -> NDArray[np.str_] | None:
    """Return the name of each image's declared group, (n,); None for groups None."""
    return None if groups is None else np.array(declared_groups(ids, groups), np.str_)


def load_precomputed(name: str, encoder: ClipEncoder) -> FeatureTable:
    """Load the precomputed features of a named data set, with its groups and folds.

    Near-duplicates, patients and published folds come from the text files beside them
    where there are such: ``NAME_groups.csv`` and ``NAME_patients.csv``. Where the names
    of the images tell a group, such as the photograph, `DATASETS` has the pattern.

    Raises
    ------
    MissingImages
        If there are none, or only another encoder's.
    """
    path = _precomputed_path(f"{name}.safetensors")
    if name not in DATASETS or not path.is_file():
        raise MissingImages(
            f"There are neither images nor precomputed features of {name!r}."
        )
    table = FeatureTable.load(path)
    if table.provenance["model_fingerprint"] != encoder.fingerprint:
        made_by = table.provenance["encoder"]
        raise MissingImages(
            f"The precomputed features of {name!r} are those of {made_by!r}, not of "
            f"{encoder.name!r}: name a folder with the images (data)."
        )
    table = with_copies(table, _precomputed_path(f"{name}_groups.csv"))
    table = _with_known_groups(table, name)
    logger.info("%s: %d precomputed rows of %s", name, len(table), encoder.name)
    return replace(table, provenance={**table.provenance, "source": "precomputed"})


def _precomputed_path(file: str) -> Path:
    """Return where a file with precomputed features or groups lies, or would."""
    return Path(str(files("cliplib") / "study" / "precomputed" / file))


def _has_precomputed(name: str, encoder: ClipEncoder) -> bool:
    """Return whether cliplib has this encoder's features of a named data set."""
    path = _precomputed_path(f"{name}.safetensors")
    if name not in DATASETS or not path.is_file():
        return False
    about: Mapping[str, str] = FeatureTable.read_provenance(path)
    return about["model_fingerprint"] == encoder.fingerprint


def with_copies(table: FeatureTable, path: Path) -> FeatureTable:
    """Return a table whose copies and groups both are those of a CSV file (id, group).

    ValueError where the file lacks an image. Without the file, the table is unchanged.
    """
    if not path.is_file():
        return table
    listed = rows_of_images(
        read_text_table(path, ("id", "group")), table.ids.tolist(), path
    )
    copies = number_groups(listed["group"])
    return replace(table, copies=copies, groups=copies)


def _with_known_groups(table: FeatureTable, name: str) -> FeatureTable:
    """Return a named set's table, grouped by copies merged with photograph or patient.

    The photograph is told by the file's name, for sets with a pattern in `DATASETS`;
    patients, and folds, by a file in cliplib. Without either the table is unchanged.
    """
    pattern = DATASETS[name].groups
    if pattern:
        return table.with_groups(declared_groups(table.ids.tolist(), pattern))
    return with_patients(table, _precomputed_path(f"{name}_patients.csv"))


def with_patients(table: FeatureTable, path: Path) -> FeatureTable:
    """Return a table whose groups are copies merged with patients, with folds.

    Parameters
    ----------
    table
        Its `copies` must be those of its images; its other groups are replaced.
    path
        A CSV file (id, patient, fold) of the images whose patients are known; "" is no
        fold, and ValueError for what is no number. Without the file, the table is
        unchanged.

    Returns
    -------
    FeatureTable
        Images without a published fold get that of their group. A group that lies in
        several has none, 0; a warning counts its images.
    """
    if not path.is_file():
        return table
    listed = read_text_table(path, ("id", "patient", "fold")).set_index("id")
    listed = listed.reindex(table.ids, fill_value="")
    # An image of an unknown patient counts as a patient of its own, named "/" and its
    # id, as no patient is.
    own_names = pd.Series("/" + listed.index, listed.index)
    patients = listed["patient"].where(listed["patient"] != "", own_names)
    groups = merge_groups(table.copies, patients)
    folds = pd.to_numeric(listed["fold"].replace("", "0"), errors="coerce")
    if folds.isna().any():
        raise ValueError(f"{path.name} holds a fold that is no number.")
    return replace(table, groups=groups, folds=_folds_of_groups(groups, folds))


def _folds_of_groups(groups: Ints, folds: pd.Series) -> Ints:
    """Return the published fold of each row's group, (n,), 0 where it has none.

    `folds` (n,) are those of rows, 0 where unknown. A group whose rows lie in several
    gets 0 as well; a warning counts the images of such groups.
    """
    by_group = folds.where(folds > 0).reset_index(drop=True).groupby(groups)
    lowest = by_group.transform("min")  # NaN for a group without a fold
    highest = by_group.transform("max")
    in_several = lowest < highest
    if in_several.any():
        logger.warning(
            "%d images are of groups that are in several published folds: these groups "
            "get folds of ours.",
            in_several.sum(),
        )
    return np.asarray(lowest.where(~in_several, 0).fillna(0), np.int64)
