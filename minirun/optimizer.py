"""The optimizer, AdamW with a rate of its own for new layers, and the schedule of its rate."""

import collections

import torch


def make_optimizer(
    model: torch.nn.Module, weight_decay: float, head: str = "", head_rate: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over what trains; matrices decay, biases and norms do not (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Each parameter group has a factor `times`, by which whoever sets its learning rate multiplies the rate of the step.

    Args: head: the name of a layer that starts from random weights; its `times` is head_rate, that of all others 1.
    """
    groups = collections.defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_head = bool(head) and name.startswith(f"{head}.")
            groups[head_rate if is_head else 1.0, weight_decay if parameter.dim() >= 2 else 0.0].append(parameter)
    parts = [{"params": found, "times": times, "weight_decay": decay} for (times, decay), found in groups.items()]
    # The mean of the squared gradients forgets faster than with the usual 0.999, as in RoBERTa (Liu et al. 2019).
    return torch.optim.AdamW(parts, betas=(0.9, 0.98))


def schedule(step: int, total: int, warmup: float) -> float:
    """The factor of the learning rate at a step, from 0: rises linearly for warmup x total steps, then falls to 0."""
    rising = warmup * total
    return min((step + 1) / (rising + 1), (total - step) / (total - rising))
