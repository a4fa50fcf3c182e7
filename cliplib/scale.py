"""Features over several machines, by Ray Data; the same call again does what is missing."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pandas as pd
import pyarrow.dataset

from cliplib.encoder import ClipEncoder, readout_columns


class BatchEncoder:
    """What an actor runs: the encoder, loaded once, from batch to batch."""

    def __init__(self, model: str, readout: str) -> None:
        self.encoder = ClipEncoder(model, cache=False)
        self.columns = readout_columns(readout, self.encoder.dim, self.encoder.blocks)
        self.made = f"{self.encoder.fingerprint} {readout}"

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return id, features, encoder and error of a batch of id and bytes."""
        n, errors = len(batch["id"]), dict[int, str]()
        images = pd.DataFrame({"path": batch["id"], "bytes": batch["bytes"]}).to_dict(
            "records"
        )
        (deep,) = self.encoder.map(images, errors=errors)
        found = {"features": deep[:, self.columns], "encoder": [self.made] * n}
        return {
            "id": batch["id"],
            **found,
            "error": [errors.get(row, "") for row in range(n)],
        }


def encode(source: str, output: str, model: str, readout: str, actors: int) -> None:
    """Encode the images that `output` lacks with Ray Data, on this machine or on a cluster.

    Both places are folders or URIs that all machines see. Parquet files keep id, features, encoder
    and error; an image that cannot be read has features of 0, and is not tried again.
    """
    if find_spec("ray") is None:
        raise ImportError(
            "Encoding on several machines needs Ray: pip install -e '.[scale]'."
        )
    import ray.data
    from pyarrow.fs import FileSystem

    source, output = (p if "://" in p else os.path.abspath(p) for p in (source, output))
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        ray.init(
            num_cpus=actors + 1
        )  # one for reading, else the actors would wait for ever
    system, folder = FileSystem.from_uri(output)
    system.create_dir(folder)
    schema = pyarrow.schema({"id": pyarrow.string(), "encoder": pyarrow.string()})
    written = (
        pyarrow.dataset.dataset(folder, schema, filesystem=system)
        .to_table()
        .to_pydict()
    )
    if set(written["encoder"]) - {BatchEncoder(model, readout).made}:
        raise ValueError(
            f"{output} holds features that were made otherwise: name another folder."
        )
    done = set(written["id"])
    images = ray.data.read_binary_files(source, include_paths=True)
    named = images.add_column(
        "id", lambda rows: rows["path"].str.removeprefix(f"{source}/")
    )
    missing = named.filter(lambda row: row["id"] not in done)
    actor_pool = ray.data.ActorPoolStrategy(size=actors)
    made_by = {"compute": actor_pool, "fn_constructor_args": (model, readout)}
    missing.map_batches(BatchEncoder, batch_size=256, **made_by).write_parquet(output)
