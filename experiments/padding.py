"""Static, dynamic and like-length batches: the same windows and the same step, batched in three ways."""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import lora
import minibert
import minirun
import squad
from bench.worker import Worker
from experiments import common

WAYS = {
    "static": "random batches, all padded to the longest a window may be",
    "dynamic": "random batches, padded to their own longest window",
    "like lengths": "batches of windows of like length, as train.py makes them",
}


def main(argv: Sequence[str]) -> int:
    parser = common.parser("padding", "Training speed, waste and memory of three ways to batch windows.", runs=False)
    parser.add_argument("--batch-size", type=common.positive, default=16, metavar="N", help="(16)")
    parser.add_argument(
        "--passes", type=common.positive, default=3, metavar="N", help="of all batches, each way in turn (3)"
    )
    options = parser.parse_args(argv)
    common.prepare_data(options, may_change=("batch_size", "passes"))
    file = str(options.output / "fit.json")
    workers = {way: Worker(prepare, way, file, options.batch_size) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in tqdm(range(options.passes), desc="padding", unit="pass"):
        for way, worker in workers.items():
            times[way].append(worker.ask("pass")[0])
    rows = []
    for way, worker in workers.items():
        share, windows, memory = worker.ask("figures")
        seconds = float(np.median(times[way]))
        row = {"way": way, "meaning": WAYS[way], "waste": share, "seconds": times[way], "peak_memory": memory}
        rows.append({**row, "windows": windows, "windows_per_second": windows / seconds})
        worker.close()
    notes = (
        f"{rows[0]['windows']:,} windows of {Path(options.train).name}, LoRA rank 8, batches of {options.batch_size}, "
        f"each way in a process of its own, in turn, the median of {options.passes} passes. Waste: the share of all "
        "positions that is padding."
    )
    common.report(options.output, "Three ways to batch", rows, COLUMNS, notes)
    common.draw(options.output / "padding.png", lambda axes: plot(axes, rows), size=(6, 2.5))
    return 0


def prepare(way: str, path: str, batch_size: int) -> Callable[[str], tuple]:
    """For a Worker: `pass` -> (seconds,) of training on all windows once; `figures` -> waste, windows, peak bytes."""
    minirun.keep_freed_memory()
    torch.manual_seed(0)
    data = squad.load_dataset(path, minibert.load_tokenizer("minilm"))
    model = minibert.load_pretrained("minilm", dropout=0.0, missing_head="allow")
    lora.add_lora(model, 8, 16, head="qa_outputs")
    dtype = minirun.choose_precision("auto", torch.device("cpu"))
    minirun.store_frozen_as(dtype, model.train())
    optimizer = minirun.make_optimizer(model, 0.01)
    lengths = data.windows.lengths
    batches = make_batches(way, lengths, batch_size)
    longest = data.windows.max_length if way == "static" else 0
    step(model, optimizer, dtype, data, max(batches, key=lambda ids: lengths[ids].max()), longest)  # takes all memory

    def answer(asked: str) -> tuple:
        if asked == "figures":
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return waste(data.windows, batches, longest), len(data.windows), memory
        began = time.perf_counter()
        for window_ids in batches:
            step(model, optimizer, dtype, data, window_ids, longest)
        return (time.perf_counter() - began,)

    return answer


def make_batches(way: str, lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Every window once, in batches of `batch_size`, in one of WAYS."""
    if way == "like lengths":
        return squad.training_batches(lengths, batch_size, seed=0, epoch=0)
    order = np.random.default_rng(0).permutation(len(lengths))
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def waste(windows: squad.Windows, batches: Sequence[np.ndarray], longest: int) -> float:
    """The share of all positions that is padding. longest: length that all windows are padded to; 0: by batch."""
    if not longest:
        return squad.padding_waste(windows, list(batches))
    return 1 - int(windows.lengths.sum()) / (longest * len(windows))


def padded(batch: squad.Batch, length: int) -> squad.Batch:
    """The same batch, padded to T = `length` if it is shorter. The id of the padding does not matter under the mask."""
    more = max(0, length - batch.input_ids.shape[1])
    fields = {k: torch.nn.functional.pad(t, (0, more)) for k, t in batch._asdict().items() if t.dim() == 2}
    return batch._replace(**fields)


def step(model, optimizer, dtype: torch.dtype, data: squad.Dataset, window_ids: np.ndarray, longest: int) -> None:
    batch = padded(squad.collate(data.windows, window_ids), longest)
    with minirun.autocast(torch.device("cpu"), dtype):
        logits = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    squad.span_loss(*logits, batch.start_positions, batch.end_positions, batch.span_mask).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


COLUMNS = {
    "batches": lambda r: r["way"],
    "": lambda r: r["meaning"],
    "waste": lambda r: f"{r['waste']:.1%}",
    "windows/s": lambda r: f"{r['windows_per_second']:.1f}",
    "passes, s": lambda r: ", ".join(f"{s:.1f}" for s in r["seconds"]),
    "peak GiB": lambda r: f"{r['peak_memory'] / 2**30:.2f}",
}


def plot(axes, rows: list[dict]) -> None:
    bars = axes.barh([row["way"] for row in rows], [row["windows_per_second"] for row in rows], color="tab:blue")
    axes.bar_label(
        bars, [f"{row['waste']:.0%} padding, {row['peak_memory'] / 2**30:.2f} GiB" for row in rows], padding=4
    )
    axes.set(xlabel="windows a second", xlim=(0, 1.6 * max(row["windows_per_second"] for row in rows)))
    axes.invert_yaxis()
