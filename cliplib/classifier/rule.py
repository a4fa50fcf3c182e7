"""What may set a refusal rule, and how the share of errors among the answers sets the threshold."""

from __future__ import annotations

from numpy.typing import ArrayLike

from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError
from cliplib.evaluation.triage import risk_coverage
from cliplib.table import FeatureTable

NEVER = 1.01
"""A threshold that no probability reaches."""


def threshold(labels: ArrayLike, proba: ArrayLike, risk: float) -> tuple[float, float, float]:
    """Choose the lowest probability of an answer at which at most the share `risk` of the answers is wrong.

    Parameters
    ----------
    labels : (n,) int
    proba : (n, k) float
        Calibrated probabilities of the same rows.
    risk : float
        Share of errors to aim at.

    Returns
    -------
    threshold, coverage, risk : float
        The share of the rows that it answers, and of errors among these; `NEVER`, 0 and 0 if none is that reliable.
    """
    ladder, _ = risk_coverage(labels, proba)
    low = ladder[ladder["risk"] <= risk]
    if not len(low):
        return NEVER, 0.0, 0.0
    last = low.iloc[-1]
    return float(last["threshold"]), float(last["coverage"]), float(last["risk"])


def check_parts(
    encoder: ClipEncoder, train: FeatureTable, validation: FeatureTable, *, risk: float, unfamiliar: float
) -> None:
    """Refuse what `Classifier.fit` cannot be made from.

    Raises
    ------
    CliplibError
        Features of another encoder or kind, tables that share pictures or differ in classes, shares out of range.
    """
    for table in (train, validation):
        _check_made_by(table, encoder)
    if not (0 <= risk < 1 and 0 <= unfamiliar < 1):
        raise CliplibError(f"risk and unfamiliar are shares from 0 to below 1, not {risk} and {unfamiliar}.")
    if train.classes != validation.classes:
        raise CliplibError("train and validation must have the same classes in the same order.")
    if shared := sorted(set(train.ids.tolist()) & set(validation.ids.tolist())):
        raise CliplibError(f"train and validation share {len(shared)} pictures, such as {shared[0]!r}: part them.")


def _check_made_by(table: FeatureTable, encoder: ClipEncoder) -> None:
    """Refuse features that `encoder` did not make, and those that are not pooled and unnormalised."""
    about = table.provenance
    made, used = about.get("model_fingerprint", "unknown"), encoder.model_fingerprint()
    if made != used:
        raise CliplibError(
            f"The features were made by the encoder {about.get('encoder', 'unknown')!r} (fingerprint {made[:12]}), not "
            f"by {encoder.name!r} ({used[:12]}): make them with this one."
        )
    if about.get("kind") != "pooled" or about.get("normalized") != "false":
        raise CliplibError("The features must be pooled and unnormalised: take encoder.table or load_features.")
