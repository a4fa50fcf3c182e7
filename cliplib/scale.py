"""Features of more pictures than one machine should read, over Ray Data: ``python -m cliplib.scale INPUT OUTPUT``.

An actor loads the model once, takes block after block of the input, and writes each, when it is whole, as a Parquet
file whose name hashes all that decides its rows. So a block that is there is not done again, and one that is done twice
because a machine died replaces itself. Ray's own readers would cut rows into blocks that no second run could recognise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from hashlib import blake2b
from itertools import chain, islice
from math import ceil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from cliplib.data import shards
from cliplib.encoder import ClipEncoder, Kind
from cliplib.encoder.checkpoint import MINI
from cliplib.encoder.hardware import versions
from cliplib.errors import CliplibError

try:
    import ray
except ModuleNotFoundError:  # an extra
    ray = None
CHUNK = 1024  # pictures in an actor's memory at a time


class BlockEncoder:
    """An actor: made with a model, called with block after block; arguments as in :func:`extract`."""

    def __init__(self, source: str, output: str, column: str, kind: Kind, fingerprint: str, **model: str) -> None:
        self.source, self.output, self.column, self.kind = source, output, column, kind
        self.encoder = encoder = ClipEncoder.from_pretrained(**model)
        if encoder.fingerprint(kind) != fingerprint:
            raise CliplibError(f"The model {model['model']!r} differs between machines: give all the same files.")
        about = {"encoder": encoder.name, "encoder_fingerprint": fingerprint, "kind": kind, "dtype": encoder.dtype,
                 "model_fingerprint": encoder.model_fingerprint(), "normalized": "false"}  # fmt: skip
        vector = pa.list_(pa.float32(), encoder.dim if kind == "pooled" else encoder.projection_dim)
        columns = dict.fromkeys(("id", "label", "digest", "error"), pa.string()) | {"features": vector}
        self.schema = pa.schema(columns, metadata=about | versions("cliplib", "torch", "transformers"))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Write one block, ``{"part": [its name], "files": [JSON list]}``; how many rows and errors it has."""
        (part,), (files,) = batch["part"], batch["files"]
        rows = chain.from_iterable(shards.read(self.source, file, self.column) for file in json.loads(files))
        system, folder = shards.locate(self.output)
        unready, count, errors = f"{folder}/_{part}.{os.urandom(8).hex()}", 0, 0  # readers pass over names in _
        with system.open_output_stream(unready) as sink, pq.ParquetWriter(sink, self.schema) as writer:
            while chunk := list(islice(rows, CHUNK)):
                writer.write_table(table := self.encode(chunk))
                count, errors = count + len(table), errors + len(table) - table["error"].null_count
        system.move(unready, f"{folder}/{part}")
        return {"rows": [count], "unreadable": [errors]}

    def encode(self, rows: list[shards.Row]) -> pa.Table:
        """Rows of the output, one for each of the input."""
        images: list[Any] = [row.image for row in rows]
        found = iter(self.encoder.images(images, kind=self.kind, errors="report", progress=False))
        failed = self.encoder.last_run.errors  # those without bytes, too
        return pa.table({
            "id": [row.id for row in rows], "label": [row.label for row in rows],
            "digest": [image and blake2b(image, digest_size=16).hexdigest() for image in images],
            "error": [(row.reason or failed[n].reason) if n in failed else None for n, row in enumerate(rows)],
            "features": [None if n in failed else next(found) for n in range(len(rows))],
        }, schema=self.schema)  # fmt: skip


def extract(
    source: str, output: str, *, model: str = "", kind: Kind = "pooled", dtype: str = "float32",
    column: str = "image", actors: int = 2, cpus: float = 1, gpus: float = 0, address: str = "",
) -> dict[str, int]:  # fmt: skip
    """Encode pictures, Parquet files and WebDataset tars below a folder into a folder of Parquet files.

    A row is id, label, digest of the picture's bytes, and features (d float32, not normalised) or an error; the files'
    metadata names the encoder and its fingerprints. The same call again does what is not there yet. Returns counts.

    Parameters
    ----------
    source, output : str
        Folders, as paths or URIs, that all machines see; :mod:`cliplib.data.shards` says what becomes of which file.
    model, kind, dtype : str
        As in :class:`cliplib.encoder.ClipEncoder`; float32, unless asked, because machines differ in what "auto" means.
    column : str
        Where pictures are in a Parquet file.
    actors, cpus, gpus : int, float, float
        Copies of the model, and what each gets. With 0.5 GPUs, one actor decodes while another computes.
    address : str
        Of a Ray cluster, such as ``"10.0.0.1:6379"``. Default: this machine alone, for as long as the call lasts.
    """
    if ray is None:
        raise CliplibError("Ray is missing, an extra that this needs: pip install 'ray[data]'.")
    source, output = (p if "://" in p else os.path.abspath(os.path.expanduser(p)) for p in (source, output))
    if f"{output}/".startswith(f"{source}/"):
        raise CliplibError(f"The output {output!r} lies in the input, which would read it: name another folder.")
    model = model or os.environ.get("CLIPLIB_MODEL") or MINI
    model = os.path.abspath(model) if os.path.isdir(model) else model
    same = ClipEncoder.from_pretrained(model, device="cpu", dtype=dtype).fingerprint(kind)
    make = {"source": source, "output": output, "column": column, "kind": kind, "fingerprint": same,
            "model": model, "dtype": dtype, "device": "cuda" if gpus else "cpu"}  # fmt: skip
    parts = {f"part-{key}.parquet": files for key, files in shards.plan(source, f"{same}\0{column}").items()}
    there = {name for name in shards.names(output) if name.startswith("part-")}
    if foreign := there - set(parts):
        raise CliplibError(f"{output!r} has {len(foreign)} parts of another input or model: name an empty folder.")
    todo = [{"part": part, "files": json.dumps(files)} for part, files in parts.items() if part not in there]
    done = list(_run(todo, make, actors, cpus, gpus, address)) if todo else []
    return {"blocks": len(parts), "finished": len(there)} | {k: sum(b[k] for b in done) for k in ("rows", "unreadable")}


def _run(todo: list[Any], make: Any, actors: int, cpus: float, gpus: float, address: str) -> Iterator[dict[str, int]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    place: dict[str, Any] = {"address": address or "local"}
    if not address:
        place |= {"num_cpus": ceil(actors * cpus), "_node_ip_address": "127.0.0.1", "object_store_memory": 2**27}
    with nullcontext() if ray.is_initialized() else ray.init(**place, log_to_driver=False, logging_level="WARNING"):
        ray.data.DataContext.get_current().enable_progress_bars = False  # tqdm's instead
        run = ray.data.from_items(todo, override_num_blocks=min(len(todo), 10_000)).map_batches(
            BlockEncoder, batch_size=1, compute=ray.data.ActorPoolStrategy(size=min(actors, len(todo))),
            num_cpus=cpus, num_gpus=gpus or None, fn_constructor_kwargs=make,
        )  # fmt: skip
        try:
            yield from tqdm(run.iter_rows(), "blocks", len(todo))
        except ray.exceptions.RayError as error:
            raise CliplibError(f"Ray gave up: {error}") from error


def main() -> None:
    """The command line; its options are the arguments of :func:`extract`."""
    parser = argparse.ArgumentParser("python -m cliplib.scale", description=(extract.__doc__ or "").split("\n")[0])
    parser.add_argument("source")
    parser.add_argument("output")
    for name, default in (extract.__kwdefaults__ or {}).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default!r}")
    try:
        sys.stdout.write(f"{extract(**vars(parser.parse_args()))}\n")
    except CliplibError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
