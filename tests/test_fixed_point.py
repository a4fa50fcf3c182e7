"""Small notebooks, executed from the committed features, change no committed file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

from study.results import package_versions

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "figures"


@pytest.mark.parametrize("name", ["10_embedded_model", "26_summary"])
def test_an_executed_notebook_changes_no_committed_result(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papermill = pytest.importorskip("papermill")
    made = json.loads((FIGURES / f"{name}.json").read_text("utf-8"))
    if made["versions"] != package_versions():
        pytest.skip("the committed results were made with other versions")
    monkeypatch.syspath_prepend(str(ROOT / "report"))
    import places
    import surroundings

    figures = tmp_path / "figures"
    shutil.copytree(FIGURES, figures)
    (figures / f"{name}.json").unlink()  # it is written anew
    with mock.patch.dict(os.environ):
        surroundings.prepare(places.Places(ROOT), "", "")
        os.environ["CLIPLIB_FIGURES"] = str(figures)
        papermill.execute_notebook(
            str(ROOT / "notebooks" / f"{name}.ipynb"),
            str(tmp_path / "executed.ipynb"),
            cwd=str(tmp_path),  # any folder will do
            kernel_name="python3",
            progress_bar=False,
        )
    changed = [
        path.name
        for path in figures.iterdir()
        if (FIGURES / path.name).read_bytes() != path.read_bytes()
    ]
    assert changed == []
