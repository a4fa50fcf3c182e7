"""Embedded feature tables: a frozen encoder's features stand for the images, so everything after them runs offline.

``python -m cliplib.packs DATA`` makes them anew from real images.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliplib.data import DATASETS, dataset_fingerprint, load_dataset
from cliplib.errors import CliplibError, path_text
from cliplib.table import FeatureTable, stratified_subset

if TYPE_CHECKING:
    import datasets

    from cliplib.encoder import ClipEncoder
    from cliplib.store import FeatureStore

__all__ = ["load_features", "load_pack", "near_duplicate_groups", "save_pack"]

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent


def load_features(
    name_or_path: str | os.PathLike[str],
    encoder: ClipEncoder,
    *,
    data: str | os.PathLike[str] | None = None,
    store: FeatureStore | None = None,
    limit: int = 0,
    seed: int = 0,
    groups: bool = False,
) -> FeatureTable:
    """Pooled, unnormalised features of a data set: of its images if there are any, else from its pack.

    Parameters
    ----------
    name_or_path, data
        See :func:`cliplib.data.load_dataset`.
    encoder : ClipEncoder
        Encodes the images; must be the one that made the pack, if it comes to that.
    store : FeatureStore, optional
        Keeps the features of images between runs.
    limit, seed : int
        If `limit` is not 0, about so many rows of every class and split (:func:`cliplib.table.stratified_subset`);
        images and pack give the same ones.
    groups : bool
        Find near-duplicates among the images. A pack holds the groups in any case.

    Returns
    -------
    FeatureTable
        Its provenance says under "source" which it was: "folder", "hub" or "pack".

    Raises
    ------
    CliplibError
        Neither images nor a pack that fits; or an error of :func:`load_dataset`.
    """
    if not hasattr(encoder, "model_fingerprint"):
        raise CliplibError(f"encoder must be a ClipEncoder, such as ClipEncoder.from_pretrained(), not {encoder!r}.")
    dataset = load_dataset(name_or_path, data=data)
    if dataset is None:
        return load_pack(os.fspath(name_or_path), encoder).subset(limit, seed=seed)
    dataset = dataset.select(stratified_subset(dataset["label"], dataset["split"], limit, seed=seed))
    table: FeatureTable = encoder.table(dataset, kind="pooled", store=store)
    about = {
        "dataset": dataset.info.dataset_name,
        "dataset_fingerprint": table.provenance.get("dataset_fingerprint") or dataset_fingerprint(dataset),
        "model_fingerprint": encoder.model_fingerprint(),
        "source": dataset.info.builder_name,
    }
    table = table.with_features(table.features, **about)
    return table.with_groups(near_duplicate_groups(dataset)) if groups else table


def load_pack(name: str, encoder: ClipEncoder) -> FeatureTable:
    """Embedded features of a named data set.

    Parameters
    ----------
    name : str
        A key of :data:`cliplib.data.DATASETS`.
    encoder : ClipEncoder
        The encoder in use: a pack of another one is refused.

    Returns
    -------
    FeatureTable
        Pooled and unnormalised; float32, of numbers kept as float16.

    Raises
    ------
    CliplibError
        No such pack, a damaged one, or one that another model or another preprocessing made.
    """
    path = FOLDER / f"{path_text(name, 'The name of a pack')}.safetensors"
    if name not in DATASETS or not path.is_file():
        raise CliplibError(f"There are no images and no embedded features of {name!r}: give images with DATA=<folder>.")
    table = FeatureTable.load(path)
    made, used = table.provenance.get("model_fingerprint", "unknown"), encoder.model_fingerprint()
    if made != used:
        maker = table.provenance.get("encoder", "unknown")
        raise CliplibError(
            f"The embedded features of {name!r} are those of the encoder {maker!r} (fingerprint {made[:12]}), not of "
            f"{encoder.name!r} ({used[:12]}): give the images with DATA=<folder>, or use the embedded model."
        )
    logger.info("%s: %s rows from the embedded pack of %s", name, f"{len(table):,}", encoder.name)
    return table.with_features(table.features, source="pack")


def save_pack(name: str, table: FeatureTable, encoder: ClipEncoder) -> Path:
    """Keep a table as the pack of a named data set.

    Parameters
    ----------
    name : str
        A key of :data:`cliplib.data.DATASETS`.
    table : FeatureTable
        Pooled and unnormalised features by `encoder`, in full precision; kept as float16.
    encoder : ClipEncoder
        Whose model and preprocessing the pack will be checked against.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    CliplibError
        An unknown name, other classes than declared, or another width than the encoder's pooled features have.
    """
    if name not in DATASETS or table.classes != DATASETS[name].classes:
        raise CliplibError(f"A pack is of a named data set ({', '.join(DATASETS)}) with its classes, unlike {name!r}.")
    if table.features.shape[1] != encoder.dim:
        raise CliplibError(f"A pack holds pooled features, {encoder.dim} wide here, not {table.features.shape[1]}.")
    about = {"encoder": encoder.name, "model_fingerprint": encoder.model_fingerprint(), "dataset": name}
    path = FOLDER / f"{name}.safetensors"
    table.with_features(table.features, **about, stored="float16").save(path, dtype="float16")
    logger.info("%s: %s rows kept in %s (%.1f MB)", name, f"{len(table):,}", path.name, path.stat().st_size / 1e6)
    return path


def near_duplicate_groups(dataset: datasets.Dataset) -> NDArray[np.int64]:
    """Cluster number of each row, (n,) int64, as :func:`cliplib.audit.audit` finds them."""
    from cliplib.audit import audit  # only here: it looks at every pixel, which packs spare their users

    return np.asarray(audit(dataset).groups, dtype=np.int64)
