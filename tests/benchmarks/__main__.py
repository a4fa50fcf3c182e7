"""How fast cliplib is beside what else there is: ``make bench DATA=folder``.

Peer and ours run in turn in one process, so that other work on the machine slows both;
what counts is the ratio, the peer's time by ours. Rows go to ``build/benchmark.json``,
with ``--out figures/benchmark.json`` to where the report reads them; those of parts
that this run does not measure stay there. Peers are in
``tests/benchmarks/requirements.txt``; without one, its row says so.
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
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import growth
import numpy as np
import pandas as pd
import torch
import transformers
from numpy.typing import ArrayLike
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
from cliplib.data.cache import ResultCache, map_images
from cliplib.features.duplicates import find_near_duplicates
from cliplib.features.hashes import image_hash
from cliplib.features.splits import group_train_test_split

ROOT = Path(__file__).resolve().parents[2]
VIT = "images on disk to features, ViT-B/32, float32"


@dataclass
class Row:
    """What was done, beside what: the peer's time by ours, or why there is none."""

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
    sizes: list[dict[str, Any]] = field(default_factory=list)

    def measured(self, ratios: ArrayLike, **rates: float) -> Row:
        """Fill in the median, smallest and largest ratio of the rounds."""
        self.ratio = four_digits(np.median(ratios))
        self.low = four_digits(np.min(ratios))
        self.high = four_digits(np.max(ratios))
        enough = self.ratio >= self.goal
        self.met = enough if self.sense == "at least" else self.ratio <= self.goal
        self.rates = rates
        return self


def four_digits(value: float) -> float:
    """Return a number as it is kept."""
    return float(f"{value:.4g}")


def as_markdown(rows: list[Row]) -> str:
    """Return the rows as a table to read, and to paste into a page."""
    lines = ["| work | beside | ratio | goal |", "|---|---|---|---|"]
    for row in rows:
        result = row.note
        if row.ratio is not None:
            result = f"{row.ratio:.3g} [{row.low:.3g}, {row.high:.3g}] {row.unit}"
        verdict = {True: ", met", False: ", missed", None: ""}[row.met]
        goal = f"{row.sense} {row.goal:g}{verdict}"
        lines.append(f"| {row.work} | {row.peer or 'itself'} | {result} | {goal} |")
    return "\n".join(lines) + "\n"


def in_turn(works: dict[str, Callable[[], Any]], rounds: int) -> pd.DataFrame:
    """Return the seconds of each work, a column, in each round, a row.

    One call goes unmeasured; the order turns over with each round.
    """
    seconds = []
    for number in range(rounds + 1):
        names = list(works) if number % 2 else list(works)[::-1]
        took = {}
        for name in names:
            start = time.perf_counter()
            works[name]()
            took[name] = time.perf_counter() - start
        seconds.append(took)
    return pd.DataFrame(seconds[1:], columns=list(works))


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
    processor = CLIPImageProcessorPil()
    batches = []
    with torch.no_grad():
        for start in range(0, len(files), 100):
            images = [
                Image.open(path).convert("RGB") for path in files[start : start + 100]
            ]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            batches.append(model.vision_model(pixels).pooler_output)
    return torch.cat(batches).numpy()


def bare_forward(encoder: ClipEncoder, files: list[Path]) -> Callable[[], None]:
    """The forward passes of the encoder alone, in as many threads."""
    threads = torch.get_num_threads()
    pixels = np.stack([encoder.preprocess(path) for path in files])
    batches = torch.from_numpy(pixels).split(encoder.batch_size)

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

    model, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-32-quickgelu", pretrained=None
    )
    model.eval()

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

    model, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-32-quickgelu", pretrained=None
    )
    model.eval()
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
    """ViT-B/32 beside the peers; features already known; the embedded model."""
    return [
        *beside_peers(files, rounds, scratch),
        already_known(files, rounds, scratch),
        *embedded(files, rounds),
    ]


def beside_peers(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """ViT-B/32 against each peer, the bare forward pass, and itself in bfloat16."""
    encoder = ClipEncoder(vit_folder(scratch), cache=None)
    half = ClipEncoder(vit_folder(scratch), cache=None, dtype="bfloat16")

    def ours() -> None:
        encoder.encode_images(files, progress=False)

    works: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "ours in bfloat16": lambda: half.encode_images(files, progress=False),
        "OpenAI's README loop, by transformers": lambda: readme_loop(
            encoder.model, files
        ),
    }
    peers, absent = peers_here(encoder, files)
    seconds = in_turn(works | peers, rounds)
    in_float32 = seconds.pop("ours")
    in_bfloat16 = seconds.pop("ours in bfloat16")
    rate = {"ours (images/s)": len(files) / float(in_float32.median())}
    # Some hundredths apart: it takes more rounds to tell.
    bare = in_turn({"ours": ours, "bare": bare_forward(encoder, files)}, 3 * rounds)
    row = Row(VIT, "the bare forward pass, same threads", 0.95)
    rows = [row.measured(bare["bare"] / bare["ours"], **rate)]
    for peer, took in seconds.items():
        rows.append(Row(VIT, peer, 1).measured(took / in_float32, **rate))
    row = Row(VIT.replace("float32", "bfloat16"), "ours in float32", 1)
    return [*rows, *absent, row.measured(in_float32 / in_bfloat16)]


def peers_here(
    encoder: ClipEncoder, files: list[Path]
) -> tuple[dict[str, Callable[[], Any]], list[Row]]:
    """Return the peers that run here, and a row for each that does not."""
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "transformers' pipeline": lambda: transformers_pipeline(encoder.model, files),
        "open_clip": lambda: open_clip_loop(files),
        "CLIP_benchmark's loop": lambda: clip_benchmark_loop(files),
    }
    peers = {}
    absent = []
    for peer, make in makers.items():
        try:
            work = make()
            work()
        except Exception as error:  # absent, or broken by this version of its libraries
            note = f"not measured: {type(error).__name__}: {error}"
            absent.append(Row(VIT, peer, 1, note=note))
        else:
            peers[peer] = work
    return peers, absent


def already_known(files: list[Path], rounds: int, scratch: Path) -> Row:
    """Images a second whose features the cache holds."""
    known = ClipEncoder("mini", cache=ResultCache(scratch / "known"))
    many = files * (2000 // len(files) + 1)
    seconds = in_turn(
        {"again": lambda: known.encode_images(many, progress=False)}, rounds
    )
    row = Row("features already known, images a second", "", 5000, unit="images/s")
    return row.measured(len(many) / seconds["again"])


def embedded(files: list[Path], rounds: int) -> list[Row]:
    """Images a second of the embedded model, at two sizes and in two precisions."""
    rows = []
    for pixels, dtype in ((224, "float32"), (224, "bfloat16"), (160, "bfloat16")):
        encoder = ClipEncoder("mini", cache=None, image_size=pixels, dtype=dtype)
        read = partial(encoder.encode_images, files, progress=False)
        seconds = in_turn({"ours": read}, rounds)["ours"]
        settings = f"embedded model, {pixels} px, {dtype}"
        work = f"images on disk to features, {settings}, a second"
        row = Row(work, "", 120, unit="images/s")
        rows.append(row.measured(len(files) / seconds))
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
        "sweep of C and refit, 5,700 x 512",
        "scikit-learn's warm-started path",
        1.3,
        sense="at most",
        note="our CPU seconds by the peer's",
    )
    return [row.measured(ratios)]


def bootstrap(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """2,000 draws of all metrics against scikit-learn's metrics on resampled rows."""
    rng = np.random.default_rng(0)
    classes = list("abcd")
    y = rng.integers(0, len(classes), 1300)
    proba = rng.dirichlet(np.ones(len(classes)), len(y))

    def a_hundredth_of_the_draws() -> None:
        for _ in range(20):
            rows = rng.integers(0, len(y), len(y))
            answers = proba[rows].argmax(axis=1)
            metrics.classification_report(y[rows], answers, output_dict=True)
            metrics.roc_auc_score(y[rows], proba[rows], multi_class="ovr")
            metrics.log_loss(y[rows], proba[rows])

    works = {
        "ours": lambda: evaluate(y, proba, classes),
        "peer": a_hundredth_of_the_draws,
    }
    seconds = in_turn(works, rounds)
    row = Row(
        "2,000 draws of every metric, 1,300 rows", "scikit-learn's metrics a draw", 20
    )
    return [row.measured(100 * seconds["peer"] / seconds["ours"])]


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
        (folder / f"{i}{path.suffix}").symlink_to(path.resolve())
    works = {
        "ours": lambda: find_near_duplicates(map_images(files, image_hash)[0]),
        "peer": lambda: PHash(verbose=False).find_duplicates(image_dir=str(folder)),
    }
    seconds = in_turn(works, rounds)
    return [row.measured(seconds["peer"] / seconds["ours"])]


def grows(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """Time and memory by number of images, beside the peers where they go so far."""
    rows = []
    for name, (_, peers, sizes) in growth.WORKS.items():
        ours, *others = growth.grow(name)
        row = Row(f"{name}, growth", peers[0] if peers else "", 1)
        row.sizes = [ours, *others]
        row.note = " ".join(one["note"] for one in row.sizes).strip()
        if others and others[0]["n"]:
            last = len(others[0]["n"]) - 1
            row.work = f"{name}, {sizes[last]:,} images"
            row.measured([others[0]["seconds"][last] / ours["seconds"][last]])
        rows.append(row)
    return rows


def report(files: list[Path], rounds: int, scratch: Path) -> list[Row]:
    """Building the report with every notebook executed, and with nothing changed."""
    rows = []
    for kept in ("executed", "predictions"):  # else answers would be read, not computed
        shutil.rmtree(ROOT / "build" / kept, ignore_errors=True)
    for work, goal in (("every notebook executed", 240), ("nothing changed", 20)):
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


PARTS = [features, sweep, bootstrap, duplicates, grows, report]


def processor() -> str:
    """Return the processor's name where the system tells it."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    names = [
        line.split(":")[1].strip() for line in lines if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def some_of(folder: Path, n: int) -> list[Path]:
    """Return n images of a folder, from all parts of it; SystemExit without any."""
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in (".jpg", ".png")
    )
    if not files:
        sys.exit(f"There is no .jpg or .png image in {folder}: name a folder of some.")
    return files[:: max(1, len(files) // n)][:n]


def kept(out: Path, measured_now: list[str]) -> list[dict[str, Any]]:
    """Return the rows of a file whose parts are not measured now."""
    rows = json.loads(out.read_text("utf-8")) if out.exists() else []
    names = {part.__name__ for part in PARTS} - set(measured_now)
    return [row for row in rows if row["part"] in names]


def main() -> None:
    """Measure the parts, write their rows and print them as a table."""
    names = [part.__name__ for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of images, at any depth")
    add("--out", type=Path, default=ROOT / "build" / "benchmark.json")
    add("--only", nargs="+", choices=names, default=names)
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    add("--n", type=int, default=320, help="images (default: %(default)s)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    files = some_of(args.data, args.n)
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    saved = kept(args.out, args.only)
    measured: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CLIPLIB_CACHE"] = scratch
        for part in PARTS:
            if part.__name__ in args.only:
                for row in part(files, args.rounds, Path(scratch)):
                    saved.append(
                        {"part": part.__name__, **asdict(row), "machine": machine}
                    )
                    measured.append(row)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(saved, indent=1) + "\n", "utf-8")
    sys.stdout.write(as_markdown(measured))
    grown = [size for row in measured for size in row.sizes]
    if grown:
        sys.stdout.write(growth.as_markdown(grown))
        growth.draw(grown, args.out.with_name("growth.svg"))


if __name__ == "__main__":
    main()
