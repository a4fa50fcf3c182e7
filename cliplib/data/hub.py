"""Models from the Hugging Face hub, downloaded once and checked for damage.

Files in the hub client's cache are used without a request; `hf download NAME` looks for
a newer version.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils.sha import git_hash

logger = logging.getLogger(__name__)

# Seconds after which a request to the hub fails.
ANSWER_SECONDS = 10
# Patterns of the files of configuration, preprocessing and tokenizer.
SETTINGS = ("*.json", "*.txt", "*.model")
# Patterns of the files of weights: a model's first format in this order is taken.
WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)
# A SHA-1 (40 digits) or SHA-256 (64 digits).
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
# Error numbers of a full disk, and of a user's full quota.
FULL = (errno.ENOSPC, errno.EDQUOT)


class DownloadError(OSError):
    """A download failed; the message is one sentence, without its full stop."""


def fetch_settings(name: str) -> Path:
    """Return the folder of a model's configuration, preprocessing and tokenizer.

    `name` is "owner/name", or "owner/name@revision" with a branch, tag or commit.
    DownloadError if they cannot be downloaded.
    """
    return _fetch(name, SETTINGS)


def fetch_model(name: str) -> Path:
    """Return the folder of a model's settings and weights.

    Files that are missing or damaged in the cache are downloaded. `name` is as for
    `fetch_settings`.

    Raises
    ------
    DownloadError
        If they cannot be downloaded, or if transformers cannot read any weights of the
        model.
    """
    for patterns in WEIGHTS:
        folder = _fetch(name, (*SETTINGS, *patterns))
        if any(_files_of(folder, patterns)):
            return folder
    raise DownloadError("it holds neither model.safetensors nor pytorch_model.bin")


def _fetch(name: str, patterns: Sequence[str]) -> Path:
    """Return the folder of a model's undamaged files that match a pattern."""
    repo, _, revision = name.partition("@")
    with explained(repo, revision):
        folder = _snapshot(repo, revision or None, patterns)
        damaged = _damaged_files(folder, patterns)
        if not damaged:
            return folder
        logger.warning("%s: %s is damaged: fetched again", name, damaged[0].name)
        for path in damaged:
            path.resolve().unlink()
        # The folder's name is its commit, so that the same version is fetched.
        folder = _snapshot(repo, folder.name, patterns)
        still_damaged = _damaged_files(folder, patterns)
        if still_damaged:
            raise DownloadError(f"its file {still_damaged[0].name} came damaged twice")
        return folder


def _snapshot(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the folder of a model's files in the cache; missing ones are downloaded.

    Files in subfolders of the repository are left out.
    """
    selection: Any = {
        "revision": revision,
        "allow_patterns": list(patterns),
        "ignore_patterns": "*/*",
    }
    with suppress(CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        # Without the cached list of all files, the client does not notice missing ones.
        get_cached_repo_tree(repo, revision=revision)
        return Path(snapshot_download(repo, local_files_only=True, **selection))
    try:
        ask_hub(repo, revision)
    except Exception:  # the client raises errors of many types
        # The cache may be complete without that list, as transformers makes it.
        with suppress(LocalEntryNotFoundError):
            return Path(snapshot_download(repo, local_files_only=True, **selection))
        raise
    return Path(snapshot_download(repo, **selection))


def ask_hub(repo: str, revision: str | None, kind: str = "model") -> None:
    """Raise the client's error if the hub is silent or does not show a repository.

    `kind` is "model" or "dataset". Without this request, a download would wait for ever
    or be repeated.
    """
    HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS)


def _files_of(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files of a folder that match a pattern."""
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _damaged_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the damaged files of a folder that match a pattern."""
    return [path for path in _files_of(folder, patterns) if _is_damaged(path)]


def _is_damaged(path: Path) -> bool:
    """Say whether a file in the client's cache has another hash than it should.

    The file is a link, whose target the client names by its hash: SHA-256 of large
    files, git's SHA-1 of others. Damage is not noticed where there are no links, as on
    Windows, or where a mirror of the hub uses other names.
    """
    if not path.is_symlink():
        return False
    # Only one step of the link, since its target may be a link to another name.
    expected_hash = Path(os.readlink(path)).name
    if not HASH.fullmatch(expected_hash):
        return False
    is_large = len(expected_hash) == 64
    actual_hash = sha256(path) if is_large else git_hash(path.read_bytes())
    return actual_hash != expected_hash


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explained(name: str, revision: str = "") -> Iterator[None]:
    """Turn any error of the block into a DownloadError with its cause and a remedy.

    The block downloads the `revision` of the repository `name` from the hub.
    """
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:  # the client raises errors of many types
        raise DownloadError(_why_not_downloaded(error, name, revision)) from None


def _why_not_downloaded(error: BaseException, name: str, revision: str) -> str:
    """Return a sentence that says why a download failed, and what to do."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        # The client hides the error of a failed request behind this one.
        return _why_not_downloaded(error.__cause__, name, revision)
    if isinstance(error, OfflineModeIsEnabled):
        return (
            "it was not downloaded whole before, and HF_HUB_OFFLINE or "
            "TRANSFORMERS_OFFLINE forbids a download: unset it"
        )
    # An error of the disk names a file, unless the disk is full.
    if isinstance(error, OSError) and (error.filename or error.errno in FULL):
        return (
            f"{constants.HF_HUB_CACHE} cannot be written to ({error.strerror}): "
            "make room, or name another place by HF_HOME"
        )
    address = _failed_address(error)
    status = getattr(getattr(error, "response", None), "status_code", 0)
    is_refused = address == constants.ENDPOINT and status in (401, 403, 404)
    if is_refused or isinstance(error, HFValidationError):
        return not_there(name, revision)
    if status >= 400 and status not in (403, 407):  # these two come from a proxy
        return (
            f"{address} answers {status}: try again in some minutes, logged in by `hf "
            "auth login`"
        )
    return (
        f"no usable answer came from {address} ({first_sentence(error)}): log in to "
        "your network with a browser, or name its proxy, with its login, in "
        "HTTPS_PROXY, its certificate in SSL_CERT_FILE, or a mirror of the hub in "
        "HF_ENDPOINT"
    )


def not_there(name: str, revision: str) -> str:
    """Return a sentence for a repository that the hub lacks, or hides from the user."""
    at_revision = f" at the revision {revision!r}" if revision else ""
    return (
        f"{constants.ENDPOINT}/{name} is not there{at_revision}, or not for you: "
        "correct the name, or accept its terms there and log in by `hf auth login`"
    )


def _failed_address(error: BaseException) -> str:
    """Return scheme and host of the failed request: those of the hub or its storage."""
    text = str(error)
    # The request is an attribute of the hub's answer, or of the error if none came.
    answer: Any = getattr(error, "response", error)
    with suppress(AttributeError, RuntimeError):  # other errors have no request
        text = str(answer.request.url)
    address = re.search(r"https?://[^\s/)'\"]+", text)
    return address[0] if address else constants.ENDPOINT


def first_sentence(error: BaseException) -> str:
    """Return an error's first sentence, without its full stop, or else its type.

    Line breaks become spaces.
    """
    first_paragraph = str(error).split("\n\n")[0]
    line = " ".join(first_paragraph.split())
    # A stop after a capital more likely belongs to an abbreviation.
    sentence = re.split(r"(?<=[a-z0-9)'\"])[.!] ", line)[0].rstrip(".")
    return sentence or type(error).__name__
