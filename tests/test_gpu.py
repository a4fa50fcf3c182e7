"""What only a GPU shows: copies from pinned memory, a batch size that fits, and features equal to the CPU's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cliplib.encoder import ClipEncoder, hardware

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_a_batch_is_copied_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []
    pin = torch.Tensor.pin_memory
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda batch: pinned.append(pin(batch)) or pinned[-1])
    batch = torch.randn(8, 3, 32, 32)
    moved = hardware.to_device(batch, torch.device("cuda"), torch.bfloat16)
    assert moved.is_cuda and moved.dtype == torch.bfloat16
    assert [source.is_pinned() for source in pinned] == [True]
    assert torch.equal(moved.cpu(), batch.bfloat16())


def test_the_batch_size_is_found_and_features_equal_those_of_the_cpu(
    tiny_checkpoint: Path, tiny_encoder: ClipEncoder, image_files: list[Path]
) -> None:
    encoder = ClipEncoder.from_pretrained(tiny_checkpoint, device="cuda", dtype="float32")
    assert 32 <= encoder._find_batch() <= 256
    many = image_files * (1 + 32 * hardware.GPU_BATCH // len(image_files))
    ours = encoder.images(many, progress=False)
    expected = tiny_encoder.images(image_files, progress=False)
    np.testing.assert_allclose(ours[: len(image_files)], expected, atol=2e-4)
    np.testing.assert_array_equal(ours[: len(image_files)], ours[-len(image_files) :])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(
    tiny_checkpoint: Path, tiny_encoder: ClipEncoder, image_files: list[Path], dtype: str
) -> None:
    ours = ClipEncoder.from_pretrained(tiny_checkpoint, device="cuda", dtype=dtype).images(image_files, progress=False)
    expected = tiny_encoder.images(image_files, progress=False)
    cosine = (ours * expected).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.999
