"""Which photographs of TrashNet show the same object, as far as it was looked at."""

from __future__ import annotations

from pathlib import Path

from cliplib.data.arrays import Ints
from cliplib.data.declared_groups import declared_groups
from cliplib.features.groups import merge_groups
from cliplib.features.table import FeatureTable

FILE = Path(__file__).parent / "precomputed" / "trashnet_objects.csv"


def object_groups(table: FeatureTable) -> Ints:
    """Return the group of each photograph: near-duplicates and same objects share one.

    They are numbers, (n,), in the order of the rows. ``notebooks/17_objects.ipynb``
    says how pairs were found and judged. Not all pairs were looked at: photographs in
    two groups may still show one object.

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
