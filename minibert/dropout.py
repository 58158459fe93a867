"""Dropout (Srivastava et al. 2014) whose random numbers cost little on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """`dropout` while training, nothing else; p is the share of values set to zero."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, p: float) -> Tensor:
    """Each value of x set to zero with probability p, else divided by 1 - p. x of any shape, p in [0, 1).

    F.dropout draws a random number of 32 bits per value, on one thread: on a CPU that is most of a training step.
    There, `byte_dropout` draws 8 bits and so rounds p to a 256th.
    """
    if p == 0:
        return x
    if x.device.type == "cpu":
        return byte_dropout(x, min(255, max(1, round(256 * p))))
    return F.dropout(x, p)


def byte_dropout(x: Tensor, dropped: int) -> Tensor:
    """`dropout` with p = dropped / 256, exactly; one 64-bit draw decides on eight values. 1 <= dropped <= 255."""
    return _ByteDropout.apply(x, dropped)


class _ByteDropout(torch.autograd.Function):
    """y = s m x and dx = s m dy with s = 1 / (1 - p), m = 1 where a byte of luck is not among the lowest, else 0."""

    @staticmethod
    def forward(ctx, x, dropped):
        luck = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        luck = luck.view(torch.int8)[: x.numel()].view(x.shape)
        ctx.save_for_backward(luck)  # a byte a value is kept, not a float
        ctx.dropped = dropped
        return _masked(x, luck, dropped)

    @staticmethod
    def backward(ctx, dy):
        (luck,) = ctx.saved_tensors
        return _masked(dy, luck, ctx.dropped), None


def _masked(x: Tensor, luck: Tensor, dropped: int) -> Tensor:
    # written as x's dtype at once: a bool mask would be converted at each use, ten times slower
    m = torch.ge(luck, dropped - 128, out=torch.empty_like(luck, dtype=x.dtype))
    s = 256 / (256 - dropped)
    return torch.addcmul(m.new_zeros(()), x, m, value=s, out=m)
