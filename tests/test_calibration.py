"""Probabilities, temperature and calibration error."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(scores, st.lists(scores, max_size=5), scores, st.floats(0.1, 10))
def test_empty_is_most_probable_exactly_where_the_threshold_says_so(null, spans, threshold, temperature):
    chances = probabilities(entries(null, spans), threshold, temperature)
    assert chances.sum() == pytest.approx(1)
    if spans and abs(null - max(spans) - threshold) > 1e-6:
        silent = null - max(spans) > threshold
        assert (chances[-1] > chances[:-1].max()) == silent


def test_calibration_error_worked_example():
    # two bins of 15: [0.4, 0.4667) holds 0.45 twice, one right: |1 - 0.9|; the last holds 1.0, wrong: |0 - 1|
    error = calibration_error(np.array([0.45, 0.45, 1.0]), np.array([True, False, False]))
    assert error == pytest.approx((0.1 + 1.0) / 3)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0


def drawn(temperature, E=4000):
    """Questions of two articles whose right answer is drawn from softmax(z / temperature), "" among the candidates."""
    rng = np.random.default_rng(0)
    examples, nbest, odds, answers = [], {}, {}, {}
    for i in range(E):
        listed = entries(*(lambda z: (z[0], z[1:]))(rng.normal(0, 3, 4).tolist()))
        chances = probabilities(listed, 0.5, temperature)
        gold = listed[rng.choice(4, p=chances)]["text"]
        id = str(i)
        given = (Answer(gold, 0),) if gold else ()
        examples.append(Example(id, "?", gold, given, not gold, f"article {i % 2}"))
        spans = [e for e in listed if e["start"] is not None]
        best = max(spans, key=lambda e: e["score"])
        nbest[id], answers[id], odds[id] = listed, best["text"], listed[-1]["score"] - best["score"]
    return examples, Predictions(answers, odds, nbest)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_drew_the_answers_is_found(temperature):
    examples, predictions = drawn(temperature)
    result = calibrate(examples, predictions, 0.5)
    assert result["temperature"] == pytest.approx(temperature, rel=0.12)
    # 4,000 draws leave a true calibration off by about 1% over 15 bins
    assert result["ece_after"] < 0.03
    assert result["ece_crossfit"] < 0.03
    if temperature != 1:
        assert result["ece_before"] > 0.05
    assert calibrate(examples, predictions, 0.5, temperature=2.0)["temperature"] == 2.0
    assert "ece_crossfit" not in calibrate(examples, predictions, 0.5, temperature=2.0)
