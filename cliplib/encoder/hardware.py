"""What the machine offers: device, number format, cores to share among threads, and versions of packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from cliplib.errors import CliplibError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CPU_CHUNK = 16
"""Images per forward pass on a CPU: with more, the activations leave the core's cache."""

GPU_BATCH = 128
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
        torch.empty(0, device=chosen)
    except Exception:  # RuntimeError, AssertionError, NotImplementedError: each backend has its own
        raise CliplibError(f"The device {device!r} is unknown or not available here: use 'auto' or 'cpu'.") from None
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> str:
    """Name of a number format; "auto" is bfloat16 where `device` multiplies it natively, else float32.

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
    """Whether matrix products in bfloat16 are native, not emulated by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # older torch has this one only
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


def plan(n: int, batch_size: int | None, device: torch.device) -> Plan:
    """How to share `n` images among threads.

    On a CPU, each worker has its own forward pass and, on up to 16 cores, one core: no pass waits at a barrier
    for a core that is decoding, which is where a pass on all cores loses half of its time beside busy neighbours. The
    batch is what all workers hold together. The number of cores is torch's (``torch.set_num_threads``, or
    ``OMP_NUM_THREADS``). On another device one pass runs at a time, and the workers only prepare batches.
    """
    cores = max(1, torch.get_num_threads())
    workers = min(cores, MAX_WORKERS)
    if device.type != "cpu":
        return Plan(batch_size or GPU_BATCH, workers, 1)
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
