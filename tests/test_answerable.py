"""--answerable-only: the same as a file without those questions, and said wherever figures are."""

import json

import pytest
from helpers import flags, read_log
from test_cache import assert_equal

import squad.dataset
import train
from squad import load_dataset

SIZES = (40, 8, 8)


@pytest.fixture
def by_hand(tiny, tmp_path):
    """The tiny file without its 8 unanswerable questions."""
    content = json.loads((tiny / "squad.json").read_text(encoding="utf-8"))
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [qa for qa in paragraph["qas"] if qa["answers"]]
    (tmp_path / "answerable.json").write_text(json.dumps(content))
    return tmp_path / "answerable.json"


@pytest.mark.parametrize("limit", [0, 5, 100])
def test_as_if_the_file_had_no_others(tiny, tokenizer, by_hand, limit):
    data = load_dataset(tiny / "squad.json", tokenizer, SIZES, limit, answerable_only=True)
    expected = load_dataset(by_hand, tokenizer, SIZES, limit)
    every = squad.read_examples(tiny / "squad.json")
    seen = every[: every.index(data.examples[-1])] if limit == 5 else every
    assert data.left_out == sum(example.is_impossible for example in seen) == {0: 8, 5: 2, 100: 8}[limit]
    assert expected.left_out == 0
    assert data.examples == expected.examples
    assert len(data.examples) == min(limit or 16, 16)
    assert_equal(data.windows, expected.windows)


def test_kept_windows_are_not_those_of_as_many_other_questions(tiny, tokenizer, by_hand, tmp_path, monkeypatch):
    monkeypatch.setattr(squad.dataset, "WORTH_CACHING", 1)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    load_dataset(tiny / "squad.json", tokenizer, SIZES, 5)
    data = load_dataset(tiny / "squad.json", tokenizer, SIZES, 5, answerable_only=True)
    assert_equal(data.windows, load_dataset(by_hand, tokenizer, SIZES, 5).windows)
    assert len(list((tmp_path / "hub").rglob("*.npz"))) == 3


def test_a_run_without_them_says_so_and_keeps_to_it(tiny, tmp_path, capsys):
    out = tmp_path / "run"
    assert train.main(flags(tiny, out, "--epochs", "1", "--answerable-only")) == 0
    printed = capsys.readouterr().out
    assert "train  16 questions (8 unanswerable left out), " in printed
    assert "dev  16 questions (8 unanswerable left out), " in printed
    assert "16 questions, all with an answer (8 without one left out): read the line for always answering" in printed
    assert "the null threshold means nothing here" in printed
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["total"], metrics["left_out"]) == (16, 8)
    assert "" not in json.loads((out / "predictions.json").read_text(encoding="utf-8")).values()
    [logged] = [line for line in read_log(out) if "f1" in line]
    assert logged["f1"] == metrics["always_answer"]["f1"] == metrics["f1"]

    with pytest.raises(ValueError, match="--answerable-only True -> False: cannot change in a resumed run"):
        train.main(["--resume", str(out), "--no-answerable-only"])
    assert train.main(["--evaluate", str(out)]) == 0
    assert "16 questions, all with an answer (8 without one left out)" in capsys.readouterr().out
    assert train.main(["--evaluate", str(out), "--no-answerable-only"]) == 0
    assert "24 questions; threshold" in capsys.readouterr().out


def test_a_run_with_made_questions_is_evaluated_on_answerable_ones(tiny, tmp_path, capsys):
    assert train.main(flags(tiny, tmp_path, "--epochs", "1", "--augment", "2", "--leave-out", "1")) == 0
    assert train.main(["--evaluate", str(tmp_path), "--answerable-only"]) == 0
    assert "16 questions, all with an answer (8 without one left out)" in capsys.readouterr().out


def test_a_run_with_them_says_nothing_of_it(run):
    assert "left_out" not in json.loads((run / "metrics.json").read_text(encoding="utf-8"))
