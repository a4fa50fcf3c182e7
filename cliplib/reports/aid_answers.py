"""What a decision aid said, as a table for spreadsheets and as a page."""

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

# Cosine similarity from which on two images are the same, or copies; rounding keeps it
# from being 1.
SAME_IMAGE = 0.9999
# Pixels of the longer side of a picture.
SIDE = 144


def is_training_image(rows: pd.DataFrame) -> pd.Series:
    """Return which rows of `DecisionAid.classify` show a training image or its copy."""
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
    """Write what an aid said of images, or some rows of it, as a page.

    The page loads nothing.

    Parameters
    ----------
    rows : DataFrame
        From ``aid.classify``, all or some.
    path : path
        Of the page.
    aid : DecisionAid
    sources : sequence of images
        All that were classified: the index of `rows` counts them. Those of a folder are
        listed by `list_files`.
    heat_maps : bool
        Also show what spoke for each answer; it takes far longer than all the rest.
    training_folder : path
        That of the training images, of which the nearest are shown where they are
        below it. An aid holds no images, and does not say where they are.

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
        is_readable = not answer["error"]
        # JPEG files; b"" stands for one that there is not.
        answer["picture"] = small_jpeg(source, SIDE) if is_readable else b""
        answer["heat_map"] = b""
        answer["nearest_picture"] = _training_picture(
            answer["nearest"], training_folder
        )
        if heat_maps and is_readable:
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
    """Return the image of a row; ValueError if it is not called as the file was."""
    if row < len(sources):
        # A file of a folder is called by the end of its path.
        end_of_path = Path(file).parts
        path = Path(image_name(sources[row])).parts
        if path[-len(end_of_path) :] == end_of_path:
            return sources[row]
    raise ValueError(
        f"Image {row} is not {file}: the files have changed. Classify them again."
    )


def _heat_map(aid: DecisionAid, source: ImageSource, answer: str) -> bytes:
    """Return what spoke for the answer to an image, as a JPEG file."""
    if not isinstance(aid.encoder, ClipEncoder):
        raise TypeError(f"Heat maps are drawn of a ClipEncoder, not {aid.encoder!r}.")
    label = aid.training.classes.index(answer)
    readout = aid.training.readout
    (drawn,) = draw_heat_maps(aid.encoder, aid.probe, [source], [label], readout)
    return small_jpeg(drawn, SIDE)


def _training_picture(name: str, training_folder: str | os.PathLike[str]) -> bytes:
    """Return a training image as a JPEG file, b"" where it is not below its folder.

    `name`, its path below that, comes from whoever made the aid: it must lead to no
    other file of the user's.
    """
    # By the rules of Windows, where a name may ask a foreign machine for a file.
    path = PureWindowsPath(name)
    if not name or not training_folder or path.anchor or ".." in path.parts:
        return b""
    folder = Path(training_folder).resolve()
    file = (folder / name).resolve()  # where links lead
    try:
        is_below = file.is_relative_to(folder)
        return small_jpeg(file, SIDE) if is_below else b""
    except OSError:
        return b""
