"""A toy report goes the whole way from a notebook to a PDF; the real one is compiled from committed results."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pypdf
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import build  # noqa: E402  # isort: skip  (there may be a folder of this name)
from execute import _told_once, environment  # noqa: E402
from nbtypst.outputs import PrepareOutputs, scrub  # noqa: E402
from nbtypst.tables import is_table, table_to_typst  # noqa: E402
from nbtypst.text import html_to_typst, markdown_to_typst, steady, typst_string  # noqa: E402
from project import BuildError, Project  # noqa: E402
from typeset import compile_pdf, export  # noqa: E402

HEADING = re.compile(r"^(?:=+ |#heading\(numbering: none\)\[)([^<\]\n]+)", re.MULTILINE)


def squeeze(text: str) -> str:
    """Text without white space and soft hyphens: lines break where they like."""
    return re.sub(r"[\s\u00ad\u200b]|-\n", "", text)


def text_of(pdf: Path) -> str:
    return squeeze("\n".join(page.extract_text() for page in pypdf.PdfReader(pdf).pages))


def holds(text: str, words: str) -> bool:
    """Whether the PDF's text has the words, also where a line was hyphenated."""
    return squeeze(words).replace("-", "") in text.replace("-", "")


def printed(share: float) -> str:
    """Percent as the report prints it; halves are rounded up."""
    return f"{math.floor(share * 100 * 10 + 0.5) / 10:.1f}"


def copy_report(root: Path) -> Path:
    shutil.copytree(ROOT / "report", root / "report", ignore=shutil.ignore_patterns("*.pdf", "*.py", "__pycache__"))
    return root


def make_toy(root: Path) -> Path:
    copy_report(root)
    shutil.copytree(ROOT / "tests" / "toy_report" / "notebooks", root / "notebooks")
    shutil.copy(ROOT / "tests" / "toy_report" / "report.typ", root / "report")
    return root


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = make_toy(tmp_path_factory.mktemp("toy"))
    build.main(["--standard", "a-2u"], root)
    yield root


def test_the_pdf_holds_every_number_caption_and_heading(toy: Path) -> None:
    text = text_of(toy / "report" / "report.pdf")
    numbers = json.loads((toy / "figures" / "toy_numbers.json").read_text())
    accuracy = numbers["linear"]["accuracy"]
    percent = [printed(accuracy[key]) for key in ("value", "low", "high")]
    assert holds(text, "{}% [{}, {}]".format(*percent))
    assert holds(text, "0.988 [0.970, 0.990], above chance") and holds(text, "12,345") and holds(text, "300 held-out")
    for entry in json.loads((toy / "figures" / "manifest.json").read_text()).values():
        assert entry["kind"] == "numbers" or text.count(squeeze(entry["caption"])) >= 2  # the report and its appendix
    for heading in HEADING.findall((toy / "report" / "report.typ").read_text()):
        assert holds(text, heading), heading
    sweep = pd.read_csv(toy / "figures" / "toy_sweep.csv")
    for row in sweep.itertuples():
        assert holds(text, f"{printed(row.accuracy)} [{printed(row.accuracy_low)}, {printed(row.accuracy_high)}]")
    assert holds(text, "Not markup: # not a heading, @not_a_reference, $5") and holds(text, "#strong[typst]")
    assert holds(text, "there are no photographs") and "0x…" in text
    assert text.count("onstderr") == 1  # in the cell's code, not below it


def test_the_pdf_is_tagged_archivable_and_has_alternative_texts(toy: Path) -> None:
    reader = pypdf.PdfReader(toy / "report" / "report.pdf")
    catalog = reader.trailer["/Root"]
    assert catalog["/MarkInfo"]["/Marked"] and catalog["/Lang"].startswith("en")
    assert b'part="2"' in (found := catalog["/Metadata"].get_object().get_data()) or b"<pdfaid:part>2" in found
    alternatives: list[str] = []

    def walk(node: Any) -> None:
        node = node.get_object() if hasattr(node, "get_object") else node
        if isinstance(node, dict):
            if "/Alt" in node:
                alternatives.append(str(node["/Alt"]))
            walk(node.get("/K"))
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(catalog["/StructTreeRoot"])
    manifest = json.loads((toy / "figures" / "manifest.json").read_text())
    for entry in manifest.values():
        assert entry["kind"] != "figure" or alternatives.count(entry["alt"]) == 2
    assert any(alt.startswith("the loss is") for alt in alternatives)
    assert any("\\operatorname{sim}" in alt for alt in alternatives)  # a formula of a notebook speaks its source


def test_notebooks_use_no_instructions_that_another_processor_may_lack(toy: Path) -> None:
    code = """if True:
        import json, numpy, scipy.linalg, threadpoolctl, torch
        found = numpy.show_config(mode="dicts")["SIMD Extensions"]["found"]
        cores = {each.get("architecture") for each in threadpoolctl.threadpool_info()} - {None}
        print(json.dumps([torch.backends.cpu.get_cpu_capability(), found, sorted(cores)]))"""
    env = environment(Project(toy), 1)
    if "OPENBLAS_CORETYPE" not in env:
        pytest.skip("this processor has no AVX2")
    out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    capability, found, cores = json.loads(out)
    assert capability == "AVX2" and cores == ["Haswell"]
    assert not [name for name in found if "512" in name or name == "X86_V4"]


def test_building_again_elsewhere_gives_the_same_bytes(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = make_toy(tmp_path / "else where")
    shutil.copytree(toy / "figures", again / "figures")
    build.main(["--standard", "a-2u"], again)
    for name in ("report/report.pdf", "figures/manifest.json", "figures/toy_sweep.csv", "figures/toy_confusion.svg"):
        assert (again / name).read_bytes() == (toy / name).read_bytes(), name
    table = capsys.readouterr().out
    assert (
        re.search(r"figure +0 +2 +0", table)
        and re.search(r"result +0 +0 +0 +1", table)
        and re.search(r"table +0 +1 +0 +0", table)
    )
    assert "toy_photographs missing: there are no photographs" in table and "01_toy" in table and "typst" in table
    assert (again / "build" / "summary.txt").read_text() == table

    build.main(["--standard", "a-2u"], again)  # nothing has changed: nothing is executed, and all is the same
    assert (again / "report" / "report.pdf").read_bytes() == (toy / "report" / "report.pdf").read_bytes()
    table = capsys.readouterr().out
    assert "Notebooks executed: 0 of 1 (--fresh executes all)" in table and re.search(r"figure +0 +2 +0", table)
    assert re.search(r"01_toy +unchanged inputs, not executed again", table)


def test_one_notebook_or_all_come_as_a_pdf_of_their_own(toy: Path) -> None:
    build.main(["--no-exec", "--only", "notebooks/01_toy.ipynb"], toy)
    build.main(["--no-exec", "--appendix", "--out", str(toy / "all.pdf")], toy)
    assert holds(text_of(toy / "build" / "01_toy.pdf"), "Handwritten digits")
    assert holds(text_of(toy / "all.pdf"), "Confusion matrix of logistic regression")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "nonsense=1"], "No notebook has a parameter 'nonsense'; there are: data, limit, model, seed."),
        (["-p", "nonsense"], "Write a parameter as name=value"),
        (["--data", "no/such/folder"], "There is no folder no/such/folder"),
        (["--only", "09_none.ipynb"], "There is no notebook 09_none.ipynb"),
        (["--no-exec"], "build once without --no-exec"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        build.main(arguments, make_toy(tmp_path))
    assert not (tmp_path / "report" / "report.pdf").exists()


def test_a_failing_notebook_ends_the_build_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        build.main(["-p", "limit=1"], make_toy(tmp_path))
    pattern = r"01_toy\.ipynb failed: cell \d+ \[\d+\] raised ValueError: .+ build/executed/01_toy\.ipynb\."
    assert re.fullmatch(pattern, str(stop.value))
    assert (tmp_path / "build" / "executed" / "01_toy.ipynb").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('fig("toy_examples")', 'fig("absent")', 'no "absent": run the notebook that writes it'),
        ('fig("toy_examples")', 'fig("toy_sweep")', "not of the kind figure but table"),
        ("linear.auroc.value", "linear.auroc.nothing", 'nothing" is missing'),
        ('"n", "accuracy")', '"n", "precision")', 'has no column "precision"'),
    ],
)
def test_a_missing_input_stops_the_build(toy: Path, old: str, new: str, sentence: str) -> None:
    text = (toy / "report" / "report.typ").read_text()
    assert old in text
    (toy / "report" / "broken.typ").write_text(text.replace(old, new))
    with pytest.raises(BuildError, match=re.escape(sentence)):
        compile_pdf(Project(toy), "broken.typ", toy / "broken.pdf", [])


def test_a_character_that_no_font_has_is_an_error_in_an_archivable_pdf(toy: Path) -> None:
    (toy / "report" / "glyph.typ").write_text("\U0001f9e0")
    with pytest.raises(BuildError, match=r"glyph|font|codepoint|character"):
        compile_pdf(Project(toy), "glyph.typ", toy / "glyph.pdf", [], standards=["a-2u"])


# ------------------------------------------------------------------------------------------------ the real report
def test_the_report_compiles_from_the_committed_results(tmp_path: Path) -> None:
    copy_report(tmp_path)
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks, "there are no notebooks"
    export(Project(tmp_path), notebooks, heading_shift=1)  # as stored, without outputs: executing them has its own test
    out = tmp_path / "report.pdf"
    names = [path.stem for path in notebooks]
    assert compile_pdf(Project(tmp_path), "report.typ", out, names, standards=["a-2u"]) == []
    text = text_of(out)
    manifest = json.loads((ROOT / "figures" / "manifest.json").read_text())
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "report" / "sections").glob("*.typ")))
    for heading in HEADING.findall(sources):
        assert holds(text, heading), heading
    for id in re.findall(r'#(?:fig|tab)\("(\w+)"', sources):
        assert holds(text, manifest[id]["caption"]), id
    for id in ("mri_numbers", "trashnet_numbers"):
        numbers = json.loads((ROOT / "figures" / f"{id}.json").read_text())
        for method in ("linear_probe", "mlp_probe", "zero_shot"):
            value, low, high = (printed(numbers[method]["accuracy"][key]) for key in ("value", "low", "high"))
            assert holds(text, f"{value}% [{low}, {high}]"), (id, method)


def test_every_entry_of_the_manifest_has_its_files() -> None:
    manifest = json.loads((ROOT / "figures" / "manifest.json").read_text())
    listed = {name for entry in manifest.values() for name in entry["files"]}
    there = {path.name for path in (ROOT / "figures").iterdir() if not path.name.startswith(".")}
    assert there == listed | {"manifest.json", "benchmark.json"}  # the latter is written by `make bench`


# ------------------------------------------------------------------------------------------------ the exporter
def test_text_becomes_a_string_literal() -> None:
    assert typst_string('a "b" \\ c\n\td\x1b\r\n') == '"a \\"b\\" \\\\ c\\n    d\\n"'


@pytest.mark.parametrize(
    ("markdown", "parts"),
    [
        ("$a \\odot b$", ["dot.o", 'alt: "a \\\\odot b"']),
        ("\\begin{align}x &= 1\\end{align}", ["x & = 1"]),
        ("# Title\n\n## Part", ["== Title", "=== Part"]),
        ("[x](#there) ![p](https://example.org/a.png)", ["x"]),
        ("#let x = 1 @ref", ["\\#let x = 1 \\@ref"]),
        ("if a <b or c> d <!-- note -->", ["if a \\<b or c\\> d"]),
    ],
)
def test_markdown_becomes_typst(markdown: str, parts: list[str]) -> None:
    typst = markdown_to_typst(markdown)
    for part in parts:
        assert part in typst
    assert "https://" not in typst and "<there>" not in typst


def test_html_loses_what_cannot_be_printed() -> None:
    assert html_to_typst("<b>bold</b><script>alert(1)</script><img src='x.png'>") == "#strong[bold]"


def test_what_differs_from_run_to_run_is_masked() -> None:
    assert steady("<object at 0x7f3e2a10>") == "<object at 0x…>"
    assert steady("/x/ipykernel_123/456.py:3") == "<cell>:3"


SQUARE: Callable[[], pd.DataFrame] = lambda: pd.DataFrame({"name": ["a", "b"], "x": [1.5, None], "n": [10, 2]})  # noqa: E731


def test_a_dataframe_becomes_a_table_with_numbers_to_the_right() -> None:
    html = SQUARE().to_html(index=False)
    assert is_table(html)
    typst = table_to_typst(html, 'A "caption"')
    assert "columns: 3, align: (left, right, right,)" in typst
    assert 'head: (th("name"), th("x"), th("n"),)' in typst and 'td("NaN")' in typst
    assert 'caption: "A \\"caption\\""' in typst


def test_levels_and_index_names_keep_their_place() -> None:
    frame = pd.DataFrame([[1, 2]], pd.Index(["r"], name="row"), pd.MultiIndex.from_product([["a"], ["x", "y"]]))
    typst = table_to_typst(frame.to_html())
    assert "colspan: 2" in typst and 'th("row")' in typst and "columns: 3" in typst
    named = table_to_typst(SQUARE().set_index("name").to_html())
    assert 'head: (th("name"), th("x"), th("n"),)' in named and "align: (left, right, right,)" in named


def test_a_styler_keeps_its_colours_and_an_estimator_is_no_table() -> None:
    html = SQUARE().style.map(lambda _: "background-color: #abcdef; color: #000000", subset=["n"]).to_html()
    typst = table_to_typst(html)
    assert typst.count('fill: rgb("#abcdef")') == 2 and 'colour: rgb("#000000")' in typst
    assert not is_table("<div><table><tr><td>C</td></tr></table></div>") and not is_table("<b>x</b>")


def test_stderr_widgets_and_estimator_diagrams_are_left_out(tmp_path: Path) -> None:
    import nbformat

    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="50%|###"),
        nbformat.v4.new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m"),
        nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}),
        nbformat.v4.new_output("display_data", {"text/html": "<div>diagram</div>", "text/plain": "Probe()"}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=outputs)])
    done, _ = PrepareOutputs().preprocess(notebook, {})
    assert [out.get("text") or out["data"] for out in done.cells[0].outputs] == ["red", {"text/plain": "Probe()"}]
    notebook.metadata["papermill"] = {"start_time": "now"}
    nbformat.write(notebook, tmp_path / "a.ipynb")
    scrub(tmp_path / "a.ipynb")
    assert nbformat.read(tmp_path / "a.ipynb", 4).metadata == {}


def test_one_cause_is_told_once() -> None:
    alike = "0{0}.ipynb failed: cell {0} [1] raised CliplibError: No model; what it got to is in build/0{0}."
    told = _told_once([alike.format(1), alike.format(2)])
    assert told == "2 notebooks failed alike: CliplibError: No model."
    other = "03.ipynb failed: cell 3 [1] raised ValueError: odd; what it got to is in build/03."
    assert _told_once([other]) == other
