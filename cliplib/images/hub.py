"""Models and data sets from their public homes: fetched once, checked, then kept.

What was fetched whole is used from then on, without a request: `hf download NAME` asks
the hub for a newer version.
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

SECONDS = 10  # that a hub has to answer
SMALL = 1_000_000  # bytes: a smaller file gets no bar
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that there is
# Configuration, preprocessing, tokenizer.
SETTINGS_FILES = ("*.json", "*.txt", "*.model")
PREPROCESSING = {"preprocessor_config.json", "processor_config.json"}  # one of them


class DownloadError(OSError):
    """Something cannot be fetched; the message is one sentence, without a full stop."""


def fetch_model(name: str) -> Path:
    """Return the folder of a model's files, from the cache or else from the hub.

    Parameters
    ----------
    name
        "owner/name", or "owner/name@revision": a branch, a tag or a commit.

    Raises
    ------
    DownloadError
        If the hub does not give it, or a kept file is damaged.
    """
    repo, _, revision = name.partition("@")
    revision = revision or constants.DEFAULT_REVISION
    folder = _kept_model(repo, revision)
    if folder is None:
        with explained(repo, revision):
            folder = _download_model(repo, revision)
    # Each time, kept files as well: it raises where one is damaged.
    for file in _weights(_files(folder)):
        _verified_sha256(folder / file)
    return folder


def _kept_model(repo: str, revision: str) -> Path | None:
    """Return the folder of a model that was fetched whole before."""
    config = try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    """Say whether a folder holds all files that a model of its kind needs."""
    files = _files(folder)
    names = _weights([*files])
    if not names or "config.json" not in files or not PREPROCESSING & {*files}:
        return False
    if names[0].endswith(".index.json"):
        index = json.loads((folder / names[0]).read_text("utf-8"))
        if not set(index["weight_map"].values()) <= {*files}:
            return False
    config = json.loads((folder / "config.json").read_text("utf-8"))
    reads_texts = config.get("model_type") == "clip"
    own = "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= {*files}
    return own or not reads_texts


def _files(folder: Path) -> list[str]:
    """List the files of a folder that are there: no broken link."""
    return [path.name for path in folder.iterdir() if path.is_file()]


def _weights(files: list[str]) -> list[str]:
    """Return which of a model's files hold its weights, in one format.

    Of several files the index comes first.
    """
    for name in WEIGHTS:
        if name in files:
            return [name]
        index = f"{name}.index.json"
        stem, suffix = name.split(".")
        if index in files:
            return [index, *fnmatch.filter(files, f"{stem}-*-of-*.{suffix}")]
    return []


def _download_model(repo: str, revision: str) -> Path:
    """Fetch a model's settings and its weights in one format, with one bar."""
    info = HfApi().model_info(
        repo, revision=revision, files_metadata=True, timeout=SECONDS
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    weights = _weights([*sizes])
    if not weights:
        raise DownloadError(
            "it holds no weights that transformers reads, in model.safetensors or "
            "pytorch_model.bin"
        )
    settings = [
        name
        for name in sizes
        if "/" not in name
        and any(fnmatch.fnmatch(name, pattern) for pattern in SETTINGS_FILES)
        and ".index." not in name
    ]
    wanted = [*settings, *weights]
    kept = [try_to_load_from_cache(repo, name, revision=revision) for name in wanted]
    missing = [
        sizes[name]
        for name, path in zip(wanted, kept, strict=True)
        if not isinstance(path, str)
    ]
    _announce(repo, sum(missing), Path(constants.HF_HUB_CACHE))
    for name in wanted:
        path = _download_file(repo, name, revision, sizes[name])
    return Path(path).parent


def _download_file(
    repo: str, name: str, revision: str, size: int, kind: str = "model"
) -> str:
    """Fetch a file into the hub's cache; a large one shows a bar."""
    bar: Any = tqdm if size > SMALL else _no_bar
    return hf_hub_download(
        repo, name, revision=revision, repo_type=kind, tqdm_class=bar
    )


def _no_bar(*args: Any, **options: Any) -> Any:
    return tqdm(*args, **options | {"disable": True})


def _announce(name: str, size: int, place: Path) -> None:
    """Say what is fetched and how large it is; DownloadError if it has no room."""
    megabytes = max(1, round(size / 1e6))
    home = next(path for path in (place, *place.parents) if path.is_dir())
    free = shutil.disk_usage(home).free
    if free < size:
        raise DownloadError(
            f"it takes {megabytes:,} MB, and the disk of {place} has {free / 1e6:,.0f} "
            "MB left: make room, or name another place by HF_HOME"
        )
    logger.warning("Downloading %s: %s MB, into %s", name, f"{megabytes:,}", place)


def _verified_sha256(path: Path) -> str:
    """Return the SHA-256 of a file of the hub's cache.

    There a large file is named by its sum, and its own name is a link to it:
    DownloadError where the content has another sum.
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
    """Return the folder with a ZIP archive's files, of a data set's repository.

    Parameters
    ----------
    repo, file
        Where it lies on the hub.
    sha256_of_report
        Of the archive that the report measured: a warning says if it is another. ""
        for an archive that the report did not measure.

    Raises
    ------
    DownloadError
        If the hub does not give it, or it is damaged.
    """
    archive = try_to_load_from_cache(repo, file, repo_type="dataset")
    if not isinstance(archive, str):
        with explained(repo):
            archive = _download_archive(repo, file)
    digest = _verified_sha256(Path(archive))
    if sha256_of_report and digest != sha256_of_report:
        logger.warning("%s of %s is not the version of the report", file, repo)
    return _unpacked(Path(archive), cache_folder() / "images", digest)


def _download_archive(repo: str, file: str) -> str:
    info = HfApi().dataset_info(repo, files_metadata=True, timeout=SECONDS)
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    _announce(repo, sizes.get(file, 0), Path(constants.HF_HUB_CACHE))
    return _download_file(
        repo, file, constants.DEFAULT_REVISION, sizes.get(file, 0), kind="dataset"
    )


def _unpacked(archive: Path, place: Path, digest: str) -> Path:
    """Unpack an archive, once and whole, whoever else does so at the same time."""
    folder = place / f"{archive.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    place.mkdir(parents=True, exist_ok=True)
    partial = place / f".{folder.name}"
    with FileLock(place / f"{folder.name}.lock"):
        if folder.is_dir():
            return folder
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was ended
        try:
            with zipfile.ZipFile(archive) as files:
                files.extractall(partial)
        except (OSError, zipfile.BadZipFile) as error:
            shutil.rmtree(partial, ignore_errors=True)
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise DownloadError(_disk_is_full(place, "CLIPLIB_CACHE")) from error
            raise DownloadError(
                f"its archive is damaged: delete {archive.resolve()} and try again"
            ) from error
        partial.replace(folder)
    return folder


def fetch_from_kaggle(handle: str) -> Path:
    """Return the folder of a data set of Kaggle, "owner/name/versions/1".

    DownloadError if the client is missing, or Kaggle does not give it.
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
    """Raise DownloadError, with cause and remedy, for what fails in the block."""
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:  # the clients raise nearly anything
        raise DownloadError(_cause(error, name, revision, host)) from error


def _cause(error: BaseException, name: str, revision: str, host: str) -> str:
    """Say in one sentence why a download failed, and what to do."""
    chain = [*_chain(error)]
    kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
    numbers = {getattr(each, "errno", None) for each in chain}
    if numbers & {errno.ENOSPC, errno.EDQUOT}:
        return _disk_is_full(Path(constants.HF_HUB_CACHE), "HF_HOME")
    text = " ".join(map(str, chain))
    if "Invalid credentials" in text or "Unauthenticated" in text:
        return f"{host} refuses the login of this machine: {_login(host)} again"
    return (
        _cause_by_kind(kinds, name, revision, host)
        or _cause_by_status(_status(chain), name, host)
        or _cause_by_connection(kinds, text, host)
        or f"{host} failed ({type(error).__name__}: {first_sentence(error)})"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _status(chain: list[BaseException]) -> int:
    """Return the status code of the answer that an error speaks of, or 0."""
    answers = [getattr(each, "response", None) for each in chain]
    return next((int(a.status_code) for a in answers if a is not None), 0)


def _disk_is_full(place: Path, setting: str) -> str:
    return f"the disk of {place} is full: make room, or name another place by {setting}"


def _address(host: str) -> str:
    return constants.ENDPOINT if host == "the hub" else "https://www.kaggle.com"


def _login(host: str) -> str:
    if host == "the hub":
        return "log in by `hf auth login`"
    return "put a token of https://www.kaggle.com/settings into ~/.kaggle/kaggle.json"


def _cause_by_kind(kinds: set[str], name: str, revision: str, host: str) -> str:
    """Say what an error of the client's own kinds means, or ""."""
    if "OfflineModeIsEnabled" in kinds:
        return (
            "it was not downloaded whole before, and HF_HUB_OFFLINE or "
            "TRANSFORMERS_OFFLINE forbids a download: unset it"
        )
    if "GatedRepoError" in kinds:
        return (
            f"its makers want their terms accepted: do so on {_address(host)}/{name}, "
            f"then {_login(host)}"
        )
    if "RevisionNotFoundError" in kinds:
        return f"the hub has no revision {revision!r} of it"
    if "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
        return _not_found(name, host)
    if "RemoteEntryNotFoundError" in kinds:
        return "the hub does not have all of its files"
    return ""


def _not_found(name: str, host: str) -> str:
    near = difflib.get_close_matches(name, KNOWN_MODELS, n=1)
    meant = f" (is {near[0]!r} meant?)" if near and near[0] != name else ""
    return (
        f"{_address(host)} has nothing of that name for you: correct the name{meant}, "
        f"or {_login(host)}"
    )


def _cause_by_status(status: int, name: str, host: str) -> str:
    """Say what a status code means, or ""."""
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


def _cause_by_connection(kinds: set[str], text: str, host: str) -> str:
    """Say why there is no connection, or none that gives what was asked for; or ""."""
    where = _address(host)
    if "CERTIFICATE_VERIFY_FAILED" in text or "SSLError" in kinds:
        return (
            f"the certificate of {where} is not trusted: if a proxy of your network "
            "reads along, name its certificate in SSL_CERT_FILE and REQUESTS_CA_BUNDLE"
        )
    refused = bool(kinds & {"ConnectError", "ConnectionError", "NetworkError"})
    if "ProxyError" in kinds or (refused and getproxies().keys() & {"http", "https"}):
        return (
            f"{where} cannot be reached by the proxy that HTTPS_PROXY or HTTP_PROXY "
            "names: correct or unset it"
        )
    if any("Timeout" in kind for kind in kinds):
        return f"{where} did not answer in time: try again, or name a mirror"
    if "JSONDecodeError" in kinds:
        return (
            f"a web page came in place of an answer of {where}: log in to your network "
            "with a browser first"
        )
    if "Consistency check failed" in text or "RemoteProtocolError" in kinds:
        return "the download broke off: the same command goes on where it stopped"
    if refused:
        return (
            f"{where} cannot be reached, and it was not downloaded whole before: name "
            "a proxy in HTTPS_PROXY, or a mirror of the hub in HF_ENDPOINT"
        )
    return ""


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error, whole."""
    text = " ".join(str(error).split("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9)'\"])[.!] ", text)[0].rstrip(".")
