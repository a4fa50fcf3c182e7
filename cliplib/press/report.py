"""A report on one folder of images: notebook 11, executed and printed, verdict first.

The notebook and the exporter to HTML and PDF are those of the repository's own report:
this needs a checkout, and the extras "notebooks" and "report". Nothing slow is imported
before it is known that something has to be done.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import importlib
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cliplib.encode.vision import VisionEncoder

NOTEBOOK = "11_your_images"
EXTRAS = ("papermill", "nbconvert", "typst", "pypandoc", "bs4", "seaborn", "skimage")
PACKAGES = ("numpy", "scikit-learn", "torch", "transformers", "typst", "nbconvert")
# Of the exporter; a cell tagged so is for whoever runs the notebook, and not printed.
SETTINGS = ("CLIPLIB_MODEL", "CLIPLIB_DTYPE")
SLICES = 3  # of a grid of pictures, of which the notebook sets six in a row
HIDDEN = {"plumbing", "remove-cell", "injected-parameters"}


@dataclass(frozen=True)
class Request:
    """What a report is asked for.

    Attributes
    ----------
    folder
        Of class folders, as in `cliplib.images.data.load_dataset`.
    out
        Gets ``report.html``, ``report.pdf``, and the decision aid in ``aid``.
    model
        Hub id or folder of a CLIP; "" for the setting ``CLIPLIB_MODEL``, else "mini".
    groups
        As in `cliplib.tables.groups.declared_groups`; "" for near-duplicates only.
    title
        Of the report; "" for the folder's name.
    others
        More vision models to set beside CLIP, as `cliplib.VisionEncoder` takes them.
    """

    folder: Path
    out: Path
    model: str = ""
    groups: str = ""
    title: str = ""
    others: Sequence[str] = ()

    @cached_property
    def heading(self) -> str:
        """The report's title, on one line."""
        return " ".join((self.title or self.folder.resolve().name).split())

    @property
    def aid(self) -> Path:
        """Where the decision aid goes."""
        return self.out / "aid"

    @property
    def pages(self) -> tuple[Path, Path]:
        """Where the page and the PDF go."""
        return self.out / "report.html", self.out / "report.pdf"

    @property
    def command(self) -> str:
        """What makes this report."""
        words = ["python", "-m", "cliplib", "report", str(self.folder)]
        words += ["--out", str(self.out)]
        for name in ("model", "groups", "title"):
            if value := getattr(self, name):
                words += [f"--{name}", value]
        if self.others:
            words += ["--others", *self.others]
        return shlex.join(words)

    def parameters(self) -> dict[str, Any]:
        """Return the notebook's parameters, with whole paths."""
        return {
            "data": str(self.folder.resolve()),
            "model": _whole_path(self.model),
            "groups": _whole_path(self.groups),
            "others": [_whole_path(name) for name in self.others],
            "out": str(self.aid.resolve()),
        }


def _whole_path(value: str) -> str:
    """Return a path that exists as a whole one, since kernels run elsewhere."""
    return str(Path(value).resolve()) if value and Path(value).exists() else value


def write_report(request: Request) -> dict[str, Any] | None:
    """Make a report, unless the one there is of these very images and settings.

    Parameters
    ----------
    request
        What is asked for.

    Returns
    -------
    dict or None
        The verdict: "answer", and lists "reasons" and "steps". None where nothing has
        changed since the report was made.

    Raises
    ------
    ImportError
        If this is no checkout, or an extra is missing.
    OSError
        If a folder is missing or not writable, or images cannot be encoded.
    ValueError
        If the folder is not one of at least two classes, groups do not cover it, or the
        notebook fails.
    """
    exporter = Exporter(checkout(), request)
    check_names(request)
    stamp = exporter.places.work / "own.stamp"
    state = fingerprint(request, exporter.root)
    is_made = all(path.is_file() for path in (*request.pages, stamp))
    if is_made and stamp.read_text("utf-8") == state:
        return None
    stamp.unlink(missing_ok=True)
    check_aid(request)
    encode_first(request)
    exporter.execute()
    said = exporter.write()
    stamp.write_text(state, "utf-8")
    return said


def checkout() -> Path:
    """Return the checkout that this package lies in, where all that is needed is there.

    Raises ImportError where it is not.
    """
    root = Path(__file__).resolve().parents[2]
    lacking = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    is_checkout = (root / "notebooks" / f"{NOTEBOOK}.ipynb").is_file()
    if lacking or not is_checkout:
        what = f"the package {lacking[0]}" if lacking else "the notebook"
        raise ImportError(
            f"A report needs a checkout of the repository and the extras notebooks and "
            f"report, and {what} is not here: clone it and pip install -e "
            "'.[notebooks,report]'."
        )
    return root


def check_names(request: Request) -> None:
    """Raise OSError or ValueError for folders that cannot be read or written to."""
    if not request.folder.is_dir():
        raise FileNotFoundError(f"There is no folder {request.folder}.")
    if request.out.resolve().is_relative_to(request.folder.resolve()):
        raise ValueError(
            f"{request.out} lies within {request.folder}, whose folders are classes: "
            "choose another place for the report."
        )
    if request.out.exists() and not request.out.is_dir():
        raise NotADirectoryError(f"{request.out} is a file: name a folder.")


def check_aid(request: Request) -> None:
    """Raise OSError where the decision aid cannot be written."""
    from cliplib.app.decision_aid import check_folder

    check_folder(request.aid)


def fingerprint(request: Request, root: Path) -> str:
    """Return a digest of what a report depends on, without reading an image.

    These are names, sizes and times of all files below the folder (and below the model
    or groups, if these are paths), the settings, the code of library, notebook and
    exporter, and the versions of what computes.
    """
    parameters = request.parameters()
    settings = [os.environ.get(name, "") for name in SETTINGS]
    described = [parameters, request.heading, request.command, settings]
    digest = hashlib.sha256(json.dumps(described).encode())
    names = [parameters[name] for name in ("data", "model", "groups")]
    for name in [*names, *parameters["others"]]:
        for path in _files_of(name):
            facts = path.stat()
            line = f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    for path in _code(root):
        digest.update(path.read_bytes())
    digest.update(json.dumps([sys.version, *map(_version, PACKAGES)]).encode())
    return digest.hexdigest()


def _files_of(name: str) -> list[Path]:
    """Return a file, or all files below a folder; none for what is no path."""
    path = Path(name)
    if not name or not path.exists():
        return []
    return sorted(each for each in (path, *path.rglob("*")) if each.is_file())


def _code(root: Path) -> list[Path]:
    """Return the files that decide what a report says and how it looks."""
    files = [root / "notebooks" / f"{NOTEBOOK}.ipynb"]
    files.append(root / "figures" / "captions.toml")
    files += (root / "cliplib").rglob("*.py")
    files += (root / "report").glob("*.py")
    files += [root / "report" / "own.typ", *(root / "report" / "theme").rglob("*.*")]
    return sorted(path for path in files if path.is_file())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def encode_first(request: Request) -> None:
    """Encode the images into the feature cache, with a bar; check what they are.

    The notebook finds their features there. Raises what `load_features` and
    `VisionEncoder` raise, and ValueError for fewer than two classes.
    """
    from cliplib.app.questions import measurable
    from cliplib.encode.clip import ClipEncoder
    from cliplib.images.cache import map_images
    from cliplib.images.data import load_dataset
    from cliplib.tables.extract import load_features

    folder = request.folder.resolve()
    dataset = load_dataset(folder)
    classes = dataset.features["label"].names if dataset else []
    if dataset is None or len(classes) < 2:
        raise ValueError(
            f"{request.folder} needs images of two classes or more, each in a folder "
            f"of its own; there is only {', '.join(map(repr, classes)) or 'none'}."
        )
    encoder = ClipEncoder(_whole_path(request.model) or None)
    others = other_encoders(request)
    table = load_features(folder, encoder, groups=request.groups or None, errors={})
    measurable(table)
    files = dict(zip(dataset["id"], dataset["image"], strict=True))
    images = [files[image_id] for image_id in table.ids]
    for name, other in others.items():
        map_images(images, other.image_function, cache=encoder.cache, progress=name)


def other_encoders(request: Request) -> dict[str, VisionEncoder]:
    """Load the other vision models, by the ends of their names.

    Raises what `VisionEncoder` raises, and ValueError where two names end alike.
    """
    from cliplib.encode.vision import VisionEncoder

    names = request.parameters()["others"]
    loaded = {Path(name).name: VisionEncoder(name) for name in names}
    if len(loaded) < len(names):
        raise ValueError(
            f"The other encoders {', '.join(request.others)} need names that end "
            "differently: they are called by their ends."
        )
    return loaded


class Exporter:
    """Notebook 11 of a checkout, for one request.

    It works in ``build/own-…`` of the checkout, a folder for each place that reports
    are written to.
    """

    def __init__(self, root: Path, request: Request) -> None:
        self.root = root
        self.request = request
        if str(root / "report") not in sys.path:
            sys.path.insert(0, str(root / "report"))
        place = hashlib.sha256(str(request.out.resolve()).encode()).hexdigest()[:12]
        self.places = importlib.import_module("places").Places(root, f"own-{place}")

    @property
    def executed(self) -> Path:
        """Where the executed notebook lies."""
        work: Path = self.places.work
        return work / "executed" / f"{NOTEBOOK}.ipynb"

    def execute(self) -> None:
        """Execute the notebook, with a bar that counts its cells."""
        from tqdm.auto import tqdm

        execution = importlib.import_module("execution")
        surroundings = importlib.import_module("surroundings")
        notebook = self.root / "notebooks" / self.executed.name
        # In JSON, whose quotation marks tell a folder called 12 from a number.
        given = self.request.parameters()
        parameters = {name: json.dumps(value) for name, value in given.items()}
        task = execution.task_of(notebook, parameters, {})
        model = parameters_model(self.request)
        with _environment_kept():
            surroundings.try_models(model, given["others"])  # which may ask a hub
            surroundings.prepare(self.places, "", "")
            os.environ["CLIPLIB_MODEL"] = model
            self.places.stage()
            with (
                contextlib.chdir(self.root),
                execution.MemoryWatch() as watch,
                tqdm(total=task.cells + 1, desc="questions", unit="cell") as bar,
            ):
                failure = execution.run(self.places, task, _Steps(bar), watch)
        if failure:
            raise ValueError(str(failure))

    def write(self) -> dict[str, Any]:
        """Write page and PDF; return the verdict."""
        saved = self.places.figures / "your_verdict.json"
        said: dict[str, Any] = json.loads(saved.read_text("utf-8"))
        notebook = json.loads(self.executed.read_text("utf-8"))
        path = self.places.work / "report.ipynb"
        ours = printable(notebook, said, self.request.command)
        path.write_text(json.dumps(ours), "utf-8")
        page, pdf = self.request.pages
        self.request.out.mkdir(parents=True, exist_ok=True)
        page.write_text(self.as_html(path), "utf-8", newline="\n")
        pdf.write_bytes(self.as_pdf(path))
        return said

    @cached_property
    def subtitle(self) -> str:
        """Whose images, and when."""
        day = datetime.now(UTC).strftime("%d %B %Y").lstrip("0")
        return f"Does a frozen CLIP sort these images? {day}"

    def as_html(self, notebook: Path) -> str:
        """Return a page that loads nothing."""
        webpages = importlib.import_module("webpages")
        exporter = webpages.notebook_exporter()
        exporter.exclude_input = True
        body, _ = exporter.from_filename(str(notebook))
        body, contents = webpages.with_contents(body)
        theme = self.root / "report" / "theme"
        sheets = [(theme / name).read_text("utf-8") for name in ("web.css", "own.css")]
        style = re.sub(r"@font-face \{[^}]*\}\n?", "", "\n".join(sheets))
        title = html.escape(self.request.heading)
        above = f"<h1>{title}</h1>\n<p>{html.escape(self.subtitle)}</p>\n"
        return Template((theme / "web.html").read_text("utf-8")).substitute(
            title=title,
            style=f"<style>\n{style}</style>",
            links="",
            contents=contents,
            body=above + with_slices(body),
        )

    def as_pdf(self, notebook: Path) -> bytes:
        """Return the PDF; letters that the report's fonts lack come from the system."""
        typeset = importlib.import_module("typeset")
        typst = importlib.import_module("typst")
        typeset.export_notebooks(self.places, [notebook])
        compiler = typst.Compiler(
            str(self.places.project / "report" / "own.typ"),
            root=str(self.places.project),
            font_paths=typst.Fonts(font_paths=[str(typeset.fonts(self.places))]),
            sys_inputs={
                "title": self.request.heading,
                "subtitle": self.subtitle,
                "everything": "true",
            },
        )
        return bytes(compiler.compile(format="pdf"))


def with_slices(body: str) -> str:
    """Return a page whose grids of pictures fall into slices on a narrow screen.

    A slice is two pictures wide; ``own.css`` sets the slices side by side, or one below
    the other.
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(body, "html.parser")
    for image in soup.select("figure > img"):
        svg = base64.b64decode(str(image["src"]).partition("base64,")[2]).decode()
        pictures = svg.count("<image")
        size = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
        if not pictures or not size:
            continue
        shape = f"{float(size[1]) / SLICES:.0f} / {float(size[2]):.0f}"
        style = f"--picture: url({image['src']}); --shape: {shape}"
        grid = soup.new_tag("div", attrs={"class": "grid", "style": style})
        grid.attrs |= {"role": "img", "aria-label": image["alt"]}
        for _ in range(min(SLICES, -(-pictures // 2))):
            grid.append(soup.new_tag("span"))
        image.replace_with(grid)
    return str(soup)


def parameters_model(request: Request) -> str:
    """Return the model that the kernel shall use: the one named, or the setting."""
    return _whole_path(request.model or os.environ.get("CLIPLIB_MODEL", ""))


class _Steps:
    """What the execution of a notebook tells of its cells."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def step(self, name: str) -> None:
        """Note that a cell was executed."""
        self._bar.update(1)


@contextlib.contextmanager
def _environment_kept() -> Any:
    """Give back the environment as it was: executions set much of it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def printable(
    notebook: Mapping[str, Any], said: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """Return what a reader gets of an executed notebook, the verdict at the top.

    Parameters
    ----------
    notebook
        The JSON of an executed notebook; it stays as it is.
    said
        The verdict: "answer", "reasons", "steps".
    command
        What makes the report, for its end.
    """
    cells: list[dict[str, Any]] = []
    for cell in notebook["cells"]:
        if HIDDEN & set(cell["metadata"].get("tags", [])):
            continue
        if cell["cell_type"] == "markdown":
            cells.append(dict(cell))
        elif cell["outputs"]:
            cells.append({**cell, "source": ""})
        elif cells and not "".join(cells[-1]["source"]).startswith("#"):
            cells.pop()  # a question without an answer
    cells.insert(0, _markdown_cell("verdict", verdict_as_markdown(said)))
    last = f"This command makes it again:\n\n```bash\n{_one_line(command)}\n```"
    cells.append(_markdown_cell("command", last))
    return {**notebook, "cells": cells}


def _markdown_cell(name: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def verdict_as_markdown(said: Mapping[str, Any]) -> str:
    """Return the verdict as Markdown in which file names mean nothing but themselves.

    The answer stands in bold before its reasons; what to do is a list.
    """
    answer = literal(said["answer"])
    reasons = " ".join(map(literal, said["reasons"]))
    steps = "\n".join(map(_step, said["steps"]))
    heading = "## What to do next\n\n" if steps else ""
    return f"**{answer}** {reasons}\n\n{heading}{steps}\n"


def _step(step: Sequence[str]) -> str:
    """Return a point of a list, with its command on a line that can be copied."""
    text, command = step
    code = f"\n\n  ```bash\n  {_one_line(command)}\n  ```\n" if command else ""
    return f"- {literal(text)}{code}"


def literal(text: str) -> str:
    """Escape a text, so that Markdown prints it as it is, on one line."""
    return _escaped(_one_line(text))


def _escaped(text: str) -> str:
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def _one_line(text: str) -> str:
    return " ".join(text.replace("```", "'''").split())
