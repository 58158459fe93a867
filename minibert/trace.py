"""Look inside a model: every intermediate tensor of one forward pass by name, and what happens if one is replaced."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.model import Bert, BertForQuestionAnswering, Layer

Change = Callable[[Tensor], Tensor]


def trace(
    model: BertForQuestionAnswering | Bert,
    input_ids: Tensor,
    token_type_ids: Tensor,
    attention_mask: Tensor,
    head_mask: Tensor | None = None,
    replace: Mapping[str, Change] | None = None,
) -> dict[str, Tensor]:
    """Run the model once and return its intermediate tensors, in the order in which they are computed.

    Names and shapes, for layer 0 (axes as in model.py, I the width of the MLP):

        embeddings                    (B, T, H)     what the first layer receives
        layers.0.input                (B, T, H)
        layers.0.query, key, value    (B, N, T, D)  one vector per head and token; with an adapter's update
        layers.0.weights              (B, N, T, T)  softmax(q k^T / sqrt(D)): row t, how much token t takes from each
        layers.0.heads                (B, N, T, D)  weights v, what each head gives on
        layers.0.attention_output     (B, T, H)     the heads together, after the linear layer
        layers.0.middle               (B, T, H)     LayerNorm(input + attention_output)
        layers.0.intermediate         (B, T, I)     the MLP before its activation
        layers.0.mlp                  (B, T, H)     the MLP's output
        layers.0.output               (B, T, H)     LayerNorm(middle + mlp); the next layer's input
        start_logits, end_logits      (B, T)        of a model with a question-answering head
        NAME.update                   as NAME, (B, T, out): what an adapter adds in the linear layer NAME, such as
                                      layers.0.query.update

    Args:
        model: in eval mode, unless dropout is wanted. Adapters may be in it, merged or not.
        head_mask: (layers, N), by which what each head gives on is multiplied: 0 switches it off, 1 changes nothing.
        replace: name -> function of that tensor, whose value is used instead and recorded.
    Gradients flow through everything but `weights` and `NAME.update`, which are computed beside the model's own way; to
    put one into it, replace it by a copy: replace={"layers.0.weights": lambda w: w.clone()}. `retain_grad()` on a
    recorded tensor keeps its gradient.
    Raises ValueError for a name that does not exist and for a head_mask of another shape. The model is left as it was,
    also after an error.
    """
    replace = replace or {}
    bert = model.bert if isinstance(model, BertForQuestionAnswering) else model
    shape = (bert.config.num_hidden_layers, bert.config.num_attention_heads)
    if head_mask is not None and head_mask.shape != shape:
        raise ValueError(f"head_mask has the shape {tuple(head_mask.shape)}, expected {shape}: layers, heads")
    recorder = Recorder(replace)
    with recorder.attached(bert, head_mask):
        found = model(input_ids, token_type_ids, attention_mask)
        if isinstance(model, BertForQuestionAnswering):
            for name, logits in zip(("start_logits", "end_logits"), found, strict=True):
                recorder.take(name, logits)
    if unknown := replace.keys() - recorder.found.keys():
        known = ", ".join(name for name in recorder.found if not name.startswith("layers.") or "layers.0." in name)
        raise ValueError(f"no tensor is called {', '.join(sorted(unknown))}; there are {known}, and so on")
    return recorder.found


class Recorder:
    """Takes tensors down by name, and changes those that it was told to. found: name -> tensor."""

    def __init__(self, replace: Mapping[str, Change]):
        self.replace = replace
        self.found: dict[str, Tensor] = {}

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """Record the tensor, or what replaces it; returns what is to be used."""
        self.found[name] = self.replace[name](tensor) if name in self.replace else tensor
        return self.found[name]

    @contextlib.contextmanager
    def attached(self, bert: Bert, head_mask: Tensor | None) -> Iterator[None]:
        """Hooks on every part of the encoder, removed at the end."""
        with contextlib.ExitStack() as stack:
            keep = lambda handle: stack.callback(handle.remove)  # noqa: E731
            for name, module in bert.named_modules():
                if hasattr(module, "delta"):  # an adapted layer, such as lora's; its own hook comes first
                    keep(module.register_forward_hook(self._update(f"{name}.update")))
            keep(bert.embeddings.register_forward_hook(self._output("embeddings")))
            for number, layer in enumerate(bert.layers):
                for handle in self._attach(layer, f"layers.{number}", None if head_mask is None else head_mask[number]):
                    keep(handle)
            yield

    def _attach(self, layer: Layer, name: str, scale: Tensor | None) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Hooks on the parts of one layer. scale: (N,) for what its heads give on."""
        masks: list[Tensor] = []  # of the keys that may be attended to, (B, 1, 1, T)

        def enter(_, args: tuple) -> tuple:
            x, mask = args
            masks[:] = [mask]
            return self.take(f"{name}.input", x), mask

        def project(part: str) -> Callable:
            return lambda module, args, x: join_heads(self.take(f"{name}.{part}", layer._split_heads(x)))

        def gather(_, args: tuple) -> tuple:
            heads = layer._split_heads(args[0])
            q, k, v = (self.found[f"{name}.{part}"] for part in ("query", "key", "value"))
            weights = self.take(f"{name}.weights", attention_weights(q, k, masks[0]))
            if f"{name}.weights" in self.replace:
                heads = weights.to(v.dtype) @ v
            heads = heads if scale is None else heads * scale.to(heads)[:, None, None]
            return (join_heads(self.take(f"{name}.heads", heads)),)

        yield layer.register_forward_pre_hook(enter)
        for part in ("query", "key", "value"):
            yield getattr(layer, part).register_forward_hook(project(part))
        yield layer.attention_output.register_forward_pre_hook(gather)
        inside = {"attention_output": "attention_output", "attention_norm": "middle", "intermediate": "intermediate"}
        for part, called in (inside | {"output": "mlp", "output_norm": "output"}).items():
            yield getattr(layer, part).register_forward_hook(self._output(f"{name}.{called}"))

    def _output(self, name: str) -> Callable:
        return lambda module, args, x: self.take(name, x)

    def _update(self, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, h: Tensor) -> Tensor:
            update = F.linear(args[0], module.delta().to(args[0].dtype))
            changed = self.take(name, update)
            return h if changed is update else h + (changed - update).to(h.dtype)

        return hook


def attention_weights(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) over the keys that the mask allows: q, k (B, N, T, D), mask (B, 1, 1, T) bool ->
    (B, N, T, T)."""
    scores = q @ k.transpose(2, 3) / math.sqrt(q.size(-1))
    return scores.masked_fill(~mask, -math.inf).softmax(-1)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, N, T, D) -> (B, T, H)
