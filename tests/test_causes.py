"""Why questions have no answer."""

import gzip

import pytest
from helpers import ROOT, example, predicted

import squad
import squad.causes
from squad.causes import CAUSES, known_causes, left_alone


@pytest.fixture(scope="module")
def dev():
    return squad.read_examples(ROOT / "data" / "dev.json.gz")


def test_causes_are_known_for_the_unanswerable_questions_of_dev(dev):
    causes = known_causes(dev)
    unanswerable = {e.id for e in dev if not e.answers}
    assert causes.keys() <= unanswerable
    assert len(causes) == 337
    assert set(causes.values()) == set(CAUSES.values())
    # The text speaks of the complexity class P: people said that "simplicity" stands for its opposite.
    (found,) = (
        e for e in dev if e.question == "What is an example of a problem that rests within the NP simplicity class?"
    )
    assert causes[found.id] == "antonym"


def test_share_left_alone_equals_counting():
    causes = {"a": "negation", "b": "negation", "c": "negation", "d": "antonym"}
    answers = {"a": "", "b": "vin", "c": "", "d": "", "e": "vin"}
    assert left_alone(answers, causes) == {
        "negation": {"total": 3, "NoAns_exact": pytest.approx(200 / 3)},
        "antonym": {"total": 1, "NoAns_exact": 100.0},
    }


def test_other_questions_and_installs_without_the_file_have_no_causes(dev, tmp_path, monkeypatch):
    assert known_causes([example()]) == {}
    monkeypatch.setattr(squad.causes, "DATA", tmp_path)
    assert known_causes(dev) == {}
    path = tmp_path / squad.causes.FILE
    for damaged in (b"not gzip", gzip.compress(b"a\tQ\n"), gzip.compress(b"a"), gzip.compress(b"a\tE\n")[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(squad.DataError, match=r"dev-causes\.tsv\.gz: cannot be read"):
            known_causes(dev)
    whole = gzip.compress("".join(f"{i}\tE\n" for i in range(50)).encode(), mtime=0)
    for at in range(10, len(whole)):  # behind the header of gzip
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(squad.DataError, match=r"dev-causes\.tsv\.gz: cannot be read"):
            known_causes(dev)


def test_the_table_has_them_at_the_cross_fitted_answers(dev):
    odds = {e.id: -1.0 if e.answers else 1.0 for e in dev}  # each threshold tells them apart
    entry = {"text": "", "score": 0.0, "start": None, "end": None}
    nbest = {e.id: [{"text": "x", "score": -odds[e.id], "start": 0, "end": 1}, entry] for e in dev}
    predictions = squad.Predictions(dict.fromkeys(odds, "x"), odds, nbest)
    metrics = squad.evaluate(dev, predictions, causes=known_causes(dev))
    assert [row["total"] for row in metrics["causes"].values()] == [112, 24, 63, 70, 23, 45]
    lines = squad.results_table(metrics).splitlines()
    assert f"{'entity swapped':28}{112:11}{'100.0%':>13}" in lines
    assert "why there is no answer" not in squad.results_table(squad.evaluate(dev, predictions))


def test_they_are_counted_on_the_answers_that_are_quoted():
    """Where one threshold for all leaves both questions alone and the cross-fitted ones neither."""
    gold = (squad.Answer("x", 0),)
    examples = [example(answers=gold if i < 2 else (), id=str(i), title="aabb"[i], context="x") for i in range(4)]
    odds = {"0": 1.0, "1": 2.0, "2": -1.0, "3": -2.0}
    causes = {"2": "negation", "3": "negation"}
    metrics = squad.evaluate(examples, predicted(dict.fromkeys(odds, "x"), odds), causes=causes)
    assert metrics["threshold"] < -2  # "" everywhere
    assert metrics["causes"] == {"negation": {"total": 2, "NoAns_exact": 0.0}}
