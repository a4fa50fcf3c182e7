"""The form of an image's name, such as "img_#": it may tell where the image is from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import pandas as pd

# A run of letters, or of digits.
RUN = re.compile(r"[^\W\d_]+|\d+")
# So many digits may be a counter without zeros before it: their number is no form.
SHORT_COUNTER = 4
# Letters and digits that touch and change more often are a key, such as a hash.
MOST_RUNS = 4
# A word that so many images of one class have, and none of another, is its label.
OWN_WORD = 0.9


def name_forms(ids: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the form of each image's name, below its folders and without suffix.

    Digits become "#", of five or more with their number: "IMG_0012" has the form
    "img_#", "20230511_1" the form "#8_#". A word that tells the class becomes "@", so
    that "glass12" and "paper7" have one form. A key such as "3fa9c2e1" is "key8".

    Parameters
    ----------
    ids
        The images' paths, (n,).
    labels
        Names of their classes, (n,).
    """
    stems = [PurePosixPath(image).stem.lower() for image in ids]
    class_words = _class_words(stems, labels)

    def form(match: re.Match[str]) -> str:
        runs = RUN.findall(match[0])
        if len(runs) > MOST_RUNS:
            return f"key{len(match[0])}"
        return "".join(_form_of_run(run, class_words) for run in runs)

    return [re.sub(r"[^\W_]+", form, stem) for stem in stems]


def _class_words(stems: Sequence[str], labels: Sequence[str]) -> set[str]:
    """Return the words that nearly all images of one class have, and no others."""
    found = [set(re.findall(r"[^\W\d_]+", stem)) for stem in stems]
    words = pd.Series(found, index=[*labels]).explode().dropna()
    counts = pd.crosstab(words.index, words)  # images of each class with each word
    share = counts.div(pd.Series(labels).value_counts(), axis="index")
    is_own = ((counts > 0).sum() == 1) & (share.max() >= OWN_WORD)
    return {*is_own.index[is_own]}


def _form_of_run(run: str, class_words: set[str]) -> str:
    if run in class_words:
        return "@"
    if not run.isdigit():
        return run
    return "#" if len(run) <= SHORT_COUNTER else f"#{len(run)}"
