"""Erase the object and see whether a probe still knows the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from cliplib.app.questions import fit_with_groups
from cliplib.encode.clip import ClipEncoder
from cliplib.images.arrays import Features, Ints
from cliplib.images.image import ImageSource, image_name, load_image
from cliplib.judge.intervals import Share, compare, ratio_intervals
from cliplib.probes.base import Probe
from cliplib.tables.features import FeatureTable
from cliplib.tables.groups import read_text_table
from cliplib.tables.splits import group_folds
from cliplib.tools.erase import Box, erase

BOX_COLUMNS = ("file", "x_center", "y_center", "width", "height")
WHOLE = "as they are"
WITHOUT = "object erased"
CONTROL = "as much erased on the other side"
EXAMPLES = 3
IMAGES_A_BATCH = 64


@dataclass(frozen=True, eq=False)
class Erased:
    """What a probe makes of images without their object.

    Attributes
    ----------
    accuracy
        images, value, low and high: as they are, without the object, and with as much
        erased on the other side of the middle, where that does not meet the object.
    loss
        Accuracy that erasing the object costs.
    control_loss
        What erasing as much elsewhere costs; None where no box leaves room for it.
    examples
        Ids of some images, and the image as it is and without its object.
    """

    accuracy: pd.DataFrame
    loss: Share
    control_loss: Share | None
    examples: Sequence[tuple[str, Image.Image, Image.Image]]


def read_boxes(path: str, ids: Sequence[str]) -> dict[str, Box]:
    """Read where the objects lie.

    Parameters
    ----------
    path
        A CSV file (file, x_center, y_center, width, height): an id, or a file name that
        only one image has, and shares of the image's sides.
    ids
        The images' ids.

    Returns
    -------
    dict
        The box of each image that has one, by id.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a row names no image, or its numbers are no box.
    """
    by_name = pd.Series(list(ids), [PurePosixPath(name).name for name in ids])
    by_name = by_name[~by_name.index.duplicated(keep=False)]
    known = set(ids)
    boxes = {}
    listed = read_text_table(Path(path), BOX_COLUMNS)
    for file, *numbers in listed.itertuples(index=False):
        name = file if file in known else by_name.get(file)
        if name is None:
            raise ValueError(f"{path!r} names {file!r}, which is no image here.")
        try:
            boxes[name] = Box(*map(float, numbers))
        except ValueError as error:
            raise ValueError(f"{path!r}, {file!r}: {error}") from error
    return boxes


def erase_and_see(
    probe: Probe,
    table: FeatureTable,
    encoder: ClipEncoder,
    images: Sequence[ImageSource],
    boxes: Mapping[str, Box],
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> Erased:
    """Test a probe on images without their object, trained on whole images.

    Parameters
    ----------
    probe
        As it shall be trained, in each fold.
    table
        In its readout, with the groups that are kept together.
    encoder
        What made the table.
    images
        The files of the table's rows, (n,).
    boxes
        Where objects lie, by id; images without one are trained on only.
    n_splits, seed
        Of the folds; the seed is also that of the filling.

    Raises
    ------
    ValueError
        If no image has a box.
    """
    rows = np.flatnonzero([name in boxes for name in table.ids])
    if not len(rows):
        raise ValueError("No image that was measured has a box.")
    marked = {int(row): boxes[table.ids[row]] for row in rows}
    other_side = {
        row: box.mirrored()
        for row, box in marked.items()
        if abs(2 * box.x_center - 1) >= box.width  # else it would meet the object
    }
    columns = encoder.columns_of(table.readout)
    seen = {WHOLE: (rows, table.features[rows])}
    for name, places in ((WITHOUT, marked), (CONTROL, other_side)):
        features = _erased_features(encoder, images, places, seed)
        seen[name] = np.array([*places], np.int64), features[:, columns]
    right = _right_out_of_fold(probe, table, seen, n_splits, seed)
    step = max(1, len(rows) // EXAMPLES)
    examples = [
        (str(table.ids[row]), *_before_and_after(images[row], marked[row], seed))
        for row in rows.tolist()[::step][:EXAMPLES]
    ]
    return _compared(right, table.groups, seed, examples)


def _erased_features(
    encoder: ClipEncoder,
    images: Sequence[ImageSource],
    boxes: Mapping[int, Box],
    seed: int,
) -> Features:
    """Encode the images of some rows, each without what its box marks, (m, d)."""
    rows = [*boxes]
    parts = [np.zeros((0, 3 * encoder.blocks * encoder.width), np.float32)]
    for start in range(0, len(rows), IMAGES_A_BATCH):  # few decoded images at a time
        batch = rows[start : start + IMAGES_A_BATCH]
        erased = [_before_and_after(images[r], boxes[r], seed)[1] for r in batch]
        parts += encoder.map(erased)
    return np.concatenate(parts)


def _before_and_after(
    source: ImageSource, box: Box, seed: int
) -> tuple[Image.Image, Image.Image]:
    image = load_image(source)
    try:
        return image, erase(image, box, seed=seed)
    except ValueError as error:
        raise ValueError(f"{image_name(source)}: {error}") from error


def _right_out_of_fold(
    probe: Probe,
    table: FeatureTable,
    seen: Mapping[str, tuple[Ints, Features]],
    n_splits: int,
    seed: int,
) -> pd.DataFrame:
    """Say by row and variant whether the answer is right; NaN where there is none."""
    right = pd.DataFrame(np.nan, range(len(table)), list(seen))
    folds = group_folds(
        table.labels,
        table.groups,
        n_splits=n_splits,
        seed=seed,
        published=table.folds,
    )
    for train_rows, test_rows in folds:
        fitted = fit_with_groups(probe, table.select(train_rows))
        for name, (rows, features) in seen.items():
            asked = np.isin(rows, test_rows)
            if asked.any():
                said = fitted.predict(features[asked])
                hits = said == table.labels[rows[asked]]
                right.loc[rows[asked], name] = hits.astype(float)
    return right


def _compared(
    right: pd.DataFrame,
    groups: Ints,
    seed: int,
    examples: Sequence[tuple[str, Image.Image, Image.Image]],
) -> Erased:
    """Compare variants on the images that each has."""

    def loss(name: str) -> Share | None:
        pair = right[[WHOLE, name]].dropna()
        if pair.empty:
            return None
        truth = np.ones(len(pair))
        gain = compare(
            truth, pair[WHOLE], pair[name], groups=groups[pair.index], seed=seed
        )
        return Share.of(gain)

    counts = right.notna()
    accuracy = ratio_intervals(
        right == 1, counts.to_numpy(float), groups=groups, seed=seed
    )
    accuracy.insert(0, "images", counts.sum())
    without = loss(WITHOUT)
    assert without is not None  # there is a box
    return Erased(accuracy, without, loss(CONTROL), examples)
