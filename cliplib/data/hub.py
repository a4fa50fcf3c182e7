"""Models from the Hugging Face hub: downloaded once, and whole.

What is in the hub client's cache is used without a request: `hf download NAME` asks for
a newer version.
"""

from __future__ import annotations

import difflib
import errno
import fnmatch
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    snapshot_download,
)
from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError
from huggingface_hub.utils.sha import git_hash

logger = logging.getLogger(__name__)

KNOWN_MODELS = (
    "openai/clip-vit-base-patch32",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-large-patch14",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "google/siglip2-base-patch16-224",
    "facebook/dinov2-small",
    "facebook/dinov2-base",
)
"""Ids that a misspelt one is compared with."""

ANSWER_SECONDS = 10  # that the hub has to answer a request
SETTINGS = ("*.json", "*.txt", "*.model")  # configuration, preprocessing, tokenizer
WEIGHTS = (  # the first format that a model has is taken
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)
# As of a cache that is full, read-only or a file.
CANNOT_WRITE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EEXIST,
    errno.ENOTDIR,
}


# Names of the errors of a connection: the client's, and Python's.
UNREACHABLE = {"ConnectionError", "NetworkError", "ProxyError", "TimeoutException"}


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
    folder = fetch_settings(name)
    names = {path.name for path in folder.iterdir()}
    repo, _, revision = name.partition("@")
    # It is not there in a cache that transformers itself has made.
    with suppress(CachedRepoTreeNotFoundError):
        listed = get_cached_repo_tree(repo, revision=revision or None)
        names |= {file.path for file in listed}
    for patterns in WEIGHTS:
        if any(fnmatch.filter(names, pattern) for pattern in patterns):
            return _fetch(name, patterns)
    raise DownloadError(
        "it holds no weights that transformers reads, in model.safetensors or "
        "pytorch_model.bin"
    )


def _fetch(name: str, patterns: Sequence[str]) -> Path:
    """Return a model's folder, with all its files that fit a pattern, none damaged."""
    repo, _, revision = name.partition("@")
    with explained(repo, revision):
        folder = _snapshot(repo, revision or None, patterns)
        damaged = _damaged_files(folder, patterns)
        if damaged:
            logger.warning("%s: %s is damaged: fetched again", name, damaged[0])
            # The same version, which the folder is called by.
            _files(repo, folder.name, damaged, anew=True)
            if again := _damaged_files(folder, patterns):
                raise DownloadError(f"its file {again[0]} came damaged twice")
    return folder


def _snapshot(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the folder of a model's files in the cache, downloaded unless complete."""
    with suppress(CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        # Without the list of all files the client takes a part for the whole.
        get_cached_repo_tree(repo, revision=revision)
        return _files(repo, revision, patterns, from_cache=True)
    try:
        wait_for_answer(repo, revision)
    except Exception:  # the client raises nearly anything
        # A cache without that list, as transformers makes it, may be complete.
        with suppress(LocalEntryNotFoundError):
            return _files(repo, revision, patterns, from_cache=True)
        raise
    return _files(repo, revision, patterns)


def _files(
    repo: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    from_cache: bool = False,
    anew: bool = False,
) -> Path:
    """Return the folder of those of a model's files that fit a pattern."""
    folder = snapshot_download(
        repo,
        revision=revision,
        allow_patterns=list(patterns),
        ignore_patterns="*/*",
        local_files_only=from_cache,
        force_download=anew,
    )
    return Path(folder)


def wait_for_answer(
    repo: str, revision: str | None = None, kind: str = "model"
) -> None:
    """Raise the client's error if the hub does not show a repository, or is silent.

    The client's own download of a "model" or "dataset" waits for ever, or tries again.
    """
    HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS)


def _damaged_files(folder: Path, patterns: Sequence[str]) -> list[str]:
    """Return the names of files that fit a pattern and are not what the hub has."""
    return [
        path.name
        for path in sorted(folder.iterdir())
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
        and _is_damaged(path)
    ]


def _is_damaged(path: Path) -> bool:
    """Return whether a file in the client's cache has another hash than it should.

    A link's target is named by it: SHA-256 of large files, git's SHA-1 of others. Where
    there are no links, as on Windows, it is not known, and False is returned.
    """
    # One step of the link: the target may itself be a link, named otherwise.
    expected = Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", expected):
        return sha256(path) != expected
    if re.fullmatch("[0-9a-f]{40}", expected):
        return git_hash(path.read_bytes()) != expected
    return False


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
        raise DownloadError(_cause(error, name, revision)) from None


def _cause(error: BaseException, name: str, revision: str) -> str:
    """Return a sentence on why a download failed, and on what to do.

    The client wraps errors in others, so all that led to `error` are looked at.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and len(chain) < 20:
        chain.append(cause)
    kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
    if "OfflineModeIsEnabled" in kinds:
        return (
            "it was not downloaded whole before, and HF_HUB_OFFLINE or "
            "TRANSFORMERS_OFFLINE forbids a download: unset it"
        )
    numbers = [getattr(each, "errno", None) for each in chain]
    for number in CANNOT_WRITE.intersection(numbers):
        return (
            f"{constants.HF_HUB_CACHE} cannot be written to ({os.strerror(number)}): "
            "make room, or name another place by HF_HOME"
        )
    address = _failed_address(chain)
    responses = [getattr(each, "response", None) for each in chain]
    status = next((each.status_code for each in responses if each is not None), 0)
    is_of_hub = address == constants.ENDPOINT
    if "HFValidationError" in kinds or (is_of_hub and status in (401, 403, 404)):
        return _not_shown(name, revision)
    if status >= 400 and status not in (403, 407):  # which are a proxy's
        return (
            f"{address} answers {status}: try again in some minutes, logged in by `hf "
            "auth login`"
        )
    reason = first_sentence(chain[-1]) or type(chain[-1]).__name__
    # The first breaks off what was connected; the text is what the storage's client,
    # hf_xet, says of a host.
    is_unreachable = "RemoteProtocolError" not in kinds and (
        kinds & UNREACHABLE or "error sending request" in " ".join(map(str, chain))
    )
    if status or is_unreachable:
        return (
            f"{address} cannot be reached ({reason}): name your network's proxy, with "
            "its login, in HTTPS_PROXY, its certificate in SSL_CERT_FILE, or a mirror "
            "of the hub in HF_ENDPOINT"
        )
    return (
        f"what came from {address} broke off, or is no answer of a hub ({reason}): log "
        "in to your network with a browser, and try again"
    )


def _failed_address(errors: Sequence[BaseException]) -> str:
    """Return scheme and host of what failed: of the hub, or of its storage."""
    texts = []
    for error in errors:
        # Of some errors the client knows no request, and raises when asked for it.
        with suppress(AttributeError, RuntimeError):
            texts.append(str(error.request.url))  # type: ignore[attr-defined]
    named = re.search(r"https?://[^\s/)'\"]+", " ".join([*texts, *map(str, errors)]))
    return named[0] if named else constants.ENDPOINT


def _not_shown(name: str, revision: str) -> str:
    """Return a sentence on a name that the hub does not know, or hides.

    It proposes the most similar name of `KNOWN_MODELS`, if one is similar.
    """
    near = difflib.get_close_matches(name, KNOWN_MODELS, n=1)
    meant = f" (is {near[0]!r} meant?)" if near and near[0] != name else ""
    at_revision = f" at the revision {revision!r}" if revision else ""
    return (
        f"{constants.ENDPOINT}/{name} is not there{at_revision}, or not for you: "
        f"correct the name{meant}, or accept its terms there and log in by `hf auth "
        "login`"
    )


def first_sentence(error: BaseException) -> str:
    """Return an error's first sentence, on one line, without its full stop."""
    first_paragraph = str(error).split("\n\n")[0]
    line = " ".join(first_paragraph.split())
    # A capital before the stop is more likely an abbreviation than a sentence's end.
    return re.split(r"(?<=[a-z0-9)'\"])[.!] ", line)[0].rstrip(".")
