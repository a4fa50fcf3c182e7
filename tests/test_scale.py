"""Features over Ray Data: as of one process, every image once, and nothing done twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliplib.encoder import ClipEncoder

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray")
scale = pytest.importorskip("cliplib.__main__")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    options = {
        "include_dashboard": False,
        "log_to_driver": False,
        "object_store_memory": 2**27,
    }
    ray.init("local", num_cpus=3, **options)
    yield
    ray.shutdown()


def extract(source: Path, output: Path, model: Path, **options: str) -> pd.DataFrame:
    given = {"readout": "deep"} | options
    scale.encode(str(source), str(output), model=str(model), actors=1, **given)
    return pd.concat(
        [pd.read_parquet(file) for file in output.glob("*.parquet")]
    ).set_index("id")


def test_a_folder_gives_the_features_of_one_process_and_is_resumed(
    image_folder: Callable[..., Path],
    tiny: ClipEncoder,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    folder, out = image_folder(n=3), tmp_path / "out"
    (folder / "disc" / "broken.png").write_bytes(b"no image")
    first = extract(folder, out, checkpoint)
    assert len(first) == 10 and first.index.is_unique
    assert first.index[first["error"] != ""].tolist() == ["disc/broken.png"]
    files = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    image_folder(n=2, name="images/more", seed=1)
    again = extract(folder, out, checkpoint)
    assert len(again) == 16 and again.index.is_unique
    assert (
        files.items()
        <= {path.name: path.stat().st_mtime_ns for path in out.iterdir()}.items()
    )
    good = again[again["error"] == ""]
    expected = tiny.images(
        [folder / name for name in good.index], readout="deep", progress=False
    )
    np.testing.assert_array_equal(np.stack(good["features"]), expected)
    with pytest.raises(
        ValueError, match="features that were made otherwise: name another folder"
    ):
        extract(folder, out, checkpoint, readout="pooled")
