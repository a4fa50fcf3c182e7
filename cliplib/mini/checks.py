"""What the embedded CLIP can do, measured: the checks that the model card and the report read.

    python -m cliplib.mini.checks CHECKPOINT --corpus DATA/pretrain --evaluation DATA [--curve NAME --others NAME ...]

Linear probes on frozen features choose their regularisation on validation images, as everywhere in cliplib, with
near-duplicates on one side; zero-shot classification and retrieval use pictures of the corpus that were never trained
on. ``--curve`` adds the checkpoints that a training left on its way, by their validation images alone; ``--others``
adds whole checkpoints beside this one, such as an ablation's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from cliplib import baselines
from cliplib.data import load_dataset
from cliplib.encoder import ClipEncoder
from cliplib.evaluation import evaluate
from cliplib.mini.corpus import Picture, read_corpus
from cliplib.packs import near_duplicate_groups
from cliplib.probes import LinearProbe
from cliplib.table import FeatureTable
from cliplib.zeroshot import recall_at_k, zero_shot_weights

TEMPLATES = ("a photo of a {}", "a picture of the {}", "a close-up photo of a {}", "an image showing a {}")


def probe(table: FeatureTable, seed: int = 0) -> dict[str, Any]:
    """Test accuracy of a linear probe on the published split, with a 95 % interval, and each class's sensitivity."""
    train, test = table.split("train"), table.split("test")
    val = table.split("val") if "val" in table.splits else None
    given: dict[str, Any] = {} if val is None else {"X_val": val.features, "y_val": val.labels}
    fitted = LinearProbe(random_state=seed).fit(train.features, train.labels, groups=train.groups, **given)
    proba = fitted.predict_proba(test.features)
    found = evaluate(test.labels, proba, table.classes, groups=test.groups, seed=seed)
    return {
        **found.numbers()["accuracy"],
        "validation": float(fitted.sweep_.val_accuracy[fitted.sweep_.l2 == fitted.l2_].iloc[0]),
        "sensitivity": found.per_class["sensitivity"].to_dict(),
    }


@cache
def evaluation_set(name: str, evaluation: Path) -> tuple[Dataset, NDArray[np.int64]] | None:
    """The images of a data set and their groups of near-duplicates, looked for once."""
    found = load_dataset(name, data=evaluation)
    return None if found is None else (found, near_duplicate_groups(found))


def probes(features: Callable[[Dataset], FeatureTable], evaluation: Path) -> dict[str, Any]:
    """Both data sets through `features`, such as an encoder's ``table``."""
    found = {n: evaluation_set(n, evaluation) for n in ("trashnet", "brain_tumor_mri")}
    return {n: probe(features(f[0]).with_groups(f[1])) for n, f in found.items() if f is not None}


def zero_shot(encoder: ClipEncoder, pictures: list[Picture]) -> dict[str, Any]:
    """Accuracy on the held-out tenth of Caltech-101, by the names of its classes alone."""
    held = [p for p in pictures if p.held_out and p.source == "caltech101"]
    names = sorted({p.label for p in pictures if p.source == "caltech101"})
    weights = zero_shot_weights(encoder, [[n] for n in names], TEMPLATES)
    images = encoder.images([p.data for p in held], kind="projected", normalize=True)
    right = np.array([names[k] for k in (images @ weights.T).argmax(1)]) == np.array([p.label for p in held])
    return {"accuracy": float(right.mean()), "n": len(held), "classes": len(names)}


def retrieval(encoder: ClipEncoder, pictures: list[Picture], sources: tuple[str, ...]) -> dict[str, Any]:
    """Text to image and back among the held-out captioned pictures of `sources`; the first caption of each counts."""
    held = [p for p in pictures if p.held_out and p.source in sources]
    images = encoder.images([p.data for p in held], kind="projected")
    texts = encoder.texts([p.captions[0] for p in held])
    found = {"text_to_image": recall_at_k(texts, images), "image_to_text": recall_at_k(images, texts)}
    return {"n": len(held)} | {
        way: {f"recall_at_{k}": float(v.mean()) for k, v in r.items()} for way, r in found.items()
    }


def check(folder: Path, corpus: Path, evaluation: Path, *, references: bool = True) -> dict[str, Any]:
    """All checks of a checkpoint; with `references`, random weights and the vision teacher beside it."""
    encoder, pictures = ClipEncoder.from_pretrained(folder), read_corpus(corpus)
    scenes = ("flickr8k_1k", "coco_mini")
    out = {
        "probes": probes(encoder.table, evaluation),
        "zero_shot_caltech101": zero_shot(encoder, pictures),
        "retrieval": retrieval(encoder, pictures, (*scenes, "fashion_products")),
        "retrieval_scenes": retrieval(encoder, pictures, scenes),
    }
    if references:
        blank = baselines.random_weights(encoder)
        out["random_weights"] = {
            "probes": probes(blank.table, evaluation),
            "zero_shot_caltech101": zero_shot(blank, pictures),
        }
        out["teacher"] = {"probes": probes(baselines.efficientnet_lite, evaluation)}
    return out


def curve(folders: Iterable[Path], corpus: Path, evaluation: Path) -> list[dict[str, float]]:
    """What the checkpoints ``…_step_N`` of one training can do: validation accuracy of the probes, and words."""
    rows = []
    for folder in sorted(folders, key=lambda f: int(f.name.rpartition("_")[2])):
        found = check(folder, corpus, evaluation, references=False)
        rows.append(
            {
                "step": int(folder.name.rpartition("_")[2]),
                **{name: probed["validation"] for name, probed in found["probes"].items()},
                "zero_shot_caltech101": found["zero_shot_caltech101"]["accuracy"],
                "recall_at_10": found["retrieval"]["text_to_image"]["recall_at_10"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file; by default checks.json in the checkpoint's folder")
    parser.add_argument("--no-references", action="store_true", help="leave out random weights and the teacher")
    parser.add_argument("--curve", nargs="*", type=Path, default=[], help="checkpoints …_step_N on its way")
    parser.add_argument("--others", nargs="*", type=Path, default=[], help="checkpoints of other trainings")
    args = parser.parse_args()
    where = (args.corpus, args.evaluation)
    found = check(args.checkpoint, *where, references=not args.no_references)
    found["curve"] = curve(args.curve, *where)
    found["others"] = {
        folder.name: check(folder, *where, references=False)
        | {"facts": json.loads((folder / "training.json").read_text())["facts"]}
        for folder in args.others
    }
    (args.out or args.checkpoint / "checks.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
