"""Features computed on several machines with Ray Data, in calls that can be resumed."""

from __future__ import annotations

import json
import logging
import math
import os
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa

from cliplib.data.datasets import Source, load_dataset
from cliplib.data.image import UnreadableImage
from cliplib.data.wording import counted
from cliplib.encoders.encoder import Encoder
from cliplib.encoders.vision import load_encoder
from cliplib.features.duplicates import near_duplicate_groups
from cliplib.features.groups import merge_groups
from cliplib.features.hashes import image_hash
from cliplib.features.storage import Fields

logger = logging.getLogger(__name__)

# Number of images that are encoded together, and written to one file.
IMAGES_A_FILE = 256


class EncodingActor:
    """A Ray actor that loads the encoder once, then encodes batch by batch.

    Parameters
    ----------
    dataset
        The images, as `load_dataset` returns them.
    model
        A model for `load_encoder`.
    readout
        One of the encoder's readouts, or "" for the last.
    """

    def __init__(self, dataset: datasets.Dataset, model: str, readout: str) -> None:
        self.dataset = dataset
        self.encoder = load_encoder(model)
        self.encoder.cache = None  # features are kept in the output alone
        readout = readout or self.encoder.readouts[-1]
        self.columns = self.encoder.columns_of(readout)
        self.made_by = made_by(self.encoder, readout)

    def __call__(self, batch: dict[str, Any]) -> pd.DataFrame:
        """Encode the images whose row numbers are the batch's column id.

        Returns the columns that `encode_with_ray` writes, with a row for each image. An
        image that cannot be read has an error, and features of 0.
        """
        rows = self.dataset.select(batch["id"])
        class_names = rows.features["label"].names
        errors: dict[int, UnreadableImage] = {}
        features, hashes = self.encoder.map(rows["image"], image_hash, errors=errors)
        return pd.DataFrame(
            {
                "id": rows["id"][:],
                "label": [class_names[label] for label in rows["label"]],
                "split": rows["split"][:],
                "group": rows["group"][:],
                "features": list(features[:, self.columns]),
                "hash": list(hashes),
                "encoder": self.made_by,
                "error": [str(errors.get(row, "")) for row in range(len(rows))],
            }
        )


def made_by(encoder: Encoder, readout: str) -> str:
    """Return what made a row, as JSON: encoder, readout and kind of hashes.

    It is the column "encoder" of the files. `readout` is one of the encoder's, or ""
    for the last.
    """
    settings = {"readout": readout or encoder.readouts[-1], "hashes": image_hash.name}
    return json.dumps(encoder.provenance | settings, sort_keys=True)


def encode_with_ray(
    source: Source,
    output: str,
    *,
    model: str = "",
    readout: str = "",
    actors: int = 2,
    **options: Any,
) -> None:
    """Encode the images that `output` lacks, with Ray Data, here or on a cluster.

    An image that cannot be read gets a row with features of 0, and is not tried again.
    `FeatureTable.from_parquet` reads the result.

    Parameters
    ----------
    source, **options
        Where the images are, which part is meant, and which groups: see `load_dataset`.
        All machines must see the files of the images; those of a data set of the hub
        are in its cache.
    output
        A folder or URI that all machines see. Its Parquet files have a row for each
        image: id, label, split, group, features (float32), hash (by `image_hash`, to
        find near-duplicates), encoder (what made the row, as JSON) and error (why the
        image cannot be read, or "").
    model
        A model for `load_encoder`.
    readout
        One of the encoder's readouts; by default the last one, as in `cliplib.encode`.
    actors
        Number of processes that encode at once.

    Raises
    ------
    ImportError
        If Ray is missing.
    ValueError
        If an argument cannot be used, or `output` holds features of another encoder,
        readout or kind of hashes, or a damaged file.
    ConnectionError
        If Ray cannot be started, or fails; the files that were written stay.
    """
    dataset = load_dataset(source, **options)
    if find_spec("ray") is None:
        raise ImportError(
            "Encoding on several machines needs Ray: pip install 'cliplib[scale]'."
        )
    encoder = load_encoder(model)
    encoder.columns_of(readout or encoder.readouts[-1])  # refuses an unknown readout
    written = _written_ids(output, made_by(encoder, readout))
    missing = [row for row, name in enumerate(dataset["id"]) if name not in written]
    if not missing:
        return
    try:
        _encode_images(dataset.select(missing), output, model, readout, actors)
    # Ray raises errors of many kinds, which name the cause in the last line.
    except Exception as error:
        reason = str(error).strip().split("\n")[-1] or type(error).__name__
        raise ConnectionError(
            f"Ray failed ({reason}). What is in {output} stays, and the same call does "
            "the rest: give Ray fewer actors or more time, or see its logs."
        ) from error


def _written_ids(output: str, expected: str) -> set[str]:
    """Return the ids of the images that a folder or URI already holds.

    ValueError unless the column "encoder" is `expected` in all rows, or if a file is
    damaged.
    """
    schema = pa.schema({"id": pa.string(), "encoder": pa.string()})
    try:
        # With a schema, since a folder may hold no file yet.
        written = pd.read_parquet(output, columns=schema.names, schema=schema)
    except FileNotFoundError:
        return set()
    if set(written["encoder"]) - {expected}:
        raise ValueError(
            f"{output} holds features that were made otherwise: name another folder."
        )
    return set(written["id"])


def _encode_images(
    dataset: datasets.Dataset, output: str, model: str, readout: str, actors: int
) -> None:
    """Encode images into new Parquet files in `output`, with `actors` processes."""
    import ray.data

    # Without a cluster, which RAY_ADDRESS would name, Ray is started here. It needs a
    # core to distribute the rows, or the actors would wait for ever.
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        ray.init(num_cpus=actors + 1, include_dashboard=False)
    n_files = math.ceil(len(dataset) / IMAGES_A_FILE)
    encoded = ray.data.range(len(dataset), override_num_blocks=n_files).map_batches(
        EncodingActor,
        batch_size=None,  # all rows of a block, which becomes one file
        compute=ray.data.ActorPoolStrategy(size=actors),
        fn_constructor_args=(dataset, model, readout),
    )
    # An absolute path, since each worker runs in a folder of its own.
    encoded.write_parquet(output if "://" in output else os.path.abspath(output))


def load_encoded(folder: str) -> Fields:
    """Read the fields of a feature table from the files of `encode_with_ray`.

    Unlike `encode`, it does not find copies that are cropped beside the centre. A
    warning counts the images that could not be read. ValueError if a file is damaged or
    of another kind, or no image could be read.
    """
    images = _readable_rows(folder)
    classes, labels = np.unique(images["label"].to_numpy(str), return_inverse=True)
    # Without features, since comparing those of a million images would take days.
    near_duplicates = near_duplicate_groups(np.stack(images["hash"].to_list()))
    groups = near_duplicates
    if (images["group"] != "").any():  # the source declares groups
        groups = merge_groups(near_duplicates, images["group"])
    return {
        "features": np.stack(images["features"].to_list()),
        "labels": labels,
        "classes": tuple(classes.tolist()),
        "ids": images["id"].to_numpy(str),
        "splits": images["split"].to_numpy(str),
        "copies": near_duplicates,
        "groups": groups,
        "provenance": json.loads(images["encoder"].iloc[0])
        | {"dataset": PurePosixPath(folder).name},
    }


def _readable_rows(folder: str) -> pd.DataFrame:
    """Return the rows of `encode_with_ray` for images that could be read, by id.

    A warning counts the other images. ValueError if a file is damaged or of another
    kind, or no image could be read.
    """
    images = pd.read_parquet(folder)
    if not {"id", "hash", "encoder", "error"} <= set(images):
        raise ValueError(f"{folder} holds other files than `cliplib encode` writes.")
    if images["encoder"].nunique() > 1:
        raise ValueError(
            f"{folder} holds features that were made in several ways: leave the files "
            "of one in it."
        )
    # Two calls at once may have written two rows for an image.
    images = images.drop_duplicates("id").sort_values("id")
    was_read = images["error"] == ""
    if not was_read.any():
        raise ValueError(f"{folder} holds no image that could be read.")
    errors = images["error"][~was_read]
    if len(errors):
        logger.warning("Left out %s: %s", counted(len(errors), "image"), errors.iloc[0])
    return images[was_read]
