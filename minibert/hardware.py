"""What to compute on, and with how many bits."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Linux's names for processors that multiply bfloat16 natively: AVX-512, AMX, Arm. Others emulate it, slowly.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` -> cuda, else mps, else cpu; another name -> that device.

    Raises ValueError when a device is asked for that is not here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in here.items() if there))
    if not here.get(name.split(":")[0], False):
        available = ", ".join(device for device, there in here.items() if there)
        raise ValueError(f"device {name!r} is not available, here there is {available}")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`fp32`, `bf16` or `fp16` -> that dtype; `auto` -> the fastest that `device` multiplies natively and safely.

    auto: on CUDA bf16 from compute capability 8.0 on, fp16 before; on a CPU bf16 with AVX-512 BF16, AMX or
    Arm's BF16, else fp32; fp32 elsewhere.
    """
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cuda":
        # torch.cuda.is_bf16_supported() counts emulation too
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "cpu" and _cpu_flags() & BF16_FLAGS:
        return torch.bfloat16
    return torch.float32


def keep_freed_memory() -> bool:
    """Let the C allocator keep what is freed, instead of handing big blocks back and faulting them in again.

    A training step frees and takes the same hundreds of megabytes; on a CPU the page faults cost up to half
    of its time. Process-wide and one-way. Returns whether it took effect (glibc only).
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}


def store_frozen_as(dtype: torch.dtype, model: torch.nn.Module) -> None:
    """Keep frozen weights in the dtype they are multiplied in: half the memory, and no cast at every step."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def explain_out_of_memory(what: str, advice: str) -> Iterator[None]:
    """Turn PyTorch's error about memory, on any device, into a ValueError that says on `what`, and what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ValueError(f"out of memory on {what}: {advice}") from error
