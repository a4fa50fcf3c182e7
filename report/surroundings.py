"""The variables that make two executions equal, and a try of images and model."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

from places import EMBEDDED, Places

SETTINGS = ("CLIPLIB_DATA", "CLIPLIB_MODEL")


def setting(name: str, given: str | None) -> str:
    """Return what the command or the environment names, a folder by its whole path."""
    value = given or os.environ.get(name, "")
    return str(Path(value).resolve()) if value and Path(value).is_dir() else value


def prepare(places: Places, data: str, model: str, dtype: str = "") -> None:
    """Set the variables of this build, and try out the images and the model.

    What cannot work ends the process with one sentence.
    """
    os.environ.update(dict(zip(SETTINGS, (data, model), strict=True)))
    os.environ["CLIPLIB_DTYPE"] = dtype
    text = Path(__file__).with_name("environment.toml").read_text("utf-8")
    fixed = tomllib.loads(text)
    os.environ.update(fixed["always"])
    if has_avx2() and not dtype:  # a precision that is asked for wants its instructions
        os.environ.update(fixed["avx2"])
    if not data:  # else features that other instructions made would come from a cache
        os.environ["CLIPLIB_CACHE"] = str(places.work / "cache")
    os.environ["CLIPLIB_FIGURES"] = str(places.figures)
    os.environ["SOURCE_DATE_EPOCH"] = str(places.epoch())
    os.environ.pop("MPLBACKEND", None)  # the kernel's own
    if needs_hub(data) or needs_hub(model):
        stay_offline_without_hub()
    try:
        try_images(data)
        try_model(model)
        if model not in EMBEDDED and not data:
            raise ValueError(f"To measure {model}, name a folder of images (--data).")
        if dtype and not data:
            raise ValueError(f"To encode in {dtype}, name a folder of images (--data).")
    except (ImportError, OSError, ValueError) as error:
        sys.exit(str(error))


def has_avx2() -> bool:
    """Return whether this processor has the instructions of 2013."""
    config: Any = np.show_config(mode="dicts")
    return bool({"AVX2", "X86_V3"} & set(config["SIMD Extensions"]["found"]))


def multiplies_in_bfloat16() -> bool:
    """Return whether this processor has instructions for 16 bits."""
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16"))


def needs_hub(value: str) -> bool:
    """Return whether a setting names something that is not on this machine."""
    return bool(value) and value != "mini" and not Path(value).is_dir()


def stay_offline_without_hub() -> None:
    """Let the hub's client end at once where the hub cannot be reached."""
    try:
        urlopen("https://huggingface.co", timeout=10).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def try_images(data: str) -> None:
    """Raise ValueError where there is none of the named data sets."""
    if not data:
        return
    from cliplib.images.data import DATASETS, load_dataset

    if not any(load_dataset(name) is not None for name in DATASETS):
        raise ValueError(f"{data} holds none of the data sets {', '.join(DATASETS)}.")


def try_model(model: str) -> None:
    """Raise what `ClipEncoder` raises where the model cannot be loaded."""
    if not model:
        return
    from cliplib.encode.clip import ClipEncoder

    ClipEncoder(cache=False)
