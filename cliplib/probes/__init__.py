"""Light classifiers on frozen features, both scikit-learn estimators: `LinearProbe` and `MLPProbe`.

The protocol is that of CLIP (Radford et al. 2021, appendix A.3) and of DINOv2's `eval/log_regression.py` (Oquab et al.
2024): what is chosen is chosen on validation rows, never on test rows. A fitted probe is saved as a folder of two
files, `probe.json` (parameters, names, scalars) and `probe.safetensors` (arrays): data only, nothing that executes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sklearn.utils.validation import check_is_fitted

from cliplib.errors import CliplibError, path_text
from cliplib.probes.base import validation_split
from cliplib.probes.linear import L2_VALUES, LinearProbe
from cliplib.probes.mlp import MLPProbe

__all__ = ["L2_VALUES", "LinearProbe", "MLPProbe", "load_probe", "save_probe", "validation_split"]

FORMAT = "cliplib-probe/1"
_KINDS: dict[str, Callable[..., LinearProbe | MLPProbe]] = {"LinearProbe": LinearProbe, "MLPProbe": MLPProbe}


def save_probe(probe: LinearProbe | MLPProbe, folder: str | Path) -> Path:
    """Write a fitted probe to a folder, which is made if need be; a probe already there is replaced.

    A half-written probe is refused by `load_probe`, since one file holds the digest of the other.

    Parameters
    ----------
    probe : LinearProbe or MLPProbe
    folder : str or Path

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    NotFittedError
        When `probe` has not been fitted.
    CliplibError
        When `probe` is of another class, or holds what two such files cannot (labels or parameters that are neither
        numbers nor strings), or the folder cannot be written.
    """
    folder = Path(path_text(folder, "The folder of a probe"))
    if type(probe) not in _KINDS.values():
        raise CliplibError(f"save_probe saves a LinearProbe or an MLPProbe, not a {type(probe).__name__}.")
    check_is_fitted(probe)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    values: dict[str, Any] = {}
    for name, value in vars(probe).items():
        if not name.endswith("_"):
            continue
        if isinstance(value, pd.DataFrame):
            values[name] = {"columns": list(value.columns)}
            arrays |= {f"{name}/{column}": np.ascontiguousarray(value[column]) for column in value.columns}
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            arrays[name] = np.ascontiguousarray(value)
        elif isinstance(value, np.ndarray):
            if value.dtype.kind not in "UO" or not all(isinstance(item, str) for item in value):
                raise CliplibError(f"{name} of the probe holds neither numbers nor strings: use such class labels.")
            values[name] = {"strings": value.tolist(), "dtype": value.dtype.str}
        else:
            values[name] = {"value": value}
    params = {name: _plain(name, value) for name, value in probe.get_params(deep=False).items()}
    data = save(arrays)
    document = {"format": FORMAT, "kind": type(probe).__name__, "params": params, "learned": values}
    document["arrays"] = blake2b(data, digest_size=16).hexdigest()
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "probe.safetensors").write_bytes(data)
        (folder / "probe.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliplibError(f"Cannot write the probe {str(folder)!r}: {error.strerror}.") from None
    return folder


def load_probe(folder: str | Path) -> LinearProbe | MLPProbe:
    """Read a probe that `save_probe` wrote: an equal classifier, whose probabilities are the same to the bit.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    LinearProbe or MLPProbe

    Raises
    ------
    CliplibError
        When the folder does not hold a whole probe.
    """
    folder = Path(path_text(folder, "The folder of a probe"))
    try:
        document = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
        data = (folder / "probe.safetensors").read_bytes()
        if document["arrays"] != blake2b(data, digest_size=16).hexdigest():
            raise ValueError("its two files are not of one probe")
        return _restore(document, load(data))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise CliplibError(f"{folder} does not hold a probe saved by save_probe ({reason}).") from error


def _restore(document: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]) -> LinearProbe | MLPProbe:
    params: dict[str, Any] = {n: dict(v["pairs"]) if isinstance(v, dict) else v for n, v in document["params"].items()}
    probe = _KINDS[document["kind"]](**params)
    learned: dict[str, Any] = {name: array for name, array in arrays.items() if "/" not in name}
    for name, entry in document["learned"].items():
        if "columns" in entry:
            learned[name] = pd.DataFrame({column: arrays[f"{name}/{column}"] for column in entry["columns"]})
        elif "strings" in entry:
            learned[name] = np.array(entry["strings"], dtype=entry["dtype"])
        else:
            learned[name] = entry["value"]
    differing = probe._learned.symmetric_difference(learned) - {"feature_names_in_"}
    if differing:
        raise ValueError(f"{', '.join(sorted(differing))} missing or unknown")
    for name, value in learned.items():
        setattr(probe, name, value)
    example = np.zeros((1, probe.n_features_in_))
    if probe._logits(example).shape != (1, len(probe.classes_)):  # arrays that do not fit together
        raise ValueError("its arrays do not fit together")
    return probe


def _plain(name: str, value: Any) -> Any:
    """A constructor parameter as JSON keeps it; a dict as pairs, because JSON would turn its keys into strings."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {"pairs": [[_plain(name, key), _plain(name, weight)] for key, weight in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CliplibError(f"The parameter {name}={value!r} cannot be saved: give numbers or strings.")
