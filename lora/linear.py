"""LoRALinear: a frozen linear layer plus a trainable low-rank update (Hu et al. 2021, arXiv 2106.09685)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LoRALinear(nn.Module):
    r"""h = W x + b + s B A x, with s = alpha / r (section 4.1 of the paper).

    W (out, in) and b are the wrapped layer's; A is (r, in), B is (out, r):

        x --+--------- W, b ---------+--> h
            |                        |
            +-- A --> r values - sB -+    B = 0 at the start: h is then exactly the base's

    Args:
        base: the layer to adapt; it becomes a child of this one, its parameters unchanged.
        rank: r, at least 1.
        alpha: the numerator of the scale s. With rsLoRA, pass alpha = alpha * sqrt(r).
        dropout: the share of the update's inputs that is set to zero while training.

    A and B are float32 whatever the base's dtype: bfloat16 would round away a small optimizer step.
    Raises ValueError when rank, alpha or dropout is out of range.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank is {rank}, expected at least 1")
        if not 0 < alpha < math.inf:
            raise ValueError(f"LoRA alpha is {alpha}, expected a number above 0")
        if not 0 <= dropout < 1:
            raise ValueError(f"LoRA dropout is {dropout}, expected in [0, 1)")
        self.base = base
        self.rank, self.alpha = rank, alpha
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        new = base.weight.new_empty
        self.lora_A = nn.Parameter(new((rank, base.in_features)).float())
        self.lora_B = nn.Parameter(new((base.out_features, rank)).float())
        # The initialisation of nn.Linear, as in loralib and PEFT: uniform in +-1/sqrt(in).
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        self._unmerged_weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out). Raises RuntimeError when it is to train while merged: A and B get no gradient."""
        if self.merged:
            if self.training and torch.is_grad_enabled() and self.lora_A.requires_grad:
                raise RuntimeError(
                    "a merged LoRA layer cannot train: unmerge() the model first, or put it in eval mode"
                )
            return self.base(x)
        W, b, s, A, B = self.base.weight, self.base.bias, self.scale, self.lora_A, self.lora_B
        trains = any(parameter.requires_grad for parameter in self.base.parameters())
        if trains or (self.training and self.dropout.p):  # the formula, and autograd's gradient of it
            h = self.base(x)
            return h + F.linear(F.linear(self.dropout(x), (s * A).to(h.dtype)), B.to(h.dtype))
        # The same with a gradient written by hand, which is faster; a PackedLinear brings fast products with W.
        return lora_linear(x, W, b, s * A, B, getattr(self.base, "products", None))

    @property
    def weight(self) -> Tensor:
        """W + s B A, (out, in), with gradients for A and B: for modules that read a layer's weight, not call it.

        nn.MultiheadAttention does, and nn.TransformerEncoderLayer in eval mode. Dropout of the update is left out.
        """
        W = self.base.weight
        return W if self.merged else (W + self.scale * (self.lora_B @ self.lora_A)).to(W.dtype)

    @property
    def bias(self) -> Tensor | None:
        """b, (out,), the base's own."""
        return self.base.bias

    @property
    def merged(self) -> bool:
        """Whether W has the update in it."""
        return self._unmerged_weight is not None

    def delta(self) -> Tensor:
        """s B A, (out, in), in the dtype of A and B: what merge() adds to W."""
        return self.scale * (self.lora_B.detach() @ self.lora_A.detach())

    def merge(self) -> None:
        """Add s B A to W, so that the update costs nothing; W is kept for unmerge(). Does nothing when merged."""
        if self.merged:
            return
        W = self.base.weight
        self._unmerged_weight = W.detach().clone()
        W.data = (W.detach().to(torch.promote_types(W.dtype, torch.float32)) + self.delta()).to(W.dtype)

    def unmerge(self) -> None:
        """Restore the W from before merge(), bit for bit, in the dtype and on the device that the base has now.

        Does nothing when not merged.
        """
        if not self.merged:
            return
        self.base.weight.data = self._unmerged_weight.to(self.base.weight)
        self._unmerged_weight = None


Product = Callable[[Tensor], Tensor]


def lora_linear(
    x: Tensor, W: Tensor, b: Tensor | None, sA: Tensor, B: Tensor, products: tuple[Product, Product] | None = None
) -> Tensor:
    """h = W x + b + B (sA) x with W and b frozen: no gradient is computed for them.

    Args:
        x (..., in), W (out, in), b (out,) or None, sA (r, in), B (out, r).
        products: faster ways to compute W x + b and W' dh (W' is W transposed), when the layer has them: two functions
            of a tensor with one vector per row, which return a new one. Not used when autocast asks for another dtype
            than W's.
    Returns h (..., out), in autocast's dtype when that is enabled, else in W's.

    Autograd would compute the same; this form makes fewer passes over the large (..., in) and (..., out) tensors. The
    small product B (sA x) comes first and the large one W x is added to it in place; dB is computed transposed, which
    is faster for few rows. It saves 10 to 20% of a layer's time on a CPU (docs/log.md).
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else W.dtype
    products = products if dtype == W.dtype else None
    return _LoRALinear.apply(*(None if t is None else t.to(dtype) for t in (x, W, b, sA, B)), products)


class _LoRALinear(torch.autograd.Function):
    """The forward pass and its gradients, with u = sA x and a prime for the transpose:

    h = W x + b + B u
    dx = W' dh + sA' du, where du = B' dh
    d(sA) = du x'
    dB = dh u'

    x, u and h hold one vector per row, so each product stands the other way round in the code.
    """

    @staticmethod
    def forward(ctx, x, W, b, sA, B, products):
        x_rows = x.reshape(-1, x.size(-1))
        u = x_rows @ sA.T
        if products is None:
            h = u @ B.T if b is None else torch.addmm(b, u, B.T)
            h.addmm_(x_rows, W.T)
        else:
            h = products[0](x_rows).addmm_(u, B.T)
        ctx.save_for_backward(x_rows, u, W, sA, B)
        ctx.products = products
        return h.view(*x.shape[:-1], W.size(0))

    @staticmethod
    @once_differentiable  # x and u count as constants here: a derivative of a derivative would be silently wrong
    def backward(ctx, dh):
        x, u, W, sA, B = ctx.saved_tensors
        dh_rows = dh.reshape(-1, dh.size(-1))
        du = dh_rows @ B
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (du @ sA).addmm_(dh_rows, W) if ctx.products is None else ctx.products[1](dh_rows).addmm_(du, sA)
            dx = dx.view(*dh.shape[:-1], W.size(1))
        return dx, None, None, du.T @ x, (u.T @ dh_rows).T, None
