"""Logits -> the training loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    span_mask: Tensor,
    null_weight: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """The mean of two cross entropies, of start and end (Devlin et al. 2018, section 4.2, has their sum); a scalar.

    Each is over the positions where an answer may be: [CLS], which stands for "no answer", and the context. Position 0
    is a class like any other, so it must not be passed to `ignore_index`.

    Args:
        logits and span_mask (bool), each (B, T); positions (B,), 0 for no answer.
        null_weight: the losses of windows without an answer are multiplied by it: above 1 when the questions to come
            lack an answer more often than the training questions do.
        reduction: `none` returns the loss of each window, (B,), instead of their mean.
    Raises ValueError for another reduction than these two.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}, expected mean or none")
    start, end = (
        F.cross_entropy(logits.float().masked_fill(~span_mask, -math.inf), positions, reduction="none")
        for logits, positions in ((start_logits, start_positions), (end_logits, end_positions))
    )
    losses = (start + end) / 2 * torch.where(start_positions == 0, null_weight, 1.0)
    return losses if reduction == "none" else losses.mean()
