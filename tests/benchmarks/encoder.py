"""Images per second, from files to features: OpenAI's README loop in transformers against ``ClipEncoder``.

ViT-B/32 in its published configuration, random weights. Both run in turn, in one process, on the same files; what
counts is the ratio, because other work on the machine slows both. ``python tests/benchmarks/encoder.py --data FOLDER``
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from cliplib.data.images import SUFFIXES
from cliplib.encoder import ClipEncoder


def new_model() -> CLIPModel:
    """ViT-B/32; transformers' defaults are the published configuration."""
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig()).eval()


def readme_loop(model: CLIPModel, processor: CLIPImageProcessorPil, files: list[Path]) -> np.ndarray:
    """The linear-probe example of OpenAI's README: batches of 100, float32, one process."""
    found = []
    with torch.no_grad():
        for start in range(0, len(files), 100):
            images = [Image.open(path).convert("RGB") for path in files[start : start + 100]]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            found.append(model.get_image_features(pixel_values=pixels).pooler_output)
    return torch.cat(found).numpy()


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """Result, seconds that passed, and seconds that the processor worked."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with images, at any depth")
    parser.add_argument("--n", type=int, default=200, help="number of images (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each runs (default: 3)")
    options = parser.parse_args()
    files = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in SUFFIXES)
    files = files[:: max(1, len(files) // options.n)][: options.n]
    if not files:
        parser.error(f"there are no images in {options.data}")

    processor, peer_model = CLIPImageProcessorPil(), new_model()
    works: dict[str, Callable[[], np.ndarray]] = {"peer": lambda: readme_loop(peer_model, processor, files)}
    for dtype in dict.fromkeys(("auto", "float32")):
        encoder = ClipEncoder(new_model(), processor, CLIPTokenizer(), name="ViT-B/32", device="cpu", dtype=dtype)
        works[f"ours, {dtype} = {encoder.dtype}"] = lambda e=encoder: e.images(files, kind="projected", progress=False)  # type: ignore[misc]

    for work in works.values():
        work()  # warm: files in the system's cache, threads and memory made
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    results = {}
    for _ in range(options.rounds):
        for name, work in works.items():
            results[name], *seconds = timed(work)
            times[name].append((seconds[0], seconds[1]))

    print(f"{len(files)} images, {torch.get_num_threads()} threads, {options.rounds} rounds in turn")
    peer = results["peer"]
    for name, spent in times.items():
        rates = sorted(len(files) / wall for wall, _ in spent)
        ratios = sorted(theirs[0] / ours[0] for theirs, ours in zip(times["peer"], spent, strict=True))
        work_ratio = statistics.median(theirs[1] / ours[1] for theirs, ours in zip(times["peer"], spent, strict=True))
        same = (results[name] * peer).sum(1) / np.linalg.norm(results[name], axis=1) / np.linalg.norm(peer, axis=1)
        print(
            f"{name:24s} {statistics.median(rates):7.1f} images/s   ratio {statistics.median(ratios):5.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})   in processor time {work_ratio:5.2f}   cosine >= {same.min():.6f}"
        )


if __name__ == "__main__":
    main()
