"""Images that illustrate the findings on a folder, for page and PDF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from cliplib.data.image import ImageSource, load_image
from cliplib.inspection.erase import Erased, erase
from cliplib.inspection.maps import heat_maps
from cliplib.reports.findings import Findings

# Most images of one illustration.
MOST_PICTURES = 12


class Picture(NamedTuple):
    """An image, as `load_image` takes it, with a title above and a name below."""

    image: Any
    title: str
    name: str = ""


def small_jpeg(source: ImageSource, side: int, quality: int = 75) -> bytes:
    """Return an image as a JPEG file whose sides have at most `side` pixels."""
    image = load_image(source)
    image.thumbnail((side, side))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def of_rows(findings: Findings, rows: Sequence[int]) -> list[Picture]:
    """Return the images in these rows, at most `MOST_PICTURES`, with class and name."""
    images = findings.images
    labels = images.table.label_names
    return [
        Picture(images.files[row], labels[row], findings.names[row])
        for row in rows[:MOST_PICTURES]
    ]


def of_classes(findings: Findings) -> list[Picture]:
    """Return two images of each class, of different groups."""
    table = findings.images.table
    # The index of this frame, and of all made from it, is the row in the feature table.
    images = pd.DataFrame({"class": table.label_names, "group": table.groups})
    two_a_class = images.drop_duplicates("group").groupby("class").head(2)
    by_class = two_a_class.sort_values("class", kind="stable")
    return of_rows(findings, by_class.index.tolist())


def of_copies(findings: Findings) -> list[Picture]:
    """Return pairs of copies side by side, first those with two labels."""
    pairs = findings.audit.pairs.sort_values("same_label", kind="stable")
    rows = pairs[["index_a", "index_b"]].to_numpy().ravel()  # a, b, a, b, …
    return of_rows(findings, rows.tolist())


def of_errors(findings: Findings) -> list[Picture]:
    """Return the best probe's surest errors, each with the heat map of the answer."""
    results = findings.results
    if not findings.errors:
        return []
    maps = heat_maps(
        findings.encoder,
        findings.fitted,
        [findings.images.files[row] for row in findings.errors],
        results.predicted[findings.errors],
        results.probe_table.readout,
    )
    pictures = []
    for row, heat_map in zip(findings.errors, maps, strict=True):
        answer = results.table.classes[results.predicted[row]]
        (picture,) = of_rows(findings, [row])
        pictures.append(picture._replace(title=f"{picture.title}, as {answer}"))
        pictures.append(Picture(heat_map, f"spoke for {answer}"))
    return pictures


def of_suspects(findings: Findings) -> list[Picture]:
    """Return the images with the most doubtful labels."""
    classes = findings.results.table.classes
    pictures = of_rows(findings, findings.suspects["row"].tolist())
    likely = findings.suspects["likely"].head(MOST_PICTURES)
    return [
        picture._replace(title=f"{picture.title}, likely {classes[label]}")
        for picture, label in zip(pictures, likely, strict=True)
    ]


def of_erased(findings: Findings, erased: Erased) -> list[Picture]:
    """Return some images, each with and without its object."""
    pictures = []
    for row, box in erased.examples.items():
        (picture,) = of_rows(findings, [row])
        after = erase(load_image(picture.image), box, seed=findings.results.seed)
        pictures += [picture, Picture(after, "object erased")]
    return pictures
