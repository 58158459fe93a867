"""Dropout (Srivastava et al. 2014) whose random numbers are cheap on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def make_dropout(p: float) -> nn.Module:
    """A layer that drops the share p of its input while training; for p = 0 one that does nothing."""
    return Dropout(p) if p else nn.Identity()


class Dropout(nn.Module):
    """`dropout` while training, the identity otherwise. p: the share of values set to zero."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, p: float) -> Tensor:
    """Set each value of x to zero with probability p and divide the others by 1 - p. x of any shape, 0 <= p < 1.

    F.dropout draws 32 random bits per value, on one thread: on a CPU that takes most of a training step. There,
    `byte_dropout` draws 8 bits, which rounds p to a multiple of 1/256.
    """
    if p == 0:
        return x
    if x.device.type == "cpu":
        return byte_dropout(x, min(255, max(1, round(256 * p))))
    return F.dropout(x, p)


def byte_dropout(x: Tensor, dropped: int) -> Tensor:
    """`dropout` with p = dropped / 256 exactly; one 64-bit draw decides on eight values. 1 <= dropped <= 255."""
    return _ByteDropout.apply(x, dropped)


class _ByteDropout(torch.autograd.Function):
    """y = s m x and dx = s m dy, with s = 1 / (1 - p) and m = 1 where a random byte is at least `dropped`, else 0."""

    @staticmethod
    def forward(ctx, x, dropped):
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        random_bytes = draws.view(torch.int8)[: x.numel()].view(x.shape)
        ctx.save_for_backward(random_bytes)  # one byte per value; a mask in x's dtype has two or four
        ctx.dropped = dropped
        return _masked(x, random_bytes, dropped)

    @staticmethod
    def backward(ctx, dy):
        (random_bytes,) = ctx.saved_tensors
        return _masked(dy, random_bytes, ctx.dropped), None


def _masked(x: Tensor, random_bytes: Tensor, dropped: int) -> Tensor:
    # int8 counts from -128. The mask is written in x's dtype: converting a bool mask at each use is ten times slower.
    m = torch.ge(random_bytes, dropped - 128, out=torch.empty_like(random_bytes, dtype=x.dtype))
    s = 256 / (256 - dropped)
    return torch.addcmul(m.new_zeros(()), x, m, value=s, out=m)
