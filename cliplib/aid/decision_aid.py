"""A decision aid in one folder: encoder, calibrated probe, and a rule for when to abstain."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from scipy.special import softmax
from sklearn.base import clone

from cliplib.arrays import Floats
from cliplib.calibration import fit_temperature, risk_coverage
from cliplib.data import list_files
from cliplib.encoder import ClipEncoder, readout_columns
from cliplib.features import FeatureTable
from cliplib.probes import LinearProbe, MLPProbe, load_probe, save_probe
from cliplib.retrieval import search
from cliplib.splits import group_train_test_split

logger = logging.getLogger(__name__)


RULE = ("temperature", "min_probability", "min_similarity", "about")


@dataclass(frozen=True, eq=False)
class DecisionAid:
    """Encoder, calibrated probe and abstention rule: see :meth:`fit`."""

    encoder: ClipEncoder
    probe: LinearProbe | MLPProbe = field(repr=False)
    training: FeatureTable  # of the probe, whose classes are indices into the table's
    temperature: float = 1.0  # divides the probe's logits
    min_probability: float = 0.0  # of an answer; infinite where there is never one
    min_similarity: float = -1.0  # of an answer: cosine to the nearest training image
    about: Mapping[str, str | float | None] = field(
        default_factory=dict, repr=False
    )  # its making

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
    ) -> Self:
        """Train on three quarters of a table, by group; calibrate and set the rule on the rest.

        An answer needs a probability at which at most the share `risk` of the held-out answers is
        wrong: a point estimate, without the bound of Geifman and El-Yaniv (NIPS 2017). Without one
        it abstains on everything, and warns. It also needs a training image as near as all but the
        share `out_of_distribution` of held-out images have one (Sun et al., ICML 2022: the k-th).
        """
        if table.provenance.get("model_fingerprint") != encoder.fingerprint:
            made = table.provenance.get("encoder", "unknown")
            raise ValueError(
                f"Features of the encoder {made!r} do not fit {encoder.name!r}."
            )
        probe = clone(probe or LinearProbe(seed=seed))
        if not isinstance(
            probe, LinearProbe | MLPProbe
        ):  # another has neither weights nor maps
            raise TypeError(
                f"Use a LinearProbe or an MLPProbe, not a {type(probe).__name__}."
            )
        parts = group_train_test_split(table.labels, table.groups, parts=4, seed=seed)
        train, held_out = map(table.select, parts)
        probe.fit(train.features, train.labels, groups=train.groups)
        codes = np.searchsorted(probe.classes_, held_out.labels)
        temperature = fit_temperature(probe.logits(held_out.features), codes)
        aid = cls(encoder, probe, train, temperature)
        proba = aid.predict_proba(held_out.features)
        right = proba.argmax(axis=1) == held_out.labels
        curve = risk_coverage(right, proba.max(axis=1))
        good = curve[curve["risk"] <= risk]
        threshold, coverage, wrong = (
            (np.inf, 0, None) if good.empty else good.iloc[-1].tolist()
        )
        if good.empty:
            logger.warning(
                "The classifier abstains on everything: give more images, or more risk."
            )
        similarity = search(held_out.features, train.features, 1)[1]
        lowest = np.quantile(similarity, out_of_distribution, method="lower")
        about: dict[str, str | float | None] = {
            "data set": table.provenance.get("dataset", ""),
            "training images": len(train),
            "held-out images, which set temperature and rule": len(held_out),
            "share of these that was answered": coverage,
            "share of errors among the answers": wrong,
            "share of errors aimed at": risk,
        }
        return cls(encoder, probe, train, temperature, threshold, float(lowest), about)

    def predict_proba(self, features: ArrayLike) -> Floats:
        """Return calibrated probabilities (n, k) of features (n, d) in the readout trained on."""
        known = softmax(self.probe.logits(features) / self.temperature, axis=1)
        proba = np.zeros((len(known), len(self.training.classes)))
        proba[:, self.probe.classes_] = known
        return proba

    def decide(self, features: ArrayLike) -> pd.DataFrame:
        """Return what to say of features (n, d) in the readout trained on.

        Columns: class (the most probable), probability (calibrated), abstained, reason
        ("uncertain", "out-of-distribution", both, or ""), nearest (training image), similarity.
        """
        proba = self.predict_proba(features)
        nearest, cosines = (
            found[:, 0] for found in search(features, self.training.features, 1)
        )
        unsure = np.where(proba.max(axis=1) < self.min_probability, "uncertain", "")
        strange = np.where(cosines < self.min_similarity, "out-of-distribution", "")
        reasons = [
            ", ".join(filter(None, both)) for both in zip(unsure, strange, strict=True)
        ]
        said = pd.DataFrame(
            {"class": np.array(self.training.classes)[proba.argmax(axis=1)]}
        )
        said = said.assign(
            probability=proba.max(axis=1), abstained=[r != "" for r in reasons]
        )
        ids = self.training.ids[nearest]
        return said.assign(
            reason=reasons, nearest=ids, similarity=cosines.astype(float)
        )

    def classify(self, files: Any) -> pd.DataFrame:
        """Return file, what `decide` says, and error, of each file of a folder or of a list."""
        names, sources = list_files(files)
        if not names:
            raise ValueError(f"There is no image in {files}.")
        errors: dict[int, str] = {}
        (deep,) = self.encoder.map(sources, errors=errors, progress="classify")
        columns = readout_columns(
            self.training.readout, self.encoder.dim, self.encoder.blocks
        )
        rows = self.decide(deep[:, columns])
        rows.loc[list(errors)] = ["", np.nan, True, "unreadable", "", np.nan]
        rows.insert(0, "file", names)
        return rows.assign(error=[errors.get(row, "") for row in range(len(names))])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write one folder, JSON and safetensors; OSError where it holds something else."""
        path, main = Path(folder), Path(folder, "classifier.json")
        if path.is_dir() and any(path.iterdir()) and not main.is_file():
            raise FileExistsError(
                f"The folder {path} holds something else: choose another."
            )
        document: dict[str, Any] = {
            "rule": {name: getattr(self, name) for name in RULE}
        }
        document["encoder"] = [
            self.encoder.name,
            self.encoder.image_size,
            self.encoder.dtype,
        ]
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            dir=path
        ) as new:  # until all is written an older one stays whole
            for item in (
                self.encoder.model,
                self.encoder.processor,
                self.encoder.tokenizer,
            ):
                item.save_pretrained(Path(new, "encoder"))
            save_probe(self.probe, Path(new, "probe"))
            Path(new, "training").mkdir()
            self.training.save(Path(new, "training", "features.safetensors"))
            main.write_text("")  # filled last: half a folder is no classifier
            for part in os.listdir(new):
                shutil.rmtree(path / part, ignore_errors=True)
                Path(new, part).replace(path / part)
        main.write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Open a folder that :meth:`save` wrote, if it is whole; nothing in it is run."""
        path = Path(
            folder
        ).absolute()  # else what is missing could be taken for a hub id
        try:
            document = json.loads(
                (path / "classifier.json").read_text(encoding="utf-8")
            )
            encoder, probe = ClipEncoder(path / "encoder"), load_probe(path / "probe")
            encoder.name, encoder.image_size, encoder.dtype = document["encoder"]
            training = FeatureTable.load(path / "training" / "features.safetensors")
            return cls(encoder, probe, training, **document["rule"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(
                f"There is no whole classifier in {path} ({error})."
            ) from error
