"""What tokenising and windowing lose: every answer read back from its tokens, and the scores of a perfect model."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from squad.align import char_to_token_span, token_to_char_span
from squad.examples import Answer, Example
from squad.metrics import f1_score
from squad.scoring import Normalize, normalize_answer
from squad.windows import Windows

CAUSES = {
    "exact": "the text read back is the gold text, but for blanks around it",
    "sub-word boundary": "a token reaches over the answer's edge, so more is read back",
    "truncated": "no window holds the whole answer",
    "too long": "it has more tokens than an answer may have",
    "no token": "the tokenizer drops the answer's characters",
    "wrong offset": "the file's answer_start does not point at the answer (question left out)",
}


def audit(
    examples: Sequence[Example],
    windows: Windows,
    max_answer_tokens: int = 30,
    normalize: Normalize = normalize_answer,
) -> tuple[Counter, dict[str, str]]:
    """The number of answers by cause, and the answers of a perfect model by question id.

    Args: windows: those of `examples`. normalize: how a perfect model's answers are compared with the gold ones.
    A perfect model gives the best-scoring of the labelled spans that a window holds, "" when none does.
    """
    causes: Counter = Counter()
    answers: dict[str, str] = {}
    row_splits = np.searchsorted(windows.example_index, np.arange(len(examples) + 1))
    for i, example in enumerate(examples):
        pieces = [(windows.begin[w], windows.end[w]) for w in range(row_splits[i], row_splits[i + 1])]
        offsets = windows.offsets[windows.context_index[i]]
        readable: list[str] = []
        for answer in example.answers:
            cause, text = read_back(answer, example.context, offsets, pieces, max_answer_tokens)
            causes[cause] += 1
            readable += [text] if text is not None else []
        golds = [answer.text for answer in example.answers]
        score = lambda text, golds=golds: max(f1_score(gold, text, normalize) for gold in golds)  # noqa: E731
        answers[example.id] = max(readable, key=score, default="")
    return causes, answers


def read_back(
    answer: Answer, context: str, offsets: np.ndarray, pieces: list[tuple[int, int]], max_answer_tokens: int
) -> tuple[str, str | None]:
    """One answer's cause, of CAUSES, and the text read back from its tokens; None when no window gives it."""
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
    return ("exact" if text == answer.text.strip() else "sub-word boundary"), text
