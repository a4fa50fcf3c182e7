"""Choices of device, dtype and threads."""

from __future__ import annotations

import pytest
import torch

from cliplib.encoder import hardware
from cliplib.errors import CliplibError

CPU = torch.device("cpu")


def test_unknown_device_and_dtype_are_one_sentence() -> None:
    for device in ("abacus", "cuda:99", ""):
        with pytest.raises(CliplibError, match="is unknown or not available here: use 'auto' or 'cpu'"):
            hardware.choose_device(device)
    with pytest.raises(CliplibError, match="'int4' is unknown: use 'auto', 'float32', 'bfloat16', 'float16'"):
        hardware.choose_dtype("int4", CPU)


def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware.choose_device("auto") == CPU
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda n=native: {"avx512_bf16": True, "amx_bf16": n}, False)
        assert hardware.choose_dtype("auto", CPU) == expected
    assert hardware.choose_dtype("float16", CPU) == "float16"


def test_older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert hardware.multiplies_bfloat16(CPU)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not hardware.multiplies_bfloat16(CPU)


@pytest.mark.parametrize("cores", [1, 2, 3, 16, 64])
@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 1000])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 64])
def test_plan_never_holds_more_than_a_batch(
    monkeypatch: pytest.MonkeyPatch, cores: int, n: int, batch_size: int | None
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    plan = hardware.plan(n, batch_size, CPU)
    assert plan.workers * plan.threads <= cores
    assert min(plan.workers, plan.threads, plan.chunk) >= 1
    assert plan.workers * plan.chunk <= max(batch_size or hardware.CPU_CHUNK * min(cores, hardware.MAX_WORKERS), 1)
    if n and batch_size != 1:
        assert plan.workers * plan.chunk <= n + plan.chunk


def test_few_images_use_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert hardware.plan(1, None, CPU) == hardware.Plan(chunk=1, workers=1, threads=4)
    assert hardware.plan(8, None, CPU) == hardware.Plan(chunk=2, workers=4, threads=1)
    assert hardware.plan(1000, None, CPU) == hardware.Plan(chunk=16, workers=4, threads=1)


def test_to_device_casts() -> None:
    assert hardware.to_device(torch.zeros(2), CPU, torch.bfloat16).dtype == torch.bfloat16


def test_versions() -> None:
    found = hardware.versions("torch", "no-such-package")
    assert found == {"torch": torch.__version__.split("+")[0], "no-such-package": "unknown"}


@pytest.mark.parametrize(
    ("fixed", "memory", "expected"),
    [
        (1.0, 999, 256),  # a pass takes equally long whatever its size: the largest
        (0.0, 999, 32),  # each image takes equally long: the smallest
        (2.0, 64, 64),  # no more memory
        (2.0, 8, 8),  # not even for the smallest that is tried
    ],
)
def test_the_fastest_batch(fixed: float, memory: int, expected: int) -> None:
    now = 0.0

    def forward(size: int) -> None:
        nonlocal now
        if size > memory:
            raise torch.OutOfMemoryError
        now += fixed + 0.001 * size

    assert hardware.fastest_batch(forward, clock=lambda: now) == expected


def test_only_many_images_on_a_gpu_are_worth_the_search() -> None:
    found = [
        hardware.plan(n, size, torch.device("meta"), lambda: 64).chunk
        for n, size in ((100, None), (9999, None), (9999, 7))
    ]
    assert found == [hardware.GPU_BATCH, 64, 7]
