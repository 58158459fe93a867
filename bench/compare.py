"""Training speed of train.py against transformers + PEFT, in turn in one run, on the same questions.

    pip install -e '.[bench]' && python bench/compare.py

Each side has a process of its own, so that neither profits from the other's settings; while one works the other
waits. A round is the same `--steps` x 16 windows of data/train.json.gz for every row; the figure is the median
over `--rounds`. Both sides: MiniLM, LoRA rank 8 on query and value, AdamW, clipping, windows of at most 384.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import minibert
import squad
import train

BATCH = 16
# name -> (side, settings)
SETUPS = {
    "run_qa's default": ("theirs", {"precision": "fp32", "pad_to": 384, "dropout": 0.1}),
    "theirs, bf16, dynamic padding, dropout 0.1": ("theirs", {"precision": "bf16", "pad_to": 0, "dropout": 0.1}),
    "theirs, bf16, dynamic padding, no dropout": ("theirs", {"precision": "bf16", "pad_to": 0, "dropout": 0.0}),
    "ours, default recipe": ("ours", {"precision": "auto", "like_lengths": True}),
    "ours, bf16, no dropout": ("ours", {"precision": "bf16", "like_lengths": True}),
    "ours, bf16, no dropout, their batches": ("ours", {"precision": "bf16", "like_lengths": False}),
}
# label, ours, theirs, the goal set for their ratio
ROWS = [
    ("ours against run_qa's default (fp32, padded to 384, dropout 0.1)", "ours, default recipe", "run_qa's default", 8),
    (
        "ours against bf16, dynamic padding, dropout 0.1",
        "ours, default recipe",
        "theirs, bf16, dynamic padding, dropout 0.1",
        5,
    ),
    (
        "like for like: bf16, dynamic padding, dropout off on both sides",
        "ours, bf16, no dropout",
        "theirs, bf16, dynamic padding, no dropout",
        2.5,
    ),
    (
        "the same, and the very same batches (no sorting by length)",
        "ours, bf16, no dropout, their batches",
        "theirs, bf16, dynamic padding, no dropout",
        None,
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps per round")
    parser.add_argument("--json", help="write the figures here too")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for side in ("ours", "theirs"):
        pipes[side], end = context.Pipe()
        context.Process(target=work, args=(side, end), daemon=True).start()
        end.close()  # so that the worker sees the end of the pipe when this process is gone
    total = pipes["ours"].recv()  # windows there are; also: ready
    pipes["theirs"].recv()
    print(describe_machine(), flush=True)
    speeds: dict[str, list[float]] = {name: [] for name in SETUPS}
    for number in range(options.rounds + 1):
        generator = torch.Generator().manual_seed(number)
        rows = torch.randperm(total, generator=generator)[: options.steps * BATCH].tolist()
        for name, (side, settings) in SETUPS.items():
            pipes[side].send((name, settings, rows))
            seconds = pipes[side].recv()
            if number:  # round 0 warms up
                speeds[name].append(len(rows) / seconds)
                print(f"round {number}  {name:45} {speeds[name][-1]:6.1f} q/s", flush=True)
    report(speeds, options.json)


def report(speeds: dict[str, list[float]], path: str | None) -> None:
    """Print the table, and write it as JSON."""
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(
        "\n| training, questions per second, median | theirs | ours | ratio | goal |\n| --- | --- | --- | --- | --- |"
    )
    for label, ours, theirs, goal in ROWS:
        ratio = medians[ours] / medians[theirs]
        print(f"| {label} | {medians[theirs]:.1f} | {medians[ours]:.1f} | {ratio:.1f} | {goal or '-'} |")
    if path:
        Path(path).write_text(json.dumps({"machine": describe_machine(), "speeds": speeds}, indent=2) + "\n")


def describe_machine() -> str:
    """Processor, threads, versions, and the matrix speed that this machine reaches right now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    peaks = ", ".join(f"{name} {gemm_speed(dtype):.0f}" for name, dtype in minibert.hardware.PRECISIONS.items())
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}; GFLOP/s of 6144x384x1536: {peaks}"


def gemm_speed(dtype: torch.dtype) -> float:
    """Median GFLOP/s of F.linear on 6144 rows, 384 -> 1536."""
    x, w = torch.randn(6144, 384).to(dtype), torch.randn(1536, 384).to(dtype)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - start)
    return 2 * 6144 * 384 * 1536 / statistics.median(times) / 1e9


# --------------------------------------------------------------------------------------- the two sides


def work(side: str, pipe) -> None:
    """A side's process: build each setup when it is first asked for, time steps on the rows asked for."""
    tokenizer = minibert.load_tokenizer("minilm")
    examples = squad.read_examples(train.DATA / "train.json.gz")
    data = squad.Dataset(examples, squad.make_windows(examples, tokenizer))
    build = {"ours": build_ours, "theirs": build_theirs}[side]
    setups = {}
    pipe.send(len(data.windows))
    while True:
        try:
            name, settings, rows = pipe.recv()
        except EOFError:  # the other end is done
            return
        if name not in setups:
            setups[name] = build(data, **settings)
            setups[name](np.argsort(-data.windows.lengths)[:BATCH])  # all the memory it will ever need, uncounted
        pipe.send(setups[name](np.array(rows)))


def build_ours(data: squad.Dataset, precision: str, like_lengths: bool):
    """A function rows -> seconds that takes train.py's own steps."""
    import logging

    logging.getLogger("minibert").setLevel(logging.ERROR)
    flags = ["--lora-targets", "attention", "--precision", precision, "--batch-size", str(BATCH)]
    options, _, _ = train.parse_options([*flags, "--output", tempfile.gettempdir()])
    minibert.keep_freed_memory()
    model = train.prepare_model(options).train()
    dtype = minibert.choose_precision(precision, torch.device("cpu"))
    minibert.store_frozen_as(dtype, model)
    run = train.Run(options, Path(options.output), model, torch.device("cpu"), dtype, data, None, minibert.Processes())
    optimizer = minibert.make_optimizer(model, options.weight_decay)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def steps(rows) -> float:
        start = time.perf_counter()
        if like_lengths:
            batches = [rows[b] for b in squad.training_batches(data.windows.lengths[rows], BATCH, 0, 0)]
        else:
            batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        for batch in batches:
            train.training_step(run, model, data, batch, optimizer, scaler, 1e-3)
        return time.perf_counter() - start

    return steps


def build_theirs(data: squad.Dataset, precision: str, pad_to: int, dropout: float):
    """A function rows -> seconds: transformers' model, PEFT's adapters, the loop of run_qa_no_trainer.py."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForQuestionAnswering
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForQuestionAnswering.from_pretrained(
        minibert.find_model("minilm"), hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    config = LoraConfig(task_type="QUESTION_ANS", r=8, lora_alpha=16, target_modules=["query", "value"])
    model = get_peft_model(model, config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def steps(rows) -> float:
        start = time.perf_counter()
        for at in range(0, len(rows), BATCH):
            batch = squad.collate(data.windows, rows[at : at + BATCH])
            # to the longest exactly, not to a multiple as ours are, and then to pad_to
            T = int(batch.attention_mask.sum(1).max())
            ids, types, mask = (torch.nn.functional.pad(x[:, :T], (0, max(0, pad_to - T))) for x in batch[:3])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                loss = model(
                    input_ids=ids, attention_mask=mask, token_type_ids=types,
                    start_positions=batch.start_positions, end_positions=batch.end_positions,
                ).loss  # fmt: skip
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    return steps


if __name__ == "__main__":
    main()
