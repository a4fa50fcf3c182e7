"""A toy report goes from a notebook to PDF and web pages; the real one compiles."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pypdf
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import build  # noqa: E402
import execution  # noqa: E402
import nbtypst  # noqa: E402
import sources  # noqa: E402
import surroundings  # noqa: E402
import typeset  # noqa: E402
import webpages  # noqa: E402
from places import Places, places_of  # noqa: E402

REPORT = """#import "theme/report.typ": *
#let r = numbers("toy_numbers")
#show: report.with(toml("meta.toml") + (title: "A toy report"))
#heading(numbering: none)[Executive summary]
The probe reaches #ci(r.linear_probe.accuracy) on #count(r.n_test) images
(@fig:toy_curve); its AUROC is #ci(r.linear_probe.auroc, percent: false). CLIP
@radford2021clip looks at $x_i^2$.
= Introduction
#math.equation(block: true, alt: "the loss is a mean", $ cal(L) = -1/N sum_i log p_i $)
#fig("toy_curve")
= Results
#claim("often")[Often right.]
#claim("always")[Never wrong.]
#claim("network")[A network helps.]
#tab("toy_sweep", columns: ("kind", "n", "accuracy"), percent: ("accuracy",))
#references
#show: appendix
= Python code
#executed-notebooks
"""
CLAIMS = """
[often]
holds_if = 'toy.linear_probe.accuracy.low > cell("toy_sweep", "accuracy", "7").high'
otherwise = "Seldom right."
[always]
holds_if = "toy.linear_probe.accuracy.low == 1"
otherwise = "Right for {toy.linear_probe.accuracy}."
[network]
holds_if = "above(toy.mlp_probe.accuracy, toy.linear_probe.accuracy)"
otherwise = "A network reaches {toy.mlp_probe.accuracy}."
"""
TITLE = r"""# Handwritten digits

Each $x_i$ becomes $z_i$, compared by
$$\operatorname{sim}(z, t) = \frac{z^\top t}{\lVert z \rVert}, \qquad a \odot b .$$
An [anchor](#there), ≤ × → “quotes”, [the next](02_more.ipynb).

\begin{align} y &= 1 \end{align}

Not markup: # no heading, @no_reference, $5, #strong[typst].
"""
CELLS = [
    """import logging, sys
import matplotlib.pyplot as plt
import pandas as pd
from sklearn.tree import DecisionTreeClassifier
from study.results import Study
study = Study("01_toy", seed=seed)
logging.getLogger("cliplib.data.folder").info("a log line")
print("on stderr", file=sys.stderr)
print("\\x1b[31mred\\x1b[0m", object())""",
    """fig, ax = plt.subplots(figsize=(3, 2))
ax.plot([0, 1], [1, 0])
study.save_figure(fig, "toy_curve")
study.save_figure(None, "toy_photographs", because="there are no photographs")""",
    """sweep = pd.DataFrame({"kind": "digits", "n": range(1, 41), "accuracy": 1 / 3})
sweep = sweep.assign(accuracy_low=0.3, accuracy_high=0.35)
study.save_table(sweep, "toy_sweep", rows=len(sweep))""",
    """metric = {"value": 0.9123, "low": 0.9, "high": 0.92}
area = {"value": 0.98765, "low": 0.97, "high": float("nan")}
probe = {"accuracy": metric, "auroc": area}
study.save_numbers({"linear probe": probe, "n_test": 12345}, "toy_numbers")""",
    """assert seed < 2, "The seed is large: take 0."
display(DecisionTreeClassifier())
pd.DataFrame({"name": ["a", "b"], "x": [1.5, None]}).set_index("name")""",
]
CAPTIONS = """
toy_curve = {caption = "A curve that falls.", alt = "A line that falls to the right."}
toy_sweep = {caption = "{rows} invented rows, enough for more than a page."}
toy_numbers = {caption = "Numbers of the toy."}
"""


def make_toy(root: Path) -> Path:
    """Write a report of one notebook, with the theme of the real one."""
    for folder in ("notebooks", "figures"):
        (root / folder).mkdir(parents=True)
    unread = shutil.ignore_patterns("*.pdf", "sections", "supplement", "__pycache__")
    shutil.copytree(ROOT / "report", root / "report", ignore=unread)
    meta = root / "report" / "meta.toml"
    meta.write_text(meta.read_text().replace("in_full = [", 'in_full = ["01_toy", '))
    (root / "report" / "report.typ").write_text(REPORT)
    (root / "report" / "claims.toml").write_text(CLAIMS)
    method = root / "report" / "theme" / "method.typ"
    method.write_text("#let method-diagram = []\n")  # it draws a model, here is none
    (root / "figures" / "captions.toml").write_text(CAPTIONS)
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell(TITLE)]
    cells += [v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})]
    cells += map(v4.new_code_cell, CELLS)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, root / "notebooks" / "01_toy.ipynb")
    return root


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """A build sets variables of this process: put them back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def build_alone(root: Path, *arguments: str) -> str:
    """Build as from a terminal, and return all that is printed."""
    command = [sys.executable, root / "report" / "build.py", *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout


def built(root: Path, *arguments: str) -> str:
    """Build in this process, which keeps its variables; return what is printed."""
    before = dict(os.environ)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        build.main(list(arguments), root)
    os.environ.clear()
    os.environ.update(before)
    return printed.getvalue()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_toy(tmp_path_factory.mktemp("toy"))
    log = built(root)
    assert "1 of 1 notebooks to execute" in log
    assert "1 of 3 claims hold\n" in log
    assert "fell: always. In its place: Right for 91.2% [90.0, 92.0].\n" in log
    return root


def squeeze(text: str) -> str:
    """Text without white space and soft hyphens: lines break where they like."""
    return re.sub(r"[\s\u00ad\u200b-]", "", text)


def text_of(pdf: Path) -> str:
    return squeeze("".join(page.extract_text() for page in pypdf.PdfReader(pdf).pages))


def alternatives(pdf: Path) -> list[str]:
    """All alternative texts of the tagged elements of a PDF."""
    found, todo = [], [pypdf.PdfReader(pdf).trailer["/Root"]["/StructTreeRoot"]]
    while todo:
        node = todo.pop()
        node = node.get_object() if hasattr(node, "get_object") else node
        if isinstance(node, dict):
            found += [str(node["/Alt"])] if "/Alt" in node else []
            todo.append(node.get("/K"))
        todo += node if isinstance(node, list) else []
    return found


def test_the_pdf_holds_numbers_captions_and_what_cells_print(toy: Path) -> None:
    text = text_of(toy / "report" / "report.pdf")
    for words in (
        "91.2% [90.0, 92.0] on 12,345 images",
        "0.988 [0.970, –]",
        "33.3 [30.0, 35.0]",
    ):
        assert squeeze(words) in text, words
    for words in (
        "A curve that falls.",
        "40 invented rows, enough for more than a page.",
    ):
        assert text.count(squeeze(words)) == 1, words
    for words in ("# no heading, @no_reference, $5, #strong[typst]", "red"):
        assert squeeze(words) in text, words
    assert "neversaved,needsimages" in text and "0x…" in text
    assert text.count("DecisionTreeClassifier()") == 2  # no diagram of it
    assert (
        text.count("alogline") == text.count("onstderr") == 1
    )  # in the code, not below it


def test_claims_that_fail_are_replaced_by_words_and_all_are_listed(toy: Path) -> None:
    text = text_of(toy / "report" / "report.pdf")
    assert squeeze("Often right. Right for 91.2% [90.0, 92.0].") in text
    assert "Neverwrong" not in text and "Anetworkhelps" not in text
    claims = pd.read_csv(toy / "figures" / "claims.csv", index_col="id")
    assert claims["held"].to_dict() == {
        "always": False,
        "network": False,
        "often": True,
    }
    assert "not measured" in claims["values"]["network"]
    assert claims["sentence"]["often"] == "Often right."


def test_the_pdf_is_tagged_and_figures_and_formulas_have_alternative_texts(
    toy: Path,
) -> None:
    catalog = pypdf.PdfReader(toy / "report" / "report.pdf").trailer["/Root"]
    assert catalog["/MarkInfo"]["/Marked"] and catalog["/Lang"].startswith("en")
    texts = alternatives(toy / "report" / "report.pdf")
    assert texts.count("A line that falls to the right.") == 1
    assert "the loss is a mean" in texts and "x_(i)^(2)" in texts
    assert any(
        "\\operatorname{sim}" in text for text in texts
    )  # a notebook's: its TeX source


def git(folder: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", "-C", folder, *arguments], text=True)


@pytest.fixture
def clone(toy: Path, tmp_path: Path) -> Path:
    """Commit the toy with its results, but without its build folder, elsewhere."""
    if not shutil.which("git"):
        pytest.skip("there is no git")
    folder = tmp_path / "else where"
    shutil.copytree(toy, folder, ignore=shutil.ignore_patterns("build", "broken.typ"))
    shutil.copy(ROOT / ".gitignore", folder)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, *who, "commit", "--quiet", "--message", "as built")
    return folder


def test_a_build_writes_what_is_committed_and_again_executes_nothing(
    clone: Path, toy: Path
) -> None:
    # Where numbers differ, they are computed again, and only the report says so.
    (clone / "figures" / "toy_sweep.csv").write_text("kind,n,accuracy\n")
    git(clone, "add", "--all")
    assert "1 of 1 notebooks to execute" in built(clone, "--web")
    assert git(clone, "diff", "--stat") == ""
    Places(clone, publishes=True).publish()
    assert "toy_sweep.csv" in git(clone, "diff", "--stat")
    # What is published is the toy's to the byte, and a build changes nothing more.
    git(clone, "add", "--all")
    assert git(clone, "diff", "HEAD", "--stat") == ""
    for options in (["--appendix"], []):
        assert "0 of 1 notebooks to execute" in built(clone, *options)
        assert git(clone, "status", "--porcelain") == ""
    assert "01Handwrittendigits" in text_of(clone / "build" / "appendix.pdf")


OTHERS = {
    "02_frail": "open('/no/such/place/file.txt')",
    "03_lacking": """from study.features import MissingImages
raise MissingImages('There are no images of the moon.')""",
    "04_dying": "import os; os._exit(1)",
}
"""Cells of notebooks beside the toy's, which all fail."""
SEEN = """import json, multiprocessing, os, sys, tempfile
kept = tempfile.TemporaryDirectory()
start = multiprocessing.get_start_method()
print(json.dumps([had_torch, os.getcwd(), start, kept.name]))"""


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Build with a parameter; return the root and what was printed.

    Of its notebooks three fail. One of them had results of an earlier build. The toy
    tells at its end what kind of kernel it had.
    """
    root = make_toy(tmp_path_factory.mktemp("several"))
    v4 = nbformat.v4
    first = nbformat.read(root / "notebooks" / "01_toy.ipynb", as_version=4)
    for name, code in OTHERS.items():
        title = v4.new_markdown_cell(f"# {name}")
        cells = [title, first.cells[1], v4.new_code_cell(code)]
        notebook = v4.new_notebook(cells=cells, metadata=first.metadata)
        nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
    at_start = "import sys\nhad_torch = 'torch' in sys.modules"
    first.cells.insert(2, v4.new_code_cell(at_start))
    first.cells.append(v4.new_code_cell(SEEN))
    nbformat.write(first, root / "notebooks" / "01_toy.ipynb")
    own = root / "build" / "seed-1"
    for folder in ("figures", "build/executed"):
        (own / folder).mkdir(parents=True)
    stale = '{"versions": {}, "results": {}}'
    (own / "figures" / "02_frail.json").write_text(stale)
    dying = root / "notebooks" / "04_dying.ipynb"
    shutil.copy(dying, own / "build" / "executed")
    return root, build_alone(root, "-p", "seed", "1", "--web")


def test_a_build_of_ones_own_lies_below_build(several: tuple[Path, str]) -> None:
    root, log = several
    assert "figures/ and report/ are as they were" in log
    assert {path.name for path in (root / "figures").iterdir()} == {"captions.toml"}
    assert not (root / "report" / "report.pdf").exists()
    pdf = text_of(root / "build" / "report-seed-1.pdf")
    words = "Measured here: the embedded model mini, seed 1, committed features."
    assert squeeze(words) in pdf
    own = root / "build" / "seed-1"
    made = json.loads((own / "figures" / "01_toy.json").read_text())["results"]
    assert made["toy_curve"]["parameters"] == {"seed": 1}
    assert (own / "committed" / "captions.toml").exists()  # to set beside its own
    assert (root / "build" / "web-seed-1" / "index.html").exists()


def test_a_notebook_that_fails_costs_its_own_results_and_no_more(
    several: tuple[Path, str],
) -> None:
    root, log = several
    frail, dying = log.splitlines()[-2:]
    assert frail.startswith("02_frail.ipynb failed in cell [3]")
    assert dying.startswith("04_dying.ipynb failed: ") and "died" in dying
    pdf = text_of(root / "build" / "report-seed-1.pdf")
    assert squeeze("91.2% [90.0, 92.0] on 12,345 images") in pdf
    frail = "Notebook 02 is left out: FileNotFoundError: "
    lacking = "Notebook 03 is left out: There are no images of the moon."
    for words in (frail, lacking):
        assert pdf.count(squeeze(words)) == 2  # on the cover, and in its place
    assert "/no/such" not in pdf and "file.txt" in pdf
    own = root / "build" / "seed-1"
    assert not (own / "figures" / "02_frail.json").exists()
    executed = own / "build" / "executed"
    assert not (executed / "04_dying.failed.ipynb").exists()  # of an earlier build
    assert len(nbformat.read(executed / "04_dying.ipynb", 4).cells) == 1  # a title


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
def test_forked_kernels_are_as_others_are(several: tuple[Path, str]) -> None:
    root, _ = several
    executed = root / "build" / "seed-1" / "build" / "executed"
    (*_, cell) = nbformat.read(executed / "01_toy.ipynb", 4).cells
    *seen, kept = json.loads(cell.outputs[0].text)
    start = multiprocessing.get_all_start_methods()[0]  # the default
    assert seen == [True, str(root), start]
    assert not Path(kept).exists()  # what waits for the end was done
    toy = (executed / "01_toy.ipynb").read_text("utf-8")
    assert "image/svg+xml" in toy and "image/png" not in toy


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["-p", "nonsense", "1"],
            "No notebook has a parameter 'nonsense'; there are: seed.",
        ),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--model", "nobody/no-clip"], "To measure nobody/no-clip, name a folder"),
    ],
)
def test_what_cannot_work_ends_with_one_sentence(
    tmp_path: Path, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit, match=re.escape(sentence)) as stop:
        build.main(arguments, make_toy(tmp_path / "toy"))
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "toy" / "report" / "report.pdf").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            'fig("toy_curve")',
            'fig("absent")',
            'no "absent": run the notebook that saves it',
        ),
        ('fig("toy_curve")', 'fig("toy_sweep")', "not of the kind figure but table"),
        ("count(r.n_test)", 'num(r, "n_test.nothing")', 'nothing" is missing'),
        ('"n", "accuracy")', '"n", "precision")', 'has no column "precision"'),
        ("= Introduction", "\U0001f9e0", "could not be displayed"),
    ],
)
def test_a_missing_input_or_glyph_stops_the_build(
    toy: Path, old: str, new: str, sentence: str
) -> None:
    (toy / "report" / "broken.typ").write_text(REPORT.replace(old, new, 1))
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        typeset.compile_document(Places(toy), "broken")


def test_the_web_pages_are_whole_and_load_nothing_from_elsewhere(toy: Path) -> None:
    build.main(["--web"], toy)
    web = toy / "build" / "web"
    pages = {
        p.name: BeautifulSoup(p.read_text(), "html.parser") for p in web.glob("*.html")
    }
    assert set(pages) == {"index.html", "01_toy.html"}
    assert (web / "report.pdf").exists() and (web / "claims.csv").exists()
    assert pages["index.html"].title.string == "A toy report"
    assert pages["01_toy.html"].title.string == "Handwritten digits"
    links = [link["href"] for link in pages["index.html"].select(".contents a")]
    ids = {tag["id"] for tag in pages["index.html"](id=True)}
    assert links and all(link.removeprefix("#") in ids for link in links)
    for name, page in pages.items():
        loaded = [
            tag.get("src") or tag.get("href", "")
            for tag in page(["img", "link", "script"])
        ]
        assert all(re.match(r"data:|web\.css", address) for address in loaded), name
        assert (
            all(image.get("alt") for image in page("img"))
            and page.title.string
            and page.h1
        )
        assert page.find("a", href="index.html")
        assert "A curve that falls." in page.text
    assert squeeze("91.2% [90.0, 92.0]") in squeeze(pages["index.html"].text)
    assert pages["01_toy.html"].math and pages["01_toy.html"].find(
        "a", href="02_more.html"
    )


def test_notebooks_use_no_instructions_that_another_processor_may_lack(
    toy: Path,
) -> None:
    surroundings.prepare(Places(toy), "", "")
    if "OPENBLAS_CORETYPE" not in os.environ:
        pytest.skip("this processor has no AVX2")
    code = "import numpy, torch; print(torch.backends.cpu.get_cpu_capability());"
    code += "print(numpy.show_config(mode='dicts')['SIMD Extensions']['found'])"
    found = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert found.startswith("AVX2") and "512" not in found


def test_a_precision_that_is_asked_for_needs_images_and_its_instructions(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="To encode in bfloat16, name a folder"):
        surroundings.prepare(Places(toy), "", "", {"dtype": "bfloat16"})
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setattr(surroundings, "find_images", lambda *_: ("images", []))
    surroundings.prepare(Places(toy), "images", "", {"dtype": "bfloat16"})
    assert os.environ["CLIPLIB_DTYPE"] == "bfloat16"
    assert "ATEN_CPU_CAPABILITY" not in os.environ
    surroundings.prepare(Places(toy), "", "")
    assert os.environ["CLIPLIB_DTYPE"] == ""
    # Nor may a cache hold what other instructions made.
    assert Path(os.environ["CLIPLIB_CACHE"]).is_relative_to(toy)


def test_places_say_what_a_build_is() -> None:
    own = places_of(ROOT, "openai/clip-vit-base", "/my/images", {}, commit=False)
    assert own.name == "clip-vit-base_images"
    assert own.banner == "model clip-vit-base, images of a folder"
    few = places_of(ROOT, "", "hub", {"limit": "200"}, commit=False)
    assert few.banner == "200 images a set, images of the hub"
    half = places_of(ROOT, "", "/my/images", {"dtype": "bfloat16"}, commit=False)
    assert half.banner == "dtype bfloat16, images of a folder"
    for model in ("", "mini"):
        assert places_of(ROOT, model, "", {}, commit=False) == Places(ROOT)
    assert places_of(ROOT, "", "/my/images", {}, commit=True) == Places(ROOT)


def test_only_the_report_with_images_can_be_committed(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy")
    for arguments in (
        ["--commit"],
        ["--commit", "--data", "x", "--model", "y"],
        ["--commit", "--data", "x", "-p", "seed", "1"],
    ):
        with pytest.raises(SystemExit, match="--commit is for the committed report"):
            build.main(arguments, root)


@pytest.mark.parametrize(
    ("cores", "gigabytes", "model", "jobs"),
    [
        *((1, 64, "", 1), (4, 64, "", 4), (8, 64, "", 6), (8, 5.1, "", 2)),
        *((2, 1, "", 1), (2, 4.9, "", 1)),  # a fifth is left for others
        (8, 16, "other", 3),
    ],
)
def test_jobs_follow_cores_and_memory(
    cores: int, gigabytes: float, model: str, jobs: int
) -> None:
    assert execution.jobs_here(cores, gigabytes, model) == jobs


def test_the_longest_notebooks_are_first_and_the_summary_is_last() -> None:
    names = [execution.SUMMARY, "20_b", execution.FIRST[1], execution.FIRST[0]]
    parts = execution.others_before_summary([Path(f"{name}.ipynb") for name in names])
    found = [[path.stem for path in part] for part in parts]
    assert found == [[*execution.FIRST[:2], "20_b"], [execution.SUMMARY]]
    there = {path.stem for path in Places(ROOT).notebooks()}
    assert there >= {*execution.FIRST, execution.SUMMARY}


def test_a_first_look_executes_few_notebooks_below_build(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_toy(tmp_path)
    first = root / "notebooks" / "01_toy.ipynb"
    toy = first.read_text().replace("seed = 0", r"seed = 0\nlimit = 0")
    for path in (first, first.with_name("02_toy.ipynb")):
        path.write_text(toy)
    executed = []

    def noting(places: Places, tasks: dict[Path, Any], jobs: int) -> list[Any]:
        executed.extend((path.stem, places.figures) for path in tasks)
        return []

    monkeypatch.setattr(execution, "run_all", noting)
    monkeypatch.setattr(build, "QUICK", ("01_toy",))
    monkeypatch.setattr(build, "prepare", lambda *_: [])
    build.main(["--quick"], root)
    figures = root / "build" / "quick" / "figures"
    assert executed == [("01_toy", figures)]
    assert (figures / "captions.toml").is_file()
    assert "All works" in capsys.readouterr().out


def test_the_lab_opens_copies_and_keeps_what_was_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_toy(tmp_path)
    build.main(["--lab"], root)
    copy = root / "build" / "lab" / "01_toy.ipynb"
    assert str(copy.parent) in capsys.readouterr().out
    copy.write_text("mine")
    build.main(["--lab"], root)
    assert copy.read_text() == "mine"
    os.utime(root / "notebooks" / "01_toy.ipynb", (2e9, 2e9))  # a new version
    build.main(["--lab"], root)
    assert copy.read_text() != "mine"


def test_the_last_sentence_of_a_cell_stays_with_its_code() -> None:
    typst = nbtypst.markdown_to_typst("# Title\n\nFirst.\n\nWhat *is* it?")
    assert typst.endswith("First.\n\n#nb-sentence[What #emph[is] it?]")
    for text in ("# Only a title", "- one\n- two.", "| a |\n|---|\n| b. |"):
        assert "nb-sentence" not in nbtypst.markdown_to_typst(text), text


def test_tagged_cells_are_left_out_unless_everything_is_asked_for() -> None:
    v4 = nbformat.v4
    cells = [v4.new_code_cell("seen"), v4.new_code_cell("unseen")]
    cells[1].metadata["tags"] = ["plumbing"]
    notebook = v4.new_notebook(cells=cells)
    for everything in (False, True):
        exporter = nbtypst.typst_exporter(everything=everything)
        body, _ = exporter.from_notebook_node(notebook)
        assert ("unseen" in body) is everything and '"seen"' in body


def test_a_notebook_with_main_cells_is_printed_on_a_page() -> None:
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell("# Title\n\n**Why?**\n\nTwo minutes.")]
    for word in ("first", "second"):
        cells.append(v4.new_markdown_cell(f"## Heading of it\n\nThe {word} one."))
        cells.append(v4.new_code_cell(f"{word}()"))
    cells.append(v4.new_markdown_cell("## What to take from it\n\n- Something."))
    notebook = v4.new_notebook(cells=cells)
    cells.append(v4.new_code_cell("study.save_figure(None, 'plot')"))
    exporter = nbtypst.typst_exporter()
    in_full, _ = exporter.from_notebook_node(notebook)
    assert "Two minutes." in in_full and "save_figure" in in_full
    untagged, _ = exporter.from_notebook_node(notebook, {"in_full": False})
    assert "first()" in untagged and "save_figure" not in untagged
    cells[4].metadata["tags"] = ["main"]
    body, _ = exporter.from_notebook_node(notebook, {"in_full": False})
    for words in ("Title", "Why?", "The second one.", "second()"):
        assert words in body, words
    for words in ("Two minutes.", "first", "Heading of it", "Something."):
        assert words not in body, words


def test_few_notebooks_are_printed_in_full_and_each_other_on_a_page() -> None:
    appendix = Places(ROOT).meta["appendix"]
    others = {path.stem: path for path in Places(ROOT).notebooks()}
    assert len(appendix["in_full"]) <= 2
    for name in appendix["in_full"] + appendix["left_out"]:
        del others[name]
    for name, path in others.items():
        notebook, _ = nbtypst.MainCells().preprocess(
            nbformat.read(path, as_version=4), {"in_full": False}
        )
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        lines = sum(len(source.splitlines()) for source in code)
        assert 15 <= lines <= 80, f"{name}: {lines} lines; tag the main cells"


def test_functions_are_printed_as_they_are_but_for_docstrings(tmp_path: Path) -> None:
    source = """class Probe:
    def fit(self, rows):
        \"\"\"Fit it.

        Much more.
        \"\"\"
        return rows  # why


def bare(): return 1
"""
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "kernel.py").write_text(source)
    assert sources.functions_of(tmp_path) == {
        "probes.kernel.Probe.fit": "def fit(self, rows):\n    return rows  # why",
        "probes.kernel.bare": "def bare(): return 1",
    }


def test_all_rooms_of_the_library_are_printed() -> None:
    theme = (ROOT / "report" / "theme" / "notebook.typ").read_text("utf-8")
    (rooms,) = re.findall(r"#let rooms = \((.*)\)", theme)
    there = {path.parent.name for path in (ROOT / "cliplib").glob("*/__init__.py")}
    assert set(re.findall(r"\w+", rooms)) == there


def test_markdown_becomes_typst() -> None:
    made = nbtypst.markdown_to_typst(
        "$a \\odot b$ [x](#there) ![p](https://example.org/a.png) #let"
    )
    assert (
        made == '#{ set math.equation(alt: "a \\\\odot b"); $a dot.o b$ } [x]  \\#let'
    )
    assert "x & = 1" in nbtypst.markdown_to_typst("\\begin{align}x &= 1\\end{align}")


def test_tables_keep_index_names_and_align_numbers() -> None:
    frame = pd.DataFrame(
        {"x": [1.5, None], "word": ["a", "b"]}, pd.Index([1, 2], name="row")
    )
    typst = nbtypst.html_to_typst(frame.to_html())
    assert "table.header([row], table.cell(align: right)[x], [word],)" in typst
    assert typst.count("align: right") == 3
    wide = pd.DataFrame(
        [[1, 2]], columns=pd.MultiIndex.from_product([["a"], ["x", "y"]])
    )
    assert "table.cell(colspan: 2)[a]" in nbtypst.html_to_typst(wide.to_html())
    assert (
        nbtypst.html_to_typst("<b>x</b><script>1</script><img src='y.png'>")
        == "#strong[x]"
    )


def listed() -> list[tuple[str, str, dict[str, Any]]]:
    """Notebook, id and entry of every committed result."""
    sidecars = sorted((ROOT / "figures").glob("[0-9][0-9]_*.json"))
    found = {path.stem: json.loads(path.read_text())["results"] for path in sidecars}
    return [(name, id, entry) for name in found for id, entry in found[name].items()]


def test_every_file_of_the_figures_is_listed_once_and_has_its_caption() -> None:
    ids = [id for _, id, _ in listed()]
    assert ids and len(ids) == len(set(ids))
    suffixes = {"figure": "svg", "table": "csv", "numbers": "json"}
    wanted = {f"{id}.{suffixes[entry['kind']]}" for _, id, entry in listed()}
    wanted |= {f"{name}.json" for name, _, _ in listed()} | {
        "captions.toml",
        "benchmark.json",
        "growth.svg",
        "verdict_confirmation.csv",
        "verdict_development.csv",
        "verdict_pairs.csv",
        "verdict_unseen.csv",
        "claims.csv",
    }
    assert {path.name for path in (ROOT / "figures").iterdir()} | {
        "claims.csv"
    } == wanted
    captions = tomllib.loads((ROOT / "figures" / "captions.toml").read_text())
    assert set(ids) <= set(captions)
    # A caption may end in a value of its notebook.
    assert all(
        text.endswith((".", "}"))
        for entry in captions.values()
        for text in entry.values()
    )
    for _, id, entry in listed():  # also of results that an earlier run saved
        for name in captions[id]:
            text = captions[id][name].format(**entry.get("values", {}))
            assert entry[name] == text, f"{name} of {id}"
            assert text.endswith("."), f"{name} of {id}"
    for id, entry in captions.items():  # the dot of "J. Cheng" ends no sentence
        assert len(re.findall(r"[^A-Z][.?!](?= |$)", entry["caption"])) <= 3, id
    assert sum(path.stat().st_size for path in (ROOT / "figures").iterdir()) < 8e6


def test_pages_of_the_api_show_every_module(tmp_path: Path) -> None:
    (tmp_path / "cliplib" / "tables").mkdir(parents=True)
    (tmp_path / "cliplib" / "__init__.py").write_text('"""All of it."""\n')
    (tmp_path / "cliplib" / "tables" / "__init__.py").write_text('"""Tables."""\n')
    (tmp_path / "cliplib" / "tables" / "audit.py").write_text(AUDIT)
    webpages.write_api(tmp_path, tmp_path / "api")
    page = (tmp_path / "api" / "cliplib" / "tables" / "audit.html").read_text("utf-8")
    text = BeautifulSoup(page, "html.parser").get_text(" ")
    assert "Find what leaks" in text and "Parameters" in text
    assert (tmp_path / "api" / "cliplib.html").is_file()


AUDIT = '''"""Copies."""


def audit(images: list[str]) -> int:
    """Find what leaks.

    Parameters
    ----------
    images
        Where they lie.
    """
    return len(images)
'''
