"""A frozen CLIP: images and texts in, features out."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from copy import copy
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

from cliplib.arrays import Features
from cliplib.cache import FeatureCache, ImageFunction, map_images
from cliplib.images import ImageSource, load_image

logger = logging.getLogger(__name__)


READOUTS = ("pooled", "class_tokens", "dinov2", "means", "deep")


BLOCKS = 4  # of the vision tower, the last ones, that the deep readout reads


# What decides features; named, because a later transformers may add settings.
_TOWER = "hidden_act layer_norm_eps num_attention_heads image_size patch_size eos_token_id".split()


_PIXELS = (
    "do_convert_rgb do_resize size resample do_center_crop crop_size do_rescale rescale_factor "
    "do_normalize image_mean image_std do_pad pad_size"
).split()


def readout_columns(
    readout: str, width: int, blocks: int = BLOCKS
) -> NDArray[np.int64]:
    """Return which columns of the deep readout a smaller one consists of.

    ``deep`` holds, for each of the last `blocks` blocks, the class token, then the mean over the
    patch tokens, then their standard deviation; every token goes through the final layer norm.
    ``pooled`` is the last class token (Radford et al. 2021, appendix A.3), ``class_tokens`` all of
    them, ``dinov2`` these and the last mean (Oquab et al. 2024, appendix B.3), ``means`` all class
    tokens and all means.
    """
    part = blocks * width
    columns = {
        "pooled": np.arange(part - width, part),
        "class_tokens": np.arange(part),
        "dinov2": np.concatenate(
            [np.arange(part), np.arange(2 * part - width, 2 * part)]
        ),
        "means": np.arange(2 * part),
        "deep": np.arange(3 * part),
    }
    if readout not in columns:
        raise ValueError(
            f"There is no readout {readout!r}; there are {', '.join(READOUTS)}."
        )
    return columns[readout]


class ClipEncoder:
    """A CLIP model, frozen, with its image processor and tokenizer.

    `model` is a hub id, a folder in Hugging Face format, or "mini", the embedded model; by default
    the setting ``CLIPLIB_MODEL``, else "mini". OSError if it is no whole CLIP, or not there. With
    `cache` features of images are kept in the usual file, or in the one given. `image_size` is the
    side of the square in pixels; another than the model's own has its positions interpolated.
    `squash` squashes images to the square instead of cropping its centre; without it they are
    treated the model's own way, at any size. `device` is by default a GPU if there is one. `dtype`
    is what the vision tower multiplies in: "bfloat16" takes little more than half the time on a
    processor with AVX-512 BF16, and longer on one without; probes hardly notice.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        cache: bool | FeatureCache = True,
        image_size: int | None = None,
        squash: bool = False,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        self.name = os.fspath(model or os.environ.get("CLIPLIB_MODEL") or "mini")
        source = str(files("cliplib") / "mini") if self.name == "mini" else self.name
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = dtype
        disable_progress_bar()  # of loading weights, which is done before it is read
        try:
            if not os.path.isdir(source) and source.count("/") != 1:
                raise ValueError("there is no such folder")
            if CLIPConfig.get_config_dict(source)[0].get("model_type") != "clip":
                raise ValueError("it is no CLIP")
            load: Any = CLIPModel.from_pretrained
            clip, info = load(source, dtype=torch.float32, output_loading_info=True)
            if info["missing_keys"]:
                raise ValueError(
                    f"it lacks weights, such as {min(info['missing_keys'])}"
                )
            self.image_size = image_size or int(clip.config.vision_config.image_size)
            square = {"height": self.image_size, "width": self.image_size}
            own, changed = (
                CLIPImageProcessorPil.from_pretrained(source),
                dict[str, Any](),
            )
            if squash or (image_size and not own.do_center_crop):
                changed = {"size": square, "do_center_crop": False}
            elif image_size:
                changed = {"size": {"shortest_edge": image_size}, "crop_size": square}
            self.processor = CLIPImageProcessorPil.from_pretrained(source, **changed)
            self.tokenizer = CLIPTokenizer.from_pretrained(source)
            if not 0.5 < len(self.tokenizer) / clip.config.text_config.vocab_size <= 1:
                raise ValueError("its tokenizer is missing, or another model's")
        except Exception as error:  # the loaders raise nearly anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise OSError(
                f"Cannot load the model {self.name!r} ({reason}): name a folder with a whole CLIP "
                "checkpoint, a hub id where there is a network, or 'mini'."
            ) from error
        self.model = clip.eval().requires_grad_(False).to(self.device)
        self.cache = FeatureCache() if cache is True else cache or None
        self.dim = int(clip.config.vision_config.hidden_size)
        self.blocks = min(BLOCKS, int(clip.config.vision_config.num_hidden_layers))
        self.batch_size = 16 if self.device == "cpu" else 128

    def __repr__(self) -> str:
        size = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        shape = f"{size:.1f} M parameters, {self.image_size} px, {self.dim} wide"
        return f"ClipEncoder({self.name!r}, {shape}, {self.device})"

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by (Radford et al. 2021, section 2.3)."""
        return float(self.model.logit_scale.exp())

    @cached_property
    def fingerprint(self) -> str:
        """Hash weights, architecture and preprocessing, equal on every machine."""
        settings = json.loads(self.processor.to_json_string())
        pixels = {
            name: settings[name] for name in _PIXELS if settings.get(name) is not None
        }
        described: dict[str, Any] = {"preprocessing": pixels}
        if self.dtype != "float32":
            described["dtype"] = self.dtype
        for tower in ("vision_config", "text_config"):
            config = getattr(self.model.config, tower)
            described[tower] = {name: getattr(config, name, None) for name in _TOWER}
        total = hashlib.blake2b(
            json.dumps(described, sort_keys=True).encode(), digest_size=16
        )
        for name, weight in sorted(self.model.named_parameters()):
            total.update(f"\n{name} {tuple(weight.shape)}\n".encode())
            total.update(weight.detach().cpu().contiguous().numpy().data)
        return total.hexdigest()

    @property
    def image_function(self) -> ImageFunction:
        """The deep readout, as `map_images` takes it."""
        return ImageFunction(f"deep:{self.fingerprint}", self._encode_images)

    def map(
        self,
        images: Any,
        *others: ImageFunction,
        errors: Any = None,
        progress: str = "",
    ) -> list[NDArray[Any]]:
        """Compute the deep readout, and others in the same pass, as `map_images` does."""
        options = {"cache": self.cache, "errors": errors, "batch_size": self.batch_size}
        found = map_images(
            images, self.image_function, *others, progress=progress, **options
        )
        if not found[0].size:  # there was no image, or none that can be read
            found[0] = np.zeros((len(found[0]), 3 * self.blocks * self.dim), np.float32)
        return found

    def images(
        self, images: Any, *, readout: str = "pooled", progress: bool = True
    ) -> Features:
        """Encode n images, (n, d) float32; or a single one, (1, d).

        `images` are paths, bytes, PIL images, (h, w, 3) uint8 arrays or rows ``{"path", "bytes"}``.
        `readout` is as in `readout_columns`, or "projected": in the space shared with texts, unit
        length. An OSError names an image that cannot be read.
        """
        projected = readout == "projected"
        columns = readout_columns(
            "pooled" if projected else readout, self.dim, self.blocks
        )
        (deep,) = self.map(images, progress=self.name if progress else "")
        return self.project(deep[:, columns]) if projected else deep[:, columns]

    def texts(self, texts: str | Sequence[str]) -> Features:
        """Encode n texts, (n, p) float32 of unit length, or one; long ones are cut."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        longest = self.model.config.text_config.max_position_embeddings
        options = {"padding": True, "max_length": longest, "return_tensors": "pt"}
        out = []
        for start in range(0, len(texts), 256):
            batch = texts[start : start + 256]
            rows = self.tokenizer(batch, verbose=False)["input_ids"]
            for text, tokens in zip(batch, rows, strict=True):
                if len(tokens) > longest:
                    logger.warning("Cut to %d tokens: %r", longest, text[:60])
            inputs = self.tokenizer(batch, truncation=True, **options).to(self.device)
            with torch.inference_mode():
                found = self.model.get_text_features(**inputs).pooler_output
            out.append(found.cpu().numpy())
        return np.asarray(normalize(np.concatenate(out)))

    def project(self, pooled: ArrayLike) -> Features:
        """Project pooled features (n, dim) to the space shared with texts, unit length."""
        rows = torch.as_tensor(np.asarray(pooled, np.float32), device=self.device)
        with torch.inference_mode():
            return np.asarray(
                normalize(self.model.visual_projection(rows).cpu().numpy())
            )

    def preprocess(self, image: ImageSource) -> Features:
        """Return the pixel values that the vision tower sees, (3, s, s) float32."""
        return np.asarray(self.processor(load_image(image))["pixel_values"][0])

    def read_states(
        self, states: tuple[torch.Tensor, ...], readout: str = "deep"
    ) -> torch.Tensor:
        """Read features (n, d) from the tower's hidden states, differentiably."""
        blocks = [
            self.model.vision_model.post_layernorm(block)
            for block in states[-self.blocks :]
        ]
        tokens = [block[:, 0] for block in blocks]
        if readout == "projected":
            return torch.nn.functional.normalize(
                self.model.visual_projection(tokens[-1])
            )
        means = [block[:, 1:].mean(dim=1) for block in blocks]
        # By hand: Tensor.std takes ten times as long, a fortieth of the encoding.
        centred = [
            b[:, 1:] - mean[:, None] for b, mean in zip(blocks, means, strict=True)
        ]
        deviations = [patches.square().mean(dim=1).sqrt() for patches in centred]
        columns = (
            ...
            if readout == "deep"
            else readout_columns(readout, self.dim, self.blocks)
        )
        return torch.cat([*tokens, *means, *deviations], dim=1)[:, columns]

    def encode_pixels(self, pixels: ArrayLike) -> Features:
        """Encode pixel values (n, 3, s, s) into the deep readout, (n, 12 dim) with four blocks."""
        batch = torch.as_tensor(np.asarray(pixels, np.float32), device=self.device)
        options = {"output_hidden_states": True, "interpolate_pos_encoding": True}
        kind, dtype = batch.device.type, getattr(torch, self.dtype)
        with (
            torch.inference_mode(),
            torch.autocast(kind, dtype, self.dtype != "float32"),
        ):
            states = self.model.vision_model(batch, **options).hidden_states
            return np.asarray(self.read_states(states).cpu())

    def with_weights(self, model: CLIPModel, name: str) -> ClipEncoder:
        """Return an encoder of the same preprocessing around other weights."""
        other = copy(self)
        other.__dict__.pop("fingerprint", None)
        other.model, other.name = (
            model.eval().requires_grad_(False).to(self.device),
            name,
        )
        return other

    def _encode_images(self, images: list[Image.Image]) -> Features:
        # Whole batches, always: else what stands beside an image may change how it is rounded.
        pixels = torch.zeros(self.batch_size, 3, self.image_size, self.image_size)
        pixels[: len(images)] = self.processor(images, return_tensors="pt")[
            "pixel_values"
        ]
        return self.encode_pixels(pixels)[: len(images)]
