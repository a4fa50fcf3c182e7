"""A decision aid in one folder: encoder, calibrated probe, and a rule for when to abstain.

It is no medical device, and what it says is no decision.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.base import clone

from cliplib.encoder import ClipEncoder, readout_columns
from cliplib.evaluation import fit_temperature, risk_coverage
from cliplib.explain import chefer_relevance, overlay, probe_directions
from cliplib.features import FeatureTable
from cliplib.images import ImageSource, image_name, map_images
from cliplib.probes import LinearProbe, MLPProbe, load_probe, save_probe
from cliplib.resampling import group_train_test_split
from cliplib.zeroshot import search

logger = logging.getLogger(__name__)

Files = ImageSource | Sequence[ImageSource]
RULE = ("temperature", "min_probability", "min_similarity")
PARTS = ("encoder", "probe", "training")  # of a saved classifier, beside classifier.json


@dataclass(frozen=True, eq=False)
class Classifier:
    """Encoder, calibrated probe and abstention rule: see :meth:`fit`."""

    encoder: ClipEncoder
    probe: LinearProbe | MLPProbe = field(repr=False)
    training: FeatureTable  # of the probe, whose classes are indices into the table's
    temperature: float = 1.0  # divides the probe's logits
    min_probability: float = 0.0  # of an answer; infinite where there is never one
    min_similarity: float = -1.0  # of an answer: cosine to the nearest training image
    about: Mapping[str, str | float] = field(default_factory=dict, repr=False)  # how it was made

    @classmethod
    def fit(
        cls,
        table: FeatureTable,
        encoder: ClipEncoder,
        *,
        probe: LinearProbe | MLPProbe | None = None,
        risk: float = 0.05,
        out_of_distribution: float = 0.01,
        seed: int = 0,
    ) -> Classifier:
        """Train on three quarters of a table, by group; calibrate and set the rule on the rest.

        An answer needs a probability at which at most the share `risk` of the held-out answers is
        wrong (Geifman and El-Yaniv, NIPS 2017), and a training image as near as all but the share
        `out_of_distribution` of the held-out images have one (Sun et al., ICML 2022; there the k-th
        neighbour). Without such a probability it abstains on everything, and a warning says so.

        `table`, of any readout, was made by `encoder`; ValueError where it was not. `probe` is
        unfitted, by default ``LinearProbe()``.
        """
        if table.provenance.get("model_fingerprint") != encoder.fingerprint:
            made = table.provenance.get("encoder", "unknown")
            raise ValueError(f"Features of the encoder {made!r} do not fit {encoder.name!r}.")
        parts = group_train_test_split(table.labels, table.groups, parts=4, seed=seed)
        train, held_out = (table.select(rows) for rows in parts)
        probe = clone(probe or LinearProbe(seed=seed))
        probe.fit(train.features, train.labels, groups=train.groups)
        aid = cls(encoder, probe, train)
        with np.errstate(divide="ignore"):
            logits = np.log(aid.predict_proba(held_out.features))
        aid = replace(aid, temperature=fit_temperature(logits, held_out.labels))
        proba = aid.predict_proba(held_out.features)
        right = proba.argmax(axis=1) == held_out.labels
        curve, _ = risk_coverage(right, proba.max(axis=1))
        rule = {"threshold": math.inf, "coverage": 0.0, "risk": 0.0}
        if (curve["risk"] <= risk).any():
            rule = curve[curve["risk"] <= risk].iloc[-1].to_dict()
        else:
            logger.warning(
                "The classifier abstains on everything, as at no probability are at most %g %% of "
                "its answers wrong: give it more images, or allow a higher risk.",
                100 * risk,
            )
        similarity = search(held_out.features, train.features, 1)[1]
        lowest = np.quantile(similarity, out_of_distribution, method="lower")
        about: dict[str, str | float] = {
            "data set": table.provenance.get("dataset", ""),
            "training images": len(train),
            "held-out images, which set temperature and rule": len(held_out),
            "share of these that was answered": rule["coverage"],
            "share of errors among the answers": rule["risk"],
            "share of errors aimed at": risk,
        }
        return replace(
            aid, min_probability=rule["threshold"], min_similarity=float(lowest), about=about
        )

    def predict_proba(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated probabilities (n, k) of features (n, d) in the readout trained on."""
        x = np.asarray(features, np.float32)
        proba = np.zeros((len(x), len(self.training.classes)))
        if len(x):
            known = self.probe.predict_proba(x) ** (1 / self.temperature)
            proba[:, self.probe.classes_] = known / known.sum(axis=1, keepdims=True)
        return proba

    def decide(self, features: ArrayLike) -> pd.DataFrame:
        """Return what to say of features (n, d) in the readout trained on.

        Columns: class (the most probable, also when abstaining), probability (calibrated),
        abstained, reason ("uncertain", "out-of-distribution", both, or ""), nearest (id of the
        nearest training image), similarity (its cosine).
        """
        proba = self.predict_proba(features)
        nearest, cosines = (found[:, 0] for found in search(features, self.training.features, 1))
        signs = {
            "uncertain": proba.max(axis=1) < self.min_probability,
            "out-of-distribution": cosines < self.min_similarity,
        }
        reasons = [", ".join(s for s in signs if signs[s][row]) for row in range(len(proba))]
        said = {
            "class": np.array(self.training.classes)[proba.argmax(axis=1)],
            "probability": proba.max(axis=1),
            "abstained": np.array([reason != "" for reason in reasons], dtype=bool),
            "reason": reasons,
            "nearest": self.training.ids[nearest],
            "similarity": cosines.astype(np.float64),
        }
        return pd.DataFrame(said).astype(dict.fromkeys(["class", "reason", "nearest"], str))

    def classify(self, files: Files) -> pd.DataFrame:
        """Return what to say of each file in a folder, however deep, or of each image of a list.

        Columns: file, those of :meth:`decide`, and error. What cannot be read has a row without a
        class, the reason "unreadable", and an error that says why.
        """
        names, sources = list_files(files)
        errors: dict[int, str] = {}
        (deep,) = map_images(
            sources,
            self.encoder.image_function,
            cache=self.encoder.cache,
            errors=errors,
            batch_size=self.encoder.batch_size,
            progress="classify" if len(names) > 16 else "",
        )
        readable = [row for row in range(len(names)) if row not in errors]
        columns = readout_columns(self.training.read, self.encoder.dim, self.encoder.blocks)
        features = deep[readable][:, columns] if readable else np.zeros((0, len(columns)))
        rows = self.decide(features).set_axis(readable).reindex(range(len(names)))
        rows = rows.fillna({"class": "", "reason": "unreadable", "nearest": ""})
        rows = rows.assign(abstained=rows["reason"] != "")
        rows.insert(0, "file", names)
        return rows.assign(error=[_utf8(errors.get(row, "")) for row in range(len(names))])

    def heat_maps(self, images: Sequence[ImageSource], classes: Sequence[str]) -> list[Image.Image]:
        """Return where each of `classes` was read off each of `images`, laid over the image."""
        readout, wanted = self.training.read, [self.training.classes.index(c) for c in classes]
        features = self.encoder.images(images, readout=readout, progress=False)
        directions = probe_directions(self.probe, features, wanted)
        maps = chefer_relevance(self.encoder, images, directions, readout=readout)
        return [overlay(self.encoder, image, m) for image, m in zip(images, maps, strict=True)]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write one folder, JSON and safetensors; OSError where it holds something else."""
        path, main = Path(folder), Path(folder, "classifier.json")
        if path.exists() and not main.is_file() and set(os.listdir(path)) - set(PARTS):
            raise FileExistsError(f"The folder {path} holds something else: choose another.")
        path.mkdir(parents=True, exist_ok=True)
        main.unlink(missing_ok=True)  # written last: half a folder is no classifier
        for part in PARTS:
            shutil.rmtree(path / part, ignore_errors=True)
        for item in (self.encoder.model, self.encoder.processor, self.encoder.tokenizer):
            item.save_pretrained(path / "encoder")
        save_probe(self.probe, path / "probe")
        (path / "training").mkdir()
        self.training.save(path / "training" / "features.safetensors")
        document = {
            "encoder": {"name": self.encoder.name, "image_size": self.encoder.image_size},
            "rule": {name: str(getattr(self, name)) for name in RULE},  # JSON knows no infinity
            "about": dict(self.about),
            "digests": _digests(path),
        }
        main.write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Classifier:
        """Open a folder that :meth:`save` wrote; nothing in it is run, whoever made it.

        Raises OSError or ValueError, one sentence, where a file is missing, changed or cut short.
        """
        path, main = Path(folder), Path(folder, "classifier.json")
        if not main.is_file():
            raise FileNotFoundError(f"There is no classifier in the folder {path}: check its name.")
        try:
            document = json.loads(main.read_text(encoding="utf-8"))
            if harmed := document["digests"].items() ^ _digests(path).items():
                raise ValueError(f"{min(harmed)[0]} is missing, was changed or cut short")
            encoder = ClipEncoder(path / "encoder")
            encoder.name, encoder.image_size = document["encoder"].values()
            return cls(
                encoder,
                load_probe(path / "probe"),
                FeatureTable.load(path / "training" / "features.safetensors"),
                about=document["about"],
                **{name: float(document["rule"][name]) for name in RULE},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The classifier in {path} is not whole ({error}): copy the folder once more."
            ) from error


def _digests(folder: Path) -> dict[str, str]:
    """Return a digest of each file, which tells damage, not who made the folder."""
    found = sorted([*folder.glob("*/*.json"), *folder.glob("*/*.safetensors")])
    names = [file.relative_to(folder).as_posix() for file in found]
    digests = [blake2b(file.read_bytes(), digest_size=16).hexdigest() for file in found]
    return dict(zip(names, digests, strict=True))


def _utf8(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()  # Linux allows any bytes in a name


def list_files(files: Files) -> tuple[list[str], list[ImageSource]]:
    """Return names and sources of all files in a folder, however deep, or of a list of images."""
    if isinstance(files, bytes | Image.Image | np.ndarray | Mapping):
        files = [files]
    if not isinstance(files, str | os.PathLike):
        return [_utf8(image_name(source)) for source in files], list(files)
    root = Path(files).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"There is no file and no folder {root}: check its name.")
    if root.is_file():
        return [_utf8(root.name)], [root]
    found = sorted(path for path in root.rglob("*") if not path.is_dir())
    return [_utf8(file.relative_to(root).as_posix()) for file in found], list(found)
