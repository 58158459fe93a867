"""How fast this machine trains, measured before the first step, and how much it can do in a given time."""

import itertools
import statistics
import time

import torch

from minirun.hardware import autocast


def seconds_per_window(
    model: torch.nn.Module, device: torch.device, dtype: torch.dtype, shape: tuple[int, int], seconds: float = 2.0
) -> float:
    """The time of a forward and a backward pass over made-up windows, divided by their number; takes about `seconds`.

    Args: model: called as model(input_ids, token_type_ids, attention_mask), each (B, T); its weights stay as they are.
        shape: (B, T).
    """
    ids = torch.ones(shape, dtype=torch.long, device=device)
    times, started = [], time.perf_counter()
    for number in itertools.count():
        began = time.perf_counter()
        with autocast(device, dtype):
            logits = model(ids, torch.zeros_like(ids), torch.ones_like(ids))
        sum(each.float().mean() for each in logits).backward()
        found = [p.grad for p in model.parameters() if p.grad is not None]
        float(found[0].sum())  # waits for a GPU
        model.zero_grad(set_to_none=True)
        if number:  # the first pass is slow: it prepares what the others use
            times.append(time.perf_counter() - began)
        if times and time.perf_counter() - started > seconds:
            return statistics.median(times) / shape[0]


def fit_to_time(seconds_each: float, seconds: float, least: int, most: int) -> int:
    """How many items are done in `seconds`, in whole thousands, but at least `least` and at most `most`; prints it.

    Whole thousands, so that a machine's moods seldom lead to another number. Threads wait for one another in every
    operation, so one of two that shares its core with another program can make training ten times slower.
    """
    number = max(least, min(most, int(seconds / seconds_each) // 1000 * 1000))
    total = number * seconds_each
    needed = f"{total / 60:.0f} minutes" if total > 90 else f"{total:.0f} seconds"
    print(f"this machine trains on {number:,} questions in about {needed}, so it takes those", flush=True)
    if total > seconds:
        print("if other programs keep its cores busy: stop them, or set OMP_NUM_THREADS to the number of free cores")
    return number
