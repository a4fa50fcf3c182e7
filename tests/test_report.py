"""A toy report goes from a notebook to PDF and web pages; the real one compiles."""

from __future__ import annotations

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
from types import SimpleNamespace
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
import forecast  # noqa: E402
import housemap  # noqa: E402
import nbtypst  # noqa: E402
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
logging.getLogger("cliplib.data.datasets").info("a log line")
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
    for folder in ("report", "notebooks", "figures"):
        (root / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "report" / "theme", root / "report" / "theme")
    for name in ("meta.toml", "references.bib", "appendix.typ"):
        shutil.copy(ROOT / "report" / name, root / "report")
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
    """Build in a process of its own, as from a terminal whose output goes to a file."""
    code = f"import sys, pathlib; sys.path.insert(0, {str(ROOT / 'report')!r})\n"
    code += "import build\n"
    code += f"build.main({list(arguments)}, pathlib.Path({str(root)!r}))"
    command, both = [sys.executable, "-c", code], subprocess.STDOUT
    return subprocess.check_output(command, stderr=both, text=True)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_toy(tmp_path_factory.mktemp("toy"))
    log = build_alone(root, "--web")
    assert "1 of 1 notebooks to execute, 1 at a time: about 1 min and" in log
    assert re.search(r"\n\[#{20}\] 100%, \d:\d\d gone, about 0:00 to go\n", log)
    assert re.search(r"\nExecuted in \d:\d\d, peak \d\.\d GB of memory\n", log)
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
    for words in (
        "printed as Figure 1",
        "printed as Table 1",
    ):  # in the appendix, instead
        assert squeeze(words) in text, words
    for words in ("# no heading, @no_reference, $5, #strong[typst]", "red"):
        assert squeeze(words) in text, words
    assert "neversaved,needsimages" in text and "0x…" in text
    assert "study.save" not in text and "Study(" not in text  # plumbing
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
    page = (toy / "build" / "web" / "claims.html").read_text("utf-8")
    assert 'cell("toy_sweep"' in page and "does not hold" in page
    assert claims["sentence"]["often"] == "Often right." and "Often right." in page


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


def test_building_a_clone_changes_no_file_and_again_executes_nothing(
    clone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "1 of 1 notebooks to execute" in build_alone(clone)
    assert git(clone, "status", "--porcelain") == ""  # a fixed point

    def built(*arguments: str) -> str:
        build.main([*arguments], clone)
        told = capfd.readouterr()
        return told.out + told.err

    assert "0 of 1 notebooks to execute" in built("--appendix")
    assert "Handwrittendigits" in text_of(clone / "build" / "appendix.pdf")
    assert git(clone, "status", "--porcelain") == ""
    assert "report.pdf is up to date" in built()
    (clone / "report" / "report.typ").touch()
    assert "report.pdf: " in built()
    (clone / "figures" / "toy_sweep.csv").write_text("changed")
    stamp = (clone / "build" / "executed" / "01_toy.stamp").read_text()
    notebook = clone / "notebooks" / "01_toy.ipynb"
    assert stamp != execution.fingerprint(Places(clone), notebook, {})


def test_a_build_of_ones_own_and_the_lab_change_no_file(
    clone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build.main(["-p", "seed", "1", "--web"], clone)
    assert "figures/ and report/ are as they were" in "".join(capfd.readouterr())
    build.main(["--lab"], clone)
    assert git(clone, "status", "--porcelain") == ""
    pdf = text_of(clone / "build" / "report-seed-1.pdf")
    assert (
        squeeze("Measured here: the embedded model mini, seed 1, committed features.")
        in pdf
    )
    own = clone / "build" / "seed-1"
    made = json.loads((own / "figures" / "01_toy.json").read_text())["results"]
    assert made["toy_curve"]["parameters"] == {"seed": 1}
    assert (own / "committed" / "toy_numbers.json").exists()  # to set beside its own
    assert (clone / "build" / "web-seed-1" / "index.html").exists()


def test_a_notebook_that_fails_costs_its_own_results_and_no_more(
    tmp_path: Path,
) -> None:
    root = make_toy(tmp_path / "toy")
    v4 = nbformat.v4
    first = root / "notebooks" / "01_toy.ipynb"
    faults = {
        "02_frail": "open('/no/such/place/file.txt')",
        "03_lacking": "from cliplib.features.extract import MissingImages\n"
        "raise MissingImages('There are no images of the moon.')",
    }
    for name, fault in faults.items():
        notebook = nbformat.read(first, as_version=4)
        cells = [v4.new_markdown_cell(f"# {name}"), *notebook.cells[1:2]]
        notebook.cells = [*cells, v4.new_code_cell(fault)]
        nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
        stale = root / "build" / "seed-1" / "figures" / f"{name}.json"
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.write_text('{"versions": {}, "results": {}}')
    with pytest.raises(SystemExit) as stop:
        build.main(["-p", "seed", "1"], root)
    last = "02_frail.ipynb failed in cell [3]"
    assert str(stop.value).startswith(last) and "\n" not in str(stop.value)
    pdf = text_of(root / "build" / "report-seed-1.pdf")
    assert squeeze("91.2% [90.0, 92.0] on 12,345 images") in pdf
    frail = "Notebook 02 is left out: FileNotFoundError: "
    lacking = "Notebook 03 is left out: There are no images of the moon."
    for words in (frail, lacking):
        assert pdf.count(squeeze(words)) == 2  # on the cover, and in its place
    assert "/no/such" not in pdf and "file.txt" in pdf
    assert not stale.exists()


def test_a_kernel_that_dies_leaves_nothing_of_an_earlier_execution(
    tmp_path: Path,
) -> None:
    places = Places(make_toy(tmp_path), "own", changes="")
    path = places.root / "notebooks" / "01_toy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source = "import os; os._exit(1)"
    nbformat.write(notebook, path)
    places.stage()
    executed = places.work / "executed" / "01_toy.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, executed)
    (failure,) = execution.execute(places, {})
    assert "died" in failure.reason
    assert not executed.with_suffix(".failed.ipynb").exists()
    assert len(nbformat.read(executed, as_version=4).cells) == 1  # a title


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["-p", "nonsense", "1"],
            "No notebook has a parameter 'nonsense'; there are: seed.",
        ),
        (
            ["-p", "seed", "many"],
            "-p seed takes a number such as 0, not 'many'.",
        ),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--model", "nobody/no-clip"], "To measure nobody/no-clip, name a folder"),
        (["--no-exec"], "build once without --no-exec"),
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
    web = toy / "build" / "web"
    pages = {
        p.name: BeautifulSoup(p.read_text(), "html.parser") for p in web.glob("*.html")
    }
    assert set(pages) == {"index.html", "claims.html", "01_toy.html"}
    assert (web / "report.pdf").exists()
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
        assert "A curve that falls." in page.text or name == "claims.html"
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


def test_every_notebook_was_measured() -> None:
    known = execution.measured_before(Places(ROOT))
    assert {path.stem for path in Places(ROOT).notebooks()} <= set(known)


def test_places_say_what_a_build_is() -> None:
    own = places_of(ROOT, "openai/clip-vit-base", "/my/images", {}, commit=False)
    assert own.name == "clip-vit-base_images"
    assert own.banner == "model clip-vit-base, images of a folder"
    few = places_of(ROOT, "", "hub", {"limit": "200"}, commit=False)
    assert few.banner == "200 images a set, images of the hub"
    half = places_of(ROOT, "", "/my/images", {"dtype": "bfloat16"}, commit=False)
    assert half.banner == "in bfloat16, images of a folder"
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


def task(name: str, seconds: float, gigabytes: float, cells: int = 4) -> execution.Task:
    return execution.Task(Path(f"{name}.ipynb"), {}, cells, seconds, gigabytes)


@pytest.mark.parametrize(
    ("cores", "gigabytes", "jobs"),
    [
        *((1, 64, 1), (2, 64, 2), (4, 64, 4), (8, 64, 6), (8, 4, 2), (2, 1, 1)),
        *((2, 3.5, 1), (2, 3.8, 2)),  # a fifth is left for others
    ],
)
def test_jobs_follow_cores_and_memory(cores: int, gigabytes: float, jobs: int) -> None:
    tasks = [task(str(i), 10, 1.5) for i in range(13)]
    assert execution.jobs_here(tasks, cores, gigabytes) == jobs
    assert execution.jobs_here(tasks[:1], cores, gigabytes) == 1


def test_the_longest_notebook_is_first_and_the_time_is_foretold(tmp_path: Path) -> None:
    root = make_toy(tmp_path)
    first = root / "notebooks" / "01_toy.ipynb"
    for name in ("02_long", "03_short"):
        shutil.copy(first, root / "notebooks" / f"{name}.ipynb")
    places = Places(root)
    watch = execution.KernelWatch()
    watch.seconds = {"01_toy": 20.0, "02_long": 50.0, "03_short": 30.0}
    for name in watch.seconds:
        watch.peaks[name] = 2.0
        execution.note_measured(places, name, watch)
    tasks = execution.in_order(execution.tasks_of(places, places.notebooks(), {}))
    names = [task.notebook.stem for task in tasks]
    assert names == ["02_long", "03_short", "01_toy"]
    assert [task.gigabytes for task in tasks] == [2.0] * 3
    assert execution.expected_seconds(tasks, 2) == 50
    assert execution.expected_seconds(tasks, 1) == 100


def test_notebooks_whose_answers_the_longest_asks_for_are_first() -> None:
    tasks = [task("13_protocols", 60, 1), task("18_like_with_like", 20, 1)]
    tasks += [task("12_elsewhere", 70, 1), task("01_brain_tumor_mri", 13, 1)]
    names = [task.notebook.stem for task in execution.in_order(tasks)]
    assert set(names[:2]) == set(execution.FIRST)
    assert names[2:] == ["12_elsewhere", "13_protocols"]
    there = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert there.issuperset(execution.FIRST)


def test_the_memory_that_is_foretold_is_that_of_the_largest_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [task("01_a", 10, 1.0), task("02_b", 10, 3.0)]
    monkeypatch.setattr(execution, "tasks_of", lambda *_: tasks)
    monkeypatch.setattr(execution, "run_all", lambda *_: [])
    execution.execute(Places(make_toy(tmp_path)), {}, jobs=1)
    assert "about 1 min and 3.0 GB of memory" in capsys.readouterr().out


def test_the_summary_is_executed_after_all_others() -> None:
    summary = task(execution.SUMMARY, 50, 1)
    others = [task("01_a", 10, 1), task("20_b", 10, 1)]
    parts = execution.others_before_summary([summary, *others])
    assert parts == [others, [summary]]
    assert execution.others_before_summary(others) == [others]


LOAD = forecast.Load(share=0.5, width=2.0, seconds_per_image=0.01, gigabytes=1.5)


def test_a_limit_draws_so_many_images_of_each_of_two_sets() -> None:
    assert forecast.share_of({"limit": "200"}) == pytest.approx(400 / 9546)
    for given in ({}, {"limit": "0"}, {"limit": "9999"}):
        assert forecast.share_of(given) == 1, given


def test_images_and_width_make_a_notebook_longer() -> None:
    measured = task("08_explanations", 30, 2.0)
    adapted = forecast.task_with_load(measured, LOAD)
    encoding = 9546 * 0.01  # of each image once
    assert adapted.seconds == pytest.approx(10 + 0.5 * (encoding + 2 * 20))
    assert adapted.gigabytes == 2.0 + 2 * 1.5  # two encoders at a time
    short = forecast.task_with_load(task("05_other", 4, 2.0), LOAD)
    assert (short.seconds, short.gigabytes) == (4, 3.5)


def test_only_a_build_of_ones_own_with_images_is_adapted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "load_of", lambda *_: LOAD)
    tasks = [task("08_explanations", 30, 2.0), task("02_trashnet", 30, 2.0)]
    own = Places(tmp_path, "own", changes="")
    assert forecast.adapted(tasks, own, {}, "", "") == tasks
    assert forecast.adapted(tasks, Places(tmp_path), {}, "images", "") == tasks
    (own.work / "measured").mkdir(parents=True)
    (own.work / "measured" / "02_trashnet.json").write_text("{}")
    first, second = forecast.adapted(tasks, own, {}, "images", "")
    assert first.seconds > 30 and second == tasks[1]


def test_one_bar_of_seconds_for_all_notebooks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tasks = [task("a", 30, 1), task("b", 10, 1, cells=2)]
    progress = execution.Progress(tasks, every=1e9)
    for name in "aab":
        progress.step(name)
    assert capsys.readouterr().out == ""  # not before something is finished
    assert progress.line().startswith("[##########..........]  50%, 0:00 gone")
    progress.finish("b")
    assert "62%" in capsys.readouterr().out
    progress.finish("a")  # where it fails, too: the bar goes on to the end
    assert "[####################] 100%" in capsys.readouterr().out
    assert progress.line().endswith("about 0:00 to go")


def test_the_time_left_is_what_the_done_share_foretells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(execution, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = execution.Progress([task("a", 30, 1)], every=1e9)
    assert progress.line().endswith("0:00 gone, about 0:30 to go")
    now[0] = 20.0
    progress.step("a")  # a fourth
    assert progress.line().endswith("25%, 0:20 gone, about 1:00 to go")


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
def test_forked_kernels_are_as_others_are(tmp_path: Path) -> None:
    code = """
import json, multiprocessing, os, sys, tempfile
kept = tempfile.TemporaryDirectory()
print(json.dumps({
    "imported": "torch" in sys.modules,
    "report": any(place.endswith("report") for place in sys.path),
    "folder": os.getcwd(), "seed": os.environ["PYTHONHASHSEED"], "kept": kept.name,
    "start": multiprocessing.get_start_method(),
}))
"""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(code),
            nbformat.v4.new_code_cell("import matplotlib.pyplot as p; p.plot([1, 2])"),
            nbformat.v4.new_code_cell("1 / 0"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, tmp_path / "a.ipynb")
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "report")!r})
import papermill
from forking import fork_kernels, forked
if __name__ == "__main__":
    fork_kernels()
    try:
        papermill.execute_notebook("a.ipynb", "b.ipynb", progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"])
    except papermill.PapermillExecutionError as error:
        print(error.ename, len(forked))
"""
    (tmp_path / "build_it.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "build_it.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "ZeroDivisionError 1\n"
    cells = nbformat.read(tmp_path / "b.ipynb", 4).cells
    first, plot, _ = (cell for cell in cells if cell.cell_type == "code")
    seen = json.loads(first.outputs[0].text)
    assert seen.pop("imported") and not seen.pop("report")
    assert not Path(seen.pop("kept")).exists()  # what waits for the end was done
    start = multiprocessing.get_all_start_methods()[0]  # the default
    assert seen == {"folder": str(tmp_path), "seed": "0", "start": start}
    assert "image/png" in plot.outputs[-1].data


def test_a_build_imports_no_grammar_that_it_never_uses() -> None:
    code = "import build, sys; sys.exit(sys.modules['rfc3987_syntax'] is not None)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "report", check=True)


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

    def noting(places: Places, tasks: list[execution.Task], jobs: int) -> list[Any]:
        executed.extend((task.notebook.stem, places.figures) for task in tasks)
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


def test_plumbing_is_not_printed() -> None:
    source = """study = Study("01_toy", encoder, seed=seed)
x = 1  # plumbing
y = compute(
    x
)
study.save_table(
    y.drop(columns="z"), "toy", n=3
)
for name in "ab":
    study.save_figure(plots[name], name)
study.save_figure(None, "toy_photo")
study.save_numbers({"n": 1}, "toy_numbers")"""
    shown = """y = compute(
    x
)
y.drop(columns="z")
for name in "ab":
    study.save_figure(plots[name], name)"""
    assert nbtypst.readable(source) == shown
    assert nbtypst.readable("%matplotlib inline") == "%matplotlib inline"


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
    in_full, _ = nbtypst.typst_exporter().from_notebook_node(notebook)
    assert "first()" in in_full and "Heading of it" in in_full
    cells[4].metadata["tags"] = ["main"]
    body, _ = nbtypst.typst_exporter().from_notebook_node(notebook)
    for words in ("Title", "Why?", "The second one.", "second()"):
        assert words in body, words
    for words in ("Two minutes.", "first", "Heading of it", "Something."):
        assert words not in body, words
    everything = nbtypst.typst_exporter(everything=True)
    assert "first()" in everything.from_notebook_node(notebook)[0]


def test_the_main_notebooks_are_printed_in_full_and_each_other_on_a_page() -> None:
    in_full = set()
    for path in Places(ROOT).notebooks():
        cells = json.loads(path.read_text("utf-8"))["cells"]
        main = [cell for cell in cells if "main" in cell["metadata"].get("tags", [])]
        lines = sum(len("".join(cell["source"]).splitlines()) for cell in main)
        if main:
            assert 20 <= lines <= 75, f"{path.stem}: {lines} lines of main cells"
        else:
            in_full.add(path.stem[3:])
    assert in_full >= {"brain_tumor_mri", "trashnet", "protocols"}
    assert len(in_full) <= 5, in_full  # with what it recognises and your images


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
    assert housemap.functions_of(tmp_path) == {
        "probes.kernel.Probe.fit": "def fit(self, rows):\n    return rows  # why",
        "probes.kernel.bare": "def bare(): return 1",
    }


def test_the_map_of_the_house_names_each_module_behind_what_it_imports() -> None:
    order = housemap.modules_in_order(ROOT / "cliplib")
    files = (ROOT / "cliplib").rglob("*.py")
    assert len(order) == sum(not path.stem.startswith("__") for path in files)
    floors = (
        "data.image",
        "data.cache",
        "features.table",
        "reports.decision_aid",
    )
    places = [order.index(name) for name in (*floors, "reports.sheet")]
    assert places == sorted(places)


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
    assert not webpages.write_api(Places(tmp_path), tmp_path / "api")
    (tmp_path / "cliplib" / "tables").mkdir(parents=True)
    (tmp_path / "cliplib" / "__init__.py").write_text('"""All of it."""\n')
    (tmp_path / "cliplib" / "tables" / "__init__.py").write_text('"""Tables."""\n')
    (tmp_path / "cliplib" / "tables" / "audit.py").write_text(AUDIT)
    assert webpages.write_api(Places(tmp_path), tmp_path / "api")
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
