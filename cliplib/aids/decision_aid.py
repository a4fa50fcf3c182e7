"""A decision aid in one folder: encoder, calibrated probe, and rule for abstaining."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.base import clone
from sklearn.metrics import pairwise_distances_argmin_min

from cliplib.aids.aid_folder import MANIFEST, new_parts, read_manifest
from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.data.folder import list_files
from cliplib.data.image import UnreadableImage
from cliplib.data.wording import printable
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.encoder import Encoder, check_made_by
from cliplib.evaluation.calibration import fit_temperature, risk_coverage
from cliplib.evaluation.intervals import clopper_pearson
from cliplib.features.splits import group_train_test_split
from cliplib.features.table import FeatureTable
from cliplib.probes.base import Probe
from cliplib.probes.saving import load_probe, save_probe

logger = logging.getLogger(__name__)

# Share of errors that a decision aid allows among its answers.
RISK = 0.05
# Largest share of the held-out images that count as out-of-distribution.
OUT_OF_DISTRIBUTION = 0.01


def choose_threshold(is_correct: Bools, confidence: Floats, risk: float) -> float:
    """Choose the threshold on confidence that answers most images at an allowed risk.

    An image is answered if its `confidence` (n,) reaches the threshold; `is_correct`
    (n,) tells whether its answer is right. `risk` is the largest allowed share of wrong
    answers, 0 to 1. If no threshold achieves it, the result is infinite, and a warning
    is given.
    """
    # A row for each distinct confidence: threshold, coverage and risk.
    curve = risk_coverage(is_correct, confidence)
    allowed = curve[curve["risk"] <= risk]
    if allowed.empty:
        logger.warning(
            "The decision aid abstains on everything: give more images, or more risk."
        )
        return np.inf
    return float(allowed.loc[allowed["coverage"].idxmax(), "threshold"])


@dataclass(frozen=True, eq=False)
class DecisionAid:
    """Encoder, calibrated probe and abstention rule: see `fit`.

    Attributes
    ----------
    encoder : Encoder
    probe : LinearProbe, KernelProbe or MLPProbe
        The fitted probe; its classes are indices into ``training.classes``.
    training : FeatureTable
        The images that the probe was trained on, in the readout that it reads.
    temperature : float
        Number by which the probe's logits are divided.
    min_probability : float
        Calibrated probability below which the aid abstains on an image. If infinite,
        it abstains on all images.
    min_similarity : float
        Cosine to the nearest training image below which the aid abstains on an image.
    about : mapping
        Texts and numbers by name: how the aid was made, and its performance on the
        held-out images that set its thresholds.
    """

    encoder: Encoder
    probe: Probe = field(repr=False)
    training: FeatureTable
    temperature: float = 1.0
    min_probability: float = 0.0
    min_similarity: float = -1.0
    about: Mapping[str, str | float | None] = field(default_factory=dict, repr=False)

    @classmethod
    def fit(
        cls,
        table: FeatureTable,
        encoder: Encoder,
        *,
        probe: Probe,
        risk: float = RISK,
        seed: int = 0,
    ) -> Self:
        """Train a probe on three quarters of a table; set the thresholds on the rest.

        The rest, the held-out images, consists of whole groups. It also calibrates the
        probabilities. The probe gets the groups of its training images.

        The aid answers if the calibrated probability reaches a threshold. This is the
        one that answers most held-out images with at most the share `risk` of errors: a
        point estimate, without the bound of Geifman and El-Yaniv (NIPS 2017). If no
        threshold achieves this, the aid abstains on everything, and a warning is given.

        The cosine to the nearest training image must reach a second threshold, below
        which at most 1% of the held-out images lie (Sun et al., ICML 2022, who use the
        k-th nearest image). `about` counts the held-out images that reach both.

        Parameters
        ----------
        table : FeatureTable
            Images with labels, in the readout that the probe reads.
        encoder : Encoder
            The encoder that made the table.
        probe : LinearProbe, KernelProbe or MLPProbe
            The probe; a copy of it is fitted.
        risk : float
            Largest allowed share of errors among the held-out answers, 0 to 1.
        seed : int
            Random seed of the split.

        Raises
        ------
        ValueError
            If the table was made by another encoder, the encoder does not have its
            readout, or `risk` is not between 0 and 1.
        TypeError
            If `encoder` is not an encoder.
        """
        if not 0 <= risk <= 1:
            raise ValueError(f"risk={risk} must be a share from 0 to 1.")
        check_made_by(table.provenance, encoder)
        encoder.columns_of(table.readout)  # refuses a readout that it does not have
        train_rows, held_out_rows = group_train_test_split(
            table.label_names, table.groups, parts=4, seed=seed
        )
        training = table.select(train_rows)
        held_out = table.select(held_out_rows)
        fitted = clone(probe)
        fitted.fit(training.features, training.labels, groups=training.groups)
        # Every class is in both parts, and `classes_` are sorted.
        columns = np.searchsorted(fitted.classes_, held_out.labels)
        logits = fitted.logits(held_out.features)
        temperature = fit_temperature(logits, columns)
        aid = cls(encoder, fitted, training, temperature)  # does not abstain yet

        proba = aid._calibrated(logits)
        confidence = proba.max(axis=1)
        is_correct = proba.argmax(axis=1) == held_out.labels
        threshold = choose_threshold(is_correct, confidence, risk)
        _, similarity = aid.nearest(held_out.features)
        # "lower" selects one of the cosines: with an interpolated value, more images
        # could lie below it.
        min_similarity = np.quantile(similarity, OUT_OF_DISTRIBUTION, method="lower")
        is_answered = (confidence >= threshold) & (similarity >= min_similarity)
        about: dict[str, str | float | None] = {
            "data set": table.provenance.get("dataset", ""),
            "probe": f"{type(fitted).__name__}, readout {table.readout!r}",
            "training images": len(training),
            **_count(is_answered, is_correct, held_out.groups),
            "share of errors aimed at": risk,
        }
        return replace(
            aid,
            min_probability=threshold,
            min_similarity=float(min_similarity),
            about=about,
        )

    def predict_proba(self, features: ArrayLike) -> Floats:
        """Return calibrated probabilities (n, k) for features (n, d).

        The features are in the readout of ``training``. Columns are in the order of
        ``training.classes``; a class without training images has a probability of 0.
        """
        return self._calibrated(self.probe.logits(features))

    def _calibrated(self, logits: Floats) -> Floats:
        """Return probabilities as `predict_proba` does, from the probe's logits.

        The logits (n, trained classes) have a column for each trained class.
        """
        proba = np.zeros((len(logits), len(self.training.classes)))
        proba[:, self.probe.classes_] = softmax(logits / self.temperature, axis=1)
        return proba

    def nearest(self, features: ArrayLike) -> tuple[Ints, Floats]:
        """Return the row number of each image's nearest training image, and its cosine.

        Both are (n,), for features (n, d). The first of equally near images is used.
        """
        rows, distances = pairwise_distances_argmin_min(
            features, self.training.features, metric="cosine"
        )
        return rows, np.asarray(1 - distances, float)

    def decide(self, features: ArrayLike) -> pd.DataFrame:
        """Classify features (n, d), in the readout of ``training``, or abstain.

        Returns
        -------
        DataFrame
            A row for each image: class (the most probable one, even if the aid
            abstains), probability (calibrated), abstained, reason ("uncertain",
            "out-of-distribution", both with a comma between them, or ""), nearest (id
            of the most similar training image) and similarity (its cosine, -1 to 1).
        """
        proba = self.predict_proba(features)
        classes = np.array(self.training.classes, np.str_)
        nearest, similarity = self.nearest(features)
        # Negated, since comparisons with NaN are false: the aid abstains on NaN.
        is_uncertain = ~(proba.max(axis=1) >= self.min_probability)
        is_far = ~(similarity >= self.min_similarity)
        reason = np.where(is_uncertain, "uncertain", "").astype(object)
        reason[is_far] = "out-of-distribution"
        reason[is_uncertain & is_far] = "uncertain, out-of-distribution"
        return pd.DataFrame(
            {
                "class": classes[proba.argmax(axis=1)],
                "probability": proba.max(axis=1),
                "abstained": is_uncertain | is_far,
                "reason": reason,
                "nearest": self.training.ids[nearest],
                "similarity": similarity,
            }
        )

    def classify(self, files: Any) -> pd.DataFrame:
        """Encode images, and classify each of them or abstain.

        Parameters
        ----------
        files : folder, image, or list of images
            A folder, with all files in it and its subfolders, or images as `load_image`
            takes them.

        Returns
        -------
        DataFrame
            A row for each image: file, the columns of `decide`, and error, which is ""
            if the image can be read. The aid abstains on unreadable images, with the
            reason "unreadable", "" as class and nearest, and NaN as probability and
            similarity.

        Raises
        ------
        ValueError
            If there is no file.
        """
        names, sources = list_files(files)
        errors_by_row: dict[int, UnreadableImage] = {}  # `map` adds the unreadable ones
        (features,) = self.encoder.map(
            sources, errors=errors_by_row, progress="classify"
        )
        columns = self.encoder.columns_of(self.training.readout)
        answers = self.decide(features[:, columns])
        # The features of unreadable images are zeros, so their answers mean nothing.
        answers.loc[list(errors_by_row)] = ["", np.nan, True, "unreadable", "", np.nan]
        answers.insert(0, "file", names)
        answers["error"] = [str(errors_by_row.get(row, "")) for row in answers.index]
        return answers

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the decision aid to a folder, as JSON and safetensors.

        An older decision aid in the folder is replaced completely or not at all; other
        files are kept.

        Raises
        ------
        OSError
            If the folder holds something other than an aid, or cannot be written.
        TypeError
            If the encoder is not a `ClipEncoder`.
        """
        encoder = self.encoder
        if not isinstance(encoder, ClipEncoder):
            raise TypeError(f"An aid of {encoder.name!r}, no CLIP, cannot be saved.")
        # Settings that `load` needs, and that the parts do not contain.
        manifest = {
            "rule": {
                "temperature": self.temperature,
                "min_probability": self.min_probability,
                "min_similarity": self.min_similarity,
                "about": dict(self.about),
            },
            "encoder": {
                "name": self.training.provenance.get("encoder", encoder.name),
                "image_size": encoder.image_size,
                "dtype": encoder.dtype,
            },
        }
        config: Any = encoder.model.config
        for tower in (config.text_config, config.vision_config):
            tower.name_or_path = ""  # otherwise the path would be written, too
        with new_parts(folder, manifest) as parts:
            for part in (encoder.model, encoder.processor, encoder.tokenizer):
                part.save_pretrained(parts / "encoder")
            save_probe(self.probe, parts / "probe")
            (parts / "training").mkdir()
            self.training.save(parts / "training" / "features.safetensors")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Open a folder that `save` wrote, without running any code in it.

        Raises
        ------
        ValueError
            If the folder holds no decision aid, or an incomplete or damaged one.
        """
        # Absolute: the relative path of a missing part could be taken for a hub id.
        path = Path(folder).absolute()
        try:
            manifest = read_manifest(path)
            parts = path / manifest["parts"]
            settings = manifest["encoder"]
            encoder = ClipEncoder(parts / "encoder", dtype=settings["dtype"])
            # The name of the encoder when the aid was made, not the path of its part.
            encoder.name = printable(settings["name"])
            # The size that the stored processor resizes to; the model's may be another.
            encoder.image_size = int(settings["image_size"])
            rule = manifest["rule"]
            about = rule["about"]
            aid = cls(
                encoder,
                load_probe(parts / "probe"),
                FeatureTable.load(parts / "training" / "features.safetensors"),
                **_checked_numbers(rule),
                about={printable(name): _checked(about[name]) for name in about},
            )
            # This trial raises an error if sizes or classes of the parts do not match.
            columns = encoder.columns_of(aid.training.readout)
            trial = aid.decide(np.zeros((1, len(columns)), np.float32))
            if not np.isfinite(trial["probability"]).all():
                raise ValueError("its probe gives no probabilities")
        except Exception as error:  # an altered folder may raise any type of error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"There is no whole decision aid in {path} ({reason})."
            ) from error
        return aid


def _count(is_answered: Bools, is_correct: Bools, groups: Ints) -> dict[str, Any]:
    """Count the answers to n held-out images, and limit the share of wrong answers.

    The limit is the upper bound of the exact 95% interval, in which each group is one
    trial. It is None if nothing is answered.
    """
    answered = int(is_answered.sum())
    wrong = int((is_answered & ~is_correct).sum())
    highest_risk = None
    if answered:
        n_groups = len(set(groups[is_answered]))
        highest_risk = float(clopper_pearson(wrong / answered, n_groups)[1])
    return {
        "held-out images, which set temperature and rule": len(is_answered),
        "of these, answered": answered,
        "of the answers, wrong": wrong,
        "highest share of errors that so few answers allow": highest_risk,
    }


def _checked_numbers(rule: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an untrusted rule; raise ValueError for unusable ones."""
    names = ("temperature", "min_probability", "min_similarity")
    numbers = {name: float(rule[name]) for name in names}
    is_usable = 0 < numbers["temperature"] < math.inf
    if not is_usable or any(map(math.isnan, numbers.values())):
        raise ValueError(
            f"{MANIFEST} has the rule {numbers}: a temperature is above 0 and finite, "
            "and no number NaN"
        )
    return numbers


def _checked(value: Any) -> str | float | None:
    """Return a value of an untrusted `about`; raise TypeError if it is not plain."""
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"it says {value!r} about itself")
