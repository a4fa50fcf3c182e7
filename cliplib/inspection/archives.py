"""Archives inside a class: parts of it that came another way, and fare otherwise.

A class may be made of two archives. Where they differ by names, cameras or sizes, and a
probe is right in one and wrong in the other, its accuracy is that of a mixture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cliplib.data.arrays import Bools, Ints
from cliplib.evaluation.intervals import Share, share_with_interval
from cliplib.features.table import FeatureTable

FORM = "form of name"
CLUSTER = "cluster"
LEAST_DIFFERENCE = 0.2
"""Two parts of a class fare otherwise where accuracies differ by more."""
LEAST_GROUPS = 10
"""A part of fewer groups is no archive."""
SIGNIFICANCE = 0.05
"""Of all comparisons together (Bonferroni)."""
RUN = re.compile(r"[^\W\d_]+|\d+")
"""A run of letters, or of digits."""
SHORT_COUNTER = 4
"""So many digits may be a counter without zeros before it: their number is no form."""
MOST_RUNS = 4
"""Letters and digits that touch and change more often are a key, such as a hash."""
OWN_WORD = 0.9
"""A word that so many images of one class have, and none of another, is its label."""


@dataclass(frozen=True)
class Part:
    """A part of a class: what it is called, its size, accuracy, and four rows of it."""

    name: str
    n_images: int
    accuracy: Share
    examples: list[int]


@dataclass(frozen=True)
class Archive:
    """A part of a class that differs from the rest of it.

    Attributes
    ----------
    by
        "form of name", "camera", "size" or "cluster" (of deep features).
    class_name
        The class.
    part, rest
        The part, and all other images of the class.
    difference
        Accuracy of the part less that of the rest.
    only_here
        Whether no other class has names of this form, while the class has others.
    """

    by: str
    class_name: str
    part: Part
    rest: Part
    difference: Share
    only_here: bool


def archives_inside(
    table: FeatureTable, predicted: Ints, fields: pd.DataFrame, *, seed: int = 0
) -> list[Archive]:
    """Name parts of classes that fare otherwise, or have names of a form of their own.

    A part is named where its accuracy and that of the rest differ by more than 20
    points, and by more than chance (5% of all comparisons together); or where names of
    its form are in one class only. Images of a class fall into clusters in any case:
    hard ones and easy ones.

    Parameters
    ----------
    table
        Deep features, labels, ids and groups of n images.
    predicted
        Out-of-fold answers, (n,).
    fields
        "camera" and "size" of their files, as `file_fields` returns them.
    seed
        Of clusters and bootstrap draws.

    Returns
    -------
    list of Archive
        The largest difference first.
    """
    class_names = np.array(table.classes)[table.labels]
    sources = {
        FORM: np.array(name_forms(table.ids.tolist(), class_names.tolist())),
        **fields[["camera", "size"]].astype(str),
        CLUSTER: _clusters(table, seed),
    }
    is_right = predicted == table.labels
    candidates = list(_candidates(table, sources))
    found = []
    for by, label, name in candidates:
        has_name = sources[by] == name
        in_class = table.labels == label
        part = _part(table, str(name), in_class & has_name, is_right, seed)
        rest = _part(table, "others", in_class & ~has_name, is_right, seed)
        difference = part.accuracy.minus(rest.accuracy)
        only_here = by == FORM and not (has_name & ~in_class).any()
        if only_here or _differs(difference, len(candidates)):
            class_name = table.classes[label]
            found.append(Archive(by, class_name, part, rest, difference, only_here))
    return sorted(found, key=lambda archive: -abs(archive.difference.value))


def _candidates(
    table: FeatureTable, sources: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, int, Any]]:
    """Yield what divides, the class, and the value of the part.

    Both the part and the rest of its class have ten groups at least. Of two parts that
    are the whole class, and not told by names, the first is yielded.
    """
    for by, values in sources.items():
        for label in np.unique(table.labels):
            in_class = table.labels == label
            names = np.unique(values[in_class])
            if len(names) == 2 and by != FORM:
                names = names[:1]
            for name in names:
                part = table.groups[in_class & (values == name)]
                rest = table.groups[in_class & (values != name)]
                if min(len(set(part)), len(set(rest))) >= LEAST_GROUPS:
                    yield by, int(label), name


def _clusters(table: FeatureTable, seed: int) -> Ints:
    """Divide each class in two by its features, (n,): 0 and 1."""
    divide = make_pipeline(
        StandardScaler(),
        PCA(10, random_state=seed),
        KMeans(2, n_init=5, random_state=seed),
    )
    clusters = np.zeros(len(table), np.int64)
    for label in np.unique(table.labels):
        rows = np.flatnonzero(table.labels == label)
        if len(rows) >= 2 * LEAST_GROUPS:
            clusters[rows] = divide.fit_predict(table.features[rows])
    return clusters


def _part(
    table: FeatureTable, name: str, mask: Bools, is_right: Bools, seed: int
) -> Part:
    rows = np.flatnonzero(mask)
    groups = table.groups[rows]
    one_a_group = rows[~pd.Series(groups).duplicated()]
    spread = np.linspace(0, len(one_a_group) - 1, 4).round().astype(int)
    return Part(
        name=name,
        n_images=len(rows),
        accuracy=share_with_interval(is_right[rows], groups=groups, seed=seed),
        examples=one_a_group[spread].tolist(),
    )


def _differs(difference: Share, n_comparisons: int) -> bool:
    """Tell a difference of more than 20 points that is not chance.

    Its standard error follows from its interval; the level is divided by the number of
    comparisons.
    """
    if abs(difference.value) <= LEAST_DIFFERENCE:
        return False
    error = (difference.high - difference.low) / (2 * norm.ppf(0.975))
    p = 2 * norm.sf(abs(difference.value) / max(error, 1e-9))
    return bool(p < SIGNIFICANCE / n_comparisons)


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
