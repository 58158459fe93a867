"""How often to answer: the threshold for another share of answerable questions."""

import dataclasses

import numpy as np
import pytest
from helpers import example, predicted
from hypothesis import given
from hypothesis import strategies as st

import squad
from squad.prior import coverage, move_threshold, null_scale

shares = st.floats(0.01, 0.99)


def sample(answerable, size, seed):
    """Null odds of two bells of one width around -1 (with an answer) and 3 (without): their log odds are a line.

    With standard deviation 2 the log odds of "no answer" are (3 - -1) / 2**2 = 1 per logit, so the scale is 1.
    """
    random = np.random.default_rng(seed)
    has = random.random(size) < answerable
    odds = random.normal(np.where(has, -1.0, 3.0), 2.0)
    answer = [squad.Answer("vin", 0)]
    examples = [example(answers=answer if h else (), id=str(i), title=f"t{i % 7}") for i, h in enumerate(has)]
    return examples, predicted({str(i): "vin" for i in range(size)}, {str(i): float(o) for i, o in enumerate(odds)})


def best_threshold(examples, predictions):
    _, f1 = squad.question_scores(examples, predictions.answers)
    return squad.tune_threshold(examples, f1, predictions.null_odds)[0]


def test_the_scale_is_the_slope_of_the_log_odds():
    examples, predictions = sample(0.4, 40_000, seed=0)
    assert null_scale(examples, predictions.null_odds) == pytest.approx(1.0, rel=0.05)
    tripled = {id: 3 * odds + 5 for id, odds in predictions.null_odds.items()}
    assert null_scale(examples, tripled) == pytest.approx(3 * null_scale(examples, predictions.null_odds))


@pytest.mark.parametrize("share", [0.2, 0.7, 0.95])
def test_the_moved_threshold_is_the_best_one_there(share):
    """For the bells above the best threshold is known: the mean of both centres plus the log odds of the share."""
    moved = move_threshold(1.0, 1.0, 0.5, share)
    assert moved == pytest.approx(1.0 + np.log(share / (1 - share)))
    examples, predictions = sample(share, 100_000, seed=1)
    found = best_threshold(examples, predictions)

    def right(threshold):
        given = squad.apply_threshold(predictions, threshold)
        return squad.question_scores(examples, given)[0].mean()

    assert right(found) - right(moved) < 0.002  # the top is flat, so scores are compared and not thresholds


@given(st.floats(-5, 5), st.floats(0.1, 5), shares, shares)
def test_moving_there_and_back_changes_nothing(threshold, scale, known, expected):
    assert move_threshold(threshold, scale, known, known) == threshold
    moved = move_threshold(threshold, scale, known, expected)
    assert move_threshold(moved, scale, expected, known) == pytest.approx(threshold, abs=1e-9)
    assert (moved > threshold) == (expected > known) or moved == pytest.approx(threshold)


def test_a_text_without_tokens_does_not_move_the_scale(tokenizer):
    examples, predictions = sample(0.4, 1_000, seed=2)
    empty = example(context=" ", answers=(), id="empty")
    windows = squad.make_windows([empty], tokenizer)
    nothing = squad.WindowPredictions(
        np.full((1, 1), -np.inf), np.zeros((1, 1), int), np.zeros((1, 1), int), np.zeros(1), np.zeros(1)
    )
    odds = predictions.null_odds | squad.decode([empty], windows, nothing).null_odds
    assert null_scale([*examples, empty], odds) == null_scale(examples, predictions.null_odds)


def test_no_scale_where_odds_say_nothing():
    examples = [example(answers=[squad.Answer("vin", 0)] if i % 2 else (), id=str(i)) for i in range(8)]
    assert null_scale(examples[1::2], {e.id: float(i) for i, e in enumerate(examples)}) is None
    assert null_scale(examples, dict.fromkeys((e.id for e in examples), 1.0)) is None
    backwards = {e.id: 1.0 if e.answers else -1.0 for e in examples}
    assert null_scale(examples, backwards) is None
    perfect = {id: -odds for id, odds in backwards.items()}
    assert 0 < null_scale(examples, perfect) < 1  # told apart without an error, and still finite


def test_coverage_equals_counting():
    examples, predictions = sample(0.4, 500, seed=2)
    wrong = {e.id: "a mistborn" for e in examples[::3]}
    predictions = dataclasses.replace(predictions, answers=predictions.answers | wrong)
    has = np.array([bool(e.answers) for e in examples])
    for row in coverage(examples, predictions, 0.3, 1.2, shares=(0.5, 0.9)):
        moved = move_threshold(0.3, 1.2, has.mean(), row["answerable"])
        assert row["threshold"] == moved
        given = np.array([predictions.null_odds[e.id] <= moved for e in examples])
        right = np.array([h and e.id not in wrong for e, h in zip(examples, has, strict=True)])
        assert row["answered"] == pytest.approx(given.mean())
        assert row["right"] == pytest.approx(right[given].mean())
        # The weighted figures by Bayes' rule, from the rates of each kind.
        share = row["answerable"]
        answered = share * given[has].mean() + (1 - share) * given[~has].mean()
        assert row["answered_there"] == pytest.approx(answered)
        assert row["right_there"] == pytest.approx(share * (right & given)[has].mean() / answered)


def test_coverage_without_any_answer_given():
    examples, predictions = sample(0.4, 50, seed=3)
    (row,) = coverage(examples, predictions, -100.0, 1.0, shares=(0.5,))
    assert (row["answered"], row["right"], row["right_there"]) == (0.0, 1.0, 1.0)


def test_an_evaluation_has_what_a_reader_needs():
    examples, predictions = sample(0.4, 500, seed=4)
    metrics = squad.evaluate(examples, predictions)
    has = sum(bool(e.answers) for e in examples) / len(examples)
    assert metrics["prior"]["answerable"] == has
    assert metrics["prior"]["null_scale"] == null_scale(examples, predictions.null_odds)
    assert [row["answerable"] for row in metrics["prior"]["coverage"]] == [0.5, 0.67, 0.9]
    assert "prior" not in squad.evaluate(examples, predictions, threshold=0.0)  # nothing was fitted here
    assert "prior" not in squad.evaluate([e for e in examples if e.answers], predictions)
