"""What the embedded CLIP can do, measured: ``checks.json``, and the table in its card.

    python -m cliplib.mini.checks CHECKPOINT --corpus DATA/pretrain --evaluation DATA

Probes choose everything on validation images and are tested on the published split and by group;
zero-shot and retrieval use images that were never trained on. Every number has a 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cliplib.data import DATASETS, load_dataset
from cliplib.encoder import READOUTS, ClipEncoder
from cliplib.evaluation import evaluate
from cliplib.explain import randomize_weights
from cliplib.features import FeatureTable, load_features
from cliplib.images import map_images
from cliplib.mini.corpus import CorpusImage, read_corpus
from cliplib.probes import LinearProbe, MLPProbe
from cliplib.resampling import cross_validate, ratio_intervals
from cliplib.robustness import efficientnet
from cliplib.zeroshot import rank_metrics, zero_shot_proba, zero_shot_weights

SETS = ("trashnet", "brain_tumor_mri")
TEMPLATES = ("a photo of a {}", "a picture of the {}", "a close-up photo of a {}")
Numbers = dict[str, Any]


def probe(table: FeatureTable, kind: type[LinearProbe] | type[MLPProbe]) -> Numbers:
    """Measure a probe on the published split: accuracy, validation accuracy, class by class."""
    train, test = table.split("train"), table.split("test")
    given: dict[str, Any] = {"groups": train.groups}
    if "val" in table.splits:
        val = table.split("val")
        given = {"X_val": val.features, "y_val": val.labels}
    fitted = kind().fit(train.features, train.labels, **given)
    proba = fitted.predict_proba(test.features)
    found = evaluate(test.labels, proba, table.classes, groups=test.groups)
    history = fitted.sweep_ if isinstance(fitted, LinearProbe) else fitted.history_
    return {
        **found.metrics.loc["accuracy"].to_dict(),
        "validation": float(history.accuracy[history.log_loss.idxmin()]),
        "sensitivity": found.per_class["sensitivity"].to_dict(),
    }


def by_group(table: FeatureTable) -> Numbers:
    """Measure a linear probe by grouped cross-validation: accuracy."""
    proba = cross_validate(LinearProbe(), table, n_repeats=1)
    found = evaluate(table.labels, proba, table.classes, groups=table.groups)
    return dict(found.metrics.loc["accuracy"].to_dict())


def probes(encoder: ClipEncoder, evaluation: Path) -> Numbers:
    """Measure every readout on both data sets."""
    found: Numbers = {}
    for name in SETS:
        table = load_features(name, encoder, data=evaluation)
        found[name] = {}
        for readout in READOUTS:
            read = table.readout(readout)
            measured = {"linear": probe(read, LinearProbe), "mlp": probe(read, MLPProbe)}
            found[name][readout] = measured | {"by_group": by_group(read)}
    return found


def teacher(encoder: ClipEncoder, evaluation: Path) -> Numbers:
    """Measure the pooled features of the vision teacher alike."""
    found: Numbers = {}
    for name in SETS:
        table, dataset = (
            load_features(name, encoder, data=evaluation),
            load_dataset(name, data=evaluation),
        )
        assert dataset is not None
        (features,) = map_images(dataset["image"], efficientnet(), cache=encoder.cache)
        read = table.with_features(features[:, :1280], readout="teacher")
        found[name] = {"linear": probe(read, LinearProbe), "by_group": by_group(read)}
    return found


def zero_shot(encoder: ClipEncoder, images: list[CorpusImage], evaluation: Path) -> Numbers:
    """Measure classification by words: held-out Caltech-101, and both data sets' test images."""
    held = [im for im in images if im.held_out and im.source == "caltech101"]
    names = sorted({im.label for im in images if im.source == "caltech101"})
    weights = zero_shot_weights(encoder, [[name] for name in names], TEMPLATES)
    features = encoder.images([im.data for im in held], readout="projected")
    right = np.array(names)[(features @ weights.T).argmax(axis=1)] == [im.label for im in held]
    found = {"caltech101": {**_mean(right), "n": len(held), "classes": len(names)}}
    for name in SETS:
        spec = DATASETS[name]
        test = load_features(name, encoder, data=evaluation).split("test").readout("pooled")
        weights = zero_shot_weights(encoder, list(spec.phrases.values()), spec.templates)
        proba = zero_shot_proba(encoder.project(test.features), weights, encoder.logit_scale)
        found[name] = _mean(proba.argmax(axis=1) == test.labels, test.groups)
    return found


def retrieval(encoder: ClipEncoder, images: list[CorpusImage], sources: tuple[str, ...]) -> Numbers:
    """Measure recall among held-out captioned images; the first caption of each counts."""
    held = [im for im in images if im.held_out and im.source in sources]
    rows = np.arange(len(held))
    seen = encoder.images([im.data for im in held], readout="projected")
    read = encoder.texts([im.captions[0] for im in held])
    found: Numbers = {"n": len(held)}
    for way, ranks in (
        ("text_to_image", rank_metrics(read, seen, rows, rows)),
        ("image_to_text", rank_metrics(seen, read, rows, rows)),
    ):
        found[way] = {key: _mean(ranks[key] == 1) for key in ranks.filter(like="recall")}
    return found


def _mean(right: Any, groups: Any = None) -> Numbers:
    return dict(ratio_intervals(pd.Series(right, dtype=bool), groups=groups).iloc[0].to_dict())


def check(folder: Path, corpus: Path, evaluation: Path) -> Numbers:
    """Measure a checkpoint beside random weights and the vision teacher."""
    encoder, images = ClipEncoder(folder), read_corpus(corpus)
    blank = randomize_weights(encoder)
    dataset = load_dataset("trashnet", data=evaluation)
    assert dataset is not None
    start = time.perf_counter()
    ClipEncoder(folder, cache=False).images(dataset["image"][:500])
    speed = 500 / (time.perf_counter() - start)
    scenes = ("flickr8k_1k", "coco_mini")
    return {
        "probes": probes(encoder, evaluation),
        "random_weights": {"probes": probes(blank, evaluation)},
        "teacher": {"probes": teacher(encoder, evaluation)},
        "zero_shot": zero_shot(encoder, images, evaluation),
        "retrieval": retrieval(encoder, images, (*scenes, "fashion_products")),
        "retrieval_scenes": retrieval(encoder, images, scenes),
        "megabytes": (folder / "model.safetensors").stat().st_size / 1e6,
        "images_per_second": speed,
    }


def card_table(found: Numbers) -> str:
    """Return the card's table in Markdown."""
    lines = ["| | random weights | this model | vision teacher |", "|---|---|---|---|"]
    for name in SETS:
        title = DATASETS[name].title
        for key, said in (("linear", "published split"), ("by_group", "by group")):
            cells = [_cell(found[who]["probes"][name]["deep"][key]) for who in ("random_weights",)]
            cells += [_cell(found["probes"][name]["deep"][key])]
            cells += [_cell(found["teacher"]["probes"][name][key])]
            lines.append(f"| {title}, {said}, linear probe | {' | '.join(cells)} |")
        lines.append(f"| {title}, zero-shot | | {_cell(found['zero_shot'][name])} | |")
    lines.append(
        f"| Caltech-101, 100 names, zero-shot | | {_cell(found['zero_shot']['caltech101'])} | |"
    )
    recall = found["retrieval"]["text_to_image"]["recall_at_10"]
    lines.append(f"| recall@10 of 1,000 held-out captions | | {_cell(recall)} | |")
    return "\n".join(lines)


def _cell(row: Numbers) -> str:
    return f"{row['value']:.1%} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def main() -> None:
    """Measure, write ``checks.json``, and fill the table between the marks in the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = check(args.checkpoint, args.corpus, args.evaluation)
    (args.checkpoint / "checks.json").write_text(json.dumps(found, indent=1) + "\n")
    card = args.checkpoint / "README.md"
    if card.exists():
        marked = f"<!-- results -->\n{card_table(found)}\n<!-- end -->"
        text = re.sub("<!-- results -->.*?<!-- end -->", marked, card.read_text(), flags=re.DOTALL)
        card.write_text(text)
    logging.info("%s", card_table(found))


if __name__ == "__main__":
    main()
