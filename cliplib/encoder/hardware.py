"""What the machine offers: device, number format, cores to share among threads, and versions of packages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from cliplib.errors import CliplibError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CPU_CHUNK = 16
"""Images per forward pass on a CPU: with more, the activations leave the core's cache."""

GPU_BATCH = 128
"""Images per forward pass on a GPU, when they are so few that looking for a better number does not pay."""

MAX_WORKERS = 16


@dataclass(frozen=True)
class Plan:
    """`workers` threads take `chunk` images at a time, each with `threads` cores for a forward pass."""

    chunk: int
    workers: int
    threads: int


def choose_device(device: str) -> torch.device:
    """A torch device by name; "auto" is a CUDA GPU if there is one, else the CPU.

    Raises
    ------
    CliplibError
        Unknown, or not on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()  # "meta" can be made, but holds no numbers
    except Exception:  # RuntimeError, AssertionError, NotImplementedError: each backend has its own
        raise CliplibError(f"The device {device!r} is unknown or not available here: use 'auto' or 'cpu'.") from None
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> str:
    """Name of a number format; "auto" is bfloat16 where `device` has matrix units for it, else float32.

    Raises
    ------
    CliplibError
        Unknown.
    """
    if dtype == "auto":
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    if dtype not in DTYPES:
        raise CliplibError(f"The dtype {dtype!r} is unknown: use 'auto', {', '.join(map(repr, DTYPES))}.")
    return dtype


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` has matrix units for bfloat16: tensor cores, or AMX.

    AVX-512's dot products do not count: on Intel's cores they are no faster than float32, and less exact.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    probe = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)  # older torch has this one only
    return bool(probe())


def to_device(pixels: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Move a batch; to a GPU from pinned memory, on a stream of its own, beside another thread's forward pass."""
    if device.type != "cuda":
        return pixels.to(device, dtype)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        moved = pixels.pin_memory().to(device, non_blocking=True).to(dtype)
    stream.synchronize()
    return moved


def fastest_batch(
    forward: Callable[[int], Any], *, start: int = 32, limit: int = 256, clock: Callable[[], float] = time.perf_counter
) -> int:
    """The smallest batch that another doubling would speed up by less than 5 %, or for which no more memory is left.

    Parameters
    ----------
    forward : callable
        Computes so many images and waits for the result. Called twice for each size: the first time warms up.
    start, limit : int
        Sizes tried, by doubling.
    clock : callable
        Seconds.
    """
    best, rate, size = start, 0.0, start
    while size <= limit:
        try:
            forward(size)
            before = clock()
            forward(size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return best if size > start else max(1, start // 4)
        found = size / (clock() - before)
        if found < 1.05 * rate:
            break
        best, rate, size = size, found, 2 * size
    return best


def plan(n: int, batch_size: int | None, device: torch.device, find: Callable[[], int] = lambda: GPU_BATCH) -> Plan:
    """How to share `n` images among threads.

    On a CPU, each worker has its own forward pass and, on up to 16 cores, one core: no pass waits at a barrier
    for a core that is decoding, which is where a pass on all cores loses half of its time beside busy neighbours. The
    batch is what all workers hold together. The number of cores is torch's (``torch.set_num_threads``, or
    ``OMP_NUM_THREADS``). On another device one pass runs at a time, and the workers only prepare batches, of the size
    that `find` gives if there are many images.
    """
    cores = max(1, torch.get_num_threads())
    workers = min(cores, MAX_WORKERS)
    if device.type != "cpu":
        return Plan(batch_size or (find() if n > 32 * GPU_BATCH else GPU_BATCH), workers, 1)
    chunk = max(1, (batch_size or CPU_CHUNK * workers) // workers)
    chunk = min(chunk, max(1, -(-n // workers)))  # few images: a share for each worker
    workers = max(1, min(workers, -(-n // chunk), batch_size or workers))
    return Plan(chunk, workers, max(1, cores // workers))


def versions(*packages: str) -> dict[str, str]:
    """Installed version of each package, without a build's suffix such as torch's "+cpu", or "unknown"."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package).split("+")[0]
        except PackageNotFoundError:  # run from a source tree
            found[package] = "unknown"
    return found
