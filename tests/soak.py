"""Kills, crowds, damage and full disks: features computed in spite of them equal those of an undisturbed run.

python tests/soak.py --rounds 200 --seed 0

A process is killed again and again while it computes, each time at another moment, and started anew on the same store.
Then several processes share one store, several find it damaged, and one has it on a file system that fills up or turns
read-only (where this may be mounted). All processes are forks of this one, which has everything loaded; on Linux.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
package = sys.modules["cliplib"] = types.ModuleType("cliplib")  # without its __init__, which imports everything
package.__path__ = [str(ROOT / "cliplib")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from conftest import CLASSES, draw, make_checkpoint  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402

from cliplib.encoder import ClipEncoder  # noqa: E402
from cliplib.errors import CliplibError  # noqa: E402
from cliplib.store import FeatureStore  # noqa: E402

IMAGES, BATCH = 96, 8


class Soak:
    """A tiny encoder, pictures, and what an undisturbed run makes of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        torch.set_num_threads(1)  # a fork must not inherit a pool of threads that it does not have
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.tally = np.frombuffer(mmap.mmap(-1, 16), dtype=np.int64)  # images begun, images kept; seen by all forks
        make_checkpoint(folder / "model")
        self.encoder = ClipEncoder.from_pretrained(folder / "model", device="cpu", dtype="float32")
        self.files = [folder / f"{i}.png" for i in range(IMAGES)]
        for i, file in enumerate(self.files):
            draw(CLASSES[i % len(CLASSES)], self.rng).save(file)
        begin = time.perf_counter()
        assert self.ends(self.fork(folder / "undisturbed.sqlite")) == 0
        self.seconds, self.expected = time.perf_counter() - begin, self.features()

    def compute(self, store_path: Path) -> None:
        """In a fork: all features, with a tally of what went into the model and what was kept."""
        torch.set_num_threads(2)
        lock, forward = threading.Lock(), self.encoder._forward
        with FeatureStore(store_path) as store:
            put = store.put

            def counted_forward(pixels: torch.Tensor, kind: str) -> np.ndarray:
                with lock:
                    self.tally[0] += int(pixels.any(axis=(1, 2, 3)).sum())  # the last chunk is filled up with zeros
                return forward(pixels, kind)

            def counted_put(fingerprint: str, digests: list[bytes], vectors: np.ndarray) -> None:
                put(fingerprint, digests, vectors)
                with lock:
                    self.tally[1] += len(digests)

            self.encoder._forward, store.put = counted_forward, counted_put
            features = self.encoder.images(self.files, batch_size=BATCH, store=store, progress=False)
        np.save(self.folder / f"{os.getpid()}.npy", features)
        os.replace(self.folder / f"{os.getpid()}.npy", self.folder / "features.npy")

    def fork(self, store_path: Path, work: Callable[[Path], None] | None = None) -> int:
        """Start `work`, or `compute`, in a process of its own; a failure is shown, and its status is 1."""
        if pid := os.fork():
            return pid
        signal.alarm(300)  # should it hang, it ends, and with another status than a kill's
        tqdm.set_lock(threading.RLock())  # tqdm's own is shared by forks: one killed while it had it would stop all
        try:
            (work or self.compute)(store_path)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)

    def ends(self, pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def features(self) -> np.ndarray:
        """What the last process that ended has found; once."""
        found = np.load(self.folder / "features.npy")
        (self.folder / "features.npy").unlink()
        return found

    def check(self, store_path: Path) -> None:
        """The features are those of the undisturbed run, bit by bit, and the store holds each once."""
        np.testing.assert_array_equal(self.features(), self.expected)
        with FeatureStore(store_path) as store:
            assert len(store) == IMAGES, f"{len(store)} of {IMAGES} features are in the store"

    def kills(self, rounds: int) -> str:
        """Kill processes, at random moments, until `rounds` died; let the last one of each store finish."""
        killed = stores = again = worst = 0
        while killed < rounds:
            stores, begun, deaths, status = stores + 1, 0, 0, -signal.SIGKILL
            path = self.folder / f"kill{stores}.sqlite"
            while status == -signal.SIGKILL:
                self.tally[:] = 0
                pid = self.fork(path)
                if killed + deaths < rounds:
                    time.sleep(self.rng.uniform(0, self.seconds))
                    os.kill(pid, signal.SIGKILL)
                status = self.ends(pid)
                begun += int(self.tally[0])
                if status == -signal.SIGKILL:
                    deaths, worst = deaths + 1, max(worst, int(self.tally[0] - self.tally[1]))
            assert status == 0
            assert worst <= BATCH, f"a kill cost {worst} images, more than a batch of {BATCH}"
            assert begun - IMAGES <= BATCH * deaths, f"{begun - IMAGES} images were computed again after {deaths} kills"
            self.check(path)
            killed, again = killed + deaths, again + begun - IMAGES
        return f"{killed} kills on {stores} stores: {again} images computed again, at most {worst} for a kill"

    def crowd(self, processes: int, *, damaged: bool = False) -> str:
        """Several processes begin at once, on a store that is not there yet, or is not a store."""
        path = self.folder / f"crowd{processes}{damaged}.sqlite"
        if damaged:
            path.write_bytes(b"no store " * 5000)
        statuses = [self.ends(pid) for pid in [self.fork(path) for _ in range(processes)]]
        assert statuses == [0] * processes, statuses
        self.check(path)
        aside = len(list(self.folder.glob(f"{path.name}.damaged-*")))
        assert aside == damaged, f"{aside} files were set aside"
        return f"{processes} processes on one {'damaged ' if damaged else ''}store"

    def refused(self, store_path: Path) -> None:
        """In a fork: computing ends with one sentence that names the store."""
        try:
            self.compute(store_path)
        except CliplibError as error:
            text = str(error)
            assert text.startswith(f"Cannot use the feature store {str(store_path)!r} (") and "\n" not in text, text
            assert text.endswith(": free some space, or let CLIPLIB_CACHE name a folder that can be written."), text
        else:
            raise AssertionError("it was not refused")

    def mounted(self) -> str:
        """A small file system that fills up, then one that is read-only; afterwards the store serves again."""
        place = self.folder / "mounted"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
            return "full disk and read-only: not tried, as nothing may be mounted here"
        try:
            (place / "filler").write_bytes(bytes(60_000))
            assert self.ends(self.fork(place / "store.sqlite", self.refused)) == 0
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            assert self.ends(self.fork(place / "store.sqlite", self.refused)) == 0
            subprocess.run(["mount", "-o", "remount,rw,size=8m", str(place)], check=True)
            assert self.ends(self.fork(place / "store.sqlite")) == 0
            self.check(place / "store.sqlite")
        finally:
            subprocess.run(["umount", str(place)], check=True)
        return "full disk and read-only: refused in one sentence, and the store served afterwards"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200, help="processes to kill (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.seed)
        print(soak.kills(options.rounds), flush=True)
        print(soak.crowd(2), soak.crowd(8), soak.crowd(8, damaged=True), sep=", ", flush=True)
        print(soak.mounted(), flush=True)


if __name__ == "__main__":
    main()
