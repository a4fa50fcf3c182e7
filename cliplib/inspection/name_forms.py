"""The form of a file's name: its words, and how its digits are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import pandas as pd

RUN = re.compile(r"[^\W\d_]+|\d+")
"""A run of letters, or of digits."""
SHORT_COUNTER = 4
"""So many digits may be a counter without zeros before it: their number is no form."""
MOST_RUNS = 4
"""Letters and digits that touch and change more often are a key, such as a hash."""
OWN_WORD = 0.9
"""A word that so many images of one class have, and none of another, is its label."""


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
    words = _class_words(stems, labels)
    forms = []
    for stem, label in zip(stems, labels, strict=True):
        parts = re.split(r"([^\W_]+)", stem)  # every second one has letters and digits
        parts[1::2] = [_form(part, words.get(label, set())) for part in parts[1::2]]
        forms.append("".join(parts))
    return forms


def _class_words(stems: Sequence[str], labels: Sequence[str]) -> dict[str, set[str]]:
    """Return, by class, the words that nearly all its images have, and no others."""
    rows = [
        (label, word)
        for stem, label in zip(stems, labels, strict=True)
        for word in set(re.findall(r"[^\W\d_]+", stem))
    ]
    if not rows:
        return {}
    occurrences = pd.DataFrame(rows, columns=["label", "word"])
    counts = occurrences.value_counts().rename("count").reset_index()
    size = pd.Series(list(labels)).value_counts()
    is_common = counts["count"] >= OWN_WORD * counts["label"].map(size)
    is_of_one_class = ~counts["word"].duplicated(keep=False)
    own = counts[is_common & is_of_one_class]
    return {str(label): set(words) for label, words in own.groupby("label")["word"]}


def _form(text: str, class_words: set[str]) -> str:
    """Return the form of letters and digits that touch."""
    runs = RUN.findall(text)
    if len(runs) > MOST_RUNS:
        return f"key{len(text)}"
    return "".join(_form_of_run(run, class_words) for run in runs)


def _form_of_run(run: str, class_words: set[str]) -> str:
    if run in class_words:
        return "@"
    if not run.isdigit():
        return run
    return "#" if len(run) <= SHORT_COUNTER else f"#{len(run)}"
