"""Logits -> loss, and logits -> best spans -> predictions.

A span's score is start_logit[first] + end_logit[last]; the null score, for "no answer", is the same sum at
[CLS] (Devlin et al. 2018, section 4.3). Window scores are compared as they are, so a question's answer is the
best span of all its windows, and its null score the lowest of theirs: one window that sees an answer is enough.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from squad.examples import Example
from squad.windows import Windows

# null odds of a question whose context has no token at all; finite, so that JSON can hold it
CERTAIN = 1e6


def span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    span_mask: Tensor,
    reduction: str = "mean",
) -> Tensor:
    """The mean of two cross entropies, each over [CLS] and the context positions; a scalar.

    Args: logits and span_mask (bool), each (B, T); positions (B,), 0 meaning no answer. Position 0 is a
        class like any other: it is never ignored. reduction: `none` gives each window's own, (B,).
    """
    start, end = (
        F.cross_entropy(logits.float().masked_fill(~span_mask, -math.inf), positions, reduction=reduction)
        for logits, positions in ((start_logits, start_positions), (end_logits, end_positions))
    )
    return (start + end) / 2


def best_spans(
    start_logits: Tensor, end_logits: Tensor, span_mask: Tensor, max_answer_tokens: int = 30, n_best: int = 20
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The n best spans of each window, found exactly: every start with every end it may have.

    Args: logits and span_mask (bool), each (B, T).
    Returns scores, firsts, lasts, each (B, n) and best first (score -inf where a window has fewer spans),
        and the null score, (B,). n is n_best, or fewer where T x max_answer_tokens spans are.
    """
    context = span_mask.clone()
    context[:, 0] = False
    start = start_logits.float().masked_fill(~context, -math.inf)  # (B, T)
    end = end_logits.float().masked_fill(~context, -math.inf)  # (B, T)
    K = max_answer_tokens
    ends = F.pad(end, (0, K - 1), value=-math.inf).unfold(1, K, 1)  # (B, T, K): [b, t, k] is end[b, t + k]
    best_end = ends.amax(-1)  # (B, T)
    # The n best spans start at n of the starts whose best span is best, so only those are spread out.
    n = min(n_best, start.size(1))
    _, starts = (start + best_end).topk(n)  # (B, n)
    spans = start.gather(1, starts)[:, :, None] + ends.gather(1, starts[:, :, None].expand(-1, -1, K))
    scores, flat = spans.flatten(1).topk(min(n_best, n * K))  # (B, n x K) -> (B, n)
    firsts = starts.gather(1, flat // K)
    null = start_logits[:, 0].float() + end_logits[:, 0].float()
    return scores, firsts, firsts + flat % K, null


@dataclass(frozen=True)
class Predictions:
    """What a model says of each question, by id, before any threshold decides on "no answer".

    answers: the best span's text, "" only where the context has no token.
    null_odds: null score minus the best span's score, in logits: the higher, the likelier no answer.
    nbest: the best answers and "" with text, probability (softmax over the list), score, start and end
        (characters of the context; None for ""), most probable first.
    """

    answers: dict[str, str]
    null_odds: dict[str, float]
    nbest: dict[str, list[dict]]


def decode(
    examples: Sequence[Example],
    windows: Windows,
    scores: np.ndarray,
    firsts: np.ndarray,
    lasts: np.ndarray,
    null: np.ndarray,
    n_best: int = 20,
) -> Predictions:
    """The best spans of all windows -> predictions for all examples.

    Args: scores, firsts, lasts (W, n) and null (W,), as `best_spans` gives them, in the order of `windows`.
    """
    E = len(examples)
    null_score = np.full(E, np.inf)
    np.minimum.at(null_score, windows.example, null)
    window, column = np.nonzero(np.isfinite(scores))
    score, owner = scores[window, column], windows.example[window]
    chars = windows.char_spans(window, firsts[window, column], lasts[window, column])
    order = np.lexsort((-score, owner))  # by example, best first
    score, (starts, ends) = score[order].tolist(), chars[order].T.tolist()
    rows = np.searchsorted(owner[order], np.arange(E + 1)).tolist()

    answers, null_odds, nbest = {}, {}, {}
    for i, example in enumerate(examples):
        found: dict[str, dict] = {}
        for at in range(rows[i], rows[i + 1]):
            if len(found) == n_best:
                break
            start, end = starts[at], ends[at]
            text = example.context[start:end]
            found.setdefault(text, {"text": text, "score": score[at], "start": start, "end": end})
        best = next(iter(found.values()), {"text": "", "score": float(null_score[i]) - CERTAIN})
        answers[example.id] = best["text"]
        null_odds[example.id] = float(null_score[i]) - best["score"]
        nothing = {"text": "", "score": float(null_score[i]), "start": None, "end": None}
        nbest[example.id] = _with_probabilities([*found.values(), nothing])
    return Predictions(answers, null_odds, nbest)


def apply_threshold(predictions: Predictions, threshold: float) -> dict[str, str]:
    """The answer of each question, "" where its null odds exceed the threshold."""
    odds = predictions.null_odds
    return {id: "" if odds[id] > threshold else text for id, text in predictions.answers.items()}


def _with_probabilities(entries: list[dict]) -> list[dict]:
    entries.sort(key=lambda entry: -entry["score"])
    weights = [math.exp(entry["score"] - entries[0]["score"]) for entry in entries]
    total = sum(weights)
    for entry, weight in zip(entries, weights, strict=True):
        entry["probability"] = weight / total
    return entries
