"""Reader: against brute force over a scripted model, against itself, and against transformers on real questions."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import DATA
from hypothesis import given
from hypothesis import strategies as st

import minibert
import squad
from minibert.qa import load_model, load_reader
from minibert.qa.load import SHIPPED
from squad import Example, Reader, collate, make_windows
from squad.spans import N_BEST

SHORT = {"max_length": 16, "window_overlap": 3, "max_question_tokens": 5, "max_answer_tokens": 4}


class Scripted(torch.nn.Module):
    """Logits that depend on a token, its place and its row's length only: known to the test, and all different."""

    def forward(self, input_ids, token_type_ids, attention_mask):
        place = torch.arange(input_ids.size(1)) + 31 * attention_mask.sum(1, keepdim=True)
        start = torch.sin(input_ids * 12.9 + place * 78.2) * 5
        end = torch.cos(input_ids * 39.3 + place * 11.1) * 5
        return start.double(), end.double()


def brute_force(tokenizer, question, context, threshold, temperature):
    """Every span of every window, one by one -> [(probability, start, end, text)], best first, "" included; {(start,
    end): probability} of each span there is."""
    windows = make_windows(
        [Example("0", question, context, (), True, "")], tokenizer, SHORT["max_length"], SHORT["window_overlap"],
        SHORT["max_question_tokens"],
    )  # fmt: skip
    best, places, null = {}, {}, math.inf
    for w in range(len(windows)):
        batch = collate(windows, np.array([w]))
        start, end = Scripted()(*batch[:3])
        allowed = [t for t in range(1, batch.span_mask.size(1)) if batch.span_mask[0, t]]
        null = min(null, float(start[0, 0] + end[0, 0]))
        spans = [(f, l) for f, l in itertools.product(allowed, allowed) if f <= l < f + SHORT["max_answer_tokens"]]
        scored = [(float(start[0, f].float() + end[0, l].float()), f, l) for f, l in spans]
        for score, first, last in sorted(scored, reverse=True)[:N_BEST]:
            a, b = windows.char_spans(np.array([w]), np.array([first]), np.array([last]))[0].tolist()
            places[a, b] = max(score, places.get((a, b), -math.inf))
            if context[a:b] not in best or best[context[a:b]][0] < score:
                best[context[a:b]] = (score, a, b)
    spans = sorted(best.items(), key=lambda item: -item[1][0])[:N_BEST]
    listed = [(score, a, b, text) for text, (score, a, b) in spans] + [(null - threshold, 0, 0, "")]
    total = sum(math.exp(score / temperature) for score, *_ in listed)
    ranked = sorted(((math.exp(s / temperature) / total, a, b, text) for s, a, b, text in listed), reverse=True)
    return ranked, {place: math.exp(score / temperature) / total for place, score in places.items()}


@given(
    st.text("abcd ", max_size=60), st.text("whois ", min_size=1, max_size=20).filter(str.strip), st.floats(-5, 5),
    st.floats(0.5, 3),
)  # fmt: skip
def test_equals_brute_force(tokenizer, context, question, threshold, temperature):
    reader = Reader(Scripted(), tokenizer, threshold, temperature, **SHORT)
    expected, places = brute_force(tokenizer, question, context, threshold, temperature)
    found = reader(question=question, context=context, top_k=N_BEST + 1)
    assert len(found) == len(expected)
    assert [a["score"] for a in found] == pytest.approx([p for p, *_ in expected], abs=1e-5)
    for answer in found:  # by place, as two spans may have the same score
        assert context[answer["start"] : answer["end"]] == answer["answer"]
        if answer["answer"]:
            assert answer["score"] == pytest.approx(places[answer["start"], answer["end"]], abs=1e-5)
    assert sum(a["score"] for a in found) == pytest.approx(1)
    assert len({a["answer"] for a in found}) == len(found)


@pytest.fixture
def reader(tokenizer):
    return Reader(Scripted(), tokenizer, **SHORT)


def test_keys_are_the_pipelines_and_the_margin(reader):
    found = reader(question="who is vin", context="vin is a mistborn")
    assert set(found) == {"score", "start", "end", "answer", "null_margin"}


@given(st.text("abcd ", max_size=60), st.integers(1, 60))
def test_a_score_does_not_depend_on_how_many_answers_are_asked_for(tokenizer, context, top_k):
    reader = Reader(Scripted(), tokenizer, **SHORT)
    few, more = (reader("who", context, top_k=k) for k in (top_k, 61))
    few = [few] if top_k == 1 else few
    assert few == more[:top_k]


def test_the_threshold_moves_between_answer_and_none(reader):
    asked = {"question": "who is vin", "context": "vin is a mistborn in the empire of paris"}
    margin = reader(**asked)["null_margin"]
    reader.null_threshold = margin + 0.1
    assert reader(**asked)["answer"] != ""
    assert reader(**asked)["null_margin"] == pytest.approx(-0.1)
    reader.null_threshold = margin - 0.1
    assert reader(**asked)["answer"] == ""
    forced = reader(**asked, handle_impossible_answer=False)
    assert forced["answer"] != ""
    assert forced["score"] < reader(**asked)["score"]  # null is still in the sum


def test_lists_equal_one_by_one(reader):
    contexts = ["vin is a mistborn", "paris is the capital of france " * 5, "", "the seine"]
    questions = ["who is vin", "what is paris", "who", "where is it"]
    assert_same(reader(questions, contexts), [reader(q, c) for q, c in zip(questions, contexts, strict=True)])
    assert_same(reader(questions, contexts[1]), [reader(q, contexts[1]) for q in questions])
    assert_same(reader(questions[0], contexts), [reader(questions[0], c) for c in contexts])
    both = reader(tuple(questions), tuple(contexts), top_k=2)
    assert [len(answers) for answers in both] == [2, 2, 1, 2]
    assert reader([], []) == []


def assert_same(one, other):
    assert [a["answer"] for a in one] == [a["answer"] for a in other]
    assert [a["score"] for a in one] == pytest.approx([a["score"] for a in other])


@pytest.mark.parametrize("context", ["", "  \n\t ", "\u200b"])
@pytest.mark.parametrize("handle", [True, False])
def test_a_context_without_tokens_has_no_answer(reader, context, handle):
    found = reader("who is vin", context, handle_impossible_answer=handle)
    assert (found["answer"], found["start"], found["end"], found["score"]) == ("", 0, 0, 1.0)
    assert math.isfinite(found["null_margin"])


@pytest.mark.parametrize(
    ("question", "context", "error", "message"),
    [
        (None, "a", TypeError, "question is of type NoneType"),
        ("who", 3, TypeError, "context is of type int"),
        (["who", 1.5], "a", TypeError, "question 1 is of type float"),
        ("who", ["a", None], TypeError, "context 1 is of type NoneType"),
        ("", "a", ValueError, "question is blank"),
        (["who", " "], "a", ValueError, "question 1 is blank"),
        (["who", "what"], ["a", "b", "c"], ValueError, "2 questions and 3 contexts"),
        ("who", "a \ud800 b", ValueError, "context is not valid Unicode: character 2"),
    ],
)
def test_what_cannot_be_asked(reader, question, context, error, message):
    with pytest.raises(error, match=message):
        reader(question=question, context=context)


def test_scores_that_are_not_finite_are_no_answer(tiny):
    model = minibert.load_pretrained(tiny)
    with torch.no_grad():
        model.qa_outputs.weight[0, 3] = float("nan")
    reader = Reader(model, minibert.load_tokenizer(tiny), max_length=40, window_overlap=8, max_question_tokens=8)
    with pytest.raises(ValueError, match="the model's scores are not finite in 1 of 1 windows"):
        reader("who is vin", "vin is a mistborn")


def test_settings_out_of_range(reader, tokenizer):
    for top_k in (0, -1, 1.5):
        with pytest.raises(ValueError, match="top_k is"):
            reader("who", "a", top_k=top_k)
    for setting, value in (
        ("best_bonus", -0.1), ("best_bonus", math.nan), ("best_bonus", 800.0),
        ("temperature", 0), ("temperature", math.nan),
        ("null_threshold", -math.inf), ("null_threshold", math.nan), ("max_answer_tokens", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{setting.replace('_', ' ')} is {value}"):
            Reader(Scripted(), tokenizer, **{setting: value})
    with pytest.raises(ValueError, match="max question tokens is 0"):
        Reader(Scripted(), tokenizer, max_question_tokens=0)("who", "a")


def test_dropout_is_off_whatever_mode_the_model_came_in(tiny):
    model = minibert.load_pretrained(tiny, dropout=0.5).train()
    reader = Reader(model, minibert.load_tokenizer(tiny), max_length=40, window_overlap=8, max_question_tokens=8)
    asked = {"question": "who is vin", "context": "vin is a mistborn"}
    assert reader(**asked) == reader(**asked)


def test_a_book_of_200_000_words(reader):
    book = "the seine is in paris of france " * 28_600 + "vin is mistborn"
    found = reader("who is vin", book)
    assert book[found["start"] : found["end"]] == found["answer"] != ""


# ------------------------------------------------------------------------------- how often to answer


def test_the_share_of_answerable_questions_moves_the_threshold(tokenizer):
    asked = ("who is vin", "vin is a mistborn")
    plain = Reader(Scripted(), tokenizer, null_threshold=0.25, **SHORT)
    margin = plain(*asked)["null_margin"]
    settings = {"null_threshold": 0.25, "dev_answerable": 0.5, "null_scale": 2.0}
    trained = Reader(Scripted(), tokenizer, **SHORT, **settings)
    assert trained(*asked) == plain(*asked)
    moved = 2.0 * math.log(0.9 / 0.1)
    assert trained(*asked, answerable=0.9)["null_margin"] == pytest.approx(margin - moved)
    assert trained(*asked, answerable=0.5)["null_margin"] == pytest.approx(margin)
    ready = Reader(Scripted(), tokenizer, answerable=0.9, **SHORT, **settings)
    assert ready(*asked) == trained(*asked, answerable=0.9)
    assert ready(*asked, answerable=0.5)["null_margin"] == pytest.approx(margin)
    assert ready.threshold_for(None) == 0.25


@pytest.mark.parametrize("share", [0, 1, -0.5, 90, math.nan])
def test_a_share_that_is_none_is_refused(share, tokenizer):
    with pytest.raises(ValueError, match=f"answerable is {share}, expected a share above 0 and below 1"):
        Reader(Scripted(), tokenizer, answerable=share, dev_answerable=0.5, null_scale=1.0, **SHORT)


def test_a_model_saved_without_a_scale_cannot_be_told_a_share(reader):
    with pytest.raises(ValueError, match=r"answerable needs dev_answerable and null_scale, which train\.py saves"):
        reader("who is vin", "vin is a mistborn", answerable=0.9)


# ------------------------------------------------------------------------------- on the shipped adapter


@pytest.fixture(scope="module")
def shipped(has_minilm):
    return load_reader(precision="fp32", device="cpu")


def test_the_shipped_adapter_answers(shipped):
    context = "The Eiffel Tower was built by Gustave Eiffel's company between 1887 and 1889 in Paris."
    asked = ["Who built the Eiffel Tower?", "Where was the Eiffel Tower built?", "Who is the president of Peru?"]
    found = shipped(asked, context)
    assert "Eiffel" in found[0]["answer"]
    assert found[1]["answer"] == "Paris"
    assert found[2]["answer"] == ""
    assert found[2]["null_margin"] > 0 > found[1]["null_margin"]


def test_best_spans_equal_transformers_on_500_questions(shipped):
    """A plain loop over transformers' own model: one window at a time, the top 20 starts with the top 20 ends."""
    transformers = pytest.importorskip("transformers")
    model, tokenizer, _ = load_model(SHIPPED)
    theirs = transformers.BertForQuestionAnswering(transformers.BertConfig(**model.config.to_dict()))
    names = minibert.weights._named_tensors(model, minibert.checkpoint_names(model.config))
    missing, unexpected = theirs.load_state_dict(names, strict=False)
    assert not unexpected and all("position_ids" in key or "pooler" in key for key in missing)
    theirs.eval()
    examples = squad.read_examples(DATA / "dev.json.gz")[:500]
    ours = shipped(
        [e.question for e in examples], [e.context for e in examples], top_k=1, handle_impossible_answer=False
    )
    compared = 0
    for example, found in zip(examples, ours, strict=True):
        span, exact = top_20_search(theirs, tokenizer, example)
        if exact:
            compared += 1
            assert (found["start"], found["end"]) == span, example.id
    assert compared > 400


@torch.inference_mode()
def top_20_search(model, tokenizer, example):
    """-> the best span's characters, and whether the search is exact: no span is longer than the windows allow."""
    windows = make_windows([example], tokenizer)
    best, exact = (-math.inf, None), True
    for w in range(len(windows)):
        batch = collate(windows, np.array([w]))
        length = int(batch.attention_mask.sum())
        out = model(
            input_ids=batch.input_ids[:, :length], token_type_ids=batch.token_type_ids[:, :length],
            attention_mask=batch.attention_mask[:, :length],
        )  # fmt: skip
        allowed = batch.span_mask[0, :length].clone()
        allowed[0] = False
        start, end = (x[0].masked_fill(~allowed, -math.inf) for x in (out.start_logits, out.end_logits))
        starts, ends = (x.topk(min(20, int(allowed.sum()))) for x in (start, end))
        for s, e in itertools.product(range(len(starts.indices)), range(len(ends.indices))):
            first, last = int(starts.indices[s]), int(ends.indices[e])
            if first <= last < first + 30:
                score = float(starts.values[s] + ends.values[e])
                if score > best[0]:
                    at = windows.char_spans(np.array([w]), np.array([first]), np.array([last]))[0]
                    best = (score, tuple(at.tolist()))
        # a span outside the search has a start or an end below the 20th: it cannot beat best if this bound does not
        bound = max(float(starts.values[-1] + ends.values[0]), float(starts.values[0] + ends.values[-1]))
        exact &= bound < best[0]
    return best[1], exact
