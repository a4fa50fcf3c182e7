"""A decision aid in one folder: encoder, calibrated probe, and a rule for when to abstain."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib.resources import files as resources
from pathlib import Path
from string import Template
from typing import Any

import anywidget
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.base import clone
from tqdm.auto import tqdm

from cliplib.data import list_files
from cliplib.encoder import ClipEncoder, readout_columns
from cliplib.evaluation import fit_temperature, risk_coverage
from cliplib.explain import heat_maps
from cliplib.features import FeatureTable
from cliplib.images import load_image
from cliplib.probes import LinearProbe, MLPProbe, load_probe, save_probe
from cliplib.resampling import group_train_test_split
from cliplib.zeroshot import search

logger = logging.getLogger(__name__)

RULE = ("temperature", "min_probability", "min_similarity")
SAID = ["class", "probability", "abstained", "reason", "nearest", "similarity"]
NEVER = "its held-out answers were never reliable enough. Give more images, or a higher risk."
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
        `probe` is unfitted, by default ``LinearProbe()``; the table may be of any readout.
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
        curve = risk_coverage(right, proba.max(axis=1))[0]
        good = curve[curve["risk"] <= risk]
        threshold, coverage, wrong = (math.inf, 0.0, 0.0) if good.empty else good.iloc[-1]
        if good.empty:
            logger.warning("The classifier abstains on everything: %s", NEVER)
        similarity = search(held_out.features, train.features, 1)[1]
        lowest = np.quantile(similarity, out_of_distribution, method="lower")
        about: dict[str, str | float] = {
            "data set": table.provenance.get("dataset", ""),
            "training images": len(train),
            "held-out images, which set temperature and rule": len(held_out),
            "share of these that was answered": float(coverage),
            "share of errors among the answers": float(wrong),
            "share of errors aimed at": risk,
        }
        aid = replace(aid, min_probability=float(threshold), min_similarity=float(lowest))
        return replace(aid, about=about)

    def predict_proba(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated probabilities (n, k) of features (n, d) in the readout trained on."""
        known = self.probe.predict_proba(features) ** (1 / self.temperature)
        proba = np.zeros((len(known), len(self.training.classes)))
        proba[:, self.probe.classes_] = known / known.sum(axis=1, keepdims=True)
        return proba

    def decide(self, features: ArrayLike) -> pd.DataFrame:
        """Return what to say of features (n, d) in the readout trained on.

        Columns: class (the most probable), probability (calibrated), abstained, reason
        ("uncertain", "out-of-distribution", both, or ""), nearest (training image), similarity.
        """
        proba = self.predict_proba(features)
        nearest, cosines = (found[:, 0] for found in search(features, self.training.features, 1))
        signs = {
            "uncertain": proba.max(axis=1) < self.min_probability,
            "out-of-distribution": cosines < self.min_similarity,
        }
        reasons = [", ".join(s for s in signs if signs[s][row]) for row in range(len(proba))]
        said = pd.DataFrame({"class": np.array(self.training.classes)[proba.argmax(axis=1)]})
        said = said.assign(probability=proba.max(axis=1), abstained=[r != "" for r in reasons])
        nearest_ids = self.training.ids[nearest]
        return said.assign(reason=reasons, nearest=nearest_ids, similarity=cosines.astype(float))

    def classify(self, files: Any) -> pd.DataFrame:
        """Return what to say of each file in a folder, or of each image of a list.

        Columns: file, those of `decide`, and error: what cannot be read has a row that says so.
        """
        names, sources = list_files(files)
        errors: dict[int, str] = {}
        (deep,) = self.encoder.map(sources, errors=errors, progress="classify")
        readable = [row for row in range(len(names)) if row not in errors]
        columns = readout_columns(self.training.read, self.encoder.dim, self.encoder.blocks)
        features = deep[readable][:, columns] if readable else deep
        rows = self.decide(features) if readable else pd.DataFrame(columns=SAID)
        rows = rows.set_axis(readable).reindex(range(len(names)))
        rows = rows.fillna({"class": "", "reason": "unreadable", "nearest": ""})
        rows = rows.assign(abstained=rows["reason"] != "")
        rows.insert(0, "file", names)
        told = [errors.get(i, "").replace(str(sources[i]), names[i]) for i in range(len(names))]
        return rows.assign(error=told)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write one folder, JSON and safetensors; OSError where it holds something else."""
        path, main = Path(folder), Path(folder, "classifier.json")
        path.mkdir(parents=True, exist_ok=True)
        if not main.is_file() and set(os.listdir(path)) - set(PARTS):
            raise FileExistsError(f"The folder {path} holds something else: choose another.")
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
        }
        main.write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Classifier:
        """Open a folder that :meth:`save` wrote, if it is whole; nothing in it is run."""
        path, main = Path(folder), Path(folder, "classifier.json")
        if not main.is_file():
            raise FileNotFoundError(f"There is no classifier in the folder {path}: check its name.")
        try:
            document = json.loads(main.read_text(encoding="utf-8"))
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
            raise ValueError(f"The classifier in {path} is not whole ({error}).") from error


def write_csv(rows: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write what :meth:`Classifier.classify` says, in UTF-8 with the mark that Excel looks for."""
    inert = rows.replace(r"^(?=[=+\-@])", "'", regex=True)  # no formulas: OWASP, "CSV injection"
    inert.to_csv(path, index=False, encoding="utf-8-sig", errors="backslashreplace")


def write_html(
    rows: pd.DataFrame, path: str | os.PathLike[str], classifier: Classifier, files: Any
) -> None:
    """Write what `classifier` said of `files`, or some rows of it, as a page that loads nothing."""
    counts = rows["reason"].replace("", "answered").value_counts()
    page = Template((resources("cliplib") / "sheet.html").read_text(encoding="utf-8")).substitute(
        counts=", ".join(f"{count} {reason}" for reason, count in counts.items()),
        table=_table(rows, classifier, files),
        about=pd.Series(dict(classifier.about)).to_frame().to_html(header=False),
    )
    Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")


def _table(rows: pd.DataFrame, classifier: Classifier, files: Any) -> str:
    """Return rows as HTML with images and heat maps, every text escaped."""
    sources = list_files(files)[1]
    answer = rows["class"].where(~rows["abstained"], "none: " + rows["reason"])
    answer = answer.where(rows["error"] == "", rows["error"])
    shown = pd.DataFrame({"file": rows["file"], "image": "", "heat map": "", "answer": answer})
    shown = shown.join(rows[["class", "probability", "nearest", "similarity"]])
    readable = rows.index[rows["error"] == ""]
    for start in tqdm(range(0, len(readable), 16), "heat maps", disable=len(readable) <= 16):
        part = readable[start : start + 16]
        images = [load_image(sources[row]) for row in part]
        labels = [classifier.training.classes.index(name) for name in rows.loc[part, "class"]]
        read = classifier.training.read
        heat = heat_maps(classifier.encoder, classifier.probe, images, labels, read)
        shown.loc[part, "image"] = [_thumbnail(image) for image in images]
        shown.loc[part, "heat map"] = [_thumbnail(image) for image in heat]
    style = shown.style.hide(axis="index").format(escape="html", precision=3, na_rep="")
    for name in ("image", "heat map"):
        tag = f'<img src="{{}}" alt="{name}">'.format
        style = style.format(lambda uri, tag=tag: uri and tag(uri), subset=[name])
    return str(style.to_html())


def _thumbnail(image: Image.Image) -> str:
    """Return a small copy as a data: URI."""
    image.thumbnail((144, 144))
    image.save(content := io.BytesIO(), "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


class _DropBox(anywidget.AnyWidget):
    _esm = (resources("cliplib") / "drop_box.js").read_text(encoding="utf-8")


def drop_box(classifier: Classifier) -> anywidget.AnyWidget:
    """Return a box for JupyterLab that takes one image and shows what the classifier says of it."""
    box = _DropBox()

    def respond(_: Any, sent: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        image = {"path": sent["name"], "bytes": bytes(buffers[0])}
        try:
            answer = _table(classifier.classify([image]), classifier, [image])
        except Exception as error:  # else the box would wait for ever
            answer = escape(f"{type(error).__name__}: {error}")
        box.send({"number": sent["number"], "html": answer})

    box.on_msg(respond)
    return box
