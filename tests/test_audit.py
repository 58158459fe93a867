"""The audit's causes, each from a case made for it."""

import json

import numpy as np
from helpers import DATA
from tokenizers import Tokenizer, models, pre_tokenizers

from squad import Answer, Example, make_windows, official_metrics
from squad.audit.__main__ import main
from squad.audit.alignment import audit, read_back
from squad.scoring import find_scoring


def test_causes(tokenizer):
    context = "vin is mistborns in the paris of france"
    offsets = np.array(tokenizer.encode(context, add_special_tokens=False).offsets)
    cases = {
        ("vin", 0): ("exact", "vin"),
        ("stborn", 9): ("sub-word boundary", "mistborn"),
        ("paris of france", 24): ("truncated", None),
        ("vin is mistborns in the", 0): ("too long", None),
        (" ", 3): ("no token", None),
    }
    for (text, start), expected in cases.items():
        assert context[start : start + len(text)] == text
        assert read_back(Answer(text, start), context, offsets, [(0, 8), (7, 9)], max_answer_tokens=5) == expected


def test_a_perfect_model_takes_the_best_readable_answer(tokenizer):
    context = "vin is mistborn"
    answers = (Answer("istborn", 8), Answer("vin", 0))
    examples = [Example("x", "who", context, answers, False, "t"), Example("y", "who", context, (), True, "t")]
    causes, perfect = audit(examples, make_windows(examples, tokenizer))
    assert causes == {"exact": 1, "sub-word boundary": 1}
    assert perfect == {"x": "vin", "y": ""}


def test_command_line_on_real_data(has_minilm, capsys):
    assert main([str(DATA / "dev.json.gz"), "--max-length", "120", "--window-overlap", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("1,323 questions, 2,272 answers")
    counted = [int(line[18:27].replace(",", "")) for line in lines[1:-1]]
    assert sum(counted) == 2272
    assert counted[0] > 2180
    assert lines[-1].startswith("a perfect model would reach EM ")


def test_wrong_offsets_are_counted(has_minilm, capsys, tmp_path):
    qas = [
        {"id": "a", "question": "?", "answers": [{"text": "vin", "answer_start": 1}]},
        {"id": "b", "question": "?", "answers": [{"text": "vin", "answer_start": 0}]},
    ]
    data = {"data": [{"title": "t", "paragraphs": [{"context": "vin is mistborn", "qas": qas}]}]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert main([str(tmp_path / "x.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    [wrong] = [line.split() for line in lines if "wrong offset" in line]
    assert wrong[2:4] == ["1", "the"]  # a question: no share of answers
    assert [line.split()[1:3] for line in lines if "exact" in line] == [["1", "100.00%"]]
    assert lines[-1] == "a perfect model would reach EM 100.00, F1 100.00"


def test_the_command_names_the_scoring_asked_for(has_minilm, capsys, tmp_path):
    qas = [{"id": "a", "question": "?", "answers": [{"text": "vin", "answer_start": 0}]}]
    data = {"data": [{"title": "t", "paragraphs": [{"context": "vin is mistborn", "qas": qas}]}]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    figures = []
    for more in ([], ["--scoring", "multilingual", "--language", "hi"]):
        assert main([str(tmp_path / "x.json"), *more]) == 0
        figures.append(capsys.readouterr().out.splitlines()[-1])
    assert figures[0] == "a perfect model would reach EM 100.00, F1 100.00"
    assert figures[1] == f"{figures[0]} (multilingual scoring)"


def test_an_answer_that_is_right_by_one_scoring_only():
    """The answer's token has a danda, India's full stop, at its end: punctuation that only MLQA's rules remove."""
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    examples = [Example("a", "?", "vin\u0964 is mistborn", (Answer("vin", 0),), False, "t")]
    windows = make_windows(examples, words)
    multilingual = find_scoring("multilingual", "hi").normalize
    causes, answers = audit(examples, windows, normalize=multilingual)
    assert (causes, answers) == ({"sub-word boundary": 1}, {"a": "vin\u0964"})
    assert official_metrics(examples, answers, normalize=multilingual)["exact"] == 100
    assert official_metrics(examples, answers)["exact"] == 0
