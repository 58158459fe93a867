"""experiments/before_after.py: the counts of Simple Transformers, and a whole comparison on a tiny model."""

import pytest
from helpers import example, read

import squad
from experiments import before_after

GOLD = [squad.Answer("a mistborn", 7), squad.Answer("mistborn", 9)]


@pytest.mark.parametrize(
    ("answers", "given", "kind"),
    [
        (GOLD, "a mistborn", "correct"),
        (GOLD, "mistborn", "similar"),  # exact for SQuAD, which looks at every gold answer and strips articles
        (GOLD, "vin is a mistborn", "similar"),
        (GOLD, "", "similar"),  # silence where there is an answer
        (GOLD, "vin", "incorrect"),
        ([], "", "correct"),
        ([], "vin", "similar"),  # an answer where there is none
    ],
)
def test_counts_are_those_of_simple_transformers(answers, given, kind):
    assert before_after.kind_of(example(answers=answers), given) == kind


def test_before_after_names_the_line_that_is_wrong(tiny, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"question": "who?", "context": "vin"}\n{"question": 3}\n')
    files = ["--dev", str(tiny / "squad.json"), "--examples", str(tmp_path / "x.jsonl"), "--output", str(tmp_path)]
    with pytest.raises(ValueError, match=r"x.jsonl: line 2: 'question' is a whole number, expected text"):
        before_after.main(files)
    (tmp_path / "x.jsonl").write_text("")
    (tmp_path / "none.json").write_text('{"data": []}')
    with pytest.raises(ValueError, match=r"none.json: has no question"):
        before_after.main([*files, "--dev", str(tmp_path / "none.json")])


def test_before_after_asks_both_the_same(tiny, run, tmp_path, capsys):
    dev, asked, output = str(tiny / "squad.json"), str(tmp_path / "x.jsonl"), str(tmp_path / "out")
    files = ["--dev", dev, "--examples", asked, "--output", output]
    (tmp_path / "x.jsonl").write_text('{"id": "a", "question": "who is vin?", "context": "vin is a mistborn"}\n')
    assert before_after.main(["--before", str(tiny), "--after", str(run), *files]) == 0
    before, after = read(tmp_path / "out" / "results.json")
    assert sum(before["counts"].values()) == sum(after["counts"].values()) == 24
    assert after["metrics"]["f1"] > before["metrics"]["f1"]  # it was trained on these
    table = (tmp_path / "out" / "results.md").read_text(encoding="utf-8").replace("\n", " ")
    assert f'always "" has F1 {100 * 8 / 24:.2f} on dev' in table
    shown = read(tmp_path / "out" / "examples.json")
    assert [len(shown[when][0]) for when in ("before", "after")] == [3, 3]
    assert (tmp_path / "out" / "examples.md").read_text(encoding="utf-8") in capsys.readouterr().out
