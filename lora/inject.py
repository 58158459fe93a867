"""Put LoRA layers into a model from outside, freeze the rest, and merge or unmerge all of them at once."""

from collections.abc import Iterator, Sequence

from torch import nn

from lora.linear import LoRALinear


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all",
    head: str | None = None,
) -> list[str]:
    """Wrap the linear layers named by `targets` in LoRALinear, then freeze all but the updates and the head.

    Args:
        rank, alpha, dropout: as for LoRALinear.
        targets: `all` linear layers but the head and one that shares an embedding's weight: Dettmers et al. 2023
            (QLoRA, section 4) found all necessary to match full fine-tuning. Or names, in a list or separated by
            commas: a layer is wrapped when its dotted name is one of them or ends in one (`query`, `layers.0.output`).
            The paper adapts query and value (section 4.2).
        head: the module that starts from random weights and so is trained in full beside the adapters, such as
            `qa_outputs`; None when there is none.
    Returns the dotted names of the wrapped layers.
    Raises ValueError when there is no linear layer, a name matches none (the message lists those there are), for a rank
    above the smaller side of a layer, for settings that LoRALinear refuses, and when the model has LoRA layers already;
    AttributeError when there is no module called `head`.
    """
    check_plain(model, head)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and not _is_inside(n, head)}
    linears = [name for name, m in linears.items() if id(m.weight) not in embeddings]
    if not any(linears):  # there is none, or only the model itself, whose name is ""
        raise ValueError(f"a {type(model).__name__} holds no linear layers to wrap; one alone is wrapped by LoRALinear")
    if not targets:
        raise ValueError(f"LoRA targets are {targets!r}, expected all, or names of linear layers")
    names = [name.strip() for name in targets.split(",")] if isinstance(targets, str) else list(targets)
    names = linears if names == ["all"] else names
    for target in names:
        if not any(_matches(name, target) for name in linears):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in linears})) or "none"
            raise ValueError(f"LoRA target {target!r} matches no linear layer; there are {there} (or give all)")
    wrapped = [name for name in linears if any(_matches(name, target) for target in names)]
    smallest, where = min((min(model.get_submodule(name).weight.shape), name) for name in wrapped)
    if rank > smallest:
        raise ValueError(f"LoRA rank is {rank}, expected at most {smallest}, the smaller side of {where}")
    for name in wrapped:
        wrap(model, name, rank, alpha, dropout)
    freeze(model, head)
    return wrapped


def check_plain(model: nn.Module, head: str | None) -> None:
    """Raise ValueError when the model has LoRA layers, AttributeError when it has no module called `head`."""
    if any(lora_layers(model)):
        raise ValueError("the model has LoRA layers already: remove_lora() first, or load the model anew")
    if head is not None:
        model.get_submodule(head)


def wrap(model: nn.Module, name: str, rank: int, alpha: float, dropout: float = 0.0) -> LoRALinear:
    """Replace the linear layer called `name` by a LoRALinear around it, and return that."""
    parent, _, child = name.rpartition(".")
    base = model.get_submodule(name)
    layer = LoRALinear(base, rank, alpha, dropout).train(base.training)
    setattr(model.get_submodule(parent), child, layer)
    return layer


def freeze(model: nn.Module, head: str | None = None) -> None:
    """Train only the LoRA matrices and the module called `head`: set `requires_grad` on them, clear it elsewhere."""
    model.requires_grad_(False)
    for _, layer in lora_layers(model):
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
    if head is not None:
        model.get_submodule(head).requires_grad_(True)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Every LoRALinear of the model, with its dotted name."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def check_moved(model: nn.Module, after: str) -> None:
    """Raise ValueError when the model has LoRA layers and every B is still zero. after: what was done with it."""
    layers = [layer for _, layer in lora_layers(model)]
    if layers and not any(bool(layer.lora_B.any()) for layer in layers):
        raise ValueError(
            f"every lora_B is still zero after {after}: either the learning rate is too low for float32, or float16's "
            "scaler skipped every step (bf16 and fp32 skip none), or no gradient reaches the adapter"
        )


def merge(model: nn.Module) -> None:
    """Merge every LoRALinear of the model: the same outputs, at the base's cost."""
    for _, layer in lora_layers(model):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Undo merge(): the base weights are restored bit for bit."""
    for _, layer in lora_layers(model):
        layer.unmerge()


def remove_lora(model: nn.Module, keep: bool = True) -> None:
    """Put the plain linear layers back, each with its update merged in; keep=False: as they were without it.

    They stay frozen: `model.requires_grad_(True)` makes them train.
    """
    for name, layer in list(lora_layers(model)):
        layer.merge() if keep else layer.unmerge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base)


def _is_inside(name: str, module: str | None) -> bool:
    """Whether the layer called `name` is the module or a part of it."""
    return module is not None and f"{name}.".startswith(f"{module}.")


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
