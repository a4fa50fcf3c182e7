"""Data sets from their public homes: archives of the hub, and Kaggle."""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path

from filelock import FileLock
from huggingface_hub import hf_hub_download, try_to_load_from_cache

from cliplib.data.cache import cache_folder
from cliplib.data.hub import (
    DownloadError,
    ask_hub,
    explained,
    first_sentence,
    sha256,
)

logger = logging.getLogger("cliplib.study.archives")


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
        If the hub does not give the archive, or it cannot be unpacked.
    """
    archive = try_to_load_from_cache(repo, file, repo_type="dataset")
    if not isinstance(archive, str):  # neither None nor the mark of a missing file
        with explained(f"datasets/{repo}"):
            # Else the download itself would wait for ever where the hub is silent.
            ask_hub(repo, None, kind="dataset")
            archive = hf_hub_download(repo, file, repo_type="dataset")
    digest = sha256(Path(archive))
    if sha256_of_report and digest != sha256_of_report:
        logger.warning("%s of %s is not the version of the report", file, repo)
    return _unpacked(Path(archive), cache_folder() / "images", digest)


def _unpacked(archive: Path, place: Path, digest: str) -> Path:
    """Return the folder in `place` of a ZIP archive's files, unpacked if it is not yet.

    Its name has the first digits of the archive's SHA-256, `digest`. It is there with
    all files or not at all, also if a process is ended or several unpack at once.
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
        try:
            with zipfile.ZipFile(archive) as files:
                files.extractall(partial)
        except (OSError, zipfile.BadZipFile) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise DownloadError(
                f"{archive.resolve()} cannot be unpacked into {place} ({error}): make "
                "room, or delete it and try again"
            ) from None
        partial.replace(folder)
    return folder


def fetch_from_kaggle(handle: str) -> Path:
    """Return the folder of a data set of Kaggle, downloaded if it is not cached.

    `handle` is as "owner/name/versions/1". DownloadError if the client kagglehub is
    missing, or Kaggle does not give the data set.
    """
    try:
        import kagglehub
    except ImportError:
        raise DownloadError(
            "Kaggle's client is missing: python -m pip install kagglehub"
        ) from None
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # the client raises nearly anything
        raise DownloadError(
            f"Kaggle does not give it ({type(error).__name__}: "
            f"{first_sentence(error)}): see https://www.kaggle.com/{handle}, and put a "
            "token of https://www.kaggle.com/settings into ~/.kaggle/kaggle.json"
        ) from None
