"""Lengths and what max lengths make of them, against windows that are really cut; and the verb that prints it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from minibert.wordpiece import SPECIAL_TOKENS, wordpiece_tokenizer
from squad import Answer, Example, make_windows
from squad.audit.alignment import audit
from squad.audit.lengths import Fit, Lengths, lengths_table, main, measure_lengths, suggest_max_length

letters = st.text("abc ", max_size=40)


@st.composite
def data(draw):
    """Examples in an alphabet where a token is a letter; answers anywhere, also on spaces, which have no token."""
    examples = []
    for i in range(draw(st.integers(1, 5))):
        context, answers = draw(letters), []
        for _ in range(draw(st.integers(0, 3)) if context else 0):
            start = draw(st.integers(0, len(context) - 1))
            end = draw(st.integers(start + 1, len(context)))
            answers.append(Answer(context[start:end], start))
        examples.append(Example(str(i), draw(letters), context, tuple(answers), not answers, "t"))
    return examples


def tokens(text):
    return len(text.replace(" ", ""))


@given(data(), st.integers(0, 12), st.integers(1, 9))
def test_figures_equal_those_of_windows_really_cut(tokenizer, examples, overlap, max_question_tokens):
    max_lengths = [max_question_tokens + more for more in (2, 3, 4, 5, 9, 16, 60)]
    windows = make_windows(examples, tokenizer, 80, 0, max_question_tokens)
    measured = measure_lengths(examples, windows, overlap, max_question_tokens, max_lengths)

    lengths = sorted(min(tokens(e.question), max_question_tokens) + tokens(e.context) + 3 for e in examples)
    for p, length in measured.percentiles.items():
        assert length == next(n for n in lengths if sum(m <= n for m in lengths) >= p / 100 * len(lengths))

    assert [fit.max_length for fit in measured.fits] == max_lengths[2:]  # the first two leave no room for a context
    for fit in measured.fits:
        room = fit.max_length - 3 - max_question_tokens
        assert fit.overlap == (overlap if overlap < room else room // 2)
        cut = make_windows(examples, tokenizer, fit.max_length, fit.overlap, max_question_tokens)
        owned = [int((cut.example_index == i).sum()) for i in range(len(examples))]
        assert fit.split == pytest.approx(np.mean([n > 1 for n in owned]))
        assert fit.windows == pytest.approx(len(cut) / len(examples))
        causes, _ = audit(examples, cut, max_answer_tokens=1000)
        with_tokens = sum(causes.values()) - causes["no token"]
        assert fit.lost * with_tokens == pytest.approx(causes["truncated"])


def test_answers_are_lost_that_are_longer_than_the_overlap(tokenizer):
    """By hand: question of 1 token, room 6, overlap 2: windows hold letters 0-5, 4-9, 8-11; answers are 4-6 and 3-7."""
    context = "abcdefghijkl"
    answers = (Answer("efg", 4), Answer("defgh", 3))
    examples = [Example("q", "x", context, answers, False, "t")]
    windows = make_windows(examples, tokenizer, 80, 0, 1)
    measured = measure_lengths(examples, windows, 2, 1, [10, 16])
    assert measured.percentiles == dict.fromkeys((50, 75, 90, 95, 99, 100), 16)
    assert measured.fits == [Fit(10, 2, 1.0, 3.0, 0.5), Fit(16, 2, 0.0, 1.0, 0.0)]


def test_pairs_with_another_separator_leave_a_token_less():
    """As RoBERTa writes them: <s> question </s></s> context </s>."""
    tokenizer = wordpiece_tokenizer([*SPECIAL_TOKENS, *"abcx", "##a", "##b", "##c"])
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    vocabulary = tokenizer.to_str().replace("[CLS]", "[cls]")
    examples = [Example("q", "x", "abc", (), True, "t")]
    windows = make_windows(examples, Tokenizer.from_str(vocabulary), 80, 0, 1)
    assert windows.separators == 2
    measured = measure_lengths(examples, windows, 1, 1, [6, 7, 8])
    assert measured.percentiles[100] == len(windows.contexts[0]) + 5 == 8
    assert [(fit.max_length, fit.windows) for fit in measured.fits] == [(6, 3.0), (7, 2.0), (8, 1.0)]


shares = st.sampled_from([0.0, 0.004, 0.005, 0.006, 0.04, 0.05, 0.06, 1.0])


@given(st.lists(st.tuples(shares, shares, shares, shares), min_size=1, max_size=5))
def test_the_suggestion_is_the_shortest_that_fits_all(rows):
    measured = {
        name: Lengths(1, {100: 1}, [Fit(i, 0, row[at], 1.0, row[at + 1]) for i, row in enumerate(rows)])
        for name, at in (("train", 0), ("dev", 2))
    }
    good = [max(row[0], row[2]) < 0.055 and max(row[1], row[3]) < 0.0055 for row in rows]
    value, why = suggest_max_length(measured)
    assert value == (good.index(True) if any(good) else len(rows) - 1)
    assert why.startswith("the shortest with" if any(good) else "the longest, as none has")
    train_row, dev_row = rows[value][:2], rows[value][2:]
    for name, (split, lost) in (("train", train_row), ("dev", dev_row)):
        assert f"{name} has {1 - split:.1%} and {lost:.2%}" in why
    assert f"suggested: --max-length {value} --window-overlap 0" in lengths_table(measured).splitlines()


def test_the_command_prints_the_table(tiny, tmp_path, capsys):
    (tmp_path / "train.json").write_bytes((tiny / "squad.json").read_bytes())
    (tmp_path / "dev.json").write_bytes((tiny / "squad.json").read_bytes())
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "dev.json").write_bytes((tiny / "squad.json").read_bytes())
    files = [str(tmp_path / "train.json"), str(tmp_path / "dev.json"), str(tmp_path / "new" / "dev.json")]
    sizes = ["--positions", "64", "--window-overlap", "20", "--max-question-tokens", "8"]
    assert main([*files, "--tokenizer", str(tiny), *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    # the model has fewer positions than any of the usual lengths: those are shown
    figures = [line.split() for line in lines if line.startswith(" " * 16) and "%" in line]
    fits = [row for row in figures if row[0] == "64"]
    assert fits == [["64", "20", "0.0%", "1.00", "0.00%"]] * 3
    assert "suggested: --max-length 64 --window-overlap 20" in lines
    named = [line[:16].strip() for line in lines if line.startswith(("train", "dev"))]
    assert named[:3] == ["train", "dev", "dev (3)"]
