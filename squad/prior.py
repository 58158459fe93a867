"""How often to answer: the threshold for texts that have an answer more, or less, often than the dev set's.

The threshold is tuned on a dev set in which a known share of the questions has an answer. Elsewhere that share differs,
and by Bayes' rule the odds of "no answer" with it: they are multiplied by the ratio of the two shares' odds (Saerens,
Latinne and Decaestecker 2002, equation 2.4).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from squad.examples import Example
from squad.metrics import question_scores
from squad.scoring import Normalize, normalize_answer
from squad.spans import CERTAIN, Predictions

SHARES = (0.5, 0.67, 0.9)  # of questions with an answer, for which `coverage` says what happens


def null_scale(examples: Sequence[Example], null_odds: Mapping[str, float]) -> float | None:
    """How many logits of null odds stand for one unit of log odds of "no answer"; None if all or none have an answer.

    Logistic regression, P(no answer | odds) = sigmoid((odds - b) / scale), by Newton's method. A weak pull of 1 / scale
    towards 0 keeps it finite where the odds tell the two kinds apart without an error. Also None when odds say nothing
    about answers, or the contrary: then no threshold helps. Texts without a single token are left out: their odds are
    a constant that would outweigh all others.
    """
    examples = [example for example in examples if null_odds[example.id] < CERTAIN / 2]
    x = np.array([null_odds[example.id] for example in examples])
    y = np.array([not example.answers for example in examples], float)
    if y.all() or not y.any() or x.std() == 0:
        return None
    inputs = np.stack([(x - x.mean()) / x.std(), np.ones_like(x)])
    weights, pull = np.zeros(2), np.array([1e-3, 0.0]) * len(x)
    for _ in range(50):
        p = 1 / (1 + np.exp(-weights @ inputs))
        gradient = inputs @ (y - p) - pull * weights
        hessian = (inputs * np.maximum(p * (1 - p), 1e-9)) @ inputs.T + np.diag(pull)
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    return float(x.std() / weights[0]) if weights[0] > 0 else None


def move_threshold(threshold: float, scale: float, known: float, expected: float) -> float:
    """The threshold where a share `expected` of the questions has an answer, from the best one where `known` has.

    threshold + scale (log(expected / (1 - expected)) - log(known / (1 - known)))

    Args: scale: see `null_scale`; known, expected: above 0 and below 1.
    """
    return threshold + scale * (_log_odds(expected) - _log_odds(known))


def coverage(
    examples: Sequence[Example],
    predictions: Predictions,
    threshold: float,
    scale: float,
    shares: Sequence[float] = SHARES,
    normalize: Normalize = normalize_answer,
) -> list[dict[str, float]]:
    """What happens at the threshold for each share of questions with an answer.

    Returns for each share `answerable` (the share), `threshold`, `answered` (the part of the questions) and `right`
    (the part of those answers that are exact matches; 1 when there are none), 0 to 1, on these examples;
    `answered_there` and `right_there` on the same examples, weighted so that this share of them has an answer.
    """
    has_answer = np.array([bool(example.answers) for example in examples])
    odds = np.array([predictions.null_odds[example.id] for example in examples])
    spans = np.array([bool(predictions.answers[example.id]) for example in examples])
    exact, _ = question_scores(examples, predictions.answers, normalize)
    known, rows = float(has_answer.mean()), []
    for share in shares:
        moved = move_threshold(threshold, scale, known, share)
        answered = spans & (odds <= moved)
        there = np.where(has_answer, share / known, (1 - share) / (1 - known))
        row = {"answerable": share, "threshold": moved}
        for suffix, weights in (("", np.ones_like(there)), ("_there", there)):
            given = float(weights[answered].sum())
            row[f"answered{suffix}"] = given / float(weights.sum())
            row[f"right{suffix}"] = float((weights * exact)[answered].sum()) / given if given else 1.0
        rows.append(row)
    return rows


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))
