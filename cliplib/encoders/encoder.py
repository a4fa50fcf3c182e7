"""The base class of all encoders of images, and an encoder made of any function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cliplib.data.arrays import Features, Ints
from cliplib.data.cache import ImageFunction, ResultCache, map_images
from cliplib.data.image import Images, UnreadableImage
from cliplib.encoders.checkpoint import fingerprint_of


class Encoder(ABC):
    """A frozen function from images to features, which a subclass computes.

    Attributes
    ----------
    name
        Name for readers.
    readouts
        Names of the readouts that the encoder offers; the last one contains all others.
    device
        The device that it computes on, such as "cpu".
    batch_size
        Largest number of images that `encode_batch` is called with.
    cache
        Keeps features between runs; None keeps none.
    """

    name: str
    readouts: tuple[str, ...] = ("pooled",)
    device: str = "cpu"
    batch_size: int = 16
    cache: ResultCache | None = None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A text that differs between encoders with different features."""

    @abstractmethod
    def encode_batch(self, images: list[Image.Image]) -> Features:
        """Return the last readout of n RGB images, (n, d) float32."""

    def columns_of(self, readout: str) -> Ints | slice:
        """Return the columns of the last readout that form a given readout.

        These are all columns, since there is only one readout; a subclass with several
        readouts overrides this method. ValueError if there is no such readout.
        """
        if readout not in self.readouts:
            raise ValueError(
                f"{self.name!r} has no readout {readout!r}; it has "
                f"{', '.join(self.readouts)}."
            )
        return slice(None)

    @property
    def provenance(self) -> dict[str, str]:
        """What a feature table records about its encoder, all as texts."""
        return {
            "encoder": self.name,
            "model_fingerprint": self.fingerprint,
            "readout": self.readouts[-1],
        }

    @property
    def image_function(self) -> ImageFunction:
        """The function from n RGB images to their last readout, for `map_images`."""
        name = f"{self.readouts[-1]}:{self.fingerprint}"
        device_type = torch.device(self.device).type
        if device_type != "cpu":  # other devices round differently
            name = f"{name}@{device_type}"
        return ImageFunction(name, self.encode_batch)

    def map(
        self,
        images: Images,
        *functions: ImageFunction,
        errors: dict[int, UnreadableImage] | None = None,
        progress: str = "",
    ) -> list[NDArray[Any]]:
        """Compute the last readout of n images, and other functions in the same pass.

        Returns the readout (n, d) float32, then an array (n, ...) for each function.
        `errors` is filled with the errors of unreadable images, by row, and their
        results are 0; if it is None, the first error is raised. `progress` is the title
        of a progress bar; "" shows none.
        """
        results = map_images(
            images,
            self.image_function,
            *functions,
            cache=self.cache,
            errors=errors,
            batch_size=self.batch_size,
            progress=progress,
        )
        if not results[0].size:  # no image can be read: a black one shows the width
            width = self.encode_batch([Image.new("RGB", (64, 64))]).shape[1]
            results[0] = np.zeros((len(results[0]), width), np.float32)
        return results

    def encode_images(
        self, images: Images, *, readout: str = "", progress: bool = True
    ) -> Features:
        """Encode one image or n images, (n, d) float32.

        ``FunctionTransformer(encoder.encode_images)`` is a step for a pipeline of
        scikit-learn.

        Parameters
        ----------
        images
            Paths, files' contents, PIL images, (h, w, 3) uint8 arrays or rows
            ``{"path", "bytes"}``. OSError if one of them cannot be read.
        readout
            One of `readouts`; by default the last one, as in `cliplib.encode`.
        progress
            Whether to show a progress bar.
        """
        columns = self.columns_of(readout or self.readouts[-1])
        (features,) = self.map(images, progress=self.name if progress else "")
        return np.asarray(features[:, columns])

    def encode_texts(self, texts: str | Sequence[str]) -> Features:
        """Encode texts; TypeError unless a subclass can read texts."""
        raise TypeError(f"{self.name!r} reads no texts: take a ClipEncoder.")

    def project(self, pooled: ArrayLike) -> Features:
        """Project features into the space of texts; TypeError unless there is one."""
        raise TypeError(f"{self.name!r} reads no texts: take a ClipEncoder.")


class FunctionEncoder(Encoder):
    """An encoder made of your own function or torch module.

    Parameters
    ----------
    function
        A function from a list of n RGB images of Pillow, or from the stacked tensors of
        `preprocess`, to features (n, d), an array or a tensor. A torch module is put
        into evaluation mode, and gets tensors of its weights' device and type. Several
        threads call the function at once: anything that it keeps between calls, such as
        the result of a hook, needs a `threading.local`.
    name
        Name of the features. Choose another name when the function changes: with the
        weights of a module, it decides the fingerprint.
    preprocess
        A function from an RGB image of Pillow to a tensor, such as a transform of
        torchvision.
    """

    readouts = ("output",)

    def __init__(
        self,
        function: Callable[[Any], Any],
        name: str,
        *,
        preprocess: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        self.function = function
        self.name = name
        self.preprocess = preprocess
        self.dtype: torch.dtype | None = None
        if isinstance(function, torch.nn.Module):
            function.eval()
            weights = next(function.parameters(), torch.empty(0))
            self.device = str(weights.device)
            self.dtype = weights.dtype

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the name and of a module's weights, in hexadecimal digits."""
        weights = {}
        if isinstance(self.function, torch.nn.Module):
            weights = self.function.state_dict()
        return fingerprint_of(self.name.encode(), weights)

    def encode_batch(self, images: list[Image.Image]) -> Features:
        """Return the features of n RGB images, (n, d) float32.

        ValueError if the function does not return a row for each image.
        """
        inputs: list[Image.Image] | torch.Tensor = images
        if self.preprocess is not None:
            pixels = [torch.as_tensor(self.preprocess(image)) for image in images]
            inputs = torch.stack(pixels).to(self.device, self.dtype)
        with torch.inference_mode():
            output = self.function(inputs)
        if isinstance(output, torch.Tensor):
            output = output.float().cpu()  # NumPy has no bfloat16
        features = np.asarray(output, np.float32)
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(
                f"{self.name!r} returned {features.shape} for {len(images)} images: it "
                "must return a row of features for each."
            )
        return features


def check_made_by(provenance: Mapping[str, str], encoder: object) -> None:
    """Raise ValueError if another encoder made the table with this provenance.

    TypeError if `encoder` is not an encoder, as when the table was given in its place.
    """
    if not isinstance(encoder, Encoder):
        raise TypeError(
            "Give a feature table and the encoder that made it, such as ClipEncoder(), "
            f"each in its place: {type(encoder).__name__} is no encoder."
        )
    made_by = provenance.get("model_fingerprint", encoder.fingerprint)
    if made_by != encoder.fingerprint:
        raise ValueError(
            f"The table was made by another encoder than {encoder.name!r} (fingerprint "
            f"{made_by[:8]}, and not {encoder.fingerprint[:8]}): give that one."
        )


def placement(device: str | None = None) -> tuple[str, int]:
    """Return the device to compute on, and how many images it should encode at once.

    The device is a GPU by default, if there is one.
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device or default)
    return str(chosen), 16 if chosen.type == "cpu" else 128


def fill_batch(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Append images of zeros to n images, (n, 3, h, w), until there are `size` images.

    So all batches have one size. In torch the number of rows changes rounding, but an
    image's features must not depend on how many other images are in its batch.
    """
    missing = max(0, size - len(pixels))
    return torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])
