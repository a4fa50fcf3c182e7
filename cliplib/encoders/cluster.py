"""Features over several machines, by Ray Data; the same call again does the rest."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from cliplib.data.cache import ImageFunction
from cliplib.data.folder import list_files
from cliplib.data.image import warn_once
from cliplib.data.wording import counted
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.encoded import PROVENANCE, find_damaged, locate
from cliplib.encoders.readouts import readout_columns

logger = logging.getLogger(__name__)


class BatchEncoder:
    """What a Ray actor runs: it loads the encoder once, then encodes batch by batch.

    Parameters
    ----------
    model, readout : str
        What `ClipEncoder` takes, and one of `READOUTS`.
    hashes
        Of images, by which near-duplicates are found.
    folder : str
        Where the files lie.
    """

    def __init__(
        self, model: str, readout: str, hashes: ImageFunction, folder: str = ""
    ) -> None:
        self.encoder = ClipEncoder(model, cache=False)
        self.readout = readout
        self.hashes = hashes
        self.folder = folder
        # The column "encoder": rows with the same text were made in the same way.
        self.made_by = f"{self.encoder.fingerprint} {readout} {hashes.name}"

    @property
    def provenance(self) -> dict[str, str]:
        """What a feature table says of its encoder: entries that are all text."""
        return {**self.encoder.provenance, "readout": self.readout}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode n files, which Ray gives as columns path and bytes (contents).

        Returns the columns id (path below the folder), features (n, d), hash, encoder
        and error, in the same order. A file that cannot be read has an error; its
        features are 0.
        """
        names = [path.removeprefix(f"{self.folder}/") for path in batch["path"]]
        images = [
            {"path": name, "bytes": content}
            for name, content in zip(names, batch["bytes"], strict=True)
        ]
        errors: dict[int, str] = {}
        deep, hashes = self.encoder.map(images, self.hashes, errors=errors)
        return {
            "id": np.array(names),
            "features": deep[:, self.encoder.columns_of(self.readout)],
            "hash": hashes,
            "encoder": np.full(len(images), self.made_by),
            "error": np.array([errors.get(row, "") for row in range(len(images))]),
        }


def encode(
    source: str,
    output: str,
    hashes: ImageFunction,
    *,
    model: str = "",
    readout: str = "pooled",
    actors: int = 2,
) -> None:
    """Encode the images that `output` lacks, with Ray Data, here or on a cluster.

    Files are listed first, and only those without a row in `output` are read. A file
    that cannot be opened is left out with a warning. One that is no image gets a row
    with features of 0, and is not tried again. Damaged Parquet files in `output` are
    deleted, and their images encoded again. `FeatureTable.from_parquet` reads the
    result.

    Parameters
    ----------
    source, output : str
        Folders or URIs that all machines see, neither within the other. Every file of
        `source` counts, but hidden ones and those that Windows and macOS put there.
        Parquet files in `output` hold the columns id (path below `source`), features
        (float32, of the readout), hash, encoder (what made the row: fingerprint,
        readout and kind of hashes) and error (why the image cannot be read, or "");
        ``_provenance.json`` holds what a feature table says of its encoder.
    hashes
        Of images, by which near-duplicates are found: `image_hash`.
    model, readout : str
        What `ClipEncoder` takes, "" for its default; and one of `READOUTS`.
    actors : int
        Processes that encode at once.

    Raises
    ------
    FileNotFoundError
        `source` is no folder.
    ImportError
        Ray is missing.
    ValueError
        An argument cannot be used, or `output` holds features of another encoder,
        readout or kind of hashes.
    ConnectionError
        Ray could not be started, or failed; what is written stays.
    """
    _check_arguments(source, output, readout, actors)
    if find_spec("ray") is None:
        raise ImportError(
            "Encoding on several machines needs Ray: pip install 'cliplib[scale]'."
        )
    from ray.exceptions import RayError

    # The actors make encoders of their own; this one only tells how rows are made.
    encoder = BatchEncoder(model, readout, hashes)
    missing = _list_missing(source, output, encoder.made_by)
    if missing.empty:
        return
    _write_provenance(output, encoder.provenance)
    try:
        _start_ray(actors)
        _encode_with_ray(source, output, missing, (model, readout, hashes), actors)
    except (RayError, ConnectionError, TimeoutError, RuntimeError) as error:
        raise ConnectionError(
            f"Ray failed ({_last_line(error)}). What is in {output} stays, and the "
            "same call does the rest: give Ray fewer actors or more time, or see its "
            "logs."
        ) from error
    if len(_list_missing(source, output, encoder.made_by)):
        raise ConnectionError(f"Some images are missing in {output}: call it again.")


def _check_arguments(source: str, output: str, readout: str, actors: int) -> None:
    """Raise FileNotFoundError or ValueError for what `encode` cannot be called with."""
    if actors < 1:
        raise ValueError(
            f"There cannot be {actors} actors: give a whole number from 1 on."
        )
    readout_columns(readout, width=1, blocks=1)  # raises for an unknown readout
    system, folder = locate(source)
    if system.get_file_info(folder).type != FileType.Directory:
        raise FileNotFoundError(f"{source} is no folder: name one with images.")
    input_place = _without_links(source)
    output_place = _without_links(output)
    # What is written would be taken for images, or images for what was written.
    is_within = output_place.is_relative_to(input_place)
    if is_within or input_place.is_relative_to(output_place):
        raise ValueError(
            f"The output {output} and the input {source} must not lie one within the "
            "other: choose another folder for the output."
        )


def _without_links(place: str) -> PurePath:
    """Return the path of a folder on this machine without links; a URI as it is."""
    system, folder = locate(place)
    is_local = isinstance(system, LocalFileSystem)
    return Path(folder).resolve() if is_local else PurePosixPath(place)


def _last_line(error: Exception) -> str:
    """Return an error's last line, where Ray names the cause; its type if empty."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _list_missing(source: str, output: str, made_by: str) -> pd.Series:
    """Return the files without a row in `output`, as sorted paths below `source`.

    The folder `output` is made before, if it is not there, and damaged files in it are
    deleted. ValueError if a row was made otherwise than `made_by` says.
    """
    names = _list_names(*locate(source))
    system, folder = locate(output)
    system.create_dir(folder)
    _delete_damaged(system, folder)
    missing = names[~names.isin(_read_ids(output, made_by=made_by))]
    logger.info("%d of %d files are missing in %s", len(missing), len(names), output)
    return missing


def _start_ray(actors: int) -> None:
    """Start Ray on this machine, unless it runs or RAY_ADDRESS names a cluster.

    ConnectionError if it does not start, for which Ray gives itself half a minute.
    """
    import ray

    if ray.is_initialized() or "RAY_ADDRESS" in os.environ:
        return
    try:
        # One core more reads files, else the actors would wait for ever.
        ray.init(num_cpus=actors + 1, include_dashboard=False)
    except Exception as error:  # of a slow start Ray raises nothing narrower
        ray.shutdown()
        raise ConnectionError(f"Ray did not start: {error}") from error


def _encode_with_ray(
    source: str,
    output: str,
    names: pd.Series,
    encoder_arguments: tuple[str, str, ImageFunction],
    actors: int,
) -> None:
    """Encode some files of `source` into new Parquet files in `output`.

    `names` are the files' paths below `source`. The work is shared by `actors`
    processes, each with a `BatchEncoder` of its own, made of `encoder_arguments` and
    the folder.
    """
    import ray.data

    system, folder = locate(source)
    paths = [f"{folder}/{name}" for name in names]
    images = ray.data.read_binary_files(paths, filesystem=system, include_paths=True)
    encoded = images.map_batches(
        BatchEncoder,
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=actors),
        fn_constructor_args=(*encoder_arguments, folder),
    )
    # Absolute, since workers run in folders of their own.
    encoded.write_parquet(output if "://" in output else os.path.abspath(output))


def _write_provenance(output: str, provenance: Mapping[str, str]) -> None:
    """Write a `BatchEncoder.provenance` into `output`, over one that is there."""
    system, folder = locate(output)
    with system.open_output_stream(f"{folder}/{PROVENANCE}") as file:
        file.write(json.dumps(dict(provenance), sort_keys=True).encode())


def _list_names(system: FileSystem, folder: str) -> pd.Series:
    """Return the files below a folder, however deep, as sorted paths relative to it.

    Hidden files and those in hidden folders are left out with a warning, and so are
    files on this machine that cannot be opened, for which Ray would give up all.
    """
    if isinstance(system, LocalFileSystem):  # found as for a report
        found = list_files(folder)[0]
        listed = [name for name in found if _can_be_opened(f"{folder}/{name}")]
    else:
        infos = system.get_file_info(FileSelector(folder, recursive=True))
        files = [info.path for info in infos if info.type == FileType.File]
        listed = [path.removeprefix(f"{folder}/") for path in files]
    names = pd.Series(sorted(listed), dtype="str")
    is_hidden = names.str.contains(r"(?:^|/)\.")
    if is_hidden.any():
        hidden = counted(int(is_hidden.sum()), "file")
        first = f"{folder}/{names[is_hidden].iloc[0]}"
        warn_once(logger, f"Left out {hidden} hidden by a dot, such as {first}")
    return names[~is_hidden]


def _can_be_opened(path: str) -> bool:
    """Tell whether a file can be opened; a warning names one that cannot."""
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return True
    warn_once(
        logger,
        f"Left out {path}: it is a link to nowhere, may not be read, or has a name "
        "that is not in UTF-8.",
    )
    return False


def _read_ids(output: str, *, made_by: str) -> pd.Series:
    """Return the ids of all rows in the folder `output`: paths of encoded files.

    ValueError if the column encoder of a row is not `made_by`, as a `BatchEncoder` has
    it.
    """
    system, folder = locate(output)
    # Named, since a new folder has no file to take the columns from.
    schema = pa.schema({"id": pa.string(), "encoder": pa.string()})
    written = pyarrow.dataset.dataset(
        folder, schema, filesystem=system, format="parquet"
    )
    rows = written.to_table().to_pandas()
    if set(rows["encoder"]) - {made_by}:
        raise ValueError(
            f"{output} holds features that were made otherwise: name another folder."
        )
    return rows["id"]


def _delete_damaged(system: FileSystem, folder: str) -> None:
    """Delete damaged Parquet files in a folder, with a warning for each."""
    for path, reason in find_damaged(system, folder).items():
        logger.warning(
            "%s is damaged, as of a process that was killed (%s): deleted, its images "
            "are encoded again.",
            path,
            reason,
        )
        system.delete_file(path)
