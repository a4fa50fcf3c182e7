"""Features over several machines, by Ray Data; the same call again does the rest."""

from __future__ import annotations

import json
import logging
import os
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from cliplib.data.folder import existing_folder, list_files
from cliplib.data.wording import counted
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.encoded import locate, read_encoded
from cliplib.features.hashes import image_hash

logger = logging.getLogger(__name__)


class BatchEncoder:
    """What a Ray actor runs: it loads the encoder once, then encodes batch by batch.

    Parameters
    ----------
    model, readout : str
        What `ClipEncoder` takes, and one of `READOUTS`.
    folder : str
        Where the files lie.
    """

    def __init__(self, model: str, readout: str, folder: str) -> None:
        self.encoder = ClipEncoder(model, cache=False)
        self.columns = self.encoder.columns_of(readout)
        self.folder = folder
        about = {"readout": readout, "hashes": image_hash.name}
        # The column "encoder": rows with the same text were made in the same way.
        self.made_by = json.dumps(self.encoder.provenance | about, sort_keys=True)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
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
        deep, hashes = self.encoder.map(images, image_hash, errors=errors)
        columns = {
            "id": names,
            "features": list(deep[:, self.columns]),
            "hash": list(hashes),
            "encoder": [self.made_by] * len(names),
            "error": [errors.get(row, "") for row in range(len(names))],
        }
        return pa.table(columns)


def encode_with_ray(
    source: str,
    output: str,
    *,
    model: str = "",
    readout: str = "pooled",
    actors: int = 2,
) -> None:
    """Encode the images that `output` lacks, with Ray Data, here or on a cluster.

    Only files without a row in `output` are read. One that is no image gets a row with
    features of 0, and is not tried again. `FeatureTable.from_parquet` reads the result.

    Parameters
    ----------
    source, output : str
        Folders or URIs that all machines see, neither within the other. Every file
        of `source` counts, but hidden ones. Parquet files in `output` hold the columns
        id (path below `source`), features (float32, of the readout), hash (of
        `image_hash`, by which near-duplicates are found), encoder (what made the row,
        as JSON) and error (why the image cannot be read, or "").
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
        readout or kind of hashes, or a damaged file.
    ConnectionError
        Ray could not be started, or failed; what is written stays.
    """
    system, folder = locate(source)
    output_system, output_folder = locate(output)
    # Else what is written would be taken for images, or images for what was written.
    shorter, longer = sorted([f"{folder}/", f"{output_folder}/"], key=len)
    if longer.startswith(shorter):
        raise ValueError(
            f"{output} and {source} must not lie one within the other: choose another "
            "folder for the output."
        )
    paths = _list_files(system, folder)
    if find_spec("ray") is None:
        raise ImportError(
            "Encoding on several machines needs Ray: pip install 'cliplib[scale]'."
        )
    # The actors make encoders of their own; this one only tells how rows are made.
    made_by = BatchEncoder(model, readout, folder).made_by
    output_system.create_dir(output_folder)
    written = read_encoded(output, ["id", "encoder"]).to_pandas()
    if set(written["encoder"]) - {made_by}:
        raise ValueError(
            f"{output} holds features that were made otherwise: name another folder."
        )
    done = {f"{folder}/{name}" for name in written["id"]}
    missing = [path for path in paths if path not in done]
    if not missing:
        return
    try:
        _encode_files(missing, system, output, (model, readout, folder), actors)
    except Exception as error:  # Ray raises nearly anything, the cause in the last line
        reason = str(error).strip().split("\n")[-1] or type(error).__name__
        raise ConnectionError(
            f"Ray failed ({reason}). What is in {output} stays, and the same call does "
            "the rest: give Ray fewer actors or more time, or see its logs."
        ) from error


def _list_files(system: FileSystem, folder: str) -> list[str]:
    """Return the sorted paths of all files below a folder that are not hidden."""
    if isinstance(system, LocalFileSystem):  # found as for a report
        names, _ = list_files(existing_folder(folder))
        paths = [f"{folder}/{name}" for name in names]
    else:
        infos = system.get_file_info(FileSelector(folder, recursive=True))
        paths = [info.path for info in infos if info.type == FileType.File]
    hidden = [path for path in paths if "/." in path.removeprefix(folder)]
    if hidden:
        files = counted(len(hidden), "file")
        logger.warning("Left out %s hidden by a dot, such as %s", files, min(hidden))
    return sorted(set(paths) - set(hidden))


def _encode_files(
    paths: list[str],
    system: FileSystem,
    output: str,
    encoder_arguments: tuple[str, str, str],
    actors: int,
) -> None:
    """Encode files into new Parquet files in `output`.

    The work is shared by `actors` processes, each with a `BatchEncoder` of its own.
    """
    import ray.data

    # RAY_ADDRESS names a cluster. Here one core more reads files, else the actors would
    # wait for ever.
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        ray.init(num_cpus=actors + 1, include_dashboard=False)
    images = ray.data.read_binary_files(paths, filesystem=system, include_paths=True)
    encoded = images.map_batches(
        BatchEncoder,
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=actors),
        fn_constructor_args=encoder_arguments,
    )
    # Absolute, since workers run in folders of their own.
    encoded.write_parquet(output if "://" in output else os.path.abspath(output))
