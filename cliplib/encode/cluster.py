"""Features over several machines, by Ray Data; the same call again does the rest."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from numpy.typing import NDArray
from pyarrow.fs import FileSelector, FileSystem, FileType

from cliplib.encode.clip import ClipEncoder, readout_columns
from cliplib.images.arrays import Features
from cliplib.images.cache import ImageFunction

logger = logging.getLogger(__name__)


PROVENANCE = "_provenance.json"
"""Which encoder made the features of a folder; readers of Parquet pass over it."""
ATTEMPTS = 2


class BatchEncoder:
    """What a Ray actor runs: the encoder, loaded once, from batch to batch."""

    def __init__(
        self, model: str, readout: str, also: Mapping[str, ImageFunction] | None = None
    ) -> None:
        self.encoder = ClipEncoder(model, cache=False)
        self.readout = readout
        self.also = dict(also or {})
        self.columns = readout_columns(readout, self.encoder.dim, self.encoder.blocks)
        functions = [function.name for function in self.also.values()]
        self.made_by = " ".join([self.encoder.fingerprint, readout, *functions])

    @property
    def provenance(self) -> dict[str, str]:
        """What a feature table says of its features."""
        return {
            "encoder": self.encoder.name,
            "model_fingerprint": self.encoder.fingerprint,
            "readout": self.readout,
            "width": str(self.encoder.dim),
            "blocks": str(self.encoder.blocks),
        }

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return id, features, encoder, error and more of a batch of id and bytes."""
        images = [
            {"path": name, "bytes": content}
            for name, content in zip(batch["id"], batch["bytes"], strict=True)
        ]
        errors: dict[int, str] = {}
        deep, *others = self.encoder.map(images, *self.also.values(), errors=errors)
        return {
            "id": batch["id"],
            "features": deep[:, self.columns],
            "encoder": np.full(len(images), self.made_by),
            "error": np.array([errors.get(row, "") for row in range(len(images))]),
            **dict(zip(self.also, others, strict=True)),
        }


def encode(
    source: str,
    output: str,
    *,
    model: str = "",
    readout: str = "pooled",
    also: Mapping[str, ImageFunction] | None = None,
    actors: int = 2,
) -> None:
    """Encode the images that `output` lacks, with Ray Data, here or on a cluster.

    Names are listed first, those that are done are dropped, and only the rest is read.
    An image that cannot be read has features of 0, and is not tried again. Where Ray
    fails, what is missing is tried once more. `FeatureTable.from_parquet` reads the
    result, if the column "hash" is among it.

    Parameters
    ----------
    source, output : str
        Folders or URIs that all machines see. Every file of `source` counts, but hidden
        ones. Parquet files in `output` keep id (path below `source`), features (float32
        of the readout), encoder (what made a row) and error; ``_provenance.json`` keeps
        what a feature table says of its encoder.
    model, readout : str
        As in `ClipEncoder` and `readout_columns`.
    also : mapping
        Further columns, and the functions of an image that fill them, such as
        ``{"hash": image_hash}``.
    actors : int
        Processes that encode at once.

    Raises
    ------
    ImportError
        Ray is missing.
    ValueError
        `output` holds features that were made otherwise.
    ConnectionError
        Ray could not be started, or failed twice; what is written stays.
    """
    if find_spec("ray") is None:
        raise ImportError(
            "Encoding on several machines needs Ray: pip install -e '.[scale]'."
        )
    from ray.exceptions import RayError

    here = BatchEncoder(model, readout, also)
    for attempt in range(ATTEMPTS):
        missing = _missing(source, output, here.made_by)
        if missing.empty:
            return
        _write_provenance(output, here.provenance)
        try:
            _start_ray(actors)
            _encode_missing(source, output, missing, (model, readout, also), actors)
        except (RayError, ConnectionError, TimeoutError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            if attempt + 1 == ATTEMPTS:
                raise ConnectionError(
                    f"Ray failed, after a second try ({reason[0]}). What is in {output}"
                    " stays, and the same call does the rest: give Ray fewer actors or "
                    "more time, or see its logs."
                ) from error
            logger.warning("Ray failed (%s): trying the rest once more.", reason[0])
    if len(_missing(source, output, here.made_by)):
        raise ConnectionError(f"Some images are missing in {output}: call it again.")


def _missing(source: str, output: str, made_by: str) -> pd.Series:
    """Return the names of the files of `source` that `output` has no row of."""
    names = _list_names(*_locate(source))
    done = _read_done(output, made_by=made_by)
    missing = names[~names.isin(done["id"])]
    logger.info("%d of %d images are missing in %s", len(missing), len(names), output)
    return missing


def _start_ray(actors: int) -> None:
    """Start Ray on this machine where it does not run and no cluster is named.

    A ConnectionError says if it does not: Ray has half a minute to start.
    """
    import ray

    if ray.is_initialized() or "RAY_ADDRESS" in os.environ:
        return
    try:
        # One core reads, else the actors would wait for ever.
        ray.init(num_cpus=actors + 1, include_dashboard=False)
    except Exception as error:  # of a slow start Ray raises nothing narrower
        ray.shutdown()
        raise ConnectionError(f"Ray did not start: {error}") from error


def _encode_missing(
    source: str,
    output: str,
    missing: pd.Series,
    encoder_arguments: tuple[Any, ...],
    actors: int,
) -> None:
    """Encode the `missing` files of `source` with Ray, into Parquet in `output`.

    `encoder_arguments` are those of `BatchEncoder`, of which each actor makes one.
    """
    import ray.data

    system, folder = _locate(source)
    paths = [f"{folder}/{name}" for name in missing]
    images = ray.data.read_binary_files(paths, filesystem=system, include_paths=True)
    named = images.map_batches(
        _name_images, batch_format="pandas", fn_kwargs={"folder": folder}
    )
    encoded = named.map_batches(
        BatchEncoder,
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=actors),
        fn_constructor_args=encoder_arguments,
    )
    # Workers run in folders of their own.
    encoded.write_parquet(output if "://" in output else os.path.abspath(output))


def _write_provenance(output: str, provenance: Mapping[str, str]) -> None:
    system, folder = _locate(output)
    with system.open_output_stream(f"{folder}/{PROVENANCE}") as file:
        file.write(json.dumps(dict(provenance), sort_keys=True).encode())


class Encoded(NamedTuple):
    """What `encode` wrote, by id in increasing order."""

    ids: list[str]
    features: Features
    hashes: NDArray[np.uint8]
    """Of the column "hash"."""
    errors: dict[str, str]
    """Why a file could not be read, by id; it has no row."""
    provenance: dict[str, str]


def read_encoded(output: str) -> Encoded:
    """Read the folder or URI that `encode` wrote; a ValueError says what it lacks."""
    system, folder = _locate(output)
    if system.get_file_info(f"{folder}/{PROVENANCE}").type != FileType.File:
        raise ValueError(
            f"{output} holds no {PROVENANCE}: encode into a new folder, by this version"
            " of cliplib."
        )
    with system.open_input_stream(f"{folder}/{PROVENANCE}") as file:
        provenance = json.loads(file.read())
    damaged = _damaged(system, folder)
    if damaged:
        names = ", ".join(damaged)
        raise ValueError(f"{names} is damaged: encode into {output} again.")
    written = pyarrow.dataset.dataset(folder, filesystem=system, format="parquet")
    if "hash" not in written.schema.names:
        raise ValueError(f"{output} holds no hashes: encode with also={{'hash': …}}.")
    about = written.to_table(columns=["id", "error"]).to_pandas()
    about["row"] = np.arange(len(about))
    about = about.drop_duplicates("id").sort_values("id")
    read = about[about["error"] == ""]
    place = np.full(written.count_rows(), -1)
    place[read["row"]] = np.arange(len(read))
    columns: dict[str, NDArray[Any]] = {}
    start = 0
    for batch in written.to_batches(columns=["features", "hash"]):
        target = place[start : start + len(batch)]
        start += len(batch)
        for name in ("features", "hash"):
            rows = _rows_of(batch.column(name))
            if name not in columns:
                columns[name] = np.empty((len(read), rows.shape[1]), rows.dtype)
            columns[name][target[target >= 0]] = rows[target >= 0]
    if read.empty:
        raise ValueError(f"{output} holds no image that could be read.")
    failed = about[about["error"] != ""]
    return Encoded(
        ids=read["id"].tolist(),
        features=columns["features"],
        hashes=columns["hash"],
        errors=dict(zip(failed["id"], failed["error"], strict=True)),
        provenance=provenance,
    )


def _rows_of(column: pa.Array) -> NDArray[Any]:
    """Return a column of equally long lists as an array (n, d)."""
    if isinstance(column, pa.ExtensionArray):  # of Ray, where that is imported
        column = column.storage
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat).reshape(len(column), -1)


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
    _drop_damaged(system, folder)
    written = pyarrow.dataset.dataset(
        folder, schema, filesystem=system, format="parquet"
    )
    done = written.to_table().to_pandas()
    if set(done["encoder"]) - {made_by}:
        raise ValueError(
            f"{output} holds features that were made otherwise: name another folder."
        )
    return done


def _damaged(system: FileSystem, folder: str) -> dict[str, str]:
    """Return which Parquet files have no readable footer, and why, by path.

    Their writer was killed. What a network fails of is another error, and is raised.
    """
    damaged = {}
    for info in system.get_file_info(FileSelector(folder)):
        if not info.path.endswith(".parquet"):
            continue
        try:
            with system.open_input_file(info.path) as file:
                pyarrow.parquet.read_metadata(file)
        except pa.ArrowInvalid as error:
            damaged[info.path] = str(error).splitlines()[0]
    return damaged


def _drop_damaged(system: FileSystem, folder: str) -> None:
    """Delete damaged files, and name them."""
    for path, reason in _damaged(system, folder).items():
        logger.warning(
            "%s is damaged, as of a process that was killed (%s): deleted, its images "
            "are encoded again.",
            path,
            reason,
        )
        system.delete_file(path)


def _name_images(batch: pd.DataFrame, folder: str) -> pd.DataFrame:
    """Add the column id: the path below the folder."""
    return batch.assign(id=batch["path"].str.removeprefix(f"{folder}/"))
