"""Figures and answers in plain words."""

import shutil

import pytest
from helpers import example, read

import squad
from minihub import write_json
from minihub.files import LARGEST_JSON
from squad import words
from squad.scoring import normalize_multilingual
from squad.words import describe_written, in_words, show_results, shown_answers

CONTEXT = "vin is a mistborn. kelsier is the survivor."


def gold(text):
    return [squad.Answer(text, CONTEXT.index(text))]


def asked(id, question, text=None):
    return example(question, CONTEXT, gold(text) if text else (), id)


def test_three_questions_are_shown_with_their_answers_marked():
    examples = [
        asked("a", "who is vin", "a mistborn"),
        asked("b", "who is kelsier", "the survivor"),
        asked("c", "who is kelsier now", "the survivor"),
        asked("d", "who is paris"),
    ]
    answers = {"a": "a mistborn", "b": "kelsier", "c": "", "d": ""}
    entry = {"text": "", "start": None, "end": None}
    spans = {"a": (7, 17), "b": (19, 26), "c": (19, 26), "d": (0, 3)}
    nbest = {
        id: [entry, {"text": CONTEXT[start:end], "start": start, "end": end}] for id, (start, end) in spans.items()
    }
    assert shown_answers(examples, answers, nbest).splitlines() == [
        "right  who is vin",
        "       vin is [[a mistborn]].",
        "right  who is paris",
        "       (the text does not say)",
        "wrong  who is kelsier",
        "       [[kelsier]] is the survivor.",
        "       expected: the survivor",
    ]


def test_right_is_decided_by_the_scoring_of_the_run():
    """Only the multilingual rules drop the full stop of Urdu."""
    examples, answers = [asked("a", "who is vin", "a mistborn")], {"a": "a mistborn\u06d4"}
    nbest = {"a": [{"text": "a mistborn\u06d4", "start": 7, "end": 17}]}
    assert shown_answers(examples, answers, nbest).startswith("wrong")
    assert shown_answers(examples, answers, nbest, normalize_multilingual).startswith("right")


def test_what_was_written_stands_beside_silence():
    metrics = {"loss": 1.5, "exact": 12.5, "f1": 20.0, "NoAns_f1": 30.0, "always_empty": {"f1": 50.0}}
    assert describe_written(metrics) == (
        'loss per token 1.500; EM 12.50, F1 20.00, NoAns F1 30.00; always "" (baseline) F1 50.00'
    )
    assert describe_written({"loss": 1.5}) == "loss per token 1.500"


def test_the_end_of_a_run_shows_its_own_files(run, tiny):
    text = show_results(run, squad.read_examples(tiny / "squad.json"))
    metrics = read(run / "metrics.json")
    assert text.startswith(f"{squad.results_table(metrics)}\n\n{in_words(metrics)}\n\n")


def test_the_end_of_a_run_decides_by_the_scoring_of_the_run(run, tiny, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    answerable = next(e for e in squad.read_examples(tiny / "squad.json") if e.answers)
    said = answerable.answers[0].text + "\u06d4"  # the full stop of Urdu
    write_json(tmp_path / "run" / "predictions.json", {answerable.id: said})
    write_json(tmp_path / "run" / "nbest_predictions.json", {answerable.id: [{"text": said, "start": 0, "end": 1}]})
    metrics = read(run / "metrics.json")
    for scoring, verdict in (("official", "wrong"), ("multilingual", "right")):
        write_json(tmp_path / "run" / "metrics.json", metrics | {"scoring": scoring, "language": "ur"})
        assert f"\n{verdict}  {answerable.question}\n" in show_results(tmp_path / "run", [answerable])


def test_the_files_of_a_large_evaluation_are_read(run, tiny, monkeypatch):
    """As far as the report reads them too, beyond what other JSON files may have."""
    assert words.LARGEST_FILE > 20 * LARGEST_JSON
    monkeypatch.setattr(words, "LARGEST_FILE", 10)
    with pytest.raises(ValueError, match="expected JSON of at most 10"):
        show_results(run, squad.read_examples(tiny / "squad.json"))


def test_figures_in_words():
    summary = {"exact": 50.0, "f1": 55.0}
    mixed = summary | {"HasAns_exact": 42.0, "NoAns_exact": 71.0}
    metrics = mixed | {"crossfit": mixed | {"f1": 53.1}, "always_empty": {"f1": 45.6}}
    metrics |= {"always_answer": summary | {"HasAns_exact": 57.0}}
    assert in_words(metrics) == (
        "of 10 questions that have an answer it gives 4.2 exactly right (5.7 if it must always answer); of 10 that "
        "have none it says so 7.1 times. F1 is 53.1 at thresholds chosen on other articles; never answering would "
        "score 45.6"
    )
    silent = {"exact": 83.0, "f1": 83.0, "NoAns_exact": 83.0, "always_empty": {"f1": 100.0}}
    assert in_words(silent | {"always_answer": summary}) == (
        "of 10 that have none it says so 8.3 times. F1 is 83.0; never answering would score 100.0"
    )
    answerable = summary | {"HasAns_exact": 50.0, "always_answer": summary | {"HasAns_exact": 61.0}}
    assert in_words(answerable) == "of 10 questions that have an answer it gives 6.1 exactly right"
