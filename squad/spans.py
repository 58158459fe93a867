"""Logits -> the best spans of each window -> predictions for each question.

A span's score is start_logit[first] + end_logit[last]; the null score, for "no answer", is the same sum at [CLS]
(Devlin et al. 2018, section 4.3). Scores of windows are compared as they are: a question's answer is the best span of
all its windows, and its null score the lowest of theirs, since one window that sees an answer is enough.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from squad.examples import Example
from squad.windows import Windows

# The null odds of a question whose context has no token at all; finite, so that JSON can hold them.
CERTAIN = 1e6
# Spans kept per window, and answers kept per question. All others together have next to no probability.
N_BEST = 20


class WindowPredictions(NamedTuple):
    """The n best spans of W windows, best first (score -inf where a window has fewer), and their null scores."""

    scores: np.ndarray  # (W, n)
    start_index: np.ndarray  # (W, n) position of the first token
    end_index: np.ndarray  # (W, n) position of the last token
    null_score: np.ndarray  # (W,)
    loss: np.ndarray  # (W,), 0 where it was not asked for


@dataclass(frozen=True)
class Predictions:
    """What a model says about each question, by id, before any threshold decides on "no answer".

    answers: the text of the best span, "" only where the context has no token.
    null_odds: null score minus the best span's score, in logits: the higher, the likelier that there is no answer.
    nbest: the N_BEST best answers and "", most probable first, each with text, probability (a softmax over these),
        score, start and end (characters of the context; None for "").
    """

    answers: dict[str, str]
    null_odds: dict[str, float]
    nbest: dict[str, list[dict]]


def best_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    span_mask: Tensor,
    max_answer_tokens: int = 30,
    n_best: int = N_BEST,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The n best spans of each window, found exactly: every start is combined with every end it may have.

    Args: logits and span_mask (bool), each (B, T).
    Returns scores, start_index, end_index, each (B, n), best first (score -inf where a window has fewer spans), and the
        null score, (B,). n is n_best, or T x max_answer_tokens where that is less.
    """
    context = span_mask.clone()
    context[:, 0] = False
    start = start_logits.float().masked_fill(~context, -math.inf)  # (B, T)
    end = end_logits.float().masked_fill(~context, -math.inf)  # (B, T)
    K = max_answer_tokens
    ends = F.pad(end, (0, K - 1), value=-math.inf).unfold(1, K, 1)  # (B, T, K): [b, t, k] is end[b, t + k]
    best_end = ends.amax(-1)  # (B, T)
    # The n best spans start at the n starts whose best span scores highest (at all, if fewer); only those are expanded.
    _, starts = (start + best_end).topk(min(n_best, start.size(1)))  # (B, starts)
    spans = start.gather(1, starts)[:, :, None] + ends.gather(1, starts[:, :, None].expand(-1, -1, K))
    scores, flat = spans.flatten(1).topk(min(n_best, spans.size(1) * K))  # (B, starts x K) -> (B, n)
    start_index = starts.gather(1, flat // K)
    null_score = start_logits[:, 0].float() + end_logits[:, 0].float()
    return scores, start_index, start_index + flat % K, null_score


def decode(examples: Sequence[Example], windows: Windows, found: WindowPredictions) -> Predictions:
    """The best spans of all windows, in their order -> predictions for all examples."""
    E = len(examples)
    null_score = np.full(E, np.inf)
    np.minimum.at(null_score, windows.example_index, found.null_score)
    window_ids, column = np.nonzero(np.isfinite(found.scores))
    score, owner = found.scores[window_ids, column], windows.example_index[window_ids]
    chars = windows.char_spans(window_ids, found.start_index[window_ids, column], found.end_index[window_ids, column])
    order = np.lexsort((-score, owner))  # by example, best first
    score, (starts, ends) = score[order].tolist(), chars[order].T.tolist()
    row_splits = np.searchsorted(owner[order], np.arange(E + 1)).tolist()

    answers, null_odds, nbest = {}, {}, {}
    for i, example in enumerate(examples):
        texts: dict[str, dict] = {}
        for at in range(row_splits[i], row_splits[i + 1]):
            if len(texts) == N_BEST:
                break
            start, end = starts[at], ends[at]
            if start == end:  # a token of white space only, as byte-level tokenizers have: no answer is empty
                continue
            text = example.context[start:end]
            texts.setdefault(text, {"text": text, "score": score[at], "start": start, "end": end})
        best = next(iter(texts.values()), {"text": "", "score": float(null_score[i]) - CERTAIN})
        answers[example.id] = best["text"]
        null_odds[example.id] = float(null_score[i]) - best["score"]
        nothing = {"text": "", "score": float(null_score[i]), "start": None, "end": None}
        nbest[example.id] = _with_probabilities([*texts.values(), nothing])
    return Predictions(answers, null_odds, nbest)


def apply_threshold(predictions: Predictions, threshold: float) -> dict[str, str]:
    """The answer to each question, "" where its null odds exceed the threshold."""
    odds = predictions.null_odds
    return {id: "" if odds[id] > threshold else text for id, text in predictions.answers.items()}


def probabilities(entries: Sequence[dict], threshold: float, temperature: float, best_bonus: float = 0.0) -> np.ndarray:
    """The probability of each entry of a question's n-best list, "" included, in the list's order.

    softmax(z / temperature), where z is the score, and for "" the null score - threshold: so "" is the most probable
    entry exactly when the threshold decides on "no answer". The log odds of the most probable one then gain best_bonus,
    and the others share what is left as before.

    Args: entries: dicts with `score` and `start` (None for ""), as in `Predictions.nbest`; best_bonus: at least 0.
    """
    z = np.array(shifted_scores(entries, threshold))
    weights = np.exp((z - z.max()) / temperature)
    weights[best_first(entries, z)[0]] *= math.exp(best_bonus)
    return weights / weights.sum()


def shifted_scores(entries: Sequence[dict], threshold: float) -> list[float]:
    """Scores of a question's n-best list, the threshold subtracted from that of "".

    That is computed as best + (null odds - threshold), not as score - threshold: rounding may then make it equal to the
    best span's score, but never turn the comparison of null odds and threshold round.
    """
    best = max((entry["score"] for entry in entries if entry["start"] is not None), default=0.0)
    return [best + (e["score"] - best - threshold) if e["start"] is None else e["score"] for e in entries]


def best_first(entries: Sequence[dict], scores: Sequence[float] | np.ndarray) -> list[int]:
    """The numbers of the entries by their scores; of equal ones the spans come before ""."""
    return sorted(range(len(entries)), key=lambda i: (-scores[i], entries[i]["start"] is None))


def _with_probabilities(entries: list[dict]) -> list[dict]:
    entries = sorted(entries, key=lambda entry: -entry["score"])
    weights = [math.exp(entry["score"] - entries[0]["score"]) for entry in entries]
    total = sum(weights)
    for entry, weight in zip(entries, weights, strict=True):
        entry["probability"] = weight / total
    return entries
