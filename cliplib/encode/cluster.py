"""Features over several machines, by Ray Data; the same call again does the rest."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
from pyarrow.fs import FileSelector, FileSystem, FileType

from cliplib.encode.clip import ClipEncoder, readout_columns

logger = logging.getLogger(__name__)


class BatchEncoder:
    """What a Ray actor runs: the encoder, loaded once, from batch to batch."""

    def __init__(self, model: str, readout: str) -> None:
        self.encoder = ClipEncoder(model, cache=False)
        self.columns = readout_columns(readout, self.encoder.dim, self.encoder.blocks)
        self.made_by = f"{self.encoder.fingerprint} {readout}"

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return id, features, encoder and error of a batch of id and bytes."""
        images = [
            {"path": name, "bytes": content}
            for name, content in zip(batch["id"], batch["bytes"], strict=True)
        ]
        errors: dict[int, str] = {}
        (deep,) = self.encoder.map(images, errors=errors)
        return {
            "id": batch["id"],
            "features": deep[:, self.columns],
            "encoder": np.full(len(images), self.made_by),
            "error": np.array([errors.get(row, "") for row in range(len(images))]),
        }


def encode(
    source: str,
    output: str,
    *,
    model: str = "",
    readout: str = "pooled",
    actors: int = 2,
) -> None:
    """Encode the images that `output` lacks, with Ray Data, here or on a cluster.

    Names are listed first, those that are done are dropped, and only the rest is read.
    An image that cannot be read has features of 0, and is not tried again.

    Parameters
    ----------
    source, output : str
        Folders or URIs that all machines see. Every file of `source` counts, but hidden
        ones. Parquet files in `output` keep id (path below `source`), features (float32
        of the readout), encoder (fingerprint and readout) and error.
    model, readout : str
        As in `ClipEncoder` and `readout_columns`.
    actors : int
        Processes that encode at once.

    Raises
    ------
    ImportError
        Ray is missing.
    ValueError
        `output` holds features of another encoder or readout.
    """
    if find_spec("ray") is None:
        raise ImportError(
            "Encoding on several machines needs Ray: pip install -e '.[scale]'."
        )
    import ray

    system, folder = _locate(source)
    names = _list_names(system, folder)
    done = _read_done(output, made_by=BatchEncoder(model, readout).made_by)
    missing = names[~names.isin(done["id"])]
    logger.info("%d of %d images are missing in %s", len(missing), len(names), output)
    if missing.empty:
        return
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        ray.init(num_cpus=actors + 1)  # one reads, else the actors would wait for ever
    paths = [f"{folder}/{name}" for name in missing]
    images = ray.data.read_binary_files(paths, filesystem=system, include_paths=True)
    named = images.map_batches(
        _name_images, batch_format="pandas", fn_kwargs={"folder": folder}
    )
    encoded = named.map_batches(
        BatchEncoder,
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=actors),
        fn_constructor_args=(model, readout),
    )
    encoded.write_parquet(output if "://" in output else os.path.abspath(output))


def _locate(place: str) -> tuple[FileSystem, str]:
    """Return the file system of a folder or URI, and its path there."""
    uri = place if "://" in place else os.path.abspath(place)
    system, path = FileSystem.from_uri(uri)
    return system, path.rstrip("/")


def _list_names(system: FileSystem, folder: str) -> pd.Series:
    """Return the paths of all files below a folder, hidden ones left out."""
    listed = system.get_file_info(FileSelector(folder, recursive=True))
    paths = sorted(info.path for info in listed if info.type == FileType.File)
    names = pd.Series(paths, dtype="str").str.removeprefix(f"{folder}/")
    return names[~names.str.contains(r"(?:^|/)\.")]


def _read_done(output: str, *, made_by: str) -> pd.DataFrame:
    """Return the column id of what is written already, by the same encoder."""
    system, folder = _locate(output)
    system.create_dir(folder)
    schema = pa.schema({"id": pa.string(), "encoder": pa.string()})
    written = pyarrow.dataset.dataset(folder, schema, filesystem=system).to_table()
    done = written.to_pandas()
    if set(done["encoder"]) - {made_by}:
        raise ValueError(
            f"{output} holds features that were made otherwise: name another folder."
        )
    return done


def _name_images(batch: pd.DataFrame, folder: str) -> pd.DataFrame:
    """Add the column id: the path below the folder."""
    return batch.assign(id=batch["path"].str.removeprefix(f"{folder}/"))
