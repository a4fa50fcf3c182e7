"""The demonstration: folders whose faults were planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliplib.reports.demo import N_IMAGES, make_demo


def test_the_faults_are_planted(tmp_path: Path) -> None:
    shortcut, copies, series = make_demo(tmp_path / "demo")
    corners = {
        kind: [
            np.asarray(Image.open(path))[-8, 6].min()
            for path in (shortcut / kind).iterdir()
        ]
        for kind in ("plain", "marked")
    }
    assert min(corners["marked"]) == 255 and max(corners["plain"]) < 255
    twice = copies / "grass" / "extra00.png"
    assert twice.read_bytes() == (copies / "brick" / "00.png").read_bytes()
    assert len(list(series.rglob("*.png"))) == 3 * N_IMAGES


def test_nothing_that_is_there_is_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        make_demo(tmp_path)
