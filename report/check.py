"""How far features of these images are from the committed ones, as a check."""

from __future__ import annotations

import numpy as np

from cliplib import ClipEncoder, LinearProbe
from cliplib.data.datasets import DATASETS, load_dataset
from cliplib.features.extract import load_precomputed
from cliplib.features.splits import stratified_subset


def check_features(limit: int = 0) -> str:
    """Say by how much an accuracy differs between these images and the tables.

    A linear probe, fitted on the committed features, is tested on the published test
    part, or on about `limit` images of it: on the committed features, and on those of
    these images.
    """
    encoder = ClipEncoder()
    found = [accuracy_difference(name, encoder, limit) for name in DATASETS]
    differences = [difference for difference in found if difference is not None]
    if not differences:
        return "Features of these images could not be compared with the committed ones."
    return (
        "Features of these images, compared with the committed ones: accuracies of the "
        f"linear probe differ by at most {100 * max(differences):.2f} points."
    )


def accuracy_difference(
    name: str, encoder: ClipEncoder, limit: int = 0
) -> float | None:
    """Return by how much, from 0 to 1, the accuracy on a data set differs.

    The accuracies are those of `check_features`, both of the same images and of one
    probe, so that an interval is not needed. None without images or published split.
    """
    images = load_dataset(name)
    table = load_precomputed(name, encoder)
    if images is None or "test" not in table.splits:
        return None
    train, test = table.train_test_split()
    row_of = {id: row for row, id in enumerate(images["id"][:])}
    test = test.select([row for row, id in enumerate(test.ids) if id in row_of])
    test = test.select(stratified_subset(test.labels, test.splits, limit))
    (encoded,) = encoder.map(images.select([row_of[id] for id in test.ids])["image"])
    probe = LinearProbe().fit(train.features, train.labels, groups=train.groups)
    committed_accuracy = np.mean(probe.predict(test.features) == test.labels)
    accuracy = np.mean(probe.predict(encoded) == test.labels)
    return float(abs(committed_accuracy - accuracy))
