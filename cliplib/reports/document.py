"""The evidence on a folder as a document: sections of text, tables and pictures.

One document is printed by the command line, and laid out as a page and as a PDF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cliplib.data.wording import counted, number, percent, points
from cliplib.evaluation.intervals import Share, ratio_intervals
from cliplib.reports.decision_aid import HELD_OUT_KEY, WHY_NO_KERNEL
from cliplib.reports.elsewhere import Elsewhere
from cliplib.reports.evidence import KERNEL, POOLED, Evidence
from cliplib.reports.verdict import TRACE_NAMES, Step

MOST_ROWS = 12
"""Rows of a table that are shown."""
MOST_PICTURES = 12
"""Images that are shown side by side."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to be copied, such as a command, that keep their line breaks."""

    text: str


@dataclass(frozen=True, eq=False)
class Table:
    """A table of texts, its columns named."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """A plot of the evidence, drawn by a function of `cliplib.reports.plots`."""

    caption: str
    alt: str
    function: str
    """Its name."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, as `load_image` takes it, with a title above and a name below."""

    image: Any
    title: str = ""
    name: str = ""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images side by side."""

    caption: str
    pictures: Sequence[Picture]


Block = Text | Code | Table | Plot | Pictures


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, eq=False)
class Document:
    """Title, verdict, and the sections of evidence."""

    title: str
    subtitle: str
    answer: str
    reasons: str
    steps: Sequence[Step]
    sections: Sequence[Section]


def document(
    evidence: Evidence, title: str = "", *, in_report: bool = False
) -> Document:
    """Return the evidence as a document; sections that yield nothing are left out.

    Parameters
    ----------
    evidence
        What was found out.
    title
        By default the folder's name, or "A folder of images" if the request is
        anonymous.
    in_report
        Whether page, PDF, answers.csv and copies.csv are written: only then does the
        document name them. The decision aid is saved in any case.
    """
    if not title and evidence.request.anonymous:
        title = "A folder of images"
    elif not title:
        title = Path(evidence.request.folder).resolve().name
    today = date.today()
    verdict = evidence.verdict
    sections = (
        Section("The images", [*_images(evidence, in_report)]),
        Section("Copies", [*_copies(evidence, in_report)]),
        Section("What the files give away", [*_traces(evidence, in_report)]),
        Section("Can it be done?", [*_methods(evidence)]),
        Section("Errors", [*_errors(evidence)]),
        Section("Labels that look wrong", [*_suspects(evidence, in_report)]),
        Section("Would more labels pay?", [*_curve(evidence)]),
        Section("When to trust it", [*_trust(evidence)]),
        Section("Elsewhere", [*_elsewhere(evidence)]),
        Section("Without the object", [*_erased(evidence)]),
        Section("How it was made", [*_provenance(evidence, in_report)]),
    )
    return Document(
        title=" ".join(title.split()),
        subtitle=f"Does a frozen CLIP sort these images? {today.day} {today:%B %Y}",
        answer=verdict.answer,
        reasons=" ".join(verdict.reasons),
        steps=verdict.steps,
        sections=[section for section in sections if section.blocks],
    )


def table_of(caption: str, frame: pd.DataFrame) -> Table:
    """Return a data frame as a table of texts; its index is shown if it has a name."""
    if frame.index.name is not None:
        frame = frame.reset_index()
    rows = [[_text(cell) for cell in row] for row in frame.itertuples(index=False)]
    return Table(caption, [str(column) for column in frame.columns], rows)


def _shares_of(frame: pd.DataFrame) -> pd.Series:
    """Return the columns value, low and high as one column of `Share`s, row by row."""
    shares = [Share.of(row) for _, row in frame.iterrows()]
    return pd.Series(shares, frame.index, dtype=object)


def _text(cell: Any) -> str:
    """Write a cell on one line: `Share`s as "54% (46 to 62)", bools as "yes" or ""."""
    if isinstance(cell, Share):
        return percent(cell)
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else ""
    return " ".join(number(cell).split())


def _images(evidence: Evidence, in_report: bool) -> Iterator[Block]:
    """Yield examples and counts of each class, and files unreadable or tiny."""
    yield _examples(evidence)
    yield table_of(
        "Images by class, how many are left without copies of each other, and in how "
        "many groups they are: near-duplicates, and what was declared to belong "
        "together.",
        evidence.counts,
    )
    if evidence.unreadable:
        yield _unreadable(evidence, in_report)
    if evidence.tiny:
        yield Text(
            "Images with a side of fewer than 16 pixels, on which hardly anything can "
            f"be seen: {len(evidence.tiny):,}."
        )


def _examples(evidence: Evidence) -> Pictures:
    """Return two images of each class, of different groups, or one."""
    # The index is the row in the feature table, and stays so below.
    images = pd.DataFrame({"class": evidence.labels, "group": evidence.table.groups})
    one_a_group = images.drop_duplicates("group")
    two_a_class = one_a_group.groupby("class").head(2)
    rows = two_a_class.sort_values("class", kind="stable").index[:MOST_PICTURES]
    return Pictures(
        "Two images of each class.",
        [_picture(evidence, row, evidence.labels[row]) for row in rows],
    )


def _unreadable(evidence: Evidence, in_report: bool = False) -> Table:
    """Return unreadable files with reasons; if anonymous, how many by reason."""
    listed = pd.Series(evidence.unreadable, name="reason").rename_axis("file")
    if evidence.request.anonymous:
        listed = listed.groupby(listed).size().rename("files")
    return table_of(
        "Files that could not be read and are left out"
        f"{_cut_note(len(listed), 'answers.csv', in_report)}.",
        listed.head(MOST_ROWS).to_frame(),
    )


def _cut_note(n_rows: int, file: str, in_report: bool) -> str:
    """Return what ends the caption of a table of which `MOST_ROWS` rows are shown.

    For 30 rows ", the first 12 of 30; all are in answers.csv", the end in a report
    alone; "" if all are shown.
    """
    if n_rows <= MOST_ROWS:
        return ""
    return f", the first {MOST_ROWS} of {n_rows:,}{_all_in(file, in_report)}"


def _all_in(file: str, in_report: bool) -> str:
    """Return what ends a sentence on a part of something: in a report the whole's file.

    "; all are in answers.csv", or "" where this file is not written.
    """
    return f"; all are in {file}" if in_report else ""


def _picture(evidence: Evidence, row: int, title: str) -> Picture:
    """Return the image of a row of the feature table: title above, its name below."""
    return Picture(evidence.images[row], title, evidence.names[row])


def _copies(evidence: Evidence, in_report: bool) -> Iterator[Block]:
    """Yield counts and pairs of copies, and the user's groups that copies join."""
    yield Text(
        "A copy on both sides of a split makes any classifier look good, and one with "
        "two labels cannot be answered rightly. Copies stay together in all that "
        "follows."
    )
    yield table_of("Copies, of byte copies to turned ones.", evidence.copy_counts)
    if len(evidence.pairs):
        yield pictures_of_copies(evidence, in_report=in_report)
    if len(evidence.merged):
        yield _merged(evidence, in_report)


def pictures_of_copies(evidence: Evidence, *, in_report: bool = False) -> Pictures:
    """Return at most `MOST_PICTURES` images of copies, those of a pair side by side."""
    pairs = evidence.pairs.head(MOST_PICTURES // 2)
    rows = pairs[["row_a", "row_b"]].to_numpy().ravel()  # a, b, a, b, …
    return Pictures(
        f"Pairs of copies, {len(pairs)} of {len(evidence.copies):,}"
        f"{_all_in('copies.csv', in_report)}. Those with two labels come first.",
        [_picture(evidence, row, evidence.labels[row]) for row in rows],
    )


def _merged(evidence: Evidence, in_report: bool) -> Table:
    """Return pairs of the user's groups and the copies that join them, as a table."""
    name_of = dict(zip(evidence.table.ids, evidence.names, strict=True))
    joined = evidence.merged.head(MOST_ROWS)
    columns = {}
    if not evidence.request.anonymous:
        columns["groups"] = joined["group_a"] + " and " + joined["group_b"]
    image_a = joined["image_a"].map(name_of)
    image_b = joined["image_b"].map(name_of)
    columns["images that look the same"] = image_a + " and " + image_b
    return table_of(
        "Pairs of groups that were declared apart but hold copies of each other, and "
        "were therefore joined: often a fault of the data, to be looked at"
        f"{_cut_note(len(evidence.merged), 'copies.csv', in_report)}.",
        pd.DataFrame(columns),
    )


def _traces(evidence: Evidence, in_report: bool) -> Iterator[Block]:
    """Yield the accuracy of each file trace alone; traces by class; kinds of files."""
    traces = evidence.traces
    yield Text(
        "Where files of one class differ from those of another by size, format, colour "
        "mode or compression, a classifier may learn that in place of what is shown. "
        "Brightness is of the picture, and stands apart."
    )
    alone = traces.alone.rename(index=TRACE_NAMES)
    table = pd.DataFrame({"of the": alone["of"], "accuracy": _shares_of(alone)})
    yield table_of(
        "How often each trace by itself is right: a forest that knows nothing else, "
        "tested by group (95% interval).",
        table.rename_axis("trace"),
    )
    grey_levels = [name for name in traces.by_class if "brightness" in name]
    yield table_of(
        "The files of each class: the most frequent kind, and median (quartiles).",
        traces.by_class.drop(columns=grey_levels),
    )
    yield table_of(
        "Grey levels of each class, 0 to 255: median (quartiles).",
        traces.by_class[grey_levels],
    )
    kinds = traces.kinds
    if evidence.request.anonymous:
        kinds = kinds.drop(columns="example")
    yield table_of(
        "Kinds of files and their classes"
        f"{_cut_note(len(kinds), 'answers.csv', in_report)}.",
        kinds.head(MOST_ROWS),
    )


def _methods(evidence: Evidence) -> Iterator[Block]:
    """Yield accuracies as a plot, the metrics of every method, and other encoders."""
    yield Text(
        "Each method is asked for images of groups that it was not trained on, in "
        f"{evidence.n_splits} folds. That is what new images can expect. Where other "
        "images of the same group are trained on, as is often done, the difference is "
        "memory."
    )
    yield Plot(
        "Accuracy of every method, with 95% intervals over groups; the best probe also "
        "by image, where other images of the same group were trained on.",
        "A row for each method, with a dot for its accuracy and its interval.",
        "accuracy_plot",
    )
    yield _metrics(evidence)
    if evidence.other_predictions:
        yield _others(evidence)


def _metrics(evidence: Evidence) -> Table:
    """Return every method's metrics by group, and how much better the best one is."""
    rows = {}
    for name, found in evidence.evaluations.items():
        row: dict[str, Share | str] = {
            metric.replace("_", " "): Share.of(values)
            for metric, values in found.metrics.iterrows()
        }
        row["the best is better by"] = ""
        if name != evidence.best:
            row["the best is better by"] = points(evidence.gains[name])
        rows[name] = row
    return table_of(
        "Every method by group, with 95% intervals. Balanced accuracy and macro F1 let "
        f"each class count alike. The best probe is the {evidence.best}; it reads the "
        f"{evidence.readout} features.",
        pd.DataFrame(rows).T.rename_axis("method"),
    )


def _others(evidence: Evidence) -> Table:
    """Return each encoder's accuracy, and CLIP's less that, by group.

    All are those of a linear probe on the encoder's pooled features.
    """
    own = evidence.accuracy(evidence.predicted[POOLED])
    rows = {evidence.encoder_name: {"accuracy": own, "CLIP is better by": ""}}
    for name, predicted in evidence.other_predictions.items():
        rows[name] = {
            "accuracy": evidence.accuracy(predicted),
            "CLIP is better by": points(evidence.gains_over_others[name]),
        }
    return table_of(
        "Encoders side by side: the linear probe on pooled features of each, by group.",
        pd.DataFrame(rows).T.rename_axis("encoder"),
    )


def _errors(evidence: Evidence) -> Iterator[Block]:
    """Yield the best probe's metrics by class, its confusion matrix, and its errors."""
    rows = {}
    for name, found in evidence.evaluations[evidence.best].per_class.iterrows():
        rows[name] = {
            "images": int(found["support"]),
            "found (sensitivity)": Share.of_metric(found, "sensitivity"),
            "right (precision)": Share.of_metric(found, "precision"),
        }
    yield table_of(
        "How much of each class is found, and how many answers of each class are "
        "right, with 95% intervals.",
        pd.DataFrame(rows).T.rename_axis("class"),
    )
    yield Plot(
        f"Confusion matrix of the {evidence.best}: counts, shaded by their share of "
        "the true class.",
        "Heat map of true classes as rows against predicted classes as columns.",
        "confusion_plot",
    )
    if evidence.errors:
        yield pictures_of_errors(evidence)


def pictures_of_errors(evidence: Evidence) -> Pictures:
    """Return the best probe's surest errors, each with a heat map of its answer."""
    predicted = evidence.predicted[evidence.best]  # a class number for each row
    pictures = []
    for row, heat_map in evidence.errors:
        answer = evidence.table.classes[predicted[row]]
        pictures.append(_picture(evidence, row, f"{evidence.labels[row]}, as {answer}"))
        pictures.append(Picture(heat_map, f"spoke for {answer}"))
    return Pictures(
        "The errors of which the best probe was surest, one of each group: label "
        "and answer; beside each image, in red, what spoke for the answer.",
        pictures,
    )


def _suspects(evidence: Evidence, in_report: bool) -> Iterator[Block]:
    """Yield a text on the labels that confident learning doubts, and the first images.

    A label is in doubt where another class is more probable, and at least as probable
    as it is on average for the images labelled with it.
    """
    suspects = evidence.suspects
    if suspects.empty:
        yield Text("None.")
        return
    marked = "; answers.csv marks each" if in_report else ""
    yield Text(
        "The probe contradicts these labels with confidence, though it was not trained "
        "on them: an image is confidently of a class if its probability is at least "
        "the mean of those that bear this label (confident learning, Northcutt et al. "
        "2021). A person should look at them: some are wrong, some are merely hard. "
        f"Labels in doubt: {len(suspects):,}{marked}."
    )
    classes = evidence.table.classes
    pictures = []
    for suspect in suspects.head(MOST_PICTURES).itertuples():
        given = classes[suspect.given]
        likely = classes[suspect.likely]
        title = f"{given}, likely {likely}"
        pictures.append(_picture(evidence, suspect.row, title))
    yield Pictures(
        "The first of them, each with its label and the likely one.", pictures
    )


def _curve(evidence: Evidence) -> Iterator[Block]:
    """Yield accuracy by how many groups were trained on, or that there are too few."""
    curve = evidence.curve
    if curve.points.empty:
        yield Text("There are too few groups to say.")
        return
    yield Plot(
        caption=f"Accuracy of the {evidence.best} on groups not trained on, by how "
        "many groups it was trained on. The band is the 95% interval over images; part "
        "of the groups is drawn once, and another draw may differ by more.",
        alt="A curve of accuracy over the number of labelled groups, with a band.",
        function="curve_plot",
    )
    table = curve.points[["groups", "images"]].round().astype(int)
    yield table_of(
        "The same in numbers: what was trained on, on average over the folds.",
        table.assign(accuracy=_shares_of(curve.points)),
    )


def _trust(evidence: Evidence) -> Iterator[Block]:
    """Yield a plot of calibration and risk-coverage, and facts on the decision aid."""
    yield Plot(
        f"Left: how often the {evidence.best} is right where it states a probability, "
        "with 95% intervals; on the line both agree. Right: the share of errors among "
        "the answers, if only the surest are given; the line is at 5%.",
        "Dots of accuracy against stated probability, and a curve of errors against "
        "the share answered.",
        "trust_plot",
    )
    about = pd.Series(evidence.aid.about, name="value").map(_text)
    held_out = counted(int(evidence.aid.about[HELD_OUT_KEY] or 0), "image")
    yield table_of(
        "The decision aid, which abstains where it is not sure, and how it was made. "
        f"Its rule was chosen on {held_out} held out from training. Its answers and "
        "errors below were counted on these same images, and are therefore "
        "optimistic: expect more errors on new ones.",
        about.rename_axis("decision aid").to_frame(),
    )


def _elsewhere(evidence: Evidence) -> Iterator[Block]:
    """Yield how the best probe does on another folder; nothing if none was named.

    A sentence on what was judged, and a table of what is found there and here.
    """
    away = evidence.elsewhere
    if away is None:
        return
    judged = (
        f"The {evidence.best}, trained on all images of this folder, judges "
        f"{counted(len(away.table), 'image')} of another one."
    )
    if len(away.left_out):
        # How many images by reason, such as "cannot be read".
        reasons = [f"that {why}: {count:,}" for why, count in away.left_out.items()]
        judged += f" Left out are those {'; '.join(reasons)}."
    yield Text(judged)
    yield _found_elsewhere(evidence, away)


def _found_elsewhere(evidence: Evidence, away: Elsewhere) -> Table:
    """Return each class's sensitivity here and in another folder; last, accuracies."""
    home = evidence.evaluations[evidence.best]
    rows = {}
    for name in away.evaluation.per_class.index:
        there = away.evaluation.per_class.loc[name]
        rows[name] = {
            "images": int(there["support"]),
            "found here": Share.of_metric(home.per_class.loc[name], "sensitivity"),
            "found elsewhere": Share.of_metric(there, "sensitivity"),
        }
    rows["all"] = {
        "images": len(away.table),
        "found here": _accuracy_here(evidence, away),
        "found elsewhere": Share.of(away.evaluation.metrics.loc["accuracy"]),
    }
    return table_of(
        "What is found of each class here, on groups not trained on, and elsewhere, "
        "with 95% intervals. The last row leaves out classes without images elsewhere.",
        pd.DataFrame(rows).T.rename_axis("class"),
    )


def _accuracy_here(evidence: Evidence, away: Elsewhere) -> Share:
    """Return the best probe's accuracy here on those classes that exist elsewhere."""
    support = away.evaluation.per_class["support"].to_numpy()  # of each class
    labels = evidence.table.labels
    rows = np.flatnonzero(support[labels] > 0)
    is_right = evidence.predicted[evidence.best][rows] == labels[rows]
    groups = evidence.groups[rows]
    seed = evidence.request.seed
    shares = ratio_intervals({"right": is_right}, groups=groups, seed=seed)
    return Share.of(shares.loc["right"])


def _erased(evidence: Evidence) -> Iterator[Block]:
    """Yield accuracy with and without the object, and examples, if boxes were given."""
    erased = evidence.erased
    if erased is None:
        return
    # By what is shown of an image: whole, without the object, without its other side.
    accuracy = _shares_of(erased.accuracy)
    table = erased.accuracy[["images"]].assign(accuracy=accuracy)
    yield table_of(
        f"The {evidence.best}, trained on whole images and tested on others: as they "
        "are, and with the ellipse round the box filled from its rim. The other side "
        "is used where the mirrored box does not meet the object.",
        table.rename_axis("images shown"),
    )
    row_of = {id: row for row, id in enumerate(evidence.table.ids.tolist())}
    pictures = []
    for id, before, after in erased.examples:
        row = row_of[id]
        pictures.append(Picture(before, evidence.labels[row], evidence.names[row]))
        pictures.append(Picture(after, "object erased"))
    yield Pictures("Some images, and what is left of them.", pictures)


def _provenance(evidence: Evidence, in_report: bool) -> Iterator[Block]:
    """Yield the method in a paragraph, citation, versions, command, and privacy."""
    yield Text(method_paragraph(evidence))
    yield Text("To cite the program:")
    yield Code(citation())
    yield table_of("What these results depend on.", evidence.made)
    yield Text("This command makes it again:")
    yield Code(evidence.command)
    yield Text(privacy(evidence, in_report=in_report))


def method_paragraph(evidence: Evidence) -> str:
    """Return a paragraph on what was done, for the methods section of a paper."""
    table = evidence.table
    belonging = "near-duplicates (a perceptual hash confirmed by local detail)"
    if evidence.request.groups:
        belonging += " and declared groups"
    candidates = ", ".join(evidence.probes)
    left_out = ""
    if KERNEL not in evidence.probes:
        left_out = f"The {KERNEL} was left out: {WHY_NO_KERNEL}. "
    return (
        f"Images ({len(table):,}, {len(table.classes)} classes) were encoded by the "
        f"frozen vision tower of CLIP ({evidence.encoder_name}) and classified by "
        f"light probes on its features. Images that belong together, {belonging}, were "
        f"kept together: {len(set(evidence.groups)):,} groups. Accuracy was measured "
        f"by stratified {evidence.n_splits}-fold cross-validation over groups, each "
        "image being tested once; 95% intervals are from a bootstrap of 2,000 draws of "
        f"whole groups. Of {candidates}, the {evidence.best} had the highest accuracy "
        f"and was chosen on these very images, which favours it a little. {left_out}"
        "Regularisation was chosen within each training part. Labels in doubt were "
        "found by confident learning. The decision aid was calibrated by a temperature "
        "on a quarter of the groups, which also set its rule to abstain. File traces "
        "were read by a random forest. All of it was computed by cliplib "
        f"{version('cliplib')}."
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


def privacy(evidence: Evidence, *, in_report: bool = False) -> str:
    """Return a paragraph on what the results reveal of the images and their files."""
    files = ""
    numbers = "numbers, and no file says which is which"
    nameless = "the decision aid and of what is printed"
    if in_report:
        files = (
            "Page and PDF show some of the images. answers.csv and copies.csv hold the "
            "name of every file. "
        )
        numbers = "the number that answers.csv gives them"
        nameless = "page, PDF and decision aid"
    held = f"What is private: {files}The decision aid holds features of its training"
    if evidence.request.anonymous:
        return f"{held} images, without their names. Images are called by {numbers}."
    return (
        f"{held} images and their names. Names are often those of "
        f"patients or persons: --anonymous leaves them out of {nameless}."
    )
