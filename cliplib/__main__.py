"""Does a frozen CLIP sort my images? The command line.

``python -m cliplib FOLDER --out AID`` audits a folder of class folders, measures what a probe makes
of it, and saves a decision aid; ``python -m cliplib classify AID FOLDER_OR_FILES`` uses that;
``python -m cliplib encode INPUT OUTPUT`` computes features on several machines, and the same call
again only what is missing (pip install "cliplib[scale]").
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from cliplib.audit import Audit, audit
from cliplib.classifier import Classifier, write_csv, write_html
from cliplib.data import dataset_spec, load_dataset
from cliplib.encoder import ClipEncoder, readout_columns
from cliplib.evaluation import Evaluation, evaluate
from cliplib.features import FeatureTable, load_features
from cliplib.probes import LinearProbe
from cliplib.resampling import cross_validate
from cliplib.zeroshot import zero_shot_proba, zero_shot_weights

MIN_IMAGES = 10  # of a class, copies not counted: a fifth is held out, and a fifth of the rest


def say(*lines: object) -> None:
    """Write lines to the standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def say_list(title: str, lines: Sequence[str]) -> None:
    """Write how many lines there are, and the first ten of them."""
    if lines:
        shown = [*lines[:10], "…"] if len(lines) > 10 else lines
        say(f"{title}: {len(lines)}", *(f"    {line}" for line in shown))


def report_audit(found: Audit) -> None:
    """Write what a user should know of the images before any result."""
    images, conflicts, leaks = found.images, found.conflicts, found.leaks
    counts = images["label"].value_counts(sort=False)
    classes = ", ".join(f"{name} {count}" for name, count in counts.items())
    say(f"{len(images)} images in {len(counts)} classes: {classes}")
    say_list("Unreadable, left out", images.loc[images["error"] != "", "error"].tolist())
    copies = len(images) - images["group"].nunique()
    say(f"Near-duplicates of other images, always kept on the same side of a split: {copies}")
    pairs = conflicts["id_a"] + " and " + conflicts["id_b"]
    say_list("Near-duplicates in two classes", pairs.tolist())
    say_list("Near-duplicates of training images among val and test", leaks["id"].tolist())


def check_classes(table: FeatureTable) -> None:
    """Raise ValueError unless there are two classes and enough different images of each."""
    if len(table.classes) < 2:
        raise ValueError(f"There is only one class, {table.classes[0]!r}: a classifier needs two.")
    for label, name in enumerate(table.classes):
        different = len(np.unique(table.groups[table.labels == label]))
        if different < MIN_IMAGES:
            raise ValueError(
                f"The class {name!r} has too few different images, {different}: to train and test "
                f"it, {MIN_IMAGES} are needed, so add some, or move its folder elsewhere."
            )


def measure(table: FeatureTable, encoder: ClipEncoder, folder: str) -> dict[str, Evaluation]:
    """Evaluate chance, zero-shot and a probe on two readouts, by grouped cross-validation."""
    spec, often = dataset_spec(folder), np.bincount(table.labels).argmax()
    weights = zero_shot_weights(encoder, [spec.phrases[c] for c in table.classes], spec.templates)
    shared = encoder.project(table.readout("pooled").features)
    predicted: dict[str, NDArray[Any]] = {
        f"always {table.classes[often]!r}": np.full(len(table), often),
        "zero-shot, from the class names": zero_shot_proba(shared, weights, encoder.logit_scale),
    }
    for readout in ("pooled", "deep"):
        proba = cross_validate(LinearProbe(), table.readout(readout), n_repeats=1)
        predicted[f"linear probe, {readout}"] = proba
    y, classes, groups = table.labels, table.classes, table.groups
    return {name: evaluate(y, p, classes, groups=groups) for name, p in predicted.items()}


def train(folder: str, out: str, model: str) -> None:
    """Audit a folder, measure what a probe makes of it, and save a decision aid."""
    dataset = load_dataset(folder)
    if dataset is None:
        raise ValueError(f"There are no images of {folder!r} on this machine: name their folder.")
    encoder = ClipEncoder(model)
    table = load_features(folder, encoder, errors={})
    report_audit(audit(dataset, cache=encoder.cache, progress=False))
    check_classes(table)
    results = measure(table, encoder, folder)
    say("", encoder, "Accuracy by 5-fold cross-validation, with 95 % intervals")
    for name, result in results.items():
        row = result.metrics.loc["accuracy"]
        say(f"    {name:<33}{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    best = max(("pooled", "deep"), key=lambda r: results[f"linear probe, {r}"].accuracy)
    say("", f"Share of each class that the linear probe, {best}, finds")
    for name, row in results[f"linear probe, {best}"].per_class.iterrows():
        low, high = row["sensitivity_low"], row["sensitivity_high"]
        say(f"    {name:<33}{row['sensitivity']:.3f} [{low:.3f}, {high:.3f}]")
    aid = Classifier.fit(table.readout(best), encoder)
    aid.save(out)
    say("", f"Decision aid saved: python -m cliplib classify {out} FOLDER_OR_FILES")
    for name, value in aid.about.items():
        say(f"    {name}: {value:.3f}" if isinstance(value, float) else f"    {name}: {value}")


def classify(aid: str, files: Sequence[str], prefix: str) -> None:
    """Write what a decision aid says of a folder or of files."""
    classifier = Classifier.load(aid)
    given = files[0] if len(files) == 1 else files
    rows = classifier.classify(given)
    if np.isinf(classifier.min_probability):
        say("This decision aid abstains on everything: no probability made its answers reliable.")
    said = rows["class"].where(~rows["abstained"], "no answer, " + rows["reason"])
    say_list("Files", (rows["file"] + ": " + said).tolist())
    say_list("Unreadable", rows.loc[rows["error"] != "", "error"].tolist())
    write_csv(rows, f"{prefix}.csv")
    write_html(rows, f"{prefix}.html", classifier, given)
    say(f"Written: {prefix}.csv, {prefix}.html")


def read_images(source: str, kind: str) -> Any:
    """Return id and image of all files in a folder, of Parquet files or of WebDataset tars."""
    import ray.data

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
        (deep,) = self.encoder.map(images, errors=errors)
        features = deep[:, self.columns] if deep.size else np.zeros((n, len(self.columns)), "f4")
        why = [errors.get(row, "") for row in range(n)]
        return {"id": batch["id"], "features": features, "encoder": [self.made] * n, "error": why}


def encode(source: str, output: str, kind: str, model: str, readout: str, actors: int) -> None:
    """Encode the images that `output` lacks with Ray Data, on this machine or on a cluster.

    Both places are folders or URIs that all machines see. Parquet files keep id, features, encoder
    and error; an image that cannot be read has features of 0.
    """
    import ray.data
    from pyarrow.fs import FileSystem

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
    missing = read_images(source, kind).filter(lambda row: row["id"] not in done)
    actor_pool = ray.data.ActorPoolStrategy(size=actors)
    made_by = {"compute": actor_pool, "fn_constructor_args": (model, readout)}
    missing.map_batches(BatchEncoder, batch_size=256, **made_by).write_parquet(output)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    logging.getLogger("cliplib.images").setLevel(logging.ERROR)  # unreadable files are named below
    parser = argparse.ArgumentParser("python -m cliplib", description=__doc__)
    try:
        if arguments[:1] == ["classify"]:
            parser.add_argument("aid", metavar="AID")
            parser.add_argument("files", nargs="+", metavar="FOLDER_OR_FILES")
            parser.add_argument("--out-prefix", dest="prefix", default="answers")
            classify(**vars(parser.parse_args(arguments[1:])))
        elif arguments[:1] == ["encode"]:
            parser.add_argument("source", metavar="INPUT")
            parser.add_argument("output", metavar="OUTPUT")
            kinds = ("images", "parquet", "webdataset")
            parser.add_argument("--kind", choices=kinds, default="images")
            parser.add_argument("--model", default="")
            parser.add_argument("--readout", default="pooled")
            parser.add_argument("--actors", type=int, default=2)
            encode(**vars(parser.parse_args(arguments[1:])))
        else:
            parser.add_argument("folder", metavar="FOLDER")
            parser.add_argument("--out", required=True, metavar="AID")
            parser.add_argument("--model", default="", help="hub id or folder (default: mini)")
            train(**vars(parser.parse_args(arguments)))
    except (ValueError, OSError, KeyboardInterrupt) as error:
        sys.stderr.write(f"{str(error) or 'Stopped; the same command goes on from there.'}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
