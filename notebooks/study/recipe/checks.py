"""Measure what the embedded CLIP can do: ``checks.json``, and the table in its card.

    python -m study.recipe.checks CHECKPOINT CORPUS DATA

DATA holds the images of TrashNet and of the Brain Tumor MRI Dataset, CORPUS what the
model was trained on. Probes choose on validation images; zero-shot classification and
retrieval see images that were never trained on.
"""

from __future__ import annotations

import argparse
import logging
import re
import timeit
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib.data.arrays import Features, Ints
from cliplib.data.cache import ResultCache, map_images
from cliplib.encoders.clip import ClipEncoder
from cliplib.evaluation.intervals import ratio_intervals
from cliplib.features.table import FeatureTable
from cliplib.inspection.zero_shot import zero_shot, zero_shot_weights
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.mlp import MLPProbe
from study.baselines import efficientnet
from study.data import DATASETS, DatasetSpec, load_dataset
from study.features import load_features
from study.folds import out_of_fold_proba
from study.random_weights import randomize_weights
from study.ranking import rank_metrics
from study.recipe.corpus import PROMPTS, read_corpus

logger = logging.getLogger(f"cliplib.{__name__}")

RANDOM, OURS, TEACHER = "random weights", "this model", "vision teacher"
MODELS = (RANDOM, OURS, TEACHER)
SETS = ("trashnet", "brain_tumor_mri")
SCENES = ("flickr8k_1k", "coco_mini")
POOLED_OF_TEACHER = 1280  # the first columns of `study.baselines.efficientnet`
PHOTOS = 100  # whose encoding is timed

Row = dict[str, Any]


def share_row(right: ArrayLike, groups: ArrayLike | None = None, **about: str) -> Row:
    """Return a row of ``checks.json``: the share of n answers that are right.

    `right` (n,) says of each answer whether it is. The row consists of `about`, which
    says what was checked (``check``, ``data``, ``model``, ``readout``); n; the share as
    value; and low and high, its 95% interval over `groups` (n,), by default over
    answers.
    """
    answers = pd.Series(right, dtype=bool)
    interval = ratio_intervals(answers, groups=groups).iloc[0]  # value, low, high
    return {**about, "n": len(answers), **interval}


class FiveNetworks:
    """Five MLP probes, seeds 0 to 4, whose logits are averaged."""

    def fit(self, X: Features, y: Ints, **validation: Any) -> None:
        """Fit each of them to all rows; `validation` is X_val and y_val."""
        self.networks = [MLPProbe(seed=s).fit(X, y, **validation) for s in range(5)]

    def predict(self, X: Features) -> Ints:
        """Return the class of the largest mean logit of each row, (n,)."""
        logits = np.mean([network.logits(X) for network in self.networks], axis=0)
        return np.asarray(self.networks[0].classes_[logits.argmax(axis=1)])


def check_probes(
    table: FeatureTable, *, data: str, model: str, readout: str
) -> Iterator[Row]:
    """Yield the accuracies of probes on the features of `model`, one of `MODELS`.

    Of `OURS`, three probes on the published split and two in cross-validation; of the
    others, two on the published split. The keywords are entries of each row.
    """
    about = {"data": data, "model": model, "readout": readout}
    linear = LinearProbe()
    kernel = KernelProbe()
    yield from _on_published_split(table, "linear probe", linear, about, by_class=True)
    yield from _on_published_split(table, "kernel probe", kernel, about)
    if model == OURS:
        yield from _on_published_split(table, "MLP probe", FiveNetworks(), about)
        yield from _in_folds(table, "linear probe", linear, about)
        yield from _in_folds(table, "kernel probe", kernel, about)


def _on_published_split(
    table: FeatureTable,
    name: str,
    probe: Any,
    about: Mapping[str, str],
    *,
    by_class: bool = False,
) -> Iterator[Row]:
    """Fit a probe on the training part; yield its accuracy on the test part.

    The probe chooses its settings on the validation part; if there is none, on training
    rows that it sets aside. `by_class` adds a row for each class: the share of the
    class's test images that are recognised.
    """
    train = table.split("train")
    test = table.split("test")
    if (table.splits == "val").any():
        val = table.split("val")
        probe.fit(train.features, train.labels, X_val=val.features, y_val=val.labels)
    else:
        probe.fit(train.features, train.labels)
    right = probe.predict(test.features) == test.labels
    yield share_row(right, test.groups, check=f"{name}, published split", **about)
    if not by_class:
        return
    for label, class_name in enumerate(table.classes):
        is_of_class = test.labels == label
        right_of_class = right[is_of_class]
        groups = test.groups[is_of_class]
        yield share_row(right_of_class, groups, check=f"class {class_name}", **about)


def _in_folds(
    table: FeatureTable, name: str, probe: Any, about: Mapping[str, str]
) -> Iterator[Row]:
    """Yield the accuracy of a probe in cross-validation, in one or two rows.

    In the first, no copy of an image is in another fold; in the second, no image of a
    patient. There is no second where patients are not known.
    """
    without_copies = out_of_fold_proba(probe, table, groups=table.copies)
    right = without_copies.argmax(axis=1) == table.labels
    yield share_row(right, table.groups, check=f"{name}, without copies", **about)
    if (table.groups == table.copies).all():  # patients are not known
        return
    by_patient = out_of_fold_proba(probe, table)  # by table.groups
    right = by_patient.argmax(axis=1) == table.labels
    yield share_row(right, table.groups, check=f"{name}, by patient", **about)


def check_set(encoder: ClipEncoder, name: str, evaluation: Path) -> Iterator[Row]:
    """Yield accuracies on a data set: of probes on each of `MODELS`, then zero-shot.

    `name` is its key in `DATASETS`; `evaluation` is the folder of its images.
    """
    spec = DATASETS[name]
    # Features are computed by the encoder, not read from the committed tables.
    load = partial(load_features, name, data=evaluation, precomputed=False)
    deep = load(encoder)
    bfloat16 = load(ClipEncoder(encoder.name, dtype="bfloat16"))
    # The same features; only by the readout's name do rows differ from float32's.
    bfloat16 = bfloat16.with_features(bfloat16.features, readout="deep, bfloat16")
    measured = [
        (RANDOM, load(randomize_weights(encoder))),
        (OURS, deep.with_readout("pooled")),
        (TEACHER, teacher_table(deep, name, evaluation, encoder.cache)),
        (OURS, bfloat16),
        (OURS, deep),  # last: `markdown` shows the last readout of a model
    ]
    for model, table in measured:
        readout = table.readout
        yield from check_probes(table, data=spec.title, model=model, readout=readout)
    yield _zero_shot_row(encoder, deep.split("test"), spec)


def teacher_table(
    table: FeatureTable, name: str, evaluation: Path, cache: ResultCache | None
) -> FeatureTable:
    """Return `table`, of the data set `name`, with the teacher's pooled features.

    The teacher is EfficientNet-Lite0. ValueError if the folder `evaluation` does not
    have the table's images, in its order.
    """
    dataset = load_dataset(name, data=evaluation)
    if dataset is None or dataset["id"][:] != table.ids.tolist():
        raise ValueError(f"{evaluation} does not hold the images of {name}.")
    (features,) = map_images(dataset["image"], efficientnet(), cache=cache)
    return table.with_features(features[:, :POOLED_OF_TEACHER], readout="pooled")


def _zero_shot_row(encoder: ClipEncoder, test: FeatureTable, spec: DatasetSpec) -> Row:
    """Return the share of test images that are classified rightly by class names."""
    proba = zero_shot(encoder, test, spec.phrases, spec.templates)
    right = proba.argmax(axis=1) == test.labels
    return share_row(right, test.groups, check="zero-shot", data=spec.title)


def check_speed(encoder: ClipEncoder, evaluation: Path) -> Iterator[Row]:
    """Yield how many images a second are encoded, from file to features.

    There is a row for each of three pairs of image size and precision; its interval is
    over five repetitions. ValueError if the folder `evaluation` lacks the images.
    """
    dataset = load_dataset(SETS[0], data=evaluation)
    if dataset is None:
        raise ValueError(f"{evaluation} does not hold the images of {SETS[0]}.")
    photos = dataset["image"][:PHOTOS]
    for pixels, dtype in ((224, "float32"), (224, "bfloat16"), (160, "bfloat16")):
        fresh = ClipEncoder(encoder.name, cache=None, image_size=pixels, dtype=dtype)
        encode = partial(fresh.encode_images, photos, progress=False)
        seconds = timeit.repeat(encode, number=1, repeat=5)
        encoded = np.full(len(seconds), len(photos))
        # The sum of the images by the sum of the seconds: value, low and high.
        speed = ratio_intervals(encoded, seconds).iloc[0]
        yield {"check": f"images a second, {pixels} px, {dtype}", **speed}


def check_held_out(encoder: ClipEncoder, corpus: Path) -> Iterator[Row]:
    """Yield zero-shot accuracy and retrieval recall on images not trained on.

    Those of Caltech-101 are classified; those of other files are found by caption.
    """
    images = read_corpus(corpus)
    objects = {image.label for image in images if image.source == "caltech101"}
    held_out = [image for image in images if image.held_out]
    # Features of images and of their first captions, in one space, row by row.
    features = encoder.encode_images(
        [image.data for image in held_out], readout="projected"
    )
    captions = encoder.encode_texts([image.captions[0] for image in held_out])
    labels = np.array([image.label for image in held_out])
    sources = np.array([image.source for image in held_out])
    is_object = sources == "caltech101"
    is_scene = np.isin(sources, SCENES)
    yield _objects_row(encoder, features[is_object], labels[is_object], sorted(objects))
    for data, is_part in (
        ("held-out captions", ~is_object),
        ("held-out captions of scenes", is_scene),
    ):
        of_texts = captions[is_part]
        of_images = features[is_part]
        check = "text to image, recall@10"
        yield _retrieval_row(of_texts, of_images, check=check, data=data)
        check = "image to text, recall@10"
        yield _retrieval_row(of_images, of_texts, check=check, data=data)


def _objects_row(
    encoder: ClipEncoder, features: Features, labels: NDArray[np.str_], names: list[str]
) -> Row:
    """Return the share of n images that are classified rightly by class names.

    `features` (n, d) are projected; `labels` (n,) are the right ones among `names`.
    """
    prompts = PROMPTS[1:]  # without the first, the bare name
    directions = zero_shot_weights(encoder, names, prompts)  # (classes, d)
    best = (features @ directions.T).argmax(axis=1)
    right = np.array(names)[best] == labels
    return share_row(right, check="zero-shot", data=f"Caltech-101, {len(names)} names")


def _retrieval_row(queries: ArrayLike, gallery: ArrayLike, **about: str) -> Row:
    """Return the row of recall@10: the share of queries that find their gallery row.

    Both are (n, d); gallery row i has to be among the ten most similar to query i.
    """
    # Each has a label of its own, so that only row i is right for query i.
    labels = np.arange(len(np.asarray(queries)))
    measures = rank_metrics(queries, gallery, labels, labels)
    return share_row(measures["recall_at_10"] == 1, **about)


def markdown(checks: pd.DataFrame) -> str:
    """Return the checks of `run_checks` as the Markdown table of the model's card.

    It has a row for each data and check, a column for each model, and in its cells the
    share with its interval: "60.0% [10.0%, 90.0%]". Of several readouts of a model the
    last is shown. Single classes, and what belongs to no data, such as speed, are not.
    """
    keys = ["data", "check", "model"]
    is_class = checks["check"].str.startswith("class ")
    shown = checks[(checks["data"] != "") & ~is_class]
    shown = shown.drop_duplicates(keys, keep="last").set_index(keys)
    texts = [
        f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]" for row in shown.itertuples()
    ]
    by_model = pd.Series(texts, shown.index).unstack(sort=False, fill_value="")
    by_model = by_model.reindex(columns=list(MODELS), fill_value="")
    lines = [f"| | {' | '.join(MODELS)} |", "|---|---|---|---|"]
    for (data, check), cells in by_model.iterrows():
        lines.append(f"| {data}, {check} | {' | '.join(cells)} |")
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
