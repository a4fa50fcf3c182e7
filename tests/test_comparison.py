"""A build of one's own says what it measured, and what holds in it."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pypdf
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import build  # noqa: E402
import typeset  # noqa: E402
from places import Places, places_of  # noqa: E402

REPORT = """#import "theme/report.typ": *
#import "theme/comparison.typ": comparison
#show: report.with(toml("meta.toml"))
#heading(numbering: none)[Executive summary]
#claim("ahead")[*The kernel is ahead*, with
#pct("kernel.accuracy") (@fig:curve) of all (images, @tab:sweep).]
#comparison
= Results
#claim("copies")[Copies "help" by #points("brain.gain") points.]
#claim("words")[Words reach #pct("brain.zero_shot.by_patient.accuracy").]
#fig("curve")
#tab("sweep")
"""
CLAIMS = """
[names]
brain = "protocols.brain_tumor_mri"
kernel = "protocols.brain_tumor_mri.kernel_probe.by_patient"
new_tumours = "external.new"
[ahead]
holds_if = "above(kernel.accuracy, brain.by_patient.accuracy)"
otherwise = "Kernel {kernel.accuracy}, linear {brain.by_patient.accuracy:pct}."
[copies]
holds_if = "positive(brain.gain)"
otherwise = "Copies change nothing."
[words]
holds_if = "brain.zero_shot.by_patient.accuracy.value > 0.3"
otherwise = "Words reach {brain.zero_shot.by_patient.accuracy}."
"""
NAME = "vitb32_data_limit-100"


def metric(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def protocols(kernel: float, **more: Any) -> dict[str, Any]:
    """Return the numbers of the ladder, as far as the test needs them."""
    of_kernel = {"by_patient": {"accuracy": metric(kernel)}}
    brain = {"by_patient": {"accuracy": metric(0.8)}, "kernel_probe": of_kernel}
    return {"brain_tumor_mri": brain | {"gain": metric(0.1)} | more}


def save(folder: Path, notebook: str, numbers: dict[str, Any]) -> None:
    """Write numbers by id as a notebook does."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {id: {"kind": "numbers", "caption": "Numbers."} for id in numbers}
    sidecar = {"versions": {}, "results": about}
    (folder / f"{notebook}.json").write_text(json.dumps(sidecar))
    for id, values in numbers.items():
        (folder / f"{id}.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Stage a build of another model beside a committed report, without notebooks."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "report" / "theme", root / "report" / "theme")
    method = root / "report" / "theme" / "method.typ"
    method.write_text("#let method-diagram = []\n")
    for name in ("meta.toml", "references.bib"):
        shutil.copy(ROOT / "report" / name, root / "report")
    (root / "report" / "report.typ").write_text(REPORT)
    (root / "report" / "claims.toml").write_text(CLAIMS)
    (root / "notebooks").mkdir()
    for notebook in ("00_model", "12_elsewhere", "13_protocols"):
        (root / "notebooks" / f"{notebook}.ipynb").touch()
    words = {"zero_shot": {"by_patient": {"accuracy": metric(0.4)}}}
    committed = {"protocols_numbers": protocols(0.95, **words)}
    save(root / "figures", "13_protocols", committed)
    save(root / "figures", "12_elsewhere", {"external_numbers": tumours(39)})
    sentence = "ahead,true,x,y,The kernel was ahead with 95.0%."
    (root / "figures" / "claims.csv").write_text(
        f"id,held,condition,values,sentence\n{sentence}\n"
    )
    model, data = "/home/me/models/vitb32", "/home/me/data"
    places = places_of(root, model, data, {"limit": "100"}, commit=False)
    places.stage()
    vit = {"vision_width": 768, "patch_size": 32, "name": "vitb32"}
    save(places.figures, "00_model", {"model_numbers": vit})
    save(places.figures, "12_elsewhere", {"external_numbers": tumours(7)})
    save(places.figures, "13_protocols", {"protocols_numbers": protocols(0.5)})
    return places


def tumours(found: int) -> dict[str, Any]:
    return {"new": {"found": found, "n": 66}}


@pytest.fixture(scope="module")
def document(staged: Places) -> typeset.Document:
    return typeset.compile_document(staged)


@pytest.fixture(scope="module")
def pages(
    document: typeset.Document, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    pdf = tmp_path_factory.mktemp("pdf") / "report.pdf"
    pdf.write_bytes(document.data)
    read = pypdf.PdfReader(pdf).pages
    return [" ".join(page.extract_text().split()) for page in read]


def test_the_cover_says_what_was_measured(pages: list[str]) -> None:
    assert "How Far Does a Frozen ViT-B/32 Go?" in pages[0]
    words = "ViT-B/32 (model vitb32), 100 images a set, images of a folder."
    assert f"Measured here: {words}" in pages[0]


def test_headline_numbers_stand_beside_the_committed_ones(pages: list[str]) -> None:
    page = next(p for p in pages if p.startswith("This build beside the committed"))
    here = "ViT-B/32, here 80.0% [75.0, 85.0] 50.0% [45.0, 55.0] not measured not"
    beside = "measured mini, committed 80.0% [75.0, 85.0] 95.0% [90.0, 100.0] not"
    assert f"Brain MRI, by patient {here} {beside}" in page
    assert "Tumours found that only Navoneel has 7 of 66 39 of 66" in page


def test_conclusions_are_listed_by_whether_they_hold(pages: list[str]) -> None:
    text = " ".join(pages)
    assert "1 hold in this build and 1 do not. The other 1 could not be" in text
    fell, rest = text.split("Conclusions that do not hold here")[1].split(
        "Conclusions that could not be judged here"
    )
    before = "Committed report: The kernel was ahead with 95.0%."
    here = "Here: Kernel 50.0% [45.0, 55.0], linear 80.0%."
    assert f"Executive summary • {before} {here}" in fell
    held = rest.split("Conclusions that hold here")[1]
    assert '1 Results • Copies "help" by 10.0 [5.0, 15.0] points.' in held


def test_no_path_and_no_expression_is_printed(pages: list[str]) -> None:
    text = " ".join(pages)
    assert not re.search(r"/home/me|by_patient|above\(|protocols\.", text)


def test_what_was_not_computed_is_left_out_with_a_sentence(pages: list[str]) -> None:
    text = " ".join(pages)
    for kind in ("figure", "table"):
        assert f"This {kind} is left out: this build could not compute it." in text


def test_the_sentences_of_claims_are_kept_as_text(
    document: typeset.Document, tmp_path: Path
) -> None:
    sentences = {claim["id"]: claim["sentence"] for claim in document.claims}
    assert sentences["ahead"] == "Kernel 50.0% [45.0, 55.0], linear 80.0%."
    assert sentences["copies"] == 'Copies "help" by 10.0 [5.0, 15.0] points.'
    typeset.write_claims(document, tmp_path / "claims.csv")
    assert '"Copies ""help""' in (tmp_path / "claims.csv").read_text("utf-8")


def test_references_are_not_part_of_a_sentence(staged: Places) -> None:
    better = {"protocols_numbers": protocols(0.95)}
    kept = staged.figures / "protocols_numbers.json"
    before = kept.read_text()
    save(staged.figures, "13_protocols", better)
    claims = typeset.compile_document(staged).claims
    kept.write_text(before)
    ahead = next(claim for claim in claims if claim["id"] == "ahead")
    assert ahead["sentence"] == "The kernel is ahead, with 95.0% of all (images)."


def test_the_web_page_has_the_same(staged: Places) -> None:
    html = typeset.compile_document(staged, "report", "html").data.decode()
    text = " ".join(BeautifulSoup(html, "html.parser").get_text(" ").split())
    assert "How Far Does a Frozen ViT-B/32 Go?" in text.replace("\u00a0", " ")
    assert "Conclusions that do not hold here" in text and "7 of 66" in text


def test_the_committed_report_has_no_such_page(staged: Places) -> None:
    root = staged.root
    text = (root / "report" / "report.typ").read_text()
    figures = '#fig("curve")\n#tab("sweep")\n'
    plain = (
        text.replace(figures, "")
        .replace(" (@fig:curve)", "")
        .replace(", @tab:sweep", "")
    )
    (root / "report" / "plain.typ").write_text(plain)
    html = typeset.compile_document(Places(root), "plain", "html").data.decode()
    title = tomllib.loads((ROOT / "report" / "meta.toml").read_text("utf-8"))["title"]
    assert title in html
    assert "Measured here" not in html and "committed report" not in html


def test_another_model_needs_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surroundings.try_models", None)  # nothing is fetched before
    shutil.copytree(ROOT / "report", tmp_path / "report")
    with pytest.raises(SystemExit, match="name a folder of images"):
        build.main(["--model", "vit"], tmp_path)
