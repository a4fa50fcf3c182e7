"""The house: imports point one way, notebooks stay readable, nothing runs a file."""

from __future__ import annotations

import ast
import collections
import graphlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
# The map of the house: each folder imports from those before it.
MAP = CONTRIBUTING.split("each imports only from those above it")[1].split("\n\n")[1]
FLOORS = re.findall(r"^\| `(\w+)`", MAP, re.MULTILINE)
PACKAGE = ROOT / "cliplib"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.stem != "__init__")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def imported(path: Path) -> list[tuple[str, str]]:
    """Pairs of a module of cliplib and a name that `path` imports from it."""
    pairs = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        package = (isinstance(node, ast.ImportFrom) and node.module) or ""
        if package.split(".")[0] == "cliplib":
            module = package.removeprefix("cliplib").lstrip(".")
            pairs += [(module or alias.name, alias.name) for alias in node.names]
    return pairs


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[0])


def test_the_map_names_every_folder_once() -> None:
    folders = {module_name(path).split(".")[0] for path in MODULES}
    assert sorted(FLOORS) == sorted(folders)
    for path in MODULES:
        assert (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").strip()


def test_the_library_knows_nothing_of_the_study() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] != "study", path


@each_module
def test_imports_point_one_way(path):
    own = module_name(path)
    for module, _ in imported(path):
        assert floor(module) <= floor(own), f"{own} imports {module}"


def test_modules_of_a_folder_import_in_no_circle() -> None:
    names = set(map(module_name, MODULES))
    graph = {
        module_name(path): {
            found
            for module, name in imported(path)
            for found in (module, f"{module}.{name}")
            if found in names
        }
        for path in MODULES
    }
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(MODULES)


@pytest.mark.parametrize("folder", ["cliplib", "report"])
def test_private_names_stay_in_their_modules(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for module, name in imported(path):
            assert not name.startswith("_"), f"{path} uses {name} of {module}"


def test_the_readme_names_what_there_is() -> None:
    assert not [
        name
        for name in re.findall(r"`(test_\w+\.py)`", README)
        if not (ROOT / "tests" / name).is_file()
    ]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M)) <= set(targets)
    for path in re.findall(
        r"`((?:cliplib|notebooks|report|tests|figures)/\S*)`", README
    ):
        assert any(ROOT.glob(path.replace("NN_name", "*"))), path


def test_the_page_of_speed_shows_the_benchmark_as_it_was_run() -> None:
    rows = json.loads((ROOT / "figures" / "benchmark.json").read_text("utf-8"))
    speed = (ROOT / "SPEED.md").read_text("utf-8")
    apart = ("report", "grows")
    compared = [row for row in rows if row["unit"] == "x" and row["part"] not in apart]
    for row in compared:
        less_is_better = row["sense"] == "at most"
        ratio = 1 / row["ratio"] if less_is_better else row["ratio"]
        assert f"| {row['work']} | {row['peer']} | {ratio:.3g} [" in speed
    assert compared
    grown = [size for row in rows if row["part"] == "grows" for size in row["sizes"]]
    assert grown
    for size in grown:
        if size["who"] == "ours":
            largest = f"{size['n'][-1]:,} | {size['seconds'][-1]:.3g} | "
            assert f"| {size['work']} | {largest}" in speed


CODE_SWITCHES = ("shell", "trust_remote_code")


@pytest.mark.parametrize("folder", ["cliplib", "report"])
def test_nothing_runs_what_a_file_says(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pickle", "dill"}
            if isinstance(node, ast.ImportFrom) and node.module == "joblib":
                assert {alias.name for alias in node.names} <= {"Memory"}
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) != "joblib.load", path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, ast.keyword) and node.arg in CODE_SWITCHES:
                assert ast.unparse(node.value) == "False", path


def test_the_library_finds_modules_where_python_does_and_nowhere_else() -> None:
    for path in PACKAGE.rglob("*.py"):
        names = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Attribute | ast.Name)
        }
        hidden = {"sys.path", "importlib.import_module", "runpy", "__import__"}
        assert not names & hidden, path


def requirement(line: str) -> str:
    """Return the package that a requirement names, as it is imported."""
    name = re.split(r"[><=\[~ ]", line)[0].lower().replace("-", "_")
    imported_as = {"scikit_learn": "sklearn", "pillow": "pil"}
    return imported_as.get(name, name)


def project() -> dict[str, Any]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return dict(table)


def test_dependencies_are_those_that_make_installs_each_with_its_reason() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"\S+  # .+", line) for line in required)
    extras = project()["optional-dependencies"]
    stated = project()["dependencies"] + [
        line
        for extra in ("report", "notebooks", "build", "dev")
        for line in extras[extra]
        if line != "cliplib[report]"
    ]
    assert sorted(stated) == sorted(line.split("  #")[0] for line in required)
    assert len(project()["dependencies"]) <= 18


# What only notebooks and applications import.
OPTIONAL = {
    "reports.demo",
    "reports.document",
    "reports.plots",
    "features.distributed",
}


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if module_name(path) not in OPTIONAL],
    ids=module_name,
)
def test_the_core_imports_only_what_pip_install_brings(path):
    core = {requirement(line) for line in project()["dependencies"]}
    allowed = core | set(sys.stdlib_module_names) | {"cliplib"}
    for node in ast.parse(path.read_text("utf-8")).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0].lower() in allowed | {"PIL"}, name


def test_the_lock_holds_every_package() -> None:
    locked = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    }
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = {
        re.split(r"[><=]", line)[0].lower().replace("_", "-")
        for line in lines
        if not line.startswith("#")
    }
    assert required <= locked


def cells(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text("utf-8"))["cells"])


def sources(path: Path, kind: str) -> list[str]:
    return ["".join(c["source"]) for c in cells(path) if c["cell_type"] == kind]


@each_notebook
def test_a_notebook_is_stored_stripped_with_one_parameters_cell(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1


@each_notebook
def test_a_notebook_can_be_read(path):
    assert cells(path)[0]["cell_type"] == "markdown"
    texts, code = sources(path, "markdown"), sources(path, "code")
    assert "?" in texts[0], "no question at the top"
    assert "minute" in texts[0], "it does not say how long it takes"
    assert "take from it" in texts[-1].lower()
    assert len(cells(path)) <= 80
    lengths = [source.count("\n") + 1 for source in code]
    assert max(lengths) <= 18
    assert statistics.median(lengths) <= 9
    assert all(len(line) <= 100 for source in code for line in source.splitlines())
    for before, cell in itertools.pairwise(cells(path)):
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and "parameters" not in tags:
            assert before["cell_type"] == "markdown" or "parameters" in before[
                "metadata"
            ].get("tags", []), f"no sentence before: {''.join(cell['source'])[:60]}"


OFFLINE = """
import runpy, sys
from pathlib import Path

def refuse(event, arguments):
    asks = ("connect", "getaddrinfo", "gethostbyname", "sendto")
    if event in [f"socket.{name}" for name in asks]:
        raise SystemExit(f"the network was asked for: {event} {arguments}")

sys.addaudithook(refuse)
from cliplib import ClipEncoder, DecisionAid, LinearProbe, MLPProbe
from cliplib import audit_dataset, encode, evaluate, search
from cliplib.data.folder import list_files
from cliplib.probes.saving import load_probe, save_probe
from cliplib.reports.aid_answers import write_html

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
ClipEncoder()  # the embedded one
encoder = ClipEncoder(sys.argv[3])  # a quicker one
table = encode(folder, encoder).with_readout("pooled")
train, test = table.train_test_split()
for probe in (LinearProbe(Cs=(0.1,)), MLPProbe(hidden=8)):
    save_probe(probe.fit(train.features, train.labels), out / "probe")
    proba = load_probe(out / "probe").predict_proba(test.features)
    evaluate(test.labels, proba, table.classes)
search(encoder.encode_texts(["a bottle"]), encoder.project(test.features))
assert len(audit_dataset(folder).images) == 36
aid = DecisionAid.fit(encode(folder, encoder), encoder, probe=LinearProbe())
aid.save(out / "aid")
aid = DecisionAid.load(out / "aid")
files = list_files(folder)[1]
write_html(aid.classify(files), out / "sheet.html", aid, files)
image = folder / "disc" / "disc0.png"
sys.argv = ["cliplib", "classify", str(out / "aid"), str(image), "--heat-maps"]
runpy.run_module("cliplib", run_name="__main__")  # as python -m cliplib
"""


def test_the_whole_way_needs_no_network_and_a_bar_shows_progress_also_of_few_images(
    image_folder, checkpoint, tmp_path
):
    command = [sys.executable, "-c", OFFLINE, image_folder(n=12), tmp_path, checkpoint]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TQDM_DISABLE": "", "PYTHONPATH": paths}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "disc0.png: " in done.stdout
    for title in ("classify", "page"):
        assert re.search(rf"{title}: 100%.* 1/1 ", done.stderr)
    page = (tmp_path / "sheet.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


EXAMPLES = re.findall(r"```python\n(.+?)```", README, flags=re.DOTALL)


def test_the_first_lines_of_the_readme_print_what_they_say(monkeypatch, capsys):
    monkeypatch.delenv("CLIPLIB_DATA", raising=False)
    monkeypatch.delenv("CLIPLIB_MODEL", raising=False)
    exec(EXAMPLES[0], {})
    pattern = r"accuracy +(\d\.\d+) \[(\d\.\d+), (\d\.\d+)\]"
    stated, printed = (
        re.search(pattern, text) for text in (EXAMPLES[0], capsys.readouterr().out)
    )
    numbers = [float(number) for number in printed.groups()]
    assert numbers == pytest.approx([float(n) for n in stated.groups()], abs=0.01)


def test_the_images_of_the_readme_are_a_data_set_without_series(tmp_path, monkeypatch):
    from cliplib.data.datasets import load_dataset
    from cliplib.data.folder import list_files
    from cliplib.features.groups import suggested_pattern

    monkeypatch.chdir(tmp_path)
    for example in EXAMPLES[1:]:
        exec(example, {})
    photos = load_dataset("photos")
    counts = collections.Counter(photos["label"])
    assert [counts[label] for label in range(3)] == [40, 40, 40]
    assert suggested_pattern(photos["id"][:]) == ""  # brick/00 is not of grass/00
    assert len(list_files("new")[0]) == 2
