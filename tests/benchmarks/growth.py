"""How time and memory grow with the number of images: each size in its own process.

``python tests/benchmarks/growth.py WORK WHO N`` does one work once, and prints its core
seconds and how many megabytes it took beyond what lay there before, on Linux. Inputs
are made of random numbers, of the width of the readout "deep" of the embedded model.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cliplib import FeatureTable, KernelProbe, LinearProbe, evaluate
from cliplib.features.duplicates import MAX_DISTANCE, find_near_duplicates
from cliplib.features.hashes import (
    HASH_RECORD,
    HASH_SIDE,
    ORIENTATIONS,
    low_frequency_bits,
)
from cliplib.features.splits import fold_numbers
from study import figures

WIDTH = 3840
CROPS_TOO = "ours, crops too"
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
    rows = np.zeros(n, HASH_RECORD)
    for start in range(0, n, 500):
        grey = rng.standard_normal((min(500, n - start), 64, 64), np.float32)
        grey = grey.cumsum(axis=1).cumsum(axis=2)
        grey -= grey.min(axis=(1, 2), keepdims=True)
        grey *= 255 / grey.max(axis=(1, 2), keepdims=True)
        copies = len(grey) // 10
        grey[-copies:] = grey[:copies, :, ::-1]
        part = rows[start : start + len(grey)]
        turned = [orient(grey) for orient in ORIENTATIONS.values()]
        part["bits"] = low_frequency_bits(np.stack(turned, axis=1), HASH_SIDE)
        part["grey"] = grey
        part["digest"] = [str(start + i).encode() for i in range(len(grey))]
    return rows.view(np.uint8).reshape(n, -1)


def one_pair(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Make labels, and groups of one row but for two that are copies."""
    groups = np.arange(n)
    groups[1] = 0
    return np.random.default_rng(0).integers(0, 4, n), groups


def copies(who: str, n: int) -> Work:
    """Near-duplicates among hashes; the peers propose pairs, and do no more.

    faiss compares the same hashes, in every orientation; imagededup only a quarter of
    their bits, as many as its own hash has, of images as they are. Neither looks for
    crops, so ours does that only as `CROPS_TOO`.
    """
    rows = hashes(n)
    if who in ("ours", CROPS_TOO):
        return lambda: find_near_duplicates(rows, cropped=who == CROPS_TOO)
    if who == "imagededup":
        return copies_of_imagededup(rows)
    import faiss

    faiss.omp_set_num_threads(1)
    bits = rows.view(HASH_RECORD)["bits"][:, 0].view(np.uint8)
    index = faiss.IndexBinaryFlat(256)
    index.add(np.ascontiguousarray(bits[:, 0]))

    def search() -> None:
        for number in range(len(ORIENTATIONS)):
            turned = np.ascontiguousarray(bits[:, number])
            index.range_search(turned, MAX_DISTANCE + 1)

    return search


def copies_of_imagededup(rows: np.ndarray) -> Work:
    """Compare 64 bits of each hash, the lowest frequencies, as imagededup does."""
    from imagededup.methods import PHash

    bits = rows.view(HASH_RECORD)["bits"][:, 0, 0]  # (n, 4), of images as they are
    frequencies = np.unpackbits(bits.copy().view(np.uint8), axis=1).reshape(-1, 16, 16)
    lowest = np.packbits(frequencies[:, :8, :8].reshape(-1, 64), axis=1)
    by_name = {str(row): own.tobytes().hex() for row, own in enumerate(lowest)}
    return lambda: PHash(verbose=False).find_duplicates(encoding_map=by_name)


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


WORKS: dict[str, tuple[Callable[[str, int], Work], list[str], list[int]]] = {
    "near-duplicates": (
        copies,
        ["faiss", "imagededup", CROPS_TOO],
        [2_000, 8_000, 32_000],
    ),
    "linear probe": (linear, ["scikit-learn"], [1_000, 2_000, 4_000, 8_000]),
    "kernel probe": (kernel, ["scikit-learn"], [1_000, 2_000, 4_000, 8_000]),
    "five folds, one pair": (folds, ["scikit-learn"], [2_000, 8_000, 32_000, 128_000]),
    "evaluation": (evaluation, [], [1_000, 8_000, 64_000]),
    "table saved, loaded": (table, ["safetensors"], [2_000, 8_000, 32_000]),
}
PEER_SECONDS = 20
"""A peer that took so long at one size is not asked for the next."""
MOST_SECONDS = 200


def measure(name: str, who: str, n: int) -> dict[str, float]:
    """Do one work here; return its core seconds, and megabytes beyond its input's."""
    work = WORKS[name][0](who, n)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the input
    start = core_seconds()
    work()
    seconds = core_seconds() - start
    return {"seconds": seconds, "megabytes": resident("VmHWM") - before}


def core_seconds() -> float:
    """Return the time that this process and its ended children computed."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(which) for which in whose]
    return sum(one.ru_utime + one.ru_stime for one in used)


def resident(name: str) -> float:
    """Return the memory of this process, now or at its peak, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(name))
    return int(kilobytes) / 1e3


def apart(name: str, who: str, n: int) -> dict[str, float] | str:
    """Measure in another process; return why there is nothing if it fails."""
    command = [sys.executable, __file__, name, who, str(n)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MOST_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"more than {MOST_SECONDS} seconds for {n:,} images"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def exponent(n: list[int], values: list[float]) -> float | None:
    """Return the slope between the logarithms of the two largest sizes."""
    known = [(size, value) for size, value in zip(n, values, strict=False) if value > 0]
    if len(known) < 2:
        return None
    (small, low), (large, high) = known[-2:]
    return round(float(np.log(high / low) / np.log(large / small)), 3)


def grow(name: str) -> list[dict[str, Any]]:
    """Measure a work at all sizes, by ours and by its peers, in turn."""
    _, peers, sizes = WORKS[name]
    asked = ["ours", *peers]
    measured: dict[str, list[dict[str, float]]] = {who: [] for who in asked}
    notes = dict.fromkeys(asked, "")
    for n in sizes:
        for who in asked.copy():
            found = apart(name, who, n)
            if isinstance(found, str):
                notes[who] = f"not measured: {found}"
                asked.remove(who)
                continue
            measured[who].append(found)
            if who in peers and found["seconds"] > PEER_SECONDS:
                asked.remove(who)
    return [
        {
            "work": name,
            "who": who,
            "n": sizes[: len(found)],
            "seconds": [round(one["seconds"], 3) for one in found],
            "megabytes": [round(one["megabytes"]) for one in found],
            "exponent": exponent(sizes, [one["seconds"] for one in found]),
            "note": notes[who],
        }
        for who, found in measured.items()
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw core seconds by number of images, a panel for each work."""
    import matplotlib.pyplot as plt

    figures.use_style()
    names = list(dict.fromkeys(row["work"] for row in rows))
    n_columns = 3
    figure, axes = plt.subplots(
        -(-len(names) // n_columns), n_columns, figsize=(figures.TEXT_WIDTH, 3.6)
    )
    for ax, name in zip(axes.flat, names, strict=False):
        of_work = [row for row in rows if row["work"] == name and row["n"]]
        for row in of_work:
            ours = row["who"] == "ours"
            color = figures.INK if ours else figures.PALE
            label = row["who"].replace("ours", "cliplib")
            styles = {"ours": "o-", "imagededup": "^:", CROPS_TOO: "v-."}
            style = styles.get(row["who"], "s--")
            ax.loglog(row["n"], row["seconds"], style, ms=3, color=color, label=label)
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xticks([of_work[0]["n"][0], of_work[0]["n"][-1]])
        ax.minorticks_off()
        ax.set_title(name)
        fastest = min(second for row in of_work for second in row["seconds"])
        ax.set_ylim(bottom=fastest / 6 ** len(of_work))  # room for the legend
        ax.legend(loc="lower right")
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
        ratios = []
        for _, peer in of_work[of_work["who"] != "ours"].iterrows():
            same = len(peer["n"]) - 1
            if same >= 0:
                times = peer["seconds"][-1] / ours["seconds"][same]
                ratios.append(f"{times:.2g} × ({peer['who']}, {peer['n'][-1]:,})")
        power = "" if ours["exponent"] is None else f"{ours['exponent']:.1f}"
        lines.append(
            f"| {name} | {ours['n'][-1]:,} | {ours['seconds'][-1]:.3g} | "
            f"{ours['megabytes'][-1]:,.0f} | {power} | {', '.join(ratios)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    _, name, who, n = sys.argv
    print(json.dumps(measure(name, who, int(n))))
