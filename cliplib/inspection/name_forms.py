"""The form of a file name, such as "img_#", which may tell where the image is from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import pandas as pd

# A run of letters, or a run of digits.
RUN = re.compile(r"[^\W\d_]+|\d+")
# Most digits of a counter without leading zeros, whose length varies within a form.
SHORT_COUNTER = 4
# Most runs in a word; one with more, such as "3fa9c2e1", is a key.
MOST_RUNS = 4
# Least share of a class's images that have a word which tells the class.
OWN_WORD = 0.9


def name_forms(ids: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the form of each image's file name, without folders and suffix.

    Up to four digits in a row become "#", and more become "#" and their number:
    "IMG_0012" has the form "img_#", and "20230511_1" the form "#8_#". A word that tells
    the class becomes "@", so that "glass12" and "paper7" have the same form. A key such
    as "3fa9c2e1" becomes "key8".

    Parameters
    ----------
    ids
        The images' paths, (n,).
    labels
        Names of their classes, (n,).
    """
    stems = [PurePosixPath(image).stem.lower() for image in ids]
    class_words = _class_words(stems, labels)

    def form_of_word(match: re.Match[str]) -> str:
        word = match[0]
        runs = RUN.findall(word)
        if len(runs) > MOST_RUNS:
            return f"key{len(word)}"
        return "".join(_form_of_run(run, class_words) for run in runs)

    return [re.sub(r"[^\W_]+", form_of_word, stem) for stem in stems]


def _class_words(stems: Sequence[str], labels: Sequence[str]) -> set[str]:
    """Return the words that nearly all images of a class have, and no other image."""
    words_by_image = [set(re.findall(r"[^\W\d_]+", stem)) for stem in stems]
    words = pd.Series(words_by_image, index=[*labels]).explode().dropna()
    counts = pd.crosstab(words.index, words)  # images by class (rows) and word
    shares = counts.div(pd.Series(labels).value_counts(), axis="index")
    is_class_word = ((counts > 0).sum() == 1) & (shares.max() >= OWN_WORD)
    return {*is_class_word.index[is_class_word]}


def _form_of_run(run: str, class_words: set[str]) -> str:
    """Return "@" for a word that tells the class, "#" for digits, or the run itself."""
    if run in class_words:
        return "@"
    if not run.isdigit():
        return run
    return "#" if len(run) <= SHORT_COUNTER else f"#{len(run)}"
