"""What all encoders of images share, and one made of any function."""

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
    """What turns images into features, frozen; a subclass says how.

    Attributes
    ----------
    name
        What a reader calls it.
    readouts
        Names of the features that it can give; the last one holds all others.
    device
        Where it computes, such as "cpu".
    batch_size
        How many images `encode_batch` gets at most.
    cache
        Where features are kept; None where they are not.
    """

    name: str
    readouts: tuple[str, ...] = ("pooled",)
    device: str = "cpu"
    batch_size: int = 16
    cache: ResultCache | None = None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Text that is another one for an encoder with other features."""

    @abstractmethod
    def encode_batch(self, images: list[Image.Image]) -> Features:
        """Return the last readout of n RGB images, (n, d) float32."""

    def columns_of(self, readout: str) -> Ints | slice:
        """Return which columns of the last readout another consists of.

        An encoder of several readouts says so itself: here all columns are those of the
        only one. ValueError for a name that is not among `readouts`.
        """
        if readout not in self.readouts:
            raise ValueError(
                f"{self.name!r} has no readout {readout!r}; it has "
                f"{', '.join(self.readouts)}."
            )
        return slice(None)

    @property
    def provenance(self) -> dict[str, str]:
        """What a feature table says of its encoder: entries that are all text."""
        return {
            "encoder": self.name,
            "model_fingerprint": self.fingerprint,
            "readout": self.readouts[-1],
        }

    @property
    def image_function(self) -> ImageFunction:
        """The function from n RGB images to their last readout, for `map_images`."""
        name = f"{self.readouts[-1]}:{self.fingerprint}"
        kind = torch.device(self.device).type
        if kind != "cpu":  # which rounds differently
            name = f"{name}@{kind}"
        return ImageFunction(name, self.encode_batch)

    def map(
        self,
        images: Images,
        *others: ImageFunction,
        errors: dict[int, UnreadableImage] | None = None,
        progress: str = "",
    ) -> list[NDArray[Any]]:
        """Compute the last readout of n images, and other functions in the same pass.

        Returns the readout (n, d) float32, then an array (n, ...) for each of `others`.
        `errors` is filled with the errors of images that cannot be read, by row; their
        results are 0. If it is None, the first is raised. `progress` is the title
        of a progress bar; "" shows none.
        """
        results = map_images(
            images,
            self.image_function,
            *others,
            cache=self.cache,
            errors=errors,
            batch_size=self.batch_size,
            progress=progress,
        )
        if not results[0].size:  # no image can be read: any other tells the width
            width = self.encode_batch([Image.new("RGB", (64, 64))]).shape[1]
            results[0] = np.zeros((len(results[0]), width), np.float32)
        return results

    def encode_images(
        self, images: Images, *, readout: str = "", progress: bool = True
    ) -> Features:
        """Encode n images, (n, d) float32; or a single one, (1, d).

        In a pipeline of scikit-learn it is
        ``FunctionTransformer(encoder.encode_images)``.

        Parameters
        ----------
        images
            Paths, bytes, PIL images, (h, w, 3) uint8 arrays or rows ``{"path",
            "bytes"}``; an OSError names one that cannot be read.
        readout
            One of `readouts`; by default the last one, as in `cliplib.encode`.
        progress
            Show a bar.
        """
        columns = self.columns_of(readout or self.readouts[-1])
        (features,) = self.map(images, progress=self.name if progress else "")
        return np.asarray(features[:, columns])

    def encode_texts(self, texts: str | Sequence[str]) -> Features:
        """Encode texts, where the encoder has words; else raise TypeError."""
        raise TypeError(f"{self.name!r} reads no texts: take a ClipEncoder.")

    def project(self, pooled: ArrayLike) -> Features:
        """Project features to where texts are; TypeError where there are none."""
        raise TypeError(f"{self.name!r} reads no texts: take a ClipEncoder.")


class FunctionEncoder(Encoder):
    """An encoder made of your own function, or module of torch.

    Parameters
    ----------
    function
        From a list of n RGB images of Pillow to features (n, d), an array or a tensor.
        With `preprocess`, from their stacked results. A module of torch is put into
        evaluation mode; it computes where its weights are, and in their type. Several
        threads call it at once: what it keeps from one call to the next, such as what a
        hook has caught, needs a `threading.local`.
    name
        What the features are known by: choose another when the function changes, since
        it stands in the fingerprint, beside the weights of a module.
    preprocess
        From an RGB image of Pillow to a tensor, such as a transform of torchvision.
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
        """Hash of the name and a module's weights, in hexadecimal digits."""
        weights = {}
        if isinstance(self.function, torch.nn.Module):
            weights = self.function.state_dict()
        return fingerprint_of(self.name.encode(), weights)

    def encode_batch(self, images: list[Image.Image]) -> Features:
        """Return the features of n RGB images, (n, d) float32.

        ValueError if the function does not return a row for each.
        """
        inputs = self._inputs_of(images)
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

    def _inputs_of(self, images: list[Image.Image]) -> list[Image.Image] | torch.Tensor:
        """Return what the function takes: n images, or n stacked tensors of them."""
        if self.preprocess is None:
            return images
        pixels = [torch.as_tensor(self.preprocess(image)) for image in images]
        return torch.stack(pixels).to(self.device, self.dtype)


def check_made_by(provenance: Mapping[str, str], encoder: object) -> None:
    """Raise ValueError for the provenance of a feature table of another encoder.

    TypeError for what is no encoder, such as the table in its place.
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
    """Return where to compute, and how many images at once: a GPU needs more.

    By default it is a GPU if there is one.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return str(chosen), 16 if chosen.type == "cpu" else 128


def fill_batch(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Append images of zeros to n images, (n, 3, h, w), until there are `size`.

    Encoders compute batches of one size only, since torch rounds differently by the
    number of rows: an image's features must not depend on how many are beside it.
    """
    missing = max(0, size - len(pixels))
    return torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])
