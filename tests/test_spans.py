"""Loss and decoding against brute force."""

import math
import types

import helpers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from squad import WindowPredictions, apply_threshold, best_spans, decode, make_windows, predict, span_loss
from squad.spans import CERTAIN, Predictions, best_first, probabilities


def random_case(seed, B=3, T=11):
    """Logits (B, T) and a mask of [CLS], then a context of random place and length (none, in the last row)."""
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, B, T, generator=generator)
    mask = torch.zeros(B, T, dtype=torch.bool)
    mask[:, 0] = True
    for row in range(B - 1):
        at = int(torch.randint(2, T - 1, (), generator=generator))
        mask[row, at : at + int(torch.randint(1, T - at, (), generator=generator))] = True
    return start, end, mask


# ---------------------------------------------------------------------------------------------- loss


def test_loss_is_over_cls_and_context_only():
    start, end, mask = random_case(0)
    s, e = torch.tensor([0, int(mask[1].nonzero()[1]), 0]), torch.tensor([0, int(mask[1].nonzero()[-1]), 0])
    expected = 0.0
    for row in range(3):
        for logits, position in ((start[row], s[row]), (end[row], e[row])):
            allowed = logits[mask[row]]
            expected += (allowed.exp().sum().log() - logits[position]).item() / 6
    loss = span_loss(start.requires_grad_(), end.requires_grad_(), s, e, mask)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert start.grad.isfinite().all()
    assert (start.grad[~mask] == 0).all()


def test_null_is_a_class_like_any_other():
    """A batch of unanswerable questions must pull [CLS] up: position 0 is no index to ignore."""
    start, end, mask = random_case(1)
    zero = torch.zeros(3, dtype=torch.long)
    loss = span_loss(start.requires_grad_(), end, zero, zero, mask)
    loss.backward()
    assert loss > 0
    assert (start.grad[:2, 0] < 0).all()


# ------------------------------------------------------------------------------------------ best spans


@given(st.integers(0, 10_000), st.integers(1, 13), st.integers(1, 25))
def test_best_spans_equal_brute_force(seed, max_answer_tokens, n_best):
    start, end, mask = random_case(seed)
    scores, firsts, lasts, null = best_spans(start, end, mask, max_answer_tokens, n_best)
    torch.testing.assert_close(null, start[:, 0] + end[:, 0])
    for row in range(3):
        context = [i for i in range(1, 11) if mask[row, i]]
        every = sorted(
            ((start[row, i] + end[row, j]).item(), i, j)
            for i in context
            for j in context
            if i <= j < i + max_answer_tokens
        )[::-1][:n_best]
        found = [
            (s, i, j)
            for s, i, j in zip(scores[row].tolist(), firsts[row].tolist(), lasts[row].tolist(), strict=True)
            if math.isfinite(s)
        ]
        assert [f[1:] for f in found] == [e[1:] for e in every]
        assert [f[0] for f in found] == pytest.approx([e[0] for e in every], abs=1e-6)


def test_best_spans_of_half_precision_logits_are_finite():
    start, end, mask = random_case(3)
    scores, *_ = best_spans(start.half(), end.half(), mask)
    assert scores.dtype == torch.float32
    assert scores[0].isfinite().any()
    assert not scores[2].isfinite().any()  # no context, no span


# ---------------------------------------------------------------------------------------------- decode


def example(id, context):
    return helpers.example("who", context, id=id)


def found(scores, start_index, end_index, null_score):
    """WindowPredictions of lists."""
    arrays = (
        np.array(scores, np.float32),
        np.array(start_index),
        np.array(end_index),
        np.array(null_score, np.float32),
    )
    return WindowPredictions(*arrays, np.zeros(len(scores)))


@pytest.fixture
def two_questions(tokenizer):
    """Question x over three windows of "a b c d e f g", 3 tokens each with 1 shared; y over one of "a a"."""
    examples = [example("x", "a b c d e f g"), example("y", "a a")]
    windows = make_windows(examples, tokenizer, max_length=7, overlap=1, max_question_tokens=1)
    assert list(zip(windows.example_index, windows.begin, windows.end, strict=True)) == [
        (0, 0, 3), (0, 2, 5), (0, 4, 7), (1, 0, 2)
    ]  # fmt: skip
    return examples, windows


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_span_whose_score_is_no_number_is_an_error(two_questions, wrong):
    def model(input_ids, *_):
        logits = torch.zeros(input_ids.shape)
        logits[:, 4] = wrong  # a token of the context; the null score stays finite
        return logits, logits

    with pytest.raises(ValueError, match="the model's scores are not finite in 4 of 4 windows"):
        predict(model, *two_questions)


def test_decode_joins_windows(two_questions):
    """The worked example: null is the lowest of the windows', the best span the highest of all, doubles once."""
    examples, windows = two_questions
    # context token i stands at position 3 + i - begin
    scores = [[4.0, 1.0], [3.0, 5.0], [2.0, -np.inf], [1.5, 1.0]]
    start_index, end_index = [[5, 3], [3, 4], [3, 0], [4, 3]], [[5, 3], [3, 5], [5, 0], [4, 3]]
    predictions = decode(examples, windows, found(scores, start_index, end_index, [6.0, 2.0, 3.0, 0.5]))
    assert predictions.answers == {"x": "d e", "y": "a"}
    assert predictions.null_odds == {"x": 2.0 - 5.0, "y": 0.5 - 1.5}
    # "c" is in two windows, with 4.0 and 3.0; "a" twice in y's context
    assert [(e["text"], e["score"], e["start"], e["end"]) for e in predictions.nbest["x"]] == [
        ("d e", 5.0, 6, 9), ("c", 4.0, 4, 5), ("e f g", 2.0, 8, 13), ("", 2.0, None, None), ("a", 1.0, 0, 1)
    ]  # fmt: skip
    assert [(e["text"], e["start"]) for e in predictions.nbest["y"]] == [("a", 2), ("", None)]
    for entries in predictions.nbest.values():
        weights = np.exp([e["score"] for e in entries])
        assert [e["probability"] for e in entries] == pytest.approx((weights / weights.sum()).tolist())


def test_opposite_windows_one_that_sees_an_answer_is_enough(two_questions):
    examples, windows = two_questions
    scores, places, null = np.array([[-9.0], [9.0], [-9.0], [0.0]]), [[3]] * 4, np.array([9.0, -9.0, 9.0, 0.0])
    assert decode(examples, windows, found(scores, places, places, null)).null_odds["x"] == -18.0
    assert decode(examples, windows, found(-scores, places, places, -null)).null_odds["x"] == -18.0


def test_a_context_without_tokens_is_surely_unanswerable(tokenizer):
    examples = [example("x", ""), example("y", "a")]
    windows = make_windows(examples, tokenizer)
    nothing, places = [[-np.inf], [1.0]], [[0], [3]]
    predictions = decode(examples, windows, found(nothing, places, places, [-50.0, 0.0]))
    assert predictions.answers == {"x": "", "y": "a"}
    assert predictions.null_odds["x"] == CERTAIN
    assert [e["text"] for e in predictions.nbest["x"]] == [""]
    assert predictions.nbest["x"][0]["probability"] == 1.0


def test_a_span_of_white_space_only_is_no_answer():
    """As byte-level tokenizers have: offsets without the space around a word leave such a token no characters."""
    place = np.array([[[5, 5]], [[0, 3]]])  # in characters
    windows = types.SimpleNamespace(
        example_index=np.zeros(1, int), char_spans=lambda window_ids, start, end: place[start, 0]
    )
    predictions = decode([example("x", "Vin.\n")], windows, found([[4.0, 1.0]], [[0, 1]], [[0, 1]], [2.0]))
    assert predictions.answers == {"x": "Vin"}
    assert predictions.null_odds == {"x": 2.0 - 1.0}
    assert [entry["text"] for entry in predictions.nbest["x"]] == ["", "Vin"]


def test_the_20_best_different_texts_are_kept(two_questions, tokenizer):
    examples, windows = two_questions
    start_index = [[3, 4, 5]] * 3 + [[3, 4, 4]]
    doubles = found(np.tile([3.0, 2.0, 1.0], (4, 1)), start_index, start_index, np.zeros(4))
    predictions = decode(examples, windows, doubles)
    assert [e["text"] for e in predictions.nbest["x"]] == ["a", "c", "e", "b", "d", "f", "g", ""]
    assert [e["text"] for e in predictions.nbest["y"]] == ["a", ""]

    words = [f"{a}{b}" for a in "abcdef" for b in "0123456789"]
    examples = [example("x", " ".join(words))]
    windows = make_windows(examples, tokenizer, max_length=200, overlap=1, max_question_tokens=1)
    at = 3 + 2 * np.arange(50)  # two tokens a word
    entries = decode(examples, windows, found([np.linspace(3, -3, 50)], [at], [at + 1], [0.5])).nbest["x"]
    assert [e["text"] for e in entries if e["text"]] == words[:20]
    assert sum(e["probability"] for e in entries) == pytest.approx(1)


def test_threshold():
    predictions = Predictions({"x": "a", "y": "b"}, {"x": 1.0, "y": 1.5}, {})
    assert apply_threshold(predictions, 1.0) == {"x": "a", "y": ""}
    assert apply_threshold(predictions, 2.0) == {"x": "a", "y": "b"}
    assert apply_threshold(predictions, -1.0) == {"x": "", "y": ""}


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-20, 20))
def test_the_most_probable_entry_is_what_the_threshold_decides(null, span, other):
    """Also at a threshold that equals the null odds of the question."""
    texts = [{"text": text, "score": score, "start": 0, "end": 1} for text, score in (("vin", span), ("a", other))]
    entries = sorted([*texts, {"text": "", "score": null, "start": None, "end": None}], key=lambda e: -e["score"])
    odds = null - max(span, other)
    for threshold in (odds, odds + 1, odds - 1):
        best = entries[best_first(entries, probabilities(entries, threshold, 1.7, 0.5))[0]]
        assert (best["text"] == "") == (odds > threshold)


def test_loss_of_each_window_is_what_the_mean_is_of():
    logits = torch.randn(2, 3, 7)
    mask, positions = torch.ones(3, 7, dtype=torch.bool), torch.tensor([0, 3, 6])
    each = span_loss(*logits, positions, positions, mask, reduction="none")
    with pytest.raises(ValueError, match="reduction is 'sum', expected mean or none"):
        span_loss(*logits, positions, positions, mask, reduction="sum")
    alone = [span_loss(*(t[i : i + 1] for t in (*logits, positions, positions, mask))) for i in range(3)]
    torch.testing.assert_close(each, torch.stack(alone))
    torch.testing.assert_close(each.mean(), span_loss(*logits, positions, positions, mask))


def test_windows_without_an_answer_weigh_as_much_as_they_are_told_to():
    logits = torch.randn(2, 3, 7)
    mask, positions = torch.ones(3, 7, dtype=torch.bool), torch.tensor([0, 3, 0])
    each = span_loss(*logits, positions, positions, mask, reduction="none")
    weighted = span_loss(*logits, positions, positions, mask, null_weight=2.5)
    torch.testing.assert_close(weighted, (2.5 * each[0] + each[1] + 2.5 * each[2]) / 3)
