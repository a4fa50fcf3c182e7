"""The findings on a folder as a document: sections of text, tables and pictures.

The templates of page and PDF, report.html and report.typ, lay out the same document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from cliplib.data.wording import (
    counted,
    percent,
    points,
    whole_percent,
)
from cliplib.evaluation.intervals import Share
from cliplib.features.audit import LEVELS
from cliplib.inspection.traces import FIELDS
from cliplib.reports import plots
from cliplib.reports.blocks import (
    Block,
    Picture,
    Pictures,
    Table,
    Text,
    plot_of,
    shares_of,
    table_of,
)
from cliplib.reports.decision_aid import WHY_NO_KERNEL
from cliplib.reports.findings import Findings
from cliplib.reports.methods import KERNEL, POOLED, sensitivities
from cliplib.reports.record import made
from cliplib.reports.sheet import TEMPLATES
from cliplib.reports.verdict import Verdict, verdict

MOST_PICTURES = 12
"""Images that are shown side by side."""
COPIES = {
    "byte_copies": "files that repeat another byte for byte",
    "exact_copies": "pairs with the same pixels",
    "near_pairs": "pairs that look nearly the same",
    "mirrored_pairs": "pairs of which one is mirrored",
    "turned_pairs": "pairs of which one is turned",
    "label_conflicts": "pairs with two labels",
    "val_leaks": "validation images with a copy in training",
    f"test_leaks_{LEVELS[-1]}": "test images with a copy in training",
}
"""Rows of an audit's summary, and what they are called."""


def document(findings: Findings, title: str = "") -> dict[str, Any]:
    """Return the findings as a document; sections that yield nothing are left out.

    `title` is by default the folder's name, or "A folder of images" if anonymous.
    """
    if not title and findings.request.anonymous:
        title = "A folder of images"
    elif not title:
        title = Path(findings.request.place).resolve().name
    today = date.today()
    judged = verdict(findings)
    makers: dict[str, Callable[[Findings], Iterator[Block]]] = {
        "The images": _images,
        "Near-duplicates": _copies,
        "The folder's own split": _own_split,
        "Without a look at any object": _shortcuts,
        "What each method gets right": _methods,
        "Errors": _errors,
        "Labels in doubt": _suspects,
        "Would more labels pay?": _curve,
        "When to trust it": _trust,
        "Elsewhere": _elsewhere,
        "Without the object": _erased,
        "How it was made": _provenance,
    }
    blocks_of = {"What the warnings rest on": [*_warnings(findings, judged)]}
    blocks_of |= {name: [*make(findings)] for name, make in makers.items()}
    return {
        "title": " ".join(title.split()),
        "subtitle": f"Does a frozen CLIP sort these images? {today.day} {today:%B %Y}",
        "word": judged.word,
        "sentence": judged.sentence,
        "cautions": [
            {"severity": caution.severity, "message": caution.message}
            for caution in judged.cautions
        ],
        "table": _compared(judged),
        "steps": [step._asdict() for step in judged.steps],
        "sections": [
            {"title": name, "blocks": blocks}
            for name, blocks in blocks_of.items()
            if blocks
        ],
    }


def _picture(findings: Findings, row: int, title: str = "") -> Picture:
    """Return the image of a row, its name below; the title is by default its class."""
    images = findings.images
    return Picture(images.files[row], title or images.labels[row], images.names[row])


def _told(name: str, *about: Any, kind: str = "text") -> Text:
    """Return a part of method.txt, filled in; a paragraph loses its line breaks."""
    fill_in = getattr(TEMPLATES.get_template("method.txt").module, name)
    words = fill_in(*about).strip()
    return Text(words if kind == "code" else " ".join(words.split()), kind)


def _compared(judged: Verdict) -> Table:
    columns = ["", "right", "with all classes counting alike"]
    frame = pd.DataFrame([*judged.rows], columns=columns)
    return table_of("Of all images, with 95% intervals.", frame)


def _warnings(findings: Findings, judged: Verdict) -> Iterator[Block]:
    """Yield pictures of what each caution but that on labels rests on."""
    for caution in judged.cautions:
        if caution.rows and caution.id not in ("labels-in-doubt", "label-conflicts"):
            rows = caution.rows[:MOST_PICTURES]
            pictures = [_picture(findings, row) for row in rows]
            yield Pictures(caution.message, pictures)


def _images(findings: Findings) -> Iterator[Block]:
    """Yield examples and counts of each class, and files that cannot be read."""
    images = findings.images
    # The index is the row in the feature table, and stays so below.
    frame = pd.DataFrame({"class": images.labels, "group": images.table.groups})
    two_a_class = frame.drop_duplicates("group").groupby("class").head(2)
    rows = two_a_class.sort_values("class", kind="stable").index[:MOST_PICTURES]
    yield Pictures("Two images of each class.", [_picture(findings, r) for r in rows])
    yield table_of(
        "Images by class, how many are left without copies of each other, and in how "
        "many groups they are: near-duplicates, and what was declared to belong "
        "together.",
        images.counts,
    )
    if images.unreadable:
        listed = pd.Series(images.unreadable, name="reason").rename_axis("file")
        if findings.request.anonymous:
            listed = listed.groupby(listed).size().rename("files")
        yield table_of("Files that could not be read.", listed.to_frame())


def _copies(findings: Findings) -> Iterator[Block]:
    """Yield counts and pairs of copies, and the user's groups that copies join."""
    audit = findings.copies.audit
    yield Text(
        "A copy on both sides of a split makes any classifier look good, and one with "
        "two labels cannot be answered rightly. Copies stay together in all that "
        "follows."
    )
    counts = audit.summary.loc[[*COPIES]].rename(COPIES).rename_axis("copies")
    yield table_of("Copies, of byte copies to turned ones.", counts)
    if len(findings.copies.rows):
        yield pictures_of_copies(findings)
    merged = findings.belonging.merged
    if len(merged):
        images = findings.images
        name_of = dict(zip(images.table.ids, images.names, strict=True))
        columns = {"groups": merged["group_a"] + " and " + merged["group_b"]}
        a, b = (merged[column].map(name_of) for column in ("image_a", "image_b"))
        columns["images that look the same"] = a + " and " + b
        yield table_of(
            "Pairs of groups that were declared apart but hold copies of each other, "
            "and were therefore joined: often a fault of the data, to be looked at.",
            pd.DataFrame(columns),
        )


def pictures_of_copies(findings: Findings) -> Pictures:
    """Return at most `MOST_PICTURES` images of copies, those of a pair side by side."""
    pairs = findings.copies.rows.head(MOST_PICTURES // 2)
    rows = pairs[["row_a", "row_b"]].to_numpy().ravel()  # a, b, a, b, …
    return Pictures(
        f"Pairs of copies, {len(pairs)} of {len(findings.copies.audit.pairs):,}. Those "
        "with two labels come first.",
        [_picture(findings, row) for row in rows],
    )


def _own_split(findings: Findings) -> Iterator[Block]:
    """Yield accuracy on the folder's own split and by stricter protocols."""
    split = findings.own_split
    if split is None:
        return
    rungs = split.ladder[["images"]].assign(right=shares_of(split.ladder))
    yield table_of(
        "What the folder's own split says of the best probe, and what folds say that "
        "keep nothing, copies or groups together.",
        rungs,
    )
    if len(split.shared) and not findings.request.anonymous:
        yield table_of(
            "Test images that have a copy or their group in training.", split.shared
        )


def _shortcuts(findings: Findings) -> Iterator[Block]:
    """Yield how far probes get that see no object, and the files of each class."""
    yield Text(
        "Where the classes differ by an edge, a corner, sharpness or by how their "
        "files were saved, a classifier may learn that in place of what is shown. "
        "Colours and a thumbnail are often content: they inform, and do not warn."
    )
    rows = {
        shortcut.name: {
            "where": shortcut.place,
            "right": shortcut.accuracy,
            "part of CLIP's gain over chance": shortcut.share_of_gain,
        }
        for shortcut in findings.shortcuts
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("probe of")
    yield table_of("Probes that see no object, by group (95% interval).", table)
    facts = findings.images.facts
    by_class = facts[[*FIELDS]].astype(str).groupby(findings.images.labels)
    frequent = by_class.agg(lambda values: values.value_counts().index[0])
    varied = [name for name in FIELDS if facts[name].astype(str).nunique() > 1]
    if varied:
        yield table_of(
            "The most frequent value of each field of the files, by class.",
            frequent[varied].rename_axis("class"),
        )


def _methods(findings: Findings) -> Iterator[Block]:
    """Yield accuracies as a plot, the metrics of every method, and other encoders."""
    methods = findings.methods
    yield Text(
        "Each method is asked for images of groups that it was not trained on. That is "
        "what new images can expect. Where other images of the same group are trained "
        "on, as is often done, the difference is memory."
    )
    yield plot_of(
        "Accuracy of every method, with 95% intervals over groups; the best probe also "
        "by image, where other images of the same group were trained on.",
        "A row for each method, with a dot for its accuracy and its interval.",
        plots.accuracy_plot,
        findings,
    )
    shown = ["accuracy", "balanced_accuracy", "macro_f1", "auroc"]
    rows = {}
    for name, found in methods.evaluations.items():
        row: dict[str, Share | str] = {
            metric.replace("_", " "): Share.of(found.metrics.loc[metric])
            for metric in shown
        }
        gain = methods.gains.get(name)
        row["the best is better by"] = points(gain) if gain else ""
        rows[name] = row
    yield table_of(
        "Every method by group, with 95% intervals. All but accuracy let each class "
        f"count alike. The best probe is the {methods.best}.",
        pd.DataFrame(rows).T.rename_axis("method"),
    )
    if findings.other_encoders:
        yield _others(findings)


def _others(findings: Findings) -> Table:
    """Return each encoder's accuracy, and CLIP's less that, by group."""
    own = findings.methods.share("accuracy", POOLED)
    rows = {findings.encoder_name: {"accuracy": own, "CLIP is better by": ""}}
    for other in findings.other_encoders:
        better = points(other.gain)
        rows[other.name] = {"accuracy": other.accuracy, "CLIP is better by": better}
    return table_of(
        "Encoders side by side: the linear probe on pooled features of each, by group.",
        pd.DataFrame(rows).T.rename_axis("encoder"),
    )


def _errors(findings: Findings) -> Iterator[Block]:
    """Yield the best probe's metrics by class, its confusion matrix, and its errors."""
    methods = findings.methods
    rows = {}
    for name, found in methods.evaluations[methods.best].per_class.iterrows():
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
    yield plot_of(
        f"Confusion matrix of the {methods.best}: counts, shaded by their share of the "
        "true class.",
        "Heat map of true classes as rows against predicted classes as columns.",
        plots.confusion_plot,
        findings,
    )
    if findings.errors:
        yield pictures_of_errors(findings)


def pictures_of_errors(findings: Findings) -> Pictures:
    """Return the best probe's surest errors, each with a heat map of its answer."""
    methods = findings.methods
    pictures = []
    for row, heat_map in findings.errors:
        answer = methods.classes[methods.predicted[row]]
        title = f"{findings.images.labels[row]}, as {answer}"
        pictures += [
            _picture(findings, row, title),
            Picture(heat_map, f"spoke for {answer}"),
        ]
    return Pictures(
        "The errors of which the best probe was surest, one of each group: label "
        "and answer; beside each image, in red, what spoke for the answer.",
        pictures,
    )


def _suspects(findings: Findings) -> Iterator[Block]:
    """Yield what confident learning doubts, and the first images."""
    suspects = findings.suspects
    if suspects.empty:
        return
    yield Text(
        "The probe contradicts these labels with confidence, though it was not trained "
        "on them (confident learning, Northcutt et al. 2021). A person should look at "
        f"them. Labels in doubt: {len(suspects):,}."
    )
    classes = findings.methods.classes
    pictures = [
        _picture(findings, row, f"{classes[given]}, likely {classes[likely]}")
        for row, given, likely in suspects[["row", "given", "likely"]]
        .head(MOST_PICTURES)
        .itertuples(index=False)
    ]
    yield Pictures(
        "The first of them, each with its label and the likely one.", pictures
    )


def _curve(findings: Findings) -> Iterator[Block]:
    """Yield accuracy by how many groups were trained on, or that there are too few."""
    curve = findings.curve
    if curve.points.empty:
        yield Text("There are too few groups to say.")
        return
    if curve.gain_by_doubling is not None:
        yield Text(f"The last doubling brought {points(curve.gain_by_doubling)}.")
    yield plot_of(
        f"Accuracy of the {findings.methods.best} on groups not trained on, by how "
        "many groups it was trained on. The band is the 95% interval over images; part "
        "of the groups is drawn once, and another draw may differ by more.",
        "A curve of accuracy over the number of labelled groups, with a band.",
        plots.curve_plot,
        findings,
    )


def _trust(findings: Findings) -> Iterator[Block]:
    """Yield a plot of calibration and risk-coverage, and facts on the decision aid."""
    yield plot_of(
        f"Left: how often the {findings.methods.best} is right where it states a "
        "probability, with 95% intervals; on the line both agree. Right: the share of "
        "errors among the answers, if only the surest are given; the line is at 5%.",
        "Dots of accuracy against stated probability, and a curve of errors against "
        "the share answered.",
        plots.trust_plot,
        findings,
    )
    yield _told("aid", findings.aid.held_out)
    about = pd.Series(findings.aid.about, name="value", dtype=object)
    yield table_of(
        "The decision aid, which abstains where it is not sure, and how it was made.",
        about.rename_axis("decision aid").to_frame(),
    )


def _elsewhere(findings: Findings) -> Iterator[Block]:
    """Yield how the best probe does on another folder; nothing if none was named."""
    away = findings.elsewhere
    if away is None:
        return
    judged = (
        f"The {findings.methods.best}, trained on all images of this folder, judges "
        f"{counted(away.evaluation.n, 'image')} of another one. The decision aid "
        f"answers {whole_percent(away.answered.value)} of them; of its answers "
        f"{percent(away.wrong)} are wrong."
    )
    if len(away.left_out):
        # How many images by reason, such as "cannot be read".
        reasons = [f"that {why}: {count:,}" for why, count in away.left_out.items()]
        judged += f" Left out are those {'; '.join(reasons)}."
    yield Text(judged)
    here = findings.methods.sensitivity
    rows = {
        name: {
            "images": int(away.evaluation.per_class.at[name, "support"]),
            "found here": here[name],
            "found elsewhere": there,
        }
        for name, there in sensitivities(away.evaluation).items()
    }
    yield table_of(
        "What is found of each class here, on groups not trained on, and elsewhere, "
        "with 95% intervals.",
        pd.DataFrame(rows).T.rename_axis("class"),
    )


def _erased(findings: Findings) -> Iterator[Block]:
    """Yield accuracy with and without the object, and examples, if boxes were given."""
    erased = findings.erased
    if erased is None:
        return
    # By what is shown of an image: whole, without the object, without its other side.
    accuracy = shares_of(erased.accuracy)
    table = erased.accuracy[["images"]].assign(accuracy=accuracy)
    yield table_of(
        f"The {findings.methods.best}, trained on whole images and tested on others: "
        "as they are, and with the ellipse round the box filled from its rim. The "
        "other side is used where the mirrored box does not meet the object.",
        table.rename_axis("images shown"),
    )
    pictures = []
    for row, after in erased.examples:
        pictures += [_picture(findings, row), Picture(after, "object erased")]
    yield Pictures("Some images, and what is left of them.", pictures)


def _provenance(findings: Findings) -> Iterator[Block]:
    """Yield the method in a paragraph, citation, versions, command, and privacy."""
    no_kernel = "" if KERNEL in findings.methods.probes else WHY_NO_KERNEL
    yield _told("method", findings, no_kernel, version("cliplib"))
    yield Text("To cite the program:")
    yield _told("citation", version("cliplib"), kind="code")
    facts = pd.DataFrame(made(findings).items(), columns=["what", "value"])
    yield table_of("What these results depend on.", facts, most=len(facts))
    yield Text("This command makes it again:")
    yield Text(findings.command, kind="code")
    yield _told("privacy", findings.request.anonymous)
