"""Write ``cliplib/mini/training_hashes.npy``: hashes of the images trained on.

``python -m study.recipe.hashes CORPUS``, where CORPUS is the folder of the
images' Parquet files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cliplib.data.cache import map_images
from cliplib.features.hashes import image_hash
from cliplib.inspection.training_overlap import FILE, short_hashes
from study.recipe.corpus import read_corpus


def write_hashes(corpus: Path) -> None:
    """Hash the images of a corpus that were not held out, and write the file."""
    contents = [image.data for image in read_corpus(corpus) if not image.held_out]
    (hashes,) = map_images(contents, image_hash, progress="corpus")
    np.save(str(FILE), np.sort(short_hashes(hashes)))


if __name__ == "__main__":
    write_hashes(Path(sys.argv[1]))
