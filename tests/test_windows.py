"""Alignment, windows and batches: worked examples and properties over awkward texts."""

from itertools import pairwise

import helpers
import numpy as np
import pytest
from helpers import DATA
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import minibert
from squad import Answer, collate, forward_passes, make_windows, padding_waste, read_examples, training_batches
from squad.align import char_to_token_span, token_to_char_span
from squad.batches import MULTIPLE, evaluation_batches, padded_length

AWKWARD = [
    "\u05e9\u05dc\u05d5\u05dd",  # Hebrew, right to left
    "\u0645\u0631\u062d\u0628\u0627",  # Arabic
    "\u4e2d\u6587",  # Chinese: a token a character
    "e\u0301",  # combining accent, stripped by the normaliser
    "\u0e01\u0e34",  # Thai vowel sign
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # emoji joined by zero-width joiners
    "\u00df", "\u0130", "\ufb01",  # letters whose case changes their length, a ligature
    "\u00a0", "\r\n", "\u200b", "\x00", " ", ".", "a", "Vin",
]  # fmt: skip
texts = st.lists(st.sampled_from(AWKWARD) | st.characters(codec="utf-8"), max_size=40).map("".join)


def example(question="who is vin", context="vin is mistborn", start=None, text="", id="x"):
    answers = () if start is None else (Answer(text or context[start:], start),)
    return helpers.example(question, context, answers, id)


def test_the_label_is_the_first_gold_answer(tokenizer):
    answers = Answer("mistborn", 7), Answer("vin", 0)
    windows = make_windows([helpers.example("who", "vin is mistborn", answers, "x")], tokenizer, 40, 8, 8)
    first, last = (int(at[0]) for at in (windows.start_positions, windows.end_positions))
    tokens = [tokenizer.id_to_token(int(i)) for i in collate(windows, np.array([0])).input_ids[0, first : last + 1]]
    assert "".join(token.removeprefix("##") for token in tokens) == "mistborn"


# ---------------------------------------------------------------------------------------- alignment

OFFSETS = np.array([[0, 6], [7, 10], [10, 14]])  # denver bro ##ncos


@pytest.mark.parametrize(
    ("chars", "tokens"),
    [((7, 14), (1, 2)), ((0, 6), (0, 0)), ((8, 9), (1, 1)), ((5, 8), (0, 1)), ((6, 7), None), ((14, 20), None)],
)
def test_worked_example(chars, tokens):
    assert char_to_token_span(OFFSETS, *chars) == tokens


def test_bytes_of_one_character_share_their_offsets():
    offsets = np.array([[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]])  # an emoji cut in three by byte-level BPE
    assert char_to_token_span(offsets, 1, 2) == (1, 3)
    assert char_to_token_span(offsets, 0, 3) == (0, 4)


@given(texts, st.data())
def test_char_and_token_spans_are_inverse(tokenizer, text, data):
    offsets = np.array(tokenizer.encode(text, add_special_tokens=False).offsets).reshape(-1, 2)
    assert (np.diff(offsets, axis=0) >= 0).all()
    if len(offsets):
        first = data.draw(st.integers(0, len(offsets) - 1))
        last = data.draw(st.integers(first, len(offsets) - 1))
        start, end = token_to_char_span(offsets, first, last)
        found = char_to_token_span(offsets, start, end)
        assert token_to_char_span(offsets, *found) == (start, end)
        if (np.diff(offsets, axis=0).sum(1) > 0).all():  # no two tokens of one character
            assert found == (first, last)


# ------------------------------------------------------------------------------------------ windows


def test_a_window_is_cls_question_sep_context_sep(tokenizer):
    windows = make_windows(
        [example(start=7, text="mistborn")], tokenizer, max_length=20, overlap=2, max_question_tokens=8
    )
    batch = collate(windows, np.array([0]))
    tokens = [tokenizer.id_to_token(i) for i in batch.input_ids[0].tolist()]
    padding = 16 - 10
    assert (
        tokens == ["[CLS]", "who", "is", "vin", "[SEP]", "vin", "is", "mist", "##born", "[SEP]"] + ["[PAD]"] * padding
    )
    assert batch.token_type_ids[0].tolist() == [0] * 5 + [1] * 5 + [0] * padding
    assert batch.attention_mask[0].tolist() == [1] * 10 + [0] * padding
    assert batch.span_mask[0].tolist() == [True] + [False] * 4 + [True] * 4 + [False] * (1 + padding)
    assert (batch.start_positions.item(), batch.end_positions.item()) == (7, 8)
    assert windows.char_spans(np.array([0]), np.array([7]), np.array([8])).tolist() == [[7, 15]]


def test_overlap_is_what_neighbours_share(tokenizer):
    # 13 tokens of context, 7 per window, 3 shared: 0-7, 4-11, 8-13
    windows = make_windows([example("who", "a b c d e f g h i j k l m", 18, "j")], tokenizer, 11, 3, 1)
    assert list(zip(windows.begin.tolist(), windows.end.tolist(), strict=True)) == [(0, 7), (4, 11), (8, 13)]
    assert windows.start_positions.tolist() == [0, 3 + 5, 3 + 1]  # j is token 9; not in the first window: null


@given(
    questions=st.lists(texts, min_size=1, max_size=3),
    context=texts,
    overlap=st.integers(0, 6),
    room=st.integers(1, 9),
    data=st.data(),
)
def test_every_context_token_is_covered(tokenizer, questions, context, overlap, room, data):
    examples = [example(q, context, id=str(i)) for i, q in enumerate(questions)]
    if context:
        start = data.draw(st.integers(0, len(context) - 1))
        end = data.draw(st.integers(start + 1, len(context)))
        examples.append(example(questions[0], context, start, context[start:end], "answer"))
    max_length = 3 + 5 + overlap + room
    windows = make_windows(examples, tokenizer, max_length, overlap, max_question_tokens=5)
    encoding = tokenizer.encode(context, add_special_tokens=False)
    assert windows.lengths.max() <= max_length
    assert len(windows.contexts) == 1  # tokenised once, whoever asks
    for i, e in enumerate(examples):
        of = np.flatnonzero(windows.example_index == i)
        assert len(of)
        covered = set()
        for w in of:
            covered |= set(range(windows.begin[w], windows.end[w]))
            batch = collate(windows, np.array([w]))
            at = int(windows.context_positions(np.array([w]))[0])
            ids = batch.input_ids[0][batch.attention_mask[0] == 1].tolist()
            assert len(ids) == windows.lengths[w]
            assert ids[at:-1] == encoding.ids[windows.begin[w] : windows.end[w]]
            check_label(windows, w, e, encoding)
        assert covered == set(range(len(encoding.ids)))
        assert all(windows.begin[b] == windows.end[a] - overlap for a, b in pairwise(of))


def check_label(windows, w, e, encoding):
    """A label is (0, 0), or reads back text that reaches just over the answer's edges."""
    first, last = windows.start_positions[w], windows.end_positions[w]
    span = e.answers and char_to_token_span(
        np.array(encoding.offsets).reshape(-1, 2), e.answers[0].start, e.answers[0].start + len(e.answers[0].text)
    )
    if not span or not (windows.begin[w] <= span[0] and span[1] < windows.end[w]):
        assert (first, last) == (0, 0)
        return
    [[start, end]] = windows.char_spans(np.array([w]), np.array([first]), np.array([last])).tolist()
    assert (start, end) == (encoding.offsets[span[0]][0], encoding.offsets[span[1]][1])


def test_long_questions_are_cut_and_empty_ones_work(tokenizer):
    examples = [example("who " * 50, "vin"), example("", "vin"), example("who", ""), example("who", " \t\n")]
    windows = make_windows(examples, tokenizer, 20, 3, max_question_tokens=6)
    assert windows.questions.lengths.tolist() == [6, 0, 1, 1]
    assert windows.lengths.tolist() == [10, 4, 4, 4]


def test_a_context_of_100_000_words(tokenizer):
    context = "the paris of france " * 25_000
    windows = make_windows([example("who", context, len(context) - 7, "france")], tokenizer)
    assert windows.contexts.lengths.tolist() == [100_000]
    assert windows.end[-1] == 100_000
    assert (windows.start_positions > 0).sum() == 1


@pytest.mark.parametrize(("max_length", "overlap"), [(84, 20), (68, 1), (384, 317), (384, -1)])
def test_windows_that_cannot_step_forward(tokenizer, max_length, overlap):
    with pytest.raises(ValueError, match=rf"window overlap is {overlap}, expected 0 to"):
        make_windows([example()], tokenizer, max_length, overlap, max_question_tokens=64)


@pytest.mark.parametrize("max_length", [40, 67])
def test_windows_without_room_for_a_text(tokenizer, max_length):
    with pytest.raises(ValueError, match=f"max length is {max_length}, expected at least 68: 64 tokens are kept for"):
        make_windows([example()], tokenizer, max_length, 0, max_question_tokens=64)


@pytest.mark.parametrize("what", ["truncation", "padding"])
def test_a_tokenizer_that_would_change_texts_is_refused(tokenizer, what):
    changed = Tokenizer.from_str(tokenizer.to_str())
    changed.enable_truncation(5) if what == "truncation" else changed.enable_padding(length=5)
    with pytest.raises(ValueError, match=f"the tokenizer has {what} switched on"):
        make_windows([example()], changed)


def test_a_tokenizer_of_another_package_is_refused():
    with pytest.raises(TypeError, match=r"the tokenizer is a builtins\.object, expected a tokenizers\.Tokenizer"):
        make_windows([example()], object())


# ------------------------------------------------------------------------------------------ batches


@given(st.lists(st.integers(3, 384), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 3))
def test_batches_hold_every_window_once(lengths, batch_size, epoch):
    lengths = np.array(lengths)
    training = training_batches(lengths, batch_size, seed=1, epoch=epoch, pool=4)
    evaluation = evaluation_batches(lengths, tokens=100 * batch_size)
    for batches in (training, evaluation):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, training)) <= batch_size
    assert all(len(rows) == 1 or lengths[rows].max() * len(rows) <= 100 * batch_size for rows in evaluation)


def test_batches_are_drawn_from_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(50, 384, 500)

    def order(seed, epoch):
        return np.concatenate(training_batches(lengths, 16, seed, epoch)).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(*key)) for key in [(1, 2), (2, 2), (1, 3), (2, 1)]}) == 4


def test_padding_on_real_data_is_below_a_tenth(has_minilm):
    windows = make_windows(read_examples(DATA / "train.json.gz"), minibert.load_tokenizer("minilm"))
    for size, accumulated in ((16, 1), (16, 4)):
        steps = training_batches(windows.lengths, size * accumulated, seed=0, epoch=0)
        passes = [ids for step in steps for ids, _ in forward_passes(windows.lengths, step, size, 4096)]
        padded = sum(collate(windows, rows).input_ids.numel() for rows in passes)
        real = sum(int(collate(windows, rows).attention_mask.sum()) for rows in passes)
        assert padding_waste(windows, steps, size, 4096) == pytest.approx(1 - real / padded)
        assert 1 - real / padded < 0.1


@given(st.integers(1, 600), st.integers(1, 600))
def test_padded_length_is_the_next_multiple_within_the_limit(longest, limit):
    T = padded_length(longest, limit)
    assert longest <= T < longest + MULTIPLE
    assert T % MULTIPLE == 0 or max(longest, limit) == T


def test_the_longest_batch_comes_first():
    lengths = np.random.default_rng(0).integers(50, 384, 3000)
    for epoch in range(3):
        first, *others = training_batches(lengths, 7, seed=0, epoch=epoch, pool=16)
        assert lengths[first].max() == lengths.max()
        assert any(lengths[rows].max() > 200 for rows in others[:20])  # the rest is not sorted
        assert any(lengths[rows].max() < 200 for rows in others[:20])


def test_batches_of_a_pool_are_not_in_order_of_length():
    lengths = np.random.default_rng(0).integers(50, 384, 4 * 64)
    for epoch in range(3):
        means = [lengths[rows].mean() for rows in training_batches(lengths, 4, seed=0, epoch=epoch, pool=64)[1:]]
        ranks = np.argsort(np.argsort(means))
        assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.5  # sorted it is 1; drawn, 0.13 or so


def test_collate_pads_to_the_longest_and_on_to_a_multiple(tokenizer):
    examples = [example("who", "vin is mistborn"), example("who is vin", "vin"), example("", "")]
    windows = make_windows(examples, tokenizer)
    batch = collate(windows, np.array([0, 1, 2]))
    assert batch.input_ids.shape == (3, 16)
    assert batch.attention_mask.sum(1).tolist() == windows.lengths.tolist() == [8, 7, 3]
    assert (batch.input_ids[batch.attention_mask == 0] == windows.pad_id).all()
    assert not batch.span_mask[batch.attention_mask == 0].any()
    assert batch.span_mask.sum(1).tolist() == [5, 2, 1]  # context and [CLS]


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 20), st.integers(100, 5000),
    st.integers(1, 4), st.data(),
)  # fmt: skip
def test_the_passes_of_all_processes_hold_each_window_of_the_step_once(lengths, batch_size, tokens, size, data):
    lengths = np.array(lengths)
    step = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True)))
    processes = [forward_passes(lengths, step, batch_size, tokens, rank, size) for rank in range(size)]
    taken = [ids for passes in processes for ids, share in passes if share]
    assert sorted(np.concatenate(taken).tolist()) == sorted(step.tolist())
    assert sum(share for passes in processes for _, share in passes) == pytest.approx(1)
    for passes in processes:
        if passes[0][1] == 0:  # a process without windows takes part all the same
            assert [(ids.tolist(), share) for ids, share in passes] == [([step[0]], 0.0)]
            continue
        assert all(share == len(ids) / len(step) for ids, share in passes)
        sizes = [len(ids) for ids, _ in passes]
        assert 1 <= min(sizes) <= max(sizes) <= min(min(sizes) + 1, batch_size)
        for ids, _ in passes:  # one window over where the parts are not even
            assert len(ids) == 1 or (len(ids) - 1) * lengths[ids].max() <= tokens
        ordered = [lengths[i] for ids, _ in passes for i in ids]
        assert ordered == sorted(ordered, reverse=True)


def test_passes_by_hand():
    lengths = np.array([10, 30, 20, 40, 25])
    [(first, a), (second, b)] = forward_passes(lengths, np.array([4, 0, 3, 1]), 2, 1000)
    assert (first.tolist(), second.tolist(), a, b) == ([3, 1], [4, 0], 0.5, 0.5)
    assert [ids.tolist() for ids, _ in forward_passes(lengths, np.array([4, 0, 3, 1]), 4, 80)] == [[3, 1], [4, 0]]
    assert [len(ids) for ids, _ in forward_passes(np.full(16, 256), np.arange(16), 16, 4096)] == [16]
    assert [len(ids) for ids, _ in forward_passes(np.full(16, 257), np.arange(16), 16, 4096)] == [8, 8]
