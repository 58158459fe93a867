"""Every speed that this project promises, measured on this machine, beside its goal.

    pip install -e '.[bench,onnx]' openvino nncf
    python bench/run.py                    about an hour on 2 cores; leave them alone
    python bench/run.py --quick            a few minutes, rougher
    python bench/run.py --only start       one part again, the others unchanged
    python bench/run.py --device cuda      on a GPU: training against transformers + PEFT

Both sides of a comparison take turns on the same questions of data/, in the same precision: bf16 where the processor
has it natively, else float32. Medians are reported, beside the matrix speed that the machine reaches in these minutes.
Writes bench/results/KIND-PRECISION.json and .md, where KIND is cuda, or amx, avx512-bf16 or avx2 with the processor's
family and model; and growth.png beside them.
"""

import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import answers, others, peers
from bench.generation import generation
from bench.machine import describe, kind_of_machine, matrix_peak, resolved
from bench.sides import Setup, config_of, load_windows, prepare, random_bert_base, training_flops
from bench.table import markdown, row, write
from bench.worker import Worker
from minihub import read_object
from minirun import Parser, choose_device, run_command
from minirun.hardware import PRECISIONS

RUN_QA = {"precision": "fp32", "pad_to": 384, "dropout": 0.1}
SAME = {"like_lengths": True}
# label, ours, theirs
CPU_ROWS = [
    ("ours by default, against run_qa's default (float32, padded to 384, dropout 0.1)", {}, RUN_QA),
    ("ours by default, against the same precision, dynamic padding, dropout 0.1", {}, {"dropout": 0.1}),
    ("ours by default, against the same precision, dynamic padding, no dropout", {}, {}),
    ("like for like: no dropout on either side, the same batches", {}, SAME),
    ("like for like, theirs compiled (torch.compile for any shape)", {}, SAME | {"compiled": True}),
    ("like for like: dropout 0.1 on both sides, the same batches", {"dropout": 0.1}, {"dropout": 0.1} | SAME),
]
GPU_ROWS = [
    ("dropout 0.1 on both sides, the same batches", {"dropout": 0.1}, {"dropout": 0.1} | SAME),
    ("dropout 0.1 on both sides, theirs padded to 384", {"dropout": 0.1}, {"dropout": 0.1, "pad_to": 384}),
]
# of CPU_ROWS; the first three and the last goals are of bf16
GOALS = {
    ("minilm", "bf16"): (15, 10, None, 3.5, None, 5), ("bert-base", "bf16"): (8, 6, None, 2.3, None, 4),
    ("minilm", "fp32"): (None, None, None, 2, None, None), ("bert-base", "fp32"): (None, None, None, 1.5, None, None),
}  # fmt: skip
GPU_GOALS = (2, 4)  # of GPU_ROWS
PEAK_GOALS = {"bf16": 0.55, "fp32": 0.80}
USUAL = {"minutes": 55, "bf16": 889, "fp32": 360}  # of a whole run where the matrix speed is that many GFLOP/s
MEMORY_GOALS = {("minilm", "cpu"): 0.3, ("minilm", "cuda"): 0.6, ("bert-base", "cuda"): 0.6}  # of theirs with dropout


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what the training rows run on")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto",
                        help="of both sides; auto: bf16 where the processor has it natively, else fp32")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one round each, no growth of work; writes to bench/quick")
    parser.add_argument("--uqa", metavar="FILE", help="SQuAD file to tokenise, such as UQA's train set of 145 MB")
    parser.add_argument("--only", metavar="PART", help="one of: " + ", ".join(parts("cpu")))
    parser.add_argument("--output", metavar="FOLDER", help="(bench/results)")
    options = parser.parse_args()
    options.output = options.output or Path(__file__).parent / ("quick" if options.quick else "results")
    device = choose_device(options.device)
    todo = parts(options.device)
    if options.only and options.only not in todo:
        parser.error(f"--only {options.only}: expected one of {', '.join(todo)}")
    options.precision = resolved(options.precision, device)
    file = Path(options.output) / f"{kind_of_machine(device)}-{options.precision}.json"
    report = {"machine": describe(device), "parts": earlier(file, describe(device)) if options.only else {}}
    if device.type == "cpu" and not options.only and not options.quick:
        print(estimate(matrix_peak(device, PRECISIONS[options.precision]) / 1e9, options.precision), flush=True)
    for name, part in todo.items():
        if options.only in (None, name):
            before = report["parts"].get(name, {}).get("minutes")
            print(f"\n== {name}" + (f", {before} minutes the last time" if before else ""), flush=True)
            began = time.monotonic()
            rows = part(options)
            minutes = round((time.monotonic() - began) / 60, 1)
            report["parts"][name] = {"date": time.strftime("%Y-%m-%d"), "minutes": minutes, "rows": rows}
            write(report, file)
    print("\n" + markdown(report))
    return 0


def estimate(peak: float, precision: str) -> str:
    """How long a run takes, if half of it follows the matrix speed. peak: in GFLOP/s, of products in this precision.

    A faster machine than the usual one is promised nothing: there other things than products take the time. At half of
    the usual speed all but `growth` took 50 minutes, and `growth` would take 15.
    """
    minutes = USUAL["minutes"] * (1 + max(1.0, USUAL[precision] / peak)) / 2
    return f"about {minutes:.0f} minutes at {peak:.0f} GFLOP/s in {precision}"


def earlier(file: Path, machine: dict) -> dict:
    """The parts already in `file`. Raises ValueError when they were measured on another machine."""
    report = read_object(file) if file.is_file() else {"machine": machine, "parts": {}}
    if report["machine"] != machine:
        raise ValueError(f"{file} was measured on another machine or with other packages; choose another --output")
    return report["parts"]


def parts(device: str) -> dict:
    """Name -> the function that measures it: options -> rows."""
    models = {name: partial(training, name) for name in ("minilm", "bert-base")}
    if device == "cuda":
        return models
    return models | {
        "evaluation": evaluation,
        "peers": lambda options: peers.rows(options.quick, options.precision),
        "tokenise": lambda options: others.tokenise(options.uqa),
        "decode": lambda options: others.decode(),
        "start": lambda options: others.start(),
        "generation": lambda options: generation(options.quick, options.precision),
        "growth": lambda options: [] if options.quick else others.growth(options.precision, Path(options.output)),
    }


def training(name: str, options) -> list[dict]:
    """The rows of one model: speeds of both sides in turn, the share of the matrix peak, memory."""
    on_gpu = options.device == "cuda"
    table = GPU_ROWS if on_gpu else CPU_ROWS
    with tempfile.TemporaryDirectory() as folder:
        model = "minilm" if name == "minilm" else str(random_bert_base(Path(folder)))
        shared = {"model": model, "device": "cuda" if on_gpu else "cpu", "batch": 32 if on_gpu else 16}
        shared["precision"] = options.precision
        pairs = [(Setup("ours", **shared | ours), Setup("theirs", **shared | theirs)) for _, ours, theirs in table]
        setups = list(dict.fromkeys(setup for pair in pairs for setup in pair))
        rounds = 1 if options.quick else 5 if on_gpu or name == "minilm" else 3
        steps = 40 if on_gpu else 6 if name == "minilm" else 2
        speeds, peaks, shares, memory = measure(setups, rounds, steps, one_at_a_time=name == "bert-base" and not on_gpu)
    rows, goals = [], GPU_GOALS if on_gpu else GOALS[name, options.precision]
    for (label, _, _), goal, (ours, theirs) in zip(table, goals, pairs, strict=True):
        a, b = statistics.median(speeds[ours]), statistics.median(speeds[theirs])
        value = f"{a / b:.1f} x ({a:.1f} against {b:.1f} questions/s)"
        goal, met = ("-", None) if goal is None else (f"{goal} x", a / b >= goal)
        rows.append(row(f"training {name} in {options.precision}, {label}", goal, value, met, ours=a, theirs=b))
    share, peak = statistics.median(shares), statistics.median(peaks)
    goal = None if on_gpu else PEAK_GOALS[options.precision]
    label = f"training {name}, ours by default: share of the {options.precision} matrix peak, real tokens only"
    met = None if goal is None else share >= goal
    value = f"{share:.0%} of {peak / 1e9:,.0f} GFLOP/s"
    rows.append(row(label, f"{goal:.0%}" if goal else "-", value, met, share=share, peak=peak))
    for (label, _, _), (ours, theirs) in zip(table, pairs, strict=True):
        a, b = memory[ours] / 2**30, memory[theirs] / 2**30
        as_shipped = theirs.dropout == 0.1 and ours is setups[0]
        limit = MEMORY_GOALS.get((name, options.device)) if as_shipped else None
        met = None if limit is None else a / b <= limit
        value = f"{a / b:.2f} of theirs ({a:.2f} against {b:.2f} GiB)"
        rows.append(row(f"peak memory {name}, {label}", str(limit or "-"), value, met, ours=a, theirs=b))
    return rows


def measure(setups: list[Setup], rounds: int, steps: int, one_at_a_time: bool) -> tuple[dict, list, list, dict]:
    """Setup -> questions a second, a figure a round; matrix peaks, the first setup's shares of them; setup -> bytes.

    one_at_a_time: start each setup's process anew in each round, as all of them at once would fill most machines'
    memory; then there is no warm-up round, only the batches with which every process begins.
    """
    data = load_windows()
    config = config_of(setups[0].model)
    workers: dict[Setup, Worker] = {}
    speeds, peaks, shares, memory = {setup: [] for setup in setups}, [], [], {}
    device = torch.device(setups[0].device)
    for number in range(one_at_a_time, rounds + 1):
        rows = np.random.default_rng(number).permutation(len(data.windows))[: steps * setups[0].batch].tolist()
        peak = matrix_peak(device, torch.float32 if setups[0].precision == "fp32" else torch.bfloat16)
        for setup in setups:
            worker = workers.pop(setup, None) or Worker(prepare, setup)
            seconds, memory[setup] = worker.ask(rows)
            if one_at_a_time:
                worker.close()
            else:
                workers[setup] = worker
            speed = len(rows) / seconds
            if number:
                speeds[setup].append(speed)
            label = f"round {number}" if number else "warm-up"
            print(f"{label}  {speed:7.2f} questions/s  {setup}", flush=True)
            if number and setup is setups[0]:
                flops = training_flops(config, data.windows.lengths[rows]) / len(rows)
                peaks.append(peak)
                shares.append(flops * speed / peak)
                print(f"round {number}  {peak / 1e9:.0f} GFLOP/s peak, {shares[-1]:.0%} of it reached", flush=True)
    for worker in workers.values():
        worker.close()
    return speeds, peaks, shares, memory


def evaluation(options) -> list[dict]:
    found = answers.measure(1 if options.quick else 5, 500, options.precision)
    ratio = found["minibert"] / found["transformers"]
    value = f"{ratio:.1f} x ({found['minibert']:.0f} against {found['transformers']:.0f} questions/s)"
    how = f"against transformers in {options.precision}, dynamic, top-20 search"
    label = f"evaluating 500 dev questions, text to answers, {how}"
    return [row(label, "5 x", value, ratio >= 5, **found)]


if __name__ == "__main__":
    run_command(main)
