"""The decision aid: its rule, what it says of files, and the folder that holds it."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from cliplib.aids.aid_folder import MANIFEST, check_aid_can_be_saved
from cliplib.aids.decision_aid import (
    OUT_OF_DISTRIBUTION,
    RISK,
    DecisionAid,
    choose_threshold,
)
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.splits import group_train_test_split
from cliplib.features.table import FeatureTable
from cliplib.probes.kernel import KernelProbe
from cliplib.probes.linear import LinearProbe
from cliplib.probes.mlp import MLPProbe
from cliplib.probes.saving import load_probe, save_probe
from cliplib.reports.methods import KERNEL_LIMIT

CLASSES = ("disc", "square", "stripes")
PROBE = LinearProbe(Cs=(0.01, 1.0))


def clouds(
    encoder: ClipEncoder, *, n: int = 240, spread: float = 0.35, seed: int = 0
) -> FeatureTable:
    """Return three clouds around their own directions, in pairs of near-duplicates."""
    rng = np.random.default_rng(seed)
    labels, centres = np.arange(n // 2) % 3, 3 * np.eye(3, encoder.width) + 1
    single = centres[labels] + spread * rng.normal(size=(n // 2, encoder.width))
    features = np.repeat(single, 2, axis=0) + 0.001 * rng.normal(
        size=(n, encoder.width)
    )
    return FeatureTable(
        features=features.astype(np.float32),
        labels=np.repeat(labels, 2),
        classes=CLASSES,
        ids=np.array([f"cloud/{row:03d}.png" for row in range(n)]),
        splits=np.full(n, ""),
        copies=np.repeat(np.arange(n // 2), 2),
        groups=np.repeat(np.arange(n // 2), 2),
        provenance={"model_fingerprint": encoder.fingerprint, "readout": "pooled"},
    )


def held_out(table: FeatureTable) -> FeatureTable:
    """Return the rows that set the rule."""
    return table.select(group_train_test_split(table.labels, table.groups, parts=4)[1])


@pytest.fixture(scope="module")
def table(tiny: ClipEncoder) -> FeatureTable:
    return clouds(tiny)


@pytest.fixture(scope="module")
def aid(table: FeatureTable, tiny: ClipEncoder) -> DecisionAid:
    return DecisionAid.fit(table, tiny, probe=PROBE)


@pytest.fixture
def saved(aid: DecisionAid, tmp_path: Path) -> Path:
    aid.save(tmp_path / "aid")
    return tmp_path / "aid"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return files of noise, half of them JPEG."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [
        folder / f"{number}.{'jpg' if number % 2 else 'png'}" for number in range(6)
    ]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return paths


# --- the rule


def test_constants_are_those_that_published_numbers_were_made_with() -> None:
    assert (RISK, OUT_OF_DISTRIBUTION) == (0.05, 0.01)
    assert KERNEL_LIMIT == 10_000


@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_the_rule_keeps_its_word_on_the_rows_that_set_it(
    tiny: ClipEncoder, risk: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliplib.aids.decision_aid.OUT_OF_DISTRIBUTION", 0)
    table = clouds(tiny, n=600, spread=2.0)
    aid = DecisionAid.fit(table, tiny, probe=PROBE, risk=risk)
    rows = held_out(table)
    said = aid.decide(rows.features)
    wrong = said["class"].to_numpy() != np.array(CLASSES)[rows.labels]
    answered = ~said["abstained"].to_numpy()
    assert not set(aid.training.groups) & set(rows.groups)
    assert (
        0 < answered.sum() < len(rows) and wrong[answered].mean() <= risk < wrong.mean()
    )
    assert aid.about["of these, answered"] == answered.sum()
    assert aid.about["of the answers, wrong"] == wrong[answered].sum()
    groups = len(set(rows.groups[answered]))
    highest = binomtest(round(groups * wrong[answered].mean()), groups)
    assert aid.about["highest share of errors that so few answers allow"] == (
        pytest.approx(highest.proportion_ci(method="exact").high, abs=0.01)
    )


def test_the_bound_on_similarity_withholds_the_stated_share(
    tiny: ClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliplib.aids.decision_aid.OUT_OF_DISTRIBUTION", 0.1)
    table = clouds(tiny, n=600, spread=2.0)
    aid = DecisionAid.fit(table, tiny, probe=PROBE)
    said = aid.decide(held_out(table).features)
    assert 0.08 < said["reason"].str.contains("out-of-distribution").mean() <= 0.1
    assert (said["reason"] == "out-of-distribution").any()
    assert aid.about["of these, answered"] == (~said["abstained"]).sum()


def test_of_thresholds_that_keep_the_risk_the_one_that_answers_most_is_taken() -> None:
    right = np.array([True, True, False, True, True, False, False])
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    # Risks: 0, 0, 1/3, 1/4, 1/5, 1/3, 3/7.
    assert choose_threshold(right, confidence, 0.25) == 0.5
    assert choose_threshold(right, confidence, 0.1) == 0.8
    assert choose_threshold(right, confidence, 0) == 0.8
    assert choose_threshold(~right, confidence, 0.1) == np.inf


class Watching(LinearProbe):
    """A probe that notes which groups it was fitted with."""

    seen: ClassVar[list[Any]] = []

    def fit(self, X: Any, y: Any, *, groups: Any = None, **options: Any) -> Self:
        self.seen.append(groups)
        return super().fit(X, y, groups=groups, **options)


def test_groups_reach_the_split_and_the_probe(tiny: ClipEncoder) -> None:
    table = clouds(tiny)
    # Declared groups, wider than near-duplicates, and each with images of all classes.
    table = table.with_groups(np.arange(len(table)) // 12)
    aid = DecisionAid.fit(table, tiny, probe=Watching(Cs=(0.01,)))
    rest = ~np.isin(table.ids, aid.training.ids)
    assert not set(aid.training.groups) & set(table.groups[rest])
    (seen,) = Watching.seen
    np.testing.assert_array_equal(seen, aid.training.groups)


def test_an_aid_of_a_kernel_probe_is_saved_and_loaded(
    tiny: ClipEncoder, table: FeatureTable, tmp_path: Path, photos: list[Path]
) -> None:
    aid = DecisionAid.fit(table, tiny, probe=KernelProbe())
    assert aid.about["probe"] == "KernelProbe, readout 'pooled'"
    aid.save(tmp_path / "kernel")
    assert (
        DecisionAid.load(tmp_path / "kernel")
        .classify(photos)
        .equals(aid.classify(photos))
    )


def test_no_similarity_is_above_one(aid: DecisionAid) -> None:
    said = aid.decide(aid.training.features)
    assert said["similarity"].max() == 1
    assert said["nearest"].tolist() == aid.training.ids.tolist()
    strict = replace(aid, min_similarity=1.0)
    assert strict.decide(aid.training.features[:1])["reason"].item() != "unreadable"


def test_what_is_unlike_all_training_is_withheld_however_sure_the_probe(
    aid: DecisionAid,
) -> None:
    strange = np.full((1, aid.encoder.width), -50.0)
    strange[0, 0] = 300.0
    said = aid.decide(strange).iloc[0]
    assert said["probability"] > 0.99 and said["abstained"]
    assert said["reason"] == "out-of-distribution"


def test_a_risk_in_percent_is_refused(tiny: ClipEncoder) -> None:
    table = clouds(tiny, n=60, spread=1.0, seed=1)
    with pytest.raises(ValueError, match="risk=5 must be a share from 0 to 1"):
        DecisionAid.fit(table, tiny, probe=PROBE, risk=5)


def test_an_aid_that_never_answers_says_so_once(
    tiny: ClipEncoder, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    table = clouds(tiny, n=60, spread=500.0, seed=1)
    with caplog.at_level(logging.WARNING, logger="cliplib.aids"):
        aid = DecisionAid.fit(table, tiny, probe=PROBE, risk=0)
    warned = [r.message.partition(":")[0] for r in caplog.records if "aids" in r.name]
    assert warned == ["The decision aid abstains on everything"]
    assert aid.about["of these, answered"] == 0
    assert aid.about["highest share of errors that so few answers allow"] is None
    aid.save(tmp_path / "never")
    again = DecisionAid.load(tmp_path / "never")
    assert (
        math.isinf(again.min_probability)
        and again.decide(table.features)["abstained"].all()
    )


def test_the_temperature_divides_the_logits(
    aid: DecisionAid, table: FeatureTable
) -> None:
    warm = replace(aid, temperature=3.0)
    powered = aid.probe.predict_proba(table.features[:9]) ** (1 / 3)
    expected = powered / powered.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(warm.predict_proba(table.features[:9]), expected)


def test_features_of_another_encoder_are_refused(
    tiny: ClipEncoder, table: FeatureTable
) -> None:
    foreign = table.with_features(
        table.features, model_fingerprint="0" * 32, encoder="other"
    )
    with pytest.raises(ValueError, match="made by another encoder than"):
        DecisionAid.fit(foreign, tiny, probe=PROBE)


def test_features_that_the_encoder_cannot_make_are_refused(
    tiny: ClipEncoder, table: FeatureTable
) -> None:
    scaled = table.with_features(table.features * 2)
    with pytest.raises(ValueError, match="no readout 'own'|'own'"):
        DecisionAid.fit(scaled, tiny, probe=PROBE)


# --- what it says of files


def test_files_are_read_out_as_the_table_was(
    tiny: ClipEncoder, photos: list[Path]
) -> None:
    table, rng = clouds(tiny), np.random.default_rng(0)
    deep = (
        rng.normal(size=(len(table), 3 * tiny.blocks * tiny.width))
        + table.labels[:, None]
    )
    about = {"readout": "deep", "width": str(tiny.width), "blocks": str(tiny.blocks)}
    for readout in ("deep", "pooled"):
        made = table.with_features(deep, **about).with_readout(readout)
        aid = DecisionAid.fit(made, tiny, probe=PROBE)
        expected = aid.decide(
            tiny.encode_images(photos, readout=readout, progress=False)
        )
        assert aid.classify(photos)[expected.columns].equals(expected)


def test_every_file_has_a_row_and_bad_ones_say_why(
    aid: DecisionAid, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in (
        "with space.png",
        "=1+1.png",
        "deep/zeile\nzwei.png",
        "deep/er/写真.png",
    ):
        shutil.copy(photos[0], tmp_path / name)
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), "wb") as file:
        file.write(photos[2].read_bytes())
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:200])
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    rows = aid.classify(tmp_path)
    bad = rows[rows["error"] != ""]
    assert len(rows) == 9 and rows["file"].is_unique
    assert set(bad["file"]) == {"empty.jpg", "notes.txt", "cut.png", "nowhere.png"}
    assert set(bad["reason"]) == {"unreadable"} and bad["abstained"].all()
    assert set(bad["class"]) == {""} and bad["probability"].isna().all()
    good = rows[rows["error"] == ""]
    assert set(good["class"]) <= set(CLASSES) and set(good["nearest"]) <= set(
        aid.training.ids
    )
    assert rows.columns[:5].tolist() == [
        "file",
        "class",
        "probability",
        "abstained",
        "reason",
    ]


def test_a_list_may_hold_images_of_all_kinds(
    aid: DecisionAid, photos: list[Path]
) -> None:
    row = {"path": "sent.png", "bytes": photos[2].read_bytes()}
    rows = aid.classify(
        [photos[0], photos[1].read_bytes(), Image.open(photos[3]), row, b"no"]
    )
    assert rows["file"].iloc[0] == str(photos[0]) and rows["file"].iloc[3] == "sent.png"
    images = [photos[i] for i in (0, 1, 3, 2)]
    readout = aid.training.readout
    features = aid.encoder.encode_images(images, readout=readout, progress=False)
    expected = aid.decide(features)
    assert rows.loc[:3, expected.columns].equals(expected)
    assert rows["reason"].iloc[4] == "unreadable"


def test_one_file_no_file_and_a_wrong_name(
    aid: DecisionAid, photos: list[Path], tmp_path: Path
) -> None:
    assert aid.classify(photos[0])["file"].tolist() == [str(photos[0])]
    assert len(aid.classify(photos[0].read_bytes())) == 1
    assert len(aid.classify(np.zeros((9, 9, 3), np.uint8))) == 1
    assert aid.classify([b"", b"x"])["reason"].tolist() == ["unreadable"] * 2
    assert "No such file" in aid.classify(tmp_path / "missing")["error"][0]
    with pytest.raises(ValueError, match="There is no image in"):
        aid.classify(tmp_path)


# --- its folder


def test_parameters_may_be_of_numpy(table: FeatureTable, tmp_path: Path) -> None:
    probe = LinearProbe(Cs=np.array([0.01, 1], np.float32), seed=np.int64(1))
    save_probe(probe.fit(table.features, table.labels), tmp_path / "probe")
    assert load_probe(tmp_path / "probe").get_params()["Cs"][1] == 1


def parts_of(folder: Path) -> Path:
    """Return the folder that the manifest of a saved aid names."""
    manifest = json.loads((folder / MANIFEST).read_text())
    return folder / manifest["parts"]


def test_a_lost_encoder_is_looked_for_nowhere_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(saved)
    shutil.rmtree(parts / "encoder")
    monkeypatch.chdir(saved.parent)
    with pytest.raises(ValueError, match=f"{parts}/encoder.*there is no such folder"):
        DecisionAid.load(saved.name)  # "aid/…/encoder" might be a hub id


def test_what_is_loaded_says_the_same_to_the_last_bit(
    aid: DecisionAid, saved: Path, table: FeatureTable, photos: list[Path]
) -> None:
    shutil.move(saved, saved.with_name("moved"))
    again = DecisionAid.load(saved.with_name("moved"))
    assert again.classify(photos).equals(aid.classify(photos))
    assert again.decide(table.features).equals(aid.decide(table.features))
    assert dict(again.about) == dict(aid.about)
    assert again.encoder.name == aid.encoder.name


@pytest.mark.parametrize("options", [{"image_size": 48}, {"dtype": "bfloat16"}])
def test_an_encoder_with_settings_is_the_same_after_loading(
    tiny: ClipEncoder,
    saved: Path,
    photos: list[Path],
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    other = ClipEncoder(parts_of(saved) / "encoder", cache=None, **options)
    aid = DecisionAid.fit(clouds(other), other, probe=PROBE)
    aid.save(tmp_path / "other")
    again = DecisionAid.load(tmp_path / "other")
    assert again.encoder.fingerprint == other.fingerprint != tiny.fingerprint
    assert again.encoder.image_size == other.image_size  # as heat maps need it
    assert again.classify(photos).equals(aid.classify(photos))


def test_an_mlp_and_a_class_without_images_are_kept(
    tiny: ClipEncoder, tmp_path: Path
) -> None:
    table = clouds(tiny)
    table = table.select(table.labels != 1)
    aid = DecisionAid.fit(table, tiny, probe=MLPProbe(hidden=8))
    aid.save(tmp_path / "mlp")
    assert (
        DecisionAid.load(tmp_path / "mlp")
        .decide(table.features)
        .equals(aid.decide(table.features))
    )
    assert not aid.predict_proba(table.features)[:, 1].any()


def test_saving_replaces_a_classifier_and_nothing_else(
    saved: Path, tmp_path: Path
) -> None:
    (saved / "mine.txt").write_text("keep me")
    replace(DecisionAid.load(saved), min_probability=0.75).save(
        saved
    )  # over what it was read from
    assert DecisionAid.load(saved).min_probability == 0.75
    assert (saved / "mine.txt").read_text() == "keep me"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="holds something else: choose another"):
        DecisionAid.load(saved).save(tmp_path / "other")


# --- a save that is cut short

WRITES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def save_until(aid: DecisionAid, folder: Path, step: int) -> bool:
    """Save in a process that is killed at a step; return whether it was."""
    child = os.fork()
    if child == 0:
        taken = 0

        def kill(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal taken
            reads = event == "open" and not isinstance(arguments[1], str)
            reads |= event == "open" and "w" not in str(arguments[1])
            if event in WRITES and not reads:
                taken += 1
                if taken > step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        try:
            aid.save(folder)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def content(*folders: Path) -> list[tuple[Path, int]]:
    files = [path for folder in folders for path in folder.rglob("*")]
    return sorted((path, path.stat().st_mtime_ns) for path in files if path.is_file())


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child process")


@needs_fork
def test_a_first_save_that_is_killed_leaves_nothing_in_the_way(
    aid: DecisionAid, tmp_path: Path
) -> None:
    folder, step = tmp_path / "aid", 0
    while save_until(aid, folder, step):
        if (folder / MANIFEST).exists():  # then all of it is there
            DecisionAid.load(folder)
            shutil.rmtree(folder)
        else:
            with pytest.raises(ValueError, match="no whole decision aid"):
                DecisionAid.load(folder)
            check_aid_can_be_saved(folder)
        step += 1
    assert step > 10
    DecisionAid.load(folder)


@needs_fork
def test_an_overwrite_that_is_killed_leaves_the_old_aid_or_the_new_one(
    aid: DecisionAid, tmp_path: Path
) -> None:
    folder, step, seen = tmp_path / "aid", 0, list[float]()
    old, new = replace(aid, min_probability=0.25), replace(aid, min_probability=0.75)
    old.save(folder)
    (folder / "mine.txt").write_text("keep me")
    before = content(folder)
    while save_until(new, folder, step):
        step += 1 if 0.75 not in seen else 5  # then only the old parts are deleted
        if content(folder) == before:
            continue  # as it was, to the last file
        seen.append(DecisionAid.load(folder).min_probability)
        old.save(folder)  # not locked
        left = [name for name in os.listdir(folder) if ".unfinished-" not in name]
        assert len(left) == 3 and os.listdir(tmp_path) == ["aid"]
        assert parts_of(folder).is_dir()
        assert (folder / "mine.txt").read_text() == "keep me"
        before = content(folder)
    assert step > 10
    assert set(seen) == {0.25, 0.75}  # also where parts are there, and no manifest
    assert DecisionAid.load(folder).min_probability == 0.75


def test_an_interrupt_right_after_the_new_manifest_leaves_its_parts(
    aid: DecisionAid, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_and_interrupt(source: Path, target: Path) -> None:
        os.rename(source, target)
        if Path(target).name == MANIFEST:
            raise KeyboardInterrupt

    new = replace(aid, min_probability=0.75)
    monkeypatch.setattr(os, "replace", replace_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        new.save(saved)
    assert DecisionAid.load(saved).min_probability == 0.75


def test_what_killed_saves_have_left_goes_and_what_is_somebodys_own_stays(
    aid: DecisionAid, saved: Path
) -> None:
    (saved / "parts-0123abcd").mkdir()
    (saved / "parts-list").mkdir()  # somebody's own
    aid.save(saved)
    assert {*os.listdir(saved)} == {MANIFEST, "parts-list", parts_of(saved).name}


def save_with_files_of(aid: DecisionAid, folder: Path, limit: int) -> str:
    """Save in a process whose files may have so many bytes; return its complaint."""
    resource = pytest.importorskip("resource")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            aid.save(folder)
        except OSError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as pipe:
        return pipe.read()


@needs_fork
@pytest.mark.parametrize("limit", [100, 20_000])
def test_a_full_disk_is_told_in_a_sentence_and_changes_nothing(
    aid: DecisionAid, saved: Path, limit: int
) -> None:
    before = content(saved)
    told = save_with_files_of(replace(aid, min_probability=0.75), saved, limit)
    assert told.startswith(f"Nothing was written to {saved} (")
    assert told.endswith("What was there is unchanged.") and "File too large" in told
    assert content(saved) == before
    told = save_with_files_of(aid, saved.with_name("first"), limit)
    assert told.startswith("Nothing was written to ")
    assert not os.listdir(saved.with_name("first"))


def test_an_old_aid_that_cannot_be_replaced_stays(
    aid: DecisionAid, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "a file is open")  # as on Windows

    before = content(saved)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="a file is open.*What was there is unchanged"):
        aid.save(saved)
    assert content(saved) == before


def test_a_saved_aid_may_be_read_by_others_and_lies_where_nothing_can_be_moved_to(
    aid: DecisionAid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = os.replace

    def refuse_across(source: Path, target: Path) -> None:
        if target.parent not in source.parents:  # as where a disk is mounted
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        move(source, target)

    monkeypatch.setattr(os, "replace", refuse_across)
    monkeypatch.setattr(os, "rename", None)
    before = os.umask(0o022)
    try:
        aid.save(tmp_path / "aid")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "aid").rglob("*") if path.is_file()]
    assert len(files) > 5
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_where_nothing_can_be_saved_is_known_before(
    saved: Path, tmp_path: Path
) -> None:
    check_aid_can_be_saved(saved)
    check_aid_can_be_saved(tmp_path / "new" / "aid")
    assert not (tmp_path / "new").exists()
    (tmp_path / "text.txt").touch()
    for file in (tmp_path / "text.txt", tmp_path / "text.txt" / "aid"):
        with pytest.raises(OSError, match="Nothing can be written to .*text.txt"):
            check_aid_can_be_saved(file)
    with pytest.raises(FileExistsError, match="holds something else"):
        check_aid_can_be_saved(tmp_path)


def test_a_cache_that_cannot_be_used_is_no_fault_of_the_aid(
    saved: Path,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "text.txt").touch()
    monkeypatch.setenv("CLIPLIB_CACHE", str(tmp_path / "text.txt"))
    for _ in range(2):
        assert (DecisionAid.load(saved).classify(photos)["error"] == "").all()
    assert caplog.text.count("Cannot write to the cache") == 1
    assert "text.txt" in caplog.text


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


PARTS = ("encoder/config.json", "encoder/model.safetensors", "probe/probe.json")
PARTS += ("probe/probe.safetensors", "training/features.safetensors")


@pytest.mark.parametrize("harm", [Path.unlink, cut])
def test_harm_to_any_file_is_told_in_a_sentence(
    saved: Path, harm: Callable[[Path], None]
) -> None:
    for name in PARTS:
        path = parts_of(saved) / name
        whole = path.read_bytes()
        harm(path)
        with pytest.raises(ValueError, match="no whole decision aid"):
            DecisionAid.load(saved)
        path.write_bytes(whole)
    main = saved / "decision_aid.json"
    for content in ("", "{", "[]"):
        main.write_text(content)
        with pytest.raises(ValueError, match="no whole decision aid"):
            DecisionAid.load(saved)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (MANIFEST, "parts", "../elsewhere"),
        (MANIFEST, "parts", 3),
        (MANIFEST, "encoder", []),
        (MANIFEST, "rule", {"temperature": "hot"}),
        (MANIFEST, "rule", {"temperature": -1}),
        (MANIFEST, "rule", {"min_probability": math.nan}),
        (MANIFEST, "rule", {"min_similarity": None}),
        (MANIFEST, "rule", {"about": "a text"}),
        (MANIFEST, "rule", {"about": {"data set": ["a list"]}}),
        (MANIFEST, "encoder", {"name": "a", "image_size": "x", "dtype": "float32"}),
        ("encoder/config.json", "text_config", {"num_hidden_layers": 10**6}),
        ("encoder/config.json", "vision_config", {"num_hidden_layers": 10**6}),
        ("encoder/preprocessor_config.json", "crop_size", 30_000),
        ("encoder/preprocessor_config.json", "size", {"shortest_edge": 30_000}),
        ("probe/probe.json", "kind", "Bomb"),
        ("probe/probe.json", "fitted", {}),
        ("probe/probe.json", "parameters", None),
        ("encoder/config.json", "vision_config", {"hidden_size": 7}),
        ("encoder/config.json", "text_config", "none"),
    ],
)
def test_what_somebody_changed_is_told_in_a_sentence(
    saved: Path, file: str, key: str, value: object
) -> None:
    path = saved / file if file == MANIFEST else parts_of(saved) / file
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, key: value}))
    with pytest.raises(ValueError, match="There is no whole decision aid in ") as told:
        DecisionAid.load(saved)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", -1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("min_probability", math.nan),
        ("min_similarity", math.nan),
    ],
)
def test_a_rule_by_which_it_would_never_abstain_is_refused(
    saved: Path, name: str, value: float
) -> None:
    document = json.loads((saved / MANIFEST).read_text())
    document["rule"][name] = value
    (saved / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"{MANIFEST} has the rule .*{name}"):
        DecisionAid.load(saved)


def test_a_probe_without_numbers_is_refused_and_its_answers_are_none(
    saved: Path,
) -> None:
    aid = DecisionAid.load(saved)
    aid.probe.intercept_[:] = math.nan
    features = aid.training.features[:2]
    assert aid.decide(features)["abstained"].all()
    aid.save(saved)
    with pytest.raises(ValueError, match="gives no probabilities"):
        DecisionAid.load(saved)


def test_what_an_aid_says_about_itself_is_spelled_out(saved: Path) -> None:
    document = json.loads((saved / MANIFEST).read_text())
    document["rule"]["about"]["data set"] = "\u202eedisrever\x1b[2J"
    document["encoder"]["name"] = "\x1b[2J"
    (saved / MANIFEST).write_text(json.dumps(document))
    aid = DecisionAid.load(saved)
    assert aid.about["data set"] == r"\u202eedisrever\x1b[2J"
    assert aid.encoder.name == r"\x1b[2J"


def test_parts_of_two_aids_are_no_aid(aid: DecisionAid, saved: Path) -> None:
    table = FeatureTable.from_arrays(np.eye(4, 3), list("abab"))
    table.save(parts_of(saved) / "training" / "features.safetensors")
    with pytest.raises(ValueError, match="There is no whole decision aid in "):
        DecisionAid.load(saved)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_opening_a_folder_that_somebody_made_runs_nothing(
    saved: Path, tmp_path: Path
) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    pickle.loads(bomb)  # it is live
    (tmp_path / "exploded").rmdir()
    assert {file.suffix for file in saved.rglob("*.*")} <= {
        ".json",
        ".safetensors",
        ".txt",
    }
    parts = parts_of(saved)
    for name in ("probe/probe.pkl", "encoder/pytorch_model.bin", "encoder/modeling.py"):
        (parts / name).write_bytes(bomb)
    DecisionAid.load(saved)
    # So that the pickle is all there is.
    (parts / "encoder" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no whole decision aid"):
        DecisionAid.load(saved)
    assert not (tmp_path / "exploded").exists()
