"""Answering speed of minibert's reader against a plain transformers loop, in turn in one run, on one checkpoint.

    pip install -e '.[bench]' && python bench/answers.py

Both sides answer the same 500 questions of data/dev.json.gz in a drawn order, on a CPU in bf16: theirs with
batches of 32 in the order given, padded to the longest, and run_qa's search of the 20 best starts and ends; ours as
answer.py makes its reader. Each side has a process of its own and waits while the other works. Then one question at a
time, ours only. Medians; every round is printed.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import minibert
import squad
from answer import SHIPPED, export, load_reader
from train import DATA

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=500)
    options = parser.parse_args()
    found = measure(options.rounds, options.questions)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}; medians: "
          f"transformers {found['transformers']:.1f}/s, minibert {found['minibert']:.1f}/s")  # fmt: skip
    ratio = found["minibert"] / found["transformers"]
    print(f"ratio {ratio:.2f}; the same best span for {found['same']:.1%} (bf16 rounds)")
    print(f"one question on one paragraph, minibert: median {found['p50']:.1f} ms, 95% under {found['p95']:.1f} ms")


def measure(rounds: int, count: int) -> dict[str, float]:
    """Medians: questions a second of both sides, the share of same answers, milliseconds for one question."""
    examples = squad.read_examples(DATA / "dev.json.gz")
    order = np.random.default_rng(0).permutation(len(examples))[:count]
    questions, contexts = [examples[i].question for i in order], [examples[i].context for i in order]
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in ("transformers", "minibert"):
        pipes[name], end = context.Pipe()
        context.Process(target=work, args=(name, end), daemon=True).start()
        end.close()
    speeds, answers = defaultdict(list), {}
    for number in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send((questions, contexts))
            answers[name], seconds = pipe.recv()
            if number:  # round 0 warms up
                speeds[name].append(len(questions) / seconds)
                print(f"round {number}  {name:12} {speeds[name][-1]:6.1f} questions/s", flush=True)
    times = []
    for question, text in zip(questions[:200], contexts[:200], strict=True):
        pipes["minibert"].send(([question], [text]))
        times.append(1000 * pipes["minibert"].recv()[1])
    p50, p95 = (float(x) for x in np.percentile(times, [50, 95]))
    same = float(np.mean([a == b for a, b in zip(*answers.values(), strict=True)]))
    return {name: statistics.median(values) for name, values in speeds.items()} | {"same": same, "p50": p50, "p95": p95}


def work(name: str, pipe) -> None:
    """A side's process, so that neither profits from the other's settings: answer lists, send answers and seconds."""
    answer = {"minibert": build_ours, "transformers": build_theirs}[name]()
    while True:
        try:
            questions, contexts = pipe.recv()
        except EOFError:
            return
        start = time.perf_counter()
        answers = answer(questions, contexts)
        pipe.send((answers, time.perf_counter() - start))


def build_ours():
    """A function of lists that answers with a reader as answer.py makes it."""
    minibert.keep_freed_memory()  # as answer.py does
    reader = load_reader(device="cpu", precision="bf16")

    def answer(questions, contexts):
        return [a["answer"] for a in reader(questions, contexts, handle_impossible_answer=False)]

    return answer


def build_theirs():
    """A function of lists that answers with transformers: its fast tokenizer, its model, run_qa's post-processing."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        export(SHIPPED, "", Path(folder))
        model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.bfloat16).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def answer(questions, contexts):
        encoded = tokenizer(
            questions, contexts, truncation="only_second", max_length=384, stride=128,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        best: dict[int, tuple[float, str]] = {}
        for at in range(0, len(encoded["input_ids"]), BATCH):
            rows = range(at, min(at + BATCH, len(encoded["input_ids"])))
            features = [{k: encoded[k][i] for k in ("input_ids", "token_type_ids", "attention_mask")} for i in rows]
            out = model(**tokenizer.pad(features, return_tensors="pt"))
            starts, ends = out.start_logits.float().numpy(), out.end_logits.float().numpy()
            for i, start, end in zip(rows, starts, ends, strict=True):
                search(encoded, i, start, end, contexts, best)
        return [best[i][1] for i in range(len(questions))]

    return answer


def search(encoded, i: int, start: np.ndarray, end: np.ndarray, contexts, best: dict) -> None:
    """run_qa's loop over the 20 best starts and ends of window i."""
    sequence, offsets = encoded.sequence_ids(i), encoded["offset_mapping"][i]
    example = encoded["overflow_to_sample_mapping"][i]
    lasts = np.argsort(end)[-1:-21:-1].tolist()
    for first in np.argsort(start)[-1:-21:-1].tolist():
        for last in lasts:
            if max(first, last) >= len(offsets) or sequence[first] != 1 or sequence[last] != 1:
                continue
            if first <= last < first + 30:
                score = float(start[first] + end[last])
                if example not in best or score > best[example][0]:
                    best[example] = score, contexts[example][offsets[first][0] : offsets[last][1]]


if __name__ == "__main__":
    main()
