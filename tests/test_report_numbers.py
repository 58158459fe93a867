"""The numbers, ticks and marked texts of squad.report, against brute force, properties and worked examples."""

import gzip
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import DATA, GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from squad import Answer, Example, Predictions, apply_threshold, question_scores, read_examples, tune_threshold
from squad.calibration import calibration_error
from squad.causes import CAUSES
from squad.report import sections
from squad.report.charts import Frame, Series, line_chart, number, spread, ticks
from squad.report.numbers import (
    AROUND,
    INVENTED,
    LENGTHS,
    QUESTION_WORDS,
    SILENT,
    WRONG,
    answer_length,
    average_precision,
    error_kind,
    precision_recall,
    question_word,
    reliability,
    scores_by_group,
    segments,
    thin,
    totals_by_threshold,
    value_at,
    window_group,
    worst_errors,
)

OFFICIAL = json.loads(gzip.decompress((GOLDEN / "official.json.gz").read_bytes()))
# gold texts, what the model says, null odds: few values, so that there are ties
cases = st.lists(
    st.tuples(st.sampled_from([(), ("a b",), ("a b", "c"), ("the",)]), st.sampled_from(["a b", "a", "d", ""]),
              st.integers(-2, 2)),
    min_size=1, max_size=12,
)  # fmt: skip


def drawn(case):
    """A case as examples and predictions."""
    examples, answers, odds = [], {}, {}
    for i, (golds, said, odd) in enumerate(case):
        examples.append(Example(str(i), "?", "a b c d the", tuple(Answer(g, 0) for g in golds), not golds, "t"))
        answers[str(i)], odds[str(i)] = said, float(odd)
    return examples, Predictions(answers, odds, {})


@given(cases)
def test_the_curve_is_the_score_of_the_answers_at_every_threshold(case):
    examples, predictions = drawn(case)
    odds = np.array([predictions.null_odds[e.id] for e in examples])
    answered = question_scores(examples, predictions.answers)
    silent = question_scores(examples, dict.fromkeys(predictions.answers, ""))
    for which in (0, 1):
        thresholds, totals = totals_by_threshold(odds, answered[which], silent[which])
        assert len(thresholds) == len(totals) == len(set(odds.tolist())) + 1
        for at in (-9.0, -2.0, -1.5, -1.0, 0.0, 0.3, 2.0, 9.0, *thresholds.tolist()):
            expected = question_scores(examples, apply_threshold(predictions, at))[which].sum()
            assert value_at(thresholds, totals, at) == pytest.approx(expected)


@pytest.mark.parametrize("system", OFFICIAL)
def test_the_curve_on_real_predictions_peaks_where_the_threshold_is_tuned(system):
    dev, golden = read_examples(DATA / "dev.json.gz"), OFFICIAL[system]
    _, f1 = question_scores(dev, golden["answers"])
    odds = np.array([golden["odds"][e.id] for e in dev])
    silent = np.array([float(not e.answers) for e in dev])
    thresholds, totals = totals_by_threshold(odds, f1, silent)
    at, best = tune_threshold(dev, f1, golden["odds"])
    assert 100 * totals.max() / len(dev) == pytest.approx(best)
    assert 100 * value_at(thresholds, totals, at) / len(dev) == pytest.approx(best)


@given(cases)
def test_precision_and_recall_are_counted(case):
    examples, predictions = drawn(case)
    odds = np.array([predictions.null_odds[e.id] for e in examples])
    says = np.array([bool(predictions.answers[e.id]) for e in examples])
    has = np.array([bool(e.answers) for e in examples])
    right = has & (question_scores(examples, predictions.answers)[0] > 0)
    thresholds, precision, recall = precision_recall(odds, says, right, max(1, int(has.sum())))
    expected = []
    for at in sorted(set(odds.tolist())):
        given = apply_threshold(predictions, at)
        answered = [e for e in examples if given[e.id]]
        hits = sum(e.answers != () and question_scores([e], given)[0][0] > 0 for e in answered)
        if answered:
            expected.append((at, hits / len(answered), hits / max(1, int(has.sum()))))
    np.testing.assert_allclose(np.array([thresholds, precision, recall]).T, np.array(expected).reshape(-1, 3))


def test_precision_and_recall_worked_example():
    # by odds: right, wrong, right; a fourth answerable question is never answered right, so recall ends at 2/3
    odds, right = np.array([1.0, -1.0, 0.0, 2.0]), np.array([True, True, False, False])
    thresholds, precision, recall = precision_recall(odds, np.ones(4, bool), right, 3)
    assert thresholds.tolist() == [-1, 0, 1, 2]
    assert precision.tolist() == [1, 1 / 2, 2 / 3, 2 / 4]
    assert recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert average_precision(precision, recall) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_the_bins_are_those_of_the_calibration_error(answers, bins):
    confidence, right = np.array([c for c, _ in answers]), np.array([float(r) for _, r in answers])
    found = reliability(confidence, right, bins)
    assert found["count"].sum() == len(answers)
    error = np.nansum(found["count"] * np.abs(found["right"] - found["confidence"])) / len(answers)
    assert error == pytest.approx(calibration_error(confidence, right, bins), abs=1e-9)
    for low in np.flatnonzero(found["count"]):
        assert low / bins - 1e-9 <= found["confidence"][low] <= (low + 1) / bins + 1e-9


def test_groups_worked_examples():
    questions = {
        "Who is Vin?": "who", "Whose crew?": "who", "In what year did he say who won?": "what", "HOW MANY?": "how",
        "Name the year when it ended.": "when", "Is it somewhere?": "other", "\u06a9\u0648\u0646\u061f": "other",
        "What's new?": "what", "": "other",
    }  # fmt: skip
    assert {q: question_word(q) for q in questions} == questions
    texts = {"a": 0, "a b": 1, "a b c": 2, "a b c d": 3, "a b c d e": 3, "1 2 3 4 5 6": 4, "1 2 3 4 5 6 7 8 9 10": 5}
    for text, at in texts.items():
        assert answer_length(Example("", "", text, (Answer(text, 0),), False, "")) == LENGTHS[at]
    assert answer_length(Example("", "", "", (), True, "")) == "no answer"
    assert [window_group(n) for n in (1, 2, 3, 4, 99)] == ["1 window", "2 windows", "3 windows", *["4 or more"] * 2]


@given(st.lists(st.tuples(st.sampled_from(QUESTION_WORDS), st.floats(0, 1)), min_size=1, max_size=40))
def test_groups_are_means_in_order_and_leave_nobody_out(scored):
    names, f1 = [name for name, _ in scored], np.array([score for _, score in scored])
    rows = scores_by_group(names, QUESTION_WORDS, f1 > 0.5, f1)
    assert [row["name"] for row in rows] == [name for name in QUESTION_WORDS if name in names]
    for row in rows:
        mine = [score for name, score in scored if name == row["name"]]
        assert row["count"] == len(mine)
        assert row["f1"] == pytest.approx(100 * sum(mine) / len(mine))
        assert row["exact"] == pytest.approx(100 * sum(score > 0.5 for score in mine) / len(mine))


spans = st.lists(st.integers(0, 40), min_size=2, max_size=2, unique=True).map(lambda ends: tuple(sorted(ends)))


@given(st.lists(spans, max_size=3), st.none() | spans)
def test_marked_pieces_join_to_the_context(gold, said):
    context = "".join(chr(0x1F600 + i) for i in range(40))
    pieces = segments(context, gold, said)
    assert "".join(text for text, _ in pieces) == context
    marks = [mark for text, mark in pieces for _ in text]
    for i, mark in enumerate(marks):
        assert ("gold" in mark) == any(a <= i < b for a, b in gold)
        assert ("said" in mark) == (said is not None and said[0] <= i < said[1])


def test_overlapping_gold_answers_are_one_mark():
    pieces = segments("by the poor soil.", [(3, 16), (7, 16), (7, 17)], (12, 16))
    assert pieces == [("by ", ""), ("the poor ", "gold"), ("soil", "gold said"), (".", "gold")]


def test_long_texts_keep_what_is_near_the_marks():
    context = "x" * 5000 + "GOLD" + "y" * 5000 + "SAID" + "z" * 5000
    pieces = segments(context, [(5000, 5004)], (10004, 10008))
    cut = (" \u2026 ", "cut")
    assert pieces == [
        cut, ("x" * AROUND, ""), ("GOLD", "gold"), ("y" * AROUND, ""), cut, ("y" * AROUND, ""), ("SAID", "said"),
        ("z" * AROUND, ""), cut,
    ]  # fmt: skip
    assert segments("x" * 5000, [], None) == [("x" * AROUND, ""), cut]


kinds = st.sampled_from(["", WRONG, WRONG, WRONG, INVENTED, SILENT])


@given(st.lists(st.tuples(kinds, st.floats(0, 1)), max_size=40), st.integers(3, 12))
def test_worst_errors_are_the_surest_of_each_kind(answers, most):
    confidence = np.array([c for _, c in answers])
    listed = worst_errors([kind for kind, _ in answers], confidence, most)
    wrong = [i for i, (kind, _) in enumerate(answers) if kind]
    assert len(listed) == len(set(listed)) == min(most, len(wrong))
    assert listed == sorted(listed, key=lambda i: (-confidence[i], i))
    for name in (WRONG, INVENTED, SILENT):
        mine = sorted((i for i in wrong if answers[i][0] == name), key=lambda i: (-confidence[i], i))
        shown = [i for i in listed if answers[i][0] == name]
        assert shown == mine[: len(shown)]
        assert len(shown) >= min(len(mine), most // 3)


def test_a_larger_value_is_drawn_higher_and_a_later_one_further_right():
    chart = line_chart("c", "t", "d", [Series("s", (0.0, 1.0), (2.0, 5.0))], ("x", "y"), Frame((0, 1), (0, 10)))
    (x0, y0), (x1, y1) = re.findall(r"[ML]([\d.]+) ([\d.]+)", re.search(r'class="line s0" d="([^"]+)"', chart)[1])
    assert float(x0) < float(x1) and float(y0) > float(y1)  # SVG counts y from the top


def test_why_there_is_no_answer_is_told_of_the_questions_it_is_known_of(monkeypatch):
    examples = [Example(id, "who", "x", (), True, "t") for id in "abc"]
    first, second, *_ = CAUSES.values()
    monkeypatch.setattr(sections, "known_causes", lambda _: {"a": first, "c": second})
    silent = np.array([1.0, 0.0, 0.0])  # of a, b, c; nothing is known of b
    page = sections.groups(SimpleNamespace(examples=examples), "how many windows is not known", silent, silent)
    for told in (f"{first}: EM 100.0, F1 100.0, 1 questions.", f"{second}: EM 0.0, F1 0.0, 1 questions."):
        assert told in page


def test_kinds_of_error():
    has, none = Example("", "", "x", (Answer("x", 0),), False, ""), Example("", "", "x", (), True, "")
    assert [error_kind(has, "y"), error_kind(has, ""), error_kind(none, "x")] == [WRONG, SILENT, INVENTED]


@given(st.floats(-1e9, 1e9), st.floats(-5, 9))
def test_ticks_are_evenly_apart_and_inside(low, power):
    high = low + 10**power * max(1, abs(low))
    found = ticks(low, high)
    slack = 1e-6 * (high - low)
    assert 2 <= len(found) <= 6
    assert all(low - slack <= tick <= high + slack for tick in found)
    np.testing.assert_allclose(np.diff(found), found[1] - found[0], rtol=1e-3)


def test_ticks_worked_examples():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(-3, 7) == [-2, 0, 2, 4, 6]
    assert ticks(100, 5300) == [1000, 2000, 3000, 4000, 5000]
    assert [number(v) for v in (1000, 0.05, 0.0002, -2.0, 0.0)] == ["1,000", "0.05", "2e\u22124", "\u22122", "0"]
    assert [number(v) for v in (0.0015, 0.002, -2.5e-10)] == ["1.5e\u22123", "2e\u22123", "\u22122.5e\u221210"]


@given(st.floats(1e-9, 1e6), st.floats(0, 0.99))
def test_a_ticks_label_is_the_ticks_value(high, low):
    found = ticks(low * high, high)
    read_back = [float(number(value).replace(",", "").replace("\u2212", "-")) for value in found]
    assert read_back == pytest.approx(found, rel=1e-6, abs=1e-9 * high)
    assert [spread([3]), spread([0]), spread([1], 0)] == [(1.5, 4.5), (-0.5, 0.5), (0, 1)]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(1, 12))
def test_thinned_values_are_means_of_neighbours(values, most):
    thinned = thin(values, most)
    assert len(thinned) == min(len(values), most)
    assert min(values) - 1e-6 <= min(thinned) and max(thinned) <= max(values) + 1e-6
    if len(values) <= most:
        assert thinned == values
    elif len(values) % most == 0:
        assert np.mean(thinned) == pytest.approx(np.mean(values), abs=1e-6)
