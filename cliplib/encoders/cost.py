"""Time and memory of encoding, from a model's configuration, before it is loaded."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

EFFICIENCY = 0.7
"""Speed of encoding, as a share of a processor's speed in large products."""
COPIES_OF_WEIGHTS = 2  # in memory while they are loaded


@dataclass(frozen=True)
class EncodingCost:
    """Size of a model, and what encoding one image takes, by its configuration.

    Attributes
    ----------
    parameters
        Their number, in all of the model's towers.
    operations
        Number of floating-point operations of the vision tower for one image; a
        multiplication and an addition count as two.
    width
        Number of features of an image, before any projection.
    """

    parameters: int
    operations: int
    width: int

    @property
    def gigabytes(self) -> float:
        """Peak of memory for the weights in float32, in 10^9 bytes, while loading."""
        return COPIES_OF_WEIGHTS * 4 * self.parameters / 1e9

    def minutes(self, images: int, operations_per_second: float) -> float:
        """Return how many minutes the vision tower takes for a number of images.

        `operations_per_second` is a processor's speed in large products, which
        `flops_of_one_core` measures; encoding reaches the share `EFFICIENCY` of it.
        """
        encoding_speed = EFFICIENCY * operations_per_second
        return images * self.operations / encoding_speed / 60


def encoding_cost(folder: str) -> EncodingCost:
    """Count parameters and operations of a CLIP or vision model, without its weights.

    Parameters
    ----------
    folder
        Where its ``config.json`` is, and ``preprocessor_config.json`` if the model is
        shown images of another size than its configuration says.
    """
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    side = _image_side(Path(folder), config)
    with torch.device("meta"):  # where tensors have shapes, but no values
        build: Any = AutoModel.from_config  # which has no types
        model = build(config, trust_remote_code=False)
        tower = getattr(model, "vision_model", model)
        image = torch.empty(1, 3, side, side)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            last_states = tower(pixel_values=image)[0]
    # (1, tokens, width) of a transformer, (1, width, h, w) of a convolutional network.
    axis_of_width = 2 if last_states.ndim == 3 else 1
    return EncodingCost(
        parameters=sum(weight.numel() for weight in model.parameters()),
        operations=counter.get_total_flops(),
        width=last_states.shape[axis_of_width],
    )


def _image_side(folder: Path, config: Any) -> int:
    """Return the side of the images that a model is shown, in pixels.

    It is read from ``preprocessor_config.json`` in `folder`, else from the model's
    `config`; it is 224, the most common side, where neither says it.
    """
    path = folder / "preprocessor_config.json"
    preprocessing = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for name in ("crop_size", "size"):  # a model is shown the crop, if there is one
        size = preprocessing.get(name)
        # Pixels by name, such as {"height": 224, "width": 224}; in older files 224.
        sides = size if isinstance(size, dict) else {"height": size}
        side = sides.get("height") or sides.get("shortest_edge")
        if isinstance(side, int):
            return side
    # The configuration of a CLIP has that of its vision tower as a part.
    vision_config = getattr(config, "vision_config", config)
    return int(getattr(vision_config, "image_size", 224))


def flops_of_one_core(seconds: float = 0.2) -> float:
    """Measure how many floating-point operations one core does in a second.

    It multiplies matrices of a transformer's usual size, in float32 and on one thread,
    for about `seconds`.
    """
    n, width, hidden = 800, 768, 3072
    tokens = torch.rand(n, width)
    weights = torch.rand(width, hidden)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.mm(tokens, weights)  # not timed: the first product is slower
        count = 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            torch.mm(tokens, weights)
            count += 1
        elapsed = time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
    operations = 2 * n * width * hidden * count
    return operations / elapsed
