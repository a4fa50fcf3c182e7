"""Results are saved by id, shown with captions, and never overwrite by accident."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

from cliplib import FeatureTable, out_of_fold_proba
from study import results

CAPTIONS = """
curve = {caption = "A curve of {n} points.", alt = "It falls."}
few = {caption = "A few numbers."}
"""
ENCODER = SimpleNamespace(name="/home/me/clip", fingerprint="ab12")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "figures"
    path.mkdir()
    (path / "captions.toml").write_text(CAPTIONS)
    monkeypatch.setenv("CLIPLIB_FIGURES", str(path))
    monkeypatch.setattr(results, "CHECKOUT", tmp_path)
    return path


@pytest.fixture
def study(folder: Path) -> results.Study:
    return results.Study("01_test", ENCODER, seed=np.int64(0))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, Any]]]:
    """What a notebook would show: data by type, and metadata."""
    library, calls = logging.getLogger("cliplib"), []
    before = library.handlers, library.propagate, library.level
    shell = SimpleNamespace(user_ns={"In": []})
    monkeypatch.setattr(results, "get_ipython", lambda: shell)
    monkeypatch.setattr(
        results, "display", lambda x, metadata, raw: calls.append((x, metadata))
    )
    yield calls
    library.handlers, library.propagate = before[:2]
    library.setLevel(before[2])


def line() -> Figure:
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1], [1, 0])
    return fig


def test_a_figure_is_saved_with_its_entry_and_shown_with_its_words(
    folder: Path, study: results.Study, shown: Any
) -> None:
    study.save_figure(line(), "curve", n=2)
    entry = json.loads((folder / "01_test.json").read_text())["results"]["curve"]
    assert entry.pop("parameters") == {"seed": 0} and entry.pop("kind") == "figure"
    words = {"caption": "A curve of 2 points.", "alt": "It falls."}
    assert entry == {
        **words,
        "values": {"n": 2},
        "encoder": "clip",
        "fingerprint": "ab12",
    }  # no path of this machine
    ((data, metadata),) = shown
    assert metadata == words
    assert data["image/svg+xml"] == (folder / "curve.svg").read_text()
    assert (
        'alt="It falls."' in data["text/html"]
        and "A curve of 2 points." in data["text/html"]
    )
    assert not plt.get_fignums()


def test_numbers_are_plain_sorted_rounded_and_named_in_lower_case(
    folder: Path, study: results.Study
) -> None:
    rows = pd.DataFrame({"value": [2 / 3], "low": [np.nan]}, index=["recall@10"])
    study.save_numbers(
        {"zero-shot": np.float32(1 / 3), "b": rows, "a": [np.int64(3)]}, "few"
    )
    text = (folder / "few.json").read_text()
    recall = {"recall_at_10": {"value": 0.666667, "low": None}}
    assert json.loads(text) == {"a": [3], "b": recall, "zero_shot": 0.333333}
    assert text.index('"a"') < text.index('"b"') < text.index('"zero_shot"')


def test_keys_of_several_parts_are_a_path(folder: Path, study: results.Study) -> None:
    study.save_numbers({"a": {"n": 1}, ("a", "b c"): 2, ("a", "d", "e@1"): 3}, "few")
    found = json.loads((folder / "few.json").read_text())
    assert found == {"a": {"n": 1, "b_c": 2, "d": {"e_at_1": 3}}}


def test_a_table_keeps_its_numbers_in_the_file_and_shows_intervals(
    folder: Path, study: results.Study, shown: Any
) -> None:
    values = {
        "f1": [1 / 3, 0.5],
        "f1_low": [0.3, np.nan],
        "f1_high": [0.4, np.nan],
        "n_rows": [1, 2],
    }
    frame = pd.DataFrame(values, index=pd.Index(["x", "y"], name="metric"))
    study.save_table(frame, "few")
    file = "metric,f1,f1_low,f1_high,n_rows\nx,0.333333,0.3,0.4,1\ny,0.5,,,2\n"
    assert (folder / "few.csv").read_text() == file
    html = shown[0][0]["text/html"]
    assert "<caption>A few numbers.</caption>" in html
    assert (
        "0.333\u00a0[0.300,\u00a00.400]" in html
        and "<td>0.500</td>" in html
        and "<th>n rows</th>" in html
        and "f1_low" not in html
    )


def test_nested_numbers_become_a_table_with_intervals_and_titles() -> None:
    low_high = {"value": 0.5, "low": 0.4, "high": 0.6}
    found = {
        ("trashnet", "a"): {"n": 3, "x": low_high},
        ("trashnet", "b"): {"n": 4, "x": low_high},
    }
    table = results.as_table(found, "data set", "kind", titles={"a": "first"})
    assert table is not None and list(table) == ["n", "x", "x_low", "x_high"]
    assert list(table.index) == [("TrashNet", "first"), ("TrashNet", "b")]
    assert table.index.names == ["data set", "kind"]
    frames = {"a": pd.DataFrame({"x": low_high}).T}
    assert results.as_table(frames, "kind").loc["a"].tolist() == [0.5, 0.4, 0.6]  # type: ignore[union-attr]
    assert results.as_table({}, "kind") is None


def test_numbers_that_would_become_one_are_refused_and_nothing_is_lost(
    folder: Path, study: results.Study
) -> None:
    with pytest.raises(
        ValueError, match="'a-b' and 'a b' would both be saved as 'a_b'"
    ):
        study.save_numbers({"a-b": 1, "a b": 2}, "few")
    with pytest.raises(ValueError, match="'a-b' and 'a_b'"):
        study.save_numbers({"a-b": {"x": 1}, ("a_b", "y"): 2}, "few")
    for clash in ({"a": 1, ("a", "b"): 2}, {("a", "b"): 2, "a": {"b": 1}}):
        with pytest.raises(ValueError, match="would overwrite '[ab]'"):
            study.save_numbers(clash, "few")
    study.save_numbers({("a", "b"): 2, "a": {"n": 1}}, "few")
    assert json.loads((folder / "few.json").read_text()) == {"a": {"b": 2, "n": 1}}


def test_whole_numbers_keep_their_value(folder: Path, study: results.Study) -> None:
    study.save_table(pd.DataFrame({"n": [1536123.0, 1536123.25]}), "few")
    assert (folder / "few.csv").read_text() == "n\n1536123.0\n1536120.0\n"


def test_shown_numbers_have_three_digits(study: results.Study, shown: Any) -> None:
    cells = [1536123.0, 0.00012, -0.04567, 0.0, 12, "v 1.25", "003", 2e-05]
    study.save_table(pd.DataFrame({"x": cells}), "few")
    html = shown[0][0]["text/html"]
    wanted = [
        "1536123",
        "1.20e-04",
        "-0.046",
        "0.000",
        "12",
        "v 1.25",
        "003",
        "2.00e-05",
    ]
    assert re.findall("<td>(.*?)</td>", html) == wanted


def test_none_shows_what_an_earlier_run_saved_and_says_why(
    folder: Path, study: results.Study, shown: Any
) -> None:
    study.save_table(pd.DataFrame({"a": [0.5]}), "few")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = results.Study("01_test", ENCODER, seed=1)
    again.save_table(None, "few")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "0.5" in shown[1][0]["text/html"]
    assert shown[1][1]["caption"].endswith(
        "(From an earlier run: no images on this machine.)"
    )
    again.save_figure(None, "curve")
    assert shown[2][1]["caption"] == "curve: never saved, needs images."


def test_what_an_earlier_run_saved_gets_the_caption_of_today(
    folder: Path, study: results.Study, shown: Any
) -> None:
    study.save_table(pd.DataFrame({"a": [0.5]}), "few")
    study.save_figure(line(), "curve", n=9)
    anew = CAPTIONS.replace("few numbers", "few shares")
    anew = anew.replace("A curve of {n}", "The curve has {n}")
    (folder / "captions.toml").write_text(anew)
    again = results.Study("01_test", ENCODER, seed=1)
    again.save_table(None, "few")
    again.save_figure(None, "curve")
    sidecar = json.loads((folder / "01_test.json").read_text("utf-8"))["results"]
    assert sidecar["few"]["caption"] == "A few shares."
    assert sidecar["few"]["parameters"] == {"seed": 0}  # of the run that made it
    assert sidecar["curve"]["caption"] == "The curve has 9 points."
    assert shown[-1][1]["caption"] == "The curve has 9 points." + results.EARLIER


def test_results_of_another_model_are_neither_shown_nor_kept(
    folder: Path,
    tmp_path: Path,
    study: results.Study,
    shown: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study.save_table(pd.DataFrame({"a": [0.5]}), "few")
    monkeypatch.setenv("CLIPLIB_FIGURES", str(tmp_path / "build" / "x" / "figures"))
    other = SimpleNamespace(name="other", fingerprint="cd34")
    results.Study("01_test", other).save_table(None, "few")
    data, words = shown[-1]
    assert list(data) == ["text/plain"]
    assert words["caption"] == "few: not computed for this model, needs images."
    assert not (tmp_path / "build").exists()
    results.Study("01_test", ENCODER, limit=9).save_table(None, "few")  # the same model
    assert (tmp_path / "build" / "x" / "figures" / "few.csv").exists()


def test_playing_writes_to_scratch_and_sees_the_committed_results(
    folder: Path,
    tmp_path: Path,
    study: results.Study,
    shown: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study.save_table(pd.DataFrame({"a": [0.5]}), "few")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.delenv("CLIPLIB_FIGURES")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # from where it is all the same
    play = results.Study("01_test", ENCODER)
    assert play.folder == tmp_path / "build" / "scratch"
    play.save_table(None, "few")
    assert "0.5" in shown[-1][0]["text/html"] and not play.folder.exists()
    play.save_table(pd.DataFrame({"a": [0.7]}), "few")
    play.save_table(None, "few")
    assert "0.7" in shown[-1][0]["text/html"]  # the last one played with
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_result_that_agrees_to_the_printed_digits_stays(
    folder: Path, study: results.Study, shown: Any
) -> None:
    study.save_table(pd.DataFrame({"a": [0.5]}), "few")
    before = (folder / "few.csv").read_bytes()
    study.save_table(pd.DataFrame({"a": [0.500002]}), "few")
    assert (folder / "few.csv").read_bytes() == before
    assert shown[0] == shown[1]
    study.save_table(pd.DataFrame({"a": [0.502]}), "few")
    assert (folder / "few.csv").read_bytes() != before


def test_a_misspelt_parameter_stops_a_notebook() -> None:
    cells = ["", "# why\nseed = 0\nlimit = 0", "# Parameters\nlimit = 9\n", "x = 1"]
    results.refuse_unknown_parameters(cells)
    cells[2] = "# Parameters\nlimti = 9\n"
    sentence = "This notebook has no parameter 'limti'; there are: limit, seed."
    with pytest.raises(ValueError, match=sentence):
        results.refuse_unknown_parameters(cells)


def test_what_is_kept_is_read_again_until_the_code_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def answer(number: int) -> int:
        calls.append(number)
        return number + 1

    for _ in range(2):
        assert results.Study("01_test").memory.cache(answer)(1) == 2
    assert calls == [1]
    monkeypatch.setattr(results, "_digest_of_code", lambda: "another")
    assert results.Study("02_other").memory.cache(answer)(1) == 2
    assert calls == [1, 1]
    assert len(list((tmp_path / "build" / "predictions").iterdir())) == 1


def test_predictions_are_kept_until_anything_that_they_rest_on_changes(
    study: results.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    groups = np.arange(40) // 2
    first = FeatureTable.from_arrays(X, y, classes=["a", "b"], groups=groups)
    nearest = KNeighborsClassifier()
    proba = study.out_of_fold_proba(nearest, first)
    np.testing.assert_array_equal(proba, out_of_fold_proba(nearest, first))
    fits = []
    monkeypatch.setattr(KNeighborsClassifier, "fit", lambda *_: fits.append(1))
    again = FeatureTable.from_arrays(X, y, classes=["a", "b"], groups=groups)
    np.testing.assert_array_equal(study.out_of_fold_proba(nearest, again), proba)
    changes: list[dict[str, Any]] = [
        {"estimator": KNeighborsClassifier(3)},
        {"table": first.with_features(X + 1)},
        {"table": dataclasses.replace(first, labels=1 - y)},
        {"groups": np.arange(40)},
        {"seed": 1},
    ]
    for change in changes:
        arguments: dict[str, Any] = {"estimator": nearest, "table": first, **change}
        with pytest.raises(AttributeError):  # what `fit` would return is missing
            study.out_of_fold_proba(**arguments)
    assert len(fits) == len(changes)


def test_a_result_without_words_is_refused(folder: Path, study: results.Study) -> None:
    with pytest.raises(
        ValueError, match=r"Write 'absent' into \[absent\] in figures/captions.toml"
    ):
        study.save_numbers({}, "absent")
    with pytest.raises(ValueError, match="Write 'alt' into"):
        study.save_figure(line(), "few")
    with pytest.raises(ValueError, match="'n' .* or give its value on saving"):
        study.save_figure(line(), "curve")


def test_in_a_notebook_log_lines_are_plain_and_come_once(
    folder: Path,
    shown: list[tuple[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("CLIPLIB_FIGURES")
    for _ in range(2):
        results.Study("01_test")
    logging.getLogger("cliplib.data.folder").info("found")
    logging.getLogger("x").info("noise")
    told = capsys.readouterr()
    assert told.out.splitlines().count("found") == 1 and "noise" not in told.out
    assert "found" not in told.err and "Results go to" in told.out


def test_what_was_summed_in_another_order_is_not_taken_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    of_one = results._digest_of_code()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert results._digest_of_code() != of_one
