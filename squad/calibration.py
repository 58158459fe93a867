"""Scores -> probabilities that can be trusted: temperature scaling (Guo et al. 2017, arXiv 1706.04599) and a bonus.

Temperature alone makes a softmax over spans too modest where it answers: "the Danube" and "Danube," are one answer to
the metrics, and share one answer's probability. So the log odds of the best entry gain a constant as well:

    log(p / (1 - p)) = -log(sum over the others of exp((z - z_best) / temperature)) + best_bonus

This is Platt's scaling (1999) of the best entry's log odds, with the temperature as its slope.
"""

from collections.abc import Sequence

import numpy as np

from squad.examples import Example
from squad.metrics import article_halves, question_scores
from squad.scoring import Normalize, normalize_answer
from squad.spans import Predictions, apply_threshold, shifted_scores

TEMPERATURES = np.geomspace(0.2, 20, 200)  # neighbours differ by 2.3%, less than a dev set can tell apart
MOST_BONUS = 5.0  # where all answers are right there would be no end


def bin_of(confidence: np.ndarray, bins: int = 15) -> np.ndarray:
    """The number, from 0, of the equally wide bin that each confidence, 0 to 1, falls into."""
    return np.minimum((confidence * bins).astype(int), bins - 1)


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1: |share right - mean confidence| of each bin, weighted by its size (eq. 3)."""
    which = bin_of(confidence, bins)
    gaps = np.bincount(which, weights=right, minlength=bins) - np.bincount(which, weights=confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def calibrate(
    examples: Sequence[Example],
    predictions: Predictions,
    threshold: float,
    temperature: float | None = None,
    best_bonus: float = 0.0,
    normalize: Normalize = normalize_answer,
) -> dict[str, float]:
    """Temperature, bonus and expected calibration error (ECE) at `threshold`: confidence against exact match.

    Args:
        temperature, best_bonus: those to judge, fitted elsewhere; None: fit both on these examples.
        normalize: what makes a match exact, as for `question_scores`.
    The fitted ones are those whose confidences best predict which answers are right. They are optimistic on these
    examples, though two numbers can overfit little.
    Returns temperature, best_bonus, ece_before (temperature 1, no bonus), ece_after, and, where they were fitted here
        and there are at least two articles, ece_crossfit: each half of the articles with the other half's.
    """
    log_odds, right = _log_odds(examples, predictions, threshold, normalize)
    fitted = temperature is None
    if fitted:
        temperature, best_bonus = _fit(log_odds, right)
    result = {
        "temperature": temperature,
        "best_bonus": best_bonus,
        "ece_before": calibration_error(_confidence(log_odds, 1.0, 0.0), right),
        "ece_after": calibration_error(_confidence(log_odds, temperature, best_bonus), right),
    }
    half = article_halves(examples)
    if fitted and half.any() and not half.all():
        confidence = np.zeros(len(examples))
        for this in (half, ~half):
            confidence[this] = _confidence(log_odds[this], *_fit(log_odds[~this], right[~this]))
        result["ece_crossfit"] = calibration_error(confidence, right)
    return result


def _fit(log_odds: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """The temperature and the bonus with the least log loss: their confidences best predict which answers are right."""
    fits = []
    for temperature in TEMPERATURES:
        x = _best_log_odds(log_odds, temperature)
        bonus = _fit_bonus(x, right)
        # log(1 + exp(-x)) where it is right, log(1 + exp(x)) where it is wrong
        loss = np.logaddexp(0.0, np.where(right, -1.0, 1.0) * (x + bonus)).mean()
        fits.append((float(loss), float(temperature), bonus))
    return min(fits)[1:]


def _fit_bonus(x: np.ndarray, right: np.ndarray) -> float:
    """The b >= 0 for which sigmoid(x + b) has the least log loss, by Newton's method. Below 0 another entry than the
    best could become the most probable."""
    b = 0.0
    for _ in range(20):
        p = 1 / (1 + np.exp(-(x + b)))
        step = (right - p).sum() / max((p * (1 - p)).sum(), 1e-6)
        b = min(max(b + float(np.clip(step, -1.0, 1.0)), 0.0), MOST_BONUS)
        if abs(step) < 1e-6:
            break
    return b


def _log_odds(
    examples: Sequence[Example], predictions: Predictions, threshold: float, normalize: Normalize
) -> tuple[np.ndarray, np.ndarray]:
    """Each question's scores minus its best, (E, n), missing ones -inf; whether its answer is an exact match, (E,)."""
    right, _ = question_scores(examples, apply_threshold(predictions, threshold), normalize)
    lists = [predictions.nbest[example.id] for example in examples]
    scores = np.full((len(lists), max(map(len, lists))), -np.inf)
    for row, entries in zip(scores, lists, strict=True):
        row[: len(entries)] = shifted_scores(entries, threshold)
    return scores - scores.max(1, keepdims=True), right > 0


def _best_log_odds(log_odds: np.ndarray, temperature: float) -> np.ndarray:
    """(E,): log(p / (1 - p)) of the best entry, whose numerator in the softmax is exp(0); at most 27."""
    others = np.exp(log_odds / temperature).sum(1) - 1
    return -np.log(np.maximum(others, 1e-12))


def _confidence(log_odds: np.ndarray, temperature: float, best_bonus: float) -> np.ndarray:
    """The largest probability, (E,); see the formula above."""
    return 1 / (1 + np.exp(-(_best_log_odds(log_odds, temperature) + best_bonus)))
