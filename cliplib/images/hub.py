"""Download models and data sets from the Hugging Face hub and from Kaggle, once.

What was downloaded whole is used from then on, without a request: `hf download NAME`
asks the hub for a newer version. "Cached" means: in the clients' own folders.
"""

from __future__ import annotations

import difflib
import errno
import fnmatch
import hashlib
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import getproxies

from filelock import FileLock
from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from tqdm.auto import tqdm

from cliplib.images.cache import cache_folder

logger = logging.getLogger(__name__)

KNOWN_MODELS = (
    "openai/clip-vit-base-patch32",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-large-patch14",
    "openai/clip-vit-large-patch14-336",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "google/siglip-base-patch16-224",
    "google/siglip2-base-patch16-224",
    "facebook/dinov2-small",
    "facebook/dinov2-base",
    "facebook/dinov2-large",
)
"""Ids that a misspelt one is compared with."""

ANSWER_SECONDS = 10  # that the hub has to answer a request
SMALL_FILE = 1_000_000  # bytes: no progress bar up to this size
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first one is preferred
# Configuration, preprocessing, tokenizer.
SETTINGS_FILES = ("*.json", "*.txt", "*.model")
PREPROCESSING = {"preprocessor_config.json", "processor_config.json"}  # one is needed


class DownloadError(OSError):
    """Something cannot be fetched; the message is one sentence, without a full stop."""


def fetch_model(name: str) -> Path:
    """Return the folder of a model's files, downloaded if some are not cached.

    Parameters
    ----------
    name
        "owner/name", or "owner/name@revision": a branch, a tag or a commit.

    Raises
    ------
    DownloadError
        If the hub does not give it, or a file of its weights is damaged.
    """
    repo, _, revision = name.partition("@")
    revision = revision or constants.DEFAULT_REVISION
    folder = _cached_model(repo, revision)
    if folder is None:
        with explained(repo, revision):
            folder = _download_model(repo, revision)
    # Cached files as well, each time, since disks fail: it raises where one is damaged.
    for file in _weight_files(_file_names(folder)):
        _verified_sha256(folder / file)
    return folder


def _cached_model(repo: str, revision: str) -> Path | None:
    """Return the folder of a model's cached files; None if a needed one is missing."""
    config = _cached_path(repo, "config.json", revision)
    if config is None:
        return None
    folder = config.parent
    return folder if _has_all_files(folder) else None


def _cached_path(
    repo: str,
    name: str,
    revision: str = constants.DEFAULT_REVISION,
    kind: str = "model",
) -> Path | None:
    """Return a file's path in the hub's cache; None if it is not there.

    `kind` is "model" or "dataset".
    """
    path = try_to_load_from_cache(repo, name, revision=revision, repo_type=kind)
    # Neither None nor the mark of a file that the repository itself lacks.
    return Path(path) if isinstance(path, str) else None


def _has_all_files(folder: Path) -> bool:
    """Return whether a folder holds all files that its model needs.

    These are weights with all their parts, configuration, preprocessing and, for a
    CLIP, the tokenizer.
    """
    names = set(_file_names(folder))
    weights = _weight_files([*names])
    has_preprocessing = bool(PREPROCESSING & names)  # one of its two names is enough
    if not weights or "config.json" not in names or not has_preprocessing:
        return False
    if weights[0].endswith(".index.json"):
        index = json.loads((folder / weights[0]).read_text("utf-8"))
        parts = set(index["weight_map"].values())  # a file's name for each tensor
        if not parts <= names:
            return False
    config = json.loads((folder / "config.json").read_text("utf-8"))
    reads_texts = config.get("model_type") == "clip"
    has_tokenizer = "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names
    return has_tokenizer or not reads_texts


def _file_names(folder: Path) -> list[str]:
    """Return the names of the files in a folder, without links that lead nowhere."""
    return [path.name for path in folder.iterdir() if path.is_file()]


def _weight_files(names: list[str]) -> list[str]:
    """Return the names of files with a model's weights, out of all its files' names.

    They are in the first format of `WEIGHTS` that is there: one file, or an index and
    then its parts, such as "model-00001-of-00002.safetensors"; [] if there is none.
    """
    for name in WEIGHTS:
        if name in names:
            return [name]
        index = f"{name}.index.json"
        stem, suffix = name.split(".")
        if index in names:
            parts = fnmatch.filter(names, f"{stem}-*-of-*.{suffix}")
            return [index, *parts]
    return []


def _download_model(repo: str, revision: str) -> Path:
    """Download a model's settings and its weights, in one format; return the folder.

    Files that are cached already are not downloaded again. DownloadError if there are
    no weights, or if the disk has no room.
    """
    info = HfApi().model_info(
        repo, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS
    )
    # Of all files of the repository, in bytes, by path in it.
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    weights = _weight_files([*sizes])
    if not weights:
        raise DownloadError(
            "it holds no weights that transformers reads, in model.safetensors or "
            "pytorch_model.bin"
        )
    wanted = [*filter(_is_settings_file, sizes), *weights]
    missing = [name for name in wanted if _cached_path(repo, name, revision) is None]
    size = sum(sizes[name] for name in missing)
    _check_room(size)
    _log_download(repo, size)
    paths = [_download_file(repo, name, revision, sizes[name]) for name in wanted]
    return paths[0].parent  # in which all of them lie


def _is_settings_file(name: str) -> bool:
    """Return whether a file is at the top of its repository and fits `SETTINGS_FILES`.

    An index of weights is excluded, though its name ends in .json.
    """
    fits = any(fnmatch.fnmatch(name, pattern) for pattern in SETTINGS_FILES)
    return fits and "/" not in name and ".index." not in name


def _download_file(
    repo: str, name: str, revision: str, size: int, kind: str = "model"
) -> Path:
    """Return a file's path in the hub's cache, downloaded if it is not there.

    `size` in bytes decides whether a bar is shown; `kind` is "model" or "dataset".
    """
    bar: Any = tqdm if size > SMALL_FILE else _no_bar
    path = hf_hub_download(
        repo, name, revision=revision, repo_type=kind, tqdm_class=bar
    )
    return Path(path)


def _no_bar(*args: Any, **options: Any) -> Any:
    """Return a progress bar that is not shown, in the place of ``tqdm``."""
    return tqdm(*args, **options | {"disable": True})


def _check_room(size: int) -> None:
    """Raise DownloadError if `size` bytes do not fit on the disk of the hub's cache."""
    place = Path(constants.HF_HUB_CACHE)
    # The folder itself may still have to be made.
    existing = next(path for path in (place, *place.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise DownloadError(
            f"it takes {_megabytes(size)} MB, and the disk of {place} has "
            f"{free / 1e6:,.0f} MB left: make room, or name another place by HF_HOME"
        )


def _log_download(repo: str, size: int) -> None:
    place = Path(constants.HF_HUB_CACHE)
    logger.warning("Downloading %s: %s MB, into %s", repo, _megabytes(size), place)


def _megabytes(size: int) -> str:
    """Write bytes as a whole number of megabytes (of 10**6 bytes), 1 or more."""
    return f"{max(1, round(size / 1e6)):,}"


def _verified_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in the hub's cache, in hexadecimal digits.

    DownloadError if it is damaged: a large file's name there is a link to a file that
    is named by the SHA-256 it should have.
    """
    content = path.resolve()
    digest = sha256(content)
    if re.fullmatch("[0-9a-f]{64}", content.name) and content.name != digest:
        raise DownloadError(
            f"its file {path.name} is damaged, as its SHA-256 says: delete {content} "
            "and try again"
        )
    return digest


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_archive(repo: str, file: str, sha256_of_report: str = "") -> Path:
    """Return the folder of the unpacked files of a data set's ZIP archive on the hub.

    Archive and files are cached.

    Parameters
    ----------
    repo, file
        The data set's repository, "owner/name", and the archive's path in it.
    sha256_of_report
        SHA-256 of the archive that cliplib's report measured; a warning is logged if
        this one differs. "" if the report measured none.

    Raises
    ------
    DownloadError
        If the hub does not give the archive, it is not what the hub has, or there is no
        room for its files.
    """
    archive = _cached_path(repo, file, kind="dataset")
    if archive is None:
        with explained(repo):
            archive = _download_archive(repo, file)
    digest = _verified_sha256(archive)
    if sha256_of_report and digest != sha256_of_report:
        logger.warning("%s of %s is not the version of the report", file, repo)
    return _unpacked(archive, cache_folder() / "images", digest)


def _download_archive(repo: str, file: str) -> Path:
    """Download a file of the data set `repo`; return its path in the hub's cache.

    DownloadError if the disk has no room for it.
    """
    info = HfApi().dataset_info(repo, files_metadata=True, timeout=ANSWER_SECONDS)
    # Of all files of the repository, in bytes, by path in it.
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    size = sizes.get(file, 0)
    _check_room(size)
    _log_download(repo, size)
    revision = constants.DEFAULT_REVISION
    return _download_file(repo, file, revision, size, kind="dataset")


def _unpacked(archive: Path, place: Path, digest: str) -> Path:
    """Return the folder in `place` of a ZIP archive's files, unpacked if it is not yet.

    Its name has the first digits of the archive's SHA-256, `digest`. It is there with
    all files or not at all, also if a process is ended or several unpack at once.
    `_extract` raises DownloadError if the archive is damaged, or the disk full.
    """
    folder = place / f"{archive.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    place.mkdir(parents=True, exist_ok=True)
    partial = place / f".{folder.name}"
    with FileLock(place / f"{folder.name}.lock"):
        if folder.is_dir():  # unpacked by another process while this one waited
            return folder
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was ended
        _extract(archive, partial)
        partial.replace(folder)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    """Unpack a ZIP archive into a new folder, which is deleted if that fails.

    Then DownloadError says whether the archive is damaged or the disk full.
    """
    try:
        with zipfile.ZipFile(archive) as files:
            files.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if getattr(error, "errno", None) == errno.ENOSPC:
            full = _disk_is_full(folder.parent, "CLIPLIB_CACHE")
            raise DownloadError(full) from error
        raise DownloadError(
            f"its archive is damaged: delete {archive.resolve()} and try again"
        ) from error


def fetch_from_kaggle(handle: str) -> Path:
    """Return the folder of a data set of Kaggle, downloaded if it is not cached.

    `handle` is as "owner/name/versions/1". DownloadError if the client kagglehub is
    missing, or Kaggle does not give the data set.
    """
    try:
        import kagglehub
    except ImportError as error:
        raise DownloadError(
            "Kaggle's client is missing: python -m pip install kagglehub"
        ) from error
    with explained(handle, host="Kaggle"):
        return Path(kagglehub.dataset_download(handle))


@contextmanager
def explained(
    name: str, revision: str = constants.DEFAULT_REVISION, *, host: str = "the hub"
) -> Iterator[None]:
    """Raise DownloadError, with cause and remedy, for any error in the block.

    The block downloads `name`, at `revision` of its repository, from `host`, which is
    "the hub" or "Kaggle".
    """
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:  # the clients raise nearly anything
        raise DownloadError(_cause(error, name, revision, host)) from error


def _cause(error: BaseException, name: str, revision: str, host: str) -> str:
    """Return a clause on why a download failed, and on what to do.

    `name` and `revision` are what was asked of `host`, "the hub" or "Kaggle". Its
    client wraps errors in others, so all that led to `error` are looked at: the names
    of their classes and base classes, their HTTP status, and their messages.
    """
    chain = [*_error_chain(error)]
    class_names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    error_numbers = {getattr(each, "errno", None) for each in chain}
    if error_numbers & {errno.ENOSPC, errno.EDQUOT}:
        return _disk_is_full(Path(constants.HF_HUB_CACHE), "HF_HOME")
    text = " ".join(map(str, chain))
    if "Invalid credentials" in text or "Unauthenticated" in text:
        return f"{host} refuses the login of this machine: {_login(host)} again"
    # The first function that knows the cause; the others return "".
    return (
        _cause_by_class(class_names, name, revision, host)
        or _cause_by_status(_http_status(chain), name, host)
        or _cause_by_connection(class_names, text, host)
        or f"{host} failed ({type(error).__name__}: {first_sentence(error)})"
    )


def _error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the one that caused it, the cause of that, and so on."""
    seen: set[int] = set()  # since causes may go in a circle
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _http_status(errors: list[BaseException]) -> int:
    """Return the HTTP status of the first error with a response; 0 if none has one."""
    for error in errors:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
    return 0


def _disk_is_full(place: Path, setting: str) -> str:
    return f"the disk of {place} is full: make room, or name another place by {setting}"


def _address(host: str) -> str:
    return constants.ENDPOINT if host == "the hub" else "https://www.kaggle.com"


def _login(host: str) -> str:
    """Return a clause on how to log in to a host, "the hub" or "Kaggle"."""
    if host == "the hub":
        return "log in by `hf auth login`"
    return "put a token of https://www.kaggle.com/settings into ~/.kaggle/kaggle.json"


def _cause_by_class(class_names: set[str], name: str, revision: str, host: str) -> str:
    """Return a clause on what the hub client's own errors mean; "" for other errors.

    `class_names` are the names of the errors' classes and base classes: as
    GatedRepoError is a subclass of RepositoryNotFoundError, it is looked for first.
    `name` and `revision` are what was asked of `host`, "the hub" or "Kaggle".
    """
    if "OfflineModeIsEnabled" in class_names:
        return (
            "it was not downloaded whole before, and HF_HUB_OFFLINE or "
            "TRANSFORMERS_OFFLINE forbids a download: unset it"
        )
    if "GatedRepoError" in class_names:
        return (
            f"its makers want their terms accepted: do so on {_address(host)}/{name}, "
            f"then {_login(host)}"
        )
    if "RevisionNotFoundError" in class_names:
        return f"{host} has no revision {revision!r} of it"
    if "RepositoryNotFoundError" in class_names or "HFValidationError" in class_names:
        return _not_found(name, host)
    if "RemoteEntryNotFoundError" in class_names:
        return f"{host} does not have all of its files"
    return ""


def _not_found(name: str, host: str) -> str:
    """Return a clause on a name that a host does not know, or hides without a login.

    It proposes the most similar name of `KNOWN_MODELS`, if one is similar.
    """
    near = difflib.get_close_matches(name, KNOWN_MODELS, n=1)
    meant = f" (is {near[0]!r} meant?)" if near and near[0] != name else ""
    return (
        f"{_address(host)} has nothing of that name for you: correct the name{meant}, "
        f"or {_login(host)}"
    )


def _cause_by_status(status: int, name: str, host: str) -> str:
    """Return a clause on what an HTTP status means, and on what to do; "" below 400.

    `name` is what was asked of `host`, "the hub" or "Kaggle".
    """
    if status in (401, 404):  # a hub asks for a login also where there is nothing
        return _not_found(name, host)
    if status == 403:
        return f"{host} or a proxy forbids it (403): {_login(host)}, or ask the network"
    if status == 429:
        return f"{host} limits requests (429): wait some minutes, or {_login(host)}"
    if status == 407:
        return "the proxy wants a login (407): name it in HTTPS_PROXY"
    if status >= 500:
        return f"{host} has a fault of its own ({status}): try again later"
    return f"{host} refuses ({status})" if status >= 400 else ""


def _cause_by_connection(class_names: set[str], text: str, host: str) -> str:
    """Return a clause on why the connection to a host failed; "" for another failure.

    `class_names` are the names of the errors' classes and base classes, `text` is all
    their messages. `host` is "the hub" or "Kaggle".
    """
    address = _address(host)
    if "CERTIFICATE_VERIFY_FAILED" in text or "SSLError" in class_names:
        return (
            f"the certificate of {address} is not trusted: if a proxy of your network "
            "reads along, name its certificate in SSL_CERT_FILE and REQUESTS_CA_BUNDLE"
        )
    refused = bool(class_names & {"ConnectError", "ConnectionError", "NetworkError"})
    # Of the environment variables, or of the system's settings.
    has_proxy = bool(getproxies().keys() & {"http", "https"})
    if "ProxyError" in class_names or (refused and has_proxy):
        return (
            f"{address} cannot be reached by the proxy that HTTPS_PROXY or HTTP_PROXY "
            "names: correct or unset it"
        )
    if any("Timeout" in name for name in class_names):
        return f"{address} did not answer in time: try again, or name a mirror"
    if "JSONDecodeError" in class_names:
        return (
            f"a web page came in place of an answer of {address}: log in to your "
            "network with a browser first"
        )
    if "Consistency check failed" in text or "RemoteProtocolError" in class_names:
        return "the download broke off: the same command goes on where it stopped"
    if refused:
        return (
            f"{address} cannot be reached, and it was not downloaded whole before: "
            "name a proxy in HTTPS_PROXY, or a mirror of the hub in HF_ENDPOINT"
        )
    return ""


def first_sentence(error: BaseException) -> str:
    """Return an error's first sentence, on one line, without its full stop."""
    first_paragraph = str(error).split("\n\n")[0]
    line = " ".join(first_paragraph.split())
    # A capital before the stop is more likely an abbreviation than a sentence's end.
    return re.split(r"(?<=[a-z0-9)'\"])[.!] ", line)[0].rstrip(".")
