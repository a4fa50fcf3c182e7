"""The answers of a decision aid as a page, with pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from cliplib.aids.decision_aid import DecisionAid
from cliplib.data.image import ImageSource, image_name
from cliplib.encoders.clip import ClipEncoder
from cliplib.inspection.maps import heat_maps as draw_heat_maps
from cliplib.reports.pictures import small_jpeg
from cliplib.reports.templates import TEMPLATES

# Smallest cosine similarity of two images that are the same, or copies of each other;
# rounding keeps it below 1.
SAME_IMAGE = 0.9999
# Longer side of a picture, in pixels.
SIDE = 144


def is_training_image(rows: pd.DataFrame) -> pd.Series:
    """Tell which rows of `DecisionAid.classify` are training images or their copies."""
    return rows["similarity"] >= SAME_IMAGE


def write_html(
    rows: pd.DataFrame,
    path: str | os.PathLike[str],
    aid: DecisionAid,
    sources: Sequence[ImageSource],
    *,
    heat_maps: bool = False,
    training_folder: str | os.PathLike[str] = "",
) -> None:
    """Write the answers of a decision aid as an HTML page, which contains its pictures.

    Parameters
    ----------
    rows : DataFrame
        All rows of ``aid.classify``, or some.
    path : path
        Where the page is written.
    aid : DecisionAid
    sources : sequence of images
        All images that were classified; the index of `rows` numbers them. `list_files`
        lists those of a folder.
    heat_maps : bool
        Also show what spoke for each answer, which takes far longer than the rest.
    training_folder : path
        The folder of the training images, to show the nearest one beside each image. An
        aid holds no images.

    Raises
    ------
    ValueError
        The images are not those that were classified.
    OSError
        An image that was classified can no longer be read.
    """
    marked = rows.assign(is_training_image=is_training_image(rows), row=rows.index)
    answers: list[dict[str, Any]] = marked.to_dict("records")
    for answer in tqdm(answers, desc="page", unit="image"):
        source = _image_of(answer["row"], answer["file"], sources)
        nearest_picture = _training_picture(answer["nearest"], training_folder)
        answer["nearest_picture"] = nearest_picture
        # All pictures are JPEG files; b"" means that there is none.
        answer["picture"] = answer["heat_map"] = b""
        is_readable = not answer["error"]
        if is_readable:
            answer["picture"] = small_jpeg(source, SIDE)
        if is_readable and heat_maps:
            answer["heat_map"] = _heat_map(aid, source, answer["class"])
    counts = rows["reason"].replace("", "answered").value_counts()
    page = TEMPLATES.get_template("aid_answers.html").render(
        counts=", ".join(f"{count} {reason}" for reason, count in counts.items()),
        aid=aid,
        answers=answers,
        heat_maps=heat_maps,
    )
    Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")


def _image_of(row: int, file: str, sources: Sequence[ImageSource]) -> ImageSource:
    """Return the image of a row; ValueError if its name is not that of the file."""
    if row < len(sources):
        # The name of a file is its path, or in a folder the end of its path.
        file_parts = Path(file).parts
        source_parts = Path(image_name(sources[row])).parts
        if source_parts[-len(file_parts) :] == file_parts:
            return sources[row]
    raise ValueError(
        f"Image {row} is not {file}: the files have changed. Classify them again."
    )


def _heat_map(aid: DecisionAid, source: ImageSource, answer: str) -> bytes:
    """Return the heat map of an answer as a JPEG file."""
    if not isinstance(aid.encoder, ClipEncoder):
        raise TypeError(f"Heat maps are drawn of a ClipEncoder, not {aid.encoder!r}.")
    label = aid.training.classes.index(answer)
    readout = aid.training.readout
    (drawn,) = draw_heat_maps(aid.encoder, aid.probe, [source], [label], readout)
    return small_jpeg(drawn, SIDE)


def _training_picture(name: str, training_folder: str | os.PathLike[str]) -> bytes:
    """Return a training image as a JPEG file, b"" if it is not in the training folder.

    `name` is its path in the folder. It comes from the maker of the aid, who must not
    make the user's other files appear.
    """
    if not name or not training_folder:
        return b""
    # The rules of Windows are the strictest: a path may name a file of another machine.
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts:
        return b""
    folder = Path(training_folder).resolve()
    file = (folder / name).resolve()  # follows links
    try:
        return small_jpeg(file, SIDE) if file.is_relative_to(folder) else b""
    except OSError:
        return b""
