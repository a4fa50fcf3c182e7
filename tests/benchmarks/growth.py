"""Time and memory from 1,000 to 50,000 pictures, the embedded model, each size in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import Options, Row, pictures, spread

WORK = "features with the embedded model and a store, growing"
SIZES = (1000, 10_000, 50_000)
ORDER = (
    1000,
    10_000,
    1000,
    1000,
    50_000,
    1000,
    10_000,
    1000,
)  # the small ones before and after, for what drifts


def measure(n: int, names: Path) -> dict[str, float]:
    """Encode so many pictures: seconds that pass, seconds of the processor, and the most memory, in MB.

    Each is a picture of its own, a file with its number behind its end, so that the store keeps every one.
    """
    from cliplib.encoder import ClipEncoder
    from cliplib.store import FeatureStore

    files = names.read_text(encoding="utf-8").splitlines()

    class Numbered(list[Any]):
        def __iter__(self) -> Any:
            return (
                {"path": path, "bytes": Path(path).read_bytes() + b"%d" % i}
                for i, path in super().__iter__()
            )

    encoder = ClipEncoder.from_pretrained("mini", device="cpu")
    encoder.images(files[:64], progress=False)
    with tempfile.TemporaryDirectory() as folder, FeatureStore(Path(folder) / "f.sqlite") as store:
        many = Numbered((i, files[i % len(files)]) for i in range(n))
        start, worked = time.perf_counter(), time.process_time()
        encoder.images(many, store=store, progress=False)
        passed, worked = time.perf_counter() - start, time.process_time() - worked
        assert encoder.last_run.computed == n
    # Not ru_maxrss: on Linux a child's begins with what its parent had used.
    peak = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return {"seconds": passed, "worked": worked, "mb": int(peak.split()[1]) / 1024}


def run(options: Options) -> list[Row]:
    """The rows about growth."""
    names = options.scratch / "names.txt"
    names.write_text("\n".join(map(str, pictures(options))), encoding="utf-8")
    sizes = [n for n in SIZES if n <= options.most]
    found: dict[int, list[dict[str, float]]] = {n: [] for n in sizes}
    for n in (n for n in ORDER if n in found):
        command = [sys.executable, __file__, str(n), str(names)]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=dict(os.environ)
        )
        found[n].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    most, large = sizes[-1], found[sizes[-1]][0]
    for n in sizes[:-1]:
        values = [large["seconds"] / most / (one["seconds"] / n) for one in found[n]]
        row = Row(
            WORK,
            f"time per picture of {most:,}, beside {n:,}",
            **spread(values),
            goal=1.1,
            sense="at most",
        )
        row.rates = {
            f"{n:,} (images/s)": n * len(found[n]) / sum(one["seconds"] for one in found[n])
        }
        row.rates |= {f"{most:,} (images/s)": most / large["seconds"]}
        worked = sum(one["worked"] for one in found[n]) / n / len(found[n])
        row.rates |= {"the same in processor time": large["worked"] / most / worked}
        rows.append(row)
    more = [large["mb"] - one["mb"] for one in found[sizes[0]]]
    row = Row(
        WORK,
        f"peak memory of {most:,}, beside 1,000",
        **spread(more),
        goal=100,
        unit="MB more",
        sense="at most",
    )
    row.rates = {f"{n:,} (MB)": max(one["mb"] for one in found[n]) for n in sizes}
    row.note = "the features themselves are in it"
    return [*rows, row]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]))) + "\n")
