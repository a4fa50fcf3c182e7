"""Write the groups of near-duplicates and the patients of the named data sets anew.

``python -m cliplib.study.precomputed DATA``, where DATA is the folder of the images,
with J. Cheng's collection (figshare 1512427) in ``external/brain_tumor_figshare``:
files ``CLASS/NNNN.jpg`` and ``patients.csv`` with the columns file, patient and fold.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cliplib.images.cache import FeatureCache, map_images
from cliplib.images.data import DATASETS, load_dataset
from cliplib.tables.audit import find_near_duplicates, image_hash, near_duplicate_groups

logger = logging.getLogger("cliplib.study.precomputed")

HERE = Path(__file__).parent
TRACED = "brain_tumor_mri"
COLLECTION = "external/brain_tumor_figshare"


def trace_patients(
    ids: list[str], hashes: NDArray[np.uint8], collection: Path, cache: FeatureCache
) -> pd.DataFrame:
    """Find each image of `ids` in a collection of known patients: id, patient, fold.

    Of several originals the one that correlates most counts. Patients are numbered from
    1 in the order of the ids; the folds, 1 to 5, are those of the collection's author.
    """
    known = pd.read_csv(collection / "patients.csv")
    files = [collection / name for name in known["file"]]
    (originals,) = map_images(files, image_hash, cache=cache, progress=collection.name)
    pairs = find_near_duplicates(hashes, originals).sort_values("correlation")
    closest = pairs.drop_duplicates("index_a", keep="last").sort_values("index_a")
    original = known.loc[closest["index_b"]]
    return pd.DataFrame(
        {
            "id": np.array(ids)[closest["index_a"]],
            "patient": pd.factorize(original["patient"])[0] + 1,
            "fold": original["fold"].to_numpy(),
        }
    )


def main(data: Path) -> None:
    """Write ``NAME_groups.csv`` of each named set, and the patients of brain MRI."""
    cache = FeatureCache()
    for name in DATASETS:
        dataset = load_dataset(name, data=data)
        if dataset is None:
            raise ValueError(
                f"{data} has no images of {name}: its files stay as they are."
            )
        ids = list(dataset["id"])
        (hashes,) = map_images(
            list(dataset["image"]), image_hash, cache=cache, progress=name
        )
        groups = pd.DataFrame({"id": ids, "group": near_duplicate_groups(hashes)})
        groups.to_csv(HERE / f"{name}_groups.csv", index=False, lineterminator="\n")
        logger.info(
            "%s: %d images, %d groups", name, len(ids), groups["group"].nunique()
        )
        if name == TRACED:
            patients = trace_patients(ids, hashes, data / COLLECTION, cache)
            patients.to_csv(
                HERE / f"{name}_patients.csv", index=False, lineterminator="\n"
            )
            logger.info("%d of them show a known patient", len(patients))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) != 2:
        sys.exit(
            "Name the folder of the images: python -m cliplib.study.precomputed DATA"
        )
    main(Path(sys.argv[1]))
