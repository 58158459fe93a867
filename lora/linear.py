"""LoRALinear: a frozen linear layer plus a trainable low-rank update (Hu et al. 2021, arXiv 2106.09685)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Module):
    r"""h = W x + b + s B A x, with s = alpha / r (section 4.1 of the paper).

    W (out, in) and b are the wrapped layer's; A is (r, in), B is (out, r):

        x --+--------- W, b ---------+--> h
            |                        |
            +-- A --> r values -- B -+    B = 0 at the start, so the first step is the base exactly

    Args:
        base: the layer to adapt; its parameters are kept as they are, and where they are.
        rank: r, at least 1.
        alpha: the numerator of the scale s. With rsLoRA, pass alpha = alpha * sqrt(r).
        dropout: share of the update's inputs set to zero while training.

    A and B are float32 whatever the base's dtype: an update of 1e-4 is lost in a bfloat16 sum.
    Raises ValueError when rank or dropout is out of range.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank is {rank}, expected at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"LoRA dropout is {dropout}, expected in [0, 1)")
        self.base = base
        self.rank, self.alpha = rank, alpha
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        new = base.weight.new_empty
        self.lora_A = nn.Parameter(new((rank, base.in_features)).float())
        self.lora_B = nn.Parameter(new((base.out_features, rank)).float())
        # nn.Linear's own start, as loralib and PEFT have it: uniform in +-1/sqrt(in).
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        self._unmerged_weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        h = self.base(x)
        if self.merged:
            return h
        A, B, s = self.lora_A.to(h.dtype), self.lora_B.to(h.dtype), self.scale
        return h + F.linear(s * F.linear(self.dropout(x), A), B)

    @property
    def merged(self) -> bool:
        return self._unmerged_weight is not None

    def delta(self) -> Tensor:
        """s B A, (out, in), float32: what merge() adds to W."""
        return self.scale * (self.lora_B.detach() @ self.lora_A.detach())

    def merge(self) -> None:
        """Add s B A to W, so that the update costs nothing. W is kept aside for unmerge(). Merged already: no-op."""
        if self.merged:
            return
        W = self.base.weight
        self._unmerged_weight = W.detach().clone()
        W.data = (W.detach().float() + self.delta()).to(W.dtype)

    def unmerge(self) -> None:
        """Put back the W that merge() found, bit for bit. Not merged: no-op."""
        if not self.merged:
            return
        self.base.weight.data = self._unmerged_weight
        self._unmerged_weight = None
