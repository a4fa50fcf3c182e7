"""What cleanvision and cleanlab's Datalab say of the same folders.

Runs in an environment of its own, called by `verdict.py`: each argument is a built
folder with ``home`` and ``peers.npz``. The last line printed is JSON, by folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cleanlab import Datalab
from cleanvision import Imagelab
from datasets import Dataset, Image

CORRELATED = 0.3
"""Datalab's own threshold for spurious correlations."""
FLAGGED = 0.3
"""A kind of issue is named where it flags so much of a class, and a third elsewhere."""


def cleanvision_names(paths: list[str], labels: np.ndarray) -> bool:
    """Tell whether an issue other than copies is of one class."""
    lab = Imagelab(filepaths=paths)
    lab.find_issues()
    flags = lab.issues.loc[paths].filter(regex="^is_(?!.*duplicates)")
    share = flags.groupby(labels).mean()
    is_of_one = (share.max() >= FLAGGED) & (share.min() <= share.max() / 3)
    return bool(is_of_one.any())


def datalab_names(paths: list[str], kept: Any) -> bool:
    """Tell whether a property of the images is correlated with the classes."""
    data = Dataset.from_dict({"image": paths, "label": kept["labels"].tolist()})
    lab = Datalab(
        data.cast_column("image", Image()), label_name="label", image_key="image"
    )
    lab.find_issues(pred_probs=kept["proba"], features=kept["features"])
    found = lab.get_info("spurious_correlations")["correlations_df"]
    return bool((pd.DataFrame(found)["score"] < CORRELATED).any())


def main() -> None:
    """Ask both about each folder."""
    warnings.simplefilter("ignore")
    answers = {}
    for place in sys.argv[1:]:
        kept = np.load(Path(place) / "peers.npz")
        paths = [str(Path(place).resolve() / "home" / name) for name in kept["ids"]]
        with contextlib.redirect_stdout(io.StringIO()):
            answers[place] = {
                "cleanvision": cleanvision_names(paths, kept["labels"]),
                "datalab": datalab_names(paths, kept),
            }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
