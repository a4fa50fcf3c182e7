"""Fitted probes as files: arrays and plain JSON, no pickle."""

from __future__ import annotations

import json
import os
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save
from sklearn.utils.validation import check_is_fitted

from cliplib.probes.base import Probe
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.mlp import MLPProbe

KINDS: tuple[type[Probe], ...] = (LinearProbe, KernelProbe, MLPProbe)
# The present name of each fitted attribute that had another name in version 0.3.
RENAMED = {"sharpness_": "logit_scale_"}


def save_probe(probe: Probe, folder: str | os.PathLike[str]) -> None:
    """Write a fitted probe to two files: ``probe.safetensors`` and ``probe.json``.

    The first file holds the fitted arrays of floats; the second the probe's class, its
    parameters, and all other fitted attributes except ``sweep_``. The folder is made if
    it is missing, and existing files are replaced.
    """
    check_is_fitted(probe)
    arrays = {}
    others = {}
    for name, value in vars(probe).items():
        if not name.endswith("_") or name == "sweep_":
            continue  # a parameter, or the record of how C was chosen
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            arrays[name] = np.ascontiguousarray(value)
        else:
            others[name] = value
    document = {
        "kind": type(probe).__name__,
        "parameters": probe.get_params(),
        "fitted": others,
    }
    text = json.dumps(document, indent=1, default=_as_list)
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "probe.safetensors").write_bytes(save(arrays))
    (Path(folder) / "probe.json").write_text(text, encoding="utf-8")


def _as_list(value: Any) -> Any:
    """Return an array as a list, or a NumPy number as a Python number, for JSON."""
    return np.asarray(value).tolist()


def load_probe(folder: str | os.PathLike[str]) -> Probe:
    """Return the fitted probe that `save_probe` wrote to a folder.

    Its predictions are the same to the bit.
    """
    document = json.loads((Path(folder) / "probe.json").read_text(encoding="utf-8"))
    kind = {kind.__name__: kind for kind in KINDS}[document["kind"]]
    # A file of an older version may hold parameters that no longer exist. They can be
    # left out, since parameters matter for a fit, and this probe is fitted.
    existing = signature(kind).parameters
    saved = document["parameters"].items()
    probe = kind(**{name: value for name, value in saved if name in existing})
    arrays = load_file(Path(folder) / "probe.safetensors")
    for name, value in {**document["fitted"], **arrays}.items():
        fitted = np.array(value) if isinstance(value, list) else value
        setattr(probe, RENAMED.get(name, name), fitted)
    return probe
