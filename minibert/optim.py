"""What turns gradients into steps: AdamW over what trains, and its learning rate."""

import torch
from torch import nn


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what trains; matrices decay, biases and norms do not (Loshchilov and Hutter 2019)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups)


def schedule(step: int, total: int, warmup: float) -> float:
    """The learning rate's factor at a step, counted from 0: linear up over warmup x total steps, linear down to 0."""
    rising = warmup * total
    return min((step + 1) / (rising + 1), (total - step) / (total - rising))
