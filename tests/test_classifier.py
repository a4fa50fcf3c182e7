"""The classifier: how it is made, what it says of files of all kinds, and its folder, which holds nothing that runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliplib.classifier import Classifier
from cliplib.classifier.files import list_files, printable
from cliplib.classifier.saved import digests
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError
from cliplib.probes import LinearProbe, MLPProbe, validation_split
from cliplib.table import FeatureTable

CLASSES = ("disc", "<b>square</b>", "stripes")


def make_table(
    encoder: ClipEncoder, *, n: int = 240, seed: int = 0, spread: float = 0.35, **about: str
) -> FeatureTable:
    """Three clouds around directions of their own, in pairs of near-duplicates."""
    rng = np.random.default_rng(seed)
    labels, centres = np.arange(n // 2) % 3, 3 * np.eye(3, encoder.dim) + 1
    single = centres[labels] + spread * rng.normal(size=(n // 2, encoder.dim))
    features = np.repeat(single, 2, axis=0) + 0.001 * rng.normal(size=(n, encoder.dim))
    known = {"encoder": encoder.name, "model_fingerprint": encoder.model_fingerprint(), "dataset": "clouds"}
    known |= {"kind": "pooled", "normalized": "false"}
    ids = np.array([f"cloud/{i:03d}.png" for i in range(n)])
    groups = np.repeat(np.arange(n // 2), 2)
    return FeatureTable(features, np.repeat(labels, 2), CLASSES, ids, np.full(n, ""), groups, known | about)


def two_parts(table: FeatureTable) -> tuple[FeatureTable, FeatureTable]:
    train, validation = validation_split(table.labels, table.groups, 0.3, 0)
    return table.select(train), table.select(validation)


@pytest.fixture(scope="module")
def table(tiny_encoder: ClipEncoder) -> FeatureTable:
    return make_table(tiny_encoder)


@pytest.fixture(scope="module")
def classifier(table: FeatureTable, tiny_encoder: ClipEncoder) -> Classifier:
    return Classifier.fit(tiny_encoder, *two_parts(table), probe=LinearProbe(l2=1.0))


@pytest.fixture
def saved(classifier: Classifier, tmp_path: Path) -> Path:
    return classifier.save(tmp_path / "made")


def test_only_training_rows_are_neighbours(classifier: Classifier, table: FeatureTable) -> None:
    assert classifier.training.ids.tolist() == two_parts(table)[0].ids.tolist()


def test_each_neighbour_is_the_nearest_of_another_group(classifier: Classifier, table: FeatureTable) -> None:
    rows, similarity = classifier.neighbours(table.features[:5], 4)
    known = classifier.training
    unit = known.features / np.linalg.norm(known.features, axis=1, keepdims=True)
    for x, found, cosines in zip(table.features, rows, similarity, strict=False):
        scores = unit @ (x / np.linalg.norm(x))
        best = {g: scores[known.groups == g].max() for g in np.unique(known.groups)}
        np.testing.assert_allclose(cosines, sorted(best.values(), reverse=True)[:4], rtol=1e-5)
        np.testing.assert_allclose(scores[found], cosines, rtol=1e-5)
        assert len(set(known.groups[found])) == 4


def test_the_refusal_rule_keeps_its_word_on_the_rows_that_set_it(tiny_encoder: ClipEncoder) -> None:
    train, held = two_parts(make_table(tiny_encoder, n=600, spread=2.0))
    for target in (0.05, 0.2):
        made = Classifier.fit(tiny_encoder, train, held, probe=LinearProbe(l2=1.0), risk=target, unfamiliar=0)
        said = made.decide(held.features)
        wrong = said["class"].to_numpy() != np.array(CLASSES, dtype=object)[held.labels]
        answered = ~said["refused"].to_numpy()
        assert 0 < answered.sum() < len(held) and wrong[answered].mean() <= target < wrong.mean()
        assert (said["refused"] == (said["probability"] < made.min_probability)).all()
        assert set(said["reason"]) == {"", "uncertain"}
        assert made.about["share of these that was answered"] == answered.mean()
        assert made.about["share of errors among the answers"] == wrong[answered].mean()


def test_the_bound_on_similarity_refuses_the_stated_share(tiny_encoder: ClipEncoder) -> None:
    train, held = two_parts(make_table(tiny_encoder, n=600, spread=2.0))
    made = Classifier.fit(tiny_encoder, train, held, probe=LinearProbe(l2=1.0), unfamiliar=0.1)
    seen = made.decide(held.features)["reason"].str.contains("unfamiliar").mean()
    assert 0.08 < seen <= 0.1


def test_what_cannot_be_told_apart_is_refused_altogether(tiny_encoder: ClipEncoder) -> None:
    noise = make_table(tiny_encoder, n=240, spread=500.0)
    made = Classifier.fit(tiny_encoder, *two_parts(noise), probe=LinearProbe(l2=1.0), risk=0.0)
    assert made.decide(noise.features)["refused"].mean() > 0.9


def test_what_is_unlike_all_training_is_unfamiliar_however_sure_the_probe(classifier: Classifier) -> None:
    strange = np.full((1, classifier.encoder.dim), -50.0)
    strange[0, 0] = 300.0
    said = classifier.decide(strange).iloc[0]
    assert said["probability"] > 0.99 and said["refused"] and said["reason"] == "unfamiliar"
    assert said["neighbour_1_similarity"] < classifier.min_similarity


def test_temperature_is_applied(classifier: Classifier, table: FeatureTable) -> None:
    raw, cooled = classifier.probe.predict_proba(table.features[:9]), classifier.predict_proba(table.features[:9])
    powered = raw ** (1 / classifier.temperature)
    np.testing.assert_allclose(cooled, powered / powered.sum(axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "about", "message"),
    [
        ({"risk": 1.0}, {}, "shares from 0 to below 1"),
        ({"unfamiliar": -0.1}, {}, "shares from 0 to below 1"),
        ({}, {"model_fingerprint": "0" * 32}, "made by the encoder 'tiny-clip' .fingerprint 000000000000.*make them"),
        ({}, {"normalized": "true"}, "pooled and unnormalised"),
        ({}, {"kind": "projected"}, "pooled and unnormalised"),
    ],
)
def test_fit_refuses_in_a_sentence(
    tiny_encoder: ClipEncoder, options: dict[str, float], about: dict[str, str], message: str
) -> None:
    with pytest.raises(CliplibError, match=message):
        Classifier.fit(tiny_encoder, *two_parts(make_table(tiny_encoder, **about)), **options)  # type: ignore[arg-type]


def test_training_and_validation_must_be_apart_and_alike(tiny_encoder: ClipEncoder, table: FeatureTable) -> None:
    train, validation = two_parts(table)
    with pytest.raises(CliplibError, match="share 1 pictures, such as 'cloud/"):
        Classifier.fit(
            tiny_encoder,
            train,
            table.select(
                np.append(np.flatnonzero(np.isin(table.ids, validation.ids)), np.flatnonzero(table.ids == train.ids[0]))
            ),
        )
    with pytest.raises(CliplibError, match="same classes in the same order"):
        Classifier.fit(tiny_encoder, train, replace(validation, classes=CLASSES[::-1]))


# --- what it says of files


@pytest.fixture
def odd_files(image_files: list[Path], tmp_path: Path) -> Path:
    """A folder as people have them: good and bad pictures under all kinds of names, in folders and links."""
    folder = tmp_path / "odd files"
    names = ["with space.png", "=1+1.png", "zeile\nzwei.png", "写真.png", "<img src=x onerror=alert(1)>&amp;.png"]
    for number, name in enumerate(names):
        place = folder / ("deep/er" if number % 2 else ".")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(image_files[number], place / name)
    with open(os.path.join(os.fsencode(folder), b"caf\xe9.png"), "wb") as file:
        file.write(image_files[7].read_bytes())
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no picture")
    (folder / "cut.png").write_bytes(image_files[1].read_bytes()[:200])
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "linked").symlink_to(image_files[0].parent, target_is_directory=True)
    return folder


def test_every_file_is_a_row_and_bad_ones_say_why(classifier: Classifier, odd_files: Path) -> None:
    rows = classifier.classify(odd_files, progress=False)
    assert len(rows) == 11 and rows["file"].is_unique
    wrong = dict(zip(rows["file"], rows["error"], strict=True))
    assert wrong["empty.jpg"] == "it is empty" and wrong["nowhere.png"] == "it is not a regular file"
    assert "not a picture in a format" in wrong["notes.txt"] and wrong["cut.png"] and wrong["linked"]
    bad = rows[rows["error"] != ""]
    assert len(bad) == 5 and bad["refused"].all() and set(bad["reason"]) == {"unreadable"}
    assert (bad["class"] == "").all() and bad["probability"].isna().all() and (bad["neighbour_1"] == "").all()
    good = rows[rows["error"] == ""]
    assert set(good["class"]) <= set(CLASSES) and good["probability"].between(1 / 3, 1).all()
    assert set(good["neighbour_2"]) <= set(classifier.training.ids)
    assert {"zeile\\nzwei.png", "deep/er/写真.png", "caf\\udce9.png", "with space.png"} <= set(good["file"])
    assert list(rows.columns[:5]) == ["file", "class", "probability", "refused", "reason"]
    assert rows["refused"].dtype == bool and rows["probability"].dtype == np.float64


def test_names_never_break_a_line_or_an_encoding(classifier: Classifier, odd_files: Path) -> None:
    rows = classifier.classify(odd_files, progress=False)
    for name in rows["file"]:
        assert name.isprintable()
        name.encode("utf-8")


def test_rows_are_in_the_order_of_a_list_and_equal_those_of_the_features(
    classifier: Classifier, image_files: list[Path]
) -> None:
    items = [image_files[3], image_files[0].read_bytes(), Image.open(image_files[9]), str(image_files[5]), b"none"]
    rows = classifier.classify(items, progress=False, k=1)
    assert rows["file"].tolist() == [
        str(image_files[3]), "<image 1>", str(image_files[9]), str(image_files[5]), "<image 4>"
    ]  # fmt: skip
    features = classifier.encoder.images([image_files[i] for i in (3, 0, 9, 5)], progress=False)
    said = classifier.decide(features, k=1)
    assert rows.loc[:3, said.columns].equals(said) and rows.loc[4, "refused"]


def test_one_file_no_file_and_a_wrong_name(classifier: Classifier, image_files: list[Path], tmp_path: Path) -> None:
    assert classifier.classify(image_files[0], progress=False)["file"].tolist() == [image_files[0].name]
    (tmp_path / "bare").mkdir()
    empty = classifier.classify(tmp_path / "bare", progress=False)
    assert len(empty) == 0 and {"file", "class", "error"} <= set(empty.columns)
    all_bad = classifier.classify([b"", b"x"], progress=False)
    assert all_bad["refused"].tolist() == [True, True]
    with pytest.raises(CliplibError, match="There is no folder and no file"):
        classifier.classify(tmp_path / "missing", progress=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b.png", "a b.png"), ("a\nb", "a\\nb"), ("\u202egpj.exe", "\\u202egpj.exe"), ("caf\udce9", "caf\\udce9"),
        ("\ud800x", "\\ud800x"), ("写真", "写真"), ("nul\x00", "nul\\x00"),
    ],
)  # fmt: skip
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown and printable(shown) == shown


def test_a_folder_that_cannot_be_listed_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.png").touch()
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [file.name for file in list_files(tmp_path)] == ["closed", "open.png"]


# --- the folder


def test_what_is_loaded_says_the_same_to_the_last_bit(
    classifier: Classifier, saved: Path, table: FeatureTable, image_files: list[Path]
) -> None:
    shutil.move(saved, saved.with_name("moved"))
    again = Classifier.load(saved.with_name("moved"))
    assert again.encoder is not classifier.encoder and again.encoder.name == "tiny-clip"
    assert again.encoder.model_fingerprint() == classifier.encoder.model_fingerprint()
    assert again.decide(table.features).equals(classifier.decide(table.features))
    assert dict(again.about) == dict(classifier.about)
    assert again.classify(image_files[:3], progress=False).equals(classifier.classify(image_files[:3], progress=False))


def test_a_rounded_tower_gives_the_same_features_again(
    tiny_checkpoint: Path, image_files: list[Path], tmp_path: Path
) -> None:
    half = ClipEncoder.from_pretrained(tiny_checkpoint, device="cpu", dtype="bfloat16")
    made = Classifier.fit(half, *two_parts(make_table(half)), probe=LinearProbe(l2=1.0))
    made.save(tmp_path / "half")
    again = Classifier.load(tmp_path / "half").encoder
    assert again.dtype == "bfloat16"
    assert (again.images(image_files[:4], progress=False) == half.images(image_files[:4], progress=False)).all()


def test_an_mlp_probe_and_classes_without_rows(tiny_encoder: ClipEncoder, tmp_path: Path) -> None:
    table = make_table(tiny_encoder)
    table = table.select(table.labels != 1)
    made = Classifier.fit(tiny_encoder, *two_parts(table), probe=MLPProbe(hidden=8, max_epochs=20))
    loaded = Classifier.load(made.save(tmp_path / "mlp"))
    assert loaded.decide(table.features).equals(made.decide(table.features))
    assert loaded.predict_proba(table.features)[:, 1].max() < 1e-30


def test_only_json_text_and_safetensors_are_in_the_folder(saved: Path) -> None:
    inside = {p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()}
    assert {"classifier.json", "probe/probe.safetensors", "training.safetensors"} <= inside
    assert {"encoder/config.json", "encoder/model.safetensors", "encoder/preprocessor_config.json"} <= inside
    assert {Path(name).suffix for name in inside} <= {".json", ".safetensors", ".txt"}
    assert set(digests(saved)) == inside - {"classifier.json"}


def test_saving_replaces_a_classifier_and_nothing_else(classifier: Classifier, saved: Path, tmp_path: Path) -> None:
    (saved / "mine.txt").write_text("keep me")
    loaded = Classifier.load(saved)
    replace(loaded, min_probability=0.75).save(saved)  # over the very files that it was loaded from
    assert Classifier.load(saved).min_probability == 0.75 and (saved / "mine.txt").read_text() == "keep me"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(CliplibError, match="holds something else than a classifier: choose another folder"):
        classifier.save(tmp_path / "other")
    with pytest.raises(CliplibError, match="Cannot write the classifier"):
        classifier.save(tmp_path / "other" / "thesis.txt" / "made")


def test_a_save_that_breaks_off_is_refused(
    classifier: Classifier, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeatureTable, "save", full)
    with pytest.raises(CliplibError, match=r"Cannot write the classifier .*: No space left on device"):
        classifier.save(saved)
    with pytest.raises(CliplibError, match="There is no classifier in the folder"):
        Classifier.load(saved)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


PARTS = (
    "encoder/config.json",
    "encoder/model.safetensors",
    "probe/probe.json",
    "probe/probe.safetensors",
    "training.safetensors",
)


@pytest.mark.parametrize("harm", [Path.unlink, cut, changed])
@pytest.mark.parametrize("name", PARTS)
def test_harm_to_any_file_is_told_in_a_sentence(saved: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(saved / name)
    with pytest.raises(
        CliplibError, match=r"^The classifier '.*' cannot be read \(its .* is missing, .* anew\.$"
    ) as told:
        Classifier.load(saved)
    assert name in str(told.value)


def reseal(saved: Path, **values: object) -> None:
    """Change a folder as somebody would who knows its digests."""
    path = saved / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": digests(saved)} | values))


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.0}, {"temperature": "hot"}, {"min_probability": float("nan")}, {"min_similarity": None},
        {"about": 3}, {"format": "cliplib-classifier/9"}, {"dtype": "bfloat17"}, {"files": []},
        {"files": {"../../etc/passwd": "0"}},
    ],
)  # fmt: skip
def test_a_forged_folder_is_told_in_a_sentence(saved: Path, values: dict[str, object]) -> None:
    reseal(saved, **values)
    with pytest.raises(CliplibError) as told:
        Classifier.load(saved)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "cliplib-classifier/1"}'])
def test_a_damaged_main_file_is_told_in_a_sentence(saved: Path, content: str) -> None:
    (saved / "classifier.json").write_text(content)
    with pytest.raises(CliplibError, match=r"cannot be read \(.*\): copy the whole folder again, or save it anew\.$"):
        Classifier.load(saved)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_opening_a_folder_that_somebody_made_cannot_run_code(saved: Path, tmp_path: Path) -> None:
    target, bomb = tmp_path / "exploded", pickle.dumps(Bomb(tmp_path / "exploded"))
    pickle.loads(bomb)  # the bomb is live
    target.rmdir()
    for name in PARTS:
        folder = tmp_path / "forged" / name.replace("/", "-")
        shutil.copytree(saved, folder)
        (folder / name).write_bytes(bomb)
        reseal(folder)
        with pytest.raises(CliplibError):
            Classifier.load(folder)
    (saved / "__init__.py").write_text("raise SystemExit")
    (saved / "probe" / "probe.pkl").write_bytes(bomb)
    (saved / "encoder" / "pytorch_model.bin").write_bytes(bomb)
    Classifier.load(saved)
    (saved / "encoder" / "model.safetensors").unlink()  # so that the pickle is all there is
    reseal(saved)
    with pytest.raises(CliplibError, match=r"its encoder/model\.safetensors is missing"):
        Classifier.load(saved)
    assert not target.exists()
