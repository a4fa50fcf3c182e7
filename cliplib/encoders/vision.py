"""Other vision models of transformers, for comparison with CLIP."""

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

# Ends of the name of the parameter that holds the class token.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
# Entries of a configuration that features do not depend on.
INCIDENTAL = ("_name_or_path", "architectures", "dtype", "transformers_version")


class VisionEncoder(Encoder):
    """Any vision model of transformers, frozen: SigLIP, DINOv2, DINOv3, ConvNeXt, ….

    Only the vision tower of a model of images and texts is used. Features are its
    pooled output if that was trained; else its class token; else, if it has none, the
    mean over its patches.

    Parameters
    ----------
    model
        A folder in Hugging Face format, or a hub id, "owner/name" or
        "owner/name@revision". OSError if it does not exist, lacks weights, needs code
        of its makers, or does not take images. A model of timm needs timm.
    cache
        Keeps features of images between runs; None keeps none.
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
            # First, so that a model without images is refused before its weights come.
            settings = find_checkpoint(self.name, weights=False)
            self.processor = _load_processor(settings)
            source = find_checkpoint(self.name)
            tower, self._pooling_was_trained = _load_tower(source)
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
        """Return the features (n, d) of n RGB images, at most `batch_size`."""
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        batch = fill_batch(pixels, self.batch_size).to(self.device)
        with torch.inference_mode():
            features = self._pool(self.model(pixel_values=batch))
        return np.asarray(features[: len(images)].cpu())

    def _pool(self, output: Any) -> torch.Tensor:
        """Return features (n, d) from the tower's output for n images.

        They are the pooled output if its weights were trained, else the class token if
        there is one, else the mean over patches.
        """
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and self._pooling_was_trained:
            return torch.flatten(pooled, start_dim=1)
        tokens: torch.Tensor = output.last_hidden_state
        if tokens.ndim == 4:  # the map (n, d, h, w) of a convolutional network
            return tokens.mean(dim=(2, 3))
        # The tokens of a transformer are (n, tokens, d).
        names = [name for name, _ in self.model.named_parameters()]
        has_class_token = any(name.endswith(CLASS_TOKENS) for name in names)
        return tokens[:, 0] if has_class_token else tokens.mean(dim=1)


def _load_tower(source: str) -> tuple[Any, bool]:
    """Return a vision tower, and whether the checkpoint has weights for its pooling.

    Checkpoints often lack them (DINO, classifiers on the class token), and transformers
    then fills in random ones. ValueError if other weights are missing, or if the model
    takes no images.
    """
    load: Any = AutoModel.from_pretrained  # Any: its types lack output_loading_info
    model, info = load(
        source,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,  # else transformers asks the user, and runs it
    )
    tower = getattr(model, "vision_model", model)
    if tower.main_input_name != "pixel_values":
        raise ValueError(f"it is no vision model: it takes {tower.main_input_name}")
    missing = set(info["missing_keys"])
    missing_of_pooling = {name for name in missing if "pooler" in name}
    missing_elsewhere = missing - missing_of_pooling
    if missing_elsewhere:
        raise ValueError(f"it lacks weights, such as {min(missing_elsewhere)}")
    return tower, not missing_of_pooling


def _load_processor(source: str) -> Any:
    """Load a model's image processor with Pillow; torchvision resizes differently."""
    load: Any = AutoImageProcessor.from_pretrained
    return load(source, backend="pil", trust_remote_code=False)


def load_encoder(name: str | os.PathLike[str] = "") -> ClipEncoder | VisionEncoder:
    """Return the encoder of a model, a CLIP or any other vision model.

    `name` is a hub id or a folder; "" stands for the model of ``ClipEncoder()``.
    OSError if the model cannot be loaded.
    """
    if not name:
        return ClipEncoder()
    with loading(os.fspath(name), "a folder in Hugging Face format, or 'mini'"):
        settings = find_checkpoint(os.fspath(name), weights=False)
        kind = AutoConfig.from_pretrained(settings, trust_remote_code=False).model_type
    return ClipEncoder(name) if kind == "clip" else VisionEncoder(name)
