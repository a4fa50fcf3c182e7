"""A folder of class folders: which files are its images, and what their paths say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from cliplib.data.image import Images, ImageSource, image_list, image_name
from cliplib.data.warn import warn_once
from cliplib.data.wording import check_printable, counted

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
OF_PHONES = (".heic", ".heif", ".avif")
SUFFIXES = (*JPEG, ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", *OF_PHONES)
USUAL_SPLIT = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# No folders lie deeper: they would be a mistake, or an attack.
MOST_NESTED = 100
# What Windows and macOS themselves put into folders and ZIP archives.
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store")
SYSTEM_FOLDER = "__MACOSX"


class ListedImage(NamedTuple):
    """An image in a data set's folder, and what its path says.

    Attributes
    ----------
    path
        Where it is.
    id
        Split (if its folder is within one), class and file name, joined by "/".
    split
        "train", "val", "test" or "".
    label
        The name of its class.
    """

    path: Path
    id: str
    split: str
    label: str

    @property
    def place(self) -> Path:
        """The folder that holds the class folders, or the split folders above them."""
        # The id has one "/" for each folder between that one and the file.
        return self.path.parents[self.id.count("/")]


def list_images(root: Path) -> list[ListedImage]:
    """Return the images in the class folders of `root`, sorted by id.

    Other files are left out: hidden images and what lies in class folders with a
    warning. ValueError if there is no image, if it is unclear which folders are
    classes, or if a name cannot be shown as it is.
    """
    images = []
    hidden = []
    others = []
    for path in _files_below(root):
        relative = path.relative_to(root)
        is_image = path.suffix.lower() in SUFFIXES
        if any(part.startswith(".") for part in relative.parts):
            if is_image:
                hidden.append(path)
        elif is_image:
            images.append(ListedImage(path, *parse_path(relative)))
        elif len(relative.parts) > 1:
            others.append(path)
    _warn_of_left_out("hidden by a dot", hidden)
    _warn_of_left_out("in no format that is read", others)
    check_printable(image.id for image in images)
    _check_layout(root, images)
    return sorted(images, key=lambda image: image.id)


def _warn_of_left_out(why: str, paths: Sequence[Path]) -> None:
    if paths:
        files = counted(len(paths), "file")
        warn_once(f"Left out {files} {why}, such as {paths[0]}")


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Return the sorted paths of the files in a folder, however deep.

    Links are followed, but not to a folder that was passed on the way down, or one
    above it, which would lead in a circle; `above` are the real paths of those passed.
    What Windows and macOS put there is left out. A warning names folders that cannot be
    listed. ValueError for more than `MOST_NESTED` folders within each other.
    """
    if len(above) > MOST_NESTED:
        raise ValueError(
            f"{above[0]} holds more than {MOST_NESTED} folders within each other."
        )
    passed = (*above, folder.resolve())
    try:
        inside = list(folder.iterdir())
    except OSError as error:
        warn_once(f"Left out the folder {folder}: {error.strerror}")
        return []
    paths = []
    for path in inside:
        if not path.is_dir():
            if not _is_of_system(path.name):
                paths.append(path)
        elif path.name != SYSTEM_FOLDER and not _leads_back(path, passed):
            paths += _files_below(path, passed)
    return sorted(paths)


def _leads_back(folder: Path, passed: tuple[Path, ...]) -> bool:
    """Say whether a folder is, by a link, one of those passed, or one above them."""
    real = folder.resolve()
    return any(other.is_relative_to(real) for other in passed)


def _is_of_system(name: str) -> bool:
    """Say whether a file's name is one that Windows or macOS gives to its own."""
    return name.lower() in SYSTEM_FILES or name.startswith("._")


def parse_path(relative: PurePath) -> tuple[str, str, str]:
    """Return id, split ("" if none) and class of the image at [split/]class/file.

    Folders above these are left out of the id: "photos/Training/cat/1.jpg" gives
    "Training/cat/1.jpg", "train" and "cat"; "photos/cat/1.jpg" gives "cat/1.jpg", ""
    and "cat". `USUAL_SPLIT` lists the names of split folders, in lower case. ValueError
    for an image that lies in no folder.
    """
    if len(relative.parts) == 1:
        raise ValueError(
            f"The image {relative} lies outside the class folders: move it into one."
        )
    folder = relative.parent
    above = folder.parent
    split = USUAL_SPLIT.get(above.name.lower(), "")
    root = above.parent if split else above
    return relative.relative_to(root).as_posix(), split, folder.name


def _check_layout(root: Path, images: Sequence[ListedImage]) -> None:
    """Raise ValueError if `root` has no image, or its classes are unclear.

    They are so if class folders lie in several places ("a/cat", "b/dog"), if split
    folders hold the images themselves ("train/1.jpg"), or if only some images are in a
    split ("train/cat", "dog").
    """
    image_by_place = {image.place: image for image in images}
    if len(image_by_place) > 1:
        first, second, *_ = sorted(image_by_place)
        raise ValueError(
            f"Class folders lie in {first} (which holds {image_by_place[first].id}) "
            f"and in {second} (which holds {image_by_place[second].id}): put all in "
            "one place."
        )
    advice = "give each class a folder, within a split or not."
    if not images:
        raise ValueError(f"{root} holds no image: {advice}")
    # Where there are no class folders, split folders were taken for them.
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
    """Return names and sources of the files in a folder, however deep, or of images.

    Of a folder every file counts, whatever its suffix, but for those that Windows and
    macOS put there. It is named by its path below the folder, with "/" between parts;
    files are sorted by path. Images keep their order, and are named by their own path,
    or by their type where they have none, such as "<bytes>". ValueError for no file.
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
