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

# Options whose value names nothing private, or is meant to be shown.
SHOWN = ("title", "anonymous", "copies", "seed")


def anonymised(findings: Findings, other_encoders: Sequence[Encoder]) -> Findings:
    """Return findings that name no file, folder, group, data set or model.

    Images are called by numbers, and models by their fingerprint, except the embedded
    one. Ids of files stay in `images`, in `audit` and in the tables of `results`, from
    which the CSV files are made. `other_encoders` are those compared with CLIP.
    """
    ids = findings.images.table.ids.tolist()
    image_names = {image_id: f"image {i}" for i, image_id in enumerate(ids, start=1)}
    models = model_names([findings.encoder, *other_encoders])
    results = replace(
        findings.results,
        proba_by_method=_rename_keys(findings.results.proba_by_method, models),
        evaluations=_rename_keys(findings.results.evaluations, models),
    )
    external = findings.external
    if external is not None:
        external = replace(external, name="the other folder")
    published = findings.published_split
    if published is not None:
        shared = _rename(published.shared, ["file", "with_file"], image_names)
        published = replace(published, shared=shared)
    aid = replace(
        findings.aid,
        training=_anonymised_table(findings.aid.training, image_names, models),
        about={**findings.aid.about, "data set": ""},
    )
    return replace(
        findings,
        options=anonymised_options(findings.options),
        title=findings.options["title"] or "A folder of images",
        names=list(image_names.values()),
        unreadable=findings.unreadable.value_counts("reason").reset_index(name="files"),
        groups="",
        grouping=anonymised_grouping(findings.grouping, image_names),
        results=results,
        subgroups=[
            # A form of names may contain a part of a name.
            replace(subgroup, name="") if subgroup.by == FORM else subgroup
            for subgroup in findings.subgroups
        ],
        aid=aid,
        external=external,
        published_split=published,
    )


def anonymised_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of `measure` with words such as MODEL in place of names."""
    return {
        name: value if name in SHOWN or not value else name.upper()
        for name, value in options.items()
    }


def model_names(encoders: Sequence[Encoder]) -> dict[str, str]:
    """Return the anonymous name of each encoder, by its own name.

    Encoders of equal weights are numbered: "model 0a1b2c3d", "model 0a1b2c3d (2)".
    """
    names: dict[str, str] = {}
    for encoder in encoders:
        name = model_name(encoder)
        n_equal = sum(used.startswith(name) for used in names.values())
        if n_equal:
            name = f"{name} ({n_equal + 1})"
        names.setdefault(encoder.name, name)  # one that is repeated keeps its name
    return names


def model_name(encoder: Encoder) -> str:
    """Return "mini" for the embedded model, for others the start of the fingerprint."""
    return "mini" if encoder.name == "mini" else f"model {encoder.fingerprint[:8]}"


def anonymised_grouping(grouping: Grouping, image_names: Mapping[str, str]) -> Grouping:
    """Return a grouping with these names of its images, and with groups numbered."""
    numbers = pd.factorize(pd.Series(grouping.series))[0] + 1
    images = [image_names[image_id] for image_id in grouping.series]
    merged = grouping.merged
    if len(merged):
        merged = _rename(merged, ["image_a", "image_b"], image_names)
        merged = merged.assign(group_a="a declared group", group_b="a declared group")
    series = dict(zip(images, map(str, numbers), strict=True))
    return replace(grouping, series=series, merged=merged)


def _anonymised_table(
    table: FeatureTable, image_names: Mapping[str, str], models: Mapping[str, str]
) -> FeatureTable:
    """Return a table with these names of its images and encoder, and of no data set."""
    ids = np.array([image_names[image_id] for image_id in table.ids])
    encoder = models[table.provenance["encoder"]]
    provenance = {**table.provenance, "encoder": encoder, "dataset": ""}
    return replace(table, ids=ids, provenance=provenance)


def _rename_keys(
    by_method: Mapping[str, Any], models: Mapping[str, str]
) -> dict[str, Any]:
    """Return a mapping with models renamed among its keys."""
    return {models.get(name, name): value for name, value in by_method.items()}


def _rename(
    frame: pd.DataFrame, columns: Sequence[str], names: Mapping[str, str]
) -> pd.DataFrame:
    """Return a table with names in place of the ids in these columns."""
    return frame.assign(**{column: frame[column].map(names) for column in columns})
