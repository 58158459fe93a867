"""Answering speed of minibert's reader against a plain transformers loop, in turn in one run, on one checkpoint.

    pip install -e '.[bench]' && python bench/answers.py

Both sides answer the same 500 questions of data/dev.json.gz in a random order, on a CPU in bf16
where the processor has it natively and in float32 elsewhere, both sides alike: theirs in batches of
32 in this order, padded to the longest, with run_qa's search of the 20 best starts and ends; ours with the reader of
minibert.qa. Each side has a process of its own and waits while the other works. Then one question at a time, ours only.
Medians; every round is printed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import squad
from bench.worker import Worker
from minibert import qa
from minirun import choose_precision, keep_freed_memory

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    options = parser.parse_args()
    found = measure(options.rounds, options.questions, options.precision)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}; medians: "
          f"transformers {found['transformers']:.1f}/s, minibert {found['minibert']:.1f}/s")  # fmt: skip
    ratio = found["minibert"] / found["transformers"]
    print(f"ratio {ratio:.2f}; the same best span for {found['same']:.1%} (of the last round)")
    print(f"one question on one paragraph, minibert: median {found['p50']:.1f} ms, 95% under {found['p95']:.1f} ms")


def measure(rounds: int, count: int, precision: str = "auto") -> dict[str, float]:
    """Medians: questions a second of both sides, the share of same answers, milliseconds for one question."""
    examples = squad.read_examples(squad.find_data("excerpt", "dev"))
    order = np.random.default_rng(0).permutation(len(examples))[:count]
    questions, contexts = [examples[i].question for i in order], [examples[i].context for i in order]
    workers = {name: Worker(prepare, name, precision) for name in ("transformers", "minibert")}
    speeds, answers = defaultdict(list), {}
    for number in range(rounds + 1):
        for name, worker in workers.items():
            answers[name], seconds = worker.ask(questions, contexts)
            if number:  # round 0 is a warm-up
                speeds[name].append(len(questions) / seconds)
                print(f"round {number}  {name:12} {speeds[name][-1]:6.1f} questions/s", flush=True)
    pairs = zip(questions[:200], contexts[:200], strict=True)
    times = [1000 * workers["minibert"].ask([question], [text])[1] for question, text in pairs]
    for worker in workers.values():
        worker.close()
    p50, p95 = (float(x) for x in np.percentile(times, [50, 95]))
    same = float(np.mean([a == b for a, b in zip(*answers.values(), strict=True)]))
    return {name: statistics.median(values) for name, values in speeds.items()} | {"same": same, "p50": p50, "p95": p95}


def prepare(name: str, precision: str) -> Callable:
    """For a Worker: lists of questions and contexts -> the answers and the seconds they took."""
    answer = {"minibert": build_ours, "transformers": build_theirs}[name](precision)

    def timed(questions: list[str], contexts: list[str]) -> tuple[list[str], float]:
        start = time.perf_counter()
        answers = answer(questions, contexts)
        return answers, time.perf_counter() - start

    return timed


def build_ours(precision: str):
    """A function of lists that answers with the reader of minibert.qa, which must always answer."""
    keep_freed_memory()  # as the command line does
    reader = qa.load_reader(device="cpu", precision=precision)

    def answer(questions, contexts):
        return [a["answer"] for a in reader(questions, contexts, handle_impossible_answer=False)]

    return answer


def build_theirs(precision: str):
    """A function of lists that answers with transformers: its fast tokenizer, its model, run_qa's post-processing."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = choose_precision(precision, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        qa.export(qa.load.SHIPPED, Path(folder))
        model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=dtype).eval()
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
        return [best.get(i, (0.0, ""))[1] for i in range(len(questions))]

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
