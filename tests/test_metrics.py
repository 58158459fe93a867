"""Official figures to the last digit, and the honest ones against brute force."""

import dataclasses
import gzip
import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from helpers import DATA, GOLDEN, predicted
from hypothesis import given
from hypothesis import strategies as st

from squad import (
    Answer,
    DataError,
    Example,
    Predictions,
    apply_threshold,
    evaluate,
    headline,
    official_metrics,
    question_scores,
    read_examples,
    results_table,
    tune_threshold,
)
from squad.metrics import article_halves, bootstrap_interval, cross_fitted_answers, exact_match, f1_score
from squad.scoring import normalize_answer
from squad.spans import CERTAIN

OFFICIAL = json.loads(gzip.decompress((GOLDEN / "official.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def dev():
    return read_examples(DATA / "dev.json.gz")


@pytest.mark.parametrize("system", OFFICIAL)
def test_every_official_figure_to_the_last_digit(dev, system):
    """Real predictions of three published systems; expected: what evaluate-v2.0.py prints for them."""
    golden = OFFICIAL[system]
    assert official_metrics(dev, golden["answers"]) == golden["plain"]
    assert official_metrics(dev, golden["answers"], golden["odds"], threshold=0.5) == golden["with_odds"]


def test_always_empty_scores_the_unanswerable_share(dev):
    metrics = official_metrics(dev, dict.fromkeys([e.id for e in dev], ""))
    assert metrics["exact"] == metrics["f1"] == 100.0 * 665 / 1323
    assert (metrics["HasAns_f1"], metrics["NoAns_f1"]) == (0.0, 100.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The  Mona\tLisa!", "mona lisa"), ("a.b", "ab"), ("an-other the", "another"), ("theatre", "theatre"), ("A", "")],
)
def test_official_words(text, expected):
    assert normalize_answer(text) == expected.split()


def test_f1_by_hand():
    # 2 words shared of 3 predicted and 4 gold: P = 2/3, R = 1/2, F1 = 4/7
    assert f1_score("red green blue blue", "green blue pink") == pytest.approx(4 / 7)
    assert f1_score("", "the") == 1.0
    assert f1_score("x", "") == 0.0
    assert exact_match("The Cat.", "cat") == 1.0


def test_missing_predictions_are_an_error(dev):
    with pytest.raises(DataError, match="1323 of 1323 questions have no prediction"):
        question_scores(dev, {})


def test_no_questions_and_missing_odds_are_an_error(dev):
    answers = {example.id: "" for example in dev}
    for call in (
        lambda: official_metrics([], {}),
        lambda: evaluate([], Predictions({}, {}, {})),
        lambda: tune_threshold([], np.zeros(0), {}),
    ):
        with pytest.raises(DataError, match="no questions to score, expected at least one"):
            call()
    for call in (
        lambda: official_metrics(dev, answers, {}),
        lambda: tune_threshold(dev, np.zeros(len(dev)), {}),
    ):
        with pytest.raises(DataError, match=r"1323 of 1323 questions have no prediction: .* is not in odds"):
            call()


# ----------------------------------------------------------------------------------------- thresholds


def example(i, answerable, title="t"):
    answers = (Answer("x", 0),) if answerable else ()
    return Example(str(i), "q", "x", answers, not answerable, title)


cases = st.lists(
    st.tuples(st.booleans(), st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=12,
)


@given(cases, st.randoms())
def test_tuned_threshold_equals_brute_force_whatever_the_order(rows, random):
    random.shuffle(rows)
    examples = [example(i, answerable) for i, (answerable, _, _) in enumerate(rows)]
    odds = {str(i): value for i, (_, value, _) in enumerate(rows)}
    f1 = np.array([score if answerable else 0.0 for answerable, _, score in rows])

    def mean_at(threshold):
        return np.mean([float(not a) if o > threshold else f for (a, o, _), f in zip(rows, f1, strict=True)])

    threshold, best = tune_threshold(examples, f1, odds)
    assert best == pytest.approx(100 * mean_at(threshold))
    assert best == pytest.approx(100 * max(mean_at(t) for t in (-9, -1.5, -0.5, 0.2, 1, 9)))
    values = sorted(set(odds.values()))
    between = [values[0] - 1, *((a + b) / 2 for a, b in pairwise(values)), values[-1] + 1]
    as_good = [abs(t) for t in between if 100 * mean_at(t) == pytest.approx(best)]
    assert abs(threshold) == min(as_good)  # of equally good ones the nearest to 0


def predicting_x(odds):
    """The answer "x" to every question, at these null odds."""
    return predicted(dict.fromkeys(odds, "x"), odds)


def test_a_positive_threshold_is_found_on_always_answer_predictions():
    """Blanked at 0 first, the question at odds 1 looks right to leave alone; answering it is better."""
    examples = [example(0, True), example(1, True), example(2, False)]
    predictions = predicting_x({"0": -1.0, "1": 1.0, "2": 2.0})
    metrics = evaluate(examples, predictions)
    assert metrics["threshold"] == 1.5
    assert metrics["f1"] == metrics["best_f1"] == 100.0
    blanked = apply_threshold(predictions, 0.0)
    assert official_metrics(examples, blanked, predictions.null_odds, 9.0)["best_f1_thresh"] <= 0


def test_a_blank_text_has_no_say_in_the_threshold():
    """Halfway to its odds, which are millions, would be nowhere."""
    examples = [example(i, True) for i in range(3)]
    for last in (2e5, CERTAIN, CERTAIN + 3.0):
        threshold, best = tune_threshold(examples, np.array([1.0, 1.0, 0.0]), {"0": 1.0, "1": 3.0, "2": last})
        assert best == pytest.approx(200 / 3)
        assert threshold == (4.0 if last >= CERTAIN else (3.0 + last) / 2)
    assert tune_threshold(examples[:1], np.array([0.0]), {"0": CERTAIN})[1] == 0.0


def test_an_interval_about_one_text_draws_its_questions():
    examples = [example(i, True, "a") for i in range(100)]
    low, high = bootstrap_interval(examples, np.arange(100) % 2.0)
    assert high - low == pytest.approx(2 * 1.96 * 100 * 0.5 / 100**0.5, rel=0.15)  # 100 coins


def test_halves_hold_whole_articles_of_like_size():
    examples = [
        example(f"{title}{i}", True, title) for title, n in zip("abcde", (5, 4, 3, 2, 2), strict=True) for i in range(n)
    ]
    half = article_halves(examples)
    assert half.sum() == 9  # a, d and e; the other half is b and c, 7
    for title in "abcde":
        assert len({half[i] for i, e in enumerate(examples) if e.title == title}) == 1


def test_cross_fitting_uses_the_other_halfs_threshold():
    """Half a wants to answer all, half b nothing: each is judged by the other's wish.

    Blanked at 0 first, half a's threshold would be 0 instead of 3, and b's questions would stay unanswered.
    """
    examples = [example(0, True, "a"), example(1, True, "a"), example(2, False, "b"), example(3, False, "b")]
    odds = {"0": 1.0, "1": 2.0, "2": 0.5, "3": 0.25}
    answers = dict.fromkeys(odds, "x")
    assert cross_fitted_answers(examples, answers, odds) == {"0": "", "1": "", "2": "x", "3": "x"}
    assert official_metrics(examples, cross_fitted_answers(examples, answers, odds))["f1"] == 0.0
    with pytest.raises(DataError, match="at least two articles"):
        cross_fitted_answers(examples[:2], answers, odds)


def test_bootstrap_draws_articles_not_questions():
    """20 articles of 10 questions, all right or all wrong: the interval is that of 20 coins, not of 200."""
    examples = [example(i, True, str(i // 10)) for i in range(200)]
    scores = np.array([float((i // 10) % 2) for i in range(200)])
    low, high = bootstrap_interval(examples, scores)
    width_of_20_coins = 2 * 1.96 * 100 * 0.5 / 20**0.5
    assert high - low == pytest.approx(width_of_20_coins, rel=0.15)
    assert low < 50 < high
    assert bootstrap_interval(examples, scores) == (low, high)


def test_the_interval_is_of_the_mean_over_questions_whatever_the_articles_sizes():
    """Against a loop that puts the drawn articles' questions one after the other."""
    sizes, rng = {"a": 1, "b": 2, "c": 9, "d": 4}, np.random.default_rng(5)
    examples = [example(f"{title}{i}", True, title) for title, size in sizes.items() for i in range(size)]
    scores = {title: rng.random(size) for title, size in sizes.items()}
    drawn = np.random.default_rng(3).integers(0, 4, (500, 4))
    means = [np.concatenate([scores["abcd"[article]] for article in row]).mean() for row in drawn]
    found = bootstrap_interval(examples, np.concatenate(list(scores.values())), samples=500, seed=3)
    assert found == pytest.approx(tuple(100 * np.percentile(means, [2.5, 97.5])))


def test_of_one_article_the_texts_are_drawn():
    """An interval over one article alone would have no width. The same with each text as an article."""
    alike = [Example(str(i), "q", f"text {i // 10}", (), True, "one") for i in range(200)]
    articles = [dataclasses.replace(e, title=e.context) for e in alike]
    scores = np.array([float((i // 10) % 2) for i in range(200)])
    low, high = bootstrap_interval(alike, scores)
    assert low < high
    assert (low, high) == bootstrap_interval(articles, scores)


@pytest.mark.parametrize(("texts", "titles"), [(["x" * 200_000, *map(str, range(299))], ["one"] * 300),
                                               (["x"] * 5_000, [str(i) for i in range(5_000)])])  # fmt: skip
def test_an_interval_takes_little_memory(texts, titles):
    """Not all texts padded to the longest (240 MB here), nor all samples at once (80 MB)."""
    examples = [
        Example(str(i), "q", t, (), True, title) for i, (t, title) in enumerate(zip(texts, titles, strict=True))
    ]
    scores = np.arange(len(examples)) % 2 * 1.0
    tracemalloc.start()
    bootstrap_interval(examples, scores)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_each_interval_is_of_its_own_figure():
    examples = [Example(str(i), "q", "x y", (Answer("x y", 0),), False, str(i)) for i in range(9)]
    answers = {str(i): ("x y", "x", "z")[i % 3] for i in range(9)}
    metrics = evaluate(examples, predicted(answers, dict.fromkeys(answers, -1.0)))["always_answer"]
    exact, f1 = question_scores(examples, answers)
    assert tuple(metrics["exact_interval"]) == bootstrap_interval(examples, exact)
    assert tuple(metrics["f1_interval"]) == bootstrap_interval(examples, f1)
    assert metrics["exact_interval"] != metrics["f1_interval"]


def test_a_given_threshold_is_used_and_said():
    examples = [example(0, True, "a"), example(1, False, "b")]
    predictions = predicting_x({"0": -1.0, "1": 1.0})
    metrics = evaluate(examples, predictions, threshold=5.0)
    assert (metrics["threshold"], metrics["f1"]) == (5.0, 50.0)
    assert "the run's own threshold" in results_table(metrics)
    tuned = evaluate(examples, predictions)
    assert (tuned["threshold"], tuned["f1"]) == (0.0, 100.0)
    uneven = [*examples, example(2, False, "c")]  # two of three have no answer
    silent = evaluate(uneven, predicting_x({"0": -1.0, "1": 1.0, "2": -1.0}))["always_empty"]
    assert (silent["f1"], silent["exact"]) == pytest.approx((200 / 3, 200 / 3))
    assert (silent["HasAns_f1"], silent["NoAns_f1"]) == (0.0, 100.0)
    table = results_table(tuned)
    for part in ("optimistic", 'always "" (baseline)', "50.00", "cross-fitted"):
        assert part in table
    json.dumps(tuned, allow_nan=False)


@pytest.mark.parametrize("name", ["answers", "null_odds", "nbest"])
def test_evaluating_names_a_question_without_prediction(name):
    examples = [example(0, True, "a"), example(1, False, "b")]
    predictions = predicting_x({"0": -1.0, "1": 0.0})
    del getattr(predictions, name)["1"]
    with pytest.raises(DataError, match=f"1 of 2 questions have no prediction: 1 is not in {name}"):
        evaluate(examples, predictions)


# ------------------------------------------------------------------------- every question has an answer


def all_answerable():
    """Two articles, odds 1, -2, 3; only the first and last are answered rightly."""
    examples = [example(0, True, "a"), example(1, True, "b"), example(2, True, "b")]
    predictions = predicting_x({"0": 1.0, "1": -2.0, "2": 3.0})
    predictions.answers["1"] = "y"
    return examples, predictions


def test_where_all_have_an_answer_the_threshold_answers_all_and_always_answering_is_quoted():
    examples, predictions = all_answerable()
    metrics = evaluate(examples, predictions)
    assert metrics["threshold"] == 3.0
    assert apply_threshold(predictions, metrics["threshold"]) == predictions.answers
    assert metrics["exact"] == metrics["always_answer"]["exact"] == pytest.approx(200 / 3)
    assert headline(metrics) is metrics["always_answer"]
    # cross-fitted, question 0 would be at half b's threshold, and a threshold of 0 would blank both right answers
    assert "crossfit" not in metrics
    assert metrics["at_zero"]["exact"] == 0.0
    assert evaluate(examples, predicting_x({"0": -1.0, "1": -2.0, "2": -3.0}))["threshold"] == 0.0
    json.dumps(metrics, allow_nan=False)


def test_a_context_without_a_token_has_no_say_in_that_threshold():
    """Its answer is "" at any threshold; its odds are the millions of `CERTAIN`."""
    examples, predictions = all_answerable()
    predictions.answers["1"], predictions.null_odds["1"] = "", 1e6
    assert evaluate(examples, predictions)["threshold"] == 3.0
    predictions.answers.update({"0": "", "2": ""})
    assert evaluate(examples, predictions)["threshold"] == 0.0


def test_the_table_where_all_have_an_answer():
    examples, predictions = all_answerable()
    tuned = results_table(evaluate(examples, predictions) | {"left_out": 1234}).splitlines()
    assert [line[:28].strip() for line in tuned[1:3]] == ["always answering", "threshold 0"]
    assert tuned[1].split()[2] == "66.67"
    assert tuned[1].split()[-1] == "-"
    assert (
        tuned[3] == "3 questions, all with an answer (1,234 without one left out): read the line for always answering"
    )
    assert tuned[4].startswith("the null threshold means nothing here")
    given = results_table(evaluate(examples, predictions, threshold=2.0)).splitlines()
    assert [line[:28].strip() for line in given[1:4]] == ["always answering", "threshold 0", "the run's own threshold"]
    assert given[4] == "3 questions, all with an answer: read the line for always answering"
    mixed = evaluate([example(0, True, "a"), example(1, False, "b")], predicting_x({"0": -1.0, "1": 1.0}))
    assert "read the line for always answering" not in results_table(mixed)
    assert headline(mixed) is mixed["crossfit"]
