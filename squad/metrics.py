"""Predictions -> metrics: the official SQuAD 2.0 figures, and the cross-fitted ones that can be quoted.

Scores are percentages. `odds` are null odds: the answer to a question is "" when its odds exceed the threshold.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from squad.examples import DataError, Example
from squad.scoring import Normalize, normalize_answer
from squad.spans import CERTAIN


def exact_match(gold: str, predicted: str, normalize: Normalize = normalize_answer) -> float:
    return float(normalize(gold) == normalize(predicted))


def f1_score(gold: str, predicted: str, normalize: Normalize = normalize_answer) -> float:
    """F1 over the words they have in common; when either has none, 1 if both have none, else 0."""
    return _f1(normalize(gold), normalize(predicted))


def _f1(gold: list[str], predicted: list[str]) -> float:
    if not gold or not predicted:
        return float(gold == predicted)
    common = sum((Counter(gold) & Counter(predicted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def question_scores(
    examples: Sequence[Example], answers: Mapping[str, str], normalize: Normalize = normalize_answer
) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1 of each question, (E,) each, 0 to 1: the best over its gold answers.

    Args: normalize: a text -> the words by which answers are compared; the official script's by default.
    Raises DataError when there is no question, or answers are missing.
    """
    check_complete(examples, answers, "answers")
    exact, f1 = np.zeros(len(examples)), np.zeros(len(examples))
    for i, example in enumerate(examples):
        # Like the official script, drop gold answers without words; when none is left, the right answer is "".
        golds = [gold for answer in example.answers if (gold := normalize(answer.text))] or [[]]
        predicted = normalize(answers[example.id])
        exact[i] = predicted in golds
        f1[i] = max(_f1(gold, predicted) for gold in golds)
    return exact, f1


def check_complete(examples: Sequence[Example], predicted: Mapping[str, object], name: str) -> None:
    """Raise DataError when there is no question, or one's id is not predicted; name: what the mapping is called."""
    if not examples:
        raise DataError("no questions to score, expected at least one")
    missing = [example.id for example in examples if example.id not in predicted]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(examples)} questions have no prediction: {missing[0]} is not in {name}"
        )


def official_metrics(
    examples: Sequence[Example],
    answers: Mapping[str, str],
    odds: Mapping[str, float] | None = None,
    threshold: float = 1.0,
    normalize: Normalize = normalize_answer,
) -> dict[str, float]:
    """What evaluate-v2.0.py prints, to the last digit and under its names.

    With `odds` (its --na-prob-file), questions above `threshold` (its --na-prob-thresh, 1.0 by default) count as
    answered "", and best_exact, best_f1 and their thresholds are added. These two searches break ties by the order of
    the questions, as the official script does; `tune_threshold` does not.
    Raises DataError when there is no question, or answers or odds are missing.
    """
    if odds is not None:
        check_complete(examples, odds, "odds")
    has_answer = np.array([bool(e.answers) for e in examples])
    raw_exact, raw_f1 = question_scores(examples, answers, normalize)
    silent = np.array([odds is not None and odds[e.id] > threshold for e in examples], bool)
    exact, f1 = (np.where(silent, ~has_answer, scores) for scores in (raw_exact, raw_f1))
    metrics = mean_scores(examples, exact, f1)
    if odds is not None:
        answered = np.array([bool(answers[e.id]) for e in examples])
        values = np.array([odds[e.id] for e in examples])
        for name, scores in (("exact", raw_exact), ("f1", raw_f1)):
            best, at = _official_best(scores, has_answer, answered, values)
            metrics |= {f"best_{name}": best, f"best_{name}_thresh": at}
    return metrics


def mean_scores(examples: Sequence[Example], exact: np.ndarray, f1: np.ndarray) -> dict[str, float]:
    """Means and question counts, of all and of those with and without an answer, under the official names.

    Args: exact, f1 (E,): as `question_scores` gives them.
    """
    has_answer = np.array([bool(e.answers) for e in examples])
    metrics = _means(exact, f1)
    for name, chosen in (("HasAns", has_answer), ("NoAns", ~has_answer)):
        if chosen.any():
            metrics |= {f"{name}_{key}": value for key, value in _means(exact[chosen], f1[chosen]).items()}
    return metrics


def _means(exact: np.ndarray, f1: np.ndarray) -> dict[str, float]:
    # Python's sum goes from left to right, as the official script's does; numpy's differs in the last digit.
    total = len(exact)
    return {
        "exact": 100.0 * sum(exact.tolist()) / total,
        "f1": 100.0 * sum(f1.tolist()) / total,
        "total": total,
    }


def _official_best(
    scores: np.ndarray, has_answer: np.ndarray, answered: np.ndarray, odds: np.ndarray
) -> tuple[float, float]:
    """The best score over all thresholds, and that threshold: the questions are taken one by one, lowest odds first."""
    gains = np.where(has_answer, scores, np.where(answered, -1.0, 0.0))
    current = best = float((~has_answer).sum())  # a threshold below all odds: every answer is ""
    best_at = 0.0
    for i in np.argsort(odds, kind="stable").tolist():
        current += float(gains[i])
        if current > best:
            best, best_at = current, float(odds[i])
    return 100.0 * best / len(scores), best_at


def tune_threshold(examples: Sequence[Example], f1: np.ndarray, odds: Mapping[str, float]) -> tuple[float, float]:
    """The threshold with the best mean F1, and that mean, 0 to 100.

    Args: f1 (E,): of the always-answer predictions. Predictions that were already set to "" above some threshold must
        not be used: they do not show what an answer there would have scored, so the best threshold found could never
        lie above it.
    Questions with equal odds stay together, whatever their order. The threshold lies halfway between two neighbouring
    odds, or 1 beyond the last; where several are equally good, it is the one nearest 0. Questions about a blank text,
    whose odds are those of `CERTAIN`, have no say in it. It is optimistic on the examples it was tuned on.
    Raises DataError when there is no question, or odds are missing.
    """
    check_complete(examples, odds, "odds")
    values = np.array([odds[e.id] for e in examples])
    order = np.argsort(values, kind="stable")
    values = values[order]
    gain = (f1 - np.array([float(not e.answers) for e in examples]))[order]
    # total[k]: the sum of F1 when the k questions of lowest odds are answered, the others not
    total = sum(not e.answers for e in examples) + np.concatenate([[0.0], np.cumsum(gain)])
    cut = np.concatenate([[True], values[1:] != values[:-1], [True]])  # never between equal odds
    following = np.where(values[1:] < CERTAIN / 2, values[1:], values[:-1] + 2)
    thresholds = np.concatenate([values[:1] - 1, (values[:-1] + following) / 2, values[-1:] + 1])
    best = total[cut].max()
    candidates = thresholds[cut & (total >= best - 1e-9)]
    return float(candidates[np.argmin(np.abs(candidates))]), 100.0 * float(best) / len(examples)


def article_halves(examples: Sequence[Example]) -> np.ndarray:
    """(E,) bool: articles in two halves of about equally many questions: largest first, each to the smaller half."""
    sizes = Counter(example.title for example in examples)
    first, counts = set(), [0, 0]
    for title, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        half = int(counts[1] < counts[0])
        counts[half] += size
        if half == 0:
            first.add(title)
    return np.array([example.title in first for example in examples], bool)


def cross_fitted_answers(
    examples: Sequence[Example],
    answers: Mapping[str, str],
    odds: Mapping[str, float],
    normalize: Normalize = normalize_answer,
) -> dict[str, str]:
    """Always-answer predictions -> answers, each half of the articles at the threshold tuned on the other half.

    No question influences its own threshold, so the score of these answers is not optimistic.
    Raises DataError when there is only one article.
    """
    half = article_halves(examples)
    if half.all() or not half.any():
        raise DataError("cross-fitting needs at least two articles, found one")
    _, f1 = question_scores(examples, answers, normalize)
    chosen: dict[str, str] = {}
    for this in (half, ~half):
        other = np.flatnonzero(~this)
        threshold, _ = tune_threshold([examples[i] for i in other], f1[other], odds)
        for i in np.flatnonzero(this):
            id = examples[i].id
            chosen[id] = "" if odds[id] > threshold else answers[id]
    return chosen


def _numbered(names: Sequence[str]) -> np.ndarray:
    """For each name its number among the distinct ones, in order. (np.unique would pad all texts to the longest.)"""
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names])


def bootstrap_interval(
    examples: Sequence[Example], scores: np.ndarray, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean score, 0 to 100, by drawing whole articles with replacement.

    Questions about one article succeed and fail together, so drawing single questions would make the interval too
    narrow (Efron and Tibshirani 1993, chapter 13). Where all are about one article, its texts are drawn; where there is
    one text, single questions.
    """
    group = _numbered([example.title for example in examples])
    if not group.any():
        group = _numbered([example.context for example in examples])
    if not group.any():
        group = np.arange(len(examples))
    totals, sizes = np.bincount(group, weights=scores), np.bincount(group)
    rng, means = np.random.default_rng(seed), np.empty(samples)
    for i in range(samples):  # one at a time: all at once would take gigabytes where every question is an article
        drawn = rng.integers(0, len(sizes), len(sizes))
        means[i] = totals[drawn].sum() / sizes[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return 100.0 * float(low), 100.0 * float(high)
