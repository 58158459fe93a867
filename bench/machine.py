"""What a figure was measured on: processor, versions, and the matrix speed at that time."""

import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from minirun import choose_precision, prepare_frozen

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


def kind_of_machine(device: torch.device) -> str:
    """`cuda`, or `amx`, `avx512-bf16` or `avx2` (or less) with the processor's family and model."""
    if device.type == "cuda":
        return "cuda"
    kinds = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16"}
    kind = next((kind for flag, kind in kinds.items() if flag in processor()), "avx2")
    return "-".join([kind, *_from_cpuinfo("cpu family", "model")])


def processor() -> str:
    """Its name, family and model, which tell generations of one name apart, and its instructions for bf16."""
    known = _from_cpuinfo("model name", "cpu family", "model")
    flags = " ".join(_from_cpuinfo("flags")).split()
    bf16 = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    return f"{' '.join(known) or platform.processor()} ({', '.join(bf16) or 'no bf16 instructions'})"


def _from_cpuinfo(*names: str) -> list[str]:
    """What Linux says about the first processor under these names; [] elsewhere."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().partition("\n\n")[0].splitlines() if file.exists() else []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return [said[name] for name in names if name in said]


def resolved(precision: str, device: torch.device) -> str:
    """auto -> the precision that both sides use on this machine."""
    if precision != "auto":
        return precision
    return "bf16" if choose_precision("auto", device) == torch.bfloat16 else "fp32"


def matrix_peak(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of the fastest of SHAPES (on a GPU of larger ones too), each the median of 9 products."""
    shapes = [*SHAPES, (8192, 8192, 8192)] if device.type == "cuda" else SHAPES
    return max(matrix_speed(*shape, device, dtype) for shape in shapes)


def matrix_speed(rows: int, inputs: int, outputs: int, device: torch.device, dtype: torch.dtype) -> float:
    x = torch.randn(rows, inputs, device=device).to(dtype)
    layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False)).to(device).requires_grad_(False)
    prepare_frozen(layer, dtype)  # as our models' layers are, so that the peak is that of the faster products
    times = []
    for _ in range(10):
        start = time.perf_counter()
        layer(x)
        wait(device)
        times.append(time.perf_counter() - start)
    return 2 * rows * inputs * outputs / statistics.median(times[1:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
