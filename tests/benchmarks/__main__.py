"""How fast cliplib is beside what else there is: ``python tests/benchmarks --data FOLDER``.

Peer and ours run in turn in one process, so that other work on the machine slows both; what counts
is the ratio, the peer's time by ours. Rows go to ``figures/benchmark.json``; those of parts that
this run does not measure stay. Peers are in ``tests/benchmarks/requirements.txt``; without one, its
row says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionModel,
)

from cliplib import ClipEncoder, LinearProbe, evaluate
from cliplib.audit import find_near_duplicates, image_hash
from cliplib.cache import FeatureCache, map_images
from cliplib.splits import group_train_test_split

ROOT = Path(__file__).resolve().parents[2]
VIT = "images on disk to features, ViT-B/32, float32"


@dataclass
class Row:
    """One line of the table: what was done, beside what; the peer's time by ours, or `note`."""

    work: str
    peer: str
    goal: float
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    met: bool | None = None
    unit: str = "x"
    sense: str = "at least"
    rates: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def measured(self, ratios: list[float], **rates: float) -> Row:
        """Fill in the median, smallest and largest ratio."""
        self.ratio, self.low, self.high = (
            float(f"{f(ratios):.4g}") for f in (np.median, min, max)
        )
        enough = (
            self.ratio >= self.goal
            if self.sense == "at least"
            else self.ratio <= self.goal
        )
        self.met, self.rates = enough, rates
        return self


def in_turn(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Return the seconds of each work, once a round after one unmeasured call."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for r in range(rounds + 1):
        for name in list(works) if r % 2 else list(works)[::-1]:
            start = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def vit_folder(scratch: Path) -> Path:
    """Write ViT-B/32 in its published configuration, with random weights."""
    folder = scratch / "vit"
    if not folder.exists():
        torch.manual_seed(0)
        tokenizer = CLIPTokenizer.from_pretrained(ROOT / "cliplib" / "mini")
        CLIPModel(
            CLIPConfig(text_config={"vocab_size": len(tokenizer)})
        ).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def readme_loop(model: CLIPModel, files: list[Path]) -> np.ndarray:
    """The linear-probe example of OpenAI's README, by transformers."""
    processor, found = CLIPImageProcessorPil(), []
    with torch.no_grad():
        for start in range(0, len(files), 100):
            images = [
                Image.open(path).convert("RGB") for path in files[start : start + 100]
            ]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            found.append(model.vision_model(pixels).pooler_output)
    return torch.cat(found).numpy()


def bare_forward(encoder: ClipEncoder, files: list[Path]) -> Callable[[], None]:
    """The forward passes that the encoder does, in as many threads, with nothing else to do."""
    size, threads = encoder.batch_size, torch.get_num_threads()
    pixels = np.stack([encoder.preprocess(path) for path in files])
    batches = torch.from_numpy(pixels).split(size)

    def forward(batch: torch.Tensor) -> None:
        with torch.inference_mode():
            encoder.model.vision_model(batch)

    def work() -> None:
        with ThreadPoolExecutor(
            threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            list(pool.map(forward, batches))
        torch.set_num_threads(threads)

    return work


def transformers_pipeline(model: CLIPModel, files: list[Path]) -> Callable[[], Any]:
    """The pipeline of transformers, over a list of files."""
    from transformers import pipeline

    tower = CLIPVisionModel(model.config.vision_config)
    tower.load_state_dict(model.state_dict(), strict=False)
    options = {"image_processor": CLIPImageProcessorPil(), "device": "cpu"}
    run = pipeline("image-feature-extraction", model=tower.eval(), **options)
    names = [str(path) for path in files]
    return lambda: run(names, pool=True, batch_size=32, return_tensors=True)


def open_clip_loop(files: list[Path]) -> Callable[[], Any]:
    """Open, preprocess, stack, encode_image, as in open_clip's README."""
    import open_clip

    made = open_clip.create_model_and_transforms("ViT-B-32-quickgelu", pretrained=None)
    model, preprocess = made[0].eval(), made[2]

    def work() -> None:
        with torch.no_grad():
            for start in range(0, len(files), 64):
                batch = [
                    preprocess(Image.open(path)) for path in files[start : start + 64]
                ]
                model.encode_image(torch.stack(batch))

    return work


def clip_benchmark_loop(files: list[Path]) -> Callable[[], Any]:
    """CLIP_benchmark's loop over images that runs on a CPU, without autocast."""
    import open_clip
    from clip_benchmark.metrics.zeroshot_classification import run_classification

    made = open_clip.create_model_and_transforms("ViT-B-32-quickgelu", pretrained=None)
    model, preprocess = made[0].eval(), made[2]
    rows = [(path, 0) for path in files]
    loader = torch.utils.data.DataLoader(
        rows,
        batch_size=64,
        num_workers=2,
        collate_fn=lambda batch: (
            torch.stack([preprocess(Image.open(path)) for path, _ in batch]),
            torch.zeros(len(batch)),
        ),
    )
    weights = torch.zeros(512, 6)
    return lambda: run_classification(model, weights, loader, "cpu", amp=False)


def features(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """ViT-B/32 against each peer and the bare forward pass; then features already known."""
    encoder = ClipEncoder(vit_folder(scratch), cache=False)
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: encoder.images(files, progress=False)
    }
    works["the bare forward pass, same threads"] = bare_forward(encoder, files)
    half = ClipEncoder(vit_folder(scratch), cache=False, dtype="bfloat16")
    works["ours in bfloat16"] = lambda: half.images(files, progress=False)
    works["OpenAI's README loop, by transformers"] = lambda: readme_loop(
        encoder.model, files
    )
    rows = []
    for peer, make in (
        ("transformers' pipeline", lambda: transformers_pipeline(encoder.model, files)),
        ("open_clip", lambda: open_clip_loop(files)),
        ("CLIP_benchmark's loop", lambda: clip_benchmark_loop(files)),
    ):
        try:
            works[peer] = make()
            works[peer]()
        except Exception as error:  # absent, or broken by this version of its libraries
            works.pop(peer, None)
            rows.append(
                Row(VIT, peer, 1, note=f"not measured: {type(error).__name__}: {error}")
            )
    seconds = in_turn(works, rounds)
    lower = seconds.pop("ours in bfloat16")
    for peer in list(seconds)[1:]:
        rate = {"ours (images/s)": len(files) / float(np.median(seconds["ours"]))}
        row = Row(VIT, peer, 0.95 if "bare" in peer else 1)
        rows.append(row.measured(list(seconds[peer] / seconds["ours"]), **rate))
    row = Row(VIT.replace("float32", "bfloat16"), "ours in float32", 1)
    rows.append(row.measured(list(seconds["ours"] / lower)))
    known = ClipEncoder("mini", cache=FeatureCache(scratch / "known.sqlite"))
    many = files * (2000 // len(files) + 1)
    took = in_turn({"again": lambda: known.images(many, progress=False)}, rounds)[
        "again"
    ]
    row = Row("features already known, images a second", "", 5000, unit="images/s")
    rows.append(row.measured(list(len(many) / took)))
    for pixels, dtype in ((224, "float32"), (224, "bfloat16"), (160, "bfloat16")):
        small = ClipEncoder("mini", cache=False, image_size=pixels, dtype=dtype)
        (took,) = in_turn(
            {"": lambda e=small: e.images(files, progress=False)}, rounds
        ).values()
        work = f"images on disk to features, embedded model, {pixels} px, {dtype}, a second"
        rows.append(
            Row(work, "", 120, unit="images/s").measured(list(len(files) / took))
        )
    return rows


def sweep(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """The sweep of C against a warm-started path of scikit-learn, in CPU seconds."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 5700)
    spectrum = np.arange(1, 513) ** -0.7
    X = (rng.normal(size=(5700, 512)) + 0.5 * rng.normal(size=(4, 512))[y]) * spectrum
    train, held = group_train_test_split(y)

    def path() -> None:
        scaler = StandardScaler().fit(X[train])
        model = LogisticRegression(warm_start=True, max_iter=1000)
        with threadpool_limits(1, user_api="blas"):
            for C in LinearProbe().Cs:
                model.set_params(C=C).fit(scaler.transform(X[train]), y[train])
                metrics.log_loss(
                    y[held], model.predict_proba(scaler.transform(X[held]))
                )

    ratios = []
    for _ in range(rounds):
        start = time.process_time()
        LinearProbe().fit(X, y)
        middle = time.process_time()
        path()
        ratios.append((middle - start) / (time.process_time() - middle))
    row = Row(
        "sweep of C and refit, 5,700 x 512", "scikit-learn's warm-started path", 1.3
    )
    row.sense, row.note = "at most", "our CPU seconds by the peer's"
    return [row.measured(ratios)]


def bootstrap(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """2,000 draws of all metrics against scikit-learn's metrics on resampled rows."""
    rng = np.random.default_rng(0)
    y, proba = rng.integers(0, 4, 1300), rng.dirichlet(np.ones(4), 1300)

    def peer() -> None:
        for _ in range(20):
            rows = rng.integers(0, len(y), len(y))
            said = proba[rows].argmax(axis=1)
            metrics.classification_report(y[rows], said, output_dict=True)
            metrics.roc_auc_score(y[rows], proba[rows], multi_class="ovr")
            metrics.log_loss(y[rows], proba[rows])

    seconds = in_turn({"ours": lambda: evaluate(y, proba), "peer": peer}, rounds)
    row = Row(
        "2,000 draws of every metric, 1,300 rows", "scikit-learn's metrics a draw", 20
    )
    return [row.measured(list(100 * seconds["peer"] / seconds["ours"]))]


def duplicates(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """Hashing and comparing against imagededup's perceptual hash."""
    row = Row(f"near-duplicates among {len(files)} images", "imagededup's PHash", 1)
    try:
        from imagededup.methods import PHash
    except ImportError as error:
        row.note = f"not measured: {error}"
        return [row]
    folder = scratch / "flat"
    folder.mkdir(exist_ok=True)
    for i, path in enumerate(files):
        (folder / f"{i}{path.suffix}").symlink_to(path)
    works = {
        "ours": lambda: find_near_duplicates(map_images(files, image_hash)[0]),
        "peer": lambda: PHash(verbose=False).find_duplicates(image_dir=str(folder)),
    }
    seconds = in_turn(works, rounds)
    return [row.measured(list(seconds["peer"] / seconds["ours"]))]


def report(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """Building the report with every notebook executed, and with nothing changed."""
    rows = []
    shutil.rmtree(ROOT / "build" / "executed", ignore_errors=True)
    for work, goal in (("every notebook executed", 180), ("nothing changed", 20)):
        start = time.perf_counter()
        command = [
            sys.executable,
            ROOT / "report" / "build.py",
            "--out",
            scratch / "report.pdf",
        ]
        subprocess.run(command, check=True, capture_output=True)
        row = Row(f"building the report, {work}", "", goal, unit="s", sense="at most")
        rows.append(row.measured([time.perf_counter() - start]))
    return rows


PARTS = [features, sweep, bootstrap, duplicates, report]


def processor() -> str:
    """Return the processor's name where the system tells it."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    names = [
        line.split(":")[1].strip() for line in lines if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def main() -> None:
    """Measure the parts and write their rows."""
    names = [part.__name__ for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of images, at any depth"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "figures" / "benchmark.json")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--n", type=int, default=320, help="images (default: %(default)s)"
    )
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    every = sorted(
        path for path in args.data.rglob("*") if path.suffix in (".jpg", ".png")
    )
    files = every[:: max(1, len(every) // args.n)][: args.n]
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    rows = [
        row for row in rows if row["part"] in names and row["part"] not in args.only
    ]
    machine = {"processor": processor(), "cores": os.cpu_count()}
    machine |= {"torch": torch.__version__, "transformers": transformers.__version__}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CLIPLIB_CACHE"] = scratch
        for part in PARTS:
            if part.__name__ in args.only:
                for row in part(files, args.rounds, Path(scratch)):
                    sys.stdout.write(f"{row}\n")
                    rows.append(
                        {"part": part.__name__, **asdict(row), "machine": machine}
                    )
    args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
