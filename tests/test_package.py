"""The package: what it offers, lazily, documented, and with types that users see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import cliplib

ROOT = Path(__file__).resolve().parent.parent

USER = """
from cliplib import ClipEncoder, FeatureTable, evaluate, search
reveal_type(ClipEncoder("mini").encode_texts(["a bottle"]))
"""
# Only the user's file is judged here; libraries would take a minute.
MYPY = """
[mypy]
strict = true
[mypy-cliplib.*]
follow_imports = silent
[mypy-datasets.*,huggingface_hub.*,IPython.*,jinja2.*,joblib.*,matplotlib.*,pandas.*]
follow_imports = skip
[mypy-PIL.*,scipy.*,sklearn.*,torch.*,transformers.*]
follow_imports = skip
"""


def test_importing_imports_nothing_slow():
    code = "import sys, cliplib; print(*dir(cliplib)); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    offered, imported = map(str.split, run.stdout.splitlines())
    slow = {"torch", "numpy", "pandas", "datasets", "sklearn", "transformers"}
    assert "ClipEncoder" in offered
    assert "cliplib" in imported and not slow & {*imported}


def test_every_public_name_is_there_and_documented():
    for name in cliplib.__all__:
        offered = getattr(cliplib, name)
        assert offered.__doc__, name
        assert offered.__name__ == name


def test_the_version_is_that_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cliplib.__version__ == project["version"]


def test_users_of_mypy_see_names_and_types(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text(MYPY)
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", os.devnull, "user.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    assert "ndarray" in run.stdout


def test_the_wheel_brings_types():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]["cliplib"]
    assert {"py.typed", "*.pyi"} <= set(data)
    assert (ROOT / "cliplib" / "py.typed").exists()


def test_pre_commit_and_the_lock_have_one_ruff() -> None:
    locked = re.search(r"(?m)^ruff==(\S+)", (ROOT / "requirements.lock").read_text())
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert locked
    assert f"ruff-pre-commit\n    rev: v{locked[1]} " in hooks
