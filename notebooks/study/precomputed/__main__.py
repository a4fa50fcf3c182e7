"""Write what is known of the images of the named data sets anew, into text files here.

``python -m study.precomputed DATA``, where DATA is the folder of the images.
``NAME_groups.csv`` holds the near-duplicates of each set. Brain MRI is compared with
two collections that it was made of: J. Cheng's (figshare 1512427) in
``external/brain_tumor_figshare``, files ``CLASS/NNNN.jpg`` with ``patients.csv`` (file,
patient, fold) and ``boxes.csv`` (file, x_center, y_center, width, height); and healthy
slices of Br35H in ``external/br35h_healthy``. So ``brain_tumor_mri_patients.csv``,
``_boxes.csv`` and ``_sources.csv`` come about. Patients are told as `study.series` has
it: by the stem of their number, which keeps the series and the author's fold.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import NDArray

from cliplib.data.cache import ResultCache, map_images
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.duplicates import (
    MIN_CORRELATION,
    find_near_duplicates,
    near_duplicate_groups,
)
from cliplib.features.hashes import image_hash
from cliplib.features.table import FeatureTable
from study.compact import save_compact
from study.crops import COMMITTED, committed_boxes, crop_table
from study.data import DATASETS, load_dataset
from study.features import load_features
from study.series import with_series

logger = logging.getLogger("study.precomputed")

HERE = Path(__file__).parent
SET_WITH_SOURCES = "brain_tumor_mri"
CHENG = "external/brain_tumor_figshare"
BR35H = "external/br35h_healthy"
LOOSE_CORRELATION = 0.4
"""Looser than for copies, to see how near an image without an original comes to one."""
KNOWN_OF_PATIENTS = ["patient", "examination", "series", "fold", "author_fold"]
TO_IMAGE = {
    "": (False, False, False),
    "mirrored": (False, True, False),
    "flipped": (False, False, True),
    "turned 180°": (False, True, True),
    "turned 90° left": (True, True, False),
    "turned 90° right": (True, False, True),
    "transposed": (True, False, False),
    "transversed": (True, True, True),
}
"""From a place in the original to that in the image, for each of `ORIENTATIONS`:
whether x and y are swapped, and whether x, and y, are then counted from the other side.
"""


def closest_originals(
    hashes: NDArray[np.uint8], originals: list[Path], cache: ResultCache
) -> pd.DataFrame:
    """Return for each image the most similar file of `originals`, if there is one.

    Parameters
    ----------
    hashes
        Of the images, from `image_hash`, a row for each.
    originals
        Files of a collection that the images may be from.
    cache
        Of the originals' hashes.

    Returns
    -------
    DataFrame
        By index_a, the row of an image in `hashes`: index_b, the position of the file
        in `originals`; orientation, how the image is turned or mirrored to become it;
        and correlation. From `MIN_CORRELATION` on both show the same; below, they are
        merely similar.
    """
    (original_hashes,) = map_images(
        originals, image_hash, cache=cache, progress="originals"
    )
    pairs = find_near_duplicates(
        hashes,
        original_hashes,
        copies=LOOSE_CORRELATION,
        cropped=False,
    )
    by_correlation = pairs.sort_values("correlation")  # the closest comes last
    closest = by_correlation.drop_duplicates("index_a", keep="last")
    return closest.set_index("index_a").sort_index()


def matches_with_cheng(
    ids: pd.Series, links: pd.DataFrame, originals: pd.DataFrame
) -> pd.DataFrame:
    """Return the images that show the same as an original of Cheng's, and which.

    `ids` are of all images, by row; `links` are from `closest_originals`; `originals`
    is from `with_series`, in the order of the files there. Each image returned has
    what is known of its original, its id, and the orientation. They are in the order of
    `ids`.
    """
    # The index is the row of the image, index_b that of the original.
    same = links[links["correlation"] >= MIN_CORRELATION]
    return originals.loc[same["index_b"]].assign(
        id=ids[same.index].to_numpy(), orientation=same["orientation"].to_numpy()
    )


def patients_of(matches: pd.DataFrame) -> pd.DataFrame:
    """Return id, patient, examination, series and folds of each image.

    `matches` are from `matches_with_cheng`. Patients and examinations are numbered
    anew, from 1, as they first appear; series and folds, 1 to 5, stay.
    """
    known = matches[["id", *KNOWN_OF_PATIENTS]]
    anew = {
        name: pd.factorize(known[name])[0] + 1  # from 1, as they first appear
        for name in ("patient", "examination")
    }
    return known.assign(**anew)


def boxes_of(matches: pd.DataFrame, box_of_file: pd.DataFrame) -> pd.DataFrame:
    """Return id and box of each image, from `matches_with_cheng`.

    `box_of_file` has, by original, x_center, y_center, width and height in shares of
    the sides; the table returned has those in the image, to two decimals.
    """
    boxes = box_of_file.loc[matches["file"]].to_numpy()
    turned = [
        orient_box(box, orientation)
        for box, orientation in zip(boxes, matches["orientation"], strict=True)
    ]
    table = pd.DataFrame(turned, columns=box_of_file.columns).round(2)
    table.insert(0, "id", matches["id"].to_numpy())
    return table


def orient_box(box: NDArray[np.float64], orientation: str) -> NDArray[np.float64]:
    """Return where a box in the original lies in the image.

    Both are x_center, y_center, width and height in shares of the sides. `orientation`,
    a key of `TO_IMAGE`, is how the image is turned or mirrored to become the original:
    the box goes the other way.
    """
    swaps_axes, flips_x, flips_y = TO_IMAGE[orientation]
    x, y, width, height = box
    if swaps_axes:
        x, y = y, x
        width, height = height, width
    if flips_x:
        x = 1 - x
    if flips_y:
        y = 1 - y
    return np.array([x, y, width, height])


def sources_of(ids: pd.Series, links: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return id, source and correlation of each image.

    `ids` are of the images, by row; `links` has what `closest_originals` found in each
    source, by its name. The source is that of the most similar original, or "other" if
    its correlation is below `MIN_CORRELATION`. The correlation, 0 where no original is
    similar, is noted: the farther from that threshold, the surer is the source.
    """
    # A row for each image, a column for each source; NaN, then 0, without an original.
    correlation = pd.DataFrame(
        {name: found["correlation"] for name, found in links.items()}, index=ids.index
    ).fillna(0.0)
    closest = correlation.max(axis=1)
    source = correlation.idxmax(axis=1).where(closest >= MIN_CORRELATION, "other")
    return pd.DataFrame({"id": ids, "source": source, "correlation": closest.round(3)})


def write(table: pd.DataFrame, name: str) -> None:
    """Write a table into ``NAME.csv`` beside this file."""
    table.to_csv(HERE / f"{name}.csv", index=False, lineterminator="\n")


def write_sources(
    ids: pd.Series, hashes: NDArray[np.uint8], data: Path, cache: ResultCache
) -> None:
    """Write the files of patients, boxes and sources of brain MRI beside this file.

    `ids` and `hashes`, from `image_hash`, are of its images, in the same order; `data`
    is the folder that holds the two collections.
    """
    listed = pd.read_csv(data / CHENG / "patients.csv", dtype={"patient": str})
    originals = with_series(listed)
    box_of_file = pd.read_csv(data / CHENG / "boxes.csv").set_index("file")
    cheng_files = [data / CHENG / file for file in originals["file"]]
    br35h_files = sorted((data / BR35H).glob("*.jpg"))
    links = {
        "cheng": closest_originals(hashes, cheng_files, cache),
        "br35h": closest_originals(hashes, br35h_files, cache),
    }
    sources = sources_of(ids, links)
    matches = matches_with_cheng(ids, links["cheng"], originals)
    write(patients_of(matches), f"{SET_WITH_SOURCES}_patients")
    write(boxes_of(matches, box_of_file), f"{SET_WITH_SOURCES}_boxes")
    write(sources, f"{SET_WITH_SOURCES}_sources")
    logger.info("Sources: %s", sources["source"].value_counts().to_dict())


def write_crops(dataset: Dataset) -> None:
    """Write the embedded model's features of brain MRI's cropped tumours.

    `dataset` is brain MRI; where its tumours lie, `write_sources` has written.
    """
    encoder = ClipEncoder()
    images = dict(zip(dataset["id"][:], list(dataset["image"]), strict=True))
    table = load_features(SET_WITH_SOURCES, encoder)
    crops = crop_table(table, images, committed_boxes(), encoder)
    save_compact(crops, COMMITTED)


def main(data: Path) -> None:
    """Write near-duplicate groups of each named set, and what is known of brain MRI.

    Features of the cropped tumours are written last.

    ValueError if the folder `data` lacks the images of a set.
    """
    cache = ResultCache()
    for name in DATASETS:
        dataset = load_dataset(name, data=data)
        if dataset is None:
            raise ValueError(
                f"{data} has no images of {name}: its files stay as they are."
            )
        ids = pd.Series(dataset["id"][:])
        (hashes,) = map_images(
            list(dataset["image"]), image_hash, cache=cache, progress=name
        )
        table = FeatureTable.load(HERE / f"{name}.safetensors")
        rows = pd.Series(range(len(table)), table.ids)[ids]
        copies = near_duplicate_groups(hashes, features=table.features[rows])
        groups = pd.DataFrame({"id": ids, "group": copies})
        write(groups, f"{name}_groups")
        logger.info(
            "%s: %d images, %d groups", name, len(ids), groups["group"].nunique()
        )
        if name == SET_WITH_SOURCES:
            write_sources(ids, hashes, data, cache)
            write_crops(dataset)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) != 2:
        sys.exit("Name the folder of the images: python -m study.precomputed DATA")
    main(Path(sys.argv[1]))
