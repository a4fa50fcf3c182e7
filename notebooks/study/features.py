"""Feature tables of the study's data sets: precomputed, or made from their images."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cliplib.data.arrays import Ints
from cliplib.data.declared_groups import declared_groups
from cliplib.data.image import UnreadableImage
from cliplib.data.text_table import read_text_table
from cliplib.encoders.encoder import Encoder
from cliplib.features.encode import encode
from cliplib.features.groups import (
    merge_groups,
    number_groups,
)
from cliplib.features.table import FeatureTable
from study.data import DATASETS, PRECOMPUTED, load_dataset
from study.folds import with_folds
from study.subset import stratified_subset

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger("cliplib.study.features")


class MissingImages(ValueError):
    """There are neither images nor precomputed features of a data set."""


def load_features(
    name_or_path: str | os.PathLike[str],
    encoder: Encoder,
    *,
    data: str | os.PathLike[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    limit: int = 0,
    seed: int = 0,
    errors: dict[str, UnreadableImage] | None = None,
    precomputed: bool = True,
) -> FeatureTable:
    """Return a data set's feature table: precomputed features, or its images encoded.

    The precomputed features of a named set are taken where they are the encoder's, even
    if its images are at hand: so numbers do not depend on the machine. If some of its
    images are at hand, the table has only these. All at hand are encoded where there
    are no such features, or where one of them has none.

    Parameters
    ----------
    name_or_path, data
        The data set and its folder: see `study.data.load_dataset`.
    encoder
        What encodes the images: a `ClipEncoder`, `VisionEncoder` or `FunctionEncoder`.
        The table holds its last readout, "deep" of a CLIP.
    groups
        What must never be separated: a CSV file (file, group) or a regular expression,
        for `declared_groups`. These groups are merged with near-duplicates.
    limit, seed
        About how many images `stratified_subset` draws; 0 takes all.
    errors
        A dict that receives the error of each image that was left out, by id.
    precomputed
        False encodes the images of a named set in any case.

    Raises
    ------
    OSError
        If an image cannot be read, and there is no `errors`.
    MissingImages
        If there are neither images nor precomputed features of this encoder.
    ValueError
        If `groups` does not cover all images, or `seed` is no whole number.
    """
    name = os.fspath(name_or_path)
    dataset = load_dataset(name_or_path, data=data)  # None without images
    table = None
    if precomputed:
        try:
            table = _of_these_images(load_precomputed(name, encoder), dataset)
        except MissingImages:
            if dataset is None:  # else its images are encoded
                raise
    if table is None:
        if dataset is None:
            raise MissingImages(f"There are no images of {name!r}: name their folder.")
        rows = stratified_subset(dataset["label"], dataset["split"], limit, seed=seed)
        some = dataset.select(rows)
        table = encode(some, encoder, groups=groups, errors=errors)
        if groups is None and name in DATASETS:  # and no folder that is called so
            table = _with_known_groups(table, name)
        return table
    if groups is not None:
        table = table.with_groups(declared_groups(table.ids.tolist(), groups))
    rows = stratified_subset(table.labels, table.splits, limit, seed=seed)
    return table.select(rows)


def load_available(
    names: Sequence[str], encoder: Encoder, **options: Any
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
    """Return the table's rows of a data set's images, in the order of the table.

    None if an image has no row. Without a data set the whole table is returned.
    """
    if dataset is None:
        return table
    is_here = np.isin(table.ids, dataset["id"][:])
    every_image_has_a_row = is_here.sum() == len(dataset)
    return table.select(is_here) if every_image_has_a_row else None


def load_precomputed(name: str, encoder: Encoder) -> FeatureTable:
    """Load the precomputed features of a named data set, with its groups and folds.

    Near-duplicates, patients and published folds come from the text files beside them
    where there are such: ``NAME_groups.csv`` and ``NAME_patients.csv``. Where the names
    of the images tell a group, such as the photograph, `DATASETS` has the pattern.

    Raises
    ------
    MissingImages
        If there are none of the set, or only those of another encoder.
    """
    path = _precomputed_path(f"{name}.safetensors")
    if name not in DATASETS or not path.is_file():
        raise MissingImages(
            f"There are neither images nor precomputed features of {name!r}."
        )
    table = FeatureTable.load(path)
    provenance = table.provenance
    if provenance["model_fingerprint"] != encoder.fingerprint:
        raise MissingImages(
            f"The precomputed features of {name!r} are those of "
            f"{provenance['encoder']!r}, not of {encoder.name!r}: name a folder with "
            "the images (data)."
        )
    table = with_copies(table, _precomputed_path(f"{name}_groups.csv"))
    table = _with_known_groups(table, name)
    logger.info("%s: %d precomputed rows of %s", name, len(table), encoder.name)
    return replace(table, provenance={**provenance, "source": "precomputed"})


def _precomputed_path(file: str) -> Path:
    """Return where a file with precomputed features or groups lies, or would."""
    return PRECOMPUTED / file


def with_copies(table: FeatureTable, path: Path) -> FeatureTable:
    """Return a table whose copies, and groups, are those of a CSV file (id, group).

    Near-duplicates share a group in the file. ValueError where it lacks an image.
    Without the file, the table is unchanged.
    """
    if not path.is_file():
        return table
    listed = read_text_table(path, ("id", "group"))
    copies = number_groups(rows_of_images(listed, table.ids.tolist(), path)["group"])
    return replace(table, copies=copies, groups=copies)


def _with_known_groups(table: FeatureTable, name: str) -> FeatureTable:
    """Return a named set's table, with copies merged with photographs or patients.

    Photographs are known by the images' names, of sets that have a pattern for them in
    `DATASETS`; patients, and published folds, by a file in cliplib. Without either the
    table is unchanged.
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
        A table whose groups and folds are replaced; its copies are kept.
    path
        A CSV file (id, patient, fold) of the images whose patients are known; the fold
        is a number from 1, or "", and ValueError for anything else. Without the file,
        the table is unchanged.

    Returns
    -------
    FeatureTable
        Images without a published fold have that of their group. A group that lies in
        several has none, 0; a warning counts its images.
    """
    if not path.is_file():
        return table
    known = read_text_table(path, ("id", "patient", "fold")).set_index("id")
    listed = known.reindex(table.ids, fill_value="")  # a row for each of the images
    # An image of an unknown patient counts as a patient of its own, of a name that no
    # patient has: "/" and its id.
    own_names = pd.Series("/" + listed.index, listed.index)
    patients = listed["patient"].where(listed["patient"] != "", own_names)
    groups = merge_groups(table.copies, patients)
    folds = pd.to_numeric(listed["fold"].replace("", "0"), errors="coerce")
    if folds.isna().any():
        raise ValueError(f"{path.name} holds a fold that is no number.")
    grouped = replace(table, groups=groups)
    return with_folds(grouped, _folds_of_groups(groups, folds))


def _folds_of_groups(groups: Ints, folds: pd.Series) -> Ints:
    """Return the published fold of each row's group, (n,), 0 where it has none.

    `groups` (n,) are group numbers, `folds` (n,) the folds of single rows, 0 where
    unknown. A group whose rows lie in several gets 0 as well; a warning counts the
    images of such groups.
    """
    known_folds = folds.where(folds > 0).reset_index(drop=True)  # NaN where unknown
    by_group = known_folds.groupby(groups)
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


def rows_of_images(table: pd.DataFrame, ids: Sequence[str], path: Path) -> pd.DataFrame:
    """Return a table's rows of some images, in the order of their `ids`.

    Its column ``id`` names no image twice, as `read_text_table` makes sure.

    Raises
    ------
    ValueError
        If the table, read from `path`, lacks one of the `ids`.
    """
    by_id = table.set_index("id")
    if lacking := [image for image in ids if image not in by_id.index]:
        raise ValueError(
            f"{path.name} lacks {len(lacking)} of {len(ids)} images, such as "
            f"{str(lacking[0])!r}: the images are not those that it was written for."
        )
    return by_id.loc[list(ids)].reset_index()
