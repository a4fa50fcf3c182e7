"""A model's files, and what all encoders share when they load one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files

import torch

from cliplib.data.hub import DownloadError, fetch_model, fetch_settings, first_sentence


def find_checkpoint(name: str, *, weights: bool = True) -> str:
    """Return the folder of a model: "mini", a folder, or a hub id, which is fetched.

    "mini" is the embedded model; a hub id is "owner/name", or "owner/name@revision".
    Without `weights` only its settings are fetched, which tell its kind.

    Raises
    ------
    ValueError
        If the name is neither a folder nor of the form of a hub id.
    DownloadError
        If the hub does not give the model.
    """
    if name == "mini":
        return str(files("cliplib") / "mini")
    if os.path.isdir(name):
        return name
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@.+)?", name):
        # A clause, before which `loading` puts the model's name.
        raise ValueError("there is no such folder, and a hub id is 'owner/name'")
    return str(fetch_model(name) if weights else fetch_settings(name))


@contextmanager
def loading(name: str, remedy: str) -> Iterator[None]:
    """Raise an OSError of one sentence for any error in the block, and hide the error.

    The block loads the model `name`. `remedy` says what to name in its place, such as
    "a folder with a whole CLIP checkpoint, or 'mini'".
    """
    try:
        yield
    except DownloadError as error:
        raise OSError(
            f"Cannot load the model {name!r}: {error}; or name {remedy}."
        ) from None
    except Exception as error:  # the loaders raise nearly anything
        raise OSError(
            f"Cannot load the model {name!r} ({_reason(error)}): name {remedy}."
        ) from None


def _reason(error: Exception) -> str:
    """Return a phrase that says why a checkpoint cannot be loaded.

    Two messages of transformers and torch are replaced, since they tell the user how to
    run code from a checkpoint: Python files of its makers, or code in a pickle.
    """
    text = str(error)
    if "trust_remote_code" in text:
        return "it needs code of its makers, which is never run"
    if "weights_only" in text:  # torch refuses a pickle that is not of tensors alone
        return "its pickle of weights holds code, or is damaged; it was not opened"
    return first_sentence(error)


def fingerprint_of(settings: bytes, weights: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of an encoder's settings and named weights, 32 hexadecimal digits.

    Names, shapes and values of weights count, their order and device do not.
    """
    total = hashlib.blake2b(settings, digest_size=16)
    for name, weight in sorted(weights.items()):
        total.update(f"\n{name} {tuple(weight.shape)}\n".encode())
        # As bytes, since NumPy has no bfloat16.
        content = weight.detach().cpu().reshape(-1).view(torch.uint8)
        total.update(content.numpy().data)
    return total.hexdigest()
