"""Where a model's files are, and what all encoders share when they load them."""

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
    """Return the folder of a model, which is downloaded if it is named by a hub id.

    The name is "mini" (the embedded model), a folder, or a hub id: "owner/name" or
    "owner/name@revision". Without `weights` only the model's settings are downloaded.

    Raises
    ------
    ValueError
        If the name is neither a folder nor a possible hub id.
    DownloadError
        If the model cannot be downloaded.
    """
    if name == "mini":
        return str(files("cliplib") / "mini")
    if os.path.isdir(name):
        return name
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@.+)?", name):
        # Only a clause: `loading` puts it into a sentence with the model's name.
        raise ValueError("there is no such folder, and a hub id is 'owner/name'")
    return str(fetch_model(name) if weights else fetch_settings(name))


@contextmanager
def loading(name: str, remedy: str) -> Iterator[None]:
    """Turn any error of a block that loads the model `name` into an OSError.

    Its message is one sentence. `remedy` says what the user may name instead, such as
    "a folder with a whole CLIP checkpoint, or 'mini'".
    """
    try:
        yield
    except DownloadError as error:
        raise OSError(
            f"Cannot load the model {name!r}: {error}; or name {remedy}."
        ) from None
    except Exception as error:  # the loaders raise errors of many types
        raise OSError(
            f"Cannot load the model {name!r} ({_reason(error)}): name {remedy}."
        ) from None


def _reason(error: Exception) -> str:
    """Return a phrase that says why a checkpoint cannot be loaded.

    Messages that tell the user how to run code of a checkpoint are replaced: one of
    transformers about its Python files, one of torch about its pickle.
    """
    text = str(error)
    if "trust_remote_code" in text:
        return "it needs code of its makers, which is never run"
    if "weights_only" in text:  # torch refuses a pickle that holds more than tensors
        return "its pickle of weights holds code, or is damaged; it was not opened"
    return first_sentence(error)


def fingerprint_of(settings: bytes, weights: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of an encoder's settings and weights, 32 hexadecimal digits.

    It depends on the names, shapes and values of the weights, not on their order or
    device.
    """
    digest = hashlib.blake2b(settings, digest_size=16)
    for name, weight in sorted(weights.items()):
        digest.update(f"\n{name} {tuple(weight.shape)}\n".encode())
        # As bytes, since NumPy has no bfloat16.
        content = weight.detach().cpu().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()
