"""Several processes training one model: data parallelism with torch.distributed, started by torchrun.

Each process holds the whole model and takes a share of every step's windows; gradients are averaged before the
optimizer moves, so all stay the same. nccl carries them between GPUs, gloo between CPUs.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The processes of this run as one of them sees them: it is number `rank` of `size`, counted from 0."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to call in a training step: its backward averages what trains over all processes.

        Frozen weights have no gradient, so with LoRA this sends 0.3 to 2% of the model. Alone: the model itself.
        """
        if self.size == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every process's `values`, all of one shape, to every process."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def highest(self, number: int, device: torch.device) -> int:
        """The highest of every process's `number`, to every process."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def gather(self, part: Any) -> list | None:
        """Every process's `part` in the order of ranks to the first process, None to the others."""
        if self.size == 1:
            return [part]
        parts = [None] * self.size if self.first else None
        dist.gather_object(part, parts)
        return parts

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Meet the processes that torchrun started, or be alone where it started none.

    Yields the Processes, and the device of this one: on CUDA, each process of a machine has a GPU of its own.
    Raises ValueError when there are fewer GPUs than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Processes(), device
        return
    backend = "gloo"
    if device.type == "cuda":
        number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= there:
            raise ValueError(f"process {number} of this machine has no GPU: {there} there, start at most {there}")
        device, backend = torch.device("cuda", number), "nccl"
        torch.cuda.set_device(device)
    dist.init_process_group(backend, device_id=device if backend == "nccl" else None)
    try:
        yield Processes(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()
