"""Scores -> probabilities that can be trusted: temperature scaling (Guo et al. 2017, arXiv 1706.04599)."""

from collections.abc import Sequence

import numpy as np

from squad.examples import Example
from squad.metrics import article_halves, question_scores
from squad.scoring import Normalize, normalize_answer
from squad.spans import Predictions, apply_threshold, shifted_scores

TEMPERATURES = np.geomspace(0.2, 20, 200)  # neighbours differ by 2.3%, less than a dev set can tell apart


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
    normalize: Normalize = normalize_answer,
) -> dict[str, float]:
    """Temperature and expected calibration error (ECE) of the answers at `threshold`: confidence against exact match.

    Args:
        temperature: the one to judge, fitted elsewhere; None: fit it on these examples.
        normalize: what makes a match exact, as for `question_scores`.
    The fitted temperature is the one whose confidences best predict which answers are right; above 1 the model was too
    sure of itself. It is optimistic on these examples, though a single number can overfit little.
    Returns temperature, ece_before (temperature 1), ece_after, and, where it was fitted here and there are at least two
        articles, ece_crossfit: each half of the articles at the other half's temperature.
    """
    log_odds, right = _log_odds(examples, predictions, threshold, normalize)
    fitted = temperature is None
    if fitted:
        temperature = _fit(log_odds, right)
    result = {
        "temperature": temperature,
        "ece_before": calibration_error(_confidence(log_odds, 1.0), right),
        "ece_after": calibration_error(_confidence(log_odds, temperature), right),
    }
    half = article_halves(examples)
    if fitted and half.any() and not half.all():
        confidence = np.zeros(len(examples))
        for this in (half, ~half):
            confidence[this] = _confidence(log_odds[this], _fit(log_odds[~this], right[~this]))
        result["ece_crossfit"] = calibration_error(confidence, right)
    return result


def _fit(log_odds: np.ndarray, right: np.ndarray) -> float:
    """The temperature with the least log loss: its confidences best predict which answers are right."""
    losses = []
    for T in TEMPERATURES:
        confidence = np.clip(_confidence(log_odds, T), 1e-6, 1 - 1e-6)
        losses.append(-np.where(right, np.log(confidence), np.log1p(-confidence)).mean())
    return float(TEMPERATURES[int(np.argmin(losses))])


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


def _confidence(log_odds: np.ndarray, temperature: float) -> np.ndarray:
    """The largest value of the softmax, (E,): its numerator is exp(0)."""
    return 1 / np.exp(log_odds / temperature).sum(1)
