"""Which photographs of TrashNet show the same object, as far as it was looked at."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from cliplib.images.arrays import Ints
from cliplib.tables.features import FeatureTable
from cliplib.tables.groups import declared_groups, merge_groups

FILE = Path(str(files("cliplib") / "study" / "precomputed" / "trashnet_objects.csv"))


def object_groups(table: FeatureTable) -> Ints:
    """Return near-duplicates merged with photographs of the same object, (n,).

    ``notebooks/17_objects.ipynb`` says how pairs were found and judged. Who looks
    longer finds more: the groups are a lower bound.

    Parameters
    ----------
    table
        Of TrashNet, or of some of its photographs.

    Raises
    ------
    ValueError
        If it holds a photograph that is not TrashNet's.
    """
    return merge_groups(table.copies, declared_groups(table.ids.tolist(), FILE))
