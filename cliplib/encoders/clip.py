"""A frozen CLIP, which encodes images and texts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from sklearn.preprocessing import normalize
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from cliplib.data.arrays import Features, Ints, row_batches
from cliplib.data.cache import DEFAULT_CACHE, ResultCache
from cliplib.data.image import Images, ImageSource, load_image
from cliplib.encoders.checkpoint import find_checkpoint, fingerprint_of, loading
from cliplib.encoders.encoder import Encoder, fill_batch, placement
from cliplib.encoders.readouts import DEEP_BLOCKS, READOUTS, readout_columns

logger = logging.getLogger(__name__)

# Number of texts that are encoded at once.
TEXT_BATCH = 256
# Largest number of blocks in a tower; the largest CLIPs have about 50.
MOST_BLOCKS = 1000
# Largest side of the square that a model sees, in pixels.
LARGEST_SIDE = 4096

# The settings of a tower that features depend on.
_TOWER_SETTINGS = (
    "hidden_act",
    "layer_norm_eps",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "eos_token_id",
)
# The settings of the preprocessing that features do not depend on.
_INCIDENTAL = ("image_processor_type", "feature_extractor_type", "processor_class")


class ClipEncoder(Encoder):
    """A CLIP model, frozen, with its image processor and tokenizer.

    Parameters
    ----------
    model
        A hub id, a folder in Hugging Face format, or "mini" (the embedded model); by
        default the environment variable ``CLIPLIB_MODEL``, else "mini". OSError if it
        does not exist, or is not a complete CLIP.
    cache
        Keeps features of images between runs; None keeps none.
    image_size
        Side in pixels of the square that the model sees. If it is not the model's own,
        position embeddings are interpolated.
    device
        By default a GPU if there is one.
    dtype
        Type in which the vision tower multiplies, "float32" or "bfloat16". The latter
        takes little more than half the time on a processor with AVX-512 BF16, longer on
        one without, and hardly changes what probes answer. Features are float32 in any
        case. By default the environment variable ``CLIPLIB_DTYPE``, else "float32".

    Attributes
    ----------
    width
        Number of components of a token of the vision tower, and of pooled features.
    blocks
        Number of blocks that the deep readout reads.
    projected_dim
        Number of components of features in the space shared with texts.
    """

    readouts = READOUTS

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        cache: ResultCache | None = DEFAULT_CACHE,
        image_size: int | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        self.name = os.fspath(model or os.environ.get("CLIPLIB_MODEL") or "mini")
        self.dtype = _dtype_name(dtype or os.environ.get("CLIPLIB_DTYPE") or "float32")
        self.device, self.batch_size = placement(device)
        self.cache = cache
        with loading(self.name, "a folder with a whole CLIP checkpoint, or 'mini'"):
            _check_settings(find_checkpoint(self.name, weights=False))
            source = find_checkpoint(self.name)
            clip: Any = _load_weights(source)  # Any: its methods have no types
            vision_config: Any = clip.config.vision_config
            text_config: Any = clip.config.text_config
            self.image_size = image_size or int(vision_config.image_size)
            self.processor = _load_processor(source, image_size)
            self.tokenizer = _load_tokenizer(source, text_config.vocab_size)
        self.model: CLIPModel = clip.eval().requires_grad_(False).to(self.device)
        self.width = int(vision_config.hidden_size)
        # All blocks of a tower with fewer than `DEEP_BLOCKS` are read.
        self.blocks = min(DEEP_BLOCKS, int(vision_config.num_hidden_layers))
        self.projected_dim = self.model.visual_projection.out_features
        self.max_tokens = int(text_config.max_position_embeddings)

    def __repr__(self) -> str:
        """Return the model's name, its size and its device."""
        millions = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        size = f"{millions:.1f} M parameters, {self.image_size} px, {self.width} wide"
        return f"ClipEncoder({self.name!r}, {size}, {self.device})"

    @property
    def logit_scale(self) -> float:
        """Factor from cosines to logits (Radford et al. 2021, section 2.3)."""
        return float(self.model.logit_scale.exp())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, architecture and preprocessing, equal on every machine."""
        weights = dict(self.model.named_parameters())
        return fingerprint_of(self._described_settings(), weights)

    def _described_settings(self) -> bytes:
        """Return the settings that features depend on, as JSON, without weights."""
        settings = json.loads(self.processor.to_json_string())
        # Settings without a value are left out, since some checkpoints omit them.
        preprocessing = {
            name: value
            for name, value in settings.items()
            if name not in _INCIDENTAL and value is not None
        }
        described: dict[str, Any] = {"preprocessing": preprocessing}
        # float32 is left out, as it was when the committed features were made.
        if self.dtype != "float32":
            described["dtype"] = self.dtype
        for tower in ("vision_config", "text_config"):
            config = getattr(self.model.config, tower)
            # A setting that only the other tower has is None.
            described[tower] = {
                name: getattr(config, name, None) for name in _TOWER_SETTINGS
            }
        return json.dumps(described, sort_keys=True).encode()

    @property
    def provenance(self) -> dict[str, str]:
        """What a feature table records about its encoder, all as texts."""
        sizes = {"width": str(self.width), "blocks": str(self.blocks)}
        return super().provenance | sizes

    def columns_of(self, readout: str) -> Ints:
        """Return the columns of this encoder's deep readout that form a readout."""
        return readout_columns(readout, self.width, self.blocks)

    def encode_images(
        self, images: Images, *, readout: str = "", progress: bool = True
    ) -> Features:
        """Encode n images, (n, d) float32, as `Encoder.encode_images` does.

        `readout` may also be "projected": pooled features, projected into the space
        shared with texts, of unit length. `readout_columns` explains the others.
        """
        if readout != "projected":
            return super().encode_images(images, readout=readout, progress=progress)
        pooled = super().encode_images(images, readout="pooled", progress=progress)
        return self.project(pooled)

    def encode_texts(self, texts: str | Sequence[str]) -> Features:
        """Encode one text or n texts, (n, projected_dim) float32, rows of unit length.

        Texts of more than `max_tokens` tokens are cut, with a warning.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        features = [np.zeros((0, self.projected_dim), np.float32)]
        for batch in row_batches(len(texts), TEXT_BATCH):
            features.append(self._encode_text_batch(texts[batch]))
        return np.concatenate(features)

    def _encode_text_batch(self, texts: list[str]) -> Features:
        """Encode n texts at once, n at least 1, as `encode_texts` does."""
        # verbose=False, since the tokenizer's own warning does not quote the text.
        uncut_tokens = self.tokenizer(texts, verbose=False)["input_ids"]
        for text, tokens in zip(texts, uncut_tokens, strict=True):
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
        """Project pooled features (n, width) into the space shared with texts.

        The result is (n, projected_dim) float32, with rows of unit length.
        """
        rows = torch.as_tensor(np.asarray(pooled, np.float32), device=self.device)
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(
                f"project takes pooled features, (n, {self.width}), and not "
                f"{tuple(rows.shape)}: take those of table.with_readout('pooled')."
            )
        with torch.inference_mode():
            projected = self.model.visual_projection(rows)
        return np.asarray(normalize(projected.cpu().numpy()))

    def preprocess(self, image: ImageSource) -> Features:
        """Return the normalised pixels that the tower sees, (3, s, s) float32."""
        return np.asarray(self.processor([load_image(image)])["pixel_values"][0])

    def pool_hidden_states(
        self, states: tuple[torch.Tensor, ...], readout: str = "deep"
    ) -> torch.Tensor:
        """Return the features (n, d) of a readout from the tower's hidden states.

        `states` holds the tokens before the first block and after each block, each
        (n, 1 + patches, width), the class token first. `readout` is one of `READOUTS`,
        or "projected" (in the space shared with texts, of unit length). Gradients flow
        back to the states.
        """
        tokens_by_block = [
            self.model.vision_model.post_layernorm(tokens)
            for tokens in states[-self.blocks :]
        ]
        class_tokens = [tokens[:, 0] for tokens in tokens_by_block]
        if readout == "projected":
            projected = self.model.visual_projection(class_tokens[-1])
            return torch.nn.functional.normalize(projected)
        means = []
        deviations = []
        for tokens in tokens_by_block:
            patches = tokens[:, 1:]
            mean = patches.mean(dim=1)
            # By hand: Tensor.std takes ten times as long, which slows encoding by 2.5%.
            variance = (patches - mean[:, None]).square().mean(dim=1)
            means.append(mean)
            deviations.append(variance.sqrt())
        deep = torch.cat([*class_tokens, *means, *deviations], dim=1)
        if readout == "deep":
            return deep
        return deep[:, self.columns_of(readout)]

    def encode_batch(self, images: list[Image.Image]) -> Features:
        """Return the deep readout (n, d) of n RGB images, at most `batch_size`."""
        pixels = torch.from_numpy(np.stack(self.processor(images)["pixel_values"]))
        return self.encode_pixels(fill_batch(pixels, self.batch_size))[: len(images)]

    def encode_pixels(self, pixels: Any) -> Features:
        """Return the deep readout (n, d) of normalised pixels, (n, 3, s, s) float32."""
        batch = torch.as_tensor(pixels, device=self.device)
        mixed_precision = torch.autocast(
            batch.device.type,
            getattr(torch, self.dtype),
            enabled=self.dtype != "float32",
        )
        with torch.inference_mode(), mixed_precision:
            states = self.model.vision_model(
                batch, output_hidden_states=True, interpolate_pos_encoding=True
            ).hidden_states
            return np.asarray(self.pool_hidden_states(states).cpu())


def _dtype_name(dtype: str | torch.dtype) -> str:
    """Return "float32" or "bfloat16"; ValueError for anything else."""
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "bfloat16"):
        raise ValueError(
            f"dtype or CLIPLIB_DTYPE is {dtype!r}: it must be 'float32' or 'bfloat16'."
        )
    return name


def _check_settings(source: str) -> None:
    """Raise ValueError if a checkpoint is not a CLIP, or larger than any real CLIP.

    A manipulated checkpoint could otherwise fill the memory.
    """
    config, _ = CLIPConfig.get_config_dict(source)
    kind = config.get("model_type")
    if kind != "clip":
        raise ValueError(f"it is no CLIP but {kind}, which VisionEncoder takes")
    for tower in ("vision_config", "text_config"):
        if config.get(tower, {}).get("num_hidden_layers", 0) > MOST_BLOCKS:
            raise ValueError(f"it has more than {MOST_BLOCKS} blocks")
    processor: Any = CLIPImageProcessorPil.from_pretrained(source)
    for square in (processor.size, processor.crop_size):
        sides = dict(square or {}).values()
        if max(sides, default=0) > LARGEST_SIDE:
            raise ValueError(f"it sees more than {LARGEST_SIDE} pixels a side")


def _load_weights(source: str) -> CLIPModel:
    """Load a CLIP in float32 from a folder.

    ValueError if weights are missing, which transformers would replace by random ones.
    Progress bars of transformers are switched off, since loading takes little time.
    """
    hide_progress: Any = disable_progress_bar  # Any: it has no types
    hide_progress()
    load: Any = CLIPModel.from_pretrained  # Any: its types lack output_loading_info
    clip, info = load(source, dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"it lacks weights, such as {min(info['missing_keys'])}")
    return cast(CLIPModel, clip)


def _load_processor(source: str, image_size: int | None) -> CLIPImageProcessorPil:
    """Return the model's image processor.

    `image_size` is the side of the square that the model sees, in pixels; None stands
    for the model's own. The processor uses Pillow; torchvision resizes differently.
    """
    processor = CLIPImageProcessorPil.from_pretrained(source)
    if not image_size:
        return processor
    square = {"height": image_size, "width": image_size}
    sizes: dict[str, Any] = {"size": square}  # images are squashed
    if processor.do_center_crop:
        sizes = {"size": {"shortest_edge": image_size}, "crop_size": square}
    return CLIPImageProcessorPil.from_pretrained(source, **sizes)


def _load_tokenizer(source: str, vocabulary: int) -> CLIPTokenizer:
    """Load the tokenizer of a model that embeds `vocabulary` tokens.

    ValueError if the tokenizer has more tokens, or less than half of them. If its files
    are missing, transformers returns a tokenizer of two tokens.
    """
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(source)
    if not 0.5 < len(tokenizer) / vocabulary <= 1:
        raise ValueError("its tokenizer is missing, or another model's")
    return tokenizer
