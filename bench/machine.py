"""What a figure was measured on: processor, versions, and the matrix speed at that time."""

import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

# rows, in, out of the linear layers of MiniLM and of bert-base
SHAPES = [(3072, 384, 384), (3072, 384, 1536), (3072, 768, 768), (3072, 768, 3072), (6144, 384, 1536)]


def describe(device: torch.device) -> dict:
    """Names and versions."""
    packages = {}
    for name in ("torch", "transformers", "peft", "tokenizers", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    about = {"processor": processor(), "threads": torch.get_num_threads(), "system": platform.platform(terse=True)}
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return about | {"python": platform.python_version(), **packages}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    bf16 = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    return f"{models[0] if models else platform.processor()} ({', '.join(bf16) or 'no bf16 instructions'})"


def matrix_peak(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of the fastest of SHAPES (on a GPU of larger ones too), each the median of 9 products."""
    shapes = [*SHAPES, (8192, 8192, 8192)] if device.type == "cuda" else SHAPES
    return max(matrix_speed(*shape, device, dtype) for shape in shapes)


def matrix_speed(rows: int, inputs: int, outputs: int, device: torch.device, dtype: torch.dtype) -> float:
    x = torch.randn(rows, inputs, device=device).to(dtype)
    w = torch.randn(outputs, inputs, device=device).to(dtype)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        wait(device)
        times.append(time.perf_counter() - start)
    return 2 * rows * inputs * outputs / statistics.median(times[1:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
