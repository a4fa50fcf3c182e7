"""Models from the Hugging Face hub: downloaded once, and whole.

What is in the hub client's cache is used without a request: `hf download NAME` asks for
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

# Seconds that the hub has to answer a request.
ANSWER_SECONDS = 10
# Files of configuration, preprocessing and tokenizer.
SETTINGS = ("*.json", "*.txt", "*.model")
# Files of weights: the first format that a model has is taken.
WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)
# A revision in full: git's SHA-1, or SHA-256.
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
# Errors of a full disk, or of what the user may fill of it.
FULL = (errno.ENOSPC, errno.EDQUOT)


class DownloadError(OSError):
    """Something cannot be fetched; the message is one sentence, without a full stop."""


def fetch_settings(name: str) -> Path:
    """Return the folder of a model's settings: all that it needs but its weights.

    `name` is "owner/name", or "owner/name@revision": a branch, a tag or a commit.
    DownloadError if the hub does not give it.
    """
    return _fetch(name, SETTINGS)


def fetch_model(name: str) -> Path:
    """Return the folder of a model's settings and weights, in one format.

    What is not in the cache is downloaded, and what is damaged there is fetched again.
    `name` is as for `fetch_settings`.

    Raises
    ------
    DownloadError
        If the hub does not give it, or it has no weights that transformers reads.
    """
    for patterns in WEIGHTS:
        folder = _fetch(name, (*SETTINGS, *patterns))
        if any(_files_of(folder, patterns)):
            return folder
    raise DownloadError("it holds neither model.safetensors nor pytorch_model.bin")


def _fetch(name: str, patterns: Sequence[str]) -> Path:
    """Return a model's folder, with all its files that fit a pattern, none damaged."""
    repo, _, revision = name.partition("@")
    with explained(repo, revision):
        folder = _snapshot(repo, revision or None, patterns)
        damaged = _damaged_files(folder, patterns)
        if not damaged:
            return folder
        logger.warning("%s: %s is damaged: fetched again", name, damaged[0].name)
        for path in damaged:
            path.resolve().unlink()
        # The same version, which the folder is called by.
        folder = _snapshot(repo, folder.name, patterns)
        still_damaged = _damaged_files(folder, patterns)
        if still_damaged:
            raise DownloadError(f"its file {still_damaged[0].name} came damaged twice")
        return folder


def _snapshot(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the folder of a model's files in the cache, downloaded unless complete."""
    wanted: Any = {
        "revision": revision,
        "allow_patterns": list(patterns),
        "ignore_patterns": "*/*",
    }
    with suppress(CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        # Without the list of all files the client takes a part for the whole.
        get_cached_repo_tree(repo, revision=revision)
        return Path(snapshot_download(repo, local_files_only=True, **wanted))
    try:
        ask_hub(repo, revision)
    except Exception:  # the client raises nearly anything
        # A cache without that list, as transformers makes it, may be complete.
        with suppress(LocalEntryNotFoundError):
            return Path(snapshot_download(repo, local_files_only=True, **wanted))
        raise
    return Path(snapshot_download(repo, **wanted))


def ask_hub(repo: str, revision: str | None, kind: str = "model") -> None:
    """Raise the client's error if the hub is silent, or does not show a repository.

    `kind` is "model" or "dataset". The client's own download waits for ever, or tries
    again.
    """
    HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS)


def _files_of(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files of a folder that fit a pattern."""
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _damaged_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return those files that fit a pattern and are not what the hub has."""
    return [path for path in _files_of(folder, patterns) if _is_damaged(path)]


def _is_damaged(path: Path) -> bool:
    """Say whether a file in the client's cache is not what its link is named by.

    The client calls what a link leads to by its hash: SHA-256 of large files, git's
    SHA-1 of others. Where there are no links, as on Windows, or a mirror of the hub
    names files otherwise, nothing is known.
    """
    if not path.is_symlink():
        return False
    # One step of the link: the target may itself be a link, named otherwise.
    expected = Path(os.readlink(path)).name
    if not HASH.fullmatch(expected):
        return False
    is_large = len(expected) == 64
    return expected != (sha256(path) if is_large else git_hash(path.read_bytes()))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explained(name: str, revision: str = "") -> Iterator[None]:
    """Raise DownloadError, with cause and remedy, for any error in the block.

    The block downloads `name`, at `revision` of its repository, from the hub.
    """
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:  # the client raises nearly anything
        raise DownloadError(_why_not_downloaded(error, name, revision)) from None


def _why_not_downloaded(error: BaseException, name: str, revision: str) -> str:
    """Return a sentence on why a download failed, and on what to do."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        # The client hides a failed request behind this.
        return _why_not_downloaded(error.__cause__, name, revision)
    if isinstance(error, OfflineModeIsEnabled):
        return (
            "it was not downloaded whole before, and HF_HUB_OFFLINE or "
            "TRANSFORMERS_OFFLINE forbids a download: unset it"
        )
    # An error of the disk names a file, unless there is no room for it.
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
    if status >= 400 and status not in (403, 407):  # which are a proxy's
        return (
            f"{address} answers {status}: try again in some minutes, logged in by `hf "
            "auth login`"
        )
    reason = first_sentence(error) or type(error).__name__
    return (
        f"no usable answer came from {address} ({reason}): log in to your network with "
        "a browser, or name its proxy, with its login, in HTTPS_PROXY, its certificate "
        "in SSL_CERT_FILE, or a mirror of the hub in HF_ENDPOINT"
    )


def not_there(name: str, revision: str) -> str:
    """Return a sentence on what the hub does not have, or not for this user."""
    at_revision = f" at the revision {revision!r}" if revision else ""
    return (
        f"{constants.ENDPOINT}/{name} is not there{at_revision}, or not for you: "
        "correct the name, or accept its terms there and log in by `hf auth login`"
    )


def _failed_address(error: BaseException) -> str:
    """Return scheme and host of what failed: of the hub, or of its storage."""
    text = str(error)
    # The client's error of an answer knows its response, that of none its request.
    asked: Any = getattr(error, "response", error)
    with suppress(AttributeError, RuntimeError):  # other errors know neither
        text = str(asked.request.url)
    named = re.search(r"https?://[^\s/)'\"]+", text)
    return named[0] if named else constants.ENDPOINT


def first_sentence(error: BaseException) -> str:
    """Return an error's first sentence, on one line, without its full stop."""
    first_paragraph = str(error).split("\n\n")[0]
    line = " ".join(first_paragraph.split())
    # A capital before the stop is more likely an abbreviation than a sentence's end.
    return re.split(r"(?<=[a-z0-9)'\"])[.!] ", line)[0].rstrip(".")
