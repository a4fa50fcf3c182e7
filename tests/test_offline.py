"""No network unless a hub id is asked for, and nothing in the code that would run what a file says.

One process goes the whole offline way while every attempt to reach a host is refused and counted. Then the source of
library, report and notebooks is searched for what opens the door: pickle, eval, shells, addresses to load.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent

GUARD = """
import sys
tried = []
away = {"connect", "getaddrinfo", "gethostbyaddr", "gethostbyname", "getnameinfo", "sendmsg", "sendto"}
def refuse(event, arguments):  # a socket alone reaches nobody: urllib3 makes one when it is imported
    if event.startswith("socket.") and event[7:] in away:
        tried.append(event)
        raise OSError("there is no network")
sys.addaudithook(refuse)
"""
WAY = """
import logging
from pathlib import Path
import cliplib
from cliplib import ClipEncoder, FeatureStore, FeatureTable, LinearProbe, MLPProbe, evaluate, figures, zeroshot
from cliplib import load_dataset, load_features, load_probe, save_probe
from cliplib.classifier import Classifier
from cliplib.classifier.sheet import write_html
from cliplib.classifier.widget import drop_box
pictures, out = Path(sys.argv[1]), Path(sys.argv[2])
encoder = ClipEncoder.from_pretrained()
table = load_features("trashnet", encoder, limit=400)
train, test = table.split("train"), table.split("test")
for probe in (LinearProbe(l2=1.0), MLPProbe(hidden=8, max_epochs=2)):
    save_probe(probe.fit(train.features, train.labels, groups=train.groups), out / type(probe).__name__)
    proba = load_probe(out / type(probe).__name__).predict_proba(test.features)
found = evaluate(test.labels, proba, table.classes)
weights = cliplib.zero_shot_weights(encoder, [[f"a photo of {name}"] for name in table.classes])
shot = cliplib.zero_shot_proba(encoder.project(test.features), weights, encoder.logit_scale)
test.save(out / "test.safetensors")
assert len(FeatureTable.load(out / "test.safetensors")) == len(proba) == len(shot)
with FeatureStore(out / "features.sqlite") as store:
    own = encoder.table(load_dataset(pictures).select(range(0, 48, 3)), store=store)
figures.start("00_offline")
figures.save_figure(figures.confusion_heatmap(found.confusion, table.classes), "a_figure", caption="A.", alt="A.")
made = Classifier.fit(encoder, own.split("train"), own.split("test"), probe=LinearProbe(l2=1.0))
made = Classifier.load(made.save(out / "made"))
few = sorted(pictures.rglob("*.png"))[:3]
write_html(made.classify(few, progress=False), out / "sheet.html", made, files=few)
drop_box(made)
assert not tried, tried
try:
    ClipEncoder.from_pretrained("somebody/clip")
except cliplib.CliplibError as error:
    print(error, "|", len(tried))
"""


def test_the_offline_way_reaches_for_no_host(image_folder: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_HOME": str(tmp_path / "hub"), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", GUARD + WAY, str(image_folder), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sentence, tried = done.stdout.rsplit("|", 1)  # only a hub id makes it try
    assert sentence.startswith("Cannot get the model 'somebody/clip': ") and int(tried) > 0
    assert (tmp_path / "figures" / "a_figure.svg").exists() and (tmp_path / "sheet.html").exists()


# ------------------------------------------------------------------------------------------------- the source
UNPICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
NETWORK = {"aiohttp", "ftplib", "http", "httpx", "requests", "smtplib", "socket", "urllib", "urllib3", "webbrowser"}
RUNNERS = {"__import__", "compile", "eval", "exec", "execfile"}
METHODS = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
    "pd.read_pickle", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "tempfile.mktemp", "builtins.eval",
    "builtins.exec",
}  # fmt: skip
MUST_NOT = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "verify": False, "weights_only": False}

# What would be loaded from elsewhere when a page, a sheet, a style or a Typst document is opened; a link is not.
LOADS = re.compile(
    r"""<(?:script|link|img|iframe|embed|object|video|audio|source|use|image)\b[^>]*(?:src|href|data)\s*=\s*["']?(?:https?:)?//
    | \burl\(\s*["']?(?:https?:)?// | @import\s+["'](?:https?:)?// | \bfetch\(\s*["']https?: | \bimport\(\s*["']https?:
    | @preview/ | !\[[^\]]*\]\(https?:""",
    re.VERBOSE | re.IGNORECASE,
)


def faults(source: str) -> Iterator[str]:
    """What in Python source could run foreign code, or go into the network by itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            from_ = isinstance(node, ast.ImportFrom)
            for name in (
                [node.module or ""] if from_ and not node.level else [] if from_ else [a.name for a in node.names]
            ):
                harmless = name == "pickle" and from_ and [a.name for a in node.names] == ["UnpicklingError"]
                if name.partition(".")[0] in UNPICKLERS | NETWORK and not harmless:
                    yield f"imports {name}"
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
            if called in RUNNERS | METHODS or called.endswith((".read_pickle", ".to_pickle")):
                yield f"calls {called}"
            if called == "torch.load" and ast.unparse(given.get("weights_only", ast.Constant(None))) != "True":
                yield "torch.load without weights_only=True"
            if called.rpartition(".")[2] == "Environment" and ast.unparse(given.get("autoescape", node)) != "True":
                yield "a template without autoescape"
            for word, value in given.items():
                if word in MUST_NOT and ast.unparse(value) != str(not MUST_NOT[word]):
                    yield f"{word}={ast.unparse(value)}"


def notebook_source(path: Path) -> str:
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return "\n".join(cells)


@pytest.mark.parametrize("folder", ["cliplib", "report", "notebooks"])
def test_the_source_opens_no_door(folder: str) -> None:
    files = [
        p for p in sorted((ROOT / folder).rglob("*")) if "__pycache__" not in p.parts and not p.name.startswith(".")
    ]
    texts = {p: p.read_text(encoding="utf-8") for p in files if p.suffix in TEXTS}
    code = {p: text for p, text in texts.items() if p.suffix == ".py"}
    code |= {p: notebook_source(p) for p in files if p.suffix == ".ipynb"}  # "!" and "%" at a line's head are no Python
    assert code
    found = {str(p.relative_to(ROOT)): list(faults(source)) for p, source in code.items()}
    for path, text in texts.items():
        found.setdefault(str(path.relative_to(ROOT)), []).extend(match.group() for match in LOADS.finditer(text))
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


TEXTS = {".py", ".ipynb", ".j2", ".html", ".css", ".js", ".typ", ".lua", ".svg", ".md"}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "from pickle import UnpicklingError, loads", "import dill.x",
        "from urllib.request import urlopen", "import requests", "eval(x)", "exec('1')", "__import__('os')",
        "os.system('ls')", "os.popen('ls')", "subprocess.run('ls', shell=True)", "subprocess.run('ls', shell=x)",
        "subprocess.getoutput(x)", "torch.load(f)", "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=1)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)", "pd.read_pickle(f)", "df.to_pickle(f)", "yaml.load(f)",
        "Environment()", "jinja2.Environment(autoescape=False)", "get(u, verify=False)",
    ],
)  # fmt: skip
def test_an_open_door_is_found(source: str) -> None:
    assert list(faults(source))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("<script src='https://cdn.example/x.js'>", True), ('<link rel=stylesheet href="//cdn.example/x.css">', True),
        ('<img alt="" src=http://example.org/x.png>', True), ("a { background: url(https://example.org/x.png) }", True),
        ("@import 'https://example.org/x.css';", True), ('#import "@preview/cetz:0.4.0"', True),
        ("![x](https://example.org/x.png)", True), ("fetch('https://example.org')", True),
        ('<a href="https://example.org">there</a>', False), ('#link("https://example.org")', False),
        ("url(fonts/x.ttf)", False), ('<link rel="icon" href="data:,">', False),
    ],
)  # fmt: skip
def test_what_would_be_loaded_from_elsewhere_is_found(source: str, found: bool) -> None:
    assert bool(LOADS.search(source)) == found


def test_what_is_allowed_passes() -> None:
    allowed = "from pickle import UnpicklingError\nmodel.eval()\nre.compile(x)\ntorch.load(f, weights_only=True)\n"
    allowed += (
        "subprocess.run(['ls'])\nnp.load(f)\nyaml.safe_load(x)\nEnvironment(autoescape=True)\nfrom . import socket"
    )
    assert list(faults(allowed)) == []


def test_what_security_md_points_to_exists() -> None:
    named = re.findall(r"`(tests/\w+\.py)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 10 and [name for name in named if not (ROOT / name).exists()] == []
