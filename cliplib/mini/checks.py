"""Measure what the embedded CLIP can do: ``checks.json``, and the table in its card.

    python -m cliplib.mini.checks CHECKPOINT DATA/pretrain DATA

Probes choose everything on validation images; zero-shot and retrieval see images that were never
trained on. Every share has a 95 % interval.
"""

from __future__ import annotations

import re
import sys
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cliplib.data import DATASETS, load_dataset
from cliplib.encoder import READOUTS, ClipEncoder
from cliplib.explain import randomize_weights
from cliplib.features import FeatureTable, load_features
from cliplib.images import map_images
from cliplib.mini.corpus import PROMPTS, read_corpus
from cliplib.probes import LinearProbe, MLPProbe
from cliplib.resampling import cross_validate, ratio_intervals
from cliplib.robustness import efficientnet
from cliplib.zeroshot import rank_metrics, zero_shot_weights

MODELS = ["random weights", "this model", "vision teacher"]
Row = dict[str, Any]


def share(right: Any, groups: Any = None, **about: str) -> Row:
    """Return a row: what it is about, n, and the share of right answers (n,): value, low, high."""
    interval = ratio_intervals(pd.Series(right, dtype=bool), groups=groups).iloc[0]
    return {**about, "n": len(right), **interval}


def probes(table: FeatureTable, **about: str) -> Iterator[Row]:
    """Measure probes on the published split, and by group unless the readout is a middle one."""
    train, test = table.split("train"), table.split("test")
    given: dict[str, Any] = {"groups": train.groups}
    if "val" in table.splits:
        given = {"X_val": table.split("val").features, "y_val": table.split("val").labels}
    for name, probe in (("linear", LinearProbe()), ("MLP", MLPProbe())):
        found = probe.fit(train.features, train.labels, **given).predict(test.features)
        about["check"] = f"{name} probe, published split"
        yield share(found == test.labels, test.groups, **about)
    if table.read in ("pooled", "deep"):
        found = cross_validate(LinearProbe(), table, n_repeats=1)[0].argmax(axis=1)
        about["check"] = "linear probe, by group"
        yield share(found == table.labels, table.groups, **about)


def evaluation_set(encoder: ClipEncoder, name: str, data: Path) -> Iterator[Row]:
    """Measure probes and zero-shot on a data set, beside random weights and the vision teacher."""
    spec, dataset = DATASETS[name], load_dataset(name, data=data)
    assert dataset is not None
    random, ours = (
        load_features(name, e, data=data) for e in (randomize_weights(encoder), encoder)
    )
    (features,) = map_images(dataset["image"], efficientnet(), cache=encoder.cache)
    teacher = ours.with_features(features[:, :1280], readout="pooled")
    for model, table in zip(MODELS, (random, ours, teacher), strict=True):
        for readout in READOUTS if table.read == "deep" else ["pooled"]:
            yield from probes(table.readout(readout), data=spec.title, model=model, readout=readout)
    test = ours.split("test").readout("pooled")
    weights = zero_shot_weights(encoder, list(spec.phrases.values()), spec.templates)
    found = (encoder.project(test.features) @ weights.T).argmax(axis=1)
    yield share(found == test.labels, test.groups, data=spec.title, check="zero-shot")


def held_out(encoder: ClipEncoder, folder: Path) -> Iterator[Row]:
    """Measure zero-shot and retrieval on the corpus's held-out images, by their first captions."""
    images = read_corpus(folder)
    names = sorted({image.label for image in images if image.source == "caltech101"})
    held = [image for image in images if image.held_out]
    seen = encoder.images([image.data for image in held], readout="projected")
    read = encoder.texts([image.captions[0] for image in held])
    source, label = np.array([(image.source, image.label) for image in held]).T
    named, scenes = source == "caltech101", np.isin(source, ["flickr8k_1k", "coco_mini"])
    weights = zero_shot_weights(encoder, names, PROMPTS[1:])
    found = np.array(names)[(seen[named] @ weights.T).argmax(axis=1)]
    data = f"Caltech-101, {len(names)} names"
    yield share(found == label[named], data=data, check="zero-shot")
    for data, rows in (("held-out captions", ~named), ("held-out captions of scenes", scenes)):
        ids, pair = np.arange(rows.sum()), (read[rows], seen[rows])
        for way, sides in (("text to image", pair), ("image to text", pair[::-1])):
            for recall, right in rank_metrics(*sides, ids, ids).filter(like="recall").items():
                yield share(right == 1, data=data, check=f"{way}, {recall}")


def markdown(found: pd.DataFrame) -> str:
    """Return the card's table, of the largest readout that was measured."""
    keys = ["data", "check", "model"]
    found = found[found["data"] != ""].drop_duplicates(keys, keep="last").set_index(keys)
    percent = 100 * found[["value", "low", "high"]]
    cells = percent.apply(lambda row: "{:.1f} [{:.1f}, {:.1f}]".format(*row), axis=1)
    table = cells.unstack(sort=False).reindex(columns=MODELS).fillna("")
    lines = [f"| % | {' | '.join(MODELS)} |", "|---|---|---|---|"]
    lines += [f"| {', '.join(row)} | {' | '.join(texts)} |" for row, texts in table.T.items()]
    return "\n".join(lines)


def main(folder: Path, corpus: Path, data: Path) -> None:
    """Measure, write ``checks.json``, and fill the table between the marks in the card."""
    encoder = ClipEncoder(folder)
    rows = [row for name in SETS for row in evaluation_set(encoder, name, data)]
    rows += held_out(encoder, corpus)
    images = load_dataset("trashnet", data=data)["image"][:100]
    seconds = timeit.repeat(lambda: encoder.encode(images), number=1, repeat=5)
    speed = ratio_intervals(np.full(5, 100), seconds).iloc[0]
    rows += [{"check": "images a second", **speed}]
    rows += [{"check": "megabytes", "value": (folder / "model.safetensors").stat().st_size / 1e6}]
    found = pd.DataFrame(rows).fillna({"data": "", "model": MODELS[1], "readout": ""})
    found.to_json(folder / "checks.json", orient="records", indent=1)
    card, table = folder / "README.md", markdown(found)
    marked = f"<!-- results -->\n{table}\n<!-- end -->"
    text = re.sub("<!-- results -->.*?<!-- end -->", marked, card.read_text(), flags=re.DOTALL)
    card.write_text(text)
    print(table)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
