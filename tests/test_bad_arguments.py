"""Bad arguments and data sets, as a user meets them in a notebook or in `make report`: one sentence, no traceback.

Each module's own tests look at its refusals one by one (tests/test_data.py, test_table.py, test_checkpoint.py,
test_packs.py, test_probes.py, test_encoder.py, test_report.py); here each is seen through what IPython shows.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from safetensors.torch import load_file, save_file

import cliplib
from cliplib import FeatureTable, figures, load_dataset, packs
from cliplib.encoder import ClipEncoder

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import build  # noqa: E402
from nbtypst.tables import table_to_typst  # noqa: E402

MARKUP = ("<script>alert(1)</script>", "#panic()", "$x$ *y* _z_ `w` [a](b)", "a & b \"c\" 'd'")


class Harmful:
    """Pickled, it makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder of everything that is wrong."""
    root = tmp_path_factory.mktemp("bad")
    (root / "no_images").mkdir()
    picture(root / "one_image" / "cat" / "1.png")
    picture(root / "empty_class" / "cat" / "1.png")
    (root / "empty_class" / "dog").mkdir()
    trees = {
        "one_class": ["cat/1", "cat/2", "cat/3"],
        "only_test": ["train/cat/1", "train/dog/1", "test/cat/2", "test/dog/2", "test/fox/2"],
        "mixed": ["train/cat/1", "dog/1"], "nested": ["cat/1", "dog/black/1"], "loose": ["1", "cat/1"],
    }  # fmt: skip
    for name, files in trees.items():
        for seed, file in enumerate(files):
            picture(root / name / f"{file}.png", seed)
    copies = ["other_architecture", "no_weights", "lacking", "nan", "harmful", "remote"]
    model = {name: Path(shutil.copytree(tiny_checkpoint, root / name)) for name in copies}
    edit(model["other_architecture"] / "config.json", model_type="siglip")
    (model["no_weights"] / "model.safetensors").unlink()
    rewrite(model["lacking"], lambda weights: weights.pop("visual_projection.weight"))
    rewrite(model["nan"], lambda weights: weights["visual_projection.weight"].fill_(np.nan))
    (model["harmful"] / "model.safetensors").unlink()
    (model["harmful"] / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful(root / "ran"), protocol=2))
    edit(model["remote"] / "config.json", auto_map={"AutoModel": "modeling.Model"})
    (model["remote"] / "modeling.py").write_text(f"open({str(root / 'ran')!r}, 'w')")
    (root / "packs").mkdir()
    for name in ("brain_tumor_mri", "trashnet"):
        shutil.copy(ROOT / "cliplib" / "packs" / f"{name}.safetensors", root / "packs")
    os.truncate(root / "packs" / "trashnet.safetensors", 9999)
    (root / "cut").write_bytes(b"x" * 100)
    return root


SPLIT = "t = load_features(bad / 'only_test', encoder); train, test = t.split('train'), t.split('test'); "
FIT = "t = load_features(bad / {!r}, encoder); LinearProbe().fit(t.features, t.labels)"
TABLE = (
    "FeatureTable(**{{'features': np.eye(3), 'labels': [0, 1, 0], 'classes': ('a', 'b'), 'ids': list('xyz'), "
    "'splits': [''] * 3, {}}})"
)
KINDS = "'pooled' or 'projected'"

# What a user writes, and the sentence that comes of it.
CASES: dict[str, tuple[str, str]] = {
    "no images": ("load_features(bad / 'no_images', encoder)",
        r"The folder '.*no_images' holds no class folders: put each class's images into a folder\."),
    "one image": (FIT.format("one_image"), r"y holds only one class, '0': a classifier needs at least two\."),
    "one class": (FIT.format("one_class"), r"y holds only one class, '0': a classifier needs at least two\."),
    "class only in the test": (
        SPLIT + "p = LinearProbe(l2=1.0).fit(train.features, train.labels); "
        "evaluate(test.labels, p.predict_proba(test.features), t.classes)",
        r"3 distinct class names are needed for 2 probability columns: \('cat', 'dog', 'fox'\).*\."),
    "class without training images": (
        SPLIT + "LinearProbe().fit(train.features, train.labels, X_val=test.features, y_val=test.labels)",
        r"y_val holds the class '2', which y lacks: train on every class\."),
    "no such split": (SPLIT + "t.split('val')", r"The table has no split 'val'; its splits are 'test', 'train'\."),
    "nothing to evaluate": ("evaluate(np.zeros(0, int), np.zeros((0, 2)), ('a', 'b'))",
        r"y_true must be a one-dimensional array of .*\."),
    "mixed nesting": ("load_features(bad / 'mixed', encoder)",
        r"The folder '.*mixed' mixes splits \(train\) and other .*\."),
    "folders in a class": ("load_features(bad / 'nested', encoder)",
        r"The class folder '.*dog' holds the folder 'black': .*\."),
    "image outside classes": ("load_features(bad / 'loose', encoder)",
        r"The image '.*1\.png' lies outside the class folders: .*\."),
    "NaN features": (TABLE.format("'features': np.full((3, 2), np.nan)"),
        r"features hold NaN or infinity in 3 rows, the first one 'x'\."),
    "NaN features, probe": ("LinearProbe().fit([[np.nan], [1.0]], [0, 1])",
        r"Input X contains NaN: drop or repair such rows\."),
    "labels out of range": (TABLE.format("'labels': [0, 1, 7]"),
        r"labels must lie in 0 to 1, as there are 2 classes\."),
    "labels out of range, evaluation": ("evaluate([0, 7], np.eye(2), ('a', 'b'))",
        r"y_true holds labels from 0 to 7, but 0\.\.1 .*\."),
    "duplicated ids": (TABLE.format("'ids': ['x', 'x', 'y']"), r"ids must be unique, but 'x' occurs more than once\."),
    "unknown data set": ("load_features('mnist', encoder)",
        r"'mnist' is neither a known data set \(brain_tumor_mri, trashnet\) nor a folder\."),
    "unknown data folder": ("load_features('trashnet', encoder, data='/nowhere')",
        r"The data folder '/nowhere' \(from data\) does not exist: name another, or none\."),
    "data folder of something else": ("load_features('trashnet', encoder, data=bad / 'one_class')",
        r"The data folder '.*one_class' \(from data\) holds neither trashnet/ nor its class folders \(cardboard, .*\."),
    "unknown model": ("ClipEncoder.from_pretrained('/nowhere')",
        r"There is no model '/nowhere': name a folder with .*\."),
    "model out of reach": ("ClipEncoder.from_pretrained('somebody/clip')",
        r"Cannot get the model 'somebody/clip': .*\."),
    "unknown dtype": ("ClipEncoder.from_pretrained(dtype='int8')", r"The dtype 'int8' is unknown: use 'auto', .*\."),
    "unknown device": ("ClipEncoder.from_pretrained(device='abacus')",
        r"The device 'abacus' is unknown or not available here: use 'auto' or 'cpu'\."),
    "device without numbers": ("ClipEncoder.from_pretrained(device='meta')",
        r"The device 'meta' is unknown or not .*\."),
    "unknown kind": ("encoder.images([], kind='pool')", rf"kind must be {KINDS}, not 'pool'\."),
    "unknown errors": ("encoder.images([], errors='ignore')", r"errors must be 'raise' or 'report', not 'ignore'\."),
    "broken image": ("encoder.images([bad / 'cut'])", r"Cannot read the image '.*cut': it is not a picture .*\."),
    "negative limit": ("load_features(bad / 'one_class', encoder, limit=-1)",
        r"limit must be 0 \(all\) or a number .*, not -1\."),
    "no seed": ("load_features(bad / 'one_class', encoder, seed='x')",
        r"seed must be a whole number of at least 0, not 'x'\."),
    "no encoder": ("load_features('trashnet', 'mini')",
        r"encoder must be a ClipEncoder, such as ClipEncoder\.from_pretrained\(\), not 'mini'\."),
    "empty class folder": ("load_features(bad / 'empty_class', encoder)",
        r"The class folder '.*dog' holds no images: fill it, or remove it\."),
    "unequal lengths": ("LinearProbe().fit(np.eye(3), [0, 1])",
        r"Found input variables with inconsistent numbers of samples: \[3, 2\]"),
    "no checkpoint": ("ClipEncoder.from_pretrained(bad / 'no_images')",
        r"The checkpoint '.*' is not a checkpoint: there is no config\.json in it\."),
    "other architecture": ("ClipEncoder.from_pretrained(bad / 'other_architecture')",
        r"The checkpoint '.*' is a model of the type 'siglip'; only CLIP checkpoints \(type 'clip'\) work here\."),
    "no weights": ("ClipEncoder.from_pretrained(bad / 'no_weights')",
        r"The checkpoint '.*' has no weights: neither .*\."),
    "missing weights": ("ClipEncoder.from_pretrained(bad / 'lacking')",
        r"The checkpoint '.*' lacks 1 weights, the first is 'visual_projection\.weight': it is incomplete\."),
    "NaN weights": ("ClipEncoder.from_pretrained(bad / 'nan')",
        r"The model 'nan' has NaN or infinity in its weight 'visual_projection\.weight': get an intact copy\."),
    "more than tensors": ("ClipEncoder.from_pretrained(bad / 'harmful')",
        r"The checkpoint '.*' is refused: its pytorch_model\.bin is damaged or holds more than tensors, which could "
        r"run code when opened; use a safetensors copy\."),
    "remote code": ("ClipEncoder.from_pretrained(bad / 'remote')",
        r"The checkpoint '.*' is refused: its config\.json asks to run code of its own, which is never done here\."),
    "pack cut short": ("load_features('trashnet', encoder)",
        r"'.*trashnet\.safetensors' is no feature table, or it is damaged or cut short: make it anew\."),
    "pack of another encoder": ("load_features('brain_tumor_mri', encoder)",
        r"The embedded features of 'brain_tumor_mri' are those of the encoder 'mini' \(fingerprint .*\), not of .*\."),
    "no table": ("FeatureTable.load(bad / 'cut')",
        r"'.*cut' is no feature table, or it is damaged or cut short: make .*\."),
    "no probe": ("load_probe(bad / 'no_images')", r".*no_images does not hold a probe saved by save_probe \(.*\)\."),
    "no store": ("FeatureStore(bad / 'cut' / 'features.sqlite')",
        r"Cannot use the feature store '.*' \(.*\): free some space, .*\."),
    "a result without a start": ("figures._run.clear(); figures.save_numbers({}, 'x', caption='x')",
        r"Call cliplib.*"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_notebook_shows_one_sentence(
    name: str, bad: Path, tiny_encoder: ClipEncoder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "FOLDER", bad / "packs")
    code, sentence = CASES[name]
    shell = InteractiveShell()
    shell.user_ns.update(vars(cliplib), bad=bad, encoder=tiny_encoder, np=np)
    found = shell.run_cell(code)
    (line,) = capsys.readouterr().out.splitlines()
    kind = type(found.error_in_exec)
    assert issubclass(kind, cliplib.CliplibError) and kind.__module__ == "cliplib.errors"
    assert re.fullmatch(f"{kind.__name__}: {sentence}", line), line
    assert not (bad / "ran").exists()


def test_the_harm_in_the_table_is_real(bad: Path) -> None:
    pickle.loads((bad / "harmful" / "pytorch_model.bin").read_bytes())
    assert (bad / "ran").exists()
    (bad / "ran").unlink()


def test_make_report_ends_with_one_sentence(bad: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("report", "notebooks"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "report" / "meta.toml", tmp_path / "report")
    library = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    opens = f"{library}\nfrom cliplib import ClipEncoder\nClipEncoder.from_pretrained(model)"
    cells = [
        nbformat.v4.new_code_cell('model = ""', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(opens),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "notebooks" / "01_a.ipynb")
    with pytest.raises(SystemExit) as stop:
        build.main(["--model", str(bad / "harmful")], tmp_path)
    sentence = r"CliplibError: The checkpoint '.*harmful' is refused: its pytorch_model\.bin .*"
    assert re.fullmatch(rf"01_a\.ipynb failed: cell \d \[\d\] raised {sentence}", str(stop.value)), stop.value
    assert "\n" not in str(stop.value) and "Traceback" not in "".join(capfd.readouterr())
    stored = nbformat.read(tmp_path / "build" / "executed" / "01_a.ipynb", 4)
    outputs = [output for cell in stored.cells for output in cell.get("outputs", [])]
    (shown,) = [output["traceback"] for output in outputs if output["output_type"] == "error"]
    assert len(shown) == 1 and re.fullmatch(sentence, shown[0])
    assert not (bad / "ran").exists()


def test_class_names_with_markup_stay_text(tmp_path: Path, tiny_encoder: ClipEncoder) -> None:
    names = sorted(name.replace("/", "\N{DIVISION SLASH}") for name in MARKUP)
    for name in names:
        picture(tmp_path / "odd" / name / "1.png")
    dataset = load_dataset(tmp_path / "odd")
    assert dataset is not None
    table = tiny_encoder.table(dataset, progress=False)
    assert list(table.classes) == names and [name.split("/")[0] for name in table.ids] == names
    table.save(tmp_path / "t.safetensors")
    assert FeatureTable.load(tmp_path / "t.safetensors").classes == table.classes
    figures.start("00_markup")
    frame = cliplib.evaluate([0, 1, 2, 3] * 2, np.tile(np.eye(4), (2, 1)), names).per_class.reset_index()
    shown = figures.save_table(frame, "odd", caption="<b>odd</b>").data["text/html"]
    assert "<script" not in shown and "&lt;script&gt;" in shown
    typeset = table_to_typst(shown)
    assert "#panic" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", typeset) and "#panic()" in typeset


def test_ten_thousand_classes(tmp_path: Path, tiny_encoder: ClipEncoder) -> None:
    picture(tmp_path / "one.png")
    for number in range(10_000):
        (tmp_path / "many" / f"{number:05}").mkdir(parents=True)
        os.link(tmp_path / "one.png", tmp_path / "many" / f"{number:05}" / "1.png")
    dataset = load_dataset(tmp_path / "many")
    assert dataset is not None and list(dataset["label"]) == list(range(10_000))
    features = np.random.default_rng(0).normal(size=(10_000, 4))
    splits = np.array(["train", "test"])[np.arange(10_000) % 2]
    names = tuple(dataset.features["label"].names)
    table = FeatureTable(features, np.array(dataset["label"]), names, np.array(dataset["id"]), splits)
    table.save(tmp_path / "t.safetensors")
    again = FeatureTable.load(tmp_path / "t.safetensors")
    assert again.classes == names and len(again.split("test")) == 5_000 and len(again.subset(100)) == 10_000
