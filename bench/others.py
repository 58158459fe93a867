"""The rows of bench/run.py without another side: tokenising, decoding, starting, and how time grows with work."""

import dataclasses
import multiprocessing
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import minibert
import squad
from bench.sides import Setup, build_ours, config_of, load_windows, training_flops
from bench.table import row
from minirun.hardware import peak_bytes
from squad.batches import evaluation_batches

ROOT = Path(__file__).parent.parent


def tokenise(path: str | None) -> list[dict]:
    """First start and second start on a large file, each in a process of its own."""
    label = "tokenising and windowing UQA's 124,745 questions (145 MB)"
    if path is None:
        return [row(label, "60 s, 1.5 GiB; again 5 s", "not measured: --uqa FILE", None)]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, maxtasksperchild=1) as pool:
        first, again = (pool.apply(_load, (path, folder)) for _ in range(2))
    value = f"{first[0]:.1f} s, {first[1]:.2f} GiB; again {again[0]:.1f} s, {again[1]:.2f} GiB"
    met = first[0] < 60 and again[0] < 5 and max(first[1], again[1]) < 1.5
    return [row(label, "60 s, 1.5 GiB; again 5 s", value, met, first=first, again=again)]


def _load(path: str, folder: str) -> tuple[float, float]:
    """Seconds and peak GiB of reading a file into windows; the second time from the cache in `folder`."""
    torch.hub.set_dir(folder)
    tokenizer = minibert.load_tokenizer("minilm")
    start = time.perf_counter()
    squad.load_dataset(path, tokenizer)
    return time.perf_counter() - start, peak_bytes(resource.getrusage(resource.RUSAGE_SELF)) / 2**30


def decode() -> list[dict]:
    """Random logits of as many questions as the official dev set has -> n-best lists."""
    examples = squad.read_examples(squad.find_data("excerpt", "dev"))
    examples = [dataclasses.replace(examples[i % len(examples)], id=str(i)) for i in range(11_873)]
    windows = squad.make_windows(examples, minibert.load_tokenizer("minilm"))
    batches = []
    for ids in evaluation_batches(windows.lengths, 1600):
        mask = squad.collate(windows, ids).span_mask
        batches.append((ids, 3 * torch.randn(mask.shape), 3 * torch.randn(mask.shape), mask))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        _decode(examples, windows, batches)
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return [row("decoding 11,873 questions from logits, n-best 20", "1 s", f"{seconds:.2f} s", seconds < 1)]


def _decode(examples, windows, batches) -> None:
    W, n = len(windows), 20
    found = squad.WindowPredictions(
        np.full((W, n), -np.inf, np.float32), np.zeros((W, n), np.int64), np.zeros((W, n), np.int64),
        np.zeros(W, np.float32), np.zeros(W, np.float32),
    )  # fmt: skip
    for ids, start_logits, end_logits, mask in batches:
        for whole, part in zip(found, squad.best_spans(start_logits, end_logits, mask), strict=False):
            whole[ids] = part
    squad.decode(examples, windows, found)


def start() -> list[dict]:
    """From the command to the end of the first step of the default run."""
    seconds = statistics.median(_first_step() for _ in range(3))
    return [row("start to first step of the default run", "5 s", f"{seconds:.1f} s", seconds < 5)]


def _first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run" / "log.jsonl"
        command = [sys.executable, "train.py", "--lora-rank", "8", "--log-every", "1", "--output", str(log.parent)]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not log.exists() and process.poll() is None:
            time.sleep(0.01)
        seconds, stepped = time.perf_counter() - began, log.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not stepped:
        raise ValueError(f"the default run ended before its first step, with status {process.returncode}")
    return seconds


def growth(precision: str, folder: Path) -> list[dict]:
    """Training time against the number of questions, and against the window length beside its FLOPs; a plot."""
    data, device = load_windows(), torch.device("cpu")
    steps = build_ours(data, Setup("ours", precision=precision), device)
    steps(np.argsort(-data.windows.lengths)[:16])
    rng = np.random.default_rng(0)
    questions = {}
    for count in (5_000, 10_000, 20_000):
        rows = np.concatenate([rng.permutation(len(data.examples)) for _ in range(-(-count // len(data.examples)))])
        questions[count] = _seconds(steps, rows[:count])
        print(f"{count} windows of data/: {questions[count]:.1f} s", flush=True)
    per_question = [seconds / count for count, seconds in questions.items()]
    spread = max(per_question) / min(per_question) - 1
    value = ", ".join(f"{count:,}: {seconds:.0f} s" for count, seconds in questions.items())
    rows = [
        row(
            "training time against questions", "linear", f"{value}; {spread:.0%} apart", spread < 0.1, seconds=questions
        )
    ]
    lengths = {length: _seconds_at(length, precision) for length in (128, 256, 384, 512)}
    value = ", ".join(f"{length}: {1000 * s:.1f} ms, {f / 1e9:.1f} GFLOP" for length, (s, f) in lengths.items())
    rows.append(row("training time of a window against its length", "beside its FLOPs", value, None, lengths=lengths))
    folder.mkdir(parents=True, exist_ok=True)
    plot(questions, lengths, folder / "growth.png")
    return rows


def _seconds(steps, rows) -> float:
    began = time.perf_counter()
    steps(rows)
    return time.perf_counter() - began


def _seconds_at(length: int, precision: str) -> tuple[float, float]:
    """Median seconds and the FLOPs of training on one window of exactly `length` tokens, in batches of 16."""
    examples = squad.read_examples(squad.find_data("excerpt", "train"))
    text = " ".join(dict.fromkeys(e.context for e in examples[:1500]))
    long = [dataclasses.replace(examples[0], context=text, answers=(), is_impossible=True)]
    windows = squad.make_windows(long, minibert.load_tokenizer("minilm"), length, 16, 64)
    data = squad.Dataset(long, windows)
    rows = np.flatnonzero(windows.lengths == length)[: 16 * 4]
    steps = build_ours(data, Setup("ours", precision=precision), torch.device("cpu"))
    steps(rows[:16])
    seconds = statistics.median(_seconds(steps, rows) for _ in range(5)) / len(rows)
    return seconds, training_flops(config_of("minilm"), windows.lengths[rows]) / len(rows)


def plot(questions: dict, lengths: dict, path: Path) -> None:
    """Two panels: seconds over questions, milliseconds over window length with what the FLOPs alone would take."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot([0, *questions], [0, *questions.values()], "o-")
    left.set(xlabel="windows trained on", ylabel="seconds", title="One pass over more data", ylim=0)
    left.set_xticks([0, *questions], [f"{count:,}" for count in (0, *questions)])
    seconds, flops = zip(*lengths.values(), strict=True)
    rate = flops[0] / seconds[0]
    right.plot([*lengths], [1000 * s for s in seconds], "o-", label="measured")
    right.plot([*lengths], [1000 * f / rate for f in flops], "--", label="its FLOPs at the speed of 128 tokens")
    right.set(xlabel="tokens in the window", ylabel="milliseconds a window", title="Longer windows", ylim=0)
    right.set_xticks([*lengths])
    right.legend()
    figure.savefig(path, dpi=110)
