"""Device, precision and memory."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Linux's names for processors that multiply bfloat16 natively (AVX-512, AMX, Arm). Others emulate it, slowly.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
SMALLER_BATCHES = "lower --batch-size (raise --gradient-accumulation-steps to keep the step's size) or --max-length"


def peak_bytes(usage) -> int:
    """The most memory that a process had, of its `resource.struct_rusage`: macOS counts bytes, other systems KiB."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """`auto` -> cuda if there is one, else mps, else cpu; another name, or a device -> that device.

    Raises ValueError when the named device is not available.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there = ["cuda"] * bool(gpus) + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name == "auto":
        return torch.device(there[0])
    if str(name) not in [*there, *gpus, "cpu:0", "mps:0"]:
        raise ValueError(f"device {str(name)!r} is not available, this machine has {', '.join(gpus + there)}")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`fp32`, `bf16` or `fp16` -> that dtype; `auto` -> the fastest that `device` multiplies natively and safely.

    auto: on CUDA bf16 from compute capability 8.0 on, fp16 before that; on a CPU bf16 with AVX-512 BF16, AMX or Arm's
    BF16, else fp32; on other devices fp32. Raises ValueError for another name.
    """
    if name != "auto":
        if name not in PRECISIONS:
            raise ValueError(f"precision is {name!r}, expected auto, {', '.join(PRECISIONS)}")
        return PRECISIONS[name]
    if device.type == "cuda":
        # torch.cuda.is_bf16_supported() is also true where bf16 is emulated
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "cpu" and _cpu_flags() & BF16_FLAGS:
        return torch.bfloat16
    return torch.float32


def describe_place(device: torch.device, dtype: torch.dtype, processes: int = 1) -> str:
    """Where a run computes, for its startup table."""
    text = f"{device}, {str(dtype)[6:]}, {torch.get_num_threads()} threads"
    return text if processes == 1 else f"{text} x {processes} processes"


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Mixed precision: matrix products in dtype, trained weights in float32; nothing changes for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def fused_attention_pays(q: torch.Tensor, dropout: float) -> bool:
    """Whether PyTorch's fused attention is faster than one operation per line, for queries `q` (..., T, D).

    Always but on a CPU. There its dropout is slow, and so is its backward pass in 16 bits. With AMX it was faster in
    all else that was measured, on AMD EPYCs without it only in float32 and for more than one query a row (docs/log.md).
    """
    if q.device.type != "cpu":
        return True
    wide, trains = q.dtype.itemsize > 2, q.requires_grad
    return not dropout and ((wide or not trains) if HAS_AMX else (wide and q.size(-2) > 1))


def keep_freed_memory() -> bool:
    """Make the C allocator keep freed memory instead of returning it to the system. Returns whether it could (glibc).

    A training step frees and takes the same hundreds of megabytes again; on a CPU the page faults would cost up to half
    of its time. This holds for the whole process and cannot be undone.
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


# Looked up once: torch.compile, which traces attention, cannot trace the reading of a file.
HAS_AMX = "amx_bf16" in _cpu_flags()


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


@contextlib.contextmanager
def explain_compiler_errors() -> Iterator[None]:
    """Re-raise what torch.compile raises at the first forward pass as a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ValueError(
            f"torch.compile failed: {str(error)[:300]}; leave out --compile, or install what it needs: a C++ compiler, "
            "and Triton for a GPU"
        ) from error


@contextlib.contextmanager
def explain_out_of_memory(what: object, advice: str = SMALLER_BATCHES) -> Iterator[None]:
    """Re-raise PyTorch's out-of-memory errors as a ValueError that names `what` was computed and gives `advice`."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ValueError(f"out of memory on {what}: {advice}") from error
