"""Measure what a frozen CLIP and light probes make of one folder of images.

`measure` returns all evidence as tables, numbers and images: the command line prints
it, `cliplib.press` makes a page and a PDF of it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from cliplib.app import questions
from cliplib.app.decision_aid import (
    IMAGES_KEY,
    KERNEL_LIMIT,
    DecisionAid,
    warn_of_left_out_kernel,
)
from cliplib.app.elsewhere import Elsewhere, check_shared_classes, judge_elsewhere
from cliplib.app.erasing import WITHOUT, Erased, erase_and_see, read_boxes
from cliplib.app.verdict import (
    BRIGHTNESS,
    LARGEST,
    TRACES,
    ZERO_SHOT,
    ElsewhereNumbers,
    ErasedNumbers,
    Measured,
    Verdict,
    verdict,
)
from cliplib.encode.clip import ClipEncoder
from cliplib.encode.vision import VisionEncoder
from cliplib.images.arrays import Features, Floats, Ints
from cliplib.images.cache import map_images
from cliplib.images.data import check_classes, dataset_spec, load_dataset
from cliplib.judge.calibration import quantile_reliability, risk_coverage
from cliplib.judge.evaluation import Evaluation, evaluate
from cliplib.judge.intervals import Share, compare, ratio_intervals
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.saving import AnyProbe
from cliplib.tables.audit import LEVELS, Audit, audit_dataset
from cliplib.tables.extract import load_features
from cliplib.tables.features import FeatureTable
from cliplib.tables.groups import (
    declared_groups,
    joined_files,
    merged_groups,
    suggested_pattern,
)
from cliplib.tables.splits import out_of_fold_proba
from cliplib.tools.erase import Box
from cliplib.tools.maps import heat_maps
from cliplib.tools.traces import (
    FILE_TRACES,
    PICTURE_TRACES,
    TRACE_COLUMNS,
    file_traces,
    kinds_of_files,
    traces_by_class,
)
from cliplib.tools.words import zero_shot

POOLED = "pooled linear probe"
LINEAR = "linear probe"
KERNEL = "kernel probe"
NEIGHBOUR = "nearest neighbour"
TINY = 16
"""Pixels of the shorter side below which an image is called tiny."""
MOST_ERRORS = 6
RISK = 0.05
"""Share of errors among the answers that remain where the least sure are withheld."""
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
"""Accuracies that one may want to know the way to."""
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "pillow")
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
PER_IMAGE_STEPS = ("file_traces", "features_of_others", "away")
"""What `measure` computes of `Evidence` image by image, each with a bar."""
STEPS = (
    "audit",
    "traces",
    "predicted",
    "predicted_by_image",
    "other_predictions",
    "curve",
    "errors",
    "aid",
    "elsewhere",
    "erased",
    "verdict",
)
"""What it computes then, with one bar."""


class Method(NamedTuple):
    """A classifier, and the table that it reads."""

    estimator: Any
    table: FeatureTable


class Error(NamedTuple):
    """A row that was classified wrongly, and what spoke for the answer."""

    row: int
    heat_map: Image.Image


@dataclass(frozen=True, eq=False)
class Traces:
    """What files give away.

    Attributes
    ----------
    by_class
        Of each class format, size and the like, in words.
    kinds
        Files of one format, mode and size: how many, of which classes, an example.
    alone
        By trace: value, low and high of the accuracy of a forest that knows nothing
        else; and `of`, "file" or "picture".
    """

    by_class: pd.DataFrame
    kinds: pd.DataFrame
    alone: pd.DataFrame

    @property
    def strongest(self) -> str:
        """The trace of the file that by itself gives the class away most often."""
        of_file = self.alone[self.alone["of"] == "file"]
        return str(of_file["value"].idxmax())


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy by how much was labelled.

    Attributes
    ----------
    points
        share, images and groups trained on; value, low and high of the accuracy.
    doubling
        What the last doubling brought; None if it was not measured.
    target
        An accuracy beyond today's.
    times
        How many times today's groups reach it; None where that cannot be said.
    """

    points: pd.DataFrame
    doubling: Share | None
    target: float
    times: Share | None


@dataclass(frozen=True)
class Request:
    """What is asked for: the arguments of `measure`."""

    folder: str
    model: str = ""
    groups: str = ""
    others: Sequence[str] = ()
    elsewhere: str = ""
    boxes: str = ""
    limit: int = 0
    seed: int = 0
    anonymous: bool = False
    command: str = ""


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that is found out about a folder of images; each part is computed once.

    Attributes
    ----------
    request
        What was asked for.
    dataset
        All files of the folder that are images by their names.
    encoder
        The frozen CLIP.
    table
        Features, labels and groups of the images that can be read.
    evaluation_table
        The same, with the groups that are kept apart when methods are tested.
    n_splits
        The folds in which each image is tested once.
    unreadable
        Why files are left out, by id.
    boxes
        Where objects lie, by id.
    """

    request: Request
    dataset: datasets.Dataset
    encoder: ClipEncoder
    table: FeatureTable
    evaluation_table: FeatureTable
    n_splits: int
    unreadable: Mapping[str, str]
    boxes: Mapping[str, Box]

    # --- The images

    @property
    def command(self) -> str:
        """What measures all this again."""
        return self.request.command or f"cliplib report {self.request.folder} --out OUT"

    @property
    def encoder_name(self) -> str:
        """A hub id, or the name of a folder."""
        name = self.encoder.name
        return Path(name).name if os.path.isdir(name) else name

    @cached_property
    def readable_files(self) -> datasets.Dataset:
        """The files of the table's rows."""
        row_of = {name: row for row, name in enumerate(self.dataset["id"])}
        return self.dataset.select([row_of[name] for name in self.table.ids.tolist()])

    @cached_property
    def images(self) -> list[Any]:
        """What `load_image` takes, for each row of the table."""
        return list(self.readable_files["image"])

    @cached_property
    def names(self) -> list[str]:
        """What each row of the table is called: its id, or a number if anonymous."""
        if not self.request.anonymous:
            return [str(name) for name in self.table.ids]
        return [f"image {row}" for row in range(1, len(self.table) + 1)]

    @cached_property
    def labels(self) -> list[str]:
        """The class of each row of the table."""
        return [self.table.classes[label] for label in self.table.labels]

    @property
    def groups(self) -> Ints:
        """The group of each row, (n,), that is kept apart when methods are tested."""
        return self.evaluation_table.groups

    @property
    def always_largest(self) -> Ints:
        """The largest class, for each row of the table."""
        return np.full(len(self.table), np.bincount(self.table.labels).argmax())

    @cached_property
    def counts(self) -> pd.DataFrame:
        """By class: images, by split where there are some, without copies, groups."""
        splits = np.where(self.table.splits == "", "images", self.table.splits)
        counts = pd.crosstab(pd.Series(self.labels, name="class"), splits)
        counts["without copies"] = questions.groups_of_classes(
            self.table, self.table.copies
        )
        counts["groups"] = questions.groups_of_classes(self.table)
        return counts

    @cached_property
    def audit(self) -> Audit:
        """Copies, and what they contradict."""
        return audit_dataset(self.dataset, cache=self.encoder.cache)

    @cached_property
    def copy_counts(self) -> pd.DataFrame:
        """How many copies there are, in an ever wider sense, and what they spoil."""
        counts = self.audit.summary.loc[[*COPIES]].rename(COPIES)
        return counts.rename_axis("copies")

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The rows of each pair of copies, row_a and row_b.

        Those with two labels come first, then those in two splits.
        """
        row_of = {name: row for row, name in enumerate(self.table.ids.tolist())}
        pairs = self.audit.pairs
        pairs = pairs[pairs["id_a"].isin(row_of) & pairs["id_b"].isin(row_of)]
        same = pd.DataFrame(
            {
                "label": pairs["label_a"] == pairs["label_b"],
                "split": pairs["split_a"] == pairs["split_b"],
            }
        ).sort_values(["label", "split"], kind="stable")
        ids = pairs.loc[same.index, ["id_a", "id_b"]]
        rows = ids.map(row_of.__getitem__).astype(np.int64)
        return rows.set_axis(["row_a", "row_b"], axis=1).reset_index(drop=True)

    @cached_property
    def tiny(self) -> list[str]:
        """Ids of images with a side of fewer than 16 pixels."""
        facts = self.audit.images
        return list(facts.loc[facts[["width", "height"]].min(axis=1) < TINY, "id"])

    @cached_property
    def merged(self) -> pd.DataFrame:
        """Declared groups that copies join, as from `merged_groups`."""
        ids = self.table.ids.tolist()
        if not self.request.groups:
            return merged_groups(ids, self.table.copies, [], [])
        declared = declared_groups(ids, self.request.groups)
        return merged_groups(ids, declared, self.pairs["row_a"], self.pairs["row_b"])

    @cached_property
    def file_traces(self) -> pd.DataFrame:
        """Of each image format, size and the like, as from `file_traces`."""
        return file_traces(self.readable_files, cache=self.encoder.cache)

    @cached_property
    def traces(self) -> Traces:
        """What the files give away, trace by trace."""
        rows = {}
        for kind in (*FILE_TRACES, *PICTURE_TRACES):
            predicted = self._predicted_by_traces(kind)
            of = "file" if kind in FILE_TRACES else "picture"
            rows[kind] = {**self.accuracy(predicted)._asdict(), "of": of}
        return Traces(
            traces_by_class(self.file_traces, self.labels),
            kinds_of_files(self.file_traces, self.labels),
            pd.DataFrame(rows).T.rename_axis("trace"),
        )

    def _predicted_by_traces(self, *kinds: str) -> Ints:
        """Return what a forest that reads some kinds of traces says, (n,), by group."""
        columns = [column for kind in kinds for column in TRACE_COLUMNS[kind]]
        numbers = pd.get_dummies(self.file_traces[columns]).fillna(-1).astype(float)
        if (numbers.nunique() == 1).all():  # then all trees would say the same
            return self.always_largest
        forest = RandomForestClassifier(
            100, min_samples_leaf=2, random_state=self.request.seed
        )
        return self._predicted(
            Method(forest, self.evaluation_table.with_features(numbers))
        )

    # --- The methods

    def _proba(self, method: Method, *, by_image: bool = False) -> Floats:
        """Return out-of-fold probabilities, (n, k).

        Groups are kept together. `by_image` lets related images be trained on, which
        shows by how much that inflates an accuracy.
        """
        return out_of_fold_proba(
            method.estimator,
            method.table,
            groups=np.arange(len(self.table)) if by_image else None,
            n_splits=self.n_splits,
            seed=self.request.seed,
            progress=False,
        )

    def _predicted(self, method: Method) -> Ints:
        """Return out-of-fold answers, (n,), by group."""
        return np.asarray(self._proba(method).argmax(axis=1))

    def accuracy(self, predicted: Ints) -> Share:
        """Return how often answers, (n,), are right, over groups."""
        right = {"right": predicted == self.table.labels}
        groups = self.groups
        shares = ratio_intervals(right, groups=groups, seed=self.request.seed)
        return Share.of(shares.loc["right"])

    def gain(self, predicted: Ints, other: Ints) -> Share:
        """Return the accuracy of answers, (n,), less that of others."""
        groups = self.groups
        seed = self.request.seed
        return Share.of(
            compare(self.table.labels, predicted, other, groups=groups, seed=seed)
        )

    @cached_property
    def probes(self) -> dict[str, Method]:
        """The probes of which the best is chosen, with what they read."""
        deep = self.evaluation_table.with_readout("deep")
        linear = LinearProbe(seed=self.request.seed)
        probes = {
            POOLED: Method(linear, self.evaluation_table.with_readout("pooled")),
            LINEAR: Method(linear, deep),
        }
        if len(self.table) < KERNEL_LIMIT:
            probes[KERNEL] = Method(KernelProbe(seed=self.request.seed), deep)
        else:
            warn_of_left_out_kernel(len(self.table))
        return probes

    @cached_property
    def probabilities(self) -> dict[str, Floats]:
        """Out-of-fold probabilities, (n, k), of each probe."""
        return {name: self._proba(method) for name, method in self.probes.items()}

    @cached_property
    def predicted(self) -> dict[str, Ints]:
        """What each method says of images whose groups it was not trained on, (n,)."""
        spec = dataset_spec(os.path.abspath(self.request.folder))
        nearest = make_pipeline(
            StandardScaler(), KNeighborsClassifier(1, metric="cosine")
        )
        predicted = {
            LARGEST: self.always_largest,
            BRIGHTNESS: self._predicted_by_traces(*PICTURE_TRACES),
            TRACES: self._predicted_by_traces(*FILE_TRACES),
            ZERO_SHOT: zero_shot(self.encoder, self.table, spec).argmax(axis=1),
            NEIGHBOUR: self._predicted(
                Method(nearest, self.evaluation_table.with_readout("deep"))
            ),
        }
        for name, proba in self.probabilities.items():
            predicted[name] = proba.argmax(axis=1)
        return predicted

    @cached_property
    def best(self) -> str:
        """The name of the best probe."""
        right = {
            name: (self.predicted[name] == self.table.labels).mean()
            for name in self.probes
        }
        return max(right, key=right.__getitem__)

    @property
    def readout(self) -> str:
        """What the best probe reads."""
        return self.probes[self.best].table.readout

    @property
    def proba(self) -> Floats:
        """Out-of-fold probabilities of the best probe, (n, k)."""
        return self.probabilities[self.best]

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Accuracy and the like of each method, by group."""
        return {
            name: evaluate(
                self.table.labels,
                predicted,
                self.table.classes,
                groups=self.groups,
                seed=self.request.seed,
            )
            for name, predicted in self.predicted.items()
        }

    @cached_property
    def gains(self) -> dict[str, Share]:
        """The advantage of the best probe over each other method."""
        best = self.predicted[self.best]
        return {
            name: self.gain(best, predicted)
            for name, predicted in self.predicted.items()
            if name != self.best
        }

    @cached_property
    def predicted_by_image(self) -> Ints | None:
        """What the best says where relatives were trained on; None without any."""
        if len(set(self.groups)) == len(self.evaluation_table):
            return None
        proba = self._proba(self.probes[self.best], by_image=True)
        return np.asarray(proba.argmax(axis=1))

    @cached_property
    def features_of_others(self) -> dict[str, Features]:
        """Pooled features, (n, d), of each other encoder."""
        return {
            name: map_images(
                self.images,
                encoder.image_function,
                cache=self.encoder.cache,
                progress=name,
            )[0]
            for name, encoder in other_encoders(self.request.others).items()
        }

    @cached_property
    def other_predictions(self) -> dict[str, Ints]:
        """What the linear probe says on pooled features of each other encoder."""
        probe = self.probes[POOLED].estimator
        return {
            name: self._predicted(
                Method(probe, self.evaluation_table.with_features(features))
            )
            for name, features in self.features_of_others.items()
        }

    @cached_property
    def gains_over_others(self) -> dict[str, Share]:
        """The advantage of CLIP over each other encoder, by the same linear probe."""
        pooled = self.predicted[POOLED]
        return {
            name: self.gain(pooled, predicted)
            for name, predicted in self.other_predictions.items()
        }

    # --- What the best probe says

    @cached_property
    def suspects(self) -> pd.DataFrame:
        """Labels that look wrong, as from `questions.suspect_labels`."""
        return questions.suspect_labels(self.table.labels, self.proba)

    @cached_property
    def curve(self) -> Curve:
        """Accuracy by how much was labelled, and how much more a target needs."""
        probe, table = self.probes[self.best]
        seed = self.request.seed
        points, answers = questions.learning_curve(
            probe, table, n_splits=self.n_splits, seed=seed
        )
        predicted = [proba.argmax(axis=1) for proba in answers]
        shares = [self.accuracy(each)._asdict() for each in predicted]
        columns = ["value", "low", "high"]
        points = points.join(pd.DataFrame(shares, points.index, columns))
        is_doubled = points["share"].tolist()[-2:] == [0.5, 1]
        today = (self.predicted[self.best] == self.table.labels).mean()
        target = next((goal for goal in TARGETS if goal > today + 0.02), 1.0)
        times = None
        if target < 1:
            times = questions.groups_needed(points, answers, table, target, seed=seed)
        doubling = self.gain(predicted[-1], predicted[-2]) if is_doubled else None
        return Curve(points, doubling, target, times)

    @cached_property
    def reliability(self) -> pd.DataFrame:
        """Confidence and accuracy, as from `quantile_reliability`."""
        return quantile_reliability(
            self.table.labels,
            self.proba,
            self.groups,
            seed=self.request.seed,
        )

    @cached_property
    def risk_coverage(self) -> pd.DataFrame:
        """Errors among the answers by the share answered, as `risk_coverage`."""
        right = self.proba.argmax(axis=1) == self.table.labels
        return risk_coverage(right, self.proba.max(axis=1))

    @cached_property
    def fitted(self) -> AnyProbe:
        """The best probe, trained on all images."""
        probe: AnyProbe = questions.fit_with_groups(*self.probes[self.best])
        return probe

    @cached_property
    def errors(self) -> list[Error]:
        """The errors of which the best was surest, one of each group."""
        sure = pd.DataFrame({"p": self.proba.max(axis=1), "group": self.groups})
        predicted = self.predicted[self.best]
        wrong = sure[predicted != self.table.labels].sort_values("p", kind="stable")
        rows = wrong.drop_duplicates("group", keep="last").index[::-1][:MOST_ERRORS]
        if not len(rows):
            return []
        sources = [self.images[row] for row in rows]
        maps = heat_maps(
            self.encoder, self.fitted, sources, predicted[rows], self.readout
        )
        return [Error(int(row), heat) for row, heat in zip(rows, maps, strict=True)]

    @cached_property
    def aid(self) -> DecisionAid:
        """A classifier that abstains, made of the best probe."""
        probe, table = self.probes[self.best]
        folder = "" if self.request.anonymous else _home(self.readable_files)
        provenance = {**table.provenance, IMAGES_KEY: folder}
        if self.request.anonymous:
            provenance["dataset"] = ""
        named = replace(table, ids=np.array(self.names), provenance=provenance)
        seed = self.request.seed
        aid = DecisionAid.fit(named, self.encoder, probe=probe, risk=RISK, seed=seed)
        made_by = f"cliplib {version('cliplib')}, Python {platform.python_version()}"
        return replace(aid, about={**aid.about, "made by": made_by})

    @cached_property
    def away(self) -> FeatureTable | None:
        """The images of another folder, if one is named."""
        if not self.request.elsewhere:
            return None
        place = os.path.abspath(self.request.elsewhere)
        return load_features(place, self.encoder, errors={})

    @cached_property
    def elsewhere(self) -> Elsewhere | None:
        """What the best probe makes of another folder, if one is named."""
        if not self.request.elsewhere:
            return None
        assert self.away is not None  # it is named
        return judge_elsewhere(
            self.request.elsewhere,
            self.away,
            self.probes[self.best].table,
            self.images,
            self.fitted,
            self.aid,
            seed=self.request.seed,
        )

    @cached_property
    def erased(self) -> Erased | None:
        """What the best probe makes of images without their object, if boxes are."""
        if not self.boxes:
            return None
        return erase_and_see(
            *self.probes[self.best],
            self.encoder,
            self.images,
            self.boxes,
            n_splits=self.n_splits,
            seed=self.request.seed,
        )

    # --- All of it in words and tables

    @cached_property
    def verdict(self) -> Verdict:
        """An answer, its reasons, and what to do next."""
        return verdict(self.measured)

    @property
    def measured(self) -> Measured:
        """What the verdict rests on."""
        return Measured(
            encoder=self.encoder_name,
            command=self.command,
            images=len(self.table),
            groups=len(set(self.groups)),
            groups_of_class=self.counts["groups"].to_dict(),
            declared=bool(self.request.groups),
            kept_apart=self.evaluation_table is self.table,
            series=self.series,
            joined=self._joined_by_series(),
            best=self.best,
            simplest=POOLED if self.readout == "pooled" else LINEAR,
            largest=self.table.classes[self.always_largest[0]],
            accuracy=self._accuracies(),
            gains=self.gains | self.gains_over_others,
            trace=self.traces.strongest,
            relatedness=self._gain_by_leakage(),
            sensitivity=self._sensitivities(),
            doubling=self.curve.doubling,
            target=self.curve.target,
            times=self.curve.times,
            suspects=[self.names[row] for row in self.suspects["row"]],
            conflicts=len(self.audit.conflicts),
            unreadable=len(self.unreadable),
            merged=len(self.merged),
            answered=self._largest_coverage(),
            other_encoders=[*self.other_predictions],
            elsewhere=self._elsewhere_numbers(),
            erased=self._erased_numbers(),
        )

    @cached_property
    def series(self) -> str:
        """The pattern that file names suggest where no groups are declared, or ""."""
        if self.request.groups:
            return ""
        return suggested_pattern(self.table.ids.tolist())

    def _joined_by_series(self) -> list[str]:
        """Name the files that the suggested pattern would keep together."""
        if not self.series:
            return []
        ids = self.table.ids.tolist()
        name_of = dict(zip(ids, self.names, strict=True))
        return [name_of[name] for name in joined_files(ids, self.series)]

    def _accuracies(self) -> dict[str, Share]:
        """Return the accuracy of each method, and of each other encoder."""
        methods = {
            name: Share.of(evaluation.metrics.loc["accuracy"])
            for name, evaluation in self.evaluations.items()
        }
        others = {
            name: self.accuracy(predicted)
            for name, predicted in self.other_predictions.items()
        }
        return methods | others

    def _gain_by_leakage(self) -> Share | None:
        """Return what the best gains where relatives are trained on."""
        if self.predicted_by_image is None:
            return None
        return self.gain(self.predicted_by_image, self.predicted[self.best])

    def _sensitivities(self) -> dict[str, Share]:
        """Return the share of each class that the best finds."""
        per_class = self.evaluations[self.best].per_class
        return {
            name: Share.of_metric(row, "sensitivity")
            for name, row in per_class.iterrows()
        }

    def _largest_coverage(self) -> float:
        """Return the largest share of answers with an error of at most `RISK`, or 0."""
        curve = self.risk_coverage
        return float(curve["coverage"].where(curve["risk"] <= RISK, 0).max())

    def _elsewhere_numbers(self) -> ElsewhereNumbers | None:
        found = self.elsewhere
        if found is None:
            return None
        return ElsewhereNumbers(
            name="the other folder" if self.request.anonymous else found.name,
            images=len(found.table),
            accuracy=Share.of(found.found.metrics.loc["accuracy"]),
            answered=found.answered,
            wrong=found.wrong,
        )

    def _erased_numbers(self) -> ErasedNumbers | None:
        found = self.erased
        if found is None:
            return None
        without = found.accuracy.loc[WITHOUT]
        return ErasedNumbers(
            images=int(without["images"]),
            accuracy=Share.of(without),
            loss=found.loss,
            control=found.control_loss,
        )

    @cached_property
    def answers(self) -> pd.DataFrame:
        """What was answered for each file, by a probe not trained on its group.

        Columns: image (a number), file, label, answer, probability, group, suspect (the
        likely class of a label that looks wrong), copy_of (the first of its
        near-duplicates), format, mode, width, height, bytes_per_pixel, and error, of a
        file that cannot be read.
        """
        classes = np.array(self.table.classes)
        suspect = np.full(len(self.table), "", dtype=object)
        suspect[self.suspects["row"]] = classes[self.suspects["likely"]]
        ids = pd.Series(self.table.ids.astype(object))
        first = ids.groupby(self.table.copies).transform("first")
        rows = pd.DataFrame(
            {
                "image": np.arange(1, len(ids) + 1),
                "file": ids,
                "label": self.labels,
                "answer": classes[self.predicted[self.best]],
                "probability": self.proba.max(axis=1),
                "group": self.groups,
                "suspect": suspect,
                "copy_of": first.where(first != ids, ""),
            }
        )
        columns = ["format", "mode", "width", "height", "bytes_per_pixel"]
        traces = self.file_traces[columns].reset_index(drop=True)
        rows = rows.join(traces).assign(error="")
        left_out = pd.DataFrame({"file": [*self.unreadable]})
        left_out["error"] = [*self.unreadable.values()]
        # As objects: beside files without a number, numbers stay whole.
        everything = pd.concat([rows.astype(object), left_out], ignore_index=True)
        return everything.where(everything.notna(), "")

    @property
    def copies(self) -> pd.DataFrame:
        """All pairs of near-duplicates: files, labels, splits, kind and orientation."""
        named = self.audit.pairs.rename(columns={"id_a": "file_a", "id_b": "file_b"})
        sides = [f"{name}_{s}" for s in "ab" for name in ("file", "label", "split")]
        return named[[*sides, "kind", "orientation", "correlation"]]

    @property
    def made(self) -> pd.DataFrame:
        """What the numbers depend on: what, and its value."""
        request = self.request
        groups = request.groups or "near-duplicates only"
        if request.anonymous and os.path.isfile(groups):
            groups = "a file"
        made = {
            "encoder": self.encoder_name,
            "fingerprint of its weights": self.encoder.fingerprint,
            "readout of the best probe": self.readout,
            "groups": groups,
            "seed": str(request.seed),
            "images": f"{len(self.table)} of {len(self.dataset)} files",
            "cliplib": version("cliplib"),
            "Python": platform.python_version(),
            "system": platform.platform(terse=True),
        }
        made |= {name: version(name).split("+")[0] for name in PACKAGES}
        return pd.Series(made, name="value").rename_axis("what").to_frame()


def measure(
    folder: str | os.PathLike[str],
    *,
    model: str = "",
    groups: str = "",
    others: Sequence[str] = (),
    elsewhere: str = "",
    boxes: str = "",
    limit: int = 0,
    seed: int = 0,
    anonymous: bool = False,
    command: str = "",
) -> Evidence:
    """Measure what a frozen CLIP and light probes make of a folder of images.

    Parameters
    ----------
    folder
        Of class folders, as in `cliplib.load_dataset`.
    model
        Hub id or folder of a CLIP; "" for the setting ``CLIPLIB_MODEL``, else "mini".
    groups
        What belongs together, as in `declared_groups`; "" for near-duplicates only.
    others
        More vision models to set beside CLIP, as `VisionEncoder` takes them.
    elsewhere
        Another folder of the same classes, from another camera or site, to be judged
        by a probe that is trained on all of this one.
    boxes
        A CSV file (file, x_center, y_center, width, height as shares): where the object
        lies that is to be erased.
    limit
        Draw about so many images, by class and split; 0 takes all.
    seed
        Of everything random.
    anonymous
        Call images by numbers in the verdict, in errors and in the decision aid.
    command
        What measures this again, for the verdict's next steps.

    Raises
    ------
    OSError
        If a folder or file is missing, or a model cannot be loaded.
    ValueError
        If the folder does not hold two classes of four images each that can be read,
        or groups, boxes or the other folder do not fit it.
    """
    request = Request(
        os.fspath(folder),
        model=model,
        groups=groups,
        others=others,
        elsewhere=elsewhere,
        boxes=boxes,
        limit=limit,
        seed=seed,
        anonymous=anonymous,
        command=command,
    )
    evidence = encode_folder(request)
    for part in PER_IMAGE_STEPS:
        getattr(evidence, part)
    with tqdm(STEPS, "measure", unit="step") as bar:
        for step in bar:
            bar.set_postfix_str(step)
            getattr(evidence, step)
    return evidence


def encode_folder(request: Request) -> Evidence:
    """Encode a folder's images, after refusing what can be refused before.

    The evidence computes nothing more until it is asked for; errors are those of
    `measure`.
    """
    place = os.path.abspath(request.folder)
    check_classes(place)
    if request.elsewhere:
        check_shared_classes(request.elsewhere, place)
    dataset = load_dataset(place)
    assert dataset is not None  # it is a folder
    boxes = read_boxes(request.boxes, dataset["id"][:]) if request.boxes else {}
    other_encoders(request.others)
    encoder = ClipEncoder(request.model or None)
    errors_by_id: dict[str, str] = {}
    table = load_features(
        place,
        encoder,
        groups=request.groups or None,
        limit=request.limit,
        seed=request.seed,
        errors=errors_by_id,
    )
    unreadable = {name: _without_path(error) for name, error in errors_by_id.items()}
    check_readable(table, unreadable)
    evaluation_table, n_splits = questions.measurable(table)
    return Evidence(
        request, dataset, encoder, table, evaluation_table, n_splits, unreadable, boxes
    )


def _without_path(error: str) -> str:
    """Return what "Cannot read the image 'PATH': REASON" says after the path."""
    return error.split("': ", 1)[-1]


def check_readable(table: FeatureTable, unreadable: Mapping[str, str]) -> None:
    """Raise ValueError for a class of which no image can be read."""
    for label, name in enumerate(table.classes):
        if (table.labels == label).any():
            continue
        file, reason = next(
            (file, reason)
            for file, reason in unreadable.items()
            if Path(file).parent.name == name
        )
        raise ValueError(f"No image of class {name!r} can be read; {file}: {reason}")


def other_encoders(names: Sequence[str]) -> dict[str, VisionEncoder]:
    """Load other vision models, by the ends of their names.

    Raises what `VisionEncoder` raises, and ValueError where two names end alike.
    """
    loaded = {Path(name).name: VisionEncoder(name) for name in names}
    if len(loaded) < len(names):
        raise ValueError(
            f"The other encoders {', '.join(names)} need names that end differently: "
            "they are called by their ends."
        )
    return loaded


def _home(dataset: datasets.Dataset) -> str:
    """Return the folder below which the ids of a data set are files."""
    path = Path(dataset[0]["image"]["path"]).as_posix()
    return path.removesuffix(dataset[0]["id"])
