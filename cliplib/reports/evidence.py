"""The evidence on one folder of images, as tables, numbers and images.

Each part is computed when it is first asked for. `cliplib.reports.measure` makes the
evidence, and asks for all parts.
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

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.data.cache import map_images
from cliplib.data.datasets import dataset_spec
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.vision import VisionEncoder
from cliplib.evaluation.calibration import quantile_reliability, risk_coverage
from cliplib.evaluation.intervals import Share, compare, ratio_intervals
from cliplib.evaluation.metrics import Evaluation, evaluate
from cliplib.features.audit import LEVELS, Audit, audit_dataset
from cliplib.features.groups import (
    declared_groups,
    joined_files,
    merged_groups,
    suggested_pattern,
)
from cliplib.features.table import FeatureTable
from cliplib.inspection.erase import Box
from cliplib.inspection.maps import heat_maps
from cliplib.inspection.traces import (
    FILE_TRACES,
    PICTURE_TRACES,
    TRACE_COLUMNS,
    file_traces,
    kinds_of_files,
    traces_by_class,
)
from cliplib.inspection.words import zero_shot
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.nearest import NearestNeighbour
from cliplib.probes.out_of_fold import fit_with_groups, out_of_fold_proba
from cliplib.probes.saving import AnyProbe
from cliplib.reports import questions
from cliplib.reports.decision_aid import (
    ANSWERED_KEY,
    HELD_OUT_KEY,
    HIGHEST_RISK_KEY,
    KERNEL_LIMIT,
    WRONG_KEY,
    DecisionAid,
    warn_of_left_out_kernel,
)
from cliplib.reports.elsewhere import (
    Elsewhere,
    ImagesElsewhere,
    images_elsewhere,
    judge_elsewhere,
)
from cliplib.reports.erasing import WITHOUT, Erased, evaluate_erased
from cliplib.reports.verdict import (
    BRIGHTNESS,
    LARGEST,
    NEGLIGIBLE_GAIN,
    RISK,
    TRACES,
    ZERO_SHOT,
    AidNumbers,
    ElsewhereNumbers,
    ErasedNumbers,
    Measured,
    Verdict,
    verdict,
)

POOLED = "pooled linear probe"
LINEAR = "linear probe"
KERNEL = "kernel probe"
NEIGHBOUR = "nearest neighbour"
TINY = 16
"""Pixels of the shorter side below which an image is called tiny."""
MOST_ERRORS = 6
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
"""Accuracies to which a learning curve is extrapolated."""
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


class Method(NamedTuple):
    """A classifier, not fitted yet, and the table that it is trained and tested on."""

    estimator: Any
    table: FeatureTable


class Error(NamedTuple):
    """A row that was classified wrongly, and an image of what spoke for the answer."""

    row: int
    heat_map: Image.Image


@dataclass(frozen=True, eq=False)
class Traces:
    """What may give the class away without a look at what an image shows.

    Attributes
    ----------
    by_class
        Of each class format, size and the like, in words, as from `traces_by_class`.
    kinds
        Files of one format, mode and size, as from `kinds_of_files`.
    alone
        By kind of trace: value, low and high of the accuracy of a random forest that
        reads nothing else; and `of`, "file" or "picture": what the trace is of.
    """

    by_class: pd.DataFrame
    kinds: pd.DataFrame
    alone: pd.DataFrame

    @property
    def strongest(self) -> str:
        """The kind of file trace by which alone the accuracy is highest."""
        of_file = self.alone[self.alone["of"] == "file"]
        return str(of_file["value"].idxmax())


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy of the best probe by how much was labelled.

    Attributes
    ----------
    points
        share, images and groups trained on; value, low and high of the accuracy.
    gain_by_doubling
        Accuracy with all groups less that with half; None if it was not measured.
    target
        The lowest of `TARGETS` more than two points above today's accuracy, or 1.
    growth_factor
        By which today's groups have to grow to reach it, with its interval; None where
        that cannot be said.
    """

    points: pd.DataFrame
    gain_by_doubling: Share | None
    target: float
    growth_factor: Share | None


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

    Rows, n of them, are those of `table`. Answers, (n,), are indices of its k classes,
    out of fold and by group: no group is in training and test at once, except where
    "by image" is said. The best probe is that of `probes` with the highest accuracy.

    Attributes
    ----------
    request
        What was asked for.
    dataset
        All files of the folder that are images by their names.
    encoder
        The frozen CLIP.
    other_encoders
        Those to set beside it, by name.
    table
        Deep features, labels and groups of the images that can be read.
    evaluation_table
        The same, with the groups that are kept together when methods are tested.
    n_splits
        The number of folds, in which each image is tested once.
    groups_kept_apart
        Whether these are the groups of `table`; False where they are its copies alone.
    unreadable
        The reason why a file cannot be read, by id.
    boxes
        Where objects lie, by id.
    """

    request: Request
    dataset: datasets.Dataset
    encoder: ClipEncoder
    other_encoders: Mapping[str, VisionEncoder]
    table: FeatureTable
    evaluation_table: FeatureTable
    n_splits: int
    groups_kept_apart: bool
    unreadable: Mapping[str, str]
    boxes: Mapping[str, Box]

    # --- The images

    @property
    def command(self) -> str:
        """The command that measures all this again."""
        return self.request.command or f"cliplib report {self.request.folder} --out OUT"

    @property
    def encoder_name(self) -> str:
        """What CLIP is called: a hub id, or the name of its folder without the path."""
        name = self.encoder.name
        return Path(name).name if os.path.isdir(name) else name

    @cached_property
    def readable_files(self) -> datasets.Dataset:
        """The part of `dataset` that the table has, n files in the table's order."""
        position = {file_id: i for i, file_id in enumerate(self.dataset["id"])}
        return self.dataset.select([position[file_id] for file_id in self.table.ids])

    @cached_property
    def images(self) -> list[Any]:
        """The file of each row, as `load_image` takes it."""
        return list(self.readable_files["image"])

    @cached_property
    def names(self) -> list[str]:
        """What each row is called: its id, or "image 1" and so on if anonymous."""
        if not self.request.anonymous:
            return [str(name) for name in self.table.ids]
        return [f"image {row}" for row in range(1, len(self.table) + 1)]

    @cached_property
    def labels(self) -> list[str]:
        """The name of each row's class."""
        return [self.table.classes[label] for label in self.table.labels]

    @property
    def groups(self) -> Ints:
        """The group of each row, (n,), kept together when methods are tested."""
        return self.evaluation_table.groups

    @property
    def always_largest(self) -> Ints:
        """The answer of the simplest method: for each row the largest class, (n,)."""
        return np.full(len(self.table), np.bincount(self.table.labels).argmax())

    @cached_property
    def counts(self) -> pd.DataFrame:
        """By class: its images, the same with copies counted once, and its groups.

        Images have a column for each published split, or else a single one, "images".
        """
        table = self.table
        splits = np.where(table.splits == "", "images", table.splits)
        counts = pd.crosstab(pd.Series(self.labels, name="class"), splits)
        # Both are (k,), in the order of the classes: sorted, as the crosstab's rows.
        counts["without copies"] = questions.groups_per_class(table, table.copies)
        counts["groups"] = questions.groups_per_class(table)
        return counts

    @cached_property
    def audit(self) -> Audit:
        """Copies among all files of the folder, and labels that they contradict."""
        return audit_dataset(self.dataset, cache=self.encoder.cache)

    @cached_property
    def copy_counts(self) -> pd.DataFrame:
        """How many copies of each kind there are, by the texts in `COPIES`."""
        counts = self.audit.summary.loc[[*COPIES]].rename(COPIES)
        return counts.rename_axis("copies")

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The row numbers of both images of each pair of copies: row_a and row_b.

        Pairs with two labels come first, then those in two splits.
        """
        row_of = {file_id: row for row, file_id in enumerate(self.table.ids.tolist())}
        pairs = self.audit.pairs  # with id, label and split of both images
        # With a `limit` the table has not all files, but the audit has.
        pairs = pairs[pairs["id_a"].isin(row_of) & pairs["id_b"].isin(row_of)]
        pairs = pairs.assign(
            row_a=pairs["id_a"].map(row_of).astype(np.int64),
            row_b=pairs["id_b"].map(row_of).astype(np.int64),
            same_label=pairs["label_a"] == pairs["label_b"],
            same_split=pairs["split_a"] == pairs["split_b"],
        )
        # False comes before True.
        pairs = pairs.sort_values(["same_label", "same_split"], kind="stable")
        return pairs[["row_a", "row_b"]].reset_index(drop=True)

    @cached_property
    def tiny(self) -> list[str]:
        """Ids of the files with a side of fewer than 16 pixels."""
        images = self.audit.images
        shorter_side = images[["width", "height"]].min(axis=1)
        return list(images.loc[shorter_side < TINY, "id"])

    @cached_property
    def merged(self) -> pd.DataFrame:
        """Pairs of declared groups that hold copies of each other, with two of these.

        Columns: group_a, group_b, image_a and image_b (ids). Without declared groups
        the table is empty.
        """
        if not self.request.groups:
            return pd.DataFrame()
        ids = self.table.ids.tolist()
        declared = declared_groups(ids, self.request.groups)  # names, in order of ids
        return merged_groups(ids, declared, self.pairs["row_a"], self.pairs["row_b"])

    @cached_property
    def file_traces(self) -> pd.DataFrame:
        """Format, size, brightness and the like of each row's file: `TRACE_COLUMNS`."""
        return file_traces(self.readable_files, cache=self.encoder.cache)

    @cached_property
    def traces(self) -> Traces:
        """What the files give away, by class and by kind of trace."""
        rows = {}
        for kind in (*FILE_TRACES, *PICTURE_TRACES):
            accuracy = self.accuracy(self._predicted_by_traces([kind]))
            of = "file" if kind in FILE_TRACES else "picture"
            rows[kind] = {**accuracy._asdict(), "of": of}
        return Traces(
            by_class=traces_by_class(self.file_traces, self.labels),
            kinds=kinds_of_files(self.file_traces, self.labels),
            alone=pd.DataFrame(rows).T.rename_axis("trace"),
        )

    def _predicted_by_traces(self, kinds: Sequence[str]) -> Ints:
        """Return the classes, (n,), that a random forest predicts from file traces.

        They are numbers, out of fold. Kinds are keys of `TRACE_COLUMNS`. Where all
        files have equal traces, the answer is the largest class.
        """
        columns = [column for kind in kinds for column in TRACE_COLUMNS[kind]]
        # Categories, such as the format, become columns of 0 and 1.
        numbers = pd.get_dummies(self.file_traces[columns]).astype(float)
        if (numbers.nunique() == 1).all():
            return self.always_largest
        seed = self.request.seed
        forest = RandomForestClassifier(100, min_samples_leaf=2, random_state=seed)
        table = self.evaluation_table.with_features(numbers)
        return self._predicted(Method(forest, table))

    # --- The methods

    def _proba(self, method: Method, *, by_image: bool = False) -> Floats:
        """Return out-of-fold probabilities, (n, k), of a method.

        No group is in training and test at once; with `by_image` a group may be, which
        shows how much accuracy that adds.
        """
        each_its_own = np.arange(len(self.table))
        return out_of_fold_proba(
            method.estimator,
            method.table,
            groups=each_its_own if by_image else None,  # None: those of the table
            n_splits=self.n_splits,
            seed=self.request.seed,
            progress=False,
        )

    def _predicted(self, method: Method, *, by_image: bool = False) -> Ints:
        """Return out-of-fold answers, (n,): the most probable class of each row."""
        return np.asarray(self._proba(method, by_image=by_image).argmax(axis=1))

    def accuracy(self, predicted: Ints) -> Share:
        """Return the share of answers, (n,), that are right, with its 95% interval.

        The interval is by bootstrap draws of the groups.
        """
        is_right = {"right": predicted == self.table.labels}
        seed = self.request.seed
        shares = ratio_intervals(is_right, groups=self.groups, seed=seed)
        return Share.of(shares.loc["right"])

    def gain(self, predicted: Ints, other: Ints) -> Share:
        """Return the accuracy of `predicted`, (n,), less that of `other`, (n,).

        Its 95% interval is by paired bootstrap draws of the groups.
        """
        labels = self.table.labels
        seed = self.request.seed
        gain = compare(labels, predicted, other, groups=self.groups, seed=seed)
        return Share.of(gain)

    @cached_property
    def probes(self) -> dict[str, Method]:
        """The probes, not fitted yet, of which the best is chosen, by name.

        From 10,000 images on, the kernel probe is left out, with a warning.
        """
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
        """Out-of-fold probabilities, (n, k), by probe."""
        return {name: self._proba(method) for name, method in self.probes.items()}

    @cached_property
    def predicted(self) -> dict[str, Ints]:
        """The answers, (n,), of each method, by name: first baselines, then `probes`.

        Those of trained methods are out of fold, by group; zero-shot answers are by the
        names of the classes alone.
        """
        spec = dataset_spec(os.path.abspath(self.request.folder))
        deep = self.evaluation_table.with_readout("deep")
        baselines = {
            LARGEST: self.always_largest,
            BRIGHTNESS: self._predicted_by_traces(PICTURE_TRACES),
            TRACES: self._predicted_by_traces(FILE_TRACES),
            ZERO_SHOT: zero_shot(
                self.encoder, self.table, spec.phrases, spec.templates
            ).argmax(axis=1),
            NEIGHBOUR: self._predicted(Method(NearestNeighbour(), deep)),
        }
        probes = {
            name: proba.argmax(axis=1) for name, proba in self.probabilities.items()
        }
        return baselines | probes

    @cached_property
    def best(self) -> str:
        """The name of the probe of the highest accuracy; of equals it is the first."""
        return max(
            self.probes,
            key=lambda name: (self.predicted[name] == self.table.labels).mean(),
        )

    @property
    def best_method(self) -> Method:
        """The best probe, not fitted yet, and its table."""
        return self.probes[self.best]

    @property
    def readout(self) -> str:
        """The name of the readout that the best probe reads."""
        return self.best_method.table.readout

    @property
    def proba(self) -> Floats:
        """Out-of-fold probabilities, (n, k), of the best probe."""
        return self.probabilities[self.best]

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Accuracy and other metrics of each method's answers, by name."""
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
        """Accuracy of the best probe less that of each other method, by name."""
        best = self.predicted[self.best]
        return {
            name: self.gain(best, predicted)
            for name, predicted in self.predicted.items()
            if name != self.best
        }

    @cached_property
    def predicted_by_image(self) -> Ints | None:
        """Out-of-fold answers, (n,), of the best probe in folds by image, not by group.

        It may be trained on other images of a tested image's group. None where no group
        has several images.
        """
        if len(set(self.groups)) == len(self.table):
            return None
        return self._predicted(self.best_method, by_image=True)

    @cached_property
    def features_of_others(self) -> dict[str, Features]:
        """Pooled features, (n, d), of the images by each other encoder, by its name."""
        features_of = {}
        for name, encoder in self.other_encoders.items():
            # One result for the one function.
            (features,) = map_images(
                self.images,
                encoder.image_function,
                cache=self.encoder.cache,
                progress=name,
            )
            features_of[name] = features
        return features_of

    @cached_property
    def other_predictions(self) -> dict[str, Ints]:
        """Answers, (n,), of a linear probe on pooled features of each other encoder."""
        probe = self.probes[POOLED].estimator
        methods = {
            name: Method(probe, self.evaluation_table.with_features(features))
            for name, features in self.features_of_others.items()
        }
        return {name: self._predicted(method) for name, method in methods.items()}

    @cached_property
    def gains_over_others(self) -> dict[str, Share]:
        """Accuracy with CLIP less that with each other encoder, by its name.

        Both are accuracies of a linear probe on the encoder's pooled features.
        """
        pooled = self.predicted[POOLED]
        return {
            name: self.gain(pooled, predicted)
            for name, predicted in self.other_predictions.items()
        }

    @cached_property
    def accuracies(self) -> dict[str, Share]:
        """The accuracy of each method, and of each other encoder's probe, by name."""
        methods = {
            name: Share.of(evaluation.metrics.loc["accuracy"])
            for name, evaluation in self.evaluations.items()
        }
        others = {
            name: self.accuracy(predicted)
            for name, predicted in self.other_predictions.items()
        }
        return methods | others

    # --- What the best probe says

    @cached_property
    def suspects(self) -> pd.DataFrame:
        """Labels that look wrong: row, given and likely class, and margin."""
        return questions.suspect_labels(self.table.labels, self.proba)

    @cached_property
    def curve(self) -> Curve:
        """The best probe's learning curve, and how many groups a target needs."""
        probe, table = self.best_method
        seed = self.request.seed
        points, answers = questions.learning_curve(
            probe, table, n_splits=self.n_splits, seed=seed
        )
        if 1 in points["share"].tolist():
            answers[-1] = self.proba  # all groups: the answers that stand elsewhere
        predicted = [proba.argmax(axis=1) for proba in answers]  # (n,) for each point
        accuracy = [self.accuracy(answer) for answer in predicted]
        points = points.join(pd.DataFrame(accuracy, points.index, [*Share._fields]))
        gain_by_doubling = None  # where groups are too few for both points
        if points["share"].tolist()[-2:] == [0.5, 1]:
            gain_by_doubling = self.gain(predicted[-1], predicted[-2])
        target = self._target()
        growth_factor = None
        if target < 1:
            growth_factor = questions.groups_needed(
                points, answers, table, target, seed=seed
            )
        return Curve(points, gain_by_doubling, target, growth_factor)

    def _target(self) -> float:
        """Return the lowest of `TARGETS` that is worth labelling more images for.

        It is more than two points above the best probe's accuracy; 1 if none is.
        """
        today = (self.predicted[self.best] == self.table.labels).mean()
        worth_it = [target for target in TARGETS if target > today + NEGLIGIBLE_GAIN]
        return min(worth_it, default=1.0)

    @cached_property
    def reliability(self) -> pd.DataFrame:
        """How often the best probe is right where it states a probability, in bins.

        Columns: value, low and high of the accuracy, and confidence (the mean stated
        probability); a row for each bin, the least confident first.
        """
        return quantile_reliability(
            self.table.labels,
            self.proba,
            self.groups,
            seed=self.request.seed,
        )

    @cached_property
    def risk_coverage(self) -> pd.DataFrame:
        """By threshold on the best probe's confidence: shares of answers and errors.

        Columns: threshold (the highest first), coverage (share of images answered) and
        risk (share of errors among the answers).
        """
        is_right = self.proba.argmax(axis=1) == self.table.labels
        return risk_coverage(is_right, self.proba.max(axis=1))

    @cached_property
    def fitted(self) -> AnyProbe:
        """A copy of the best probe, fitted to all rows."""
        probe, table = self.best_method
        fitted: AnyProbe = fit_with_groups(
            probe, table.features, table.labels, table.groups
        )
        return fitted

    @cached_property
    def errors(self) -> list[Error]:
        """The errors of which the best probe was surest, six at most, surest first.

        There is one of a group at most. Answers are out of fold; heat maps are by the
        probe that is fitted to all images.
        """
        predicted = self.predicted[self.best]
        answers = pd.DataFrame(
            {"probability": self.proba.max(axis=1), "group": self.groups}
        )
        wrong = answers[predicted != self.table.labels]  # its index has the rows
        surest_last = wrong.sort_values("probability", kind="stable")
        one_of_a_group = surest_last.drop_duplicates("group", keep="last")
        rows = one_of_a_group.index[::-1][:MOST_ERRORS]
        if not len(rows):
            return []
        images = [self.images[row] for row in rows]
        maps = heat_maps(  # of what speaks for the wrong answer
            self.encoder, self.fitted, images, predicted[rows], self.readout
        )
        return [Error(int(row), heat) for row, heat in zip(rows, maps, strict=True)]

    @cached_property
    def aid(self) -> DecisionAid:
        """A classifier that abstains when unsure, made of the best probe.

        If anonymous, images are called by numbers, and the data set is not named.
        """
        probe, table = self.best_method
        provenance = dict(table.provenance)
        if self.request.anonymous:
            provenance["dataset"] = ""
        # The aid keeps ids and provenance with its training images.
        named = replace(table, ids=np.array(self.names), provenance=provenance)
        seed = self.request.seed
        aid = DecisionAid.fit(named, self.encoder, probe=probe, risk=RISK, seed=seed)
        made_by = f"cliplib {version('cliplib')}, Python {platform.python_version()}"
        return replace(aid, about={**aid.about, "made by": made_by})

    @cached_property
    def images_elsewhere(self) -> ImagesElsewhere | None:
        """The other folder's images that can be judged; None if none is named."""
        if not self.request.elsewhere:
            return None
        return images_elsewhere(
            self.request.elsewhere, self.table, self.images, self.encoder
        )

    @cached_property
    def elsewhere(self) -> Elsewhere | None:
        """How the best probe and `aid` fare on the other folder; None without one."""
        if self.images_elsewhere is None:
            return None
        return judge_elsewhere(
            self.images_elsewhere, self.fitted, self.aid, seed=self.request.seed
        )

    @cached_property
    def erased(self) -> Erased | None:
        """How the best probe fares on images without their object; None without boxes.

        Like `predicted`, its answers are out of fold, by group.
        """
        if not self.boxes:
            return None
        probe, table = self.best_method
        return evaluate_erased(
            probe,
            table,
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
        """The numbers and names that the verdict rests on; `Measured` explains each."""
        return Measured(
            encoder=self.encoder_name,
            command=self.command,
            n_images=len(self.table),
            n_groups=len(set(self.table.groups)),
            groups_per_class=self.counts["groups"].to_dict(),
            groups_declared=bool(self.request.groups),
            groups_kept_apart=self.groups_kept_apart,
            series_pattern=self.series_pattern,
            example_series=self._example_series(),
            best=self.best,
            # The linear probe that reads the same features as the best.
            simplest=POOLED if self.readout == "pooled" else LINEAR,
            largest_class=self.table.classes[self.always_largest[0]],
            accuracy=self.accuracies,
            gains=self.gains | self.gains_over_others,
            strongest_trace=self.traces.strongest,
            gain_by_leakage=self._gain_by_leakage(),
            sensitivity=_sensitivities(self.evaluations[self.best].per_class),
            gain_by_doubling=self.curve.gain_by_doubling,
            target=self.curve.target,
            growth_factor=self.curve.growth_factor,
            suspects=[self.names[row] for row in self.suspects["row"]],
            n_label_conflicts=len(self.audit.conflicts),
            n_unreadable=len(self.unreadable),
            n_merged_groups=len(self.merged),
            coverage=self._largest_coverage(),
            aid=self._aid_numbers(),
            other_encoders=[*self.other_predictions],
            elsewhere=self._elsewhere_numbers(),
            erased=self._erased_numbers(),
        )

    @cached_property
    def series_pattern(self) -> str:
        """A pattern of groups that file names suggest; "" if none, or if declared."""
        if self.request.groups:
            return ""
        return suggested_pattern(self.table.ids.tolist())

    def _example_series(self) -> list[str]:
        """Return the names of the files that the suggested pattern groups first.

        [] without a pattern.
        """
        if not self.series_pattern:
            return []
        ids = self.table.ids.tolist()
        name_of = dict(zip(ids, self.names, strict=True))
        return [name_of[file_id] for file_id in joined_files(ids, self.series_pattern)]

    def _gain_by_leakage(self) -> Share | None:
        """Return the best probe's accuracy in folds by image less that by group.

        Folds by image may divide a group between training and test. None where no group
        has several images.
        """
        if self.predicted_by_image is None:
            return None
        return self.gain(self.predicted_by_image, self.predicted[self.best])

    def _aid_numbers(self) -> AidNumbers:
        """Return how the decision aid fares on the images that set its rule."""
        about = self.aid.about
        highest_risk = about[HIGHEST_RISK_KEY]
        return AidNumbers(
            n_images=int(about[HELD_OUT_KEY] or 0),
            n_answered=int(about[ANSWERED_KEY] or 0),
            n_wrong=int(about[WRONG_KEY] or 0),
            highest_risk=None if highest_risk is None else float(highest_risk),
        )

    def _largest_coverage(self) -> float:
        """Return the largest share of images answered with at most 5% errors, or 0."""
        curve = self.risk_coverage
        allowed = curve["coverage"].where(curve["risk"] <= RISK, 0)  # 0 for the others
        return float(allowed.max())

    def _elsewhere_numbers(self) -> ElsewhereNumbers | None:
        """Return what the verdict states of the other folder; None if none is named."""
        judged = self.elsewhere
        if judged is None:
            return None
        per_class = judged.evaluation.per_class
        there = _sensitivities(per_class)
        here = _sensitivities(self.evaluations[self.best].per_class)
        occurring = per_class.index[per_class["support"] > 0]
        return ElsewhereNumbers(
            name="the other folder" if self.request.anonymous else judged.name,
            n_images=len(judged.table),
            left_out=judged.left_out.to_dict(),
            accuracy=Share.of(judged.evaluation.metrics.loc["accuracy"]),
            balanced=Share.mean([there[name] for name in occurring]),
            balanced_here=Share.mean([here[name] for name in occurring]),
            answered=judged.answered,
            wrong=judged.wrong,
        )

    def _erased_numbers(self) -> ErasedNumbers | None:
        """Return what the verdict states of images without their object, or None."""
        erased = self.erased
        if erased is None:
            return None
        without_object = erased.accuracy.loc[WITHOUT]
        return ErasedNumbers(
            n_images=int(without_object["images"]),
            accuracy=Share.of(without_object),
            loss=erased.loss,
            control_loss=erased.control_loss,
        )

    @cached_property
    def answers(self) -> pd.DataFrame:
        """The best probe's out-of-fold answer for each file, for a spreadsheet.

        Columns: image (a number from 1), file, label, answer, probability, group,
        suspect (the likely class of a label that looks wrong), copy_of (the first of
        its near-duplicates), format, mode, width, height, bytes_per_pixel, and error
        (why a file cannot be read). Files that cannot be read come last, with file and
        error alone; all that is missing is "".
        """
        classes = np.array(self.table.classes)
        suspect = np.full(len(self.table), "", dtype=object)
        suspect[self.suspects["row"]] = classes[self.suspects["likely"]]
        files = pd.Series(self.table.ids.astype(object))
        first_copy = files.groupby(self.table.copies).transform("first")
        read = pd.DataFrame(
            {
                "image": np.arange(1, len(files) + 1),
                "file": files,
                "label": self.labels,
                "answer": classes[self.predicted[self.best]],
                "probability": self.proba.max(axis=1),
                "group": self.groups,
                "suspect": suspect,
                "copy_of": first_copy.where(first_copy != files, ""),
            }
        )
        columns = ["format", "mode", "width", "height", "bytes_per_pixel"]
        traces = self.file_traces[columns].reset_index(drop=True)  # in the same order
        read = read.join(traces).assign(error="")
        unread = pd.DataFrame(self.unreadable.items(), columns=["file", "error"])
        # As objects: beside missing numbers, the integer 1 would become 1.0.
        everything = pd.concat([read.astype(object), unread], ignore_index=True)
        return everything.where(everything.notna(), "")

    @property
    def copies(self) -> pd.DataFrame:
        """All pairs of near-duplicates among the files, for a spreadsheet.

        Columns: file, label and split of a, the same of b; kind ("exact" or "near"),
        orientation (what b is of a) and correlation (of their details, at most 1).
        """
        named = self.audit.pairs.rename(columns={"id_a": "file_a", "id_b": "file_b"})
        of_a = ["file_a", "label_a", "split_a"]
        of_b = ["file_b", "label_b", "split_b"]
        return named[[*of_a, *of_b, "kind", "orientation", "correlation"]]

    @property
    def made(self) -> pd.DataFrame:
        """What the numbers depend on: encoder, groups, seed, versions and the like.

        A row for each, with its text in the column "value".
        """
        request = self.request
        groups = request.groups or "near-duplicates only"
        if request.anonymous and os.path.isfile(groups):
            groups = "a file"  # whose path may name somebody
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
        # Without what a build adds, such as "+cpu".
        made |= {name: version(name).split("+")[0] for name in PACKAGES}
        return pd.Series(made, name="value").rename_axis("what").to_frame()


def _sensitivities(per_class: pd.DataFrame) -> dict[str, Share]:
    """Return the share of each class's images that are found.

    `per_class` is that of an `Evaluation`.
    """
    return {
        str(name): Share.of_metric(row, "sensitivity")
        for name, row in per_class.iterrows()
    }
