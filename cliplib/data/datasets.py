"""Data sets: what is known about them, and where their images lie.

None is downloaded unasked.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import normalize

from cliplib.data.archives import fetch_archive, fetch_from_kaggle
from cliplib.data.hub import DownloadError
from cliplib.data.image import Images, ImageSource, image_list, image_name, warn_once
from cliplib.data.wording import counted, listing

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".avif",
)
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
SETTING = "CLIPLIB_DATA"


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set holds and where it comes from, as in ``datasets.toml``.

    Attributes
    ----------
    name
        Its key in `DATASETS`, or the name of its folder.
    title
        What a reader calls it.
    phrases
        Of each class, in the order of the labels, the phrases that may describe it;
        the first one is the default.
    templates
        Sentences with a ``{}`` for a phrase.
    hub
        Its ``repo``, ``file`` and ``sha256`` on the Hugging Face hub, if it is there.
    kaggle
        Its name and version on Kaggle, or "".
    homepage
        Where people find it.
    groups
        A regular expression, searched in the images' ids, whose first parentheses hold
        the name of the group, such as the photograph; "" where ids do not tell groups.
    """

    name: str
    title: str
    phrases: Mapping[str, Sequence[str]] = field(repr=False)
    templates: Sequence[str] = field(default=("a photo of {}.",), repr=False)
    hub: Mapping[str, str] | None = None
    kaggle: str = ""
    homepage: str = ""
    groups: str = ""


_DECLARED = tomllib.loads(
    (files("cliplib") / "data" / "datasets.toml").read_text("utf-8")
)

PRECOMPUTED = Path(str(files("cliplib"))).parent / "notebooks" / "study" / "precomputed"
"""Where a checkout has features and groups of the named data sets."""

DATASETS = {name: DatasetSpec(name=name, **entry) for name, entry in _DECLARED.items()}


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


def dataset_spec(name_or_path: str | os.PathLike[str]) -> DatasetSpec:
    """Return the classes and other facts of a data set, by its name or its folder.

    For a key of `DATASETS` they are declared there. Otherwise the names of the class
    folders, sorted, are the classes; with spaces for "_" and "-" they are the phrases
    that describe them. An OSError or ValueError names what is wrong with a folder.
    """
    name = os.fspath(name_or_path)
    if name in DATASETS:
        return DATASETS[name]
    root = _existing_folder(name).resolve()
    classes = sorted({image.label for image in _list_images(root)})
    phrases = {c: [c.replace("_", " ").replace("-", " ")] for c in classes}
    return DatasetSpec(name=root.name, title=root.name, phrases=phrases)


def check_classes(folder: str | os.PathLike[str]) -> None:
    """Raise ValueError for a folder of fewer than two classes.

    An OSError or ValueError names any other fault, such as a missing folder.
    """
    # Absolute, since "folder" alone might be a key of `DATASETS`.
    path = os.path.abspath(folder)
    classes = [*dataset_spec(path).phrases]
    if len(classes) < 2:
        raise ValueError(
            f"{folder} needs images of two classes or more, each in a folder of its "
            f"own; there is only {classes[0]!r}."
        )


def load_dataset(
    name_or_path: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None
) -> datasets.Dataset | None:
    """List the images of a data set, undecoded, sorted by id.

    Parameters
    ----------
    name_or_path
        A key of `DATASETS`, or a folder of class folders, with or without train, val
        and test folders above them.
    data
        Where a named set is: a folder that holds the set's folder, the set's folder
        itself, or ``"hub"``, to download it; by default the setting ``CLIPLIB_DATA``,
        which takes the same values.

    Returns
    -------
    datasets.Dataset or None
        Columns ``image`` (``{"path", "bytes"}``), ``label``, ``id`` (split, class and
        file) and ``split`` ("train", "val", "test" or ""). None where a named set has
        no images on this machine, or neither the hub nor Kaggle has it.

    Raises
    ------
    OSError
        If a folder is not there, or a download fails.
    ValueError
        If a folder holds no images in class folders, or `data` holds another set.
    """
    name = os.fspath(name_or_path)
    if name not in DATASETS:
        return _load_folder(name)
    if data:
        return _load_named(name, os.fspath(data), must_be_there=True)
    setting = os.environ.get(SETTING, "")
    try:
        return _load_named(name, setting, must_be_there=False)
    except (FileNotFoundError, ValueError) as error:
        # The same kind of error, which names the setting that is at fault as well.
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(f"{error} (The setting {SETTING} is {setting!r}.)") from error


def _load_folder(name: str) -> datasets.Dataset:
    """Return the images of a folder of class folders as a data set, sorted by id."""
    root = _existing_folder(name)
    images = _list_images(root)
    classes = sorted({image.label for image in images})
    return _as_dataset(images, classes, title=root.resolve().name, source="folder")


def _load_named(
    name: str, setting: str, *, must_be_there: bool
) -> datasets.Dataset | None:
    """Return the images of a named set as a data set; None where none are found.

    `setting` is a folder, "hub" to download them, or "" for nowhere. If
    `must_be_there`, a folder without the set's classes raises ValueError.
    """
    images = _list_named(name, setting, must_be_there=must_be_there)
    if images is None:
        return None
    if different := difference_from_report(name, [image.id for image in images]):
        warn_once(logger, different)
    images = _with_published_splits(images, name)
    classes = list(DATASETS[name].phrases)
    source = "hub" if setting == "hub" else "folder"
    return _as_dataset(images, classes, title=name, source=source)


def _list_named(
    name: str, setting: str, *, must_be_there: bool
) -> list[ListedImage] | None:
    """Return the images of a named set, sorted by id; None where none are found.

    `setting` says where they are: a folder, "hub" to download them, or "" for nowhere.
    For a folder whose classes are not the set's it is None as well, but ValueError is
    raised if `must_be_there`, or if the folder bears the set's name.
    """
    root = _root_of_named(name, setting)
    if root is None and setting == "hub":
        logger.info("%s: no home to download it from", name)
        return None
    images = _list_images(root) if root else []
    present = {image.label for image in images}
    if present == set(DATASETS[name].phrases):  # phrases by class
        logger.info("%s: %s from %s", name, counted(len(images), "image"), root)
        return images
    bears_the_name = root is not None and root.name == name
    if must_be_there or bears_the_name:
        raise ValueError(_difference_from_set(name, root or Path(setting), present))
    logger.info("%s: no images on this machine", name)
    return None


def _root_of_named(name: str, setting: str) -> Path | None:
    """Return the folder where a named set's class folders should be; None if nowhere.

    `setting` is "" for nowhere, "hub" to download the set, or a folder: the set itself,
    or one that holds a folder for each of several sets, some of them below its
    subfolder ``external``.
    """
    if setting == "":
        return None
    if setting == "hub":
        return fetch_dataset(name)
    folder = _existing_folder(setting)
    parents = [folder, folder / "external"]  # the first one that holds the set counts
    for parent in parents:
        if (parent / name).is_dir():
            return parent / name
    holds_other_sets = any(
        (parent / other).is_dir() for parent in parents for other in DATASETS
    )
    return None if holds_other_sets else folder


def _difference_from_set(name: str, folder: Path, present: set[str]) -> str:
    """Return a sentence on how a folder differs from the named set `name`.

    The folder's classes, `present`, are not those of the set.
    """
    expected = set(DATASETS[name].phrases)
    what = f"{folder} is no copy of {name}"
    if not present:
        return f"{what}: that set's folder is not in it."
    if not present & expected:
        others = ", ".join(sorted(present)[:5])
        return (
            f"{what}: its classes are {others}. For images of your own, give their "
            "folder in place of the set's name."
        )
    differences = []
    if missing := sorted(expected - present):
        differences.append(f"it lacks the classes {', '.join(missing[:5])}")
    if odd := sorted(present - expected):
        differences.append(f"that set has no classes {', '.join(odd[:5])}")
    return f"{what}: {'; '.join(differences)}."


def _with_published_splits(images: list[ListedImage], name: str) -> list[ListedImage]:
    """Return a named set's images; those without a split folder get a published split.

    It is the one of the set's authors, from a file of this package, which lists images
    by id; an image that is not listed keeps the split "".
    """
    path = PRECOMPUTED / f"{name}_splits.txt"
    if not path.is_file():
        return images
    lines = path.read_text("utf-8").splitlines()
    entries = [line for line in lines if not line.startswith("#")]  # "id split"
    published = dict(entry.rsplit(" ", 1) for entry in entries)
    return [
        image._replace(split=image.split or published.get(image.id, ""))
        for image in images
    ]


def _as_dataset(
    images: Sequence[ListedImage], classes: Sequence[str], *, title: str, source: str
) -> datasets.Dataset:
    """Return listed images as a data set, undecoded, a row for each in their order.

    Labels are indices in `classes`. `title` becomes ``info.dataset_name``; `source`,
    "folder" or "hub", ``info.builder_name``.
    """
    import datasets  # takes seconds, which a folder without images shall not cost

    rows = [
        {
            "image": {"path": str(image.path), "bytes": None},
            "label": classes.index(image.label),
            "id": image.id,
            "split": image.split,
        }
        for image in images
    ]
    features = datasets.Features(
        image=datasets.Image(decode=False),
        label=datasets.ClassLabel(names=list(classes)),
        id=datasets.Value("string"),
        split=datasets.Value("string"),
    )
    info = datasets.DatasetInfo(
        dataset_name=title, builder_name=source, features=features
    )
    return datasets.Dataset.from_list(rows, info=info)


def _existing_folder(name: str) -> Path:
    """Return a folder's absolute path; FileNotFoundError if there is no such folder."""
    root = Path(name).expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{str(root)!r} is neither a folder nor one of {[*DATASETS]}."
        )
    return root


def _list_images(root: Path) -> list[ListedImage]:
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
    parsed = parse_path(relative)
    return ListedImage(path, parsed.id, parsed.split, parsed.label)


class ParsedPath(NamedTuple):
    """What the path of an image says; the fields are those of `ListedImage`."""

    id: str
    split: str
    label: str


def parse_path(relative: PurePath) -> ParsedPath:
    """Return id, split ("" if none) and class of the image at [split/]class/file.

    Folders above these are left out of the id: "photos/Training/cat/1.jpg" gives
    "Training/cat/1.jpg", "train" and "cat"; "photos/cat/1.jpg" gives "cat/1.jpg", ""
    and "cat". `SPLITS` lists the names of split folders, in lower case.
    """
    *above, label, file = relative.parts
    folder_above = above[-1] if above else ""
    split = SPLITS.get(folder_above.lower(), "")
    parts = [folder_above, label, file] if split else [label, file]
    return ParsedPath(id="/".join(parts), split=split, label=label)


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
    names = listing(sorted(empty))
    if len(empty) == 1:
        warn_once(
            logger,
            f"The folder {names} of {root} holds no image that can be read, and is no "
            "class.",
        )
    else:
        warn_once(
            logger,
            f"The folders {names} of {root} hold no image that can be read, and are no "
            "classes.",
        )


def _is_system_file(path: PurePath) -> bool:
    """Say whether a file is one that Windows or macOS itself puts into folders."""
    return path.name.lower() in SYSTEM_FILES or path.name.startswith("._")


def _warn_of_left_out(kind: str, paths: Sequence[Path]) -> None:
    if paths:
        files = counted(len(paths), "file")
        warn_once(logger, f"Left out {files} {kind}, such as {min(paths)}")


def fetch_dataset(name: str) -> Path | None:
    """Return the folder of a named set on the hub or on Kaggle; None if on neither.

    It is downloaded if it was not before.

    Raises
    ------
    OSError
        If the download fails.
    """
    spec = DATASETS[name]
    try:
        if spec.hub:
            archive = spec.hub
            return fetch_archive(
                archive["repo"], archive["file"], archive.get("sha256", "")
            )
        return fetch_from_kaggle(spec.kaggle) if spec.kaggle else None
    except DownloadError as error:
        raise OSError(
            f"Cannot download {spec.title}: {error}; or name a folder with its images, "
            f"which are at {spec.homepage}."
        ) from error


def difference_from_report(name: str, ids: Collection[str]) -> str:
    """Return a sentence on how images of a named set differ from those of the report.

    `ids` are those of the images that are here. The ids of the images that cliplib's
    own report measured are in a file of this package. The sentence is "" if both are
    the same, or if the report has no images of that set.
    """
    path = PRECOMPUTED / f"{name}_groups.csv"
    if not path.is_file():
        return ""
    rows = path.read_text("utf-8").splitlines()[1:]  # id,group below a header
    in_report = {row.rsplit(",", 1)[0] for row in rows}
    here = set(ids)
    if here == in_report:
        return ""
    parts = [f"{counted(len(here), 'image')}, {len(in_report):,} in the report"]
    if new := len(here - in_report):
        parts.append(f"{new:,} of them {'is' if new == 1 else 'are'} not in it")
    if lost := len(in_report - here):
        parts.append(f"{lost:,} of the report {'is' if lost == 1 else 'are'} missing")
    return f"{DATASETS[name].title}: {'; '.join(parts)}."


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
