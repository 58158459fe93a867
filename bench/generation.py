"""The row of bench/run.py on writing: tokens a second of minigpt.generate and of transformers' generate.

Both write greedily, with a cache of keys and values, behind the same random prompts; neither may stop early. What is
compared is the time of a token, which depends on shapes only.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

import minigpt
from bench.table import row
from minirun import prepare_frozen
from minirun.hardware import PRECISIONS

SHAPES = {"small (4 layers, 256)": (8192, 256, 4, 4), "GPT-2 (12 layers, 768)": (50257, 768, 12, 12)}
PROMPT, WRITTEN, GOAL = 150, 64, 1.5  # tokens, tokens, times theirs


def generation(quick: bool, precision: str) -> list[dict]:
    """One row per shape and batch size, in float32 and, if that is the precision, in bfloat16."""
    dtypes = list(dict.fromkeys((torch.float32, PRECISIONS[precision])))
    rows = []
    for name, shape in SHAPES.items():
        for dtype in dtypes:
            for batch in (1, 16):
                ours, theirs = speeds(shape, dtype, batch, rounds=1 if quick else 3)
                label = f"writing, {name}, random weights, {str(dtype)[6:]}, {batch} at once, against transformers"
                value = f"{ours / theirs:.1f} x ({ours:.0f} against {theirs:.0f} tokens/s)"
                rows.append(row(label, f"{GOAL} x", value, ours / theirs >= GOAL, ours=ours, theirs=theirs))
    return rows


def speeds(shape: tuple[int, int, int, int], dtype: torch.dtype, batch: int, rounds: int) -> tuple[float, float]:
    """Tokens a second of ours and theirs, in turn, the median of the rounds; raises ValueError if they differ."""
    ids = torch.randint(shape[0], (batch, PROMPT), generator=torch.Generator().manual_seed(batch))
    sides = both_sides(shape, dtype, ids, torch.ones_like(ids))
    first = [write() for write in sides]  # a warm-up
    if dtype == torch.float32 and not torch.equal(*first):
        raise ValueError("the two sides wrote different tokens")
    times: list[list[float]] = [[], []]
    for _ in tqdm(range(rounds), desc=f"writing, {batch} at once", leave=False):
        for seconds, write in zip(times, sides, strict=True):
            began = time.perf_counter()
            write()
            seconds.append(time.perf_counter() - began)
    ours, theirs = (batch * WRITTEN / statistics.median(seconds) for seconds in times)
    return ours, theirs


def both_sides(
    shape: tuple[int, int, int, int], dtype: torch.dtype, ids: torch.Tensor, mask: torch.Tensor
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """Two functions that write behind the prompts with the same random weights: ours, and transformers'."""
    import transformers

    vocab_size, n_embd, n_layer, n_head = shape
    sizes = {"n_embd": n_embd, "n_layer": n_layer, "n_head": n_head, "n_positions": 512, "eos_token_id": 0}
    ours = minigpt.GPT2LMHead(minigpt.GPT2Config(vocab_size=vocab_size, **sizes)).eval()
    with tempfile.TemporaryDirectory() as folder:
        minigpt.save_pretrained(ours, Path(folder))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs = theirs.to(dtype)
    prepare_frozen(ours.requires_grad_(False), dtype)

    def write_theirs() -> torch.Tensor:
        settings = {"do_sample": False, "max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "pad_token_id": 0}
        with torch.no_grad():
            return theirs.generate(ids, attention_mask=mask, eos_token_id=None, **settings)[:, PROMPT:]

    return lambda: minigpt.generate(ours, ids, mask, WRITTEN, eos_id=-1), write_theirs
