"""Other vision models of transformers, to be put beside CLIP."""

from __future__ import annotations

import json
import os
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from cliplib.data.arrays import Features
from cliplib.data.cache import DEFAULT_CACHE, ResultCache
from cliplib.encoders.checkpoint import find_checkpoint, fingerprint_of, loading
from cliplib.encoders.clip import ClipEncoder
from cliplib.encoders.encoder import Encoder, fill_batch, placement

# What the parameter of the class token is called.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
# Entries of a configuration that do not change features.
INCIDENTAL = ("_name_or_path", "architectures", "dtype", "transformers_version")


class VisionEncoder(Encoder):
    """Any vision model of transformers, frozen: SigLIP, DINOv2, DINOv3, ConvNeXt, ….

    Of a model of images and texts only the vision tower is used. Features are its
    pooled output; where it has none, or none that was trained, its class token; where
    it has none either, the mean over its patches.

    Parameters
    ----------
    model
        A folder in Hugging Face format, or a hub id, "owner/name" or
        "owner/name@revision". OSError if it is not there, lacks weights, needs code of
        its makers, or does not take images. A model of timm needs timm.
    cache
        Where features of images are kept; None keeps none.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        cache: ResultCache | None = DEFAULT_CACHE,
    ) -> None:
        self.name = os.fspath(model)
        self.device, self.batch_size = placement()
        self.cache = cache
        with loading(self.name, "a folder with a vision model and its preprocessing"):
            # First, since what takes no images is refused before its weights come.
            settings = find_checkpoint(self.name, weights=False)
            self.processor = _load_processor(settings)
            source = find_checkpoint(self.name)
            tower, pooling_was_trained = _load_tower(source)
        self._pooling_was_trained = pooling_was_trained
        self.model = tower.eval().requires_grad_(False).to(self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, configuration and preprocessing, in hexadecimal digits."""
        config = self.model.config.to_dict()
        described = {
            "model": {name: config[name] for name in config.keys() - INCIDENTAL},
            "preprocessing": self.processor.to_dict(),
        }
        text = json.dumps(described, sort_keys=True, default=str)
        return fingerprint_of(text.encode(), self.model.state_dict())

    def encode_batch(self, images: list[Image.Image]) -> Features:
        """Return the features of n RGB images, (n, d), n at most `batch_size`."""
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        batch = fill_batch(pixels, self.batch_size).to(self.device)
        with torch.inference_mode():
            features = self._pool(self.model(pixel_values=batch))
        return np.asarray(features[: len(images)].cpu())

    def _pool(self, output: Any) -> torch.Tensor:
        """Return features (n, d) from the tower's output for n images.

        They are the pooled output, if its weights were trained; else the class token;
        else, where the model has none, the mean over patches.
        """
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and self._pooling_was_trained:
            return torch.flatten(pooled, start_dim=1)
        tokens: torch.Tensor = output.last_hidden_state
        if tokens.ndim == 4:  # of a convolutional network, a map (n, d, h, w)
            return tokens.mean(dim=(2, 3))
        # Of a transformer, (n, tokens, d).
        parameters = [name for name, _ in self.model.named_parameters()]
        has_class_token = any(name.endswith(CLASS_TOKENS) for name in parameters)
        return tokens[:, 0] if has_class_token else tokens.mean(dim=1)


def _load_tower(source: str) -> tuple[Any, bool]:
    """Return a vision tower, and whether the checkpoint has weights for its pooling.

    Checkpoints without them are common (DINO, classifiers on the class token);
    transformers then fills in random ones. ValueError if other weights are missing, or
    if the model takes no images.
    """
    load: Any = AutoModel.from_pretrained  # whose types know nothing of loading info
    model, info = load(
        source,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,  # else transformers asks, and runs it
    )
    tower = getattr(model, "vision_model", model)
    if tower.main_input_name != "pixel_values":
        raise ValueError(f"it is no vision model: it takes {tower.main_input_name}")
    lacking = set(info["missing_keys"])
    lacking_of_pooling = {name for name in lacking if "pooler" in name}
    if others := lacking - lacking_of_pooling:
        raise ValueError(f"it lacks weights, such as {min(others)}")
    return tower, not lacking_of_pooling


def _load_processor(source: str) -> Any:
    """Return a model's image processor by Pillow: torchvision's resizes differently."""
    load: Any = AutoImageProcessor.from_pretrained
    return load(source, backend="pil", trust_remote_code=False)


def load_encoder(name: str | os.PathLike[str] = "") -> ClipEncoder | VisionEncoder:
    """Return the encoder of a hub id or folder: of a CLIP, or of any vision model.

    By default the one that ``ClipEncoder()`` is. OSError if it cannot be loaded.
    """
    if not name:
        return ClipEncoder()
    with loading(os.fspath(name), "a folder in Hugging Face format, or 'mini'"):
        settings = find_checkpoint(os.fspath(name), weights=False)
        kind = AutoConfig.from_pretrained(settings, trust_remote_code=False).model_type
    return ClipEncoder(name) if kind == "clip" else VisionEncoder(name)
