"""Do the fast paths change what is learned? The losses of the first steps, fast and plain, side by side.

    python bench/same.py --steps 200                 about 7 minutes on 2 cores

The same windows in the same order from the same start: as train.py takes its steps; then with every fast path
replaced by the plain formula (autograd's own LoRA, the fused attention, no padding to multiples, one pass a step);
then plain again with the windows of each batch in reverse, the same sums in another order: bfloat16's own noise.
"""

import argparse
import logging
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

import minibert
import squad
import train
from bench.sides import load_windows
from options import parse_options


def plain_lora(x, W, b, sA, B):
    return F.linear(x, W, b) + F.linear(F.linear(x, sA.to(x.dtype)), B.to(x.dtype))


def plain_attention(q, k, v, mask, p):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)


def losses(data: squad.Dataset, steps: int, name: str, backwards: bool = False) -> np.ndarray:
    options = parse_options(["--precision", "bf16", "--output", tempfile.gettempdir()], "").options
    torch.manual_seed(options.seed)
    device, dtype = torch.device("cpu"), torch.bfloat16
    model = train.prepare_model(options).train()
    minibert.store_frozen_as(dtype, model)
    run = train.Run(options, Path(options.output), model, device, dtype, data, None, minibert.Processes())
    optimizer = minibert.make_optimizer(model, options.weight_decay)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    batches = squad.training_batches(data.windows.lengths, options.batch_size, options.seed, 0)[:steps]
    found = []
    for step, rows in enumerate(tqdm(batches, desc=name)):
        rate = options.learning_rate * minibert.schedule(step, steps, options.warmup)
        loss, _ = train.training_step(run, model, data, rows[::-1] if backwards else rows, optimizer, scaler, rate)
        found.append(float(loss))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    logging.getLogger("minibert").setLevel(logging.ERROR)
    minibert.keep_freed_memory()
    data = load_windows()
    fast = losses(data, options.steps, "fast")
    with ExitStack() as replaced:
        replaced.enter_context(patch("lora.linear.lora_linear", plain_lora))
        replaced.enter_context(patch("minibert.model.attention", plain_attention))
        replaced.enter_context(patch("squad.batches.MULTIPLE", 1))
        replaced.enter_context(patch("squad.forward_passes", lambda lengths, *_: [np.arange(len(lengths))]))
        plain = losses(data, options.steps, "plain")
        noisy = losses(data, options.steps, "plain, reversed", backwards=True)
    print("| difference of the loss | mean | largest | mean of the last tenth |\n| --- | --- | --- | --- |")
    for name, a, b in (("fast and plain", fast, plain), ("plain and plain, reversed", plain, noisy)):
        d = np.abs(a - b)
        print(f"| {name} | {d.mean():.4f} | {d.max():.4f} | {d[-len(d) // 10 :].mean():.4f} |")
    print("mean loss of the last tenth: " + ", ".join(f"{x[-len(x) // 10 :].mean():.4f}" for x in (fast, plain, noisy)))


if __name__ == "__main__":
    main()
