"""What the tests share: a tiny CLIP, a folder of synthetic images, settings."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything imports NumPy and torch: two workers share the cores, and on arrays as
# small as these two threads take several times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The package `study`, also in processes that tests start.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent / "notebooks")

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cliplib.data.warn import warn_once

# Looking for garbage among what tests import takes as long as importing.
gc.disable()
# jsonschema then leaves out the check of addresses in every language, which no schema
# here asks for: its grammar takes a second to import.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# Fixtures import what needs torch: that takes seconds, and the process that deals out
# the tests does without.
if TYPE_CHECKING:
    from cliplib import ClipEncoder

CLASSES = ("disc", "square", "stripes")
COLOURS = {"disc": (200, 60, 50), "square": (60, 160, 80), "stripes": (60, 80, 200)}

LONGEST = (
    "test_report.py",
    "test_fixed_point.py",
    "test_readme.py",
    "test_own_report.py",
    "test_pages.py",
    "test_house.py",
    "test_decision_aid.py",
    "test_shortcuts.py",
    "test_probes.py",
    "test_extract.py",
    "test_audit.py",
    "test_figures.py",
    "test_evaluation.py",
    "test_cli.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal out whole files, but those that start kernels as one.

    Kernels of one worker are forked from a process that has imported what they use.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return file.replace("test_fixed_point.py", "test_report.py")

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all workers end together."""

    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Look for garbage again, but never among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def log_as_found() -> Iterator[None]:
    """Undo what a test does to the library's log, which notebooks take over.

    Every test gets the warnings that a process gives once.
    """
    warn_once.cache_clear()
    library = logging.getLogger("cliplib")
    before = (library.handlers[:], library.propagate, library.level)
    library.propagate = True
    yield
    library.handlers[:] = before[0]
    library.propagate = before[1]
    library.setLevel(before[2])


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test without settings, and let it write into its own folder."""
    for name in ("CLIPLIB_DATA", "CLIPLIB_DTYPE", "CLIPLIB_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIPLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPLIB_FIGURES", str(tmp_path / "figures"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_clip import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(checkpoint: Path) -> ClipEncoder:
    from cliplib import ClipEncoder

    return ClipEncoder(checkpoint, cache=None)


@pytest.fixture(scope="session")
def mini() -> ClipEncoder:
    from cliplib import ClipEncoder

    return ClipEncoder("mini", cache=None)


def draw(kind: str, rng: np.random.Generator, side: int = 48) -> Image.Image:
    """Draw a noisy image of one of `CLASSES`; no two are near-duplicates."""
    pixels = rng.integers(150, 256, (side, side, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    x, y = rng.integers(4, 16, 2).tolist()
    box = (x, y, x + 26, y + 26)
    if kind == "disc":
        pen.ellipse(box, fill=COLOURS[kind])
    elif kind == "square":
        pen.rectangle(box, fill=COLOURS[kind])
    else:
        for offset in range(0, side, 8):
            pen.line((offset, 0, offset + x, side), fill=COLOURS[kind], width=3)
    return image


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of class folders: image_folder(n=8, splits=("train", "test"))."""

    def make(
        n: int = 8, splits: tuple[str, ...] = ("",), name: str = "images", seed: int = 0
    ) -> Path:
        rng = np.random.default_rng(seed)
        for split in splits:
            for kind in CLASSES:
                folder = tmp_path / name / split / kind
                folder.mkdir(parents=True)
                for i in range(n):
                    draw(kind, rng).save(folder / f"{kind}{i}.png")
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """An image with coarse and fine structure."""
    rng = np.random.default_rng(0)
    shapes = ((6, 8, 3), (60, 80, 3))
    layers = [
        Image.fromarray(rng.integers(0, 160, shape, np.uint8)) for shape in shapes
    ]
    return Image.blend(*(layer.resize((400, 300)) for layer in layers), 0.4)
