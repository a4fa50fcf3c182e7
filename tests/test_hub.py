"""Models and data sets from their homes: whole, once, and each fault in a sentence."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
import traceback
import types
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_hub import COMMIT, STORAGE, FakeHub, make_trashnet
from huggingface_hub import close_session
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from tiny_clip import make_checkpoint
from transformers import BitImageProcessorPil, CLIPModel, Dinov2Config, Dinov2Model

from cliplib.data import hub
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.vision import VisionEncoder
from study import archives
from study.data import (
    DATASETS,
    dataset_spec,
    difference_from_report,
    fetch_dataset,
    load_dataset,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import surroundings  # noqa: E402
from places import Places  # noqa: E402

OPENAI = "openai/clip-vit-base-patch32"
LAION = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
SHARDED = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
DINO = "facebook/dinov2-small"
CODE = "somebody/needs-code"
BOMB = "somebody/bomb"


class Bomb:
    """A pickle of it runs code when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out tiny models as they are published, and two that hold code."""
    folder = tmp_path_factory.mktemp("hub")
    models = folder / "models"
    plain = make_checkpoint(models / LAION)
    state = CLIPModel.from_pretrained(plain).state_dict()
    positions = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    torch.save(state | positions, plain / "pytorch_model.bin")
    for name in ("open_clip_pytorch_model.bin", "README.md"):
        (plain / name).write_bytes(b"not for transformers")
    openai = shutil.copytree(plain, models / OPENAI)
    (openai / "model.safetensors").unlink()
    tokenizer = json.loads((openai / "tokenizer.json").read_text())["model"]
    merges = "\n".join(" ".join(merge) for merge in tokenizer["merges"])
    (openai / "vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    (openai / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    for name in ("flax_model.msgpack", "tf_model.h5"):
        (openai / name).write_bytes(b"of another framework")
    sharded = shutil.copytree(plain, models / SHARDED)
    for name in ("model.safetensors", "pytorch_model.bin"):
        (sharded / name).unlink()
    CLIPModel.from_pretrained(plain).save_pretrained(sharded, max_shard_size="60KB")
    bomb = shutil.copytree(openai, models / BOMB)
    torch.save(state | {"bomb": Bomb()}, bomb / "pytorch_model.bin")
    make_dino(models / DINO)
    code = shutil.copytree(models / DINO, models / CODE)
    config = json.loads((code / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModel": "own.Own"}}
    config["auto_map"]["AutoConfig"] = "own.OwnConfig"
    (code / "config.json").write_text(json.dumps(config))
    (code / "own.py").write_text("raise SystemExit('code of a checkpoint was run')")
    make_trashnet(folder, trashnet_images())
    return folder


def make_dino(folder: Path) -> None:
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 28}).save_pretrained(folder)


def trashnet_images() -> dict[str, bytes]:
    """Return two images a class, as files."""
    rng = np.random.default_rng(0)
    images = {}
    for name in DATASETS["trashnet"].phrases:
        for number in (1, 2):
            file = io.BytesIO()
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(file, "JPEG")
            images[f"{name}/{name}{number}.jpg"] = file.getvalue()
    return images


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub cache"


@pytest.fixture
def fake(
    repositories: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    server = FakeHub(repositories)
    server.use(monkeypatch, cache)
    yield server
    server.end()


@pytest.fixture
def sentences(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [record.getMessage() for record in caplog.records]


# --- Weights ----------------------------------------------------------------------


def test_weights_come_as_pickle_as_safetensors_and_in_shards(fake: FakeHub) -> None:
    names = (OPENAI, LAION, SHARDED)
    encoders = [ClipEncoder(name, cache=None) for name in names]
    assert len({encoder.fingerprint for encoder in encoders}) == 1
    assert [encoder.name for encoder in encoders] == [*names]
    sent = fake.fetched()
    assert sent.count("pytorch_model.bin") == sent.count("model.safetensors") == 1
    unread = {"flax_model.msgpack", "tf_model.h5", "open_clip_pytorch_model.bin"}
    assert not unread & {*sent}


def test_a_model_is_fetched_once_and_nothing_is_posted(fake: FakeHub) -> None:
    first = ClipEncoder(OPENAI, cache=None)
    asked = len(fake.requests)
    assert ClipEncoder(OPENAI, cache=None).fingerprint == first.fingerprint
    assert len(fake.requests) == asked
    assert not [each for each in fake.requests if each.startswith("POST")]
    assert not [each for each in fake.requests if "discussions" in each]


@pytest.mark.parametrize("fault", ["401", "429", "500", "login page"])
def test_what_was_fetched_before_needs_no_hub(fault: str, fake: FakeHub) -> None:
    folder = hub.fetch_model(OPENAI)
    fake.fault = fault
    assert hub.fetch_model(OPENAI) == folder
    assert hub.fetch_model(f"{OPENAI}@{COMMIT}") == folder


def test_nor_does_it_need_a_network(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.fetch_model(OPENAI)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.fetch_model(OPENAI) == folder
    fake.end()
    assert hub.fetch_model(OPENAI) == folder


def test_nor_a_cache_that_transformers_made(fake: FakeHub, cache: Path) -> None:
    folder = hub.fetch_model(OPENAI)
    for listing in cache.rglob("trees/*"):
        listing.unlink()
    fake.fault = "503"
    assert hub.fetch_model(OPENAI) == folder


def test_a_revision_is_named_behind_the_name(fake: FakeHub) -> None:
    assert ClipEncoder(f"{LAION}@v1", cache=None).name == f"{LAION}@v1"
    assert any("/revision/v1" in each for each in fake.requests)
    with pytest.raises(OSError, match="not there at the revision 'v2'"):
        ClipEncoder(f"{LAION}@v2", cache=None)


def test_a_download_that_broke_off_is_not_taken_for_the_whole(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's tries
    fake.fault = "breaks off"
    with pytest.raises(hub.DownloadError):
        hub.fetch_model(OPENAI)
    sent = fake.fetched()
    fake.fault = "429"
    with pytest.raises(hub.DownloadError, match="answers 429: try again"):
        hub.fetch_model(OPENAI)
    fake.fault = ""
    assert ClipEncoder(OPENAI, cache=None).width == 32
    # What was finished, the settings, did not come again.
    assert set(fake.fetched()[len(sent) :]) == {"pytorch_model.bin"}


def test_a_snapshot_that_lacks_a_file_is_completed(fake: FakeHub) -> None:
    for name in (OPENAI, SHARDED):
        folder = hub.fetch_model(name)
        file = max(folder.iterdir(), key=lambda path: path.stat().st_size)
        file.resolve().unlink()
        file.unlink()
        asked = len(fake.fetched())
        assert (hub.fetch_model(name) / file.name).is_file()
        assert fake.fetched()[asked:] == [file.name]


def damage(file: Path) -> None:
    """Change a byte of a file in the client's cache."""
    blob = file.resolve()
    content = bytearray(blob.read_bytes())
    content[-9] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)


@pytest.mark.parametrize(
    "file",
    ["model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"],
)
def test_what_is_damaged_is_fetched_again(
    fake: FakeHub, sentences: Callable[[], list[str]], file: str
) -> None:
    folder = hub.fetch_model(LAION)
    whole = (folder / file).read_bytes()
    damage(folder / file)
    asked = len(fake.fetched())
    assert hub.fetch_model(LAION) == folder
    assert (folder / file).read_bytes() == whole
    assert fake.fetched()[asked:] == [file]
    assert sentences() == [f"{LAION}: {file} is damaged: fetched again"]
    damage(folder / file)
    fake.fault = "503"
    with pytest.raises(OSError, match="answers 503"):
        ClipEncoder(LAION, cache=None)


def test_files_that_a_mirror_names_otherwise_are_kept(
    fake: FakeHub, sentences: Callable[[], list[str]]
) -> None:
    link = hub.fetch_model(LAION) / "config.json"
    blob = link.resolve()
    link.unlink()
    link.symlink_to(blob.rename(blob.with_name('"etag-of-a-mirror"')))
    hub.fetch_model(LAION)
    assert link.read_bytes() and sentences() == []


def test_a_kind_that_is_no_clip_is_refused_before_its_weights_come(
    fake: FakeHub,
) -> None:
    sentence = "it is no CLIP but dinov2, which VisionEncoder takes"
    with pytest.raises(OSError, match=sentence):
        ClipEncoder(DINO, cache=None)
    assert "config.json" in fake.fetched()
    assert "model.safetensors" not in fake.fetched()


def test_a_checkpoints_code_never_runs(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(OSError, match="needs code of its makers, which is never run"):
        VisionEncoder(CODE)
    with pytest.raises(OSError, match="pickle of weights holds code, or") as e:
        ClipEncoder(BOMB, cache=None)
    assert "weights_only" not in str(e.value) and "trust" not in str(e.value)


def test_other_vision_models_come_from_the_hub(fake: FakeHub) -> None:
    assert VisionEncoder(DINO).model.config.hidden_size == 32
    assert "own.py" not in fake.fetched()


# --- What goes wrong --------------------------------------------------------------

NOT_SHOWN = "is not there, or not for you: correct the name, or accept its terms"
FAULTS = {
    "gated": NOT_SHOWN,
    "bad token": NOT_SHOWN,
    "400": "answers 400: try again",
    "401": NOT_SHOWN,
    "403": NOT_SHOWN,
    "404": NOT_SHOWN,
    "407": r"no usable answer came from .* \(.*407.*name its proxy, with its login",
    "429": "answers 429: try again in some minutes, logged in",
    "500": "answers 500: try again in some minutes",
    "503": "answers 503: try again in some minutes",
    "login page": "no usable answer came from .*log in to your network with a browser",
    "hang": r"no usable answer came from .* \(.*timed out\)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_sentence(
    fault: str, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "hang":  # the others answer, however busy the machine is
        monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.3)
    fake.fault = fault
    with pytest.raises(OSError, match=FAULTS[fault]) as error:
        ClipEncoder(OPENAI, cache=None)
    assert fake.address in str(error.value)
    assert_is_one_sentence(error.value)
    assert len(fake.requests) <= 1  # at once; a busy hub may not have heard it yet


def assert_is_one_sentence(error: BaseException) -> None:
    """Check its text, and that no error of a client is told above it."""
    text = str(error)
    assert text.startswith("Cannot load the model 'openai/") and text.endswith(".")
    assert "\n" not in text and ". " not in text
    told = "".join(traceback.format_exception(error))
    assert "huggingface_hub" not in told and told.count("\n") < 20


@pytest.mark.parametrize("status", ["407", "403"])
def test_a_proxy_that_lets_nobody_through_is_told_from_the_hub(
    status: str, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", fake.address)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.example")
    close_session()
    fake.fault = status
    sentence = f"answer came from https://hub.example .{status}.*with its login"
    with pytest.raises(OSError, match=sentence) as error:
        ClipEncoder(OPENAI, cache=None)
    assert_is_one_sentence(error.value)


def test_where_the_storage_is_blocked_it_is_named(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's tries
    fake.fault = "no storage"
    with pytest.raises(OSError, match=f"answer came from {STORAGE}") as error:
        ClipEncoder(OPENAI, cache=None)
    assert fake.address not in str(error.value)
    assert_is_one_sentence(error.value)


def test_a_refused_connection_has_its_sentence(fake: FakeHub) -> None:
    fake.end()
    with pytest.raises(OSError, match="no usable answer.*HF_ENDPOINT") as error:
        ClipEncoder(OPENAI, cache=None)
    assert_is_one_sentence(error.value)


def test_offline_without_a_cache_has_its_sentence(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE.*: unset it") as error:
        ClipEncoder(OPENAI, cache=None)
    assert_is_one_sentence(error.value)


def test_a_cache_that_is_a_file_is_named(fake: FakeHub, cache: Path) -> None:
    cache.write_bytes(b"")
    with pytest.raises(OSError, match=f"{cache} cannot be written to .*HF_HOME") as e:
        ClipEncoder(OPENAI, cache=None)
    assert_is_one_sentence(e.value)


def test_a_cache_that_is_read_only_serves_what_it_has(
    fake: FakeHub, cache: Path
) -> None:
    folder = hub.fetch_model(OPENAI)
    places = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    for path in places:
        path.chmod(0o555)
    try:
        assert hub.fetch_model(OPENAI) == folder
    finally:
        for path in places:
            path.chmod(0o755)


def test_a_proxy_that_does_not_answer_and_an_unknown_certificate_have_theirs(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as behind:
        behind.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        close_session()
        with pytest.raises(OSError, match="no usable answer.*HTTPS_PROXY") as error:
            ClipEncoder(OPENAI, cache=None)
    assert_is_one_sentence(error.value)
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate with")
    fake.use_certificate(tmp_path)
    fake.use(monkeypatch, tmp_path / "cache")
    with pytest.raises(OSError, match=r"\(.*CERTIFICATE_VERIFY.*SSL_CERT_FILE") as e:
        ClipEncoder(OPENAI, cache=None)
    assert_is_one_sentence(e.value)


RAISED = {
    "cannot be written to .No space left on device.: make room": OSError(
        28, "No space left on device"
    ),
    "answer came from https://cas.example .*HF_ENDPOINT": RuntimeError(
        "CAS Client Error: error sending request for url (https://cas.example/v1/x)"
    ),
    r"^no usable answer came from https?://.* \('x'\)": KeyError("x"),
}


@pytest.mark.parametrize("sentence", RAISED)
def test_what_no_server_can_show_is_told_by_its_exception(sentence: str) -> None:
    with pytest.raises(hub.DownloadError, match=sentence), hub.explained(OPENAI):
        raise RAISED[sentence]


def test_the_cause_is_told_that_the_client_hides() -> None:
    hidden = TimeoutError("it took too long")
    with pytest.raises(hub.DownloadError, match="it took too"), hub.explained(OPENAI):
        raise LocalEntryNotFoundError("check your connection") from hidden


# --- Data sets --------------------------------------------------------------------


def test_trashnet_comes_whole_and_is_compared_with_the_report(
    fake: FakeHub, sentences: Callable[[], list[str]]
) -> None:
    found = load_dataset("trashnet", data="hub")
    assert len(found) == 12 and found.info.builder_name == "hub"
    assert set(found["split"][:]) <= {"train", "val", "test"}
    said = " ".join(sentences())
    assert "12 images, 2,527 in the report; 2,515 of the report are missing" in said
    assert "dataset-resized.zip of garythung/trashnet is not the version" in said
    assert fake.fetched() == ["dataset-resized.zip"]
    fake.fault = "500"
    assert len(load_dataset("trashnet", data="hub")) == 12


def test_an_unpacking_that_was_ended_is_begun_anew(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = zipfile.ZipFile.extractall

    def ended(self: Any, path: Path) -> None:
        self.extract(self.namelist()[0], path)
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "extractall", ended)
    with pytest.raises(KeyboardInterrupt):
        fetch_dataset("trashnet")
    monkeypatch.setattr(zipfile.ZipFile, "extractall", whole)
    assert len(load_dataset("trashnet", data="hub")) == 12


def test_only_an_archive_of_the_report_is_compared_with_it(
    fake: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    archive = ("garythung/trashnet", "dataset-resized.zip")
    warning = "not the version of the report"
    archives.fetch_archive(*archive)
    assert warning not in caplog.text
    archives.fetch_archive(*archive, sha256_of_report="0" * 64)
    assert warning in caplog.text


def test_two_at_once_both_see_all_images(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = []
    unpack = zipfile.ZipFile.extractall

    def slowly(archive: zipfile.ZipFile, *arguments: object) -> None:
        unpacked.append(archive.filename)
        unpack(archive, *arguments)
        time.sleep(0.2)  # the other one waits at the lock meanwhile

    monkeypatch.setattr(zipfile.ZipFile, "extractall", slowly)

    def count(_: int) -> int:
        folder = archives.fetch_archive("garythung/trashnet", "dataset-resized.zip")
        return len([*folder.rglob("*[0-9].jpg")])

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(count, range(2))] == [12, 12]
    assert len(unpacked) == 1


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Put something in the place of Kaggle's client; return what it is asked for."""
    asked: list[str] = []

    def download(handle: str) -> str:
        asked.append(handle)
        for split in ("Training", "Testing"):
            for name in DATASETS["brain_tumor_mri"].phrases:
                folder = tmp_path / "kaggle" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8)).save(folder / "1.jpg")
        return str(tmp_path / "kaggle")

    client = types.SimpleNamespace(dataset_download=download)
    monkeypatch.setitem(sys.modules, "kagglehub", client)  # type: ignore[arg-type]
    return asked


def test_brain_mri_comes_from_kaggle_in_its_first_version(kaggle: list[str]) -> None:
    assert len(load_dataset("brain_tumor_mri", data="hub")) == 8
    assert kaggle == [f"{dataset_spec('brain_tumor_mri').kaggle}"]
    assert kaggle[0].endswith("/versions/1")


def test_without_kaggles_client_the_command_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="python -m pip install kagglehub"):
        load_dataset("brain_tumor_mri", data="hub")


def test_a_set_without_a_home_is_none(fake: FakeHub) -> None:
    assert load_dataset("waste_aquatrash", data="hub") is None
    assert not fake.requests


def test_the_difference_from_the_report_is_one_sentence() -> None:
    known = [f"{name}/{name}1.jpg" for name in ("glass", "metal")]
    assert difference_from_report("trashnet", [*known, "glass/new.jpg"]) == (
        "TrashNet: 3 images, 2,527 in the report; 1 of them is not in it; "
        "2,525 of the report are missing."
    )


# --- The report -------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "checkout", "clip_hub", "clip", "images of the hub")


def test_a_build_gets_a_folder_with_what_the_homes_give(
    fake: FakeHub, kaggle: list[str], places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPLIB_DATA", "hub")
    folder, notes = surroundings.find_images(places, "hub", OPENAI)
    assert sorted(path.name for path in Path(folder).iterdir()) == [
        "brain_tumor_mri",
        "trashnet",
    ]
    assert len(load_dataset("trashnet", data=folder)) == 12
    titles = ", ".join(DATASETS[name].title for name in EXTERNAL)
    assert notes[0] == f"No images here of: {titles}."
    assert notes[1].startswith("Brain Tumor MRI Dataset: 8 images, 7,019 in the report")
    # The embedded model has features of what is missing.
    assert surroundings.find_images(places, "hub", "")[1] == notes[1:]


EXTERNAL = ("brain_mri_navoneel", "waste_aquatrash")


def test_a_build_goes_on_with_what_comes(
    fake: FakeHub, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPLIB_DATA", "hub")
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # type: ignore[arg-type]
    folder, notes = surroundings.find_images(places, "hub", OPENAI)
    assert [path.name for path in Path(folder).iterdir()] == ["trashnet"]
    assert "Cannot download Brain Tumor MRI Dataset" in notes[0]
    assert "python -m pip install kagglehub" in notes[0]
    fake.fault = "503"
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(places.root / "empty")
    )
    with pytest.raises(OSError, match="Cannot download Brain Tumor MRI"):
        surroundings.find_images(places, "hub", OPENAI)


def test_a_build_fetches_before_its_notebooks_which_ask_no_hub(
    fake: FakeHub, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # type: ignore[arg-type]
    monkeypatch.setattr(Places, "epoch", lambda _: 0)
    with monkeypatch.context() as kept:
        kept.setattr(os, "environ", dict(os.environ))
        given = {"others": f"['{DINO}']"}
        notes = surroundings.prepare(places, "hub", OPENAI, given)
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert os.environ["CLIPLIB_DATA"] == str(places.work / "images")
    assert notes[-1].startswith("TrashNet: 12 images, 2,527 in the report")
    assert fake.fetched().count("pytorch_model.bin") == 1
    assert any(DINO in each for each in fake.requests)


def test_what_cannot_be_measured_is_refused_before_anything_is_fetched(
    fake: FakeHub, places: Places
) -> None:
    with pytest.raises(SystemExit, match=f"To measure {OPENAI}, name a folder"):
        surroundings.prepare(places, "", OPENAI)
    assert not fake.requests


def test_notes_name_no_path(places: Places) -> None:
    places.keep_notes(
        [
            "Notebook 12 is left out: '/home/me/a b.jpg' at C:\\x\\y\\z.",
            "See https://example.org/a/b/c, or 3/4.",
        ]
    )
    assert places.notes == [
        "Notebook 12 is left out: 'a b.jpg' at z.",
        "See https://example.org/a/b/c, or 3/4.",
    ]
