"""The audit's causes, each from a case made for it."""

import json

import numpy as np
from conftest import DATA

from squad import Answer, Example, make_windows
from squad.audit import audit, main, read_back


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


def test_ceiling_takes_the_best_readable_answer(tokenizer):
    context = "vin is mistborn"
    answers = (Answer("istborn", 8), Answer("vin", 0))
    examples = [Example("x", "who", context, answers, False, "t"), Example("y", "who", context, (), True, "t")]
    causes, perfect = audit(examples, make_windows(examples, tokenizer))
    assert causes == {"exact": 1, "sub-word boundary": 1}
    assert perfect == {"x": "vin", "y": ""}


def test_command_line_on_real_data(has_minilm, capsys):
    assert main([str(DATA / "dev.json.gz"), "--max-length", "120", "--window-overlap", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("1,351 questions, 2,703 answers")
    counted = [int(line[18:27].replace(",", "")) for line in lines[1:-1]]
    assert sum(counted) == 2703
    assert counted[0] > 2600
    assert lines[-1].startswith("ceiling of a perfect model: EM ")


def test_wrong_offsets_are_counted(has_minilm, capsys, tmp_path):
    qas = [
        {"id": "a", "question": "?", "answers": [{"text": "vin", "answer_start": 1}]},
        {"id": "b", "question": "?", "answers": [{"text": "vin", "answer_start": 0}]},
    ]
    data = {"data": [{"title": "t", "paragraphs": [{"context": "vin is mistborn", "qas": qas}]}]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert main([str(tmp_path / "x.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:4] for line in lines if "wrong offset" in line] == [["1", "50.00%"]]
    assert lines[-1] == "ceiling of a perfect model: EM 100.00, F1 100.00"
