"""The method in words: for a paper, to cite, of the aid, and what is private."""

from __future__ import annotations

from importlib.metadata import version

from cliplib.data.wording import counted, whole_percent
from cliplib.reports.decision_aid import WHY_NO_KERNEL
from cliplib.reports.findings import Findings
from cliplib.reports.methods import KERNEL


def method_paragraph(findings: Findings) -> str:
    """Return a paragraph on what was done, for the methods section of a paper."""
    methods = findings.methods
    belonging = "near-duplicates (a perceptual hash confirmed by local detail)"
    if findings.belonging.declared:
        belonging += " and declared groups"
    left_out = ""
    if KERNEL not in methods.probes:
        left_out = f"The {KERNEL} was left out: {WHY_NO_KERNEL}. "
    return (
        f"Images ({len(methods.labels):,}, {len(methods.classes)} classes) were "
        f"encoded by the frozen vision tower of CLIP ({findings.encoder_name}) and "
        "classified by light probes on its features. Images that belong together, "
        f"{belonging}, were kept together: {len(set(methods.groups)):,} groups. "
        "Accuracy was measured by stratified cross-validation over groups in "
        f"{methods.n_splits} folds, each image being tested once; 95% intervals are "
        "from a bootstrap of 2,000 draws of whole groups. Of "
        f"{', '.join(methods.probes)}, the {methods.best} had the highest accuracy and "
        f"was chosen on these very images, which favours it a little. {left_out}"
        "Regularisation was chosen within each training part. Labels in doubt were "
        "found by confident learning. The decision aid was calibrated by a temperature "
        "on a quarter of the groups, which also set its rule to abstain. Probes that "
        "see no object were logistic regressions. All of it was computed by cliplib "
        f"{version('cliplib')}."
    )


def aid_sentence(findings: Findings) -> str:
    """Say how the aid fares on the images held out, and what these do not promise."""
    held_out = findings.aid.held_out
    images = counted(held_out.images, "image")
    text = f"The rule of the decision aid was chosen on {images} held out: it answers "
    if held_out.highest_risk is None:
        return f"{text}none of them."
    wrong = f"{held_out.wrong:,}" if held_out.wrong else "none"
    return (
        f"{text}{held_out.answered:,} of them, {wrong} wrongly. These same images set "
        "the rule. On new ones of the same kind, up to "
        f"{whole_percent(held_out.highest_risk)} of its answers may be wrong; on "
        "others, nothing is promised."
    )


def citation() -> str:
    """Return a BibTeX entry of the program."""
    return (
        "@software{cliplib,\n"
        "  title = {cliplib: frozen CLIP features, light classifiers, and an "
        "evaluation for sceptics},\n"
        "  author = {Naumann, Til and Le Roi, Esther and Ghosh, Maria},\n"
        f"  version = {{{version('cliplib')}}},\n"
        "  year = {2026},\n"
        "}"
    )


def privacy(anonymous: bool) -> str:
    """Return a paragraph on what the results reveal of the images and their files."""
    held = (
        "What is private: page and PDF show some of the images. answers.csv and "
        "copies.csv hold the name of every file. The decision aid holds features of "
        "its training images"
    )
    if anonymous:
        return (
            f"{held}, without their names. Images are called by the number that "
            "answers.csv gives them."
        )
    return (
        f"{held}, and their names. Names are often those of patients "
        "or persons: --anonymous leaves them out of page, PDF, report.json and "
        "decision aid."
    )
