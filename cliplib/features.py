"""The feature table, the narrow part of the library: left of it one needs images and a model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cliplib.encoder import readout_columns
from cliplib.splits import group_train_test_split


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features (n, d) of n images, and all that a probe or an evaluation needs to know.

    `labels` are indices into `classes`; `ids` paths below the data set's folder; `splits` the
    published ones, "train", "val" or "test", or ""; near-duplicates share a group; `provenance`
    says which encoder, readout, data set and source. ValueError for arrays that do not fit.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    ids: NDArray[np.str_]
    splits: NDArray[np.str_]
    groups: NDArray[np.int64]
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.features)
        for name in ("labels", "ids", "splits", "groups"):
            if np.shape(getattr(self, name)) != (n,):
                raise ValueError(
                    f"{name} must hold one entry for each of {n} rows of features."
                )
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(
                f"labels must be indices into the {len(self.classes)} classes."
            )
        if len(set(self.ids)) < n:
            raise ValueError("ids must be unique.")
        odd = self.ids[~np.isfinite(self.features).all(axis=1)]
        if odd.size:
            raise ValueError(
                f"The features of {odd[0]!r} are not finite: leave it out."
            )

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        splits = {
            str(s): int((self.splits == s).sum()) for s in np.unique(self.splits) if s
        }
        parts = "".join(f", {count} {split}" for split, count in splits.items())
        size, groups = (
            f"{len(self)} images x {self.features.shape[1]}",
            len(np.unique(self.groups)),
        )
        counts = f"{len(self.classes)} classes, {groups} groups{parts}"
        return f"FeatureTable({size} ({self.readout}), {counts})"

    @property
    def readout(self) -> str:
        """Name of the readout that the features are."""
        return self.provenance.get("readout", "pooled")

    def select(self, index: ArrayLike) -> FeatureTable:
        """Return rows by index or Boolean mask, in the order given."""
        rows = np.asarray(index)
        columns = ("features", "labels", "ids", "splits", "groups")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def split(self, name: str) -> FeatureTable:
        """Return the rows of a published split; ValueError where there are none."""
        if name not in self.splits:
            found = ", ".join(s for s in np.unique(self.splits) if s) or "none"
            raise ValueError(
                f"There is no split {name!r} ({found}): use train_test_split()."
            )
        return self.select(self.splits == name)

    def train_test_split(
        self, seed: int = 0, published: bool = True
    ) -> tuple[FeatureTable, ...]:
        """Return the rest and the published test split, or else a fifth drawn by group."""
        test = (self.splits == "test") & published
        if not test.any():
            test[group_train_test_split(self.labels, self.groups, seed=seed)[1]] = True
        return self.select(~test), self.select(test)

    def with_readout(self, name: str) -> FeatureTable:
        """Return the columns of a smaller readout: see `cliplib.encoder.readout_columns`."""
        if name == self.readout:
            return self
        if self.readout != "deep":
            raise ValueError(
                f"The table holds the readout {self.readout!r} alone, not {name!r}."
            )
        width, blocks = (int(self.provenance[key]) for key in ("width", "blocks"))
        columns = readout_columns(name, width, blocks)
        return self.with_features(self.features[:, columns], readout=name)

    def with_features(self, features: ArrayLike, **provenance: str) -> FeatureTable:
        """Return other features of the same rows; keyword arguments update the provenance."""
        found = np.asarray(features, np.float32)
        return replace(
            self, features=found, provenance={**self.provenance, **provenance}
        )

    def save(self, path: str | os.PathLike[str], *, compact: bool = False) -> None:
        """Write one safetensors file; equal tables give equal bytes.

        A `compact` one, of the readout "deep", keeps equal rows once, pooled features in float16,
        and all others in eight bits, with a scale for each column.
        """
        about: dict[str, Any] = {"classes": self.classes, "ids": self.ids.tolist()}
        about |= {"splits": self.splits.tolist(), "provenance": dict(self.provenance)}
        arrays: dict[str, NDArray[Any]] = {"labels": self.labels, "groups": self.groups}
        if compact:
            unique, rows = np.unique(self.features, axis=0, return_inverse=True)
            pooled = _pooled_columns(self.provenance)
            scale = np.abs(unique[:, ~pooled]).max(axis=0) / 127 + np.float32(1e-12)
            codes = np.rint(unique[:, ~pooled] / scale).astype(np.int8)
            arrays |= {"rows": rows.astype(np.int32), "codes": codes, "scale": scale}
            arrays |= {"pooled": unique[:, pooled].astype(np.float16)}
        else:
            arrays |= {"features": self.features}
        # As columns of a wider table lie in memory, safetensors would mix the rows up.
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # One entry only: safetensors writes several in an order that changes from run to run.
        content = save(
            arrays, metadata={"cliplib.FeatureTable": json.dumps(about, sort_keys=True)}
        )
        Path(path).write_bytes(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureTable:
        """Read a file that `save` wrote; ValueError where it is something else or damaged."""
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads(file.metadata()["cliplib.FeatureTable"])
                found = {name: file.get_tensor(name) for name in file.keys()}
            if "codes" in found:
                pooled = _pooled_columns(about["provenance"])
                unique = np.empty((len(found["codes"]), len(pooled)), np.float32)
                unique[:, pooled] = found["pooled"]
                unique[:, ~pooled] = found["codes"] * found["scale"]
                found["features"] = unique[found["rows"]]
            arrays = {name: found[name] for name in ("features", "labels", "groups")}
            arrays |= {
                name: np.array(about[name], np.str_) for name in ("ids", "splits")
            }
            return cls(
                **arrays,
                classes=tuple(about["classes"]),
                provenance=about["provenance"],
            )
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is no feature table, or damaged."
            ) from error


def _pooled_columns(provenance: Mapping[str, str]) -> NDArray[np.bool_]:
    """Return which columns of the readout "deep" are the pooled features."""
    width, blocks = (int(provenance[key]) for key in ("width", "blocks"))
    return np.isin(
        np.arange(3 * blocks * width), readout_columns("pooled", width, blocks)
    )
