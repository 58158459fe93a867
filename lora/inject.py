"""Put LoRA layers into a model from outside, freeze the rest, and merge or unmerge all of them at once."""

from collections.abc import Iterator, Sequence

from torch import nn

from lora.linear import LoRALinear

# What BERT's layers call their linears. The paper adapts query and value only (section 4.2); Dettmers et al.
# 2023 (QLoRA, section 4) find that every linear is needed to match full fine-tuning.
TARGETS = {
    "attention": ("query", "value"),
    "all": ("query", "key", "value", "attention_output", "intermediate", "output"),
}
HEAD = "qa_outputs"  # starts from nothing, so it trains in full beside the adapters


def add_lora(
    model: nn.Module, rank: int, alpha: float, dropout: float = 0.0, targets: str | Sequence[str] = "attention"
) -> list[str]:
    """Wrap the linears named by `targets` in LoRALinear, then freeze all but the updates and the QA head.

    Args:
        rank, alpha, dropout: as for LoRALinear.
        targets: `attention`, `all`, or names: a linear is wrapped when its dotted name is one of them or
            ends in one (`query`, `layers.0.output`).
    Returns the dotted names of what was wrapped.
    Raises ValueError for a name that matches no linear, the message lists those there are, and for a rank above
        the smaller side of one.
    """
    wanted = TARGETS.get(targets, (targets,)) if isinstance(targets, str) else tuple(targets)
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != HEAD]
    for target in wanted:
        if not any(_matches(name, target) for name in linears):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in linears})) or "none"
            raise ValueError(
                f"LoRA target {target!r} matches no linear layer; there are {there} (or give {' or '.join(TARGETS)})"
            )
    wrapped = [name for name in linears if any(_matches(name, target) for target in wanted)]
    smallest = min(min(model.get_submodule(name).weight.shape) for name in wrapped)
    if rank > smallest:
        raise ValueError(f"LoRA rank is {rank}, expected at most {smallest}, where an update is no longer low-rank")
    for name in wrapped:
        wrap(model, name, rank, alpha, dropout)
    freeze(model)
    return wrapped


def wrap(model: nn.Module, name: str, rank: int, alpha: float, dropout: float = 0.0) -> LoRALinear:
    """Replace the linear called `name` by a LoRALinear around it, and return that."""
    parent, _, child = name.rpartition(".")
    base = model.get_submodule(name)
    layer = LoRALinear(base, rank, alpha, dropout).train(base.training)
    setattr(model.get_submodule(parent), child, layer)
    return layer


def freeze(model: nn.Module) -> None:
    """Let only the LoRA matrices and the QA head train: `requires_grad` on them, off everywhere else."""
    model.requires_grad_(False)
    for _, layer in lora_layers(model):
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
    head = getattr(model, HEAD, None)
    if head is not None:
        head.requires_grad_(True)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Every LoRALinear of the model with its dotted name."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def has_moved(model: nn.Module) -> bool:
    """Whether any update is no longer what add_lora() put in: B = 0."""
    return any(bool(layer.lora_B.any()) for _, layer in lora_layers(model))


def merge(model: nn.Module) -> None:
    """Merge every LoRALinear of the model: the same outputs, at the base's cost."""
    for _, layer in lora_layers(model):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Undo merge(); the base weights come back bit for bit."""
    for _, layer in lora_layers(model):
        layer.unmerge()


def remove_lora(model: nn.Module) -> None:
    """Merge every update into its base and put the plain linear back: a model that never heard of LoRA."""
    for name, layer in list(lora_layers(model)):
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
