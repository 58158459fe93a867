"""The numbers behind the page: curves over the threshold, calibration bins, scores by group, the worst errors."""

import bisect
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from squad.calibration import bin_of
from squad.examples import Example
from squad.spans import Predictions, probabilities

WRONG, INVENTED, SILENT = "wrong span", "answered an unanswerable", "silent on an answerable"
QUESTION_WORDS = ("who", "what", "when", "where", "why", "how", "which", "other")
LENGTHS = ("1 word", "2 words", "3 words", "4-5 words", "6-9 words", "10 or more", "no answer")
WINDOWS = ("1 window", "2 windows", "3 windows", "4 or more")
AROUND = 400  # characters of a long text kept on each side of a mark


def totals_by_threshold(
    odds: np.ndarray, answered: np.ndarray, silent: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """The total score at every threshold that makes a difference.

    Args: odds (E,): null odds; answered, silent (E,): each question's score when answered and when not.
    Returns thresholds and totals, (K + 1,) each, K the number of distinct odds: the total holds from its threshold
        up to the next. A question is answered when its odds do not exceed the threshold; at the first one none is.
    """
    values, group = np.unique(odds, return_inverse=True)
    gains = np.bincount(group, weights=answered - silent)
    start = float(np.broadcast_to(silent, odds.shape).sum())
    return np.concatenate([values[:1] - 1, values]), start + np.concatenate([[0.0], np.cumsum(gains)])


def value_at(thresholds: np.ndarray, totals: np.ndarray, at: float | np.ndarray) -> np.ndarray:
    """The total at any threshold; thresholds, totals: as `totals_by_threshold` gives them."""
    return totals[np.maximum(np.searchsorted(thresholds, at, side="right") - 1, 0)]


def precision_recall(
    odds: np.ndarray, given: np.ndarray, right: np.ndarray, answerable: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall of answering, over the threshold on the null odds.

    Precision: of the answers given, the share that are exact matches on answerable questions. Recall: of the
    answerable questions, the share given such an answer.

    Args: given, right (E,) bool: whether the best span is some text, and whether it is an exact match on an answerable
        question; answerable: how many questions have an answer, at least 1.
    Returns thresholds, precision and recall, (P,) each, 0 to 1, without the thresholds at which no answer is given.
    """
    thresholds, answers = totals_by_threshold(odds, given.astype(float), 0.0)
    _, hits = totals_by_threshold(odds, (right & given).astype(float), 0.0)
    some = answers > 0
    return thresholds[some], hits[some] / answers[some], hits[some] / answerable


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Precision averaged over the steps of recall, 0 to 1: the official script's pr_exact_ap, over 100."""
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def confidences(
    examples: Sequence[Example], predictions: Predictions, threshold: float, temperature: float, best_bonus: float
) -> np.ndarray:
    """The probability, (E,), of each question's answer at the threshold, "" being an answer too."""
    return np.array(
        [probabilities(predictions.nbest[e.id], threshold, temperature, best_bonus).max() for e in examples]
    )


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> dict[str, np.ndarray]:
    """The bins of `calibration_error`.

    Args: confidence (E,), 0 to 1; right (E,), 0 or 1.
    Returns count, confidence (its mean) and right (the share), (bins,) each; NaN in empty bins.
    """
    which = bin_of(confidence, bins)
    count = np.bincount(which, minlength=bins)
    size = np.where(count > 0, count, np.nan)
    means = (np.bincount(which, weights=values, minlength=bins) / size for values in (confidence, right))
    return dict(zip(("count", "confidence", "right"), (count, *means), strict=True))


def thin(values: Sequence[float], most: int) -> list[float]:
    """Means of at most `most` consecutive parts, of equal size but for one value more or less."""
    return [float(part.mean()) for part in np.array_split(np.array(values, float), min(len(values), most) or 1)]


def question_word(question: str) -> str:
    """The first of QUESTION_WORDS in a question, whose and whom counting as who; "other" where there is none."""
    for word in re.findall(r"\w+", question.lower()):
        word = "who" if word in ("whose", "whom") else word
        if word in QUESTION_WORDS[:-1]:
            return word
    return QUESTION_WORDS[-1]


def answer_length(example: Example) -> str:
    """Words of the first gold answer, as the name of a group in LENGTHS."""
    if not example.answers:
        return LENGTHS[-1]
    words = len(example.answers[0].text.split())
    return LENGTHS[bisect.bisect_left((1, 2, 3, 5, 9), words)]


def window_group(windows: int) -> str:
    """A number of windows, at least 1, as the name of a group in WINDOWS."""
    return WINDOWS[bisect.bisect_left((1, 2, 3), windows)]


def scores_by_group(groups: Sequence[str], order: Sequence[str], exact: np.ndarray, f1: np.ndarray) -> list[dict]:
    """name, count, exact and f1 (0 to 100) of each group that has questions, in the given order of names.

    Args: groups: the E names, each of them in `order`; exact, f1 (E,), 0 to 1.
    """
    number = np.array([order.index(name) for name in groups], int)
    count = np.bincount(number, minlength=len(order))
    exact, f1 = (np.bincount(number, weights=scores, minlength=len(order)) for scores in (exact, f1))
    return [
        {"name": name, "count": int(n), "exact": 100 * float(em) / int(n), "f1": 100 * float(f) / int(n)}
        for name, n, em, f in zip(order, count, exact, f1, strict=True)
        if n
    ]


def error_kind(example: Example, said: str) -> str:
    """What is wrong with a wrong answer: one of the three kinds."""
    if not example.answers:
        return INVENTED
    return WRONG if said else SILENT


def worst_errors(kinds: Sequence[str], confidence: np.ndarray, most: int) -> list[int]:
    """Indices of at most `most` errors, the surest first.

    Each kind has a third of the places as far as it needs them, so that none crowds the others out; the surest of all
    kinds take what is left.

    Args: kinds: E error kinds, "" where a question was answered rightly; confidence (E,).
    """
    seen: Counter = Counter()
    ranked = []
    for i in np.argsort(-confidence, kind="stable").tolist():
        if kinds[i]:
            ranked.append((seen[kinds[i]] >= most // 3, len(ranked), i))
            seen[kinds[i]] += 1
    chosen = sorted(ranked)[:most]
    return [i for _, _, i in sorted(chosen, key=lambda item: item[1])]


def segments(context: str, gold: Sequence[tuple[int, int]], said: tuple[int, int] | None) -> list[tuple[str, str]]:
    """A context cut at its marks: (text, mark) pieces in order; mark is "", "gold", "said" or "gold said".

    Args: gold, said: spans (first character, one past the last).
    Long pieces lose what is far from their neighbours; (" … ", "cut") stands there. Otherwise the texts join to the
    context.
    """
    spans = [*gold, *([said] if said else [])]
    edges = sorted({0, len(context), *(at for span in spans for at in span)})
    runs: list[tuple[int, int, str]] = []
    for start, end in pairwise(edges):
        in_gold = any(a <= start and end <= b for a, b in gold)
        in_said = said is not None and said[0] <= start and end <= said[1]
        mark = " ".join(["gold"] * in_gold + ["said"] * in_said)
        if runs and runs[-1][2] == mark:
            start = runs.pop()[0]
        runs.append((start, end, mark))
    pieces = (_shorten(context[a:b], mark, a > 0, b < len(context)) for a, b, mark in runs)
    return [piece for shortened in pieces for piece in shortened]


def _shorten(text: str, mark: str, before: bool, after: bool) -> list[tuple[str, str]]:
    """A long piece without its middle; at the start or end of the text, without the part far from its neighbour.

    Args: before, after: whether the piece has a neighbour there.
    """
    if len(text) <= 2 * AROUND:
        return [(text, mark)]
    head = [(text[:AROUND], mark)] if before or not after else []
    tail = [(text[-AROUND:], mark)] if after else []
    return [*head, (" … ", "cut"), *tail]
