"""Pictures on a disk to features of ViT-B/32, published configuration and random weights, against other loops."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Options, Row, absent, in_turn, pictures, ratios, sample
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionModel,
)

from cliplib.encoder import ClipEncoder
from cliplib.encoder.hardware import DTYPES, plan

WORK = "images on disk to features, ViT-B/32"
README = "the loop of OpenAI's README in transformers: batches of 100, float32"
PIPELINE = "transformers' image-feature-extraction pipeline"
OPEN_CLIP = "open_clip, its own preprocessing, batches of 64"
BENCHMARK = "CLIP_benchmark's loop over open_clip: batches of 64, 4 loading processes, autocast"
BARE = "the bare forward pass on ready tensors, same dtype and threads"
GOALS = {README: 3.0, PIPELINE: 2.0, OPEN_CLIP: 2.0, BENCHMARK: 2.0, BARE: 0.9}


@cache
def vit() -> CLIPModel:
    """ViT-B/32: the defaults of transformers are the published configuration."""
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig()).eval()


def clip_encoder(dtype: str) -> ClipEncoder:
    """Ours, with the same weights."""
    model = CLIPModel(CLIPConfig())
    model.load_state_dict(vit().state_dict())
    return ClipEncoder(
        model, CLIPImageProcessorPil(), CLIPTokenizer(), name="ViT-B/32", device="cpu", dtype=dtype
    )


def readme_loop(files: list[Path]) -> np.ndarray:
    """The linear-probe example of OpenAI's README, by transformers."""
    model, processor, found = vit(), CLIPImageProcessorPil(), []
    with torch.no_grad():
        for start in range(0, len(files), 100):
            images = [Image.open(path).convert("RGB") for path in files[start : start + 100]]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            found.append(model.get_image_features(pixel_values=pixels).pooler_output)
    return torch.cat(found).numpy()


def bare_forward(encoder: ClipEncoder, files: list[Path]) -> Callable[[], np.ndarray]:
    """The forward passes that `encoder` does for these files, in as many threads, with nothing else to do."""
    how = plan(len(files), None, encoder.device)
    pixels = np.stack([encoder.preprocess(Image.open(path).convert("RGB")) for path in files])
    batches = torch.from_numpy(pixels).to(DTYPES[encoder.dtype]).split(how.chunk)
    model = encoder.model

    def forward(batch: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return model.visual_projection(
                model.vision_model(pixel_values=batch).pooler_output.float()
            ).numpy()

    def work() -> np.ndarray:
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(
            how.workers, initializer=torch.set_num_threads, initargs=(how.threads,)
        ) as pool:
            out = np.concatenate(list(pool.map(forward, batches)))
        torch.set_num_threads(threads)
        return out

    return work


def transformers_pipeline(files: list[Path]) -> Callable[[], Any]:
    """By the list of files, with the image processor that transformers takes by itself."""
    from transformers import CLIPImageProcessor, pipeline

    model = CLIPVisionModel(CLIPConfig().vision_config).eval()
    run = pipeline(
        "image-feature-extraction", model=model, image_processor=CLIPImageProcessor(), device="cpu"
    )
    names = [str(path) for path in files]
    return lambda: run(names, pool=True, batch_size=32, return_tensors=True)


def open_clip_parts() -> tuple[Any, Any]:
    """Model and preprocessing of open_clip's ViT-B-32 with OpenAI's activation."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-32-quickgelu", pretrained=None
    )
    return model.eval(), preprocess


def open_clip_loop(files: list[Path]) -> Callable[[], Any]:
    """Open, preprocess, stack, encode_image, as in its README."""
    model, preprocess = open_clip_parts()

    def work() -> np.ndarray:
        found = []
        with torch.no_grad():
            for start in range(0, len(files), 64):
                batch = [preprocess(Image.open(path)) for path in files[start : start + 64]]
                found.append(model.encode_image(torch.stack(batch)))
        return torch.cat(found).numpy()

    return work


class Labelled(torch.utils.data.Dataset[Any]):
    """What CLIP_benchmark's loop takes: pictures with labels, here all of one class."""

    def __init__(self, files: list[Path], preprocess: Any) -> None:
        self.files, self.preprocess = files, preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.preprocess(Image.open(self.files[row])), 0


def clip_benchmark_loop(files: list[Path]) -> Callable[[], Any]:
    """Its zero-shot evaluation, the loop over images that runs on a CPU: its linear probe asserts a GPU."""
    from clip_benchmark.metrics.zeroshot_classification import run_classification

    model, preprocess = open_clip_parts()
    loader = torch.utils.data.DataLoader(Labelled(files, preprocess), batch_size=64, num_workers=4)
    weights = torch.zeros(512, 6)
    return lambda: run_classification(model, weights, loader, "cpu", amp=True)


def run(options: Options) -> list[Row]:
    """The rows of the table that are about ViT-B/32."""
    files = sample(pictures(options), options.n)
    encoder = clip_encoder("auto")
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: encoder.images(files, kind="projected", progress=False),
        README: lambda: readme_loop(files),
        BARE: bare_forward(encoder, files),
    }
    missing: list[Row] = []
    for peer, make in (
        (PIPELINE, transformers_pipeline),
        (OPEN_CLIP, open_clip_loop),
        (BENCHMARK, clip_benchmark_loop),
    ):
        try:
            work = make(files)
            work()
            works[peer] = work
        except (
            Exception
        ) as error:  # a peer that is absent, or that this version of its libraries broke
            missing.append(absent(WORK, peer, GOALS[peer], error))
    if encoder.dtype != "float32":
        exact = clip_encoder("float32")
        works["exact"] = lambda: exact.images(files, kind="projected", progress=False)
        works["exact, bare"] = bare_forward(exact, files)
    seconds = in_turn(works, options.rounds)
    ours, theirs = encoder.images(files, kind="projected", progress=False), readme_loop(files)
    same = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)

    def rate(name: str) -> float:
        return len(files) / float(np.median(seconds[name]))

    rows = []
    for peer in [name for name in GOALS if name in works]:
        row = Row(
            WORK,
            peer,
            **ratios(seconds, peer, "ours"),
            goal=GOALS[peer],
            note=f"ours in {encoder.dtype}",
        )
        row.rates = {"ours (images/s)": rate("ours"), "peer (images/s)": rate(peer)}
        rows.append(row)
    spent = encoder.last_run.seconds
    rows[0].rates |= {f"share of {k}": v / sum(spent.values()) for k, v in spent.items()}  # type: ignore[operator]
    rows[0].rates["smallest cosine with the peer's features"] = float(same.min())  # type: ignore[index]
    if "exact" in works:
        for peer, bare in ((README, README), (BARE, "exact, bare")):
            row = Row(
                f"{WORK}, in float32", peer, **ratios(seconds, bare, "exact"), goal=GOALS[peer]
            )
            row.rates = {"ours (images/s)": rate("exact"), "peer (images/s)": rate(bare)}
            rows.append(row)
    return rows + missing
