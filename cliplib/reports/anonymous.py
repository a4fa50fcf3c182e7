"""Findings without the names of anybody's data, to be given away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from cliplib.encoders.encoder import Encoder
from cliplib.features.table import FeatureTable
from cliplib.inspection.subgroups import FORM
from cliplib.reports.findings import Findings, Grouping

# Options that name nothing, or what may be shown.
SHOWN = ("title", "anonymous", "copies", "seed")


def anonymised(findings: Findings, other_encoders: Sequence[Encoder]) -> Findings:
    """Return findings that name no file, folder, group, data set or model.

    Images are called by numbers, and models but the embedded one by their fingerprint.
    Ids of files are left in `images`, `audit` and the tables of `results`, of which the
    CSV files are made. `other_encoders` are those set beside CLIP.
    """
    ids = findings.images.table.ids.tolist()
    name_of = {image_id: f"image {i}" for i, image_id in enumerate(ids, start=1)}
    encoders = (findings.encoder, *other_encoders)
    model_of = {encoder.name: model_name(encoder) for encoder in encoders}
    results = findings.results
    aid = findings.aid
    external = findings.external
    if external is not None:
        external = replace(external, name="the other folder")
    published = findings.published_split
    if published is not None:
        shared = _rename(published.shared, ["file", "with_file"], name_of)
        published = replace(published, shared=shared)
    return replace(
        findings,
        options=anonymised_options(findings.options),
        title=findings.options["title"] or "A folder of images",
        names=[*name_of.values()],
        unreadable=findings.unreadable.value_counts("reason").reset_index(name="files"),
        groups="",
        grouping=anonymised_grouping(findings.grouping, name_of),
        results=replace(
            results,
            proba_by_method=_rename_keys(results.proba_by_method, model_of),
            evaluations=_rename_keys(results.evaluations, model_of),
        ),
        subgroups=[
            # The form of a name may tell a part of it.
            replace(subgroup, name="") if subgroup.by == FORM else subgroup
            for subgroup in findings.subgroups
        ],
        aid=replace(
            aid,
            training=_anonymised_table(aid.training, name_of, model_of),
            about={**aid.about, "data set": ""},
        ),
        external=external,
        published_split=published,
    )


def anonymised_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of `measure` with words such as MODEL in place of names."""
    return {
        name: value if name in SHOWN or not value else name.upper()
        for name, value in options.items()
    }


def model_name(encoder: Encoder) -> str:
    """Return "mini" for the embedded model, for others the start of the fingerprint."""
    return "mini" if encoder.name == "mini" else f"model {encoder.fingerprint[:8]}"


def anonymised_grouping(grouping: Grouping, name_of: Mapping[str, str]) -> Grouping:
    """Return a grouping with other names of its images, and no names of groups."""
    numbers = pd.factorize(pd.Series(grouping.series))[0] + 1
    images = [name_of[image_id] for image_id in grouping.series]
    merged = grouping.merged
    if len(merged):
        merged = _rename(merged, ["image_a", "image_b"], name_of)
        merged = merged.assign(group_a="a declared group", group_b="a declared group")
    series = dict(zip(images, map(str, numbers), strict=True))
    return replace(grouping, series=series, merged=merged)


def _rename(
    images: pd.DataFrame, columns: Sequence[str], name_of: Mapping[str, str]
) -> pd.DataFrame:
    """Return a table with names in place of ids in these columns."""
    return images.assign(**{column: images[column].map(name_of) for column in columns})


def _rename_keys(
    by_method: Mapping[str, Any], model_of: Mapping[str, str]
) -> dict[str, Any]:
    return {model_of.get(name, name): value for name, value in by_method.items()}


def _anonymised_table(
    table: FeatureTable, name_of: Mapping[str, str], model_of: Mapping[str, str]
) -> FeatureTable:
    """Return a table with these names of its images and its encoder, of no data set."""
    ids = np.array([name_of[image_id] for image_id in table.ids])
    encoder = model_of[table.provenance["encoder"]]
    provenance = {**table.provenance, "encoder": encoder, "dataset": ""}
    return replace(table, ids=ids, provenance=provenance)
