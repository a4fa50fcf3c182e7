"""A frozen CLIP: images and texts in, features out."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.preprocessing import normalize
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from cliplib.images.arrays import Features, Ints
from cliplib.images.cache import (
    FeatureCache,
    ImageFunction,
    default_cache,
    map_images,
)
from cliplib.images.hub import DownloadError, fetch_model, first_sentence
from cliplib.images.image import Images, ImageSource, load_image

logger = logging.getLogger(__name__)

READOUTS = ("pooled", "class_tokens", "dinov2", "means", "deep")

BLOCKS = 4  # of the vision tower, the last ones, that the deep readout reads
TEXT_BATCH = 256
LONGEST_PHRASE = 100  # letters of an error that is quoted without its type

# The settings that decide features; named, because a later transformers may add some.
_TOWER_SETTINGS = (
    "hidden_act",
    "layer_norm_eps",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "eos_token_id",
)
_PREPROCESSING_SETTINGS = (
    "do_convert_rgb",
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "pad_size",
)


def readout_columns(readout: str, width: int, blocks: int = BLOCKS) -> Ints:
    """Return which columns of the deep readout a smaller one consists of.

    ``deep`` holds, for each of the last `blocks` blocks, the class token, then the mean
    over the patch tokens, then their standard deviation; every token goes through the
    final layer norm. ``pooled`` is the last class token (Radford et al. 2021, appendix
    A.3), ``class_tokens`` all of them, ``dinov2`` these and the last mean (Oquab et al.
    2024, appendix B.3), ``means`` all class tokens and all means.

    Parameters
    ----------
    readout
        One of `READOUTS`; ValueError for another.
    width
        Of a token of the vision tower.
    blocks
        How many blocks the deep readout reads: the tower's, four at most.

    Returns
    -------
    (m,) int64, m at most ``3 * blocks * width``.
    """
    part = blocks * width
    class_tokens = np.arange(part)
    last_mean = np.arange(2 * part - width, 2 * part)
    columns = {
        "pooled": class_tokens[-width:],
        "class_tokens": class_tokens,
        "dinov2": np.concatenate([class_tokens, last_mean]),
        "means": np.arange(2 * part),
        "deep": np.arange(3 * part),
    }
    if readout not in columns:
        raise ValueError(
            f"There is no readout {readout!r}; there are {', '.join(READOUTS)}."
        )
    return columns[readout]


def find_checkpoint(name: str) -> str:
    """Return the folder of a model: "mini", a folder, or a hub id, which is fetched.

    A hub id is "owner/name", or "owner/name@revision".

    Raises
    ------
    ValueError
        If the name is neither a folder nor of the form of a hub id.
    DownloadError
        If the hub does not give the model.
    """
    if name == "mini":
        return str(files("cliplib") / "mini")
    if os.path.isdir(name):
        return name
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@.+)?", name):
        raise ValueError("there is no such folder")
    return str(fetch_model(name))


@contextmanager
def loading(name: str, remedy: str) -> Iterator[None]:
    """Raise OSError that says what to do for anything that fails in the block."""
    try:
        yield
    except DownloadError as error:
        raise OSError(
            f"Cannot load the model {name!r}: {error}; or take 'mini', which is inside."
        ) from error
    except Exception as error:  # the loaders raise nearly anything
        raise OSError(
            f"Cannot load the model {name!r} ({_reason(error)}): name {remedy}, a hub "
            "id where there is a network, or 'mini'."
        ) from error


def _reason(error: Exception) -> str:
    """Say in one phrase why a checkpoint cannot be loaded.

    Messages about remote code and pickles are replaced: transformers' own tell the user
    how to run that code.
    """
    text = str(error)
    if "trust_remote_code" in text:
        return "it needs code of its makers, which is never run"
    if "weights_only" in text:
        has_code = "Unsupported" in text or "GLOBAL" in text
        fault = "holds code" if has_code else "is damaged"
        return f"its pickle of weights {fault}; it was not opened"
    is_phrase = "\n" not in text and len(text) < LONGEST_PHRASE
    if isinstance(error, ValueError) and is_phrase:
        return text
    return f"{type(error).__name__}: {first_sentence(error)}"


def choose_device(device: str | None) -> torch.device:
    """Return the device of that name, by default a GPU if there is one.

    ValueError for a name that torch does not know, or where the machine has none.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except Exception as error:  # of torch's own kinds, depending on its build
        raise ValueError(
            f"device={device!r} cannot be used here: give 'cpu', or 'cuda' where "
            "torch sees a GPU."
        ) from error
    return chosen


def fingerprint_of(settings: bytes, weights: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of an encoder: of its settings, and of its weights by name."""
    total = hashlib.blake2b(settings, digest_size=16)
    for name, weight in sorted(weights.items()):
        total.update(f"\n{name} {tuple(weight.shape)}\n".encode())
        total.update(weight.detach().cpu().contiguous().numpy().data)
    return total.hexdigest()


def fill_batch(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Append blank images to (n, 3, h, w) until there are `size`.

    Else what stands beside an image would change how its features are rounded: kernels
    differ by the number of rows.
    """
    missing = size - len(pixels)
    if missing <= 0:
        return pixels
    return torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])


class ClipEncoder:
    """A CLIP model, frozen, with its image processor and tokenizer.

    Parameters
    ----------
    model
        A hub id, a folder in Hugging Face format, or "mini", the embedded model; by
        default the setting ``CLIPLIB_MODEL``, else "mini". OSError if it is no whole
        CLIP, or not there.
    cache
        Whether features of images are kept in the usual file; or the file to use.
    image_size
        Side of the square in pixels; for another than the model's own its positions are
        interpolated.
    squash
        Squash images to the square instead of cropping its centre; without it they are
        treated the model's own way, at any size.
    device
        By default a GPU if there is one.
    dtype
        What the vision tower multiplies in, "float32" or "bfloat16", which takes little
        more than half the time on a processor with AVX-512 BF16, and longer on one
        without; probes hardly notice. Features are float32 in any case. By default the
        setting ``CLIPLIB_DTYPE``, else "float32".
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        cache: bool | FeatureCache = True,
        image_size: int | None = None,
        squash: bool = False,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        self.name = os.fspath(model or os.environ.get("CLIPLIB_MODEL") or "mini")
        self.dtype = _dtype_name(dtype or os.environ.get("CLIPLIB_DTYPE") or "float32")
        chosen_device = choose_device(device)
        self.device = str(chosen_device)
        with loading(self.name, "a folder with a whole CLIP checkpoint"):
            source = find_checkpoint(self.name)
            _require_clip(source)
            clip = _load_weights(source)
            vision: Any = clip.config.vision_config
            text: Any = clip.config.text_config
            self.image_size = image_size or int(vision.image_size)
            self.processor = _load_processor(source, image_size, squash)
            self.tokenizer = _load_tokenizer(source, text.vocab_size)
        if self.image_size < vision.patch_size:
            raise ValueError(
                f"image_size={image_size} is less than a patch of {self.name!r}: give "
                f"{vision.patch_size} pixels or more."
            )
        self.model = _freeze(clip, self.device)
        self.cache = _cache_of(cache)
        self.dim = int(vision.hidden_size)
        # Those that the deep readout reads; a tower may have fewer.
        self.blocks = min(BLOCKS, int(vision.num_hidden_layers))
        self.projected_dim = self.model.visual_projection.out_features
        self.max_tokens = int(text.max_position_embeddings)
        self.batch_size = 16 if chosen_device.type == "cpu" else 128

    def __repr__(self) -> str:
        """Name the model, its size and where it runs."""
        size = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        shape = f"{size:.1f} M parameters, {self.image_size} px, {self.dim} wide"
        return f"ClipEncoder({self.name!r}, {shape}, {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        """Give copies and pickles the weights, without the hooks of transformers."""
        return {
            **self.__dict__,
            "model": (self.model.config, self.model.state_dict()),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the model anew around its weights."""
        config, weights = state["model"]
        self.__dict__.update(state)
        model = CLIPModel(config)
        model.load_state_dict(weights)
        self.model = _freeze(model, self.device)

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by (Radford et al. 2021, section 2.3)."""
        return float(self.model.logit_scale.exp())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, architecture and preprocessing, equal on every machine."""
        weights = dict(self.model.named_parameters())
        return fingerprint_of(self._described_settings(), weights)

    def _described_settings(self) -> bytes:
        """Return all but the weights that decides features, as JSON."""
        settings = json.loads(self.processor.to_json_string())
        described: dict[str, Any] = {
            "preprocessing": {
                name: settings[name]
                for name in _PREPROCESSING_SETTINGS
                if settings.get(name) is not None
            }
        }
        if self.dtype != "float32":
            described["dtype"] = self.dtype
        for tower in ("vision_config", "text_config"):
            config = getattr(self.model.config, tower)
            described[tower] = {
                name: getattr(config, name, None) for name in _TOWER_SETTINGS
            }
        return json.dumps(described, sort_keys=True).encode()

    @property
    def image_function(self) -> ImageFunction:
        """The deep readout, as `map_images` takes it."""
        return ImageFunction(
            f"deep:{self.fingerprint}",
            self._encode_images,
            device=torch.device(self.device).type,
        )

    def columns_of(self, readout: str) -> Ints:
        """Return the columns of this encoder's deep readout: see `readout_columns`."""
        return readout_columns(readout, self.dim, self.blocks)

    def map(
        self,
        images: Images,
        *others: ImageFunction,
        errors: dict[int, str] | None = None,
        progress: str = "",
    ) -> list[NDArray[Any]]:
        """Compute the deep readout, and others in the same pass, as `map_images` does.

        Returns one array (n, d) for each function, the deep readout first.
        """
        deep, *rest = map_images(
            images,
            self.image_function,
            *others,
            cache=self.cache,
            errors=errors,
            batch_size=self.batch_size,
            progress=progress,
        )
        if not deep.size:  # there was no image, or none that can be read
            deep = np.zeros((len(deep), 3 * self.blocks * self.dim), np.float32)
        return [deep, *rest]

    def images(
        self, images: Images, *, readout: str = "pooled", progress: bool = True
    ) -> Features:
        """Encode n images, (n, d) float32; or a single one, (1, d).

        Parameters
        ----------
        images
            Paths, bytes, PIL images, (h, w, 3) uint8 arrays or rows ``{"path",
            "bytes"}``; an OSError names one that cannot be read.
        readout
            As in `readout_columns`, or "projected": in the space shared with texts, of
            unit length.
        progress
            Show a bar.
        """
        projected = readout == "projected"
        columns = self.columns_of("pooled" if projected else readout)
        (deep,) = self.map(images, progress=self.name if progress else "")
        features: Features = deep[:, columns]
        return self.project(features) if projected else features

    def texts(self, texts: str | Sequence[str]) -> Features:
        """Encode n texts, (n, p) float32 of unit length, or one; long ones are cut."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = [np.empty((0, self.projected_dim), np.float32)]
        for start in range(0, len(texts), TEXT_BATCH):
            rows.append(self._encode_texts(texts[start : start + TEXT_BATCH]))
        return np.concatenate(rows)

    def _encode_texts(self, texts: list[str]) -> Features:
        whole = self.tokenizer(texts, verbose=False)["input_ids"]
        for text, tokens in zip(texts, whole, strict=True):
            if len(tokens) > self.max_tokens:
                logger.warning("Cut to %d tokens: %r", self.max_tokens, text[:60])
        inputs = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.device)
        with torch.inference_mode():
            projected = self.model.get_text_features(**inputs).pooler_output
        return np.asarray(normalize(projected.cpu().numpy()))

    def project(self, pooled: ArrayLike) -> Features:
        """Project pooled features (n, dim) to the space shared with texts, unit length.

        Returns (n, p) float32.
        """
        rows = torch.as_tensor(np.asarray(pooled, np.float32), device=self.device)
        if not len(rows):
            return np.empty((0, self.projected_dim), np.float32)
        with torch.inference_mode():
            projected = self.model.visual_projection(rows)
        return np.asarray(normalize(projected.cpu().numpy()))

    def preprocess(self, image: ImageSource) -> Features:
        """Return the pixel values that the vision tower sees, (3, s, s) float32."""
        return np.asarray(self._preprocess_batch([load_image(image)])[0])

    def _preprocess_batch(self, images: list[Image.Image]) -> Features:
        """Do what the processor does, (n, 3, s, s) float32, bit for bit, but faster.

        A channel has 256 levels, so rescaling and normalising are looked up in a table
        of what the processor makes of each.
        """
        every_level = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
        table = self.processor(
            Image.fromarray(every_level), do_resize=False, do_center_crop=False
        )["pixel_values"][0]
        values = np.asarray(table, np.float32).reshape(3, 256)
        levels = self.processor(images, do_rescale=False, do_normalize=False)
        pixels = np.empty((len(images), *levels["pixel_values"][0].shape), np.float32)
        for row, image in enumerate(levels["pixel_values"]):
            for channel in range(3):
                target = pixels[row, channel]
                # "clip" spares a copy of the output; no level is outside the table.
                np.take(values[channel], image[channel], out=target, mode="clip")
        return pixels

    def read_states(
        self, states: tuple[torch.Tensor, ...], readout: str = "deep"
    ) -> torch.Tensor:
        """Read features (n, d) from the tower's hidden states, differentiably.

        `states` are of shape (n, 1 + patches, dim), one after each block; `readout` is
        as in `images`.
        """
        blocks = [
            self.model.vision_model.post_layernorm(block)
            for block in states[-self.blocks :]
        ]
        class_tokens = [block[:, 0] for block in blocks]
        if readout == "projected":
            projected = self.model.visual_projection(class_tokens[-1])
            return torch.nn.functional.normalize(projected)
        means, deviations = [], []
        for block in blocks:
            patches = block[:, 1:]
            mean = patches.mean(dim=1)
            # By hand: Tensor.std takes ten times as long, a fortieth of the encoding.
            variance = (patches - mean[:, None]).square().mean(dim=1)
            means.append(mean)
            deviations.append(variance.sqrt())
        deep = torch.cat([*class_tokens, *means, *deviations], dim=1)
        if readout == "deep":
            return deep
        return deep[:, self.columns_of(readout)]

    def encode_pixels(self, pixels: ArrayLike) -> Features:
        """Encode pixel values (n, 3, s, s) into the deep readout, float32.

        It has ``3 * blocks * dim`` columns.
        """
        batch = torch.as_tensor(np.asarray(pixels, np.float32), device=self.device)
        mixed_precision = torch.autocast(
            batch.device.type,
            getattr(torch, self.dtype),
            enabled=self.dtype != "float32",
        )
        with torch.inference_mode(), mixed_precision:
            states = self.model.vision_model(
                batch, output_hidden_states=True, interpolate_pos_encoding=True
            ).hidden_states
            return np.asarray(self.read_states(states).cpu())

    def with_weights(self, model: CLIPModel, name: str) -> ClipEncoder:
        """Return an encoder with other weights, the same preprocessing and cache."""
        other = ClipEncoder.__new__(ClipEncoder)
        other.__dict__.update(self.__dict__)
        other.__dict__.pop("fingerprint", None)  # of the weights until now
        other.model = _freeze(model, self.device)
        other.name = name
        return other

    def _encode_images(self, images: list[Image.Image]) -> Features:
        pixels = torch.from_numpy(self._preprocess_batch(images))
        whole = fill_batch(pixels, self.batch_size)
        return self.encode_pixels(whole)[: len(images)]


def _cache_of(cache: bool | FeatureCache) -> FeatureCache | None:
    """Return the cache to use: the usual one for True, none for False."""
    if isinstance(cache, bool):
        return default_cache() if cache else None
    return cache


def _dtype_name(dtype: str | torch.dtype) -> str:
    """Return "float32" or "bfloat16"; ValueError for anything else."""
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "bfloat16"):
        raise ValueError(
            f"dtype or CLIPLIB_DTYPE is {dtype!r}: it must be 'float32' or 'bfloat16'."
        )
    return name


def _require_clip(source: str) -> None:
    if CLIPConfig.get_config_dict(source)[0].get("model_type") != "clip":
        raise ValueError("it is no CLIP")


def _load_weights(source: str) -> CLIPModel:
    hide_progress: Any = disable_progress_bar  # loading is done before it is read
    hide_progress()
    load: Any = CLIPModel.from_pretrained  # whose types know nothing of loading info
    clip, info = load(source, dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"it lacks weights, such as {min(info['missing_keys'])}")
    model: CLIPModel = clip
    return model


def _freeze(model: Any, device: str) -> CLIPModel:
    """Switch training off; the model itself is changed."""
    frozen: CLIPModel = model.eval().requires_grad_(False).to(device)
    return frozen


def _load_processor(
    source: str, image_size: int | None, squash: bool
) -> CLIPImageProcessorPil:
    """Return the model's own image processor, for another size or squashing if asked.

    Transformers has another one by torchvision, which resizes differently.
    """
    own = CLIPImageProcessorPil.from_pretrained(source)
    if not squash and not image_size:
        return own
    config: Any = CLIPConfig.from_pretrained(source).vision_config
    side = image_size or int(config.image_size)
    square = {"height": side, "width": side}
    changed: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": square}
    if squash or not own.do_center_crop:
        changed = {"size": square, "do_center_crop": False}
    return CLIPImageProcessorPil.from_pretrained(source, **changed)


def _load_tokenizer(source: str, vocabulary: int) -> CLIPTokenizer:
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(source)
    if not 0.5 < len(tokenizer) / vocabulary <= 1:
        raise ValueError("its tokenizer is missing, or another model's")
    return tokenizer
