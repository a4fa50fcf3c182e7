"""Features of more images than one machine should read: ``python -m cliplib.scale INPUT OUTPUT``.

Ray Data (pip install "ray[data]") reads, actors hold the encoder, Parquet files keep id, features,
encoder and error (an image that cannot be read has features of 0). The same call again encodes only
what is missing.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import ray.data
from pyarrow.fs import FileSystem

from cliplib.encoder import ClipEncoder, readout_columns
from cliplib.images import map_images


def read(source: str, kind: str) -> ray.data.Dataset:
    """Return id and image of all files in a folder, of Parquet files or of WebDataset tars."""
    if kind == "parquet":
        return ray.data.read_parquet(source).select_columns(["id", "image"])
    if kind == "webdataset":
        samples = ray.data.read_webdataset(source, decoder=None)
        return samples.rename_columns({"__key__": "id", "jpg": "image"})
    files = ray.data.read_binary_files(source, include_paths=True)
    named = files.add_column("id", lambda rows: rows["path"].str.removeprefix(f"{source}/"))
    return named.rename_columns({"bytes": "image"})


class BatchEncoder:
    """What an actor runs: the encoder, loaded once, from batch to batch."""

    def __init__(self, model: str, readout: str) -> None:
        self.encoder = ClipEncoder(model, cache=False)
        self.columns = readout_columns(readout, self.encoder.dim, self.encoder.blocks)
        self.made = f"{self.encoder.fingerprint} {readout}"

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return id, features, encoder and error of a batch of id and image."""
        n, errors = len(batch["id"]), dict[int, str]()
        images = [b"" if image is None else image for image in batch["image"]]
        (deep,) = map_images(images, self.encoder.image_function, errors=errors)
        features = deep[:, self.columns] if deep.size else np.zeros((n, len(self.columns)), "f4")
        why = [errors.get(row, "") for row in range(n)]
        return {"id": batch["id"], "features": features, "encoder": [self.made] * n, "error": why}


def extract(source: str, output: str, kind: str, model: str, readout: str, actors: int) -> None:
    """Encode the images that `output` lacks; both are folders or URIs that all machines see."""
    source, output = (p if "://" in p else os.path.abspath(p) for p in (source, output))
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        ray.init(num_cpus=actors + 1)  # one for reading, else the actors would wait for ever
    system, folder = FileSystem.from_uri(output)
    system.create_dir(folder)
    schema = pa.schema({"id": pa.string(), "encoder": pa.string()})
    written = pyarrow.dataset.dataset(folder, schema, filesystem=system).to_table()
    if set(written["encoder"].to_pylist()) - {BatchEncoder(model, readout).made}:
        raise ValueError(f"{output} holds features of another encoder: name another folder.")
    done = set(written["id"].to_pylist())
    missing = read(source, kind).filter(lambda row: row["id"] not in done)
    actor_pool = ray.data.ActorPoolStrategy(size=actors)
    made_by = {"compute": actor_pool, "fn_constructor_args": (model, readout)}
    missing.map_batches(BatchEncoder, batch_size=256, **made_by).write_parquet(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m cliplib.scale", description=__doc__)
    parser.add_argument("source", metavar="INPUT")
    parser.add_argument("output", metavar="OUTPUT")
    parser.add_argument("--kind", choices=("images", "parquet", "webdataset"), default="images")
    parser.add_argument("--model", default="")
    parser.add_argument("--readout", default="pooled")
    parser.add_argument("--actors", type=int, default=2)
    extract(**vars(parser.parse_args()))
