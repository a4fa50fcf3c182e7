"""From a data set to its feature table: encode its images, or take the committed features."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from cliplib.audit import image_hash, near_duplicate_groups
from cliplib.data import DATASETS, load_dataset
from cliplib.encoder import ClipEncoder
from cliplib.features import FeatureTable
from cliplib.splits import stratified_subset

logger = logging.getLogger(__name__)


def load_features(
    name_or_path: str | os.PathLike[str],
    encoder: ClipEncoder,
    *,
    data: str | os.PathLike[str] | None = None,
    limit: int = 0,
    seed: int = 0,
    errors: dict[str, str] | None = None,
) -> FeatureTable:
    """Encode a data set's images, or take the precomputed features where there are none.

    `name_or_path` and `data` are as in `cliplib.data.load_dataset`. A `limit` that is not 0 draws
    about so many images, by class and split. The table holds the readout "deep", grouped by
    near-duplicates. Unreadable images raise OSError; with `errors` they are noted there by id, and
    left out.
    """
    dataset = load_dataset(name_or_path, data=data)
    if dataset is None:
        table = load_precomputed(os.fspath(name_or_path), encoder)
        return table.select(
            stratified_subset(table.labels, table.splits, limit, seed=seed)
        )
    labels, splits = dataset["label"][:], dataset["split"][:]
    dataset = dataset.select(stratified_subset(labels, splits, limit, seed=seed))
    unreadable: dict[int, str] | None = None if errors is None else {}
    known = dataset.info.dataset_name
    features, hashes = encoder.map(
        dataset["image"], image_hash, errors=unreadable, progress=known
    )
    if unreadable and len(unreadable) == len(dataset):
        raise ValueError(f"None of the {len(dataset)} images of {known!r} can be read.")
    about = {
        "encoder": encoder.name,
        "model_fingerprint": encoder.fingerprint,
        "readout": "deep",
    }
    about |= {"width": str(encoder.dim), "blocks": str(encoder.blocks)}
    about |= {"dataset": known, "source": dataset.info.builder_name}
    labels = np.array(dataset["label"][:], np.int64)
    ids, splits = (np.array(dataset[name][:], np.str_) for name in ("id", "split"))
    classes, groups = (
        tuple(dataset.features["label"].names),
        near_duplicate_groups(hashes),
    )
    table = FeatureTable(features, labels, classes, ids, splits, groups, about)
    if errors is None or not unreadable:
        return table
    errors |= {str(table.ids[row]): reason for row, reason in unreadable.items()}
    return table.select(np.delete(np.arange(len(table)), list(unreadable)))


def load_precomputed(name: str, encoder: ClipEncoder) -> FeatureTable:
    """Load the committed features of a named data set; ValueError for those of another encoder."""
    path = files("cliplib") / "precomputed" / f"{name}.safetensors"
    if name not in DATASETS or not path.is_file():
        raise ValueError(
            f"There are neither images nor precomputed features of {name!r}."
        )
    table = FeatureTable.load(Path(str(path)))
    if table.provenance["model_fingerprint"] != encoder.fingerprint:
        made = f"The precomputed features of {name!r} are those of {table.provenance['encoder']!r}"
        raise ValueError(
            f"{made}, not of {encoder.name!r}: name a folder with the images (data)."
        )
    logger.info("%s: %d precomputed rows of %s", name, len(table), encoder.name)
    return replace(table, provenance={**table.provenance, "source": "precomputed"})
