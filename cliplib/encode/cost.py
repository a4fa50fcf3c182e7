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
"""Share of a processor's speed in large products that encoding reaches."""
COPIES_OF_WEIGHTS = 2  # in memory while they are loaded


@dataclass(frozen=True)
class EncodingCost:
    """Size of a model, and operations of encoding an image, by its configuration.

    Attributes
    ----------
    parameters
        Of all its towers.
    operations
        Floating-point operations of its vision tower for an image, a multiplication
        and an addition as two.
    width
        Of its features for an image, before any projection.
    """

    parameters: int
    operations: int
    width: int

    @property
    def gigabytes(self) -> float:
        """Memory of the weights in float32, while they are loaded."""
        return COPIES_OF_WEIGHTS * 4 * self.parameters / 1e9

    def minutes(self, images: int, operations_per_second: float) -> float:
        """Return how long the vision tower takes for so many images."""
        seconds = images * self.operations / (EFFICIENCY * operations_per_second)
        return seconds / 60


def encoding_cost(folder: str) -> EncodingCost:
    """Count parameters and operations of a model of images, without its weights.

    Parameters
    ----------
    folder
        That holds its ``config.json``, and ``preprocessor_config.json`` if it sees
        images of another size than it says.
    """
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    side = _side(Path(folder), config)
    with torch.device("meta"):
        build: Any = AutoModel.from_config
        model = build(config, trust_remote_code=False)
        tower = getattr(model, "vision_model", model)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            states = tower(pixel_values=torch.empty(1, 3, side, side))[0]
    width = states.shape[-1] if states.ndim == 3 else states.shape[1]
    parameters = sum(weight.numel() for weight in model.parameters())
    return EncodingCost(parameters, counter.get_total_flops(), width)


def _side(folder: Path, config: Any) -> int:
    """Return the side of the images that a model is shown, in pixels."""
    path = folder / "preprocessor_config.json"
    shown = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for name in ("crop_size", "size"):
        size = shown.get(name)
        sides = size if isinstance(size, dict) else {"height": size}
        side = sides.get("height") or sides.get("shortest_edge")
        if isinstance(side, int):
            return side
    return int(getattr(getattr(config, "vision_config", config), "image_size", 224))


def flops_of_one_core(seconds: float = 0.2) -> float:
    """Measure how many floating-point operations a second one core does.

    In products of matrices that are as large as those of a transformer.
    """
    n, d, width = 800, 768, 3072
    tokens = torch.rand(n, d)
    weights = torch.rand(d, width)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.mm(tokens, weights)  # the first one is slower
        count = 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            torch.mm(tokens, weights)
            count += 1
        elapsed = time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
    return 2 * n * d * width * count / elapsed
