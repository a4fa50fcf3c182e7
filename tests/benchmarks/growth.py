"""How time and memory grow with the number of images: each size in its own process.

``python tests/benchmarks/growth.py WORK WHO N`` does one work once, and prints its core
seconds and how many megabytes it took beyond what lay there before. Inputs are made of
random numbers, of the width of the readout "deep" of the embedded model.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cliplib import FeatureTable, KernelProbe, LinearProbe, evaluate
from cliplib.press import figures
from cliplib.tables.audit import (
    _HASH,
    MAX_DISTANCE,
    ORIENTATIONS,
    _detail,
    _hash_bits,
    find_near_duplicates,
)
from cliplib.tables.splits import fold_numbers

WIDTH = 3840
Work = Callable[[], Any]


def features(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Make features whose strengths fall as those of images do, and four classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, n)
    X = rng.standard_normal((n, WIDTH), np.float32)
    X /= np.sqrt(np.arange(1, WIDTH + 1, dtype=np.float32))
    X[:, :200] += 0.15 * rng.standard_normal((4, 200), np.float32)[y]
    return X, y


def hashes(n: int) -> np.ndarray:
    """Make hashes of n pictures of clouds, a tenth of which are mirrored copies."""
    rng = np.random.default_rng(0)
    rows = np.zeros(n, _HASH)
    for start in range(0, n, 500):
        grey = rng.standard_normal((min(500, n - start), 64, 64), np.float32)
        grey = grey.cumsum(axis=1).cumsum(axis=2)
        grey -= grey.min(axis=(1, 2), keepdims=True)
        grey *= 255 / grey.max(axis=(1, 2), keepdims=True)
        copies = len(grey) // 10
        grey[-copies:] = grey[:copies, :, ::-1]
        part = rows[start : start + len(grey)]
        part["bits"] = _hash_bits(grey)
        part["detail"] = _detail(grey)
        part["digest"] = [str(start + i).encode() for i in range(len(grey))]
    return rows.view(np.uint8).reshape(n, -1)


def one_pair(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Make labels, and groups of one row but for two that are copies."""
    groups = np.arange(n)
    groups[1] = 0
    return np.random.default_rng(0).integers(0, 4, n), groups


def copies(who: str, n: int) -> Work:
    """Near-duplicates among hashes; the peer proposes pairs, and does no more."""
    rows = hashes(n)
    if who == "ours":
        return lambda: find_near_duplicates(rows)
    import faiss

    faiss.omp_set_num_threads(1)
    bits = rows.view(_HASH)["bits"][:, 0].view(np.uint8)
    index = faiss.IndexBinaryFlat(256)
    index.add(np.ascontiguousarray(bits[:, 0]))

    def search() -> None:
        for number in range(len(ORIENTATIONS)):
            turned = np.ascontiguousarray(bits[:, number])
            index.range_search(turned, MAX_DISTANCE + 1)

    return search


def linear(who: str, n: int) -> Work:
    """Choose C on a held-out fifth, and refit; the peer fits each C, and all rows."""
    X, y = features(n)
    if who == "ours":
        return lambda: LinearProbe().fit(X, y)
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def sweep() -> None:
        train = StandardScaler().fit_transform(X[: 4 * n // 5])
        probe = LogisticRegression(max_iter=1000, warm_start=True)
        tried = LinearProbe().fit(X[:1000], y[:1000]).sweep_["C"]
        for C in tried:
            probe.set_params(C=C).fit(train, y[: 4 * n // 5])
        LogisticRegression(C=C, max_iter=1000).fit(StandardScaler().fit_transform(X), y)

    return sweep


def kernel(who: str, n: int) -> Work:
    """Fit the kernel probe; the peer fits one regression, and chooses nothing."""
    X, y = features(n)
    if who == "ours":
        return lambda: KernelProbe().fit(X, y)
    from sklearn.kernel_ridge import KernelRidge

    peer = KernelRidge(alpha=0.01, kernel="rbf", gamma=0.6 / WIDTH)
    return lambda: peer.fit(X, np.eye(4)[y])


def folds(who: str, n: int) -> Work:
    """Deal five folds of rows, two of which are copies."""
    y, groups = one_pair(n)
    if who == "ours":
        return lambda: fold_numbers(y, groups)
    from sklearn.model_selection import StratifiedGroupKFold

    return lambda: list(StratifiedGroupKFold(5, shuffle=True).split(y, y, groups))


def evaluation(who: str, n: int) -> Work:
    """Evaluate four classes, with 2,000 draws."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, n)
    proba = rng.dirichlet(np.ones(4), n)
    return lambda: evaluate(y, proba, list("abcd"))


def table(who: str, n: int) -> Work:
    """Save a table and load it again; the peer is the package safetensors."""
    X, y = features(n)
    own = FeatureTable.from_arrays(X, y)
    place = Path(tempfile.mkdtemp()) / "table"

    def save_and_load() -> None:
        if who == "ours":
            own.save(place)
            FeatureTable.load(place)
            return
        from safetensors.numpy import load_file, save_file

        save_file({"features": X, "labels": y}, place)
        load_file(place)

    return save_and_load


WORKS: dict[str, tuple[Callable[[str, int], Work], str, list[int]]] = {
    "near-duplicates": (copies, "faiss", [2_000, 8_000, 32_000]),
    "linear probe": (linear, "scikit-learn", [1_000, 2_000, 4_000, 8_000]),
    "kernel probe": (kernel, "scikit-learn", [1_000, 2_000, 4_000, 8_000]),
    "five folds, one pair": (folds, "scikit-learn", [2_000, 8_000, 32_000, 128_000]),
    "evaluation": (evaluation, "", [1_000, 8_000, 64_000]),
    "table saved, loaded": (table, "safetensors", [2_000, 8_000, 32_000]),
}
PEER_SECONDS = 100
"""A peer that took so long at one size is not asked for the next."""


def measure(name: str, who: str, n: int) -> dict[str, float]:
    """Do one work here; return its core seconds, and megabytes beyond its input's."""
    work = WORKS[name][0](who, n)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.process_time()
    work()
    seconds = time.process_time() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "megabytes": (after.ru_maxrss - before.ru_maxrss) / 1e3}


def apart(name: str, who: str, n: int) -> dict[str, float] | str:
    """Measure in another process; return why there is nothing if it fails."""
    command = [sys.executable, __file__, name, who, str(n)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def exponent(n: list[int], values: list[float]) -> float | None:
    """Return the slope between the logarithms of the two largest sizes."""
    known = [(size, value) for size, value in zip(n, values, strict=True) if value > 0]
    if len(known) < 2:
        return None
    (small, low), (large, high) = known[-2:]
    return float(np.log(high / low) / np.log(large / small))


def grow(name: str) -> list[dict[str, Any]]:
    """Measure a work at all sizes, by ours and by its peer, in turn."""
    _, peer, sizes = WORKS[name]
    columns: dict[str, list[dict[str, float]]] = {"ours": [], peer: []}
    note = ""
    for n in sizes:
        for who in list(filter(None, columns)):
            found = apart(name, who, n)
            if isinstance(found, str):
                note = f"not measured: {found}"
                del columns[who]
                continue
            columns[who].append(found)
            if who == peer and found["seconds"] > PEER_SECONDS:
                break
    rows = []
    for who, found in columns.items():
        n = sizes[: len(found)]
        if n:
            seconds = [one["seconds"] for one in found]
            megabytes = [one["megabytes"] for one in found]
            row = {"work": name, "who": who, "n": n, "note": note}
            row |= {"seconds": [round(s, 3) for s in seconds], "megabytes": megabytes}
            rows.append(row | {"exponent": exponent(n, seconds)})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw core seconds by number of images, a panel for each work."""
    import matplotlib.pyplot as plt

    figures.use_style()
    names = list(dict.fromkeys(row["work"] for row in rows))
    figure, axes = plt.subplots(
        2, -(-len(names) // 2), figsize=(6.5, 3.8), layout="constrained"
    )
    for ax, name in zip(axes.flat, names, strict=False):
        for row in (row for row in rows if row["work"] == name):
            ours = row["who"] == "ours"
            color = "#1f2933" if ours else "#a9b2bb"
            ax.loglog(row["n"], row["seconds"], "o-", ms=3, color=color)
            ax.annotate(
                row["who"], (row["n"][-1], row["seconds"][-1]), color=color, size=7
            )
        ax.set_title(name)
    figure.supxlabel("images")
    figure.supylabel("core seconds")
    path.write_text(figures.svg(figure), "utf-8")


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the largest size of each work, and the ratio to the peer's time."""
    lines = [
        "| work | images | core seconds | megabytes | exponent | the peer's time |"
    ]
    lines.append("|---|---|---|---|---|---|")
    frame = pd.DataFrame(rows)
    for name, of_work in frame.groupby("work", sort=False):
        ours = of_work[of_work["who"] == "ours"].iloc[0]
        ratio = ""
        for _, peer in of_work[of_work["who"] != "ours"].iterrows():
            same = len(peer["n"]) - 1
            times = peer["seconds"][-1] / ours["seconds"][same]
            ratio = f"{times:.2g} × ({peer['who']}, {peer['n'][-1]:,})"
        power = "" if ours["exponent"] is None else f"{ours['exponent']:.1f}"
        lines.append(
            f"| {name} | {ours['n'][-1]:,} | {ours['seconds'][-1]:.3g} | "
            f"{ours['megabytes'][-1]:,.0f} | {power} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    _, name, who, n = sys.argv
    print(json.dumps(measure(name, who, int(n))))
