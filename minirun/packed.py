"""Faster products with frozen weights on some CPUs: by the library oneDNN, with the weights in its own order."""

import functools
import platform
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minirun.hardware import choose_precision


def prepare_frozen(model: nn.Module, dtype: torch.dtype, pack: bool = True) -> None:
    """Store frozen weights for fast products: in `dtype`, that of the products, and packed where that pays.

    In 16 bits they take half the memory, and need no conversion in every step. pack=False: for torch.compile, which
    packs by itself.
    """
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if pack:
        pack_frozen(model)


def pack_frozen(model: nn.Module, pays: Callable[[Tensor], bool] | None = None) -> int:
    """Replace every linear layer whose weights are frozen by a PackedLinear, where that pays; returns how many.

    Args: pays: weight -> whether products with it are faster packed; `packing_pays` by default.
    """
    linears = [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear]
    frozen = [(name, layer) for name, layer in linears if not any(p.requires_grad for p in layer.parameters())]
    packed = [(name, PackedLinear(layer)) for name, layer in frozen if (pays or packing_pays)(layer.weight)]
    for name, layer in packed:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return len(packed)


def packing_pays(weight: Tensor) -> bool:
    """Whether products with this weight are faster packed.

    In float32 on AMD's processors: there the library MKL, PyTorch's choice, reaches 108 GFLOP/s on a core of an EPYC
    Zen 5, oneDNN 250; on Zen 4 oneDNN is 1.1 to 1.2 times as fast. In bfloat16 where a CPU multiplies it: oneDNN would
    otherwise reorder the weights for each product, 5% of a step (docs/log.md). The results differ by rounding only.
    """
    if not _is_packable(weight) or platform.machine() not in ("x86_64", "AMD64") or not can_pack():
        return False
    native = choose_precision("auto", weight.device) == torch.bfloat16
    return {torch.float32: _is_amd(), torch.bfloat16: native}[weight.dtype]


def can_pack() -> bool:
    """Whether this PyTorch has the operators. They are those that torch.compile uses, and not a public interface."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


@functools.cache
def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text(errors="replace")


class PackedLinear(nn.Linear):
    """h = W x + b with W and b frozen, as the given layer and with its parameters, computed by oneDNN.
    Moved to another device or dtype, or unfrozen, it computes as the given layer does.

    W is packed at its first use, and anew when it has changed (merging an adapter changes it); W', its transpose, for
    the gradient of x is packed when one is first needed. Each takes as much memory as W.
    """

    def __init__(self, layer: nn.Linear):
        nn.Module.__init__(self)  # nn.Linear's own would fill new weights
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.train(layer.training)
        self._packed: dict[bool, tuple] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the weights."""
        x = x.to(self.weight.dtype)
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return F.linear(x, self.weight, self.bias)  # unfrozen since it was packed
        if torch.is_grad_enabled() and x.requires_grad:
            return _PackedProduct.apply(x, self)
        return self._product(x)

    @property
    def products(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """rows (n, in) -> W x + b (n, out), and rows (n, out) -> W' dh (n, in); new tensors, without gradients."""
        return self._product, self._product_back

    def _product(self, x: Tensor) -> Tensor:
        if not _is_packable(self.weight):  # moved or converted since
            return F.linear(x, self.weight, self.bias)
        return _linear(x, self._pack(transposed=False), self.bias)

    def _product_back(self, dh: Tensor) -> Tensor:
        if not _is_packable(self.weight):
            return dh @ self.weight
        return _linear(dh.contiguous(), self._pack(transposed=True), None)

    def _pack(self, transposed: bool) -> Tensor:
        """W, or W', in oneDNN's order."""
        state = self.weight.data_ptr(), self.weight._version
        found = self._packed.get(transposed)
        if found is None or found[0] != state:
            W = self.weight.detach()
            packed = torch.ops.mkldnn._reorder_linear_weight(W.T.contiguous() if transposed else W, None)
            self._packed[transposed] = found = state, packed, W  # while W is kept, no other tensor gets its address
        return found[1]

    def __getstate__(self) -> dict:
        """Copies and pickles hold no packed weights, which can be neither."""
        return self.__dict__ | {"_packed": {}}


def _is_packable(weight: Tensor) -> bool:
    """Whether oneDNN can pack it, and it shows when it has changed, as a tensor made in inference mode does not."""
    kind = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    return kind and not weight.is_inference()


def _linear(x: Tensor, packed: Tensor, b: Tensor | None) -> Tensor:
    """(..., in) -> (..., out), with the weights as `_pack` returns them."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, b, "none", [], "")


class _PackedProduct(torch.autograd.Function):
    """h = W x + b; dx = W' dh. Vectors are rows."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.product_back = layer.products[1]
        return layer.products[0](x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dh):
        dx = ctx.product_back(dh.reshape(-1, dh.size(-1)))
        return dx.view(*dh.shape[:-1], dx.size(-1)), None
