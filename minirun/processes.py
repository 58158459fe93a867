"""Several processes that train one model: data parallelism with torch.distributed, started by torchrun.

Each process holds the whole model and takes a share of every step's windows. Gradients are averaged before the
optimizer steps, so all copies stay equal. nccl carries them between GPUs, gloo between CPUs.
"""

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as seen by one of them: number `rank`, counted from 0, of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to call in a training step: its backward pass averages the gradients over the processes.

        Frozen weights have no gradient, so with LoRA 0.3 to 2% of the model is sent. One process: the model itself.
        """
        if self.size == 1:
            return model
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        # Its reducer holds the group too. Were that the last reference, Python would free the group with its lock held
        # and wait for gloo's threads, which may wait for the lock to free what they sent: the process would never end.
        # Python frees attributes in the order they were set, and releases its lock while it frees a group.
        wrapped.freed_after_reducer = wrapped.process_group
        return wrapped

    def gradient_sync(self, model: nn.Module, now: bool) -> contextlib.AbstractContextManager:
        """Context of one forward and backward pass. now: average gradients in it, as the last pass of a step must."""
        return contextlib.nullcontext() if now or self.size == 1 else model.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values`, of the same shape everywhere, over all processes, to every process."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up each parameter's gradient over all processes, where no `wrap`ped model has averaged them.

        `wrap` overlaps that with the backward pass, but sees only what the model's own forward() computes.
        """
        for parameter in parameters:
            self.sum(parameter.grad)

    def all_reduce_max(self, number: int, device: torch.device) -> int:
        """The largest `number` of all processes, to every process."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def gather_rows(self, arrays: Sequence[np.ndarray], shards: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Put together arrays of which each process computed the rows numbered shards[rank].

        Returns the whole arrays, rows in the order of their numbers, to the main process; None to the others.
        """
        parts = [tuple(arrays)] * self.size
        if self.size > 1:
            dist.gather_object(parts[0], parts if self.is_main else None)
        if not self.is_main:
            return None
        order = np.argsort(np.concatenate(shards))
        return [np.concatenate(pieces)[order] for pieces in zip(*parts, strict=True)]

    def wait(self) -> None:
        """Return once every process has called this."""
        if self.size > 1:
            dist.barrier()


def _local_rank() -> int:
    """This process's number among those of its machine."""
    if "LOCAL_RANK" not in os.environ:
        raise ValueError("WORLD_SIZE is set and LOCAL_RANK is not: start the processes with torchrun")
    return int(os.environ["LOCAL_RANK"])


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Connect to the other processes that torchrun started, if it started any.

    Yields the Processes and this process's device: with CUDA, each process of a machine takes a GPU of its own.
    Raises ValueError when there are fewer GPUs than processes, or the launcher does not number them.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Processes(), device
        return
    backend = "gloo"
    if device.type == "cuda":
        number, available = _local_rank(), torch.cuda.device_count()
        if number >= available:
            raise ValueError(f"process {number} of this machine has no GPU: start at most {available} processes here")
        device, backend = torch.device("cuda", number), "nccl"
        torch.cuda.set_device(device)
    # This module's functions hold the group of the moment it is imported in as a default. The optimizer imports it, and
    # a group of theirs would outlive destroy_process_group with gloo's threads, which can abort a process that ends.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group(backend, device_id=device if backend == "nccl" else None)
    try:
        yield Processes(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()
