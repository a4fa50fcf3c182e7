"""Measure what the embedded CLIP can do: ``checks.json``, and the table in its card.

    python -m cliplib.study.recipe.checks CHECKPOINT CORPUS DATA

DATA holds the images of TrashNet and of the Brain Tumor MRI Dataset, CORPUS what the
model was trained on. Probes choose on validation images; zero-shot classification and
retrieval see images that were never trained on.
"""

from __future__ import annotations

import argparse
import logging
import re
import timeit
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.encode.clip import ClipEncoder
from cliplib.images.cache import map_images
from cliplib.images.data import DATASETS, DatasetSpec, load_dataset
from cliplib.judge.intervals import ratio_intervals
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.mlp import MLPProbe
from cliplib.study.baselines import efficientnet
from cliplib.study.ranking import rank_metrics
from cliplib.study.recipe.corpus import PROMPTS, CorpusImage, read_corpus
from cliplib.tables.extract import load_features
from cliplib.tables.features import FeatureTable
from cliplib.tables.splits import out_of_fold_proba
from cliplib.tools.maps import randomize_weights
from cliplib.tools.words import zero_shot, zero_shot_weights

logger = logging.getLogger(__name__)

RANDOM, OURS, TEACHER = "random weights", "this model", "vision teacher"
MODELS = (RANDOM, OURS, TEACHER)
SETS = ("trashnet", "brain_tumor_mri")
SCENES = ("flickr8k_1k", "coco_mini")
POOLED_OF_TEACHER = 1280  # the first columns of `cliplib.study.baselines.efficientnet`
PHOTOS = 100  # whose encoding is timed

Row = dict[str, Any]


def share_row(right: ArrayLike, groups: ArrayLike | None = None, **about: str) -> Row:
    """Return a row of ``checks.json``: the share of answers that are right.

    `right` says of each answer, (n,), whether it is. The 95% interval, from low to
    high, is over `groups` (n,), by default over answers. `about` says what was checked,
    such as ``check``, ``data`` and ``model``.
    """
    answers = pd.Series(right, dtype=bool)
    interval = ratio_intervals(answers, groups=groups).iloc[0]
    return {**about, "n": len(answers), **interval}


def check_probes(table: FeatureTable, **about: str) -> Iterator[Row]:
    """Yield the accuracy of probes, on the published split and in cross-validation.

    If ``about["model"]``, whose features the table holds, is not `OURS`, then only the
    linear and the kernel probe on the published split.
    """
    yield from _on_published_split(table, "linear probe", LinearProbe(), **about)
    yield from _on_published_split(table, "kernel probe", KernelProbe(), **about)
    if about["model"] != OURS:
        return
    yield from _on_published_split(table, "MLP probe", MLPProbe(), **about)
    yield from _in_folds(table, "linear probe", LinearProbe(), **about)
    yield from _in_folds(table, "kernel probe", KernelProbe(), **about)


def _on_published_split(
    table: FeatureTable, name: str, probe: Any, **about: str
) -> Iterator[Row]:
    """Fit a probe on the training part; yield its accuracy on the test part.

    For the linear probe, a row for each class follows.
    """
    train = table.split("train")
    test = table.split("test")
    if (table.splits == "val").any():
        val = table.split("val")
        probe.fit(train.features, train.labels, X_val=val.features, y_val=val.labels)
    else:  # the probe validates on random rows of the training part
        probe.fit(train.features, train.labels)
    right = probe.predict(test.features) == test.labels
    yield share_row(right, test.groups, check=f"{name}, published split", **about)
    if name != "linear probe":
        return
    for label, class_name in enumerate(table.classes):
        of_class = test.labels == label
        groups = test.groups[of_class]
        yield share_row(right[of_class], groups, check=f"class {class_name}", **about)


def _in_folds(
    table: FeatureTable, name: str, probe: Any, **about: str
) -> Iterator[Row]:
    """Yield the accuracy of a probe in cross-validation.

    First with copies kept together in a fold; then, where patients are known, with all
    images of a patient.
    """
    without_copies = out_of_fold_proba(probe, table, groups=table.copies)
    right = without_copies.argmax(axis=1) == table.labels
    yield share_row(right, table.groups, check=f"{name}, without copies", **about)
    if (table.groups == table.copies).all():
        return
    by_patient = out_of_fold_proba(probe, table)
    right = by_patient.argmax(axis=1) == table.labels
    yield share_row(right, table.groups, check=f"{name}, by patient", **about)


def check_set(encoder: ClipEncoder, name: str, evaluation: Path) -> Iterator[Row]:
    """Yield accuracies on a set: of probes, by model, and of zero-shot classification.

    `evaluation` is the folder of the sets' images.
    """
    spec = DATASETS[name]
    load = partial(load_features, name, data=evaluation, precomputed=False)
    deep = load(encoder)
    half = load(ClipEncoder(encoder.name, dtype="bfloat16"))
    # Only the readout is renamed: rows shall not be taken for those of float32.
    half = half.with_features(half.features, readout="deep, bfloat16")
    measured = [
        (RANDOM, load(randomize_weights(encoder))),
        (OURS, deep.with_readout("pooled")),
        (TEACHER, teacher_table(deep, name, evaluation, encoder)),
        (OURS, half),
        (OURS, deep),  # last: that is what the card shows
    ]
    for model, table in measured:
        about = {"data": spec.title, "model": model, "readout": table.readout}
        yield from check_probes(table, **about)
    yield _zero_shot_row(encoder, deep.split("test"), spec)


def teacher_table(
    table: FeatureTable, name: str, evaluation: Path, encoder: ClipEncoder
) -> FeatureTable:
    """Return a table with the teacher's pooled features in place of its own.

    The teacher is EfficientNet-Lite0. ValueError if `evaluation` lacks the images.
    """
    dataset = load_dataset(name, data=evaluation)
    if dataset is None or dataset["id"][:] != table.ids.tolist():
        raise ValueError(f"{evaluation} does not hold the images of {name}.")
    (features,) = map_images(dataset["image"], efficientnet(), cache=encoder.cache)
    return table.with_features(features[:, :POOLED_OF_TEACHER], readout="pooled")


def _zero_shot_row(encoder: ClipEncoder, test: FeatureTable, spec: DatasetSpec) -> Row:
    """Return the share of test images that are classified rightly by class names."""
    right = zero_shot(encoder, test, spec).argmax(axis=1) == test.labels
    return share_row(right, test.groups, check="zero-shot", data=spec.title)


def check_speed(encoder: ClipEncoder, evaluation: Path) -> Iterator[Row]:
    """Yield images encoded a second, from file to features, by size and precision.

    The interval is over five repetitions. ValueError if `evaluation` lacks the images.
    """
    dataset = load_dataset(SETS[0], data=evaluation)
    if dataset is None:
        raise ValueError(f"{evaluation} does not hold the images of {SETS[0]}.")
    photos = dataset["image"][:PHOTOS]
    for pixels, dtype in ((224, "float32"), (224, "bfloat16"), (160, "bfloat16")):
        fresh = ClipEncoder(encoder.name, cache=False, image_size=pixels, dtype=dtype)
        encode = partial(fresh.images, photos, progress=False)
        seconds = timeit.repeat(encode, number=1)
        counts = np.full(len(seconds), len(photos))
        speed = ratio_intervals(counts, seconds).iloc[0]
        yield {"check": f"images a second, {pixels} px, {dtype}", **speed}


def check_held_out(encoder: ClipEncoder, corpus: Path) -> Iterator[Row]:
    """Yield zero-shot accuracy and retrieval recall on images not trained on.

    Those of Caltech-101 are classified; those of other files are found by caption.
    """
    images = read_corpus(corpus)
    held_out = [image for image in images if image.held_out]
    names = sorted({image.label for image in images if image.source == "caltech101"})
    features = encoder.images([image.data for image in held_out], readout="projected")
    yield _objects_row(encoder, held_out, features, names)
    captions = encoder.texts([image.captions[0] for image in held_out])
    sources = np.array([image.source for image in held_out])
    parts = {
        "held-out captions": sources != "caltech101",
        "held-out captions of scenes": np.isin(sources, SCENES),
    }
    for data, is_part in parts.items():
        texts_of_part = captions[is_part]
        images_of_part = features[is_part]
        check = "text to image, recall@10"
        yield _retrieval_row(texts_of_part, images_of_part, check=check, data=data)
        check = "image to text, recall@10"
        yield _retrieval_row(images_of_part, texts_of_part, check=check, data=data)


def _objects_row(
    encoder: ClipEncoder,
    images: list[CorpusImage],
    features: ArrayLike,
    names: list[str],
) -> Row:
    """Return the share of images of Caltech-101 that zero-shot classifies rightly.

    `features` are of all `images`, a row each; those of other sources are left out.
    `names` are the classes.
    """
    is_object = np.array([image.source == "caltech101" for image in images])
    labels = np.array([image.label for image in images])[is_object]
    # The first prompt is the bare name.
    weights = zero_shot_weights(encoder, names, PROMPTS[1:])
    best = (np.asarray(features)[is_object] @ weights.T).argmax(axis=1)
    right = np.array(names)[best] == labels
    return share_row(right, check="zero-shot", data=f"Caltech-101, {len(names)} names")


def _retrieval_row(queries: ArrayLike, gallery: ArrayLike, **about: str) -> Row:
    """Return the row of recall@10: the share of queries that find their gallery row.

    Both are (n, d); gallery row i has to be among the ten most similar to query i.
    """
    numbers = np.arange(len(np.asarray(queries)))
    measures = rank_metrics(queries, gallery, numbers, numbers)
    return share_row(measures["recall_at_10"] == 1, **about)


def markdown(checks: pd.DataFrame) -> str:
    """Return checks as the card's table: what was checked as rows, models as columns.

    `checks` are from `run_checks`. Of several readouts of a model the last is shown.
    Single classes, and what belongs to no data, such as speed, are left out.
    """
    keys = ["data", "check", "model"]
    is_class = checks["check"].str.startswith("class ")
    shown = checks[(checks["data"] != "") & ~is_class]
    shown = shown.drop_duplicates(keys, keep="last").set_index(keys)
    cells = pd.Series(
        [
            f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]"
            for row in shown.itertuples()
        ],
        shown.index,
    )
    by_model = cells.unstack(sort=False, fill_value="")
    by_model = by_model.reindex(columns=list(MODELS), fill_value="")
    lines = [f"| | {' | '.join(MODELS)} |", "|---|---|---|---|"]
    for (data, check), row in by_model.iterrows():
        lines.append(f"| {data}, {check} | {' | '.join(row)} |")
    return "\n".join(lines)


def run_checks(folder: Path, corpus: Path, evaluation: Path) -> pd.DataFrame:
    """Return everything that is measured, a row for each check.

    Columns are check, data, model, readout, n, value, low and high. `folder` is that of
    the checkpoint, `evaluation` that of the sets' images, `corpus` what it learnt from.
    """
    encoder = ClipEncoder(folder)
    rows: list[Row] = []
    for name in SETS:
        rows += check_set(encoder, name, evaluation)
    rows += check_speed(encoder, evaluation)
    rows += check_held_out(encoder, corpus)
    bytes_of_weights = (folder / "model.safetensors").stat().st_size
    rows.append({"check": "megabytes", "value": bytes_of_weights / 1e6})
    checks = pd.DataFrame(rows)
    return checks.fillna({"data": "", "model": OURS, "readout": ""})


def main(folder: Path, corpus: Path, evaluation: Path) -> None:
    """Write ``checks.json``, and its table into the card, beside the checkpoint."""
    checks = run_checks(folder, corpus, evaluation)
    checks.to_json(folder / "checks.json", orient="records", indent=1)
    table = markdown(checks)
    logger.info("%s", table)
    card = folder / "README.md"
    if not card.exists():  # a checkpoint trained for comparison has none
        return
    marked = f"<!-- results -->\n{table}\n<!-- end -->"
    text = card.read_text("utf-8")
    # By a function, because re.sub would read backslashes in a replacement text.
    filled = re.sub("(?s)<!-- results -->.*<!-- end -->", lambda _: marked, text)
    card.write_text(filled, "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for argument in ("folder", "corpus", "evaluation"):
        parser.add_argument(argument, type=Path)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(**vars(parser.parse_args()))
