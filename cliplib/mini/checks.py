"""Measure what the embedded CLIP can do: ``checks.json``, and the table in its card.

    python -m cliplib.mini.checks CHECKPOINT DATA/pretrain DATA

Probes choose on validation images; zero-shot and retrieval see images never trained on.
"""

from __future__ import annotations

import argparse
import re
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import cliplib
from cliplib.baselines import efficientnet
from cliplib.cache import map_images
from cliplib.explain import randomize_weights
from cliplib.mini.corpus import PROMPTS, read_corpus
from cliplib.retrieval import rank_metrics

MODELS = ["random weights", "this model", "vision teacher"]
Rows = Iterator[dict[str, Any]]


def share(right: Any, groups: Any = None, **about: str) -> dict[str, Any]:
    """Return a row: what it is about, n, and the share of right answers (n,): value, low, high."""
    interval = cliplib.ratio_intervals(
        pd.Series(right, dtype=bool), groups=groups
    ).iloc[0]
    return {**about, "n": len(right), **interval}


def probes(table: cliplib.FeatureTable, **about: str) -> Rows:
    """Measure probes on the published split, the linear one class by class, and by group."""
    train, test, ours = (
        table.split("train"),
        table.split("test"),
        about["model"] == MODELS[1],
    )
    val = table.select(table.splits == "val")
    given = (
        {"X_val": val.features, "y_val": val.labels}
        if len(val)
        else {"groups": train.groups}
    )
    fitted = {
        "linear probe": cliplib.LinearProbe(),
        "kernel probe": cliplib.KernelProbe(),
    }
    fitted |= {"MLP probe": cliplib.MLPProbe()} if ours else {}
    for name, probe in fitted.items():
        said = probe.fit(train.features, train.labels, **given).predict(test.features)
        right = said == test.labels
        yield share(right, test.groups, check=f"{name}, published split", **about)
        for k, label in enumerate(table.classes if name == "linear probe" else ()):
            own = test.labels == k
            yield share(right[own], test.groups[own], check=f"class {label}", **about)
    for name in ("linear probe", "kernel probe") if ours else ():
        found = cliplib.out_of_fold_proba(fitted[name], table, n_repeats=1)[0].argmax(
            axis=1
        )
        yield share(
            found == table.labels, table.groups, check=f"{name}, by group", **about
        )


def known_sets(encoder: cliplib.ClipEncoder, evaluation: Path) -> Rows:
    """Measure probes, beside random weights and the vision teacher, zero-shot, and speed."""
    half = cliplib.ClipEncoder(encoder.name, dtype="bfloat16")
    encoders = randomize_weights(encoder), half, encoder
    for name in ("trashnet", "brain_tumor_mri"):
        spec, dataset = (
            cliplib.DATASETS[name],
            cliplib.load_dataset(name, data=evaluation),
        )
        assert dataset is not None
        photos = dataset["image"][:100]
        random, lower, ours = (
            cliplib.load_features(name, e, data=evaluation) for e in encoders
        )
        lower = lower.with_features(lower.features, readout="deep, bfloat16")
        (features,) = map_images(dataset["image"], efficientnet(), cache=encoder.cache)
        teacher = ours.with_features(features[:, :1280], readout="pooled")
        measured = zip(
            MODELS, (random, ours.with_readout("pooled"), teacher), strict=True
        )
        for model, table in [*measured, (MODELS[1], lower), (MODELS[1], ours)]:
            yield from probes(
                table, data=spec.title, model=model, readout=table.readout
            )
        test = ours.split("test")
        right = cliplib.zero_shot(encoder, test, spec).argmax(axis=1) == test.labels
        yield share(right, test.groups, check="zero-shot", data=spec.title)
    for pixels, dtype in ((224, "float32"), (224, "bfloat16"), (160, "bfloat16")):
        fresh = cliplib.ClipEncoder(
            encoder.name, cache=False, image_size=pixels, dtype=dtype
        )
        seconds = timeit.repeat(lambda: fresh.images(photos, progress=False), number=1)  # noqa: B023
        speed = cliplib.ratio_intervals(np.full(5, 100), seconds).iloc[0]
        yield {"check": f"images a second, {pixels} px, {dtype}", **speed}


def held_out(encoder: cliplib.ClipEncoder, corpus: Path) -> Rows:
    """Measure zero-shot and retrieval on held-out images, of which the first caption counts."""
    images = read_corpus(corpus)
    names = sorted({image.label for image in images if image.source == "caltech101"})
    held = [image for image in images if image.held_out]
    seen = encoder.images([image.data for image in held], readout="projected")
    read, ids = (
        encoder.texts([image.captions[0] for image in held]),
        np.arange(len(held)),
    )
    source, label = np.array([(image.source, image.label) for image in held]).T
    objects, scenes = (
        source == "caltech101",
        np.isin(source, ["flickr8k_1k", "coco_mini"]),
    )
    weights = cliplib.zero_shot_weights(encoder, names, PROMPTS[1:])
    right = np.array(names)[(seen @ weights.T).argmax(axis=1)] == label
    yield share(
        right[objects], check="zero-shot", data=f"Caltech-101, {len(names)} names"
    )
    for data, rows in (
        ("held-out captions", ~objects),
        ("held-out captions of scenes", scenes),
    ):
        sides = (read[rows], seen[rows])
        for way, pair in (("text to image", sides), ("image to text", sides[::-1])):
            right = rank_metrics(*pair, ids[rows], ids[rows])["recall_at_10"] == 1
            yield share(right, check=f"{way}, recall@10", data=data)


def markdown(found: pd.DataFrame) -> str:
    """Return the card's table, of the largest readout that was measured."""
    keys = ["data", "check", "model"]
    found = found[(found["data"] != "") & ~found["check"].str.startswith("class ")]
    found = found.drop_duplicates(keys, keep="last").set_index(keys)
    cells = found.apply(
        lambda row: f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]", axis=1
    )
    table = cells.unstack(sort=False).reindex(columns=MODELS, fill_value="").fillna("")
    lines = [
        f"| {', '.join(name)} | {' | '.join(row)} |" for name, row in table.T.items()
    ]
    return "\n".join([f"| | {' | '.join(MODELS)} |", "|---|---|---|---|", *lines])


def main(folder: Path, corpus: Path, evaluation: Path) -> None:
    """Measure, write ``checks.json``, and fill the table between the marks in the card."""
    encoder, card = cliplib.ClipEncoder(folder), folder / "README.md"
    size = {
        "check": "megabytes",
        "value": (folder / "model.safetensors").stat().st_size / 1e6,
    }
    found = pd.DataFrame(
        [*known_sets(encoder, evaluation), *held_out(encoder, corpus), size]
    )
    found = found.fillna({"data": "", "model": MODELS[1], "readout": ""})
    found.to_json(folder / "checks.json", orient="records", indent=1)
    print(table := markdown(found))
    if card.exists():  # an ablation has none
        marked = f"<!-- results -->\n{table}\n<!-- end -->"
        card.write_text(
            re.sub("(?s)<!-- results -->.*<!-- end -->", marked, card.read_text())
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("folder", "corpus", "evaluation"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))
