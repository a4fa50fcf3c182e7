"""Images of a folder that show what was found out about it, for page and PDF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from cliplib.data.image import ImageSource, load_image
from cliplib.inspection.erase import Erased, erase
from cliplib.inspection.maps import heat_maps
from cliplib.reports.findings import Findings

# Images that are shown side by side.
MOST_PICTURES = 12


class Picture(NamedTuple):
    """An image, as `load_image` takes it, with a title above and a name below."""

    image: Any
    title: str
    name: str = ""


def small_jpeg(source: ImageSource, side: int, quality: int = 75) -> bytes:
    """Return an image as a JPEG file, of so many pixels a side at most."""
    image = load_image(source)
    image.thumbnail((side, side))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def of_rows(findings: Findings, rows: Sequence[int]) -> list[Picture]:
    """Return images by their rows, `MOST_PICTURES` at most: class, and name below."""
    images = findings.images
    labels = images.table.label_names
    return [
        Picture(images.files[row], labels[row], findings.names[row])
        for row in rows[:MOST_PICTURES]
    ]


def of_classes(findings: Findings) -> list[Picture]:
    """Return two images of each class, of different groups."""
    table = findings.images.table
    # The index is the row in the feature table, and stays so below.
    frame = pd.DataFrame({"class": table.label_names, "group": table.groups})
    two_a_class = frame.drop_duplicates("group").groupby("class").head(2)
    in_order = two_a_class.sort_values("class", kind="stable")
    return of_rows(findings, in_order.index.tolist())


def of_copies(findings: Findings) -> list[Picture]:
    """Return images of copies, those of a pair side by side, first of two labels."""
    pairs = findings.audit.pairs.sort_values("same_label", kind="stable")
    rows = pairs[["index_a", "index_b"]].to_numpy().ravel()  # a, b, a, b, …
    return of_rows(findings, rows.tolist())


def of_errors(findings: Findings) -> list[Picture]:
    """Return the best probe's surest errors, each with a heat map of its answer."""
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
        (error,) = of_rows(findings, [row])
        pictures.append(error._replace(title=f"{error.title}, as {answer}"))
        pictures.append(Picture(heat_map, f"spoke for {answer}"))
    return pictures


def of_suspects(findings: Findings) -> list[Picture]:
    """Return the images whose labels are most in doubt."""
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
