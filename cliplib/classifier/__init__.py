"""A decision aid in one folder: encoder, calibrated probe, refusal rule, and the features of the training pictures.

>>> from cliplib.classifier import Classifier
>>> classifier = Classifier.load("waste sorter")
>>> rows = classifier.classify("folder with pictures")

It says what it has learned to say, how sure it is, which known pictures look alike, and when it had better say nothing.
It is no medical device, and what it says is no decision.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from cliplib.classifier import rule, saved
from cliplib.classifier.files import Files, list_files, printable
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError, path_text
from cliplib.evaluation.calibration import TemperatureScaling
from cliplib.probes import LinearProbe, MLPProbe
from cliplib.retrieval import search_distinct
from cliplib.table import FeatureTable

__all__ = ["Classifier"]

_AT_A_TIME = 512  # rows compared with all training pictures at once


@dataclass(frozen=True, eq=False)
class Classifier:
    """Encoder, calibrated probe and refusal rule, with the pictures that the probe was trained on; see :meth:`fit`.

    Parameters
    ----------
    encoder : ClipEncoder
    probe : LinearProbe or MLPProbe
        Fitted on the encoder's pooled features, unnormalised; its classes are indices into those of `training`.
    temperature : float
        Divides the probe's logits (`TemperatureScaling`).
    min_probability : float
        Answers of a lower calibrated probability are refused as "uncertain".
    min_similarity : float
        Pictures whose nearest training picture has a lower cosine similarity are refused as "unfamiliar".
    training : FeatureTable
        What the probe was trained on.
    about : mapping of str to str, int or float
        How it was made, for people to read.
    """

    encoder: ClipEncoder
    probe: LinearProbe | MLPProbe
    temperature: float
    min_probability: float
    min_similarity: float
    training: FeatureTable
    about: Mapping[str, str | int | float]

    def __post_init__(self) -> None:
        codes = np.asarray(getattr(self.probe, "classes_", []))
        widths = {self.encoder.dim, self.training.features.shape[1], getattr(self.probe, "n_features_in_", None)}
        if len(widths) > 1 or not set(codes.tolist()) <= set(range(len(self.classes))):
            raise CliplibError("Encoder, probe and training table do not fit together: make them with Classifier.fit.")
        if (
            not np.isfinite([self.temperature, self.min_probability, self.min_similarity]).all()
            or self.temperature <= 0
        ):
            raise CliplibError("Temperature, min_probability and min_similarity must be finite, the first above 0.")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probability columns."""
        return self.training.classes

    @classmethod
    def fit(
        cls,
        encoder: ClipEncoder,
        train: FeatureTable,
        validation: FeatureTable,
        *,
        probe: LinearProbe | MLPProbe | None = None,
        risk: float = 0.05,
        unfamiliar: float = 0.01,
    ) -> Classifier:
        """Train on one table; calibrate and set the refusal rule on another.

        Answers need a probability at which at most the share `risk` of them is wrong (selective classification;
        Geifman and El-Yaniv, NIPS 2017), and a training picture near by, however sure the probe is (Sun et al.,
        "Out-of-distribution detection with deep nearest neighbors", ICML 2022; there the k-th neighbour).

        Parameters
        ----------
        encoder : ClipEncoder
        train, validation : FeatureTable
            Pooled, unnormalised features that `encoder` made. Near-duplicates belong on one side (`validation_split`),
            and the rows that shall judge the result in neither.
        probe : LinearProbe or MLPProbe, optional
            Unfitted; default ``LinearProbe()``. Its own model selection happens inside `train`, by group.
        risk : float
            Share of errors to aim at among the answers. If no threshold is that reliable, everything is refused.
        unfamiliar : float
            Share of the validation pictures that the bound on similarity refuses; 0 switches it off.

        Raises
        ------
        CliplibError
            Features of another encoder or kind, tables that share pictures or differ in classes, shares out of range.
        """
        rule.check_parts(encoder, train, validation, risk=risk, unfamiliar=unfamiliar)
        fitted = clone(probe if probe is not None else LinearProbe())
        fitted.fit(train.features, train.labels, groups=train.groups)
        made = cls(encoder, fitted, 1.0, 0.0, -1.0, train, {})
        scaler = TemperatureScaling().fit(made.predict_proba(validation.features), validation.labels)
        made = replace(made, temperature=scaler.temperature_)
        proba = made.predict_proba(validation.features)
        threshold, coverage, error = rule.threshold(validation.labels, proba, risk)
        nearest = made.neighbours(validation.features, 1)[1][:, 0]
        similarity = float(np.quantile(nearest, unfamiliar, method="lower")) if unfamiliar else -1.0
        about: dict[str, str | int | float] = {
            "data set": train.provenance.get("dataset", ""), "training pictures": len(train),
            "validation pictures (which set temperature and thresholds)": len(validation),
            "share of these that was answered": coverage,
            "share of errors among the answers": error, "share of errors aimed at": risk,
        }  # fmt: skip
        return replace(made, min_probability=threshold, min_similarity=similarity, about=about)

    def predict_proba(self, features: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities (n, k) of pooled, unnormalised features (n, d)."""
        x = np.asarray(features, dtype=np.float32)
        proba = np.zeros((len(x), len(self.classes)))  # a class without training rows stays at 0
        if not len(x):  # which scikit-learn refuses, but every file of a folder may be unreadable
            return proba
        proba[:, self.probe.classes_] = self.probe.predict_proba(x)
        scaler = TemperatureScaling()
        scaler.temperature_ = self.temperature
        return scaler.transform(proba)

    def neighbours(self, features: ArrayLike, k: int = 3) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows of `training` nearest to each of the features (n, d), and their cosines, both (n, k).

        Each is of another group of near-duplicates; fewer columns when there are fewer groups.
        """
        x, known = np.asarray(features, dtype=np.float32), self.training
        cuts = range(0, max(len(x), 1), _AT_A_TIME)
        parts = [search_distinct(x[i : i + _AT_A_TIME], known.features, k, groups=known.groups) for i in cuts]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([cosines for _, cosines in parts])

    def decide(self, features: ArrayLike, *, k: int = 3) -> pd.DataFrame:
        """What to say of each of the pooled, unnormalised features (n, d).

        `k` is the number of training pictures to name.

        Returns
        -------
        DataFrame
            class (the most probable one, also where it is refused), probability (calibrated), refused, reason
            ("uncertain", "unfamiliar", both, or ""), and for the nearest training pictures ``neighbour_1``,
            ``neighbour_1_class``, ``neighbour_1_similarity``, and so on.
        """
        if k < 1:
            raise CliplibError(f"k must be at least 1, not {k}.")
        proba, names = self.predict_proba(features), np.array(self.classes, dtype=object)
        rows, similarity = self.neighbours(features, k)
        top = proba.max(axis=1)
        signs = {"uncertain": top < self.min_probability, "unfamiliar": similarity[:, 0] < self.min_similarity}
        reasons = np.array([", ".join(s for s in signs if signs[s][i]) for i in range(len(top))], dtype=object)
        columns: dict[str, Any] = {"class": names[proba.argmax(axis=1)], "probability": top}
        columns |= {"refused": reasons != "", "reason": reasons}
        for j in range(rows.shape[1]):
            columns[f"neighbour_{j + 1}"] = self.training.ids[rows[:, j]].astype(object)
            columns[f"neighbour_{j + 1}_class"] = names[self.training.labels[rows[:, j]]]
            columns[f"neighbour_{j + 1}_similarity"] = similarity[:, j].astype(np.float64)
        return pd.DataFrame(columns)

    def classify(self, files: Files, *, k: int = 3, progress: bool = True) -> pd.DataFrame:
        """What to say of each file, readable or not.

        Parameters
        ----------
        files : path, or sequence of paths, bytes, PIL images or rows of a data set
            A folder with all folders in it, one file, or a list.
        k, progress
            As in :meth:`decide` and :meth:`ClipEncoder.images`.

        Returns
        -------
        DataFrame
            One row per file, in the order of :func:`cliplib.classifier.files.list_files`: file, the columns of
            :meth:`decide`, and error. A file that cannot be read has no class, is refused as "unreadable", and error
            says what is wrong with it; elsewhere error is "".

        Raises
        ------
        CliplibError
            There is no such folder.
        """
        listed = list_files(files)
        features = self.encoder.images([f.source for f in listed], errors="report", progress=progress)
        failed = {i: printable(error.reason) for i, error in self.encoder.last_run.errors.items()}
        decided = self.decide(features, k=k)
        decided.index = pd.Index([i for i in range(len(listed)) if i not in failed], dtype=int)
        rows = decided.reindex(range(len(listed)))
        texts = decided.select_dtypes(exclude=["number", "bool"]).columns
        rows[texts] = rows[texts].fillna("")
        rows.insert(0, "file", pd.Series([file.name for file in listed], dtype=object))
        rows["error"] = pd.Series([failed.get(i, "") for i in range(len(listed))], dtype=object)
        rows.loc[rows["error"] != "", "reason"] = "unreadable"
        return rows.assign(refused=rows["reason"] != "")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write one folder that holds everything, in JSON and safetensors; a classifier that is there is replaced.

        The encoder's weights are kept in the dtype in use (`ClipEncoder.dtype`), in which they will be used again.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        CliplibError
            It cannot be written, or something else is there.
        """
        path = Path(path_text(folder, "The folder of a classifier"))
        saved.write(self, path)
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Classifier:
        """Open a folder that :meth:`save` wrote; safe also if somebody else made it, as nothing in it can be run.

        Raises
        ------
        CliplibError
            One sentence: the folder or a file in it is missing, changed or cut short.
        """
        return cls(**saved.read(Path(path_text(folder, "The folder of a classifier"))))
