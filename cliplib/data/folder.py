"""A folder of class folders: which files are its images, and what their paths say."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple
from unicodedata import normalize

from cliplib.data.image import Images, ImageSource, image_list, image_name, warn_once
from cliplib.data.wording import counted, listing

logger = logging.getLogger(__name__)

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
OF_PHONES = (".heic", ".heif", ".avif")
SUFFIXES = (*JPEG, ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", *OF_PHONES)
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store")
# What a file in a data set's folder may be. All but images are left out, all but the
# last with a warning, such as "Left out 1 file put there by Windows or macOS".
IMAGE = "with an image"
OTHER = "in no format that is read"
HIDDEN = "hidden by a dot"
SYSTEM = "put there by Windows or macOS"
IGNORED = "of no interest"


class ListedImage(NamedTuple):
    """An image in a data set's folder, and what its path says."""

    path: Path
    id: str
    """Split (if its folder is within one), class and file name, joined by "/"."""
    split: str
    """"train", "val", "test" or ""."""
    label: str
    """The name of its class."""

    @property
    def place(self) -> Path:
        """The folder that holds the class folders, or the split folders above them."""
        # The id has one "/" for each folder between that one and the file.
        return self.path.parents[self.id.count("/")]


def existing_folder(name: str) -> Path:
    """Return a folder's absolute path; FileNotFoundError if there is no such folder."""
    root = Path(name).expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{str(root)!r} is no folder: name one with a folder for each class."
        )
    return root


def list_images(root: Path) -> list[ListedImage]:
    """Return the images in the class folders of `root`, sorted by id.

    Other files are left out, with a warning for each kind but `IGNORED`; so are folders
    without an image, with a warning for those that lie beside classes. ValueError if
    there is no image, or if it is unclear which folders are classes.
    """
    paths_by_kind: dict[str, list[Path]] = defaultdict(list)
    for path in _files_below(root):
        kind = _kind_of_file(path.relative_to(root))
        paths_by_kind[kind].append(path)
    for kind in (OTHER, HIDDEN, SYSTEM):
        _warn_of_left_out(kind, paths_by_kind[kind])
    images = [_listed_image(path, root) for path in paths_by_kind[IMAGE]]
    _check_layout(root, images)
    _check_class_names({image.label for image in images})
    _warn_of_empty_classes(root, images)
    return sorted(images, key=lambda image: image.id)


def _kind_of_file(relative: PurePath) -> str:
    """Return the kind of a file, by its path below the data set's folder.

    It is `IMAGE`, or one that is left out: `HIDDEN` of images, `SYSTEM`, `OTHER`, or
    `IGNORED`. Ignored are hidden files that are no images, what macOS adds to ZIP
    archives, and what lies beside the class folders, such as a README, but for images.
    """
    is_system_file = _is_system_file(relative)
    is_image = relative.suffix.lower() in SUFFIXES and not is_system_file
    if any(part.startswith(".") for part in relative.parts):
        return HIDDEN if is_image else IGNORED
    if "__MACOSX" in relative.parts:
        return IGNORED
    if is_system_file:
        return SYSTEM
    if is_image:
        return IMAGE
    is_beside_class_folders = len(relative.parts) == 1
    return IGNORED if is_beside_class_folders else OTHER


def _files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the paths of files in a folder, however deep, each folder sorted by name.

    Links are followed, but not in circles: `above` are the real paths of the folders
    that led here. Folders that cannot be listed are left out with a warning.
    """
    real_path = os.path.realpath(folder)
    if real_path in above:
        warn_once(logger, f"Left out {folder}, a link to a folder that it lies in")
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        warn_once(logger, f"Left out the folder {folder}: {error.strerror}")
        return
    for entry in entries:
        # Not by the entry's own method, which raises for links that lead in a circle.
        if os.path.isdir(entry):
            yield from _files_below(folder / entry.name, (*above, real_path))
        else:
            yield folder / entry.name


def _listed_image(path: Path, root: Path) -> ListedImage:
    """Return an image below the set's folder `root`, with id, split and class.

    These are told by its path. A ValueError says what to change if the image is in no
    class folder, or the path cannot be shown as it is.
    """
    relative = path.relative_to(root)
    if len(relative.parts) == 1:
        raise ValueError(
            f"The image {path} lies outside the class folders: move it into one."
        )
    shown = image_name(path)  # spells out what cannot be shown
    if shown != str(path):
        raise ValueError(
            f"The name '{shown}' is not in UTF-8, or holds characters that are not "
            "shown: rename it."
        )
    return ListedImage(path, *parse_path(relative))


def parse_path(relative: PurePath) -> tuple[str, str, str]:
    """Return id, split ("" if none) and class of the image at [split/]class/file.

    Folders above these are left out of the id: "photos/Training/cat/1.jpg" gives
    "Training/cat/1.jpg", "train" and "cat"; "photos/cat/1.jpg" gives "cat/1.jpg", ""
    and "cat". `SPLITS` lists the names of split folders, in lower case.
    """
    *above, label, file = relative.parts
    folder_above = above[-1] if above else ""
    split = SPLITS.get(folder_above.lower(), "")
    parts = [folder_above, label, file] if split else [label, file]
    return "/".join(parts), split, label


def _check_layout(root: Path, images: Sequence[ListedImage]) -> None:
    """Raise ValueError if `root` has no image, or its classes are unclear.

    They are so if class folders lie in several places ("a/cat", "b/dog"), if split
    folders hold the images themselves ("train/1.jpg"), or if only some images are in a
    split ("train/cat", "dog").
    """
    image_by_place = {image.place: image for image in images}
    if len(image_by_place) > 1:
        first, second = sorted(image_by_place)[:2]
        raise ValueError(
            f"Class folders lie in {first} (which holds {image_by_place[first].id}) "
            f"and in {second} (which holds {image_by_place[second].id}): put all in "
            "one place."
        )
    advice = "give each class a folder, within a split or not."
    if not images:
        raise ValueError(f"{root} holds no image: {advice}")
    # Where there are no class folders, split folders were taken for them.
    if all(image.label.lower() in SPLITS for image in images):
        splits = ", ".join(sorted({image.label for image in images}))
        raise ValueError(f"{root} holds images right in {splits}: {advice}")
    has_split = [image.split != "" for image in images]
    if any(has_split) and not all(has_split):
        raise ValueError(
            f"{root} holds images in and outside train and test folders: {advice}"
        )


def _check_class_names(classes: Collection[str]) -> None:
    """Raise ValueError for two classes that look the same, as "é" and "e" + accent."""
    for name, count in Counter(normalize("NFC", name) for name in classes).items():
        if count > 1:
            raise ValueError(
                f"Two class folders are called {name!r}, in two spellings that look "
                "the same: put their images into one."
            )


def _warn_of_empty_classes(root: Path, images: Sequence[ListedImage]) -> None:
    """Warn of folders that lie beside those of the classes, but hold no image."""
    classes = {image.label for image in images}
    empty = set()
    for parent in {image.path.parent.parent for image in images}:
        for folder in parent.iterdir():
            is_ignored = folder.name.startswith(".") or folder.name == "__MACOSX"
            if folder.is_dir() and folder.name not in classes and not is_ignored:
                empty.add(folder.name)
    if not empty:
        return
    one = len(empty) == 1
    folders = "folder" if one else "folders"
    fault = "holds no image that can be read, and is no class."
    if not one:
        fault = "hold no image that can be read, and are no classes."
    names = listing(sorted(empty))
    warn_once(logger, f"The {folders} {names} of {root} {fault}")


def _is_system_file(path: PurePath) -> bool:
    """Say whether a file is one that Windows or macOS itself puts into folders."""
    return path.name.lower() in SYSTEM_FILES or path.name.startswith("._")


def _warn_of_left_out(kind: str, paths: Sequence[Path]) -> None:
    if paths:
        files = counted(len(paths), "file")
        warn_once(logger, f"Left out {files} {kind}, such as {min(paths)}")


def list_files(
    files: Images | str | os.PathLike[str],
) -> tuple[list[str], list[ImageSource]]:
    """Return names and sources of the files in a folder, however deep, or of images.

    Of a folder every file counts, whatever its suffix, but for those that Windows and
    macOS put there. It is named by its path below the folder, with "/" between parts;
    files are sorted by path. Images keep their order, and are named by their own path,
    or by their type where they have none, such as "<bytes>".
    """
    if isinstance(files, str | os.PathLike) and Path(files).is_dir():
        folder = Path(files)
        found = sorted(_files_below(folder))
        _warn_of_left_out(SYSTEM, [path for path in found if _is_system_file(path)])
        paths = [path for path in found if not _is_system_file(path)]
        names = [image_name(path.relative_to(folder).as_posix()) for path in paths]
        return names, list(paths)
    sources = image_list(files)
    return [image_name(source) for source in sources], sources
