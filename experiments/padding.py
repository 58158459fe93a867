"""Static, dynamic and like-length batches: the same windows (with --gpt: prompts), the same step, three ways."""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import lora
import minibert
import minigpt
import minirun
import squad
from bench.worker import Worker
from experiments import common
from minihub import load_tokenizer
from minirun.hardware import peak_bytes
from squad.batches import MULTIPLE, padded_length
from squad.prompts import IGNORED, answer_loss, collate_prompts, make_prompts

WAYS = {
    "static": "random batches, all padded to the longest a window may be",
    "dynamic": "random batches, padded to their own longest window",
    "like lengths": "batches of windows of like length, as train.py makes them",
}


def main(argv: Sequence[str]) -> int:
    parser = common.parser("padding", "Training speed, waste and memory of three ways to batch.", runs=False)
    add = parser.add_argument
    add("--batch-size", type=common.positive, default=16, metavar="N", help="(16)")
    add("--passes", type=common.positive, default=3, metavar="N", help="of all batches, each way in turn (3)")
    common.add_gpt(parser)
    options = parser.parse_args(argv)
    common.prepare_data(options, may_change=("batch_size", "passes", "gpt"))
    file = str(options.output / "fit.json")
    workers = {way: Worker(prepare, way, file, options.batch_size, options.gpt) for way in WAYS}
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
    what = f"prompts for {options.gpt}" if options.gpt else "windows"
    notes = (
        f"{rows[0]['windows']:,} {what} of {Path(options.train).name}, LoRA rank 8, batches of {options.batch_size}, "
        f"each way in a process of its own, in turn, the median of {options.passes} passes. Waste: the share of all "
        "positions that is padding."
    )
    common.report(options.output, "Three ways to batch", rows, COLUMNS, notes)
    common.draw(options.output / "padding.png", lambda axes: plot(axes, rows), size=(6, 2.5))
    return 0


class Task(NamedTuple):
    """What is trained on: N sequences and a way to go through the model with some of them."""

    model: torch.nn.Module
    lengths: np.ndarray  # (N,) tokens of each
    max_length: int  # what static padding fills up to
    multiple: int  # batches are padded to the next multiple of this
    loss: Callable[[np.ndarray, int], torch.Tensor]  # (which sequences, least T of their batch) -> their mean loss


def prepare(way: str, path: str, batch_size: int, gpt: str) -> Callable[[str], tuple]:
    """For a Worker: `pass` -> (seconds,) of training on all once; `figures` -> waste, how many, peak bytes."""
    minirun.keep_freed_memory()
    torch.manual_seed(0)
    task = gpt_task(path, gpt) if gpt else bert_task(path)
    dtype = minirun.choose_precision("auto", torch.device("cpu"))
    minirun.prepare_frozen(task.model.train(), dtype)
    optimizer = minirun.make_optimizer(task.model, 0.01)
    batches = make_batches(way, task.lengths, batch_size)
    longest = task.max_length if way == "static" else 0

    def step(ids: np.ndarray) -> None:
        with minirun.autocast(torch.device("cpu"), dtype):
            loss = task.loss(ids, longest)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(max(batches, key=lambda ids: task.lengths[ids].max()))  # takes all memory

    def answer(asked: str) -> tuple:
        if asked == "figures":
            memory = peak_bytes(resource.getrusage(resource.RUSAGE_SELF))
            return waste(task, batches, longest), len(task.lengths), memory
        began = time.perf_counter()
        for ids in batches:
            step(ids)
        return (time.perf_counter() - began,)

    return answer


def bert_task(path: str) -> Task:
    data = squad.load_dataset(path, minibert.load_tokenizer("minilm"))
    model = minibert.load_pretrained("minilm", dropout=0.0, missing_head="allow")
    lora.add_lora(model, 8, 16, head="qa_outputs")

    def loss(ids: np.ndarray, least: int) -> torch.Tensor:
        batch = padded(squad.collate(data.windows, ids), least)
        logits = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
        return squad.span_loss(*logits, *batch.labels)

    return Task(model, data.windows.lengths, data.windows.max_length, MULTIPLE, loss)


def gpt_task(path: str, name: str) -> Task:
    tokenizer, model = load_tokenizer(name), minigpt.load_pretrained(name, dropout=0.0)
    eos_id, max_length = model.config.eos_token_id, min(384, model.config.n_positions)
    lora.add_lora(model, 8, 16, targets="c_attn,mlp.c_proj")
    prompts = make_prompts(squad.read_examples(path), tokenizer, max_length, eos_id)

    def loss(ids: np.ndarray, least: int) -> torch.Tensor:
        batch = padded(collate_prompts(prompts, ids, eos_id), least)
        labels = batch.labels.masked_fill(batch.attention_mask == 0, IGNORED)
        return answer_loss(model.transformer(batch.input_ids, batch.attention_mask), labels, model.lm_head)

    return Task(model, prompts.lengths, max_length, 1, loss)


def make_batches(way: str, lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Every sequence once, in batches of `batch_size`, in one of WAYS."""
    if way == "like lengths":
        return squad.training_batches(lengths, batch_size, seed=0, epoch=0)
    order = np.random.default_rng(0).permutation(len(lengths))
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def waste(task: Task, batches: Sequence[np.ndarray], longest: int) -> float:
    """The share of all positions that is padding. longest: length that all are padded to; 0: by batch."""
    widest = [longest or padded_length(int(task.lengths[ids].max()), task.max_length, task.multiple) for ids in batches]
    return 1 - int(task.lengths.sum()) / sum(len(ids) * T for ids, T in zip(batches, widest, strict=True))


def padded(batch: NamedTuple, length: int) -> NamedTuple:
    """The same batch, padded to T = `length` if it is shorter. The id of the padding does not matter under the mask."""
    more = max(0, length - batch.input_ids.shape[1])
    fields = {k: torch.nn.functional.pad(t, (0, more)) for k, t in batch._asdict().items() if t.dim() == 2}
    return batch._replace(**fields)


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
