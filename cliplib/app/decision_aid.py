"""A decision aid in one folder: encoder, calibrated probe, and rule for abstaining."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from scipy.special import softmax
from sklearn.base import clone

from cliplib.arrays import Bools, Floats, Ints
from cliplib.encode.clip import ClipEncoder, readout_columns
from cliplib.images.cache import FeatureCache
from cliplib.images.data import list_files
from cliplib.judge.calibration import fit_temperature, risk_coverage
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.mlp import MLPProbe
from cliplib.probes.saving import load_probe, save_probe
from cliplib.tables.features import FeatureTable
from cliplib.tables.splits import group_train_test_split
from cliplib.tools.search import search

logger = logging.getLogger(__name__)

AnyProbe = LinearProbe | KernelProbe | MLPProbe

# The kernel of so many training images takes 0.4 GB, of ten times as many 40 GB.
KERNEL_LIMIT = 10_000

MANIFEST = "decision_aid.json"  # without it a folder is no decision aid
PARTS = ("encoder", "probe", "training", MANIFEST)


def default_probe(n_images: int, *, seed: int = 0) -> KernelProbe | LinearProbe:
    """Return the probe for so many training images: the kernel's needs n² memory."""
    if n_images < KERNEL_LIMIT:
        return KernelProbe(seed=seed)
    return LinearProbe(seed=seed)


@dataclass(frozen=True, eq=False)
class DecisionAid:
    """Encoder, calibrated probe and abstention rule: see `fit`.

    Attributes
    ----------
    encoder : ClipEncoder
    probe : LinearProbe, KernelProbe or MLPProbe
        Its classes are indices into the table's.
    training : FeatureTable
        What the probe was trained on, in its readout.
    temperature : float
        Divides the probe's logits.
    min_probability : float
        Of an answer; infinite where there is never one.
    min_similarity : float
        Of an answer: cosine to the nearest training image.
    about : mapping
        How it was made, by name.
    """

    encoder: ClipEncoder
    probe: AnyProbe = field(repr=False)
    training: FeatureTable
    temperature: float = 1.0
    min_probability: float = 0.0
    min_similarity: float = -1.0
    about: Mapping[str, str | float | None] = field(default_factory=dict, repr=False)

    @classmethod
    def fit(
        cls,
        table: FeatureTable,
        encoder: ClipEncoder,
        *,
        probe: AnyProbe | None = None,
        risk: float = 0.05,
        out_of_distribution: float = 0.01,
        seed: int = 0,
    ) -> Self:
        """Train on three quarters of a table; calibrate and set the rule on the rest.

        The quarter is drawn by group, and the groups reach the probe as well. An answer
        needs a probability at which at most the share `risk` of the held-out answers is
        wrong; of such thresholds the one that answers most is taken. It is a point
        estimate, without the bound of Geifman and El-Yaniv (NIPS 2017); without one
        the aid abstains on everything, and warns. An answer also needs a training image
        as near as all but the share `out_of_distribution` of held-out images have one
        (Sun et al., ICML 2022: the k-th).

        Parameters
        ----------
        table : FeatureTable
            In the readout that the probe shall get.
        encoder : ClipEncoder
            What made the table.
        probe : LinearProbe, KernelProbe or MLPProbe, optional
            By default a KernelProbe, from 10,000 training images on a LinearProbe.
        risk, out_of_distribution : float
            Shares of held-out answers and images.
        seed : int
            Of the split, and of the default probe.

        Raises
        ------
        ValueError
            The table comes from another encoder.
        TypeError
            The probe is none of the three.
        """
        if table.provenance.get("model_fingerprint") != encoder.fingerprint:
            made_by = table.provenance.get("encoder", "unknown")
            raise ValueError(
                f"Features of the encoder {made_by!r} do not fit {encoder.name!r}."
            )
        train_rows, held_out_rows = group_train_test_split(
            table.labels, table.groups, parts=4, seed=seed
        )
        training = table.select(train_rows)
        held_out = table.select(held_out_rows)
        fitted = clone(probe or default_probe(len(training), seed=seed))
        if not isinstance(fitted, AnyProbe):  # another could not be saved
            raise TypeError(
                "Use a LinearProbe, a KernelProbe or an MLPProbe, "
                f"not a {type(fitted).__name__}."
            )
        fitted.fit(training.features, training.labels, groups=training.groups)
        logits = fitted.logits(held_out.features)
        temperature = _temperature(fitted.classes_, logits, held_out.labels)
        aid = cls(encoder, fitted, training, temperature)

        proba = aid._proba_of_logits(logits)
        right = proba.argmax(axis=1) == held_out.labels
        rule = _largest_coverage(right, proba.max(axis=1), risk)
        similarity = aid.nearest(held_out.features).similarity
        about: dict[str, str | float | None] = {
            "data set": table.provenance.get("dataset", ""),
            "probe": f"{type(fitted).__name__}, readout {table.readout!r}",
            "training images": len(training),
            "held-out images, which set temperature and rule": len(held_out),
            "share of these that was answered": rule.coverage,
            "share of errors among the answers": rule.risk,
            "share of errors aimed at": risk,
        }
        return replace(
            aid,
            min_probability=rule.threshold,
            min_similarity=float(
                np.quantile(similarity, out_of_distribution, method="lower")
            ),
            about=about,
        )

    def predict_proba(self, features: ArrayLike) -> Floats:
        """Return calibrated probabilities (n, k) of features (n, d).

        Features are in the readout trained on. A class without training images has 0.
        """
        return self._proba_of_logits(self.probe.logits(features))

    def _proba_of_logits(self, logits: Floats) -> Floats:
        known = softmax(logits / self.temperature, axis=1)
        proba = np.zeros((len(known), len(self.training.classes)))
        proba[:, self.probe.classes_] = known
        return proba

    def nearest(self, features: ArrayLike) -> Neighbours:
        """Return the nearest training image of each row of features (n, d)."""
        rows, cosines = search(features, self.training.features, 1)
        # Rounding takes the cosine of an image to itself beyond 1.
        return Neighbours(rows[:, 0], np.clip(cosines[:, 0].astype(float), -1, 1))

    def decide(self, features: ArrayLike) -> pd.DataFrame:
        """Return what to say of features (n, d) in the readout trained on.

        Returns
        -------
        DataFrame
            class (the most probable), probability (calibrated), abstained, reason
            ("uncertain", "out-of-distribution", both, or ""), nearest (id of the most
            similar training image) and similarity (its cosine, at most 1).
        """
        proba = self.predict_proba(features)
        neighbours = self.nearest(features)
        uncertain = proba.max(axis=1) < self.min_probability
        strange = neighbours.similarity < self.min_similarity
        classes = np.array(self.training.classes)
        return pd.DataFrame(
            {
                "class": classes[proba.argmax(axis=1)],
                "probability": proba.max(axis=1),
                "abstained": uncertain | strange,
                "reason": _reasons(uncertain, strange),
                "nearest": self.training.ids[neighbours.rows],
                "similarity": neighbours.similarity,
            }
        )

    def classify(self, files: Any) -> pd.DataFrame:
        """Return what `decide` says of each file of a folder, or of some images.

        Parameters
        ----------
        files : folder, image, or list of images
            All files of a folder, however deep; images as in `load_image`.

        Returns
        -------
        DataFrame
            file, the columns of `decide`, and error, which is "" for images that can be
            read. The others have the reason "unreadable".

        Raises
        ------
        ValueError
            There is no file.
        """
        names, sources = list_files(files)
        if not names:
            raise ValueError(f"There is no image in {files}.")
        errors: dict[int, str] = {}
        (deep,) = self.encoder.map(sources, errors=errors, progress="classify")
        columns = readout_columns(
            self.training.readout, self.encoder.dim, self.encoder.blocks
        )
        answers = self.decide(deep[:, columns])
        unreadable = list(errors)
        answers.loc[unreadable, ["class", "nearest"]] = ""
        answers.loc[unreadable, ["probability", "similarity"]] = np.nan
        answers.loc[unreadable, "abstained"] = True
        answers.loc[unreadable, "reason"] = "unreadable"
        answers.insert(0, "file", names)
        return answers.assign(error=[errors.get(row, "") for row in answers.index])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write one folder of JSON and safetensors.

        An older decision aid there is replaced whole; other files in its folder stay.
        The new one is written beside it and takes its place at the end: whoever kills
        this, or fills the disk, leaves the old one as it was.

        Raises
        ------
        OSError
            The folder holds something else, or cannot be written.
        """
        _check_content(folder)
        try:
            _replace_folder(Path(folder).resolve(), self._write)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"Cannot save the decision aid to {folder} ({error}): make room, or "
                "choose another folder. What was there is unchanged."
            ) from error

    def _write(self, folder: Path) -> None:
        document = {
            "rule": {
                "temperature": self.temperature,
                "min_probability": self.min_probability,
                "min_similarity": self.min_similarity,
                "about": dict(self.about),
            },
            "encoder": {
                "name": self.encoder.name,
                "image_size": self.encoder.image_size,
                "dtype": self.encoder.dtype,
            },
        }
        encoder = self.encoder
        for part in (encoder.model, encoder.processor, encoder.tokenizer):
            part.save_pretrained(folder / "encoder")
        save_probe(self.probe, folder / "probe")
        (folder / "training").mkdir()
        self.training.save(folder / "training" / "features.safetensors")
        (folder / MANIFEST).write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str | None = None,
        cache: bool | FeatureCache = True,
    ) -> Self:
        """Open a folder that `save` wrote; nothing in it is run.

        `device` and `cache` are as in `ClipEncoder`.

        Raises
        ------
        ValueError
            It holds no decision aid, or not the whole of one.
        OSError
            The feature cache cannot be used.
        """
        store = FeatureCache() if cache is True else cache  # its faults are its own
        path = Path(folder).absolute()  # else a lost part could be taken for a hub id
        stored = path if path.exists() else _siblings(path).previous
        try:
            if not (stored / MANIFEST).is_file():
                raise FileNotFoundError(f"it has no {MANIFEST}")
            document = json.loads((stored / MANIFEST).read_text(encoding="utf-8"))
            settings = document["encoder"]
            encoder = ClipEncoder(
                stored / "encoder", cache=store, device=device, dtype=settings["dtype"]
            )
            encoder.name = settings["name"]
            encoder.image_size = settings["image_size"]  # as the stored processor's
            return cls(
                encoder,
                load_probe(stored / "probe"),
                FeatureTable.load(stored / "training" / "features.safetensors"),
                **document["rule"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(
                f"There is no whole decision aid in {path} ({error})."
            ) from error


class Neighbours(NamedTuple):
    """Nearest training images: row numbers (n,) and cosines (n,)."""

    rows: Ints
    similarity: Floats


class Rule(NamedTuple):
    """A threshold of the probability, and what it did to the held-out images."""

    threshold: float
    coverage: float  # share of images that get an answer
    risk: float | None  # share of errors among the answers; None without any


def _temperature(classes: Ints, logits: Floats, labels: Ints) -> float:
    """Return the temperature, from held-out images of classes that the probe knows."""
    known = np.isin(labels, classes)
    codes = np.searchsorted(classes, labels[known])
    return fit_temperature(logits[known], codes)


def _largest_coverage(right: Bools, confidence: Floats, risk: float) -> Rule:
    """Return the rule that answers most rows, at most `risk` of these wrongly."""
    curve = risk_coverage(right, confidence)
    allowed = curve[curve["risk"] <= risk]
    if allowed.empty:
        logger.warning(
            "The decision aid abstains on everything: give more images, or more risk."
        )
        return Rule(threshold=np.inf, coverage=0.0, risk=None)
    best = allowed.loc[allowed["coverage"].idxmax()]
    return Rule(float(best["threshold"]), float(best["coverage"]), float(best["risk"]))


def _reasons(uncertain: Bools, strange: Bools) -> list[str]:
    """Return why there is no answer, "" where there is one."""
    cases = {
        "uncertain, out-of-distribution": uncertain & strange,
        "uncertain": uncertain,
        "out-of-distribution": strange,
    }
    reasons: list[str] = np.select(list(cases.values()), list(cases), "").tolist()
    return reasons


# --- A folder that is replaced whole


class Siblings(NamedTuple):
    """Folders beside a decision aid that exist only while it is saved."""

    unfinished: Path
    previous: Path


def _siblings(folder: Path) -> Siblings:
    return Siblings(
        unfinished=folder.with_name(f".{folder.name}.unfinished"),
        previous=folder.with_name(f".{folder.name}.previous"),
    )


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise OSError where no decision aid can be saved to a folder, before the work.

    It may be missing or empty, or hold an older decision aid, and what lies beside it
    must be writable.
    """
    _check_content(folder)
    check_writable(Path(folder).resolve().parent)


def _check_content(folder: str | os.PathLike[str]) -> None:
    """Raise OSError for a file, and for a folder of other things."""
    path = Path(folder).resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder.")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise FileExistsError(
            f"The folder {folder} holds something else: choose another."
        )


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raise OSError where a folder, or the nearest above that exists, is read-only."""
    path = Path(folder).resolve()
    while not path.exists():
        path = path.parent
    try:
        with TemporaryDirectory(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"Nothing can be written to {path} ({reason}): choose another folder."
        ) from error


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, and put that in the place of an older one.

    At any moment the old or the new one is whole, at `folder` or, between two renames,
    at its sibling "previous", where `DecisionAid.load` looks as well.
    """
    unfinished, previous = _siblings(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder)
    try:
        unfinished.mkdir()
        write(unfinished)
        _copy_foreign_files(folder, unfinished)
        _flush(unfinished)
        _swap(unfinished, folder, previous)
    finally:
        _remove(unfinished)
    _remove(previous)


def _clear_leftovers(folder: Path) -> None:
    """Tidy up after a save that was killed."""
    unfinished, previous = _siblings(folder)
    if (previous / MANIFEST).is_file() and not folder.exists():
        previous.rename(folder)  # killed between the two renames
    _remove(previous)
    _remove(unfinished)


def _copy_foreign_files(folder: Path, new: Path) -> None:
    """Take over what a user has put into the folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in PARTS:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _flush(folder: Path) -> None:
    """Wait until a folder is on the disk: renames may get there before contents do."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink() or (path.is_dir() and os.name == "nt"):
            continue
        flags = os.O_RDWR if os.name == "nt" else os.O_RDONLY
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap(new: Path, folder: Path, previous: Path) -> None:
    """Put the new folder in the old one's place, or leave that where it was."""
    try:
        if folder.exists():
            folder.rename(previous)
        new.rename(folder)
    except BaseException:
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        raise


def _remove(folder: Path) -> None:
    """Delete a folder, the manifest first: no half of it is taken for a decision aid.

    What cannot be deleted, such as files that are open on Windows, waits for the next
    save.
    """
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.info("%s is left over: %s", folder, error)
