"""A folder of class folders: its images, and what their paths say about them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from cliplib.data.image import Images, ImageSource, image_list, image_name
from cliplib.data.warn import warn_once
from cliplib.data.wording import check_printable, counted

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
HEIF = (".heic", ".heif", ".avif")
# Suffixes of the files that are taken for images, in lower case.
SUFFIXES = (*JPEG, ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", *HEIF)
# Names of split folders, in lower case, and the split that each means.
USUAL_SPLIT = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Largest depth of nested folders; deeper ones are a mistake or an attack.
MOST_NESTED = 100
# Files and a folder that Windows and macOS put into folders and ZIP archives.
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store")
SYSTEM_FOLDER = "__MACOSX"


class ListedImage(NamedTuple):
    """An image in a data set's folder, and what its path says.

    Attributes
    ----------
    path
        The path of its file.
    id
        Split folder (if there is one), class folder and file name, joined by "/".
    split
        "train", "val", "test" or "".
    label
        The name of its class.
    """

    path: Path
    id: str
    split: str
    label: str


def list_images(root: Path) -> list[ListedImage]:
    """Return the images in the class folders of `root`, sorted by id.

    Other files are left out. A warning counts the hidden images, and another one the
    files in folders that are not images. ValueError if there is no image, if it is
    unclear which folders are classes, or if a name has unprintable characters.
    """
    images = []
    hidden_images = []
    other_files = []
    for path in _files_below(root):
        relative = path.relative_to(root)
        is_image = path.suffix.lower() in SUFFIXES
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if is_image and is_hidden:
            hidden_images.append(path)
        elif is_image:
            images.append(ListedImage(path, *parse_path(relative)))
        elif not is_hidden and len(relative.parts) > 1:
            other_files.append(path)
    _warn_of_left_out("hidden by a dot", hidden_images)
    _warn_of_left_out("in no format that is read", other_files)
    check_printable(image.id for image in images)
    _check_layout(root, images)
    return sorted(images, key=lambda image: image.id)


def _warn_of_left_out(reason: str, paths: Sequence[Path]) -> None:
    """Warn how many files were left out for a reason, and name the first, if any."""
    if paths:
        files = counted(len(paths), "file")
        warn_once(f"Left out {files} {reason}, such as {paths[0]}")


def _files_below(folder: Path, ancestors: tuple[Path, ...] = ()) -> list[Path]:
    """Return the sorted paths of the files in a folder and in all folders inside it.

    Links are followed unless they lead in a circle; `ancestors` are the real paths of
    the folders that lead to this one. Files of Windows and macOS are left out. A
    warning names each folder that cannot be listed. ValueError if more than
    `MOST_NESTED` folders lie within each other.
    """
    if len(ancestors) > MOST_NESTED:
        raise ValueError(
            f"{ancestors[0]} holds more than {MOST_NESTED} folders within each other."
        )
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        warn_once(f"Left out the folder {folder}: {error.strerror}")
        return []
    way_down = (*ancestors, folder.resolve())
    files = []
    for entry in entries:
        if not entry.is_dir():
            if not _is_system_file(entry.name):
                files.append(entry)
        elif entry.name != SYSTEM_FOLDER and not _contains_any(entry, way_down):
            files += _files_below(entry, way_down)
    return sorted(files)


def _contains_any(folder: Path, others: tuple[Path, ...]) -> bool:
    """Say whether a folder is one of several others, or contains one of them."""
    real_path = folder.resolve()
    return any(other.is_relative_to(real_path) for other in others)


def _is_system_file(name: str) -> bool:
    """Say whether a file's name is one that Windows or macOS gives its own files."""
    return name.lower() in SYSTEM_FILES or name.startswith("._")


def parse_path(relative: PurePath) -> tuple[str, str, str]:
    """Return the id, split ("" if none) and class of the image at [split/]class/file.

    Folders above these are left out of the id: "photos/Training/cat/1.jpg" gives
    "Training/cat/1.jpg", "train" and "cat"; "photos/cat/1.jpg" gives "cat/1.jpg", ""
    and "cat". ValueError if the image lies in no folder.
    """
    if len(relative.parts) == 1:
        raise ValueError(
            f"The image {relative} lies outside the class folders: move it into one."
        )
    class_folder = relative.parent
    above = class_folder.parent  # a split folder or not
    split = USUAL_SPLIT.get(above.name.lower(), "")
    root = above.parent if split else above
    return relative.relative_to(root).as_posix(), split, class_folder.name


def _check_layout(root: Path, images: Sequence[ListedImage]) -> None:
    """Raise ValueError if `root` has no image, or if its classes are unclear.

    Classes are unclear if class folders lie in several places ("a/cat", "b/dog"), if
    split folders hold images directly ("train/1.jpg"), or if only some images are in a
    split ("train/cat", "dog").
    """
    # The key is the folder that holds the class folders, or the split folders above
    # them: an id has a "/" for each folder between this one and the file.
    id_by_place = {
        image.path.parents[image.id.count("/")]: image.id for image in images
    }
    if len(id_by_place) > 1:
        first, second, *_ = sorted(id_by_place)
        raise ValueError(
            f"Class folders lie in {first} (which holds {id_by_place[first]}) and in "
            f"{second} (which holds {id_by_place[second]}): put all in one place."
        )
    advice = "give each class a folder, within a split or not."
    if not images:
        raise ValueError(f"{root} holds no image: {advice}")
    # Without class folders, `parse_path` has taken the split folders for classes.
    if all(image.label.lower() in USUAL_SPLIT for image in images):
        splits = ", ".join(sorted({image.label for image in images}))
        raise ValueError(f"{root} holds images right in {splits}: {advice}")
    has_split = [image.split != "" for image in images]
    if any(has_split) and not all(has_split):
        raise ValueError(
            f"{root} holds images in and outside train and test folders: {advice}"
        )


def list_files(
    files: Images | str | os.PathLike[str],
) -> tuple[list[str], list[ImageSource]]:
    """Return the names and sources of all files below a folder, or of several images.

    All files of a folder count, whatever their suffix, except those of Windows and
    macOS. They are sorted by path, and named by their path below the folder. Images
    keep their order, and are named by their path, or by their type if they have none,
    such as "<bytes>". ValueError if there is no file.
    """
    if isinstance(files, str | os.PathLike) and Path(files).is_dir():
        folder = Path(files)
        paths = _files_below(folder)
        names = [image_name(path.relative_to(folder).as_posix()) for path in paths]
        sources: list[ImageSource] = list(paths)
    else:
        sources = image_list(files)
        names = [image_name(source) for source in sources]
    if not names:
        raise ValueError("There is no image in " + str(files) + ".")
    return names, sources
