from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cliplib import figures
from cliplib.errors import CliplibError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPLIB_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("CLIPLIB_RECORD", str(tmp_path / "record.jsonl"))
    figures.start("01_test", data=str(tmp_path / "images"), model="openai/clip-vit-base-patch32", seed=0)
    return tmp_path / "figures"


def line() -> Figure:
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1], [1, 0], label="$x^2$")
    ax.legend()
    return fig


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder.parent / "record.jsonl").read_text().splitlines()]


def test_a_figure_is_saved_with_its_entry_and_shown_with_caption_and_alternative_text(folder: Path) -> None:
    provenance = {"encoder": "mini", "encoder_fingerprint": "ab12", "source": "pack"}
    shown = figures.save_figure(line(), "curve", caption="A curve.", alt="It falls.", provenance=provenance)
    entry = json.loads((folder / "manifest.json").read_text())["curve"]
    assert entry["kind"] == "figure" and entry["files"] == ["curve.png", "curve.svg"] and entry["width"] == 216.0
    assert (entry["caption"], entry["alt"], entry["notebook"]) == ("A curve.", "It falls.", "01_test")
    assert entry["parameters"] == {"data": "images", "model": "openai/clip-vit-base-patch32", "seed": 0}
    assert entry["provenance"] == provenance and "+" not in entry["versions"]["torch"]
    data, metadata = shown._repr_mimebundle_()
    assert data["image/svg+xml"] == (folder / "curve.svg").read_text()
    assert metadata == {"alt": "It falls.", "caption": "A curve.", "id": "curve"}
    assert not plt.get_fignums()


def test_no_path_of_the_machine_is_written(folder: Path, tmp_path: Path) -> None:
    figures.save_figure(line(), "curve", caption="A.", alt="B.", provenance={"encoder": str(tmp_path / "my_clip")})
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert json.loads((folder / "manifest.json").read_text())["curve"]["provenance"]["encoder"] == "my_clip"


def test_the_same_figure_is_the_same_bytes_in_another_process(folder: Path) -> None:
    code = """
import matplotlib.pyplot as plt
from cliplib import figures
figures.start("01_test")
fig, ax = plt.subplots(figsize=(3, 2))
ax.plot([0, 1], [1, 0], label="$x^2$")
ax.legend()
figures.save_figure(fig, "curve", caption="A curve.", alt="It falls.")
"""
    figures.start("01_test")
    figures.save_figure(line(), "curve", caption="A curve.", alt="It falls.")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.glob("curve.*"):
        path.unlink()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [record["status"] for record in records(folder)] == ["rebuilt", "rebuilt"]


def test_an_unchanged_result_keeps_its_versions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures.save_numbers({"a": 1}, "few", caption="Numbers.")
    before = (folder / "manifest.json").read_bytes()
    monkeypatch.setattr(figures.importlib.metadata, "version", lambda name: "99.0+cpu")
    figures.save_numbers({"a": 1}, "few", caption="Numbers.")
    assert (folder / "manifest.json").read_bytes() == before
    figures.save_numbers({"a": 2}, "few", caption="Numbers.")
    assert json.loads((folder / "manifest.json").read_text())["few"]["versions"]["torch"] == "99.0"
    assert [record["status"] for record in records(folder)] == ["rebuilt", "unchanged", "rebuilt"]


def test_numbers_are_plain_sorted_and_rounded(folder: Path) -> None:
    numbers = {"b": np.float32(1 / 3), "a": [np.int64(3), float("nan")], "c": {1: np.array([[2 / 3]]), "none": None}}
    figures.save_numbers(numbers, "few", caption="Numbers.")
    text = (folder / "few.json").read_text()
    assert json.loads(text) == {"a": [3, None], "b": 0.333333, "c": {"1": [[0.666667]], "none": None}}
    assert text.index('"a"') < text.index('"b"') < text.index('"c"')


def test_tables_keep_a_named_index_and_round(folder: Path) -> None:
    frame = pd.DataFrame({"value": [1 / 3, np.nan], "n": [1, 2]}, index=pd.Index(["x", "y"], name="metric"))
    shown = figures.save_table(frame, "few", caption="A table.")
    assert (folder / "few.csv").read_text() == "metric,value,n\nx,0.333333,1\ny,,2\n"
    assert "dataframe" in shown._repr_mimebundle_()[0]["text/html"]
    figures.save_table(frame.reset_index(drop=True), "few", caption="A table.")
    assert (folder / "few.csv").read_text().startswith("value,n\n")
    with pytest.raises(CliplibError, match="2 levels"):
        figures.save_table(pd.DataFrame({("a", "b"): [1]}), "other", caption="A table.")


def test_a_figure_is_kept_when_it_cannot_be_drawn(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    figures.save_figure(line(), "curve", caption="A curve.", alt="It falls.")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with caplog.at_level(logging.WARNING, "cliplib"):
        shown = figures.keep("curve", "no images")
        absent = figures.keep("other", "no images")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "Kept from an earlier run: no images" in shown._repr_mimebundle_()[1]["caption"]
    assert absent._repr_mimebundle_()[0] == {"text/plain": "Not made: no images."}
    assert [record["status"] for record in records(folder)] == ["rebuilt", "kept", "missing"]
    assert len(caplog.messages) == 2
    figures.save_table(pd.DataFrame({"a": [0.5]}), "few", caption="A table.")
    kept = figures.keep("few", "no images")._repr_mimebundle_()
    assert "0.5" in kept[0]["text/html"] and kept[1]["caption"].startswith("A table. (Kept")
    assert records(folder)[-1] == {
        "id": "few", "kind": "table", "notebook": "01_test", "status": "kept", "reason": "no images",
    }  # fmt: skip


def test_misuse_is_refused_in_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures.save_numbers({}, "few", caption="Numbers.")
    for id in ("Few", "a b", "../up", "manifest", "1st"):
        with pytest.raises(CliplibError, match="must consist of"):
            figures.save_numbers({}, id, caption="Numbers.")
    with pytest.raises(CliplibError, match="caption"):
        figures.save_numbers({}, "more", caption=" ")
    with pytest.raises(CliplibError, match="alternative text"):
        figures.save_figure(line(), "curve", caption="A.", alt="")
    with pytest.raises(CliplibError, match="already names"):
        figures.save_table(pd.DataFrame({"a": [1]}), "few", caption="A.")
    figures.start("02_other")
    with pytest.raises(CliplibError, match="belongs to 01_test"):
        figures.save_numbers({}, "few", caption="Numbers.")
    monkeypatch.setattr(figures, "_run", {})
    with pytest.raises(CliplibError, match=r"figures\.start"):
        figures.save_numbers({}, "few", caption="Numbers.")
    plt.close("all")


def test_an_id_that_becomes_another_kind_leaves_no_old_file(folder: Path) -> None:
    figures.save_figure(line(), "thing", caption="A.", alt="B.")
    figures.start("01_test")
    figures.save_numbers({}, "thing", caption="A.")
    assert {path.name for path in folder.glob("thing.*")} == {"thing.json"}


def test_two_processes_write_one_manifest(folder: Path) -> None:
    code = """
import sys
from cliplib import figures
figures.start("01_test")
for i in range(30):
    figures.save_numbers({"i": i}, f"{sys.argv[1]}_{i}", caption="Numbers.")
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b")]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(json.loads((folder / "manifest.json").read_text())) == 60


def test_the_plots_that_many_notebooks_draw() -> None:
    figures.start("01_test")
    grid = figures.image_grid([np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8)], ["a", "b"], columns=4)
    assert len(grid.axes) == 4 and [ax.get_title() for ax in grid.axes] == ["a", "b", "", ""]
    heat = figures.confusion_heatmap([[3, 1], [0, 2]], ["x", "y"])
    assert [text.get_text() for text in heat.axes[0].texts] == ["3", "1", "0", "2"]
    proba = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.55, 0.45]])
    curve = figures.reliability_plot([0, 0, 1, 1], proba, bins=2).axes[0].lines[1]
    assert np.allclose(curve.get_xydata(), [[(0.9 + 0.8 + 0.7 + 0.55) / 4, 0.75]])
    plt.close("all")
