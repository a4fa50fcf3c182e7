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

# Share of errors among the answers that a decision aid aims at.
RISK = 0.05
# Share of the held-out images that may count as out-of-distribution.
OUT_OF_DISTRIBUTION = 0.01


def choose_threshold(is_correct: Bools, confidence: Floats, risk: float) -> float:
    """Choose the threshold on confidence that answers most images at an allowed risk.

    An image is answered if its `confidence` (n,) reaches the threshold; `is_correct`
    (n,) says whether its answer is right. `risk` is the largest share of wrong answers,
    0 to 1. Where no threshold keeps to it, it is infinite, and a warning says so.
    """
    # A row for each different confidence: threshold, coverage and risk.
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
        Fitted; its classes are indices into ``training.classes``.
    training : FeatureTable
        What the probe was trained on, in the readout that it reads.
    temperature : float
        The probe's logits are divided by it.
    min_probability : float
        It abstains on an image whose calibrated probability is lower; where this is
        infinite, on all of them.
    min_similarity : float
        It abstains on an image whose cosine to the nearest training image is lower.
    about : mapping
        How it was made, and how it fares on the images that set its rule, in words and
        numbers, by name.
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
        """Train on three quarters of a table; calibrate and set the rule on the rest.

        The quarter consists of whole groups. The probe gets the groups, too, for what
        it holds out itself.

        The aid answers where the calibrated probability reaches a threshold: of those
        at which at most the share `risk` of the held-out answers is wrong, the one that
        answers most. It is a point estimate, without the bound of Geifman and El-Yaniv
        (NIPS 2017). Where there is none, the aid abstains on everything, and warns.

        The cosine to the nearest training image must reach a second threshold, below
        which at most one in a hundred of the held-out images lies (Sun et al., ICML
        2022, who take the k-th nearest). `about` counts answers to the
        held-out images that reach both thresholds, as `decide` gives them.

        Parameters
        ----------
        table : FeatureTable
            In the readout that the probe shall get.
        encoder : Encoder
            What made the table.
        probe : LinearProbe, KernelProbe or MLPProbe
            A copy of it is fitted.
        risk : float
            Share of errors among the held-out answers, 0 to 1, that is allowed.
        seed : int
            Of the split.

        Raises
        ------
        ValueError
            The table comes from another encoder, its readout is none of the encoder's,
            or `risk` is not within 0 and 1.
        TypeError
            There is no encoder.
        """
        if not 0 <= risk <= 1:
            raise ValueError(f"risk={risk} must be a share from 0 to 1.")
        check_made_by(table.provenance, encoder)
        encoder.columns_of(table.readout)  # refuses what it cannot make
        train_rows, held_out_rows = group_train_test_split(
            table.label_names, table.groups, parts=4, seed=seed
        )
        training = table.select(train_rows)
        held_out = table.select(held_out_rows)
        fitted = clone(probe)
        fitted.fit(training.features, training.labels, groups=training.groups)
        # The split leaves every class on both sides; `classes_` are sorted.
        columns = np.searchsorted(fitted.classes_, held_out.labels)
        logits = fitted.logits(held_out.features)
        temperature = fit_temperature(logits, columns)
        aid = cls(encoder, fitted, training, temperature)  # it never abstains yet

        proba = aid.predict_proba(held_out.features)
        confidence = proba.max(axis=1)
        is_correct = proba.argmax(axis=1) == held_out.labels
        threshold = choose_threshold(is_correct, confidence, risk)
        _, similarity = aid.nearest(held_out.features)
        # "lower": below a value between two of these, a larger share could lie.
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
        """Return calibrated probabilities (n, k) of features (n, d).

        Features are in the readout trained on; columns are in the order of
        ``training.classes``. A class without training images has 0.
        """
        logits = self.probe.logits(features)  # a column for each class trained on
        proba = np.zeros((len(logits), len(self.training.classes)))
        proba[:, self.probe.classes_] = softmax(logits / self.temperature, axis=1)
        return proba

    def nearest(self, features: ArrayLike) -> tuple[Ints, Floats]:
        """Find the training image nearest to each of features (n, d), by cosine.

        Of equally near ones it is the first. Returned are row numbers and cosines.
        """
        rows, distances = pairwise_distances_argmin_min(
            features, self.training.features, metric="cosine"
        )
        return rows, np.asarray(1 - distances, float)

    def decide(self, features: ArrayLike) -> pd.DataFrame:
        """Classify features (n, d), in the readout trained on, or abstain.

        Returns
        -------
        DataFrame
            A row for each image: class (the most probable one, abstained or not),
            probability (calibrated), abstained, reason ("uncertain",
            "out-of-distribution", both with a comma between, or ""), nearest (id of the
            most similar training image) and similarity (its cosine, -1 to 1).
        """
        proba = self.predict_proba(features)
        classes = np.array(self.training.classes, np.str_)
        nearest, similarity = self.nearest(features)
        # Turned round, so that it abstains where a number is NaN.
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
            All files of a folder, however deep; or images as `load_image` takes them.

        Returns
        -------
        DataFrame
            A row for each image: file, the columns of `decide`, and error, which is ""
            if it can be read. On others the aid abstains, with the reason "unreadable",
            "" for class and nearest, and NaN for probability and similarity.

        Raises
        ------
        ValueError
            There is no file.
        """
        names, sources = list_files(files)
        errors_by_row: dict[int, UnreadableImage] = {}  # filled where there are any
        (features,) = self.encoder.map(
            sources, errors=errors_by_row, progress="classify"
        )
        columns = self.encoder.columns_of(self.training.readout)
        answers = self.decide(features[:, columns])
        # The features of unreadable images are zeros, and so mean nothing.
        answers.loc[list(errors_by_row)] = ["", np.nan, True, "unreadable", "", np.nan]
        answers.insert(0, "file", names)
        answers["error"] = [str(errors_by_row.get(row, "")) for row in answers.index]
        return answers

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the decision aid as one folder of JSON and safetensors.

        An older decision aid there is replaced in one step, or not at all; other files
        in the folder stay.

        Raises
        ------
        OSError
            The folder holds something else, or cannot be written.
        """
        encoder = self.encoder
        if not isinstance(encoder, ClipEncoder):
            raise TypeError(f"An aid of {encoder.name!r}, no CLIP, cannot be saved.")
        # What `load` needs beside the parts; its checkpoint lacks these settings.
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
            tower.name_or_path = ""  # which would be written, too
        with new_parts(folder, manifest) as parts:
            for part in (encoder.model, encoder.processor, encoder.tokenizer):
                part.save_pretrained(parts / "encoder")
            save_probe(self.probe, parts / "probe")
            (parts / "training").mkdir()
            self.training.save(parts / "training" / "features.safetensors")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Open a folder that `save` wrote; no code in it is run.

        Raises
        ------
        ValueError
            The folder holds no decision aid, or an incomplete or damaged one.
        """
        # Absolute, or the path of a missing part could be taken for a hub id.
        path = Path(folder).absolute()
        try:
            manifest = read_manifest(path)
            parts = path / manifest["parts"]
            settings = manifest["encoder"]
            encoder = ClipEncoder(parts / "encoder", dtype=settings["dtype"])
            # The name it had when the aid was made, instead of this folder's path.
            encoder.name = printable(settings["name"])
            # The stored processor resizes to this; the checkpoint may name another.
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
            # A trial: it raises where sizes or classes of the parts do not fit.
            columns = encoder.columns_of(aid.training.readout)
            trial = aid.decide(np.zeros((1, len(columns)), np.float32))
            if not np.isfinite(trial["probability"]).all():
                raise ValueError("its probe gives no probabilities")
        except Exception as error:  # what somebody changed raises nearly anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"There is no whole decision aid in {path} ({reason})."
            ) from error
        return aid


def _count(is_answered: Bools, is_correct: Bools, groups: Ints) -> dict[str, Any]:
    """Count answers to n held-out images, and bound the share of wrong ones.

    The bound is the upper end of the exact interval, each group being a trial; None
    where nothing is answered.
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
    """Return the numbers of an untrusted rule; ValueError for those of no use."""
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
    """Return what an untrusted aid says about itself; TypeError for no plain value."""
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"it says {value!r} about itself")
