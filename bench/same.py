"""Do the fast paths change what is learned? The losses of the first steps, fast and plain, side by side.

    python bench/same.py --steps 200                 about 7 minutes on 2 cores

The same windows in the same order from the same start, three times: with train.py's own steps; with every fast path
replaced by the plain formula (autograd's LoRA, the fused attention, frozen weights as PyTorch multiplies them, no
padding to multiples, one pass per step); and plain with the windows of each batch in reverse order, which adds up the
same numbers in another order and so shows the noise of bfloat16.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

import lora
import minirun
import squad
import train
from bench.sides import load_windows, our_run
from minibert.model import Layer
from minirun.packed import PackedLinear


class PlainLoRA(nn.Module):
    """h = W x + b + B (sA) x, its gradients left to autograd; shares the parameters of a LoRALinear."""

    def __init__(self, layer: lora.LoRALinear):
        super().__init__()
        self.base, self.scale, self.lora_A, self.lora_B = layer.base, layer.scale, layer.lora_A, layer.lora_B

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.scale * self.lora_A), self.lora_B)


class PlainLayer(Layer):
    """An encoder layer with the fused attention, without dropout."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self._split_heads(project(x)) for project in (self.query, self.key, self.value))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.attention_output(a))
        return self.output_norm(x + self.output(self.activation(self.intermediate(x))))


def make_plain(model: nn.Module) -> None:
    """Replace the fast paths of this model, which is trained with LoRA, by the plain formulas."""
    for name, layer in list(lora.lora_layers(model)):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, PlainLoRA(layer))
    for layer in model.bert.layers:
        layer.__class__ = PlainLayer
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            layer.__class__ = nn.Linear


def plain_step(run: train.Run, window_ids: np.ndarray, optimizer, lr: float) -> float:
    """train.training_step in one pass, without a scaler."""
    batch = squad.collate(run.train.windows, window_ids, multiple=1)
    with minirun.autocast(run.device, run.dtype):
        logits = run.model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    loss = squad.span_loss(*logits, *batch.labels, run.options.null_weight)
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = lr
    nn.utils.clip_grad_norm_(run.model.parameters(), run.options.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def losses(data: squad.Dataset, options: train.Options, steps: int, name: str) -> np.ndarray:
    """The losses of the first steps. name: `fast`, `plain` or `plain, reversed`."""
    run = our_run(data, options, torch.device("cpu"))
    if name != "fast":
        make_plain(run.model)
    optimizer, found = minirun.make_optimizer(run.model, options.weight_decay), []
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    batches = squad.training_batches(data.windows.lengths, options.batch_size, options.seed, 0)[:steps]
    for step, ids in enumerate(tqdm(batches, desc=name)):
        lr = options.learning_rate * minirun.schedule(step, steps, options.warmup)
        if name == "fast":
            found.append(float(train.training_step(run, run.model, ids, optimizer, scaler, lr)[0]))
        else:
            found.append(plain_step(run, ids[::-1] if name.endswith("reversed") else ids, optimizer, lr))
    return np.array(found)


def default_options() -> train.Options:
    return train.Options(precision="bf16").resolved()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    data, options = load_windows(), default_options()
    found = {name: losses(data, options, steps, name) for name in ("fast", "plain", "plain, reversed")}
    print("| difference of the loss | mean | largest | mean of the last tenth |\n| --- | --- | --- | --- |")
    for one, other in (("fast", "plain"), ("plain", "plain, reversed")):
        d = np.abs(found[one] - found[other])
        print(f"| {one} and {other} | {d.mean():.4f} | {d.max():.4f} | {d[-len(d) // 10 :].mean():.4f} |")
    print("mean loss of the last tenth: " + ", ".join(f"{x[-len(x) // 10 :].mean():.4f}" for x in found.values()))


if __name__ == "__main__":
    main()
