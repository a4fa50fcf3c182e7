"""The feature table: features of images, and all that is needed to evaluate them.

Making a table takes images and a model; using it takes neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib.data.arrays import Bools, Features, Ints
from cliplib.data.labels import classes_of, label_indices
from cliplib.data.warn import warn_once
from cliplib.data.wording import check_printable
from cliplib.encoders.readouts import readout_columns
from cliplib.features.groups import joined_groups, merge_groups, number_groups
from cliplib.features.splits import group_train_test_split
from cliplib.features.storage import (
    load_parquet,
    load_safetensors,
    save_parquet,
    save_safetensors,
)

ROW_FIELDS = ("features", "labels", "ids", "splits", "copies", "groups")
SPLITS = ("train", "val", "test", "")


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of n images, and all that a probe or an evaluation needs.

    Attributes
    ----------
    features
        (n, d) float32, finite.
    labels
        Indices into `classes`, (n,).
    classes
        Names of the classes.
    ids
        Unique ids of the images, (n,): their paths below the data set's folder.
    splits
        The published split of each image: "train", "val", "test", or "", (n,).
    copies
        Groups of near-duplicates, (n,).
    groups
        Groups of images that must never be separated, (n,): those of near-duplicates,
        merged with patients or other groups where these are declared.
    provenance
        What made the features: encoder, readout, data set and source.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """

    features: Features
    labels: Ints
    classes: tuple[str, ...]
    ids: NDArray[np.str_]
    splits: NDArray[np.str_]
    copies: Ints
    groups: Ints
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise a ValueError if the arrays do not fit together."""
        if np.ndim(self.features) != 2:
            raise ValueError(
                f"features must be (n, d), a row for each image, and not "
                f"{np.shape(self.features)}."
            )
        n = len(self.features)
        for name in ROW_FIELDS[1:]:  # all but the features
            if np.shape(getattr(self, name)) != (n,):
                raise ValueError(
                    f"{name} must hold one entry for each of {n} rows of features."
                )
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(
                f"labels must be indices into the {len(self.classes)} classes."
            )
        self._check_rows()

    def _check_rows(self) -> None:
        """Raise a ValueError that names an image with a wrong entry.

        Names of classes and images must be `printable`, ids unique, splits among
        `SPLITS`, and features finite.
        """
        check_printable([*self.classes, *self.ids.tolist()])
        if len(set(self.ids)) < len(self):
            raise ValueError("ids must be unique.")
        has_wrong_split = ~np.isin(self.splits, SPLITS)
        if has_wrong_split.any():
            name = str(self.ids[has_wrong_split][0])
            raise ValueError(
                f"The split of {name!r} must be 'train', 'val', 'test' or ''."
            )
        # By the extremes of each row: a mask of all features would take a quarter of
        # their memory.
        lowest = self.features.min(axis=1, initial=0)
        highest = self.features.max(axis=1, initial=0)
        is_finite = np.isfinite(lowest) & np.isfinite(highest)
        if not is_finite.all():
            name = str(self.ids[~is_finite][0])
            raise ValueError(f"The features of {name!r} are not finite: leave it out.")

    @classmethod
    def from_arrays(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> FeatureTable:
        """Make a table of existing features; near-duplicates are not sought.

        Parameters
        ----------
        X
            Features, (n, d).
        y
            Class of each image, (n,): names, or indices into `classes`.
        groups
            Group of each image, (n,), a number or a name. Images of one group must
            never be separated. By default each image is a group of its own.
        classes
            Names of the classes; by default the values of `y`, sorted.
        ids
            Unique names of the images, (n,); by default the numbers of their rows.
        splits
            Split of each image, (n,): "train", "val", "test" or ""; by default "".

        Raises
        ------
        ValueError
            If the arrays do not fit together, the group or class of an image is
            missing, or a class is not among `classes`.
        """
        features = np.asarray(X, np.float32)
        n = len(features)
        rows = np.arange(n)
        class_names = classes_of(y) if classes is None else classes
        return cls(
            features=features,
            labels=label_indices(y, class_names),
            classes=tuple(str(name) for name in class_names),
            ids=np.asarray(rows if ids is None else ids).astype(np.str_),
            splits=np.asarray([""] * n if splits is None else splits, np.str_),
            copies=rows,
            groups=rows if groups is None else number_groups(groups),
        )

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str]) -> FeatureTable:
        """Read a file that `to_parquet` wrote, or a folder of ``cliplib encode``.

        For a folder, near-duplicates are found by the images' hashes, and merged with
        the groups that the source declared. A warning counts the images that could not
        be read: the column "error" of the files says why.

        Parameters
        ----------
        path
            A file of `to_parquet`; or a folder or URI with the Parquet files.

        Raises
        ------
        ValueError
            If a file is damaged, or no image could be read.
        """
        if os.path.isfile(path):
            return cls(**load_parquet(path))
        # Imported here, since it imports all that encodes images and finds copies.
        from cliplib.features.distributed import load_encoded

        return cls(**load_encoded(os.fspath(path)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)

    def __repr__(self) -> str:
        """Return shape, readout, and the numbers of classes, groups and split rows."""
        counts = [f"{len(self.classes)} classes, {len(np.unique(self.groups))} groups"]
        for name in np.unique(self.splits[self.splits != ""]):
            counts.append(f"{np.count_nonzero(self.splits == name)} {name}")
        shape = f"{len(self)} images x {self.features.shape[1]}"
        if "readout" in self.provenance:  # which a table `from_arrays` lacks
            shape += f" ({self.readout})"
        return f"FeatureTable({shape}, {', '.join(counts)})"

    @property
    def label_names(self) -> NDArray[np.str_]:
        """The name of each image's class, (n,)."""
        return np.array(self.classes, np.str_)[self.labels]

    @property
    def readout(self) -> str:
        """Which features of the encoder these are, such as "deep"; or "pooled"."""
        return self.provenance.get("readout", "pooled")

    def select(self, index: int | slice | ArrayLike) -> FeatureTable:
        """Return the table of some rows, by slice, number, numbers or Boolean mask.

        Rows are in the order of the numbers, of which none may occur twice. A single
        number gives a table of one row.
        """
        rows = np.atleast_1d(np.arange(len(self))[index])  # type: ignore[index]
        return replace(self, **{name: getattr(self, name)[rows] for name in ROW_FIELDS})

    def split(self, name: str) -> FeatureTable:
        """Return the rows of a published split; ValueError if there are none."""
        if name not in self.splits:
            names = ", ".join(s for s in np.unique(self.splits) if s) or "none"
            raise ValueError(
                f"There is no split {name!r} ({names}): use train_test_split()."
            )
        return self.select(self.splits == name)

    def train_test_split(
        self, seed: int = 0, published: bool = True
    ) -> tuple[FeatureTable, FeatureTable]:
        """Return a table to train on, and one to test on; together they have all rows.

        If some rows belong to a published test split and `published` is true, they are
        the test table, and all others the training table; a warning counts the test
        images that share a group with a training image. Otherwise about a fifth of the
        groups of each class is drawn for the test by `seed`, and groups stay whole.
        """
        is_test = (self.splits == "test") & published
        if is_test.any() and not is_test.all():
            self._warn_of_shared_groups(is_test)
        else:
            _, test_rows = group_train_test_split(
                self.label_names, self.groups, seed=seed
            )
            is_test = np.isin(np.arange(len(self)), test_rows)
        return self.select(~is_test), self.select(is_test)

    def _warn_of_shared_groups(self, is_test: Bools) -> None:
        """Warn once how many test images share a group with a training image.

        `is_test` is (n,).
        """
        n_shared = np.isin(self.groups[is_test], self.groups[~is_test]).sum()
        if n_shared:
            name = self.provenance.get("dataset", "this table")
            warn_once(
                f"The published split of {name} does not keep groups whole: {n_shared} "
                f"of {is_test.sum()} test images share theirs with a training image. "
                "One that does: train_test_split(published=False).",
            )

    def with_readout(self, name: str) -> FeatureTable:
        """Return the table with the columns of a smaller readout, such as "pooled".

        Names are those of `cliplib.encoders.readouts.readout_columns`. ValueError for
        another name, or if the table holds neither this readout nor "deep", which has
        the columns of every readout.
        """
        if name == self.readout:
            return self
        if self.readout != "deep":
            raise ValueError(
                f"The table holds the readout {self.readout!r} alone, not {name!r}."
            )
        width = int(self.provenance["width"])
        blocks = int(self.provenance["blocks"])
        columns = readout_columns(name, width, blocks)
        return self.with_features(self.features[:, columns], readout=name)

    def with_features(self, features: ArrayLike, **provenance: str) -> FeatureTable:
        """Return the table with other features of the same images, (n, d).

        Keyword arguments are entries of the provenance to change or to add. Without a
        `readout` among them, the readout is called "own", which a decision aid refuses,
        since it cannot make such features of a new image.
        """
        rows = np.asarray(features, np.float32)
        updated = {**self.provenance, "readout": "own", **provenance}
        return replace(self, features=rows, provenance=updated)

    def with_groups(self, groups: ArrayLike) -> FeatureTable:
        """Return the table with other groups, (n,), merged with its near-duplicates.

        `groups` are names or numbers; ValueError if one is missing. If near-duplicates
        join some groups, a warning says how many groups are left, and names the first
        two that were joined; `joined_groups` lists all.
        """
        declared = number_groups(groups)
        merged = merge_groups(self.copies, declared)
        joined = joined_groups(self.ids.tolist(), groups, self.copies)
        if not joined.empty:
            first = joined.iloc[0]
            n_declared = len(np.unique(declared))
            n_merged = len(np.unique(merged))
            warn_once(
                f"Near-duplicates join declared groups: {n_declared} become {n_merged}."
                f" {first.image_a} of {first.group_a} and {first.image_b} of "
                f"{first.group_b} show the same, the first of {len(joined)} such pairs "
                "of groups. See whether images or declaration are at fault; "
                "copies='off' (--copies off) keeps groups as declared.",
            )
        return replace(self, groups=merged)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each image, indexed by id.

        Columns are label (a name), split, copies and group, then one for each feature,
        named by its number.
        """
        names = np.array(self.classes, dtype=object)
        images = pd.DataFrame(
            {
                "label": names[self.labels],
                "split": self.splits,
                "copies": self.copies,
                "group": self.groups,
            },
            index=pd.Index(self.ids, name="id"),
        )
        features = pd.DataFrame(self.features, index=images.index)
        return images.join(features.rename(columns=str))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the table to one Parquet file, which `from_parquet` reads.

        Each attribute of length n is a column; classes and provenance are metadata.
        """
        save_parquet(path, vars(self))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file; equal tables give equal bytes."""
        save_safetensors(path, vars(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureTable:
        """Return the table of a file that `save` wrote, now or in an older release.

        ValueError if the file is something else, or damaged.
        """
        return cls(**load_safetensors(path))


def groups_per_class(table: FeatureTable, groups: ArrayLike | None = None) -> Ints:
    """Return the number of groups that hold images of each class of a table, (k,).

    By default they are the table's groups; `groups` may be others, (n,), such as
    ``table.copies``.
    """
    group_of_row = pd.Series(table.groups if groups is None else groups)
    counts = group_of_row.groupby(table.labels).nunique()  # which lacks empty classes
    return np.asarray(counts.reindex(range(len(table.classes)), fill_value=0), np.int64)
