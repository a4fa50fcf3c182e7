"""The narrow waist: features, labels, ids, splits, groups and where they came from, in one table and one file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from cliplib.errors import CliplibError, is_unicode, path_text

_KEY = "cliplib.FeatureTable"


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of n images, and all that a probe or an evaluation needs to know about them.

    Parameters
    ----------
    features : (n, d) float32
        Finite.
    labels : (n,) int64
        Index into `classes`.
    classes : tuple of str
        Unique names.
    ids : (n,) str
        Unique; POSIX path relative to the data set's root.
    splits : (n,) str
        Published split: "train", "val", "test", or "" where there is none.
    groups : (n,) int64, optional
        Near-duplicate cluster: rows of one group must not stand on both sides of a split. Default: each row its own.
    provenance : mapping of str to str
        Encoder, fingerprints, kind, normalisation, data set, versions.

    Raises
    ------
    CliplibError
        Arrays that do not fit together; the sentence says which.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    ids: NDArray[np.str_]
    splits: NDArray[np.str_]
    groups: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        features = _floats(self.features)
        if features.ndim != 2 or features.shape[1] == 0:
            raise CliplibError(f"features must have the shape (n, d) with d > 0, not {features.shape}.")
        n = len(features)
        groups = np.arange(n) if np.size(self.groups) == 0 else self.groups
        columns: dict[str, NDArray[Any]] = {
            "labels": _integers(self.labels, "labels"),
            "ids": np.asarray(self.ids, dtype=np.str_),
            "splits": np.asarray(self.splits, dtype=np.str_),
            "groups": _integers(groups, "groups"),
        }
        for name, column in columns.items():
            if column.shape != (n,):
                raise CliplibError(f"{name} must have the shape ({n},) of the {n} feature rows, not {column.shape}.")
        ids, classes = columns["ids"], tuple(str(c) for c in self.classes)
        if bad := np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
            raise CliplibError(f"features hold NaN or infinity in {len(bad)} rows, the first one {str(ids[bad[0]])!r}.")
        if not classes or len(set(classes)) < len(classes):
            raise CliplibError("classes must be one or more unique names.")
        if n and not (columns["labels"].min() >= 0 and columns["labels"].max() < len(classes)):
            raise CliplibError(f"labels must lie in 0 to {len(classes) - 1}, as there are {len(classes)} classes.")
        unique, counts = np.unique(ids, return_counts=True)
        if len(unique) < n:
            raise CliplibError(f"ids must be unique, but {str(unique[counts.argmax()])!r} occurs more than once.")
        if any(not isinstance(text, str) for pair in self.provenance.items() for text in pair):
            raise CliplibError("provenance must map names to texts.")
        checked = {"features": features, **columns, "classes": classes, "provenance": dict(self.provenance)}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.features)

    def select(self, index: ArrayLike) -> FeatureTable:
        """Rows by index or Boolean mask, in the order given; classes and provenance stay."""
        rows = np.asarray(index)
        rows = rows if rows.size else np.empty(0, np.int64)
        n, mask = len(self), rows.dtype == bool and rows.shape == (len(self),)
        if not mask and (rows.ndim != 1 or rows.dtype.kind not in "iu" or ((rows < -n) | (rows >= n)).any()):
            raise CliplibError(f"index must be row numbers from 0 to {n - 1}, or a mask of shape ({n},).")
        return replace(self, features=self.features[rows], labels=self.labels[rows], ids=self.ids[rows],
                       splits=self.splits[rows], groups=self.groups[rows])  # fmt: skip

    def split(self, name: str) -> FeatureTable:
        """Rows of one published split.

        Raises
        ------
        CliplibError
            There is no such row; the sentence lists the splits that there are.
        """
        if not (mask := self.splits == name).any():
            found = ", ".join(repr(str(s)) for s in np.unique(self.splits)) or "none"
            raise CliplibError(f"The table has no split {name!r}; its splits are {found}.")
        return self.select(mask)

    def subset(self, limit: int, *, seed: int = 0) -> FeatureTable:
        """About `limit` rows for a quick run: see :func:`stratified_subset`; 0 keeps all."""
        return self.select(stratified_subset(self.labels, self.splits, limit, seed=seed))

    def with_features(self, features: ArrayLike, **provenance: str) -> FeatureTable:
        """Other features of the same rows; keyword arguments update the provenance."""
        return replace(self, features=_floats(features), provenance={**self.provenance, **provenance})

    def with_groups(self, groups: ArrayLike) -> FeatureTable:
        """The same rows in other groups."""
        return replace(self, groups=np.asarray(groups))

    def save(self, path: str | os.PathLike[str], *, dtype: Literal["float32", "float16"] = "float32") -> None:
        """Write one safetensors file, whole or not at all; equal tables give equal bytes.

        Parameters
        ----------
        path : path
            The file.
        dtype : {"float32", "float16"}
            Of the features in the file. float16 halves it and keeps about three digits.

        Raises
        ------
        CliplibError
            The folder cannot be written, or a feature exceeds the range of float16.
        """
        if dtype not in ("float32", "float16"):
            raise CliplibError(f"dtype must be 'float32' or 'float16', not {dtype!r}.")
        if dtype == "float16" and len(self) and np.abs(self.features).max() > np.finfo(np.float16).max:
            raise CliplibError("A feature exceeds the range of float16 (65,504): save the table with dtype='float32'.")
        if odd := [text for text in (*self.ids.tolist(), *self.classes) if not is_unicode(text)]:
            raise CliplibError(f"The name {odd[0]!r} in the table is not valid Unicode: rename it.")
        about = {
            "version": 1, "classes": self.classes, "ids": self.ids.tolist(), "splits": self.splits.tolist(),
            "provenance": dict(sorted(self.provenance.items())),
        }  # fmt: skip
        arrays = {"features": self.features.astype(dtype), "labels": self.labels, "groups": self.groups}
        # One metadata entry only: safetensors writes several in an order that changes from run to run.
        content = to_bytes(arrays, metadata={_KEY: json.dumps(about, ensure_ascii=False, separators=(",", ":"))})
        target = Path(path_text(path, "The place of a feature table"))
        partial = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            partial.write_bytes(content)
            partial.replace(target)
        except OSError as error:
            raise CliplibError(f"Cannot write the feature table {str(target)!r}: {error.strerror}.") from None
        finally:  # on Ctrl-C as well
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureTable:
        """Read a file that :meth:`save` wrote.

        Raises
        ------
        CliplibError
            The file is missing, cut short, damaged, or holds something else.
        """
        shown = repr(path_text(path, "The place of a feature table"))
        if not Path(path).is_file():
            raise CliplibError(f"There is no feature table {shown}.")
        try:
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(_KEY)
                if text is None:
                    raise CliplibError(f"{shown} is a safetensors file, but not a feature table.")
                arrays = {name: file.get_tensor(name) for name in ("features", "labels", "groups")}
            about = json.loads(text)
            ids, splits = (np.array(about[key], dtype=np.str_) for key in ("ids", "splits"))
            classes, provenance = tuple(about["classes"]), about["provenance"]
            return cls(**arrays, classes=classes, ids=ids, splits=splits, provenance=provenance)
        except SafetensorError:
            raise CliplibError(f"{shown} is no feature table, or it is damaged or cut short: make it anew.") from None
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CliplibError(f"The feature table {shown} cannot be read ({error}): make it anew.") from None


def stratified_subset(labels: ArrayLike, splits: ArrayLike, limit: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Choose about `limit` rows that keep the shares of every class in every split.

    Parameters
    ----------
    labels, splits : (n,) array-like
        As in :class:`FeatureTable`, or the columns of a data set: equal rows give an equal choice.
    limit : int
        Rows wanted; 0 means all. Every class keeps at least two rows in each split where it has them, so the result
        may be a little larger.
    seed : int
        Of the draw.

    Returns
    -------
    (m,) int64
        Rising row numbers.

    Raises
    ------
    CliplibError
        `limit` or `seed` is no such number.
    """
    labels, splits = np.asarray(labels), np.asarray(splits, dtype=np.str_)
    n = len(labels)
    if not (isinstance(limit, (int, np.integer)) and limit >= 0):
        raise CliplibError(f"limit must be 0 (all) or a number of images, not {limit!r}.")
    if not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise CliplibError(f"seed must be a whole number of at least 0, not {seed!r}.")
    if limit == 0 or limit >= n:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    chosen = []
    for split in np.unique(splits):
        for label in np.unique(labels[splits == split]):
            rows = np.flatnonzero((splits == split) & (labels == label))
            chosen.append(rng.permutation(rows)[: max(2, limit * len(rows) // n)])
    return np.sort(np.concatenate(chosen))


def _integers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise CliplibError(f"{name} must be whole numbers, not {array.dtype}.")
    return array.astype(np.int64)


def _floats(values: ArrayLike) -> NDArray[np.float32]:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise CliplibError("features must be a matrix of real numbers, one row of equal length per image.")
    with np.errstate(over="ignore"):  # what exceeds float32 becomes infinity, which is refused by name
        return np.ascontiguousarray(array, dtype=np.float32)
