"""Probabilities, temperature and calibration error."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import squad
from squad import Answer, Example, Predictions
from squad.calibration import calibrate, calibration_error
from squad.spans import probabilities

scores = st.floats(-20, 20)


def entries(null, spans):
    found = [{"text": f"span {i}", "score": s, "start": i, "end": i + 1} for i, s in enumerate(spans)]
    return [*found, {"text": "", "score": null, "start": None, "end": None}]


def test_probabilities_worked_example():
    # z = 1, 3, and 2 - 1 for "": exp of halves 0.5, 1.5, 0.5
    weights = [math.exp(0.5), math.exp(1.5), math.exp(0.5)]
    expected = np.array(weights) / sum(weights)
    np.testing.assert_allclose(probabilities(entries(2.0, [1.0, 3.0]), threshold=1.0, temperature=2.0), expected)

    # a bonus of log 4 for the best: its weight times 4
    weights[1] *= 4
    found = probabilities(entries(2.0, [1.0, 3.0]), threshold=1.0, temperature=2.0, best_bonus=math.log(4))
    np.testing.assert_allclose(found, np.array(weights) / sum(weights))


@given(scores, st.lists(scores, max_size=5), scores, st.floats(0.1, 10), st.floats(0, 3))
def test_empty_is_most_probable_exactly_where_the_threshold_says_so(null, spans, threshold, temperature, bonus):
    chances = probabilities(entries(null, spans), threshold, temperature, bonus)
    assert chances.sum() == pytest.approx(1)
    if spans and abs(null - max(spans) - threshold) > 1e-6:
        silent = null - max(spans) > threshold
        assert (chances[-1] > chances[:-1].max()) == silent


def test_calibration_error_worked_example():
    # two bins of 15: [0.4, 0.4667) holds 0.45 twice, one right: |1 - 0.9|; the last holds 1.0, wrong: |0 - 1|
    error = calibration_error(np.array([0.45, 0.45, 1.0]), np.array([True, False, False]))
    assert error == pytest.approx((0.1 + 1.0) / 3)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0


def drawn(temperature, bonus=0.0, E=4000, other=None):
    """Questions of two articles whose right answer is drawn from `probabilities`, "" among the candidates.

    other: the temperature of the second article, if it has one of its own.
    """
    rng = np.random.default_rng(0)
    examples, nbest, odds, answers = [], {}, {}, {}
    for i in range(E):
        listed = entries(*(lambda z: (z[0], z[1:]))(rng.normal(0, 3, 4).tolist()))
        chances = probabilities(listed, 0.5, other if other and i % 2 else temperature, bonus)
        gold = listed[rng.choice(4, p=chances)]["text"]
        id = str(i)
        given = (Answer(gold, 0),) if gold else ()
        examples.append(Example(id, "?", gold, given, not gold, f"article {i % 2}"))
        spans = [e for e in listed if e["start"] is not None]
        best = max(spans, key=lambda e: e["score"])
        nbest[id], answers[id], odds[id] = listed, best["text"], listed[-1]["score"] - best["score"]
    return examples, Predictions(answers, odds, nbest)


@pytest.mark.parametrize(("temperature", "bonus"), [(0.5, 0.0), (1.0, 0.0), (3.0, 0.0), (2.0, 1.0)])
def test_the_temperature_and_bonus_that_drew_the_answers_are_found(temperature, bonus):
    examples, predictions = drawn(temperature, bonus)
    result = calibrate(examples, predictions, 0.5)
    assert result["temperature"] == pytest.approx(temperature, rel=0.15)
    assert result["best_bonus"] == pytest.approx(bonus, abs=0.2)
    # 4,000 draws leave a true calibration off by about 1% over 15 bins
    assert result["ece_after"] < 0.03
    assert result["ece_crossfit"] < 0.03
    if temperature != 1:
        assert result["ece_before"] > 0.05
    given = calibrate(examples, predictions, 0.5, temperature=2.0, best_bonus=0.3)
    assert (given["temperature"], given["best_bonus"]) == (2.0, 0.3)
    assert "ece_crossfit" not in calibrate(examples, predictions, 0.5, temperature=2.0)


def test_the_error_is_that_of_the_probabilities_that_a_reader_gives():
    examples, predictions = drawn(2.0, 1.0, E=200)
    result = calibrate(examples, predictions, 0.5)
    fitted = result["temperature"], result["best_bonus"]
    confidence = np.array([probabilities(predictions.nbest[e.id], 0.5, *fitted).max() for e in examples])
    answers = squad.apply_threshold(predictions, 0.5)
    right = np.array([answers[e.id] == (e.answers[0].text if e.answers else "") for e in examples])
    assert result["ece_after"] == pytest.approx(calibration_error(confidence, right), abs=1e-9)


def test_cross_fitting_takes_the_other_halfs_temperature_and_bonus():
    """Two articles that want different temperatures: each is judged by what the other alone is fitted to."""
    examples, predictions = drawn(0.5, E=600, other=3.0)
    halves = [[e for e in examples if e.title == title] for title in ("article 0", "article 1")]
    fits = [calibrate(half, predictions, 0.5) for half in halves]
    assert fits[0]["temperature"] < 1 < fits[1]["temperature"]
    answers = squad.apply_threshold(predictions, 0.5)
    confidence, right = [], []
    for half, fit in zip(halves, reversed(fits), strict=True):
        for e in half:
            entries = predictions.nbest[e.id]
            confidence.append(probabilities(entries, 0.5, fit["temperature"], fit["best_bonus"]).max())
            right.append(answers[e.id] == (e.answers[0].text if e.answers else ""))
    expected = calibration_error(np.array(confidence), np.array(right))
    assert calibrate(examples, predictions, 0.5)["ece_crossfit"] == pytest.approx(expected, abs=1e-9)


def test_the_bonus_is_never_negative():
    """Answers that are wrong more often than any temperature explains: a malus would fit, but change the answers."""
    examples, predictions = drawn(1.0, E=200)
    wrong = [Example(e.id, "?", "x", (Answer("no such entry", 0),), False, e.title) for e in examples]
    assert calibrate(wrong, predictions, 0.5)["best_bonus"] == 0.0
